/* SPDX-License-Identifier: Apache-2.0 */
/* The way into attention_sm90.cu and sdpa_sm90.cu, for attention.cu alone. bf16,
 * heads of 128. */
#pragma once
#include "kernels/cuda/attention.cuh"

/* Whether this GPU and this build have it. */
bool attention_sm90_ready(struct backend *be);
/* Launches over n_tiles query tiles of 64; true: done. The first `reserved` bytes of
 * the scratch memory are the caller's. */
bool attention_sm90(struct backend *be, struct tensor *y, const struct tensor *q, const dense_source &source,
	const query_tiles &tiles, int n_tiles, int heads, float scale, size_t reserved);
bool attention_sm90(struct backend *be, struct tensor *y, const struct tensor *q, const list_source<true> &source,
	const query_tiles &tiles, int n_tiles, int heads, float scale, size_t reserved);
/* sdpa_sm90.cu: false when the keys do not suit it. */
bool sdpa_sm90(struct backend *be, struct tensor *y, const struct tensor *q, const plain_source &source,
	const query_tiles &tiles, int heads, float scale);
inline bool attention_sm90(struct backend *be, struct tensor *y, const struct tensor *q, const plain_source &source,
	const query_tiles &tiles, int, int heads, float scale, size_t) {
	return sdpa_sm90(be, y, q, source, tiles, heads, scale);
}
template <class S>
inline bool attention_sm90(struct backend *, struct tensor *, const struct tensor *, const S &, const query_tiles &, int, int,
	float, size_t) {
	return false;
}
