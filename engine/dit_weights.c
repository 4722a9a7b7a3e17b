/* SPDX-License-Identifier: Apache-2.0 */
/* Loading the transformer: weights by table, and everything that depends on the
 * timestep or the geometry alone, computed here once on the host.
 * Thread: the backend's. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/dit_impl.h"

#define STACK_MAX 3
#define NAME_MAX_BYTES 96
#define SINUSOID_BASE 10000.0

/* Widths that the tables name. */
enum width { WIDTH_DIM, WIDTH_FFN, WIDTH_TEXT, WIDTH_PATCH, WIDTH_OUT };

/* One prepared linear: `stack` weights laid under each other. */
struct linear_row {
	const char *name[STACK_MAX]; /* without .weight / .bias */
	size_t offset;
	enum width out, in; /* of one of them */
	bool in_block; /* quantised as the precision says; others stay f32 */
};

static const struct linear_row block_linears[] = {
	{{"self_attn.q", "self_attn.k", "self_attn.v"}, offsetof(struct dit_layer, qkv), WIDTH_DIM,
		WIDTH_DIM, true},
	{{"self_attn.o"}, offsetof(struct dit_layer, o), WIDTH_DIM, WIDTH_DIM, true},
	{{"cross_attn.q"}, offsetof(struct dit_layer, cross_q), WIDTH_DIM, WIDTH_DIM, true},
	{{"cross_attn.k"}, offsetof(struct dit_layer, cross_k), WIDTH_DIM, WIDTH_DIM, true},
	{{"cross_attn.v"}, offsetof(struct dit_layer, cross_v), WIDTH_DIM, WIDTH_DIM, true},
	{{"cross_attn.o"}, offsetof(struct dit_layer, cross_o), WIDTH_DIM, WIDTH_DIM, true},
	{{"ffn.0"}, offsetof(struct dit_layer, ffn_in), WIDTH_FFN, WIDTH_DIM, true},
	{{"ffn.2"}, offsetof(struct dit_layer, ffn_out), WIDTH_DIM, WIDTH_FFN, true},
};

static const struct linear_row outer_linears[] = {
	{{"text_embedding.0"}, offsetof(struct dit, text_in), WIDTH_DIM, WIDTH_TEXT, false},
	{{"text_embedding.2"}, offsetof(struct dit, text_out), WIDTH_DIM, WIDTH_DIM, false},
	{{"head.head"}, offsetof(struct dit, head), WIDTH_OUT, WIDTH_DIM, false},
};

static const struct {
	const char *name;
	size_t offset;
} block_gains[] = {
	{"self_attn.norm_q.weight", offsetof(struct dit_layer, norm_q)},
	{"self_attn.norm_k.weight", offsetof(struct dit_layer, norm_k)},
	{"cross_attn.norm_q.weight", offsetof(struct dit_layer, cross_norm_q)},
	{"cross_attn.norm_k.weight", offsetof(struct dit_layer, cross_norm_k)},
};

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static int64_t width_of(const struct dit *d, enum width w) {
	const int64_t patch = (int64_t)d->channels * d->c.patch_h * d->c.patch_w;
	const int64_t width[] = {d->c.dim, d->c.ffn_dim, d->c.text_dim, patch, patch};
	return width[w];
}

/* Lays tensors of equal width under each other, in host memory that the caller
 * frees: as they are when they are of one dtype, else as f32. */
static int rows_stack(const struct tensor *t, int count, struct tensor *out, struct error *e) {
	int64_t rows = 0, cols = tensor_cols(&t[0]);
	bool alike = true;
	for (int i = 0; i < count; i++) {
		rows += t[i].dim[0];
		alike = alike && t[i].dtype == t[0].dtype && !t[i].scale == !t[0].scale;
	}
	*out = tensor_2d(NULL, alike ? t[0].dtype : DTYPE_F32, rows, cols);
	out->data = malloc(tensor_bytes(out));
	if (alike && t[0].scale)
		out->scale = malloc((size_t)rows * sizeof(float));
	if (!out->data || (alike && t[0].scale && !out->scale))
		return error_set(
			e, -ENOMEM, "no memory to join %zu bytes of weights", tensor_bytes(out));
	for (int64_t i = 0, row = 0; i < count; row += t[i].dim[0], i++) {
		struct tensor part = tensor_rows(*out, row, t[i].dim[0]);
		if (!alike) {
			weights_to_f32(&t[i], part.data);
			continue;
		}
		memcpy(part.data, t[i].data, tensor_bytes(&t[i]));
		if (part.scale)
			memcpy(part.scale, t[i].scale, (size_t)t[i].dim[0] * sizeof(float));
	}
	return 0;
}

static int linear_require(const struct dit *d, struct weights *w, const char *name, int64_t out,
	int64_t in, struct tensor *weight, struct tensor *bias, struct error *e) {
	(void)d;
	char full[NAME_MAX_BYTES + 16];
	snprintf(full, sizeof full, "%s.weight", name);
	int r = weights_require(w, full, 2, (int64_t[]){out, in}, weight, e);
	if (r < 0)
		return r;
	snprintf(full, sizeof full, "%s.bias", name);
	return weights_require(w, full, 1, &out, bias, e);
}

/* Of what the codes of fp8 layers are scaled by. */
static int linear_bound(const struct dit *d, const struct linear_row *row, void *base,
	const struct tensor *weight, const struct tensor *bias, int count, struct error *e) {
	struct dit_layer *l = base;
	if (d->input != DTYPE_FP8_E4M3)
		return 0;
	if (row->offset == offsetof(struct dit_layer, qkv) && row->in_block)
		return dit_row_bound(
			&weight[count - 1], &bias[count - 1], &l->v_row, &l->v_bias, e);
	if (row->offset == offsetof(struct dit_layer, ffn_in) && row->in_block)
		return dit_row_bound(&weight[0], &bias[0], &l->ffn_row, &l->ffn_bias, e);
	return 0;
}

/* `prefix` is "blocks.3." or "". */
static int linear_load(struct dit *d, struct weights *w, const char *prefix,
	const struct linear_row *row, void *base, bool measuring, struct error *e) {
	struct tensor weight[STACK_MAX], bias[STACK_MAX], one = {0}, one_bias = {0};
	int count = 0;
	for (; count < STACK_MAX && row->name[count]; count++) {
		char name[NAME_MAX_BYTES];
		snprintf(name, sizeof name, "%s%s", prefix, row->name[count]);
		int r = linear_require(d, w, name, width_of(d, row->out), width_of(d, row->in),
			&weight[count], &bias[count], e);
		if (r < 0)
			return r;
	}
	if (measuring)
		return 0;
	int r = 0;
	for (int i = 0; i < count; i++)
		bias[i] = tensor_2d(bias[i].data, bias[i].dtype, bias[i].dim[0], 1);
	r = linear_bound(d, row, base, weight, bias, count, e);
	if (r == 0)
		r = rows_stack(weight, count, &one, e);
	if (r == 0)
		r = rows_stack(bias, count, &one_bias, e);
	if (r == 0) {
		struct tensor b = tensor_1d(one_bias.data, one_bias.dtype, one_bias.dim[0]);
		enum precision p = row->in_block ? d->precision : PRECISION_F32;
		struct linear *l = d->ops->linear_create(d->be, &one, &b, p, e);
		*(struct linear **)((char *)base + row->offset) = l;
		r = l ? 0 : -EIO;
	}
	free(one.data);
	free(one.scale);
	free(one_bias.data);
	free(one_bias.scale);
	return r;
}

/* The patch embedding is a convolution whose kernel is its stride: a linear. */
static int patch_load(struct dit *d, struct weights *w, bool measuring, struct error *e) {
	struct tensor weight, bias;
	const int64_t dim[5] = {d->c.dim, d->channels, 1, d->c.patch_h, d->c.patch_w};
	int r = weights_require(w, "patch_embedding.weight", 5, dim, &weight, e);
	if (r == 0)
		r = weights_require(w, "patch_embedding.bias", 1, dim, &bias, e);
	if (r < 0 || measuring)
		return r;
	weight = tensor_reshape(weight, 2, (int64_t[]){d->c.dim, width_of(d, WIDTH_PATCH)});
	d->patch = d->ops->linear_create(d->be, &weight, &bias, PRECISION_F32, e);
	return d->patch ? 0 : -EIO;
}

/* norm3 is an affine layer norm; as a modulation its scale is weight - 1. */
static int norm3_load(struct dit *d, struct weights *w, const char *prefix, struct dit_layer *l,
	struct arena *a, struct error *e) {
	char name[NAME_MAX_BYTES];
	const int64_t dim = d->c.dim;
	struct tensor host;
	snprintf(name, sizeof name, "%snorm3.weight", prefix);
	int r = weights_require(w, name, 1, &dim, &host, e);
	if (r < 0)
		return r;
	l->norm3_scale = arena_2d(a, DTYPE_F32, 1, dim);
	if (l->norm3_scale.data) {
		float *v = malloc((size_t)dim * sizeof *v);
		if (!v)
			return error_set(e, -ENOMEM, "no memory for %s", name);
		weights_to_f32(&host, v);
		l->norm3_peak = 0;
		for (int64_t i = 0; i < dim; i++) {
			l->norm3_peak = fmax(l->norm3_peak, sqrt((double)dim) * fabs((double)v[i]));
			v[i] -= 1;
		}
		backend_upload(d->be, l->norm3_scale.data, v, (size_t)dim * sizeof *v);
		free(v);
	}
	snprintf(name, sizeof name, "%snorm3.bias", prefix);
	r = weights_upload(w, name, 1, &dim, d->be, a, &l->norm3_shift, e);
	l->norm3_shift = tensor_2d(l->norm3_shift.data, DTYPE_F32, 1, dim);
	if (r == 0 && weights_find(w, name, &host) == 0) {
		double peak = 0;
		for (int64_t i = 0; i < dim; i++)
			peak = fmax(peak, fabs((double)weights_value(&host, i)));
		l->norm3_peak += peak;
	}
	return r;
}

static int block_load(
	struct dit *d, struct weights *w, int index, struct arena *a, struct error *e) {
	struct dit_layer *l = &d->layer[index];
	const int64_t dim = d->c.dim;
	char prefix[32], name[NAME_MAX_BYTES];
	snprintf(prefix, sizeof prefix, "blocks.%d.", index);
	int r = 0;
	for (size_t i = 0; i < COUNT(block_linears) && r == 0; i++)
		r = linear_load(d, w, prefix, &block_linears[i], l, arena_measuring(a), e);
	for (size_t i = 0; i < COUNT(block_gains) && r == 0; i++) {
		struct tensor *gain = (struct tensor *)((char *)l + block_gains[i].offset);
		snprintf(name, sizeof name, "%s%s", prefix, block_gains[i].name);
		r = weights_upload(w, name, 1, &dim, d->be, a, gain, e);
	}
	return r < 0 ? r : norm3_load(d, w, prefix, l, a, e);
}

/* ---- what the timestep decides ------------------------------------------- */

/* y[rows, out] = x[rows, in] w^T + b on the host, in double. */
static int host_linear(struct weights *w, const char *name, const double *x, double *y, int rows,
	int64_t in, int64_t out, struct error *e) {
	struct tensor weight, bias;
	int r = linear_require(NULL, w, name, out, in, &weight, &bias, e);
	if (r < 0)
		return r;
	float *row = malloc((size_t)in * sizeof *row);
	if (!row)
		return error_set(e, -ENOMEM, "no memory for a row of %s", name);
	for (int64_t o = 0; o < out; o++) {
		struct tensor one = tensor_rows(weight, o, 1);
		weights_to_f32(&one, row);
		double b = weights_value(&bias, o);
		for (int t = 0; t < rows; t++) {
			double sum = b;
			for (int64_t i = 0; i < in; i++)
				sum += x[t * in + i] * row[i];
			y[t * out + o] = sum;
		}
	}
	free(row);
	return 0;
}

static void silu(double *x, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		x[i] = x[i] / (1 + exp(-x[i]));
}

/* Cosines first, then sines. */
static void sinusoid(double t, int freq_dim, double *out) {
	int half = freq_dim / 2;
	for (int k = 0; k < half; k++) {
		double a = t * pow(SINUSOID_BASE, -(double)k / half);
		out[k] = cos(a);
		out[half + k] = sin(a);
	}
}

/* table[t, row] = stored[row] + time[t, row % time_rows], rows of d values. */
static int modulation_add(struct weights *w, const char *name, int rows, const double *time,
	int time_rows, const struct dit *d, float *table, int64_t stride, struct error *e) {
	struct tensor stored;
	const int64_t dim[3] = {1, rows, d->c.dim};
	int r = weights_require(w, name, 3, dim, &stored, e);
	if (r < 0)
		return r;
	for (int t = 0; t < d->timesteps; t++) {
		for (int i = 0; i < rows; i++) {
			const double *add =
				time + ((int64_t)t * time_rows + i % time_rows) * d->c.dim;
			for (int64_t c = 0; c < d->c.dim; c++)
				table[t * stride + i * d->c.dim + c] =
					(float)(add[c] +
						(double)weights_value(&stored, i * d->c.dim + c));
		}
	}
	return 0;
}

/* e (for the head) and e0 (for the blocks) of every timestep, then the tables. */
static int modulation_compute(struct dit *d, struct weights *w, double *s, double *em, double *e0,
	float *table, float *head, struct error *e) {
	const int64_t dim = d->c.dim;
	for (int t = 0; t < d->timesteps; t++)
		sinusoid(d->timestep[t], d->c.freq_dim, s + (int64_t)t * d->c.freq_dim);
	int r = host_linear(w, "time_embedding.0", s, e0, d->timesteps, d->c.freq_dim, dim, e);
	if (r < 0)
		return r;
	silu(e0, d->timesteps * dim);
	r = host_linear(w, "time_embedding.2", e0, em, d->timesteps, dim, dim, e);
	if (r == 0)
		r = modulation_add(w, "head.modulation", MOD_HEAD_COUNT, em, 1, d, head,
			MOD_HEAD_COUNT * dim, e);
	if (r < 0)
		return r;
	silu(em, d->timesteps * dim);
	r = host_linear(w, "time_projection.1", em, e0, d->timesteps, dim, MOD_COUNT * dim, e);
	const int64_t layer = MOD_COUNT * dim;
	for (int l = 0; l < d->c.layers && r == 0; l++) {
		char name[NAME_MAX_BYTES];
		snprintf(name, sizeof name, "blocks.%d.modulation", l);
		r = modulation_add(w, name, MOD_COUNT, e0, MOD_COUNT, d, table + l * layer,
			d->c.layers * layer, e);
	}
	return r;
}

static int modulation_load(struct dit *d, struct weights *w, struct arena *a, struct error *e) {
	const int64_t dim = d->c.dim, t = d->timesteps;
	d->modulation = arena_tensor(a, DTYPE_F32, 4, (int64_t[]){t, d->c.layers, MOD_COUNT, dim});
	d->head_modulation = arena_tensor(a, DTYPE_F32, 3, (int64_t[]){t, MOD_HEAD_COUNT, dim});
	if (d->input == DTYPE_FP8_E4M3)
		d->code_scale = arena_tensor(
			a, DTYPE_F32, 4, (int64_t[]){t, d->c.layers, CODES_COUNT, CODE_SCALE_STRIDE});
	if (!d->modulation.data || !d->head_modulation.data)
		return 0; /* measuring, or full: arena_failed tells */
	double *s = malloc((size_t)(t * d->c.freq_dim) * sizeof *s);
	double *em = malloc((size_t)(t * dim) * sizeof *em);
	double *e0 = malloc((size_t)(t * dim) * MOD_COUNT * sizeof *e0);
	float *table = malloc(tensor_bytes(&d->modulation));
	float *head = malloc(tensor_bytes(&d->head_modulation));
	int r = s && em && e0 && table && head
			? modulation_compute(d, w, s, em, e0, table, head, e)
			: error_set(e, -ENOMEM, "no memory for the modulations");
	if (r == 0) {
		backend_upload(d->be, d->modulation.data, table, tensor_bytes(&d->modulation));
		backend_upload(
			d->be, d->head_modulation.data, head, tensor_bytes(&d->head_modulation));
		if (d->code_scale.data)
			r = dit_codes_load(d, table, e);
	}
	free(s);
	free(em);
	free(e0);
	free(table);
	free(head);
	return r;
}

/* ---- what the geometry decides ------------------------------------------- */

/* Rotations by row and column; each axis has its own falling frequencies. */
static int rope_space_load(struct dit *d, struct arena *a, struct error *e) {
	const int pairs = d->c.dim / d->c.heads / 2, axis = (pairs - d->time_pairs) / 2;
	const int columns = d->width / d->c.patch_w;
	d->rope_space =
		arena_tensor(a, DTYPE_F32, 3, (int64_t[]){d->frame_tokens, 2 * (int64_t)axis, 2});
	if (!d->rope_space.data)
		return 0;
	float *table = malloc(tensor_bytes(&d->rope_space));
	if (!table)
		return error_set(e, -ENOMEM, "no memory for rotations");
	float *at = table;
	for (int token = 0; token < d->frame_tokens; token++) {
		for (int p = 0; p < 2 * axis; p++) {
			int place = p < axis ? token / columns : token % columns;
			double angle = place * pow(d->c.theta, -(double)(p % axis) / axis);
			*at++ = (float)cos(angle);
			*at++ = (float)sin(angle);
		}
	}
	backend_upload(d->be, d->rope_space.data, table, tensor_bytes(&d->rope_space));
	free(table);
	return 0;
}

int dit_load_weights(struct dit *d, struct weights *w, struct arena *a, struct error *e) {
	int r = patch_load(d, w, arena_measuring(a), e);
	for (size_t i = 0; i < COUNT(outer_linears) && r == 0; i++)
		r = linear_load(d, w, "", &outer_linears[i], d, arena_measuring(a), e);
	for (int l = 0; l < d->c.layers && r == 0; l++)
		r = block_load(d, w, l, a, e);
	if (r == 0)
		r = modulation_load(d, w, a, e);
	return r < 0 ? r : rope_space_load(d, a, e);
}

static void linear_drop(struct dit *d, struct linear *l) {
	if (l)
		d->ops->linear_destroy(d->be, l);
}

void dit_drop_weights(struct dit *d) {
	for (int l = 0; l < d->c.layers; l++) {
		for (size_t i = 0; i < COUNT(block_linears); i++)
			linear_drop(d, *(struct linear **)((char *)&d->layer[l] +
							   block_linears[i].offset));
	}
	for (size_t i = 0; i < COUNT(outer_linears); i++)
		linear_drop(d, *(struct linear **)((char *)d + outer_linears[i].offset));
	linear_drop(d, d->patch);
}
