/* SPDX-License-Identifier: Apache-2.0 */
/* Shape arithmetic for tensor views. */
#include "kernels/tensor.h"

#include <assert.h>
#include <stdio.h>

static const struct {
	const char *name;
	size_t bytes;
} dtypes[DTYPE_COUNT] = {
	[DTYPE_F32] = {"f32", 4},
	[DTYPE_F16] = {"f16", 2},
	[DTYPE_BF16] = {"bf16", 2},
	[DTYPE_FP8_E4M3] = {"fp8_e4m3", 1},
	[DTYPE_I8] = {"i8", 1},
	[DTYPE_U8] = {"u8", 1},
	[DTYPE_I32] = {"i32", 4},
	[DTYPE_I64] = {"i64", 8},
};

size_t dtype_bytes(enum dtype d) {
	return dtypes[d].bytes;
}

const char *dtype_name(enum dtype d) {
	return dtypes[d].name;
}

struct tensor tensor_make(void *data, enum dtype dtype, int rank, const int64_t *dim) {
	assert(rank >= 0 && rank <= TENSOR_RANK_MAX);
	struct tensor t = {.data = data, .dtype = dtype, .rank = rank};
	for (int i = 0; i < TENSOR_RANK_MAX; i++)
		t.dim[i] = i < rank ? dim[i] : 1;
	return t;
}

struct tensor tensor_1d(void *data, enum dtype dtype, int64_t a) {
	return tensor_make(data, dtype, 1, (int64_t[]){a});
}

struct tensor tensor_2d(void *data, enum dtype dtype, int64_t a, int64_t b) {
	return tensor_make(data, dtype, 2, (int64_t[]){a, b});
}

struct tensor tensor_3d(void *data, enum dtype dtype, int64_t a, int64_t b, int64_t c) {
	return tensor_make(data, dtype, 3, (int64_t[]){a, b, c});
}

struct tensor tensor_4d(void *data, enum dtype dtype, int64_t a, int64_t b, int64_t c, int64_t d) {
	return tensor_make(data, dtype, 4, (int64_t[]){a, b, c, d});
}

int64_t tensor_count(const struct tensor *t) {
	int64_t n = 1;
	for (int i = 0; i < t->rank; i++)
		n *= t->dim[i];
	return n;
}

int64_t tensor_cols(const struct tensor *t) {
	return t->rank > 0 ? t->dim[t->rank - 1] : 1;
}

int64_t tensor_row_count(const struct tensor *t) {
	int64_t n = 1;
	for (int i = 0; i + 1 < t->rank; i++)
		n *= t->dim[i];
	return n;
}

size_t tensor_bytes(const struct tensor *t) {
	return (size_t)tensor_count(t) * dtype_bytes(t->dtype);
}

struct tensor tensor_rows(struct tensor t, int64_t first, int64_t count) {
	assert(t.rank >= 1 && first >= 0 && count >= 0 && first + count <= t.dim[0]);
	int64_t inner = 1, scale_rows = 1;
	for (int i = 1; i < t.rank; i++) {
		inner *= t.dim[i];
		if (i + 1 < t.rank)
			scale_rows *= t.dim[i];
	}
	if (t.data)
		t.data = (char *)t.data + (size_t)(first * inner) * dtype_bytes(t.dtype);
	if (t.scale && !t.one_scale)
		t.scale += first * scale_rows;
	t.dim[0] = count;
	return t;
}

struct tensor tensor_reshape(struct tensor t, int rank, const int64_t *dim) {
	struct tensor r = tensor_make(t.data, t.dtype, rank, dim);
	assert(tensor_count(&r) == tensor_count(&t));
	assert(!t.scale || t.one_scale || tensor_cols(&r) == tensor_cols(&t));
	r.scale = t.scale;
	r.one_scale = t.one_scale;
	return r;
}

char *tensor_describe(const struct tensor *t, char *buf, size_t size) {
	int at = snprintf(buf, size, "[");
	for (int i = 0; i < t->rank && at >= 0 && (size_t)at < size; i++)
		at += snprintf(buf + at, size - (size_t)at, "%s%lld", i ? ", " : "", (long long)t->dim[i]);
	if (at >= 0 && (size_t)at < size)
		snprintf(buf + at, size - (size_t)at, "] %s", dtype_name(t->dtype));
	return buf;
}
