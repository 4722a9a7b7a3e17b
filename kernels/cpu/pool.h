/* SPDX-License-Identifier: Apache-2.0 */
/* Workers that share loops over independent items. The thread that calls
 * pool_run takes part, and waits only for workers that really took a slice: one
 * that is asleep or descheduled costs nothing. Idle workers spin for a moment,
 * because ops follow each other within microseconds, then sleep, so that they
 * do not take a core from the encoder. Thread: the owner's; never nested. */
#ifndef KERNELS_CPU_POOL_H
#define KERNELS_CPU_POOL_H
#include <stdint.h>
#include "kernels/error.h"
#define POOL_THREADS_MAX 256
struct pool;
/* Items begin .. end-1, by worker 0 .. threads-1 (0 is the caller of pool_run). */
typedef void (*pool_fn)(void *ctx, int64_t begin, int64_t end, int worker);
/* threads: the caller included; 0: one per core this process may use. */
struct pool *pool_create(int threads, struct error *e);
void pool_destroy(struct pool *p); /* NULL is fine */
int pool_threads(const struct pool *p);
/* Runs fn over 0 .. items-1 in slices of `grain` items, each taken by whoever
 * is free. Returns when all are done. */
void pool_run(struct pool *p, int64_t items, int64_t grain, pool_fn fn, void *ctx);
/* A grain that gives every thread about four slices, at least `least` items. */
int64_t pool_grain(const struct pool *p, int64_t items, int64_t least);
#endif
