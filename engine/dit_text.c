/* SPDX-License-Identifier: Apache-2.0 */
/* A prompt's keys and values in every block. m rows of text, d model width.
 * Thread: the backend's. */
#include <errno.h>
#include <stdlib.h>

#include "engine/dit_impl.h"

struct dit_text *dit_text_create(const struct dit *d, struct arena *a, struct error *e) {
	struct dit_text *t = calloc(1, sizeof *t + (size_t)d->c.layers * sizeof t->layer[0]);
	if (!t) {
		error_set(e, -ENOMEM, "no memory for a prompt's keys");
		return NULL;
	}
	for (int l = 0; l < d->c.layers; l++) {
		t->layer[l].k = arena_2d(a, d->act, d->c.text_len, d->c.dim);
		t->layer[l].v = arena_2d(a, d->act, d->c.text_len, d->c.dim);
		if (d->input == DTYPE_FP8_E4M3)
			t->layer[l].scale = arena_tensor(a, DTYPE_F32, 1, (int64_t[]){2});
	}
	return t;
}

void dit_text_destroy(struct dit_text *t) {
	free(t);
}

struct text_work {
	struct tensor padded; /* [m, text_dim] */
	struct tensor hidden; /* [m, d] */
	struct tensor context; /* [m, d] */
};

static struct text_work work_carve(const struct dit *d, int rows, struct arena *a) {
	return (struct text_work){
		.padded = arena_2d(a, DTYPE_F32, rows, d->c.text_dim),
		.hidden = arena_2d(a, d->act, rows, d->c.dim),
		.context = arena_2d(a, d->act, rows, d->c.dim),
	};
}

/* Rows that are kept of `rows` and the padding behind them. On a GPU a multiple of
 * what attention reads at once: that costs nothing, and what was recorded under
 * one prompt serves others. */
static int text_rows(const struct dit *d, int rows) {
	int n = (rows / d->text_unit + 1) * d->text_unit;
	return n < d->c.text_len ? n : d->c.text_len;
}

void dit_text_set(const struct dit *d, struct dit_text *t, const struct tensor *context,
	struct arena *scratch) {
	const struct ops *ops = d->ops;
	int rows = (int)context->dim[0], whole = d->c.text_len;
	t->rows = text_rows(d, rows);
	t->last_repeats = whole > rows ? whole - t->rows + 1 : 0;
	size_t mark = arena_mark(scratch);
	struct text_work w = work_carve(d, t->rows, scratch);
	backend_zero(d->be, w.padded.data, tensor_bytes(&w.padded));
	struct tensor real = tensor_rows(w.padded, 0, rows);
	ops->convert(d->be, &real, context);
	ops->linear(d->be, &w.hidden, &w.padded, d->text_in, ACT_GELU_TANH);
	ops->linear(d->be, &w.context, &w.hidden, d->text_out, ACT_NONE);
	for (int l = 0; l < d->c.layers; l++) {
		struct tensor k = tensor_rows(t->layer[l].k, 0, t->rows);
		struct tensor v = tensor_rows(t->layer[l].v, 0, t->rows);
		ops->linear(d->be, &k, &w.context, d->layer[l].cross_k, ACT_NONE);
		ops->rms_norm(d->be, &k, &k, &d->layer[l].cross_norm_k, d->c.eps);
		ops->linear(d->be, &v, &w.context, d->layer[l].cross_v, ACT_NONE);
		if (t->layer[l].scale.data)
			ops->code_scale(d->be, &t->layer[l].scale, &v);
	}
	arena_reset(scratch, mark);
}

void dit_text_measure(const struct dit *d, struct arena *scratch) {
	work_carve(d, d->c.text_len, scratch);
}
