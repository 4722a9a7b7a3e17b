/* SPDX-License-Identifier: Apache-2.0 */
/* A fixed pool of I420 pictures. Its owner takes pictures out and fills them;
 * whoever they are given to brings them back with frame_release, from any
 * thread, in any order, even after the owner has let go of the pool: the last
 * of owner and pictures frees it. The pool never grows.
 * Thread: create, take and disown on one thread; frame_release on any. */
#ifndef ENGINE_FRAMES_H
#define ENGINE_FRAMES_H
#include <stddef.h>
#include "engine/engine.h"

struct frame_pool;

/* Bytes of one picture: planes Y, U, V one after the other without padding. */
size_t frame_pool_picture_bytes(int width, int height);

/* A pool of `count` pictures over `memory` (count * picture_bytes), which the
 * pool owns from now on and gives to release_memory(ctx, memory) at its end;
 * NULL memory: the pool allocates it itself. NULL and *e on failure (then memory
 * stays the caller's). */
struct frame_pool *frame_pool_create(int count, int width, int height, void *memory,
	void (*release_memory)(void *ctx, void *memory), void *ctx, struct error *e);
void frame_pool_disown(struct frame_pool *p); /* NULL is fine */
int frame_pool_available(struct frame_pool *p);
/* A picture with planes set and all else zero; NULL when all are out. */
struct frame *frame_pool_take(struct frame_pool *p);
/* Start of the picture's memory, writable. */
uint8_t *frame_pool_pixels(struct frame *f);
#endif
