/* SPDX-License-Identifier: Apache-2.0 */
/* The text encoder (umT5): token ids in, one context row a token out. Padding
 * never influences real tokens, so only these are run. The table of embeddings
 * stays on the host, where a few rows are picked a prompt.
 * Thread: the backend's. Source: umT5 as Wan 2.1 uses it; engine/MODEL.md. */
#ifndef ENGINE_TEXT_H
#define ENGINE_TEXT_H
#include "engine/arena.h"
#include "engine/model.h"
#include "engine/weights.h"

struct text_encoder;
/* Loads the weights: linears are prepared by the backend, norms and position
 * biases live in `a`. `w` is borrowed until text_destroy. With a measuring
 * arena no weight is prepared. 8-bit precisions count as bf16. NULL and *e on failure. */
struct text_encoder *text_create(struct backend *be, const struct text_config *c, struct weights *w,
	struct arena *a, enum precision p, struct error *e);
void text_destroy(struct text_encoder *t); /* NULL is fine */
/* out [n, dim] f32 in backend memory, n >= 1. -EINVAL names an id beyond the vocabulary. */
int text_encode(struct text_encoder *t, const int32_t *ids, int n, struct tensor *out,
	struct arena *scratch, struct error *e);
/* Carves from `scratch` what encoding n tokens will. */
void text_measure(const struct text_encoder *t, int n, struct arena *scratch);
/* The bucket of a key `rel` places after its query (negative: before): the
 * first half of the buckets is for before, distances grow logarithmically. */
int text_bucket(int rel, int buckets, int max_distance);
#endif
