/* SPDX-License-Identifier: Apache-2.0 */
/* One call of cache attention, as its kernels see it: which queries, which
 * frames, which blocks. Kernels work on tiles of up to sixteen queries of one
 * head. Thread: any; constant during the call. */
#ifndef KERNELS_CPU_ATTENTION_H
#define KERNELS_CPU_ATTENTION_H
#include "kernels/cpu/kv.h"
#include "kernels/cpu/pool.h"

#define LANES 16 /* queries that travel together */
#define TILE 128 /* keys between two looks at the maximum */
#define ATTEND_DIM_MAX 512 /* channels of a head */
#define ATTEND_FRAMES_MAX 1024 /* visible */

struct kv_job {
	float *y; /* [tokens, heads, c] */
	const float *q; /* the same */
	const struct block_list *list; /* NULL: dense */
	const struct kv_shape *shape;
	const void
		*keys[ATTEND_FRAMES_MAX]; /* of each visible frame; values lie kv_keys_bytes on */
	int64_t frames, tokens; /* visible frames; queries */
	int64_t tiles_per_block; /* of LANES queries */
};

/* Queries of a tile of a head: where they begin, how many (0 or less: none),
 * in which block. */
struct query_tile {
	int64_t first, count, block;
};

static inline int64_t tiles_per_head(const struct kv_job *j) {
	return j->list ? j->list->query_blocks * j->tiles_per_block
		       : (j->tokens + LANES - 1) / LANES;
}

static inline struct query_tile query_tile(const struct kv_job *j, int64_t t) {
	if (!j->list) {
		int64_t left = j->tokens - t * LANES;
		return (struct query_tile){t * LANES, left < LANES ? left : LANES, 0};
	}
	const struct kv_shape *s = j->shape;
	int64_t block = t / j->tiles_per_block, inside = t % j->tiles_per_block * LANES;
	int64_t in_frame = block % kv_blocks(s), left = kv_block_tokens(s, in_frame) - inside;
	return (struct query_tile){
		block / kv_blocks(s) * s->frame_tokens + in_frame * s->block + inside,
		left < LANES ? left : LANES, block};
}

/* How many blocks tile t of head h reads, and the i-th of them. */
static inline int64_t listed_count(const struct kv_job *j) {
	return j->list ? j->list->kept : j->frames * kv_blocks(j->shape);
}

static inline int64_t listed_block(
	const struct kv_job *j, int64_t h, int64_t query_block, int64_t i) {
	const struct block_list *l = j->list;
	return l ? l->index[(h * l->query_blocks + query_block) * l->kept + i] : i;
}

/* Attention in bf16: one kernel for each way a CPU multiplies it. */
struct attention16 {
	pool_fn tiles; /* items: heads * tiles_per_head */
	int keys_step; /* a block is a multiple of this, */
	int channels_step; /* a head of this */
};
#endif
