/* SPDX-License-Identifier: Apache-2.0 */
/* Hierarchical selection: one CTA per (query block, head) scores the middle
 * frames, keeps the best of them, scores the eligible key blocks and keeps the
 * best `keep` as an ascending list. Scores accumulate in f64 and are compared as
 * f32; ties go to the lower index: exactly the CPU's lists. Bound by latency. */
#include "kernels/cuda/kv.cuh"

#define THREADS 256

/* Ascending unsigned order of floats; larger key = larger value. */
__device__ __forceinline__ uint32_t ordered(float v) {
	uint32_t u = __float_as_uint(v);
	return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* dot of q[c] (shared) with p[c], one warp, f64; every lane gets it. */
__device__ __forceinline__ float warp_dot(const float *q, const float *p, int c, int lane) {
	double sum = 0.;
	for (int i = lane; i < c; i += 32)
		sum += (double)q[i] * (double)p[i];
	for (int o = 16; o > 0; o >>= 1)
		sum += __shfl_xor_sync(~0u, sum, o);
	return (float)sum;
}

/* Sets taken[i] for the `keep` largest of n keys (0 = not eligible), lower index
 * first on ties: a radix search for the value of the last one kept. Whole CTA. */
__device__ void take_best(const uint32_t *key, uint8_t *taken, int n, int keep, uint32_t *hist, uint32_t *found) {
	uint32_t prefix = 0, mask = 0;
	int wanted = keep;
	for (int shift = 24; shift >= 0; shift -= 8) {
		hist[threadIdx.x] = 0;
		__syncthreads();
		for (int i = threadIdx.x; i < n; i += THREADS) {
			if ((key[i] & mask) == prefix && key[i] != 0)
				atomicAdd(&hist[(key[i] >> shift) & 255], 1u);
		}
		__syncthreads();
		if (threadIdx.x == 0) {
			int left = wanted, digit = 255;
			for (; digit > 0; digit--) {
				if ((int)hist[digit] >= left)
					break;
				left -= (int)hist[digit];
			}
			found[0] = prefix | (uint32_t)digit << shift;
			found[1] = (uint32_t)left;
		}
		__syncthreads();
		prefix = found[0];
		wanted = (int)found[1];
		mask |= 255u << shift;
		__syncthreads();
	}
	/* All above the threshold, and the first `wanted` equal to it. */
	for (int i = threadIdx.x; i < n; i += THREADS)
		taken[i] = key[i] > prefix;
	__syncthreads();
	if (threadIdx.x < 32) {
		int used = 0;
		for (int base = 0; base < n && used < wanted; base += 32) {
			int i = base + threadIdx.x;
			bool equal = i < n && key[i] == prefix && prefix != 0;
			uint32_t ballot = __ballot_sync(~0u, equal);
			int rank = used + __popc(ballot & ((1u << threadIdx.x) - 1));
			if (equal && rank < wanted)
				taken[i] = 1;
			used += __popc(ballot);
		}
	}
	__syncthreads();
}

/* Shared: q[c], key[max(blocks, frames)], taken, frame flags, histogram. */
__global__ void __launch_bounds__(THREADS) select_kernel(int32_t *index, const float *q_mean, const span_list l,
	const select_args a, int query_blocks) {
	extern __shared__ char shared[];
	int frames = l.start[l.n], blocks = frames * l.per_frame, past = frames - a.current_frames;
	float *q = (float *)shared;
	uint32_t *key = (uint32_t *)(q + l.c), *hist = key + blocks, *found = hist + 256;
	uint8_t *taken = (uint8_t *)(found + 2), *open = taken + blocks;
	int row = blockIdx.x, head = blockIdx.y, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
	for (int i = threadIdx.x; i < l.c; i += THREADS)
		q[i] = q_mean[((int64_t)head * query_blocks + row) * l.c + i];
	__syncthreads();

	bool two_stage = a.keep_frames > 0 && past > a.keep_frames;
	int middle = a.keep_frames - a.keep_sink - a.keep_near;
	for (int f = threadIdx.x; f < frames; f += THREADS)
		open[f] = !two_stage || f < a.keep_sink || f >= past - a.keep_near;
	if (two_stage && middle > 0) {
		for (int f = warp; f < frames; f += THREADS / 32) {
			int slot, i = span_find(l, f, &slot);
			bool candidate = f >= a.keep_sink && f < past - a.keep_near;
			float score = candidate ? warp_dot(q, l.frame_mean[i] + ((int64_t)head * l.slots[i] + slot) * l.c, l.c, lane) : 0.f;
			if (lane == 0)
				key[f] = candidate ? ordered(score) : 0;
		}
		__syncthreads();
		take_best(key, taken, frames, min(middle, past - a.keep_near - a.keep_sink), hist, found);
		for (int f = threadIdx.x; f < frames; f += THREADS)
			open[f] |= taken[f];
	}
	__syncthreads();
	for (int b = warp; b < blocks; b += THREADS / 32) {
		int f = b / l.per_frame, slot, i = span_find(l, f, &slot);
		float score = 0.f;
		if (open[f])
			score = warp_dot(q, l.block_mean[i] + (((int64_t)head * l.slots[i] + slot) * l.per_frame + b % l.per_frame) * l.c,
				l.c, lane);
		if (lane == 0)
			key[b] = open[f] ? ordered(score) : 0;
	}
	__syncthreads();
	take_best(key, taken, blocks, a.keep, hist, found);
	if (threadIdx.x < 32) {
		int32_t *out = index + ((int64_t)head * query_blocks + row) * a.keep;
		int used = 0;
		for (int base = 0; base < blocks; base += 32) {
			int i = base + threadIdx.x;
			bool mine = i < blocks && taken[i];
			uint32_t ballot = __ballot_sync(~0u, mine);
			int at = used + __popc(ballot & ((1u << threadIdx.x) - 1));
			if (mine && at < a.keep)
				out[at] = i;
			used += __popc(ballot);
		}
	}
}

void cuda_select_blocks(struct backend *be, struct block_list *list, const struct tensor *q_mean,
	const struct kv_span *spans, int n_spans, const struct select_args *args) {
	span_list l = span_list_of(spans, n_spans);
	int frames = l.start[n_spans], blocks = frames * l.per_frame;
	size_t bytes = (size_t)l.c * 4 + (size_t)blocks * 4 + 258 * 4 + (size_t)blocks + (size_t)frames + 16;
	if (bytes > 48 * 1024) {
		cuda_latch_text(be, -EINVAL, "select_blocks", "the window has more key blocks than fit into shared memory");
		return;
	}
	select_kernel<<<dim3((unsigned)list->query_blocks, (unsigned)l.heads), THREADS, bytes, cuda_of(be)->stream>>>(
		list->index, (const float *)q_mean->data, l, *args, list->query_blocks);
	launch_check(be, "select_blocks", q_mean);
}
