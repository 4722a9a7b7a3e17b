/* SPDX-License-Identifier: Apache-2.0 */
/* The normalisations, each fused with what always follows it: layer norm with
 * modulation, RMS with its gain, the decoder's channel norm with its
 * activation. Rows are independent and spread over the pool. Compiled per
 * instruction set. */
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

void CPU_NAME(norm_fill)(struct ops *ops);

struct norm_job {
	float *y;
	const float *x;
	const float *scale, *shift; /* [groups, d] */
	const float *g;
	int64_t n, d, groups;
	float eps;
	enum activation act;
};

static float row_mean(const float *x, int64_t d) {
	vf sum = {0};
	int64_t i = 0;
	for (; i + VF_LANES <= d; i += VF_LANES)
		sum += vf_load(x + i);
	if (i < d)
		sum += vf_load_part(x + i, d - i);
	return vf_sum(sum) / (float)d;
}

/* Biased, about the mean: two passes, because x^2 - mean^2 cancels. */
static float row_variance(const float *x, int64_t d, float mean) {
	vf sum = {0};
	float tail = 0;
	int64_t i = 0;
	for (; i + VF_LANES <= d; i += VF_LANES) {
		vf u = vf_load(x + i) - mean;
		sum += u * u;
	}
	for (; i < d; i++)
		tail += (x[i] - mean) * (x[i] - mean);
	return (vf_sum(sum) + tail) / (float)d;
}

static void norm_modulate_rows(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct norm_job *j = ctx;
	(void)worker;
	for (int64_t r = begin; r < end; r++) {
		const float *restrict x = j->x + r * j->d;
		float *restrict y = j->y + r * j->d;
		const float *restrict scale = j->scale + r * j->groups / j->n * j->d;
		const float *restrict shift = j->shift + r * j->groups / j->n * j->d;
		float mean = row_mean(x, j->d);
		float inverse = 1 / sqrtf(row_variance(x, j->d, mean) + j->eps);
		for (int64_t i = 0; i < j->d; i++)
			y[i] = (x[i] - mean) * inverse * (1 + scale[i]) + shift[i];
	}
}

static void norm_modulate(struct backend *be, struct tensor *y, const struct tensor *x,
	const struct tensor *scale, const struct tensor *shift, float eps) {
	int64_t n = tensor_row_count(x), d = tensor_cols(x), groups = tensor_row_count(scale);
	if (!cpu_check(be, cpu_alike(y, x), "norm_modulate", "y is not f32 of x's size:", y) ||
		!cpu_check(be, cpu_is(scale, DTYPE_F32, -1, d) && n % groups == 0, "norm_modulate",
			"scale does not fit:", scale) ||
		!cpu_check(be, cpu_is(shift, DTYPE_F32, groups, d), "norm_modulate",
			"shift does not fit:", shift))
		return;
	struct norm_job job = {.y = y->data,
		.x = x->data,
		.scale = scale->data,
		.shift = shift->data,
		.n = n,
		.d = d,
		.groups = groups,
		.eps = eps};
	pool_run(cpu_pool(be), n, pool_grain(cpu_pool(be), n, 4), norm_modulate_rows, &job);
}

static void rms_norm_rows(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct norm_job *j = ctx;
	(void)worker;
	for (int64_t r = begin; r < end; r++) {
		const float *x = j->x + r * j->d;
		float *y = j->y + r * j->d;
		const float *restrict g = j->g;
		float inverse = 1 / sqrtf(row_square_sum(x, j->d) / (float)j->d + j->eps);
		for (int64_t i = 0; i < j->d; i++)
			y[i] = x[i] * inverse * g[i];
	}
}

static void rms_norm(struct backend *be, struct tensor *y, const struct tensor *x,
	const struct tensor *g, float eps) {
	int64_t n = tensor_row_count(x), d = tensor_cols(x);
	if (!cpu_check(be, cpu_alike(y, x), "rms_norm", "y is not f32 of x's size:", y) ||
		!cpu_check(be, cpu_is(g, DTYPE_F32, -1, -1) && tensor_count(g) == d, "rms_norm",
			"g does not fit:", g))
		return;
	struct norm_job job = {
		.y = y->data, .x = x->data, .g = g->data, .n = n, .d = d, .eps = eps};
	pool_run(cpu_pool(be), n, pool_grain(cpu_pool(be), n, 4), rms_norm_rows, &job);
}

static void channel_norm_rows(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct norm_job *j = ctx;
	(void)worker;
	for (int64_t r = begin; r < end; r++) {
		const float *x = j->x + r * j->d;
		float *y = j->y + r * j->d;
		float k = sqrtf((float)j->d) / fmaxf(sqrtf(row_square_sum(x, j->d)), 1e-12f);
		int64_t i = 0;
		for (; i + VF_LANES <= j->d; i += VF_LANES)
			vf_store(
				y + i, vf_activate(vf_load(x + i) * k * vf_load(j->g + i), j->act));
		int64_t rest = j->d - i;
		if (rest > 0)
			vf_store_part(y + i,
				vf_activate(vf_load_part(x + i, rest) * k *
						    vf_load_part(j->g + i, rest),
					j->act),
				rest);
	}
}

static void channel_norm(struct backend *be, struct tensor *y, const struct tensor *x,
	const struct tensor *g, enum activation act) {
	int64_t n = tensor_row_count(x), d = tensor_cols(x);
	if (!cpu_check(be, cpu_alike(y, x), "channel_norm", "y is not f32 of x's size:", y) ||
		!cpu_check(be, cpu_is(g, DTYPE_F32, -1, -1) && tensor_count(g) == d, "channel_norm",
			"g does not fit:", g))
		return;
	struct norm_job job = {
		.y = y->data, .x = x->data, .g = g->data, .n = n, .d = d, .act = act};
	pool_run(cpu_pool(be), n, pool_grain(cpu_pool(be), n, 32), channel_norm_rows, &job);
}

void CPU_NAME(norm_fill)(struct ops *ops) {
	ops->norm_modulate = norm_modulate;
	ops->rms_norm = rms_norm;
	ops->channel_norm = channel_norm;
}
