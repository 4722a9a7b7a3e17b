/* SPDX-License-Identifier: Apache-2.0 */
/* Cleaning, pieces, end mark. Pieces come from a model file or, for random
 * models, from the bytes. Thread: any; nothing is written after creation. */
#include "engine/tokenizer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/clean.h"
#include "engine/spm.h"

#define BYTE_FIRST_ID 3 /* of random models: 0 pad, 1 end, 2 unknown */

struct tokenizer {
	struct tokenizer_config c; /* file is NULL: not kept */
	struct spm *spm; /* NULL: a token a byte */
};

/* The vocabulary must be the encoder's, the end mark the manifest's. */
static int model_agrees(
	const struct spm *s, const struct model *m, const char *path, struct error *e) {
	if (spm_pieces(s) > m->text.vocab)
		return error_set(e, -EINVAL, "%s: %d pieces, but text.vocab of the manifest is %d",
			path, spm_pieces(s), m->text.vocab);
	if (spm_eos(s) >= 0 && spm_eos(s) != m->tokenizer.eos_id)
		return error_set(e, -EINVAL,
			"%s: the end mark is %d, but tokenizer.eos_id of the manifest is %d", path,
			spm_eos(s), m->tokenizer.eos_id);
	return 0;
}

struct tokenizer *tokenizer_create(const struct model *m, struct error *e) {
	struct tokenizer *t = calloc(1, sizeof *t);
	if (!t) {
		error_set(e, -ENOMEM, "tokenizer: out of memory");
		return NULL;
	}
	t->c = m->tokenizer;
	t->c.file = NULL;
	if (!m->tokenizer.file)
		return t;
	char *path;
	if (asprintf(&path, "%s/%s", m->dir, m->tokenizer.file) < 0) {
		error_set(e, -ENOMEM, "tokenizer: out of memory");
	} else {
		t->spm = spm_load(path, e);
		bool good = t->spm && model_agrees(t->spm, m, path, e) == 0;
		free(path);
		if (good)
			return t;
	}
	tokenizer_destroy(t);
	return NULL;
}

void tokenizer_destroy(struct tokenizer *t) {
	if (t)
		spm_free(t->spm);
	free(t);
}

char *tokenizer_clean(const struct tokenizer *t, const char *utf8, struct error *e) {
	return clean_text(utf8, t->c.cleaning, e);
}

/* Writes the first max pieces of a cleaned text, returns how many there are. */
static int pieces(
	const struct tokenizer *t, const char *clean, int32_t *ids, int max, struct error *e) {
	size_t n = strlen(clean);
	if (t->spm)
		return spm_encode(t->spm, clean, n, ids, max, e);
	for (size_t i = 0; i < n && i < (size_t)max; i++)
		ids[i] = BYTE_FIRST_ID + (unsigned char)clean[i];
	return (int)n;
}

int tokenizer_count(const struct tokenizer *t, const char *utf8, struct error *e) {
	char *clean = tokenizer_clean(t, utf8, e);
	if (!clean)
		return -EINVAL;
	int n = pieces(t, clean, NULL, 0, e);
	free(clean);
	return n == 0 ? error_set(e, -EINVAL, "the prompt holds no words") : n < 0 ? n : n + 1;
}

int tokenizer_encode(const struct tokenizer *t, const char *clean, int32_t *ids, struct error *e) {
	int max = t->c.text_len - 1, n = pieces(t, clean, ids, max, e);
	if (n < 0)
		return n;
	n = n < max ? n : max;
	ids[n] = t->c.eos_id;
	return n + 1;
}
