/* SPDX-License-Identifier: Apache-2.0 */
/* Vectors for the op files that are compiled once per instruction set: GCC's
 * vector extension at the set's native width, and the few functions the ops
 * share. Everything is inline; a tail shorter than a vector goes through a
 * padded copy, so that it gives the same values as the rest. Thread: any. */
#ifndef KERNELS_CPU_SIMD_H
#define KERNELS_CPU_SIMD_H
#include <stdint.h>
#include <string.h>
#include "kernels/cpu/isa.h"

#if defined(__AVX512F__)
#define VF_LANES 16
#elif defined(__AVX2__)
#define VF_LANES 8
#else
#define VF_LANES 4
#endif
/* Vector types have no other spelling, hence these typedefs. */
typedef float vf __attribute__((vector_size(VF_LANES * 4)));
typedef int32_t vi __attribute__((vector_size(VF_LANES * 4)));
typedef double vd __attribute__((vector_size(VF_LANES * 4))); /* half as many lanes */
typedef float vf_half __attribute__((vector_size(VF_LANES * 2))); /* what fits into a vd */

static inline vf vf_load(const float *p) {
	vf v;
	memcpy(&v, p, sizeof v);
	return v;
}

static inline void vf_store(float *p, vf v) {
	memcpy(p, &v, sizeof v);
}

/* The first n < VF_LANES floats, the other lanes 0. */
static inline vf vf_load_part(const float *p, int64_t n) {
	float t[VF_LANES] = {0};
	memcpy(t, p, (size_t)n * sizeof *t);
	return vf_load(t);
}

static inline void vf_store_part(float *p, vf v, int64_t n) {
	memcpy(p, &v, (size_t)n * sizeof *p);
}

static inline vf vf_set(float x) {
	return x - (vf){0};
}

/* mask lanes are 0 or -1, as comparisons give them. */
static inline vf vf_select(vi mask, vf yes, vf no) {
	return (vf)((mask & (vi)yes) | (~mask & (vi)no));
}

static inline vf vf_max(vf a, vf b) {
	return vf_select(a > b, a, b);
}

static inline vf vf_min(vf a, vf b) {
	return vf_select(a < b, a, b);
}

static inline float vf_sum(vf v) {
	float t[VF_LANES], s = 0;
	memcpy(t, &v, sizeof t);
	for (int step = VF_LANES / 2; step > 0; step /= 2) {
		for (int i = 0; i < step; i++)
			t[i] += t[i + step];
	}
	s = t[0];
	return s;
}

/* 2^x, relative error below 2e-7 (1.9e-9 of it the polynomial's, the rest
 * rounding); x below -126 gives 0, above 127 gives 2^127. NaN stays NaN-free:
 * callers give finite numbers or -inf. */
static inline vf vf_exp2(vf x) {
	vi under = x < -126.0f;
	x = vf_min(vf_max(x, vf_set(-126.0f)), vf_set(127.0f));
	vf shifted =
		x + 12582912.0f; /* 1.5 * 2^23: the integer part lands in the low mantissa bits */
	vf f = x - (shifted - 12582912.0f);
	vf p = vf_set(0.000153458124f);
	p = p * f + 0.00133999309f;
	p = p * f + 0.00961848907f;
	p = p * f + 0.0555032864f;
	p = p * f + 0.240226462f;
	p = p * f + 0.693147182f;
	p = p * f + 1.0f;
	vi bits = (vi)p + ((vi)shifted << 23);
	return (vf)(bits & ~under);
}

#define LOG2E 1.44269504088896341f

static inline vf vf_silu(vf x) {
	return x / (1.0f + vf_exp2(x * -LOG2E));
}

/* 0.5 x (1 + tanh(u)) = x / (1 + e^-2u), u = sqrt(2/pi) (x + 0.044715 x^3) */
static inline vf vf_gelu(vf x) {
	const float k = -2 * 0.797884560802865356f * LOG2E;
	return x / (1.0f + vf_exp2((x + 0.044715f * (x * x * x)) * k));
}

static inline vf vf_activate(vf x, enum activation act) {
	switch (act) {
	case ACT_NONE:
		return x;
	case ACT_SILU:
		return vf_silu(x);
	case ACT_GELU_TANH:
		return vf_gelu(x);
	case ACT_RELU:
		return vf_max(x, vf_set(0));
	}
	return x;
}

/* Sum of squares of n floats. */
static inline float row_square_sum(const float *x, int64_t n) {
	vf a = {0}, b = {0};
	int64_t i = 0;
	for (; i + 2 * VF_LANES <= n; i += 2 * VF_LANES) {
		vf u = vf_load(x + i), w = vf_load(x + i + VF_LANES);
		a += u * u;
		b += w * w;
	}
	for (; i + VF_LANES <= n; i += VF_LANES) {
		vf u = vf_load(x + i);
		a += u * u;
	}
	if (i < n) {
		vf u = vf_load_part(x + i, n - i);
		b += u * u;
	}
	return vf_sum(a + b);
}
#endif
