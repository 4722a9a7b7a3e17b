/* SPDX-License-Identifier: Apache-2.0 */
/* A few rows searched from end to end: with tens of prompts and an encoding a
 * thousand times dearer, a list is enough. Rows move to the front when used;
 * the last one makes room. Thread: the backend's. */
#include "engine/prompts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct row {
	char *text; /* owned, cleaned; NULL: free */
	float *context; /* owned [n, dim] */
	int n;
};

struct prompts {
	struct backend *be;
	const struct tokenizer *tokenizer;
	struct text_encoder *encoder;
	int64_t dim;
	int32_t *ids; /* owned [text_len] */
	struct tensor context; /* [text_len, dim] f32 */
	int64_t hits, misses;
	int count;
	struct row row[]; /* most recently used first */
};

struct prompts *prompts_create(struct backend *be, const struct model *m, const struct tokenizer *t,
	struct text_encoder *encoder, int count, struct arena *a, struct error *e) {
	count = count < 1 ? 1 : count;
	struct prompts *p = calloc(1, sizeof *p + (size_t)count * sizeof p->row[0]);
	if (!p || !(p->ids = malloc((size_t)m->tokenizer.text_len * sizeof *p->ids))) {
		error_set(e, -ENOMEM, "out of memory for %d prompts", count);
		free(p);
		return NULL;
	}
	p->be = be;
	p->tokenizer = t;
	p->encoder = encoder;
	p->dim = m->text.dim;
	p->context = arena_2d(a, DTYPE_F32, m->tokenizer.text_len, m->text.dim);
	p->count = count;
	return p;
}

static void row_clear(struct row *r) {
	free(r->text);
	free(r->context);
	*r = (struct row){0};
}

void prompts_destroy(struct prompts *p) {
	if (!p)
		return;
	for (int i = 0; i < p->count; i++)
		row_clear(&p->row[i]);
	free(p->ids);
	free(p);
}

static void row_to_front(struct prompts *p, int i) {
	struct row r = p->row[i];
	memmove(p->row + 1, p->row, (size_t)i * sizeof r);
	p->row[0] = r;
}

static int row_find(const struct prompts *p, const char *text) {
	for (int i = 0; i < p->count && p->row[i].text; i++) {
		if (strcmp(p->row[i].text, text) == 0)
			return i;
	}
	return -1;
}

/* Encodes into the context tensor and keeps a copy in the last row. Takes text. */
static int row_encode(struct prompts *p, char *text, struct arena *scratch, struct error *e) {
	struct row made = {.text = text};
	made.n = tokenizer_encode(p->tokenizer, text, p->ids, e);
	if (made.n < 0) {
		row_clear(&made);
		return -EINVAL;
	}
	struct tensor out = tensor_rows(p->context, 0, made.n);
	int rc = text_encode(p->encoder, p->ids, made.n, &out, scratch, e);
	made.context = malloc(tensor_bytes(&out));
	if (rc == 0 && !made.context)
		rc = error_set(e, -ENOMEM, "out of memory for a prompt of %d tokens", made.n);
	if (rc == 0) {
		backend_download(p->be, made.context, out.data, tensor_bytes(&out));
		rc = backend_error(p->be, e);
	}
	if (rc < 0) {
		row_clear(&made);
		return rc;
	}
	row_clear(&p->row[p->count - 1]);
	p->row[p->count - 1] = made;
	row_to_front(p, p->count - 1);
	return 0;
}

int prompts_get(struct prompts *p, const char *utf8, struct tensor *context, struct arena *scratch,
	struct error *e) {
	char *text = tokenizer_clean(p->tokenizer, utf8, e);
	if (!text)
		return -EINVAL;
	int at = row_find(p, text), rc = 0;
	if (at >= 0) {
		free(text);
		p->hits++;
		row_to_front(p, at);
		struct tensor rows = tensor_rows(p->context, 0, p->row[0].n);
		backend_upload(p->be, rows.data, p->row[0].context, tensor_bytes(&rows));
	} else {
		p->misses++;
		rc = row_encode(p, text, scratch, e);
	}
	if (rc == 0)
		*context = tensor_rows(p->context, 0, p->row[0].n);
	return rc;
}

void prompts_counts(const struct prompts *p, int64_t *hits, int64_t *misses) {
	*hits = p->hits;
	*misses = p->misses;
}
