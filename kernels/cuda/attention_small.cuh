/* SPDX-License-Identifier: Apache-2.0 */
/* The way into attention_small.cu, for attention.cu alone: bf16. */
#pragma once
#include "kernels/cuda/attention.cuh"

/* Launches; false, and nothing done, where blocks or heads are not its own. */
bool attention_small(struct backend *be, struct tensor *y, const struct tensor *q, const list_source<false> &source,
	const query_tiles &tiles, int heads, float scale);
template <class S>
inline bool attention_small(struct backend *, struct tensor *, const struct tensor *, const S &, const query_tiles &, int, float) {
	return false;
}
