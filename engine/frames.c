/* SPDX-License-Identifier: Apache-2.0 */
/* The pool of pictures behind struct frame. A free list under a mutex and one
 * reference count: the owner holds one reference, each picture that is out
 * holds one. Thread: see frames.h. */
#include "engine/frames.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct pool_frame {
	struct frame frame; /* first: frame_release gets a pointer to it */
	struct frame_pool *pool;
	struct pool_frame *next; /* in the free list */
	uint8_t *pixels;
};

struct frame_pool {
	pthread_mutex_t lock;
	struct pool_frame *free;
	int available;
	int references;
	int width, height;
	uint8_t *memory;
	void (*release_memory)(void *ctx, void *memory);
	void *ctx;
	struct pool_frame frame[];
};

size_t frame_pool_picture_bytes(int width, int height) {
	return (size_t)width * height * 3 / 2;
}

static void release_malloced(void *ctx, void *memory) {
	(void)ctx;
	free(memory);
}

struct frame_pool *frame_pool_create(int count, int width, int height, void *memory,
	void (*release_memory)(void *ctx, void *memory), void *ctx, struct error *e) {
	size_t bytes = frame_pool_picture_bytes(width, height);
	struct frame_pool *p = calloc(1, sizeof *p + (size_t)count * sizeof p->frame[0]);
	bool own = memory == NULL;
	if (p && own)
		memory = calloc((size_t)count, bytes);
	if (!p || !memory) {
		free(p);
		error_set(e, -ENOMEM, "no memory for %d pictures of %dx%d", count, width, height);
		return NULL;
	}
	pthread_mutex_init(&p->lock, NULL);
	p->references = 1;
	p->available = count;
	p->width = width;
	p->height = height;
	p->memory = memory;
	p->release_memory = own ? release_malloced : release_memory;
	p->ctx = ctx;
	for (int i = count - 1; i >= 0; i--) {
		p->frame[i].pool = p;
		p->frame[i].pixels = p->memory + (size_t)i * bytes;
		p->frame[i].next = p->free;
		p->free = &p->frame[i];
	}
	return p;
}

static void pool_unref(struct frame_pool *p, struct pool_frame *back) {
	pthread_mutex_lock(&p->lock);
	if (back) {
		back->next = p->free;
		p->free = back;
		p->available++;
	}
	int left = --p->references;
	pthread_mutex_unlock(&p->lock);
	if (left > 0)
		return;
	if (p->release_memory)
		p->release_memory(p->ctx, p->memory);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

void frame_pool_disown(struct frame_pool *p) {
	if (p)
		pool_unref(p, NULL);
}

int frame_pool_available(struct frame_pool *p) {
	pthread_mutex_lock(&p->lock);
	int n = p->available;
	pthread_mutex_unlock(&p->lock);
	return n;
}

struct frame *frame_pool_take(struct frame_pool *p) {
	pthread_mutex_lock(&p->lock);
	struct pool_frame *f = p->free;
	if (f) {
		p->free = f->next;
		p->available--;
		p->references++;
	}
	pthread_mutex_unlock(&p->lock);
	if (!f)
		return NULL;
	int w = p->width, h = p->height;
	uint8_t *u = f->pixels + (size_t)w * h;
	f->frame = (struct frame){
		.plane = {f->pixels, u, u + (size_t)(w / 2) * (h / 2)},
		.stride = {w, w / 2, w / 2},
		.width = w,
		.height = h,
	};
	return &f->frame;
}

uint8_t *frame_pool_pixels(struct frame *f) {
	return ((struct pool_frame *)f)->pixels;
}

void frame_release(struct frame *f) {
	if (f)
		pool_unref(((struct pool_frame *)f)->pool, (struct pool_frame *)f);
}
