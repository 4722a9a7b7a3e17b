/* SPDX-License-Identifier: Apache-2.0 */
/* Encoded prompts, the most recently used kept: going back to a prompt, or two
 * sessions with the same one, costs no encoding. Kept in host memory, by the
 * cleaned text; uploaded when asked for. Thread: the backend's. */
#ifndef ENGINE_PROMPTS_H
#define ENGINE_PROMPTS_H
#include "engine/text.h"
#include "engine/tokenizer.h"

struct prompts;
/* Keeps at most `count` prompts, at least 1. tokenizer and encoder are
 * borrowed. The context that prompts_get gives lives in `a`. */
struct prompts *prompts_create(struct backend *be, const struct model *m, const struct tokenizer *t,
	struct text_encoder *encoder, int count, struct arena *a, struct error *e);
void prompts_destroy(struct prompts *p); /* NULL is fine */
/* context: [n, text_dim] f32 in backend memory, good until the next call. */
int prompts_get(struct prompts *p, const char *utf8, struct tensor *context, struct arena *scratch,
	struct error *e);
/* How often a prompt was there already, and how often not. */
void prompts_counts(const struct prompts *p, int64_t *hits, int64_t *misses);
#endif
