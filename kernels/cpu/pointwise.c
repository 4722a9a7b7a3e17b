/* SPDX-License-Identifier: Apache-2.0 */
/* Ops that look at one element, or one row of a table, at a time: gates,
 * activations, sums, the sampler's update. Compiled per instruction set. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

void CPU_NAME(pointwise_fill)(struct ops *ops);

#define SLICE                                                                                      \
	4096 /* elements: small enough for the first cache, large enough to be worth a slice */

struct pointwise_job {
	float *y, *z;
	const float *a, *b, *c;
	int64_t count; /* elements */
	int64_t cols, period; /* of a row; rows of b */
	float k[4];
	enum activation act;
};

static void run_slices(struct backend *be, pool_fn fn, struct pointwise_job *job) {
	int64_t slices = (job->count + SLICE - 1) / SLICE;
	pool_run(cpu_pool(be), slices, pool_grain(cpu_pool(be), slices, 2), fn, job);
}

static int64_t slice_end(const struct pointwise_job *j, int64_t slice) {
	return slice * SLICE < j->count ? slice * SLICE : j->count;
}

static void gated_gelu_slices(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct pointwise_job *j = ctx;
	(void)worker;
	int64_t i = begin * SLICE, last = slice_end(j, end);
	for (; i + VF_LANES <= last; i += VF_LANES)
		vf_store(j->y + i, vf_load(j->a + i) * vf_gelu(vf_load(j->b + i)));
	if (i < last)
		vf_store_part(j->y + i,
			vf_load_part(j->a + i, last - i) *
				vf_gelu(vf_load_part(j->b + i, last - i)),
			last - i);
}

static void gated_gelu(
	struct backend *be, struct tensor *y, const struct tensor *a, const struct tensor *g) {
	if (!cpu_check(be, cpu_alike(y, a), "gated_gelu", "y is not f32 of a's size:", y) ||
		!cpu_check(be, cpu_alike(g, a), "gated_gelu", "g is not f32 of a's size:", g))
		return;
	struct pointwise_job job = {
		.y = y->data, .a = a->data, .b = g->data, .count = tensor_count(y)};
	run_slices(be, gated_gelu_slices, &job);
}

static void activate_slices(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct pointwise_job *j = ctx;
	(void)worker;
	int64_t i = begin * SLICE, last = slice_end(j, end);
	for (; i + VF_LANES <= last; i += VF_LANES)
		vf_store(j->y + i, vf_activate(vf_load(j->a + i), j->act));
	if (i < last)
		vf_store_part(
			j->y + i, vf_activate(vf_load_part(j->a + i, last - i), j->act), last - i);
}

static void activate(
	struct backend *be, struct tensor *y, const struct tensor *x, enum activation act) {
	if (!cpu_check(be, cpu_alike(y, x), "activate", "y is not f32 of x's size:", y))
		return;
	struct pointwise_job job = {
		.y = y->data, .a = x->data, .count = tensor_count(y), .act = act};
	run_slices(be, activate_slices, &job);
}

static void add_rows_rows(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct pointwise_job *j = ctx;
	(void)worker;
	int64_t d = j->cols;
	for (int64_t r = begin; r < end; r++) {
		const float *a = j->a + r * d, *b = j->b + r % j->period * d;
		float *y = j->y + r * d;
		for (int64_t i = 0; i < d; i++)
			y[i] = a[i] + b[i];
	}
}

static void add_rows(
	struct backend *be, struct tensor *y, const struct tensor *a, const struct tensor *b) {
	int64_t n = tensor_row_count(a), d = tensor_cols(a), m = tensor_row_count(b);
	if (!cpu_check(be, cpu_alike(y, a), "add_rows", "y is not f32 of a's size:", y) ||
		!cpu_check(be, cpu_is(b, DTYPE_F32, m, d) && n % m == 0, "add_rows",
			"b does not fit:", b))
		return;
	struct pointwise_job job = {
		.y = y->data, .a = a->data, .b = b->data, .cols = d, .period = m};
	pool_run(cpu_pool(be), n, pool_grain(cpu_pool(be), n, 1 + SLICE / d), add_rows_rows, &job);
}

static void denoise_slices(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct pointwise_job *j = ctx;
	(void)worker;
	int64_t last = slice_end(j, end);
	for (int64_t i = begin * SLICE; i < last; i++) {
		float clean = j->a[i] - j->k[0] * j->b[i];
		j->y[i] = clean;
		if (j->z)
			j->z[i] = (1 - j->k[1]) * clean + j->k[1] * j->c[i];
	}
}

static void denoise(struct backend *be, struct tensor *x0, struct tensor *next,
	const struct tensor *x, const struct tensor *flow, const struct tensor *noise,
	const float sigma[2]) {
	if (!cpu_check(be, cpu_alike(x0, x), "denoise", "x0 is not f32 of x's size:", x0) ||
		!cpu_check(
			be, cpu_alike(flow, x), "denoise", "flow is not f32 of x's size:", flow) ||
		!cpu_check(be, !next || cpu_alike(next, x), "denoise",
			"next is not f32 of x's size:", next) ||
		!cpu_check(be, !next || (noise && cpu_alike(noise, x)), "denoise",
			"noise is not f32 of x's size:", noise))
		return;
	struct pointwise_job job = {.y = x0->data,
		.z = next ? next->data : NULL,
		.a = x->data,
		.b = flow->data,
		.c = next ? noise->data : NULL,
		.count = tensor_count(x),
		.k = {sigma[0], sigma[1]}};
	run_slices(be, denoise_slices, &job);
}

static void gather_rows(struct backend *be, struct tensor *y, const struct tensor *table,
	const struct tensor *ids) {
	int64_t n = tensor_count(ids), d = tensor_cols(table);
	if (!cpu_check(be, cpu_is(y, DTYPE_F32, n, d), "gather_rows", "y is not [ids, cols]:", y) ||
		!cpu_check(be, ids->dtype == DTYPE_I32, "gather_rows", "ids are not i32:", ids))
		return;
	for (int64_t r = 0; r < n; r++)
		cpu_to_f32((float *)y->data + r * d, table, ((const int32_t *)ids->data)[r] * d, d);
}

void CPU_NAME(pointwise_fill)(struct ops *ops) {
	ops->gated_gelu = gated_gelu;
	ops->activate = activate;
	ops->add_rows = add_rows;
	ops->denoise = denoise;
	ops->gather_rows = gather_rows;
}
