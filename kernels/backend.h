/* SPDX-License-Identifier: Apache-2.0 */
/* One device with a compute stream and, beside it, a lane for work that may
 * overlap: memory, the op table, the latched failure. Work that comes again and
 * again is recorded once and replayed. Thread: not thread-safe; whoever created
 * it makes every call. */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H
#include <stddef.h>
#include <stdint.h>
#include "kernels/error.h"
#include "kernels/ops.h"
#ifdef __cplusplus
extern "C" {
#endif
struct backend_config {
	const char *spec;    /* "cpu", "cuda", "cuda:N" or "auto" (a GPU if there is one, else the CPU) */
	int threads;         /* CPU workers, this thread included; 0: one per online core */
	int eager;           /* record nothing: all work is enqueued anew, for comparison */
	int one_lane;        /* the lane is the backend itself, for comparison */
	/* Receives one line when auto falls back, and what the device is. May be NULL. */
	void (*log)(void *ctx, const char *line);
	void *log_ctx;
};
struct backend_info {
	char name[96];       /* "NVIDIA H100 80GB HBM3", "AMD EPYC ..., 2 threads, AVX-512 BF16" */
	char kind[8];        /* "cpu" or "cuda" */
	size_t bytes_total, bytes_free; /* device memory */
	enum precision precision;       /* what PRECISION_AUTO means for a linear here */
	enum dtype activation;          /* of activations that are not the residual stream */
	enum dtype kv;                  /* of keys and values */
};
/* The table is complete: an op the device cannot run is an error here, not a
 * NULL found later. NULL and *e (which names the device and the fix) on failure. */
struct backend *backend_create(const struct backend_config *c, struct error *e);
void backend_destroy(struct backend *be); /* NULL is fine */
const struct ops *backend_ops(const struct backend *be);
struct backend_info backend_info(const struct backend *be);
/* Device memory, 64-byte aligned, zeroed. NULL and *e when there is not enough. */
void *backend_alloc(struct backend *be, size_t bytes, struct error *e);
/* Host memory the device can copy to asynchronously, for frames. */
void *backend_alloc_pinned(struct backend *be, size_t bytes, struct error *e);
void backend_free(struct backend *be, void *p);        /* either kind; NULL is fine */
size_t backend_allocated(const struct backend *be);    /* device bytes held now, packed weights included */
uint64_t backend_allocations(const struct backend *be); /* made ever, both kinds: constant once warm */
/* From host; the source may be reused at once. Waits for the device only when
 * it is megabytes. */
void backend_upload(struct backend *be, void *dst, const void *src, size_t bytes);
void backend_download(struct backend *be, void *dst, const void *src, size_t bytes); /* to host; ordered, waits */
/* Device to pinned host, asynchronous: done when a later mark is reached. */
void backend_download_async(struct backend *be, void *dst, const void *src, size_t bytes);
void backend_copy(struct backend *be, void *dst, const void *src, size_t bytes);     /* on the device */
void backend_zero(struct backend *be, void *dst, size_t bytes);
uint64_t backend_mark(struct backend *be);             /* a point on the stream */
int backend_reached(struct backend *be, uint64_t mark); /* 1 when everything before it is done; never waits */
int backend_wait(struct backend *be, uint64_t mark, struct error *e); /* sleeps, never spins */
/* Time between two reached marks of one lane; 0 when a mark is forgotten (they
 * are kept for the last thousand). */
int64_t backend_elapsed_us(struct backend *be, uint64_t from, uint64_t to);
int backend_sync(struct backend *be, struct error *e); /* waits, for the lane too; returns the latched failure */
/* A second stream of the same device with scratch memory and marks of its own;
 * the account of memory and the latched failure are common. Takes every call
 * that a backend takes, but belongs to `be`. Where nothing overlaps (the CPU) it
 * is `be` itself. */
struct backend *backend_lane(struct backend *be);
/* What is enqueued on `be` from now on runs after this mark of `after`. */
void backend_order(struct backend *be, struct backend *after, uint64_t mark);
/* Recordings. Between replay and record_end lies code that only enqueues ops,
 * copies and zeroing on `be`, the same for the same key: the key holds every
 * pointer, shape and number that they are called with.
 *
 *	if (!backend_replay(be, &key, sizeof key)) {
 *		do {
 *			... enqueue ...
 *		} while (backend_record_end(be));
 *	}
 *
 * replay: 1 when what is recorded under the key has been enqueued, else 0: the
 * code must run. It runs plainly the first time (so that ops can prepare) and is
 * recorded the second time. record_end: 1 when it could not be recorded and has
 * had no effect: once more, plainly. Recordings are dropped when any memory is
 * freed, the oldest when there are too many. */
#define BACKEND_KEY_MAX 384 /* bytes; longer ones are never recorded */
int backend_replay(struct backend *be, const void *key, size_t bytes);
int backend_record_end(struct backend *be);
size_t backend_recording_bytes(const struct backend *be, int keys); /* device memory to plan for so many */
struct backend_recordings {
	int held;
	int64_t recorded, replayed, refused; /* since the beginning */
};
struct backend_recordings backend_recordings(const struct backend *be);
/* 0, or the latched failure, described in *e. Non-sticky ones are cleared by
 * backend_clear; after a sticky one the process must end. */
int backend_error(const struct backend *be, struct error *e);
int backend_sticky(const struct backend *be);
void backend_clear(struct backend *be);
#ifdef __cplusplus
}
#endif
#endif
