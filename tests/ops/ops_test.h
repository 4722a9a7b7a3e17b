/* SPDX-License-Identifier: Apache-2.0 */
/* What every op test needs: a backend by name (LIGHTFORCED_TEST_BACKEND, "cpu"
 * unless set), tensors on it filled from a seeded generator or from host
 * arrays, and the way back. A backend that is not there skips the program (77).
 * Thread: the test's. */
#ifndef TESTS_OPS_OPS_TEST_H
#define TESTS_OPS_OPS_TEST_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "tests/support/compare.h"

struct fixture {
	struct backend *be;
	const struct ops *ops;
	uint64_t random;
	void *held[256]; /* backend memory given out since the last fixture_reset */
	int count;
};

static inline struct fixture fixture_create(void) {
	const char *spec = getenv("LIGHTFORCED_TEST_BACKEND");
	struct error e = {0};
	struct backend_config c = {.spec = spec ? spec : "cpu", .threads = 3};
	struct fixture f = {.be = backend_create(&c, &e), .random = 1};
	if (!f.be) {
		fprintf(stderr, "skipped: %s\n", e.text);
		exit(spec ? 77 : 1);
	}
	f.ops = backend_ops(f.be);
	return f;
}

/* Frees all tensors of a test; fails it when an op failed. */
static inline void fixture_reset(struct fixture *f) {
	struct error e = {0};
	if (backend_sync(f->be, &e) < 0)
		fail_msg("%s", e.text);
	while (f->count > 0)
		backend_free(f->be, f->held[--f->count]);
}

static inline void fixture_destroy(struct fixture *f) {
	fixture_reset(f);
	backend_destroy(f->be);
}

static inline void *fixture_bytes(struct fixture *f, size_t bytes) {
	struct error e = {0};
	assert_true(f->count < 256);
	void *p = backend_alloc(f->be, bytes, &e);
	assert_non_null(p);
	f->held[f->count++] = p;
	return p;
}

/* About normal: the sum of four uniforms, variance 1. */
static inline float fixture_normal(struct fixture *f) {
	float sum = 0;
	for (int i = 0; i < 4; i++) {
		f->random = f->random * 6364136223846793005u + 1442695040888963407u;
		sum += (float)(f->random >> 40) / (float)(1 << 24) - 0.5f;
	}
	return sum * 1.7320508f;
}

/* Host array of n normals times scale plus offset; the caller frees it. */
static inline float *fixture_host(struct fixture *f, int64_t n, float scale, float offset) {
	float *x = malloc((size_t)n * sizeof *x);
	assert_non_null(x);
	for (int64_t i = 0; i < n; i++)
		x[i] = fixture_normal(f) * scale + offset;
	return x;
}

/* Lists a shape: fixture_tensor(f, d, DIMS(3, 4)). */
#define DIMS(...)                                                                                  \
	(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) {                   \
		__VA_ARGS__                                                                        \
	}

static inline struct tensor fixture_tensor(
	struct fixture *f, enum dtype d, int rank, const int64_t *dim) {
	struct tensor t = tensor_make(NULL, d, rank, dim);
	t.data = fixture_bytes(f, tensor_bytes(&t) + 64);
	return t;
}

/* A host array as a tensor on the backend. */
static inline struct tensor fixture_upload(
	struct fixture *f, const float *x, int rank, const int64_t *dim) {
	struct tensor t = fixture_tensor(f, DTYPE_F32, rank, dim);
	backend_upload(f->be, t.data, x, tensor_bytes(&t));
	return t;
}

/* Contents of an f32 tensor; the caller frees it. */
static inline float *fixture_download(struct fixture *f, const struct tensor *t) {
	float *x = malloc(tensor_bytes(t) + 1);
	assert_non_null(x);
	backend_download(f->be, x, t->data, tensor_bytes(t));
	return x;
}

/* Fails when the tensor is further from want than limit (compare_max); prints
 * what was observed. */
static inline void fixture_expect(struct fixture *f, const char *what, const struct tensor *t,
	const float *want, double limit) {
	float *got = fixture_download(f, t);
	double error = compare_max(got, want, tensor_count(t));
	free(got);
	struct error e = {0};
	if (backend_sync(f->be, &e) < 0)
		fail_msg("%s: %s", what, e.text);
	if (!(error <= limit))
		fail_msg("%s: error %.3g, limit %.3g", what, error, limit);
	printf("    %-44s %.2g\n", what, error);
}
#endif
