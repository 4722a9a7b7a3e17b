/* SPDX-License-Identifier: Apache-2.0 */
/* What happens to rows of numbers just before and after they are multiplied,
 * while they are in the cache: conversion, quantisation, gates, activations.
 * Compiled per instruction set. Thread: any. */
#ifndef KERNELS_CPU_ROWS_H
#define KERNELS_CPU_ROWS_H
#include "kernels/cpu/isa.h"

struct row_kernels {
	/* y = bf16 of x, to nearest, ties to even */
	void (*to_bf16)(uint16_t *y, const float *x, int64_t n);
	/* y = round(x / scale), scale = max |x| / 127, which is returned (1 for zeros) */
	float (*to_int8)(int8_t *y, const float *x, int64_t n);
	/* y = act(sum * scale * w_scale + b), b NULL: 0 */
	void (*from_int8)(float *y, const float *sum, float scale, const float *w_scale,
		const float *b, int64_t n, enum activation act);
	/* r += x * gate, gate NULL: 1 */
	void (*add_gated)(float *r, const float *x, const float *gate, int64_t n);
	/* For each of `pixels`: n numbers of x go to y, both a step further each
	 * time: y = act(x + skip), skip [like y] NULL: 0; y may be skip. */
	void (*spread)(float *y, int64_t y_step, const float *x, int64_t x_step, const float *skip,
		int64_t pixels, int64_t n, enum activation act);
};
const struct row_kernels *row_kernels_find(enum cpu_isa isa);
#endif
