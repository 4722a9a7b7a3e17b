/* SPDX-License-Identifier: Apache-2.0 */
/* How the CPU lays out a kv_store: slot after slot, all f32. A slot holds
 *
 *	keys        [heads, frame_tokens, head_dim]
 *	values      [heads, frame_tokens, head_dim]
 *	block means [heads, blocks, head_dim]
 *	frame mean  [heads, head_dim]
 *
 * so that a head's keys of one block, or of neighbouring blocks, are one run of
 * memory, and copying a slot is one copy. Attention keeps queries in the vector
 * lanes and broadcasts keys, so it needs no transposed keys. Thread: any. */
#ifndef KERNELS_CPU_KV_H
#define KERNELS_CPU_KV_H
#include <stddef.h>
#include "kernels/ops.h"

static inline int64_t kv_blocks(const struct kv_shape *s) {
	return (s->frame_tokens + s->block - 1) / s->block;
}

static inline int64_t kv_block_tokens(const struct kv_shape *s, int64_t block) {
	int64_t left = s->frame_tokens - block * s->block;
	return left < s->block ? left : s->block;
}

static inline int64_t kv_plane_floats(const struct kv_shape *s) {
	return (int64_t)s->heads * s->frame_tokens * s->head_dim;
}

/* A multiple of 16 floats, so that every slot is 64-byte aligned. */
static inline int64_t kv_slot_floats(const struct kv_shape *s) {
	int64_t means = (int64_t)s->heads * s->head_dim * (kv_blocks(s) + 1);
	return (2 * kv_plane_floats(s) + means + 15) / 16 * 16;
}

/* The pieces of a slot; slots count from the start of the store. */
static inline float *kv_keys(const struct kv_store *store, int64_t slot) {
	return (float *)store->data + slot * kv_slot_floats(&store->shape);
}

static inline float *kv_values(const struct kv_store *store, int64_t slot) {
	return kv_keys(store, slot) + kv_plane_floats(&store->shape);
}

static inline float *kv_block_means(const struct kv_store *store, int64_t slot) {
	return kv_keys(store, slot) + 2 * kv_plane_floats(&store->shape);
}

static inline float *kv_frame_mean(const struct kv_store *store, int64_t slot) {
	const struct kv_shape *s = &store->shape;
	return kv_block_means(store, slot) + (int64_t)s->heads * s->head_dim * kv_blocks(s);
}
#endif
