/* SPDX-License-Identifier: Apache-2.0 */
/* umT5's encoder over the op table. Shapes: n tokens, d model width, a the
 * heads side by side, f feed-forward width. The residual stream and the norms
 * are f32: activations of this model overflow half precision. No scale on the
 * scores, no biases, a position bias per layer. Thread: the backend's. */
#include "engine/text.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_BYTES 80

enum { LINEAR_Q, LINEAR_K, LINEAR_V, LINEAR_O, LINEAR_GATE, LINEAR_UP, LINEAR_DOWN, LINEAR_COUNT };

struct layer {
	struct linear *linear[LINEAR_COUNT];
	struct tensor norm1, norm2; /* [d] */
	struct tensor bias; /* [heads, 2 * reach + 1] */
};

struct text_encoder {
	struct backend *be;
	const struct ops *ops;
	struct text_config c;
	struct tensor embedding; /* [vocab, d], host, in the weights' map */
	struct tensor norm; /* [d] */
	enum dtype act;
	struct layer layer[];
};

int text_bucket(int rel, int buckets, int max_distance) {
	int half = buckets / 2, exact = half / 2, d = abs(rel), first = rel > 0 ? half : 0;
	if (d < exact)
		return first + d;
	/* Bucket exact + k begins at exact * (max / exact)^(k / steps); the nudge
	 * keeps beginnings that are whole numbers from rounding away. */
	int steps = half - exact, k = 0;
	while (k + 1 < steps &&
		d + 1e-9 >= exact * pow((double)max_distance / exact, (double)(k + 1) / steps))
		k++;
	return first + exact + k;
}

/* ---- loading --------------------------------------------------------------- */

static const struct linear_row {
	const char *name;
	int out, in; /* which sizes: 0 d, 1 a, 2 f */
} linear_rows[LINEAR_COUNT] = {
	[LINEAR_Q] = {"attn.q", 1, 0},
	[LINEAR_K] = {"attn.k", 1, 0},
	[LINEAR_V] = {"attn.v", 1, 0},
	[LINEAR_O] = {"attn.o", 0, 1},
	[LINEAR_GATE] = {"ffn.gate.0", 2, 0},
	[LINEAR_UP] = {"ffn.fc1", 2, 0},
	[LINEAR_DOWN] = {"ffn.fc2", 0, 2},
};

/* The learned [buckets, heads] spread over distances, reach = max_distance:
 * beyond it all distances share a bucket. */
static int bias_load(
	struct text_encoder *t, struct weights *w, int l, struct arena *a, struct error *e) {
	const struct text_config *c = &t->c;
	int64_t width = 2 * (int64_t)c->max_distance + 1;
	struct tensor host, *bias = &t->layer[l].bias;
	char name[NAME_BYTES];
	snprintf(name, sizeof name, "blocks.%d.pos_embedding.embedding.weight", l);
	int rc = weights_require(w, name, 2, (int64_t[]){c->buckets, c->heads}, &host, e);
	if (rc < 0)
		return rc;
	*bias = arena_2d(a, DTYPE_F32, c->heads, width);
	if (!bias->data)
		return 0; /* measuring, or full */
	float *table = malloc(tensor_bytes(bias));
	if (!table)
		return error_set(e, -ENOMEM, "%s: out of memory", name);
	for (int64_t i = 0; i < width; i++) {
		int b = text_bucket((int)i - c->max_distance, c->buckets, c->max_distance);
		for (int h = 0; h < c->heads; h++)
			table[h * width + i] = weights_value(&host, (int64_t)b * c->heads + h);
	}
	backend_upload(t->be, bias->data, table, tensor_bytes(bias));
	free(table);
	return 0;
}

static int layer_load(struct text_encoder *t, struct weights *w, int l, struct arena *a,
	enum precision p, struct error *e) {
	struct layer *layer = &t->layer[l];
	const int64_t size[] = {t->c.dim, t->c.dim_attention, t->c.ffn_dim};
	char name[NAME_BYTES];
	for (int i = 0; i < LINEAR_COUNT; i++) {
		struct tensor host;
		const int64_t dim[] = {size[linear_rows[i].out], size[linear_rows[i].in]};
		snprintf(name, sizeof name, "blocks.%d.%s.weight", l, linear_rows[i].name);
		int rc = weights_require(w, name, 2, dim, &host, e);
		if (rc < 0)
			return rc;
		if (arena_measuring(a))
			continue;
		layer->linear[i] = t->ops->linear_create(t->be, &host, NULL, p, e);
		if (!layer->linear[i])
			return error_set(e, -ENOMEM, "%s: cannot be prepared", name);
	}
	struct tensor *const norm[] = {&layer->norm1, &layer->norm2};
	for (int i = 0; i < 2; i++) {
		snprintf(name, sizeof name, "blocks.%d.norm%d.weight", l, i + 1);
		int rc = weights_upload(w, name, 1, &size[0], t->be, a, norm[i], e);
		if (rc < 0)
			return rc;
	}
	return bias_load(t, w, l, a, e);
}

struct text_encoder *text_create(struct backend *be, const struct text_config *c, struct weights *w,
	struct arena *a, enum precision p, struct error *e) {
	struct text_encoder *t = calloc(1, sizeof *t + (size_t)c->layers * sizeof t->layer[0]);
	if (!t) {
		error_set(e, -ENOMEM, "text encoder: out of memory");
		return NULL;
	}
	t->be = be;
	t->ops = backend_ops(be);
	t->c = *c;
	/* Each prompt is encoded once, so 8-bit codes would save little and cost much. */
	if (p == PRECISION_FP8 || p == PRECISION_INT8)
		p = PRECISION_BF16;
	t->act = p == PRECISION_F32 ? DTYPE_F32 : backend_info(be).activation;
	const int64_t dim[] = {c->vocab, c->dim};
	int rc = weights_require(w, "token_embedding.weight", 2, dim, &t->embedding, e);
	if (rc == 0)
		rc = weights_upload(w, "norm.weight", 1, &dim[1], be, a, &t->norm, e);
	for (int l = 0; l < c->layers && rc == 0; l++)
		rc = layer_load(t, w, l, a, p, e);
	if (rc == 0)
		return t;
	error_prefix(e, "text encoder");
	text_destroy(t);
	return NULL;
}

void text_destroy(struct text_encoder *t) {
	if (!t)
		return;
	for (int l = 0; l < t->c.layers; l++) {
		for (int i = 0; i < LINEAR_COUNT; i++) {
			if (t->layer[l].linear[i])
				t->ops->linear_destroy(t->be, t->layer[l].linear[i]);
		}
	}
	free(t);
}

/* ---- forward --------------------------------------------------------------- */

struct work {
	struct tensor x; /* [n, d] f32, the residual stream */
	struct tensor y; /* [n, d] */
	struct tensor q, k, v, attention; /* [n, a] */
	struct tensor gate, up; /* [n, f] */
};

static struct work work_carve(const struct text_encoder *t, int n, struct arena *a) {
	const struct text_config *c = &t->c;
	return (struct work){
		.x = arena_2d(a, DTYPE_F32, n, c->dim),
		.y = arena_2d(a, t->act, n, c->dim),
		.q = arena_2d(a, t->act, n, c->dim_attention),
		.k = arena_2d(a, t->act, n, c->dim_attention),
		.v = arena_2d(a, t->act, n, c->dim_attention),
		.attention = arena_2d(a, t->act, n, c->dim_attention),
		.gate = arena_2d(a, t->act, n, c->ffn_dim),
		.up = arena_2d(a, t->act, n, c->ffn_dim),
	};
}

void text_measure(const struct text_encoder *t, int n, struct arena *scratch) {
	size_t mark = arena_mark(scratch);
	work_carve(t, n, scratch);
	arena_reset(scratch, mark);
}

/* Rows of the embedding, from the weights' map to f32 on the device. */
static int embed(
	struct text_encoder *t, const int32_t *ids, int n, struct tensor *x, struct error *e) {
	float *rows = malloc((size_t)n * (size_t)t->c.dim * sizeof *rows);
	if (!rows)
		return error_set(e, -ENOMEM, "text encoder: out of memory for %d tokens", n);
	for (int i = 0; i < n; i++) {
		if (ids[i] < 0 || ids[i] >= t->c.vocab) {
			free(rows);
			return error_set(e, -EINVAL,
				"token %d of the prompt has the id %d, text.vocab is %d", i,
				(int)ids[i], t->c.vocab);
		}
		struct tensor row = tensor_rows(t->embedding, ids[i], 1);
		weights_to_f32(&row, rows + (size_t)i * (size_t)t->c.dim);
	}
	backend_upload(t->be, x->data, rows, tensor_bytes(x));
	free(rows);
	return 0;
}

static void layer_forward(const struct text_encoder *t, const struct layer *l, struct work *w) {
	const struct ops *ops = t->ops;
	const struct sdpa_args args = {.scale = 1, .bias = &l->bias};
	ops->rms_norm(t->be, &w->y, &w->x, &l->norm1, t->c.eps);
	ops->linear(t->be, &w->q, &w->y, l->linear[LINEAR_Q], ACT_NONE);
	ops->linear(t->be, &w->k, &w->y, l->linear[LINEAR_K], ACT_NONE);
	ops->linear(t->be, &w->v, &w->y, l->linear[LINEAR_V], ACT_NONE);
	ops->sdpa(t->be, &w->attention, &w->q, &w->k, &w->v, t->c.heads, &args);
	ops->linear_residual(t->be, &w->x, &w->attention, l->linear[LINEAR_O], NULL);
	ops->rms_norm(t->be, &w->y, &w->x, &l->norm2, t->c.eps);
	ops->linear(t->be, &w->gate, &w->y, l->linear[LINEAR_GATE], ACT_NONE);
	ops->linear(t->be, &w->up, &w->y, l->linear[LINEAR_UP], ACT_NONE);
	ops->gated_gelu(t->be, &w->up, &w->up, &w->gate);
	ops->linear_residual(t->be, &w->x, &w->up, l->linear[LINEAR_DOWN], NULL);
}

int text_encode(struct text_encoder *t, const int32_t *ids, int n, struct tensor *out,
	struct arena *scratch, struct error *e) {
	size_t mark = arena_mark(scratch);
	struct work w = work_carve(t, n, scratch);
	int rc = arena_failed(scratch, e);
	if (rc == 0)
		rc = embed(t, ids, n, &w.x, e);
	if (rc == 0) {
		for (int l = 0; l < t->c.layers; l++)
			layer_forward(t, &t->layer[l], &w);
		t->ops->rms_norm(t->be, out, &w.x, &t->norm, t->c.eps);
	}
	arena_reset(scratch, mark);
	return rc;
}
