/* SPDX-License-Identifier: Apache-2.0 */
/* A run of the cases of test_device.c on one backend: tensors of random numbers, the
 * same on each, and what a case emits. Included once. Thread: one. */
#ifndef TESTS_OPS_DEVICE_RUN_H
#define TESTS_OPS_DEVICE_RUN_H
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/backend.h"

#define EMIT_MAX (1 << 23) /* floats a case may emit */
#define HELD_MAX 256
#define PARTS_MAX 64

/* One emitted tensor: each is compared by itself, over its own peak. */
struct part {
	int64_t first, count, rows, cols; /* cols: of the last dimension; rows: of the one before */
};

struct run {
	struct backend *be;
	const struct ops *ops;
	enum dtype act; /* of activations */
	enum precision precision;
	bool lists; /* block lists count: both sides see the same f32 means */
	uint64_t random;
	void *held[HELD_MAX];
	int held_count;
	float *emitted;
	int64_t emitted_count;
	struct part part[PARTS_MAX];
	int parts;
};

static float uniform(struct run *r) {
	r->random = r->random * 6364136223846793005u + 1442695040888963407u;
	return (float)(r->random >> 40) * 0x1p-23f - 1.f;
}

static void *hold(struct run *r, size_t bytes) {
	struct error e = {0};
	void *p = backend_alloc(r->be, bytes, &e);
	if (!p || r->held_count == HELD_MAX) {
		fprintf(stderr, "test_device: %s\n", p ? "too many tensors" : e.text);
		exit(1);
	}
	return r->held[r->held_count++] = p;
}

static struct tensor make(struct run *r, enum dtype d, int rank, const int64_t *dim) {
	struct tensor t = tensor_make(NULL, d, rank, dim);
	t.data = hold(r, tensor_bytes(&t));
	if (d == DTYPE_FP8_E4M3 || d == DTYPE_I8)
		t.scale = hold(r, (size_t)tensor_row_count(&t) * sizeof(float));
	return t;
}

static float *random_host(struct run *r, int64_t n, float scale) {
	float *f = malloc((size_t)n * sizeof *f);
	for (int64_t i = 0; i < n; i++)
		f[i] = scale * uniform(r);
	return f;
}

/* A random tensor of a dtype, the same numbers on every backend. */
static struct tensor filled(
	struct run *r, enum dtype d, float scale, int rank, const int64_t *dim) {
	struct tensor t = make(r, d, rank, dim);
	int64_t n = tensor_count(&t);
	float *f = random_host(r, n, scale);
	if (d == DTYPE_F32) {
		backend_upload(r->be, t.data, f, (size_t)n * sizeof *f);
	} else {
		struct tensor plain = make(r, DTYPE_F32, rank, dim);
		backend_upload(r->be, plain.data, f, (size_t)n * sizeof *f);
		r->ops->convert(r->be, &t, &plain);
	}
	backend_sync(r->be, NULL);
	free(f);
	return t;
}

#define DIMS(...)                                                                                  \
	(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) {                   \
		__VA_ARGS__                                                                        \
	}
#define IN(r, ...) filled(r, (r)->act, 1.f, DIMS(__VA_ARGS__))
#define F32(r, ...) filled(r, DTYPE_F32, 1.f, DIMS(__VA_ARGS__))
#define OUT(r, ...) make(r, (r)->act, DIMS(__VA_ARGS__))

/* The last n emitted numbers are a part. */
static void end_part(struct run *r, int64_t n, int64_t rows, int64_t cols) {
	if (r->parts == PARTS_MAX) {
		fprintf(stderr, "test_device: a case emits too many tensors\n");
		exit(1);
	}
	r->part[r->parts++] = (struct part){r->emitted_count - n, n, rows, cols};
}

static void emit(struct run *r, const struct tensor *t) {
	int64_t n = tensor_count(t);
	struct tensor plain = *t;
	if (t->dtype != DTYPE_F32) {
		plain = make(r, DTYPE_F32, t->rank, t->dim);
		r->ops->convert(r->be, &plain, t);
	}
	if (r->emitted_count + n > EMIT_MAX) {
		fprintf(stderr, "test_device: a case emits too much\n");
		exit(1);
	}
	backend_download(
		r->be, r->emitted + r->emitted_count, plain.data, (size_t)n * sizeof(float));
	r->emitted_count += n;
	end_part(r, n, t->rank > 1 ? t->dim[t->rank - 2] : 1, t->dim[t->rank - 1]);
}
#endif
