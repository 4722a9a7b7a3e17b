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

#define SLICE_ROWS_MAX 192 /* keeps a slice of a wide layer in the second cache */
#define TAILS_MAX 8

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

/* How n rows are cut: `full` slices of `rows`, then tails in powers of two, so
 * that texts of any length need few different plans. */
struct cut {
	int64_t rows, full;
	const struct dense_plan *plan;
	int tails;
	struct {
		int64_t first, rows;
		const struct dense_plan *plan;
	} tail[TAILS_MAX];
};

struct linear_job {
	struct cpu_backend *c;
	const struct linear *l;
	float *y;
	const float *x, *gate; /* gate [groups, out] or NULL */
	int64_t n, groups;
	enum activation act;
	bool residual;
	struct cut cut;
	atomic_int failed;
};

/* The same number of equal slices for every thread where n allows it. */
static int64_t slice_rows(int64_t n, int64_t threads) {
	for (int64_t slices = 4 * threads; slices >= threads; slices -= threads) {
		if (n % slices == 0 && n / slices <= SLICE_ROWS_MAX)
			return n / slices;
	}
	int64_t rows = (n + 4 * threads - 1) / (4 * threads);
	rows = (rows + 7) / 8 * 8;
	return rows < SLICE_ROWS_MAX ? rows : SLICE_ROWS_MAX;
}

static bool cut_rows(struct backend *be, struct linear_job *j) {
	struct cpu_backend *c = j->c;
	struct cut *cut = &j->cut;
	struct error e = {0};
	/* What a slice does beyond the plain product is fused where dense can. */
	bool int8 = j->l->precision == PRECISION_INT8;
	struct dense_window w = {.rows = 1,
		.add = !int8 && j->residual && !j->gate,
		.act = int8 || j->residual ? ACT_NONE : j->act};
	cut->rows = slice_rows(j->n, pool_threads(c->pool));
	cut->full = j->n / cut->rows;
	int64_t done = cut->full * cut->rows, left = j->n - done;
	w.cols = cut->rows;
	if (cut->full && !(cut->plan = c->dense->plan(j->l->dense, &w, &e)))
		left = 0;
	for (int64_t rows = 128; rows > 0; rows /= 2) {
		if (!(left & rows))
			continue;
		w.cols = rows;
		const struct dense_plan *plan = c->dense->plan(j->l->dense, &w, &e);
		if (!plan)
			break;
		cut->tail[cut->tails].first = done;
		cut->tail[cut->tails].rows = rows;
		cut->tail[cut->tails++].plan = plan;
		done += rows;
	}
	if (e.code)
		backend_fail(be, e.code, "%s", e.text);
	return e.code == 0;
}

static const float *gate_row(const struct linear_job *j, int64_t row) {
	return j->gate ? j->gate + row * j->groups / j->n * j->l->out : NULL;
}

/* Scratch of a worker: x in the weight's type, then sums. */
static size_t scratch_bytes(const struct linear *l, int64_t rows, size_t *sums_at) {
	*sums_at = ((size_t)(rows * l->in) * sizeof(float) + 63) / 64 * 64;
	return *sums_at + (size_t)(rows * (l->out + 1)) * sizeof(float);
}

static int slice_float(const struct linear_job *j, int64_t first, int64_t rows,
	const struct dense_plan *plan, int worker) {
	const struct linear *l = j->l;
	const struct row_kernels *k = j->c->rows;
	size_t sums_at;
	scratch_bytes(l, rows, &sums_at);
	char *scratch = cpu_scratch(j->c, worker);
	const void *x = j->x + first * l->in;
	float *y = j->y + first * l->out, *sums = (float *)(void *)(scratch + sums_at);
	if (l->precision == PRECISION_BF16) {
		k->to_bf16((uint16_t *)(void *)scratch, x, rows * l->in);
		x = scratch;
	}
	bool apart = j->residual && j->gate;
	int rc = j->c->dense->run(plan, worker, x, apart ? sums : y);
	for (int64_t r = 0; apart && r < rows; r++)
		k->add_gated(y + r * l->out, sums + r * l->out, gate_row(j, first + r), l->out);
	return rc;
}

static int slice_int8(const struct linear_job *j, int64_t first, int64_t rows,
	const struct dense_plan *plan, int worker) {
	const struct linear *l = j->l;
	const struct row_kernels *k = j->c->rows;
	size_t sums_at;
	scratch_bytes(l, rows, &sums_at);
	char *scratch = cpu_scratch(j->c, worker);
	int8_t *codes = (int8_t *)scratch;
	float *sums = (float *)(void *)(scratch + sums_at), *scale = sums + rows * l->out;
	for (int64_t r = 0; r < rows; r++)
		scale[r] = k->to_int8(codes + r * l->in, j->x + (first + r) * l->in, l->in);
	int rc = j->c->dense->run(plan, worker, codes, sums);
	for (int64_t r = 0; r < rows; r++) {
		float *sum = sums + r * l->out, *y = j->y + (first + r) * l->out;
		k->from_int8(
			j->residual ? sum : y, sum, scale[r], l->w_scale, l->b, l->out, j->act);
		if (j->residual)
			k->add_gated(y, sum, gate_row(j, first + r), l->out);
	}
	return rc;
}

static void slices(void *ctx, int64_t begin, int64_t end, int worker) {
	struct linear_job *j = ctx;
	const struct cut *cut = &j->cut;
	for (int64_t i = begin; i < end; i++) {
		int64_t t = i - cut->full;
		int64_t first = t < 0 ? i * cut->rows : cut->tail[t].first;
		int64_t rows = t < 0 ? cut->rows : cut->tail[t].rows;
		const struct dense_plan *plan = t < 0 ? cut->plan : cut->tail[t].plan;
		int rc = j->l->precision == PRECISION_INT8
				 ? slice_int8(j, first, rows, plan, worker)
				 : slice_float(j, first, rows, plan, worker);
		if (rc < 0)
			atomic_store(&j->failed, rc);
	}
}

static void run(struct backend *be, const char *op, struct linear_job *j, const struct tensor *y,
	const struct tensor *x) {
	const struct linear *l = j->l;
	size_t sums_at;
	j->c = cpu_of(be);
	j->n = tensor_row_count(x);
	if (!cpu_check(be, cpu_is(x, DTYPE_F32, -1, l->in), op, "x does not fit the weight:", x) ||
		!cpu_check(be, cpu_is(y, DTYPE_F32, j->n, l->out), op, "y does not fit:", y) ||
		!cpu_check(be, !j->gate || j->n % j->groups == 0, op, "gate does not fit:", y) ||
		j->n == 0)
		return;
	j->y = y->data;
	j->x = x->data;
	if (!cut_rows(be, j))
		return;
	int64_t rows = j->cut.full ? j->cut.rows : j->cut.tail[0].rows;
	if (!cpu_scratch_reserve(be, scratch_bytes(l, rows, &sums_at)))
		return;
	pool_run(j->c->pool, j->cut.full + j->cut.tails, 1, slices, j);
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

void cpu_linear_fill(struct ops *ops) {
	ops->linear_create = linear_create;
	ops->linear_destroy = linear_destroy;
	ops->linear = linear;
	ops->linear_residual = linear_residual;
}
