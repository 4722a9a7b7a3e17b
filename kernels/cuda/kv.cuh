/* SPDX-License-Identifier: Apache-2.0 */
/* Layout of a key and value store on the GPU: keys, values, then f32 means of key
 * blocks [heads, frames * blocks per frame, c] and of key frames [heads, frames, c].
 *
 * Keys and values are what an attention kernel wants in shared memory, so that it
 * copies without address arithmetic: [heads, frames, tiles], a tile being 64 rows,
 * the last of a frame filled up with zeros. Inside a tile channels go in pieces of
 * 128 bytes, [pieces][64 rows][128 bytes], and the 16-byte column of row r lies at
 * column ^ (r & 7): the 128-byte swizzle of wgmma, without bank conflicts for
 * ldmatrix. Heads that are no whole number of pieces are plain rows. */
#pragma once
#include "kernels/cuda/common.cuh"

#define KV_ROWS 64 /* of a tile */

/* Where channel ch of row `row` of a frame lies, in elements T from the start of
 * that frame of that head. Channels 16 / sizeof(T) * i .. lie together. */
template <typename T> __host__ __device__ __forceinline__ int kv_at(int c, int row, int ch) {
	constexpr unsigned piece = 128 / sizeof(T), column = 16 / sizeof(T);
	unsigned r = (unsigned)row % KV_ROWS, x = (unsigned)ch;
	int tile = row / KV_ROWS * KV_ROWS * c;
	if (c % piece)
		return tile + (int)r * c + ch;
	return tile + (int)(x / piece * (KV_ROWS * piece) + r * piece + ((x % piece / column) ^ (r & 7)) * column + x % column);
}

struct kv_view {
	char *k, *v;
	float *block_mean, *frame_mean;
	int heads, c, s, block, per_frame, frames;
	int rows;            /* of a frame, filled up: a multiple of KV_ROWS */
	int64_t frame, head; /* elements of a frame of one head; of all frames of one head */
};

static inline int64_t kv_frame_elements(const struct kv_shape *p) {
	return ceil_div(p->frame_tokens, KV_ROWS) * KV_ROWS * p->head_dim;
}

static inline kv_view kv_view_of(const struct kv_store *store) {
	const struct kv_shape *p = &store->shape;
	kv_view w{};
	w.heads = p->heads, w.c = p->head_dim, w.s = p->frame_tokens, w.block = p->block, w.frames = p->frames;
	w.per_frame = (int)ceil_div(p->frame_tokens, p->block);
	w.rows = (int)ceil_div(p->frame_tokens, KV_ROWS) * KV_ROWS;
	w.frame = kv_frame_elements(p);
	w.head = w.frame * p->frames;
	size_t plane = align_up((size_t)w.heads * w.head * dtype_bytes(p->dtype));
	char *base = (char *)store->data;
	w.k = base;
	w.v = base + plane;
	w.block_mean = (float *)(base + 2 * plane);
	w.frame_mean = (float *)(base + 2 * plane +
		align_up((size_t)w.heads * p->frames * w.per_frame * w.c * sizeof(float)));
	return w;
}

/* The spans of one attention call, by value to kernels. Visible frame i lies in
 * the span whose start[] is the last not above i. */
struct span_list {
	const char *k[KV_SPANS_MAX], *v[KV_SPANS_MAX];
	const float *block_mean[KV_SPANS_MAX], *frame_mean[KV_SPANS_MAX];
	int first[KV_SPANS_MAX];       /* slot */
	int start[KV_SPANS_MAX + 1];   /* visible frames before this span; [n] = all */
	int64_t head[KV_SPANS_MAX];    /* bytes from head to head in k, v */
	int slots[KV_SPANS_MAX];       /* of the store */
	int n, heads, c, s, block, per_frame;
	int tiles;                     /* of a frame */
	int64_t frame;                 /* bytes from frame to frame in k, v */
};

static inline span_list span_list_of(const struct kv_span *spans, int n) {
	span_list l{};
	l.n = n;
	for (int i = 0; i < n; i++) {
		kv_view w = kv_view_of(spans[i].store);
		int64_t e = (int64_t)dtype_bytes(spans[i].store->shape.dtype);
		l.k[i] = w.k, l.v[i] = w.v, l.block_mean[i] = w.block_mean, l.frame_mean[i] = w.frame_mean;
		l.first[i] = spans[i].first;
		l.start[i + 1] = l.start[i] + spans[i].count;
		l.head[i] = w.head * e, l.frame = w.frame * e, l.slots[i] = w.frames;
		l.heads = w.heads, l.c = w.c, l.s = w.s, l.block = w.block, l.per_frame = w.per_frame;
		l.tiles = w.rows / KV_ROWS;
	}
	for (int i = n; i < KV_SPANS_MAX; i++)
		l.start[i + 1] = l.start[n];
	return l;
}

/* Span and slot of a visible frame. */
__device__ __forceinline__ int span_find(const span_list &l, int frame, int *slot) {
	int i = (frame >= l.start[1] && l.n > 1) + (frame >= l.start[2] && l.n > 2);
	*slot = frame - (i == 0 ? 0 : i == 1 ? l.start[1] : l.start[2]) + (i == 0 ? l.first[0] : i == 1 ? l.first[1] : l.first[2]);
	return i;
}

/* Keys and values of one head of a visible frame. */
struct kv_frame {
	const char *k, *v;
};
__device__ __forceinline__ kv_frame span_frame(const span_list &l, int head, int frame) {
	int slot, i = span_find(l, frame, &slot);
	int64_t at = head * (i == 0 ? l.head[0] : i == 1 ? l.head[1] : l.head[2]) + slot * l.frame;
	return {(i == 0 ? l.k[0] : i == 1 ? l.k[1] : l.k[2]) + at, (i == 0 ? l.v[0] : i == 1 ? l.v[1] : l.v[2]) + at};
}
