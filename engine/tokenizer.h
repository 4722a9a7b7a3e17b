/* SPDX-License-Identifier: Apache-2.0 */
/* Text to token ids: cleaning, SentencePiece, the end mark. The only place
 * where a prompt is cut to what the model takes. Random models have no
 * vocabulary: there each byte is a token. Thread: any, once created. */
#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H
#include "engine/model.h"

struct tokenizer;
struct tokenizer *tokenizer_create(const struct model *m, struct error *e); /* NULL on failure */
void tokenizer_destroy(struct tokenizer *t); /* NULL is fine */
/* The text as the model is to read it, to be freed: what prompts are compared
 * by. NULL and *e when it is not UTF-8 (with the place) or too long. */
char *tokenizer_clean(const struct tokenizer *t, const char *utf8, struct error *e);
/* Tokens of a text, end mark included, not cut. -EINVAL when it holds no words. */
int tokenizer_count(const struct tokenizer *t, const char *utf8, struct error *e);
/* A cleaned text's ids[text_len of the model]: the first text_len - 1 pieces and
 * the end mark. Returns how many; an empty text gives the end mark alone. */
int tokenizer_encode(const struct tokenizer *t, const char *clean, int32_t *ids, struct error *e);
#endif
