/* SPDX-License-Identifier: Apache-2.0 */
/* How the CPU lays out a kv_store: slot after slot. A slot holds
 *
 *	keys        [heads, frame_tokens, head_dim]
 *	values      f32:  [heads, frame_tokens, head_dim]
 *	            bf16: [heads, blocks, head_dim, pitch], a block's tokens side
 *	            by side and zeros after them; pitch is the block rounded up to 2
 *	block means [heads, blocks, head_dim] f32
 *	frame mean  [heads, head_dim] f32
 *
 * so that a head's keys of one block are one run of memory, and copying a slot
 * is one copy. Attention keeps queries in the vector lanes and broadcasts keys,
 * so it needs no transposed keys; in bf16 two values of neighbouring tokens are
 * one operand, hence the turned values. Every piece begins 64-byte aligned.
 * Thread: any. */
#ifndef KERNELS_CPU_KV_H
#define KERNELS_CPU_KV_H
#include <stdbool.h>
#include <stddef.h>
#include "kernels/ops.h"

static inline int64_t kv_blocks(const struct kv_shape *s) {
	return (s->frame_tokens + s->block - 1) / s->block;
}

static inline int64_t kv_block_tokens(const struct kv_shape *s, int64_t block) {
	int64_t left = s->frame_tokens - block * s->block;
	return left < s->block ? left : s->block;
}

static inline int64_t kv_pitch(const struct kv_shape *s) {
	return (s->block + 1) / 2 * 2;
}

static inline int64_t kv_align(int64_t bytes) {
	return (bytes + 63) / 64 * 64;
}

/* Bytes of the pieces. */
static inline int64_t kv_keys_bytes(const struct kv_shape *s) {
	int64_t count = (int64_t)s->heads * s->frame_tokens * s->head_dim;
	return kv_align(count * (int64_t)dtype_bytes(s->dtype));
}

static inline int64_t kv_values_bytes(const struct kv_shape *s) {
	if (s->dtype == DTYPE_F32)
		return kv_keys_bytes(s);
	return kv_align((int64_t)s->heads * kv_blocks(s) * s->head_dim * kv_pitch(s) * 2);
}

static inline int64_t kv_means_bytes(const struct kv_shape *s) {
	return kv_align((int64_t)s->heads * s->head_dim * kv_blocks(s) * 4);
}

static inline int64_t kv_slot_bytes(const struct kv_shape *s) {
	return kv_keys_bytes(s) + kv_values_bytes(s) + kv_means_bytes(s) +
	       kv_align((int64_t)s->heads * s->head_dim * 4);
}

/* The pieces of a slot; slots count from the start of the store. */
static inline void *kv_keys(const struct kv_store *store, int64_t slot) {
	return (char *)store->data + slot * kv_slot_bytes(&store->shape);
}

static inline void *kv_values(const struct kv_store *store, int64_t slot) {
	return (char *)kv_keys(store, slot) + kv_keys_bytes(&store->shape);
}

static inline float *kv_block_means(const struct kv_store *store, int64_t slot) {
	void *p = (char *)kv_values(store, slot) + kv_values_bytes(&store->shape);
	return p;
}

static inline float *kv_frame_mean(const struct kv_store *store, int64_t slot) {
	void *p = (char *)kv_block_means(store, slot) + kv_means_bytes(&store->shape);
	return p;
}
#endif
