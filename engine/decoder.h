/* SPDX-License-Identifier: Apache-2.0 */
/* Latents to pictures, streaming: each causal convolution remembers the frames
 * it needs, so any split of a film into calls gives the same pictures. TAEHV
 * and the Wan VAE (of any width) are rows of a table in decoder.c.
 * Thread: the backend's. Source: engine/MODEL.md. */
#ifndef ENGINE_DECODER_H
#define ENGINE_DECODER_H
#include "engine/arena.h"
#include "engine/model.h"
#include "engine/weights.h"
struct decoder;       /* weights, shared by all streams */
struct decoder_state; /* histories of one stream */
/* Loads weights; big ones live in the backend, small ones in `a`. */
struct decoder *decoder_create(struct backend *be, const struct model *m, struct weights *w,
	struct arena *a, enum precision p, struct error *e);
void decoder_destroy(struct decoder *d); /* NULL is fine */
/* Histories for a latent size; run against a measuring arena to plan. */
struct decoder_state *decoder_state_create(const struct decoder *d, int latent_h, int latent_w,
	struct arena *a, struct error *e);
size_t decoder_state_bytes(const struct decoder_state *s);
void decoder_state_destroy(struct decoder_state *s); /* memory stays with its arena */
void decoder_restart(const struct decoder *d, struct decoder_state *s); /* a new stream: zero histories */
/* Pictures that decoding `frames` more latents will give (warm-up dropped). */
int decoder_pictures(const struct decoder *d, const struct decoder_state *s, int frames);
/* latent [f, C, h, w] f32 as the DiT gives it -> the first decoder_pictures
 * rows of rgb [>= f * stride_t, H, W, 3] f32, raw: before clamping, in the
 * range of decoder_range. Scratch comes from `scratch` and is given back. */
int decoder_decode(const struct decoder *d, struct decoder_state *s, struct tensor *rgb,
	const struct tensor *latent, struct arena *scratch, struct error *e);
/* Where it enqueues its work: what it reads is written there, or ordered before. */
struct backend *decoder_backend(const struct decoder *d);
/* value * gain + offset is in [0, 1]. */
void decoder_range(const struct decoder *d, float *gain, float *offset);
/* As decode, but keeps the warm-up pictures (for goldens). */
void decoder_keep_warmup(struct decoder_state *s, bool keep);
#endif
