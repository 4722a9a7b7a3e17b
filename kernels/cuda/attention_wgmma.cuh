/* SPDX-License-Identifier: Apache-2.0 */
/* Attention of one warpgroup on Hopper, step by step: 64 queries of a head of 128
 * channels in shared memory against 64 or 128 keys, scores and results in
 * registers. Tiles lie as in kv.cuh. Thread: device, the 128 of a warpgroup; each
 * holds rows lane / 4 and lane / 4 + 8 of its warp's 16, channels or keys n * 8 +
 * lane % 4 * 2, + 1. */
#pragma once
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/sm90.cuh"

#define WIDTH 128                        /* channels of a head */
#define TILE_BYTES (TILE * WIDTH * 2)    /* 16 KB: two pieces of 64 channels */
#define PIECE_BYTES (TILE * 128)

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/* Starts to load 64 rows of q, `rows` of them real, into a tile of this warpgroup. */
__device__ __forceinline__ void load_queries(char *to, const __nv_bfloat16 *q, int rows, int64_t stride, int thread) {
#pragma unroll
	for (int i = 0; i < TILE * WIDTH / 8 / 128; i++) {
		int r = i * 8 + thread / 16, col = thread % 16;
		copy16(to + tile_byte<WIDTH>(r, col), q + (r < rows ? r * stride : 0) + col * 8, r < rows);
	}
	copy_commit();
}

template <int KEYS>
__device__ __forceinline__ void issue_scores(float (&s)[KEYS / 2], uint64_t q, uint64_t k) {
#pragma unroll
	for (int kk = 0; kk < WIDTH / 16; kk++) {
		int q_at = kk / 4 * PIECE_BYTES + kk % 4 * 32, k_at = kk / 4 * (KEYS * 128) + kk % 4 * 32;
		wgmma_scores(s, q + (q_at >> 4), k + (k_at >> 4), kk > 0);
	}
}

template <int KEYS>
__device__ __forceinline__ void issue_values(float (&o)[64], const uint32_t (&p)[KEYS / 16][4], uint64_t v) {
#pragma unroll
	for (int kk = 0; kk < KEYS / 16; kk++)
		wgmma_values(o, p[kk], v + ((kk / 4 * TILE_BYTES + kk % 4 * 2048) >> 4));
}

template <int KEYS> __device__ __forceinline__ void mask_scores(float (&s)[KEYS / 2], int meta, int lane) {
#pragma unroll
	for (int i = 0; i < KEYS / 2; i++) {
		int key = i / 4 * 8 + (lane & 3) * 2 + (i & 1);
		if ((key & 63) >= (meta >> i / 32 * 8 & 255))
			s[i] = NEVER;
	}
}

/* A maximum is kept until it is exceeded by this many powers of two: probabilities
 * up to 256 lose no bits, and earlier values rarely need scaling. */
#define MAX_SLACK 8.f

/* Scores become probabilities; keep[] is what to scale earlier sums and values by. */
template <int KEYS>
__device__ __forceinline__ void soften(float (&s)[KEYS / 2], float (&top)[2], float (&sum)[2], float (&keep)[2], float unit) {
#pragma unroll
	for (int r = 0; r < 2; r++) {
		float high = top[r];
#pragma unroll
		for (int n = 0; n < KEYS / 8; n++)
			high = fmaxf(high, fmaxf(s[n * 4 + 2 * r], s[n * 4 + 2 * r + 1]));
		high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
		high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
		high = (high - top[r]) * unit > MAX_SLACK ? high : top[r];
		float less = high * unit, part[2] = {0.f, 0.f};
		keep[r] = exp2_fast((top[r] - high) * unit);
		top[r] = high;
#pragma unroll
		for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
			for (int i = 0; i < 2; i++) {
				float &x = s[n * 4 + 2 * r + i];
				x = exp2_fast(fmaf(x, unit, -less));
				part[i] += x;
			}
		}
		sum[r] = fmaf(sum[r], keep[r], part[0] + part[1]);
	}
}

__device__ __forceinline__ void rescale(float (&o)[64], const float (&keep)[2]) {
	if (!__any_sync(~0u, keep[0] != 1.f || keep[1] != 1.f))
		return;
#pragma unroll
	for (int i = 0; i < 64; i++)
		o[i] *= keep[i >> 1 & 1];
}

template <int KEYS> __device__ __forceinline__ void pack_scores(uint32_t (&p)[KEYS / 16][4], const float (&s)[KEYS / 2]) {
#pragma unroll
	for (int i = 0; i < KEYS / 4; i++)
		p[i / 4][i % 4] = pack_bf16(s[2 * i], s[2 * i + 1]);
}

/* This warpgroup's result, over its query tile, to y in rows of 256 bytes. */
__device__ __forceinline__ void store_result(__nv_bfloat16 *y, char *tile, const float (&o)[64], const float (&sum)[2], int rows,
	int64_t stride, int wg, int thread) {
	int lane = thread & 31, row = thread / 32 * 16 + (lane >> 2);
	named_sync(1 + wg, 128); /* nobody reads the queries any more */
#pragma unroll
	for (int r = 0; r < 2; r++) {
		float inv = 1.f / sum[r];
#pragma unroll
		for (int n = 0; n < WIDTH / 8; n++)
			*reinterpret_cast<uint32_t *>(tile + tile_byte<WIDTH>(row + r * 8, n) + (lane & 3) * 4) =
				pack_bf16(o[n * 4 + 2 * r] * inv, o[n * 4 + 2 * r + 1] * inv);
	}
	named_sync(1 + wg, 128);
#pragma unroll
	for (int i = 0; i < TILE * WIDTH / 8 / 128; i++) {
		int r = i * 8 + thread / 16, col = thread % 16;
		if (r < rows)
			*reinterpret_cast<uint4 *>(y + r * stride + col * 8) =
				*reinterpret_cast<const uint4 *>(tile + tile_byte<WIDTH>(r, col));
	}
}
#endif
