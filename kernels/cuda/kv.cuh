/* SPDX-License-Identifier: Apache-2.0 */
/* Layout of a key and value store on the GPU: keys [heads, frames * s, c], values
 * alike, then f32 means of key blocks [heads, frames * blocks per frame, c] and of
 * key frames [heads, frames, c]. Head-major, so that a key block is one
 * contiguous piece that an attention tile loads in one go. */
#pragma once
#include "kernels/cuda/common.cuh"

struct kv_view {
	char *k, *v;
	float *block_mean, *frame_mean;
	int heads, c, s, block, per_frame, frames;
	int64_t tokens; /* frames * s */
};

static inline kv_view kv_view_of(const struct kv_store *store) {
	const struct kv_shape *p = &store->shape;
	kv_view w{};
	w.heads = p->heads, w.c = p->head_dim, w.s = p->frame_tokens, w.block = p->block, w.frames = p->frames;
	w.per_frame = (int)ceil_div(p->frame_tokens, p->block);
	w.tokens = (int64_t)p->frames * p->frame_tokens;
	size_t plane = align_up((size_t)w.heads * w.tokens * w.c * dtype_bytes(p->dtype));
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
	int first[KV_SPANS_MAX];   /* slot */
	int start[KV_SPANS_MAX + 1]; /* visible frames before this span; [n] = all */
	int64_t tokens[KV_SPANS_MAX];  /* of the store: head stride */
	int slots[KV_SPANS_MAX];       /* of the store */
	int n, heads, c, s, block, per_frame;
};

static inline span_list span_list_of(const struct kv_span *spans, int n) {
	span_list l{};
	l.n = n;
	for (int i = 0; i < n; i++) {
		kv_view w = kv_view_of(spans[i].store);
		l.k[i] = w.k, l.v[i] = w.v, l.block_mean[i] = w.block_mean, l.frame_mean[i] = w.frame_mean;
		l.first[i] = spans[i].first;
		l.start[i + 1] = l.start[i] + spans[i].count;
		l.tokens[i] = w.tokens, l.slots[i] = w.frames;
		l.heads = w.heads, l.c = w.c, l.s = w.s, l.block = w.block, l.per_frame = w.per_frame;
	}
	for (int i = n; i < KV_SPANS_MAX; i++)
		l.start[i + 1] = l.start[n];
	return l;
}

/* Span and slot of a visible frame. */
__device__ __forceinline__ int span_find(const span_list &l, int frame, int *slot) {
	int i = (frame >= l.start[1] && l.n > 1) + (frame >= l.start[2] && l.n > 2);
	*slot = l.first[i] + frame - l.start[i];
	return i;
}
