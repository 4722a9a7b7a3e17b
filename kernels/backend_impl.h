/* SPDX-License-Identifier: Apache-2.0 */
/* What every backend is made of: the first member of its struct, and the table
 * through which kernels/backend.c reaches it. Private to kernels/. Thread: the
 * one that owns the backend. */
#ifndef KERNELS_BACKEND_IMPL_H
#define KERNELS_BACKEND_IMPL_H
#include "kernels/backend.h"
#ifdef __cplusplus
extern "C" {
#endif
/* One row per function of backend.h, same contracts. */
struct backend_driver {
	void (*destroy)(struct backend *be);
	struct backend_info (*info)(const struct backend *be);
	void *(*alloc)(struct backend *be, size_t bytes, struct error *e);
	void *(*alloc_pinned)(struct backend *be, size_t bytes, struct error *e);
	void (*free)(struct backend *be, void *p);
	size_t (*allocated)(const struct backend *be);
	void (*upload)(struct backend *be, void *dst, const void *src, size_t bytes);
	void (*download)(struct backend *be, void *dst, const void *src, size_t bytes);
	void (*download_async)(struct backend *be, void *dst, const void *src, size_t bytes);
	void (*copy)(struct backend *be, void *dst, const void *src, size_t bytes);
	void (*zero)(struct backend *be, void *dst, size_t bytes);
	uint64_t (*mark)(struct backend *be);
	int (*reached)(struct backend *be, uint64_t mark);
	int (*wait)(struct backend *be, uint64_t mark, struct error *e);
	int (*sync)(struct backend *be, struct error *e);
	uint64_t (*allocations)(const struct backend *be);
	int64_t (*elapsed_us)(struct backend *be, uint64_t from, uint64_t to);
	struct backend *(*lane)(struct backend *be);
	void (*order)(struct backend *be, struct backend *after, uint64_t mark);
	int (*replay)(struct backend *be, const void *key, size_t bytes);
	int (*record_end)(struct backend *be);
	size_t (*recording_bytes)(const struct backend *be, int keys);
	struct backend_recordings (*recordings)(const struct backend *be);
};
/* Embedded first in each backend's own struct. */
struct backend {
	const struct backend_driver *driver;
	struct backend *root; /* holds the failure: itself, or whose lane it is */
	struct ops ops; /* complete: backend_create checks every entry */
	struct error latched; /* of the root: first failure since create or clear */
	int sticky; /* of the root: the latched failure can not be healed */
};
/* Latches a failure of an op unless one is latched already. */
void backend_fail(struct backend *be, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* The constructors, one row each in backend.c. device: N of "cuda:N", else 0. */
struct backend *cpu_backend_create(const struct backend_config *c, int device, struct error *e);
struct backend *cuda_backend_create(const struct backend_config *c, int device, struct error *e);
#ifdef __cplusplus
}
#endif
#endif
