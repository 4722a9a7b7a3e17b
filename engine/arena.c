/* SPDX-License-Identifier: Apache-2.0 */
/* Bump allocation over one backend block. The idea: a full arena does not fail
 * the caller in the middle of a plan, it goes on counting and remembers; the
 * one question at the end then knows how much would have been needed. The same
 * counting, with no block at all, is the measuring arena. Thread: the backend's. */
#include "engine/arena.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#define ARENA_ALIGN 256

struct arena {
	struct backend *be;
	char *block; /* what backend_alloc gave; NULL when measuring */
	char *base; /* block rounded up to ARENA_ALIGN */
	size_t size; /* usable bytes from base */
	size_t used, peak;
	bool measuring;
};

static size_t round_up(size_t n) {
	return n > SIZE_MAX - (ARENA_ALIGN - 1)
		       ? SIZE_MAX & ~(size_t)(ARENA_ALIGN - 1)
		       : (n + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
}

struct arena *arena_create(struct backend *be, size_t bytes, struct error *e) {
	struct arena *a = calloc(1, sizeof *a);
	if (!a) {
		error_set(e, -ENOMEM, "arena: out of host memory");
		return NULL;
	}
	a->be = be;
	a->size = round_up(bytes);
	a->block = backend_alloc(be, a->size + ARENA_ALIGN, e);
	if (!a->block) {
		error_prefix(e, "arena of %zu bytes", a->size);
		free(a);
		return NULL;
	}
	a->base = a->block + (ARENA_ALIGN - (uintptr_t)a->block % ARENA_ALIGN) % ARENA_ALIGN;
	return a;
}

struct arena *arena_measure(struct backend *be) {
	struct arena *a = calloc(1, sizeof *a);
	if (a) {
		a->be = be;
		a->measuring = true;
	}
	return a;
}

void arena_destroy(struct arena *a) {
	if (!a)
		return;
	backend_free(a->be, a->block);
	free(a);
}

bool arena_measuring(const struct arena *a) {
	return a->measuring;
}

size_t arena_mark(const struct arena *a) {
	return a->used;
}

void arena_reset(struct arena *a, size_t mark) {
	if (mark < a->used)
		a->used = mark;
}

void *arena_bytes(struct arena *a, size_t bytes) {
	size_t at = a->used, need = round_up(bytes);
	a->used = at > SIZE_MAX - need ? SIZE_MAX : at + need;
	if (a->used > a->peak)
		a->peak = a->used;
	return a->measuring || a->used > a->size ? NULL : a->base + at;
}

struct tensor arena_tensor(struct arena *a, enum dtype dtype, int rank, const int64_t *dim) {
	struct tensor t = tensor_make(NULL, dtype, rank, dim);
	t.data = arena_bytes(a, tensor_bytes(&t));
	if (dtype == DTYPE_I8 || dtype == DTYPE_FP8_E4M3)
		t.scale = arena_bytes(a, (size_t)tensor_row_count(&t) * sizeof(float));
	return t;
}

struct tensor arena_2d(struct arena *a, enum dtype dtype, int64_t rows, int64_t cols) {
	return arena_tensor(a, dtype, 2, (int64_t[]){rows, cols});
}

int arena_failed(const struct arena *a, struct error *e) {
	if (a->measuring || a->peak <= a->size)
		return 0;
	return error_set(e, -ENOMEM, "arena: %zu bytes needed, %zu planned", a->peak, a->size);
}

size_t arena_peak(const struct arena *a) {
	return a->peak;
}
