/* SPDX-License-Identifier: Apache-2.0 */
/* A bump allocator over one backend allocation, so that memory is sized once
 * and nothing is allocated while generating. Its owner frees it whole. A measuring
 * arena only counts, which is how sizes are planned:
 * run the same code twice. Thread: the backend's. */
#ifndef ENGINE_ARENA_H
#define ENGINE_ARENA_H
#include <stdbool.h>
#include "kernels/backend.h"
struct arena;
/* NULL and *e when the device has too little memory. */
struct arena *arena_create(struct backend *be, size_t bytes, struct error *e);
/* An arena that hands out no memory (tensors with data NULL) and only counts. */
struct arena *arena_measure(struct backend *be);
void arena_destroy(struct arena *a); /* NULL is fine */
bool arena_measuring(const struct arena *a);
size_t arena_mark(const struct arena *a);
void arena_reset(struct arena *a, size_t mark); /* frees all younger than mark */
/* 256-byte aligned. Quantised dtypes get a scale plane. When the arena is full
 * the tensor has data NULL and arena_failed says so: ask once, at the end. */
struct tensor arena_tensor(struct arena *a, enum dtype dtype, int rank, const int64_t *dim);
struct tensor arena_2d(struct arena *a, enum dtype dtype, int64_t rows, int64_t cols);
void *arena_bytes(struct arena *a, size_t bytes);
int arena_failed(const struct arena *a, struct error *e); /* 0 or -ENOMEM with the sizes */
size_t arena_peak(const struct arena *a);
#endif
