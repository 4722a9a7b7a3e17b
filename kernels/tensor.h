/* SPDX-License-Identifier: Apache-2.0 */
/* A tensor is a view: shape and element type over memory owned by somebody
 * else (an arena, a mapped file). Row-major and contiguous, always. Passed by
 * value or const pointer; there is nothing to free. Thread: none of its own. */
#ifndef KERNELS_TENSOR_H
#define KERNELS_TENSOR_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#define TENSOR_RANK_MAX 6
#ifdef __cplusplus
extern "C" {
#endif
enum dtype {
	DTYPE_F32,
	DTYPE_F16,
	DTYPE_BF16,
	DTYPE_FP8_E4M3,
	DTYPE_I8,
	DTYPE_U8,
	DTYPE_I32,
	DTYPE_I64,
	DTYPE_COUNT
};
struct tensor {
	void *data;     /* host or device, as its backend says */
	/* f32 for quantised codes (value = code * scale), else NULL: [rows], one for each; or with
	 * one_scale [2], 16-byte aligned: the scale of them all and its inverse, set by whoever
	 * owns the tensor before codes are written (larger values are clipped). */
	float *scale;
	bool one_scale;
	enum dtype dtype;
	int rank;
	int64_t dim[TENSOR_RANK_MAX]; /* dim[rank-1] varies fastest; unused ones are 1 */
};
struct tensor tensor_make(void *data, enum dtype dtype, int rank, const int64_t *dim);
struct tensor tensor_1d(void *data, enum dtype dtype, int64_t a);
struct tensor tensor_2d(void *data, enum dtype dtype, int64_t a, int64_t b);
struct tensor tensor_3d(void *data, enum dtype dtype, int64_t a, int64_t b, int64_t c);
struct tensor tensor_4d(void *data, enum dtype dtype, int64_t a, int64_t b, int64_t c, int64_t d);
/* Rows first .. first+count-1 of dim 0: a slice, same memory (scale too). */
struct tensor tensor_rows(struct tensor t, int64_t first, int64_t count);
/* Same elements, other shape; the counts must agree (assert). */
struct tensor tensor_reshape(struct tensor t, int rank, const int64_t *dim);
int64_t tensor_count(const struct tensor *t);
/* Elements of the last dimension, and count / that. */
int64_t tensor_cols(const struct tensor *t);
int64_t tensor_row_count(const struct tensor *t);
size_t tensor_bytes(const struct tensor *t); /* codes only, without scales */
size_t dtype_bytes(enum dtype d);
const char *dtype_name(enum dtype d);
/* "[3, 16, 60, 104] f32" for messages; returns buf. */
char *tensor_describe(const struct tensor *t, char *buf, size_t size);
#ifdef __cplusplus
}
#endif
#endif
