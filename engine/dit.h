/* SPDX-License-Identifier: Apache-2.0 */
/* The causal diffusion transformer: one chunk of latent frames at one noise
 * level in, its flow out; keys and values go to the cache. A pass only enqueues
 * ops over memory that is the same for every chunk, so that it is recorded once
 * for each layout of the window and replayed; what changes per chunk (the time rotations, noise, listed
 * blocks) is uploaded before. What depends on the timestep alone is computed
 * at load; what depends on the prompt alone, once per prompt.
 * Thread: the backend's. Source: Wan 2.1 and Self Forcing; engine/MODEL.md. */
#ifndef ENGINE_DIT_H
#define ENGINE_DIT_H
#include "engine/arena.h"
#include "engine/kvcache.h"
#include "engine/model.h"
#include "engine/sparsity.h"
#include "engine/weights.h"

struct dit;
/* Loads the weights; the big ones are prepared by the backend, the small ones
 * live in `a`. With a measuring arena no weight is read. NULL and *e on failure. */
struct dit *dit_create(struct backend *be, const struct model *m, struct weights *w,
	struct arena *a, enum precision p, struct error *e);
void dit_destroy(struct dit *d); /* NULL is fine */

/* Sizes that follow from the model and the precision. */
struct kv_shape dit_kv_shape(const struct dit *d, int block);
int dit_frame_tokens(const struct dit *d);

/* Keys and values of the cross-attention: a prompt as the blocks read it. */
struct dit_text;
struct dit_text *dit_text_create(const struct dit *d, struct arena *a, struct error *e);
void dit_text_destroy(struct dit_text *t); /* memory stays with its arena; NULL is fine */
/* context [n, text_dim], n <= text_len rows of the text encoder. The rows that
 * would pad it are all alike and become one key with a weight. */
void dit_text_set(const struct dit *d, struct dit_text *t, const struct tensor *context,
	struct arena *scratch);

/* What a stream keeps beside its cache: rotations and block lists of the
 * chunk in progress. */
struct dit_stream;
struct dit_stream *dit_stream_create(const struct dit *d, const struct sparsity *s, int pass_frames,
	int visible_frames, struct arena *a, struct error *e);
void dit_stream_destroy(struct dit_stream *t); /* memory stays with its arena; NULL is fine */
/* Before the passes of a chunk: uploads. `c` counts the chunks of the scene (or
 * stands for the visible frames in a recache pass); `seed` is for the random
 * policy. kvcache_begin has been called. */
void dit_stream_begin(const struct dit *d, struct dit_stream *t, const struct sparsity *s,
	const struct kvcache *k, int frames, int64_t c, uint64_t seed);
const struct sparsity_plan *dit_stream_plan(const struct dit_stream *t);

/* Carves from `scratch` the most that dit_forward and dit_text_set will, for a
 * plan of its size. */
void dit_measure(const struct dit *d, const struct sparsity *s, int pass_frames, int visible_frames,
	struct arena *scratch);

struct dit_pass {
	const struct tensor *x; /* [f, C, H, W] f32 */
	struct tensor *flow; /* [f, C, H, W] f32; NULL: only keys and values are wanted */
	double timestep; /* one of the model's */
	const struct dit_text *text;
	const struct dit_stream *stream;
	struct kvcache *cache;
};
/* -EINVAL for a timestep that is not the model's. */
int dit_forward(
	const struct dit *d, const struct dit_pass *pass, struct arena *scratch, struct error *e);
#endif
