/* SPDX-License-Identifier: Apache-2.0 */
/* Row kernels, compiled per instruction set. */
#include "kernels/cpu/rows.h"

#include <math.h>

#include "kernels/cpu/simd.h"

static void to_bf16(uint16_t *y, const float *x, int64_t n) {
	for (int64_t i = 0; i < n; i++) {
		uint32_t u;
		memcpy(&u, x + i, sizeof u);
		y[i] = (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
	}
}

static float to_int8(int8_t *y, const float *x, int64_t n) {
	float most = 0;
	for (int64_t i = 0; i < n; i++)
		most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
	float scale = most > 0 ? most / 127 : 1, inverse = 1 / scale;
	for (int64_t i = 0; i < n; i++)
		y[i] = (int8_t)rintf(x[i] * inverse);
	return scale;
}

static void from_int8(float *y, const float *sum, float scale, const float *w_scale, const float *b,
	int64_t n, enum activation act) {
	int64_t i = 0;
	for (; i + VF_LANES <= n; i += VF_LANES) {
		vf v = vf_load(sum + i) * (scale * vf_load(w_scale + i));
		if (b)
			v += vf_load(b + i);
		vf_store(y + i, vf_activate(v, act));
	}
	if (i < n) {
		vf v = vf_load_part(sum + i, n - i) * (scale * vf_load_part(w_scale + i, n - i));
		if (b)
			v += vf_load_part(b + i, n - i);
		vf_store_part(y + i, vf_activate(v, act), n - i);
	}
}

static void add_gated(float *r, const float *x, const float *gate, int64_t n) {
	if (gate) {
		for (int64_t i = 0; i < n; i++)
			r[i] += x[i] * gate[i];
	} else {
		for (int64_t i = 0; i < n; i++)
			r[i] += x[i];
	}
}

static void add_activate(
	float *y, const float *x, const float *skip, int64_t n, enum activation act) {
	int64_t i = 0;
	for (; i + VF_LANES <= n; i += VF_LANES) {
		vf v = vf_load(x + i);
		if (skip)
			v += vf_load(skip + i);
		vf_store(y + i, vf_activate(v, act));
	}
	if (i < n) {
		vf v = vf_load_part(x + i, n - i);
		if (skip)
			v += vf_load_part(skip + i, n - i);
		vf_store_part(y + i, vf_activate(v, act), n - i);
	}
}

static void spread(float *y, int64_t y_step, const float *x, int64_t x_step, const float *skip,
	int64_t pixels, int64_t n, enum activation act) {
	for (int64_t p = 0; p < pixels; p++, y += y_step, x += x_step) {
		if (skip || act != ACT_NONE) {
			add_activate(y, x, skip, n, act);
			skip = skip ? skip + y_step : NULL;
			continue;
		}
		int64_t i = 0;
		for (; i + VF_LANES <= n; i += VF_LANES)
			vf_store(y + i, vf_load(x + i));
		for (; i < n; i++)
			y[i] = x[i];
	}
}

extern const struct row_kernels CPU_NAME(row_kernels);
const struct row_kernels CPU_NAME(row_kernels) = {
	.to_bf16 = to_bf16,
	.to_int8 = to_int8,
	.from_int8 = from_int8,
	.add_gated = add_gated,
	.spread = spread,
};
