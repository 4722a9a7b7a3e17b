/* SPDX-License-Identifier: Apache-2.0 */
/* Linear layers: rows are sliced over the pool, each slice is one dense call,
 * and what surrounds the product (conversion, activation, gate, sum) happens to
 * the slice while it is in the cache.
 *
 * Weights are held in f32, in bf16 (rounded once; a slice of x is rounded as it
 * is used; sums stay f32), or in int8 with a scale per output; then x gets a
 * scale per row. */
#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/dense.h"
#include "kernels/cpu/rows.h"

#define SLICE_ROWS_MAX 192
/* Inputs: from here on a slice is copied to scratch first. Rows this far apart
 * defeat the prefetcher when the product walks them side by side (SPEED.md). */
#define COPY_FROM 512
#define SLICE_BYTES_MAX (256 << 10) /* of x: longer slices of wide layers lose a third (SPEED.md)  \
				     */

struct linear {
	int64_t in, out;
	enum precision precision;
	struct dense *dense;
	float *b; /* [out] or NULL; int8 only, else the dense has it */
	float *w_scale; /* [out]; int8 only */
};

static void linear_destroy(struct backend *be, struct linear *l) {
	struct cpu_backend *c = cpu_of(be);
	if (!l)
		return;
	if (l->dense)
		cpu_account(be, -(ptrdiff_t)c->dense->bytes(l->dense));
	c->dense->destroy(l->dense);
	cpu_free(be, l->b);
	cpu_free(be, l->w_scale);
	free(l);
}

/* Per output: scale max |w| / 127, codes into q. */
static int quantise_weight(struct backend *be, struct linear *l, const float *w, int8_t *q,
	const float *b, struct error *e) {
	const struct row_kernels *rows = cpu_of(be)->rows;
	size_t bytes = (size_t)l->out * sizeof(float);
	l->w_scale = cpu_alloc(be, bytes, e);
	l->b = b && l->w_scale ? cpu_alloc(be, bytes, e) : NULL;
	if (!l->w_scale || (b && !l->b))
		return -ENOMEM;
	for (int64_t o = 0; o < l->out; o++)
		l->w_scale[o] = rows->to_int8(q + o * l->in, w + o * l->in, l->in);
	if (b)
		memcpy(l->b, b, bytes);
	return 0;
}

static int linear_pack(struct backend *be, struct linear *l, const struct tensor *w,
	const struct tensor *b, struct error *e) {
	struct cpu_backend *c = cpu_of(be);
	struct dense_shape shape = {(int)l->in, (int)l->out, 1, 1, 1, 1};
	size_t count = (size_t)(l->in * l->out);
	bool int8 = l->precision == PRECISION_INT8;
	float *wf = malloc(count * sizeof *wf), *bf = malloc((size_t)l->out * sizeof *bf);
	int8_t *q = int8 ? malloc(count) : NULL;
	int rc = wf && bf && (q || !int8)
			 ? 0
			 : error_set(e, -ENOMEM, "linear: no memory to pack a weight");
	if (rc == 0) {
		cpu_to_f32(wf, w, 0, (int64_t)count);
		if (b)
			cpu_to_f32(bf, b, 0, l->out);
		if (int8)
			rc = quantise_weight(be, l, wf, q, b ? bf : NULL, e);
	}
	if (rc == 0) {
		l->dense = c->dense->create(c->dense_context, &shape, int8 ? (void *)q : wf,
			b && !int8 ? bf : NULL, l->precision, e);
		if (l->dense)
			cpu_account(be, (ptrdiff_t)c->dense->bytes(l->dense));
		else
			rc = -EIO;
	}
	free(q);
	free(bf);
	free(wf);
	return rc;
}

static struct linear *linear_create(struct backend *be, const struct tensor *w,
	const struct tensor *b, enum precision p, struct error *e) {
	struct linear *l = NULL;
	if (w->rank != 2 || w->dim[0] < 1 || w->dim[1] < 1 || w->dim[0] > INT32_MAX ||
		w->dim[1] > INT32_MAX || (b && tensor_count(b) != w->dim[0]))
		error_set(e, -EINVAL, "linear: a weight must be [out, in], its bias [out]");
	else if (cpu_precision(be, &p, e) == 0 && !(l = calloc(1, sizeof *l)))
		error_set(e, -ENOMEM, "linear: no memory");
	if (!l)
		return NULL;
	l->out = w->dim[0];
	l->in = w->dim[1];
	l->precision = p;
	if (linear_pack(be, l, w, b, e) < 0) {
		linear_destroy(be, l);
		return NULL;
	}
	return l;
}

struct linear_job {
	struct cpu_backend *c;
	const struct linear *l;
	float *y;
	const float *x, *gate; /* gate [groups, out] or NULL */
	int64_t n, groups;
	enum activation act;
	bool residual;
	int64_t rows; /* of a slice; the last one is filled up with zeros in scratch */
	bool apart; /* full slices are multiplied into scratch first, too */
	size_t sums_at; /* in scratch: x in the weight's type, then sums, then scales */
	const struct dense_plan *plan, *tail_plan;
	atomic_int failed;
};

/* The same number of equal slices for every thread where n allows it. Few rows
 * come in slices of eight, so that texts of any length share one plan. */
static int64_t slice_rows(int64_t n, int64_t in, int64_t threads) {
	int64_t most = SLICE_BYTES_MAX / (in * (int64_t)sizeof(float)) / 8 * 8;
	most = most < 32 ? 32 : most > SLICE_ROWS_MAX ? SLICE_ROWS_MAX : most;
	for (int64_t slices = 4 * threads; slices * 32 <= n; slices += threads) {
		if (n % slices == 0 && n / slices <= most)
			return n / slices;
	}
	int64_t rows = (n + 4 * threads - 1) / (4 * threads);
	rows = (rows + 7) / 8 * 8;
	return rows < most ? rows : most;
}

/* Done by dense for nothing; the others are cheaper in our own loops (oneDNN's
 * gelu takes five times as long with AVX2). */
static enum activation fused(const struct linear_job *j) {
	bool now = j->act == ACT_RELU && !j->residual && j->l->precision != PRECISION_INT8;
	return now ? ACT_RELU : ACT_NONE;
}

/* What a slice does beyond the plain product is fused where dense can. */
static bool plan(struct backend *be, struct linear_job *j) {
	struct cpu_backend *c = j->c;
	struct error e = {0};
	bool int8 = j->l->precision == PRECISION_INT8;
	j->rows = slice_rows(j->n, j->l->in, pool_threads(c->pool));
	j->apart = int8 || (j->residual && j->gate);
	struct dense_window w = {.rows = 1, .cols = j->rows, .act = fused(j)};
	if (j->n % j->rows || j->apart) {
		j->tail_plan = j->plan = c->dense->plan(j->l->dense, &w, &e);
		if (!j->plan)
			goto fail;
	}
	if (!j->apart && j->n >= j->rows) {
		w.add = j->residual;
		j->plan = c->dense->plan(j->l->dense, &w, &e);
		if (!j->plan)
			goto fail;
	}
	j->sums_at = ((size_t)(j->rows * j->l->in) * sizeof(float) + 63) / 64 * 64;
	return cpu_scratch_reserve(
		be, j->sums_at + (size_t)(j->rows * (j->l->out + 1)) * sizeof(float));
fail:
	backend_fail(be, e.code, "%s", e.text);
	return false;
}

static const float *gate_row(const struct linear_job *j, int64_t row) {
	return j->gate ? j->gate + row * j->groups / j->n * j->l->out : NULL;
}

/* Rows of x from `first` on in the weight's type, filled up to a slice. */
static const void *slice_source(
	const struct linear_job *j, int64_t first, int64_t rows, char *scratch, float *scale) {
	const struct row_kernels *k = j->c->rows;
	int64_t in = j->l->in, missing = (j->rows - rows) * in;
	const float *x = j->x + first * in;
	switch (j->l->precision) {
	case PRECISION_BF16:
		k->to_bf16((uint16_t *)(void *)scratch, x, rows * in);
		memset(scratch + rows * in * 2, 0, (size_t)missing * 2);
		return scratch;
	case PRECISION_INT8:
		for (int64_t r = 0; r < rows; r++)
			scale[r] = k->to_int8((int8_t *)scratch + r * in, x + r * in, in);
		memset(scratch + rows * in, 0, (size_t)missing);
		return scratch;
	default:
		if (!missing && in < COPY_FROM)
			return x;
		memcpy(scratch, x, (size_t)(rows * in) * sizeof *x);
		memset(scratch + rows * in * 4, 0, (size_t)missing * 4);
		return scratch;
	}
}

/* A slice's products to where they belong, through what is left of the op. */
static void slice_finish(
	const struct linear_job *j, int64_t first, int64_t rows, float *sums, const float *scale) {
	const struct row_kernels *k = j->c->rows;
	const struct linear *l = j->l;
	float *y = j->y + first * l->out;
	if (l->precision == PRECISION_INT8) {
		for (int64_t r = 0; r < rows; r++)
			k->from_int8((j->residual ? sums : y) + r * l->out, sums + r * l->out,
				scale[r], l->w_scale, l->b, l->out, j->act);
	}
	for (int64_t r = 0; j->residual && r < rows; r++)
		k->add_gated(y + r * l->out, sums + r * l->out, gate_row(j, first + r), l->out);
	enum activation left = j->act == fused(j) ? ACT_NONE : j->act;
	if (!j->residual && l->precision != PRECISION_INT8 && (sums != y || left != ACT_NONE))
		k->spread(y, l->out, sums, l->out, NULL, rows, l->out, left);
}

static void slices(void *ctx, int64_t begin, int64_t end, int worker) {
	struct linear_job *j = ctx;
	char *scratch = cpu_scratch(j->c, worker);
	float *sums = (float *)(void *)(scratch + j->sums_at), *scale = sums + j->rows * j->l->out;
	for (int64_t i = begin; i < end; i++) {
		int64_t first = i * j->rows, rows = j->n - first < j->rows ? j->n - first : j->rows;
		bool apart = j->apart || rows < j->rows;
		float *to = apart ? sums : j->y + first * j->l->out;
		const void *x = slice_source(j, first, rows, scratch, scale);
		int rc = j->c->dense->run(rows < j->rows ? j->tail_plan : j->plan, worker, x, to);
		if (apart || !j->residual)
			slice_finish(j, first, rows, to, scale);
		if (rc < 0)
			atomic_store(&j->failed, rc);
	}
}

static void run(struct backend *be, const char *op, struct linear_job *j, const struct tensor *y,
	const struct tensor *x) {
	const struct linear *l = j->l;
	j->c = cpu_of(be);
	j->n = tensor_row_count(x);
	if (!cpu_check(be, cpu_is(x, DTYPE_F32, -1, l->in), op, "x does not fit the weight:", x) ||
		!cpu_check(be, cpu_is(y, DTYPE_F32, j->n, l->out), op, "y does not fit:", y) ||
		!cpu_check(be, !j->gate || j->n % j->groups == 0, op, "gate does not fit:", y) ||
		j->n == 0)
		return;
	j->y = y->data;
	j->x = x->data;
	if (!plan(be, j))
		return;
	pool_run(j->c->pool, (j->n + j->rows - 1) / j->rows, 1, slices, j);
	if (j->failed)
		backend_fail(be, j->failed, "%s: %s failed", op, j->c->dense->name);
}

static void linear(struct backend *be, struct tensor *y, const struct tensor *x,
	const struct linear *l, enum activation act) {
	struct linear_job job = {.l = l, .act = act};
	run(be, "linear", &job, y, x);
}

static void linear_residual(struct backend *be, struct tensor *r, const struct tensor *x,
	const struct linear *l, const struct tensor *gate) {
	struct linear_job job = {.l = l,
		.residual = true,
		.gate = gate ? gate->data : NULL,
		.groups = gate ? tensor_row_count(gate) : 1};
	if (gate && !cpu_check(be, cpu_is(gate, DTYPE_F32, -1, l->out), "linear_residual",
			    "gate does not fit:", gate))
		return;
	run(be, "linear_residual", &job, r, x);
}

static void linear_residual_norm(struct backend *be, struct tensor *y, struct tensor *r,
	const struct tensor *x, const struct linear *l, const struct tensor *gate,
	const struct norm_args *norm) {
	linear_residual(be, r, x, l, gate);
	be->ops.norm_modulate(be, y, r, norm->scale, norm->shift, norm->eps);
}

void cpu_linear_fill(struct ops *ops) {
	ops->linear_create = linear_create;
	ops->linear_destroy = linear_destroy;
	ops->linear = linear;
	ops->linear_residual = linear_residual;
	ops->linear_residual_norm = linear_residual_norm;
}
