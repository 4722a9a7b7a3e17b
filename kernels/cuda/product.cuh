/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix products of the linear layers through cuBLASLt, prepared once per shape
 * and shared by all layers of that shape. What the library cannot do in its
 * epilogue on this card is handed back to the caller. Thread: the backend's. */
#pragma once
#include "kernels/cuda/rows.cuh"

#define PRODUCT_WORKSPACE ((size_t)32 << 20) /* the head of the scratch area is the library's */

/* y[rows, out] = act(x[rows, in] w[out, in]^T + bias); y f32, bf16 or (of fp8) codes,
 * x and w of the precision's type. fp8: value = code * scale. */
struct product_args {
	int64_t rows, out, in;
	enum precision precision; /* F32, BF16 or FP8 */
	const void *w, *x;
	const float *w_scale, *x_scale, *y_scale; /* of codes, each with its inverse; else NULL */
	const float *bias;              /* [out] or NULL */
	const void *bias_bf16;          /* the same, for bf16 results */
	enum activation act;
	void *y, *room;                 /* room: for y as bf16, when y is codes */
	enum dtype y_dtype;
};
/* Multiplies; *left is what is left to do with y. The first call of a shape may
 * measure: allocate, and wait for the stream. False: the library has no kernel;
 * codes must be the whole result or they are not given. */
bool cuda_product(struct backend *be, const struct product_args *a, finish *left);

/* finish.cu: y = finished t, of any of y's dtypes; y may be t. */
void cuda_finish(struct backend *be, struct tensor *y, const struct tensor *t, finish f);
/* r += finished t * gate (NULL: 1) */
void cuda_residual(struct backend *be, struct tensor *r, const struct tensor *t, finish f, const struct tensor *gate);
/* norm.cu: the same, then y = norm_modulate(r) */
void cuda_residual_norm(struct backend *be, struct tensor *y, struct tensor *r, const struct tensor *t, finish f,
	const struct tensor *gate, const struct norm_args *args);
