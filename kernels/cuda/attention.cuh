/* SPDX-License-Identifier: Apache-2.0 */
/* The portable attention cores, apart from where keys come from.
 *
 * attention_mma: 64 queries x 64 keys, 4 warps of 16 rows, bf16 mma.sync
 * m16n8k16 with f32 accumulators, Q in registers, two tiles of keys and one of
 * values by cp.async, swizzled as stores are, so that ldmatrix meets no bank
 * twice, online softmax in f32 with exp2. 48 KB of shared memory: two CTAs an SM
 * on sm_89 and sm_120, too.
 *
 * attention_rows: one warp a query, any dtype and head width; the exact f32
 * path for goldens and odd shapes. */
#pragma once
#include "kernels/cuda/attention_source.cuh"

/* ---- mma core ---- */
template <int C> constexpr size_t mma_shared_bytes() {
	return (size_t)TILE * C * 2 * 3;
}

/* Starts the loads of one tile of keys or of values; returns which rows count. */
template <int C, class S>
__device__ __forceinline__ uint64_t load_tile(char *to, const S &source, bool values, int query_block, int head, int tile) {
	if constexpr (S::whole) { /* a tile as it lies in the store */
		piece p = source.get(query_block, head, tile, 0);
		const char *from = (values ? p.v : p.k) + (int64_t)p.row * (C * 2) + threadIdx.x * 16;
#pragma unroll
		for (int i = 0; i < TILE * C * 2 / (128 * 16); i++)
			copy16(to + threadIdx.x * 16 + i * 2048, from + i * 2048, true);
		return rows_mask(p.valid);
	}
	uint64_t mask = 0;
	for (int e = 0; e < source.pieces(); e++) {
		piece p = source.get(query_block, head, tile, e);
		const __nv_bfloat16 *from = (const __nv_bfloat16 *)(values ? p.v : p.k);
		for (int i = threadIdx.x; i < p.rows * (C / 8); i += 128) {
			int r = i / (C / 8), col = i % (C / 8);
			bool ok = r < p.valid;
			copy16(to + tile_byte<C>(p.at + r, col),
				from + source.template at<__nv_bfloat16>(p.row + (ok ? r : 0), col * 8), ok);
		}
		mask |= rows_mask(p.valid) << p.at;
	}
	return mask;
}

__device__ __forceinline__ void clear_scores(float s[8][4]) {
#pragma unroll
	for (int n = 0; n < 8; n++)
		s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.f;
}

/* Adds one warp's 16 rows of scores for a tile: s[n][..] over 8 groups of 8 keys. */
template <int C>
__device__ __forceinline__ void score_tile(float s[8][4], const uint32_t q[C / 16][4], const char *k, int lane) {
	/* matrix i of the four: keys (i / 2) * 8 .., channels (i % 2) * 8 .. */
	int row = (lane & 7) + ((lane >> 4) << 3), half = (lane >> 3) & 1;
#pragma unroll
	for (int kk = 0; kk < C / 16; kk++) {
#pragma unroll
		for (int n = 0; n < 8; n += 2) {
			uint32_t b[4];
			ldmatrix4(b, smem_address(k + tile_byte<C>(n * 8 + row, kk * 2 + half)));
			mma_bf16(s[n], q[kk], b[0], b[1]);
			mma_bf16(s[n + 1], q[kk], b[2], b[3]);
		}
	}
}

template <int C>
__device__ __forceinline__ void value_tile(float o[C / 8][4], const float s[8][4], const char *v, int lane) {
	/* matrix i: keys (i % 2) * 8 .., channels (i / 2) * 8 .. */
	int row = (lane & 7) + (((lane >> 3) & 1) << 3), half = lane >> 4;
#pragma unroll
	for (int kk = 0; kk < 4; kk++) {
		uint32_t a[4] = {pack_bf16(s[2 * kk][0], s[2 * kk][1]), pack_bf16(s[2 * kk][2], s[2 * kk][3]),
			pack_bf16(s[2 * kk + 1][0], s[2 * kk + 1][1]), pack_bf16(s[2 * kk + 1][2], s[2 * kk + 1][3])};
#pragma unroll
		for (int n = 0; n < C / 8; n += 2) {
			uint32_t b[4];
			ldmatrix4_transposed(b, smem_address(v + tile_byte<C>(kk * 16 + row, n + half)));
			mma_bf16(o[n], a, b[0], b[1]);
			mma_bf16(o[n + 1], a, b[2], b[3]);
		}
	}
}

/* Online softmax of one tile: s becomes 2^(s * unit) probabilities, o is rescaled. */
template <int C>
__device__ __forceinline__ void softmax_tile(float s[8][4], float o[C / 8][4], float top[2], float sum[2], float unit) {
#pragma unroll
	for (int r = 0; r < 2; r++) {
		float high = top[r];
#pragma unroll
		for (int n = 0; n < 8; n++)
			high = fmaxf(high, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
		high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
		high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
		float keep = exp2_fast((top[r] - high) * unit), part = 0.f, less = high * unit;
		top[r] = high;
#pragma unroll
		for (int n = 0; n < 8; n++) {
			s[n][2 * r] = exp2_fast(fmaf(s[n][2 * r], unit, -less));
			s[n][2 * r + 1] = exp2_fast(fmaf(s[n][2 * r + 1], unit, -less));
			part += s[n][2 * r] + s[n][2 * r + 1];
		}
		sum[r] = sum[r] * keep + part;
#pragma unroll
		for (int n = 0; n < C / 8; n++) {
			o[n][2 * r] *= keep;
			o[n][2 * r + 1] *= keep;
		}
	}
}

/* Scores of plain rows: scaled, with what is added to them, base 2. first: the warp's first query. */
__device__ __forceinline__ void plain_scores(float s[8][4], const plain_source &source, int head, int first, int tile, float scale,
	int lane) {
#pragma unroll
	for (int n = 0; n < 8; n++) {
#pragma unroll
		for (int i = 0; i < 4; i++) {
			int key = tile * TILE + n * 8 + (lane & 3) * 2 + (i & 1), row = first + (lane >> 2) + (i >> 1) * 8;
			s[n][i] = (s[n][i] * scale + source.bonus(head, row, key)) * LOG2E;
		}
	}
}

/* Rows that do not count get NEVER. */
__device__ __forceinline__ void mask_tile(float s[8][4], uint64_t mask, int lane) {
	mask >>= (lane & 3) * 2;
#pragma unroll
	for (int n = 0; n < 8; n++) {
#pragma unroll
		for (int i = 0; i < 4; i++)
			s[n][i] = mask >> (n * 8 + (i & 1)) & 1 ? s[n][i] : NEVER;
	}
}

/* Writes a warp's 16 rows, the first `rows` of the CTA's 64. */
template <int C>
__device__ __forceinline__ void store_rows16(__nv_bfloat16 *y, const float o[C / 8][4], const float sum[2], int warp, int lane,
	int rows, int64_t stride) {
#pragma unroll
	for (int r = 0; r < 2; r++) {
		float all = sum[r] + __shfl_xor_sync(~0u, sum[r], 1);
		all += __shfl_xor_sync(~0u, all, 2);
		int row = warp * 16 + (lane >> 2) + r * 8;
		if (row >= rows)
			continue;
		float inv = 1.f / all;
		__nv_bfloat16 *out = y + row * stride + (lane & 3) * 2;
#pragma unroll
		for (int n = 0; n < C / 8; n++)
			*reinterpret_cast<__nv_bfloat162 *>(out + n * 8) =
				__floats2bfloat162_rn(o[n][2 * r] * inv, o[n][2 * r + 1] * inv);
	}
}

/* Grid: query tiles, heads; 128 threads. q and y [n, heads * C]. */
template <int C, class S>
__global__ void __launch_bounds__(128) attention_mma_kernel(__nv_bfloat16 *y, const __nv_bfloat16 *q, const S source,
	const query_tiles tiles, int heads, float scale) {
	extern __shared__ __align__(128) char shared[];
	constexpr int bytes = TILE * C * 2;
	char *v = shared + 2 * bytes;
	int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, head = blockIdx.y;
	int first = tiles.first(blockIdx.x), rows = tiles.rows(blockIdx.x), list = tiles.list(blockIdx.x), count = source.count();
	bool busy = warp * 16 < rows;
	if (rows <= 0)
		return;

	/* Q through the second key buffer into registers. */
	for (int i = threadIdx.x; i < TILE * (C / 8); i += 128) {
		int r = i / (C / 8), col = i % (C / 8);
		bool ok = r < rows;
		copy16(shared + bytes + tile_byte<C>(r, col), q + ((int64_t)(first + (ok ? r : 0)) * heads + head) * C + col * 8, ok);
	}
	uint64_t mask = load_tile<C>(shared, source, false, list, head, 0), next = mask;
	copy_commit();
	copy_wait<0>();
	__syncthreads();
	uint32_t qf[C / 16][4];
#pragma unroll
	for (int kk = 0; kk < C / 16; kk++)
		ldmatrix4(qf[kk], smem_address(shared + bytes + tile_byte<C>(warp * 16 + (lane & 15), kk * 2 + (lane >> 4))));
	__syncthreads();

	float o[C / 8][4], top[2] = {NEVER, NEVER}, sum[2] = {0.f, 0.f}, s[8][4];
#pragma unroll
	for (int n = 0; n < C / 8; n++)
		o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0.f;
	float unit = S::plain ? 1.f : scale * LOG2E;
	for (int j = 0; j < count; j++, mask = next) {
		load_tile<C>(v, source, true, list, head, j);
		copy_commit();
		if (j + 1 < count)
			next = load_tile<C>(shared + (~j & 1) * bytes, source, false, list, head, j + 1);
		copy_commit();
		if (busy) {
			clear_scores(s);
			score_tile<C>(s, qf, shared + (j & 1) * bytes, lane);
			if constexpr (S::plain)
				plain_scores(s, source, head, first + warp * 16, j, scale, lane);
			if (mask != ~0ull)
				mask_tile(s, mask, lane);
			softmax_tile<C>(s, o, top, sum, unit);
		}
		copy_wait<1>();
		__syncthreads();
		if (busy)
			value_tile<C>(o, s, v, lane);
		copy_wait<0>();
		__syncthreads();
	}
	store_rows16<C>(y + ((int64_t)first * heads + head) * C, o, sum, warp, lane, rows, (int64_t)heads * C);
}

/* ---- plain core: one warp a query ---- */
#define ROWS_C_MAX 512

/* Dot of a query with row `row` of the keys. */
template <typename K, class S>
__device__ __forceinline__ float row_dot(const float *query, const S &source, const K *k, int row, int c) {
	float dot = 0.f;
	if (c % 4) {
		for (int ch = 0; ch < c; ch++)
			dot = fmaf(query[ch], to_float(k[source.template at<K>(row, ch)]), dot);
		return dot;
	}
	for (int ch = 0; ch < c; ch += 4) {
		float4 a = load4(k + source.template at<K>(row, ch));
		dot = fmaf(query[ch], a.x, dot);
		dot = fmaf(query[ch + 1], a.y, dot);
		dot = fmaf(query[ch + 2], a.z, dot);
		dot = fmaf(query[ch + 3], a.w, dot);
	}
	return dot;
}

/* Grid: queries / 4, heads; 128 threads. The list is indexed by the query's block. */
template <typename X, typename Y, typename K, class S>
__global__ void attention_rows_kernel(Y *y, const X *q, const S source, const query_tiles tiles, int n, int heads, int c,
	float scale) {
	__shared__ float query[4][ROWS_C_MAX];
	int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, token = blockIdx.x * 4 + warp, head = blockIdx.y;
	bool live = token < n;
	for (int ch = lane; live && ch < c; ch += 32)
		query[warp][ch] = to_float(q[((int64_t)token * heads + head) * c + ch]) * scale;
	__syncwarp();
	if (!live)
		return;
	int query_block = tiles.block ? token / tiles.s * tiles.per_frame + token % tiles.s / tiles.block : 0;
	float top = NEVER, sum = 0.f, o[ROWS_C_MAX / 32];
	int own = (c + 31) / 32, count = source.count();
	for (int i = 0; i < own; i++)
		o[i] = 0.f;
	for (int j = 0; j < count; j++) {
		for (int e = 0; e < source.pieces(); e++) {
			piece p = source.get(query_block, head, j, e);
			for (int first = 0; first < p.valid; first += 32) {
				int r = first + lane;
				float score = NEVER;
				if (r < p.valid)
					score = row_dot(query[warp], source, (const K *)p.k, p.row + r, c) +
						source.bonus(head, token, j * TILE + p.at + r);
				float high = fmaxf(top, warp_max(score)), keep = expf(top - high);
				float weight = r < p.valid ? expf(score - high) : 0.f;
				top = high;
				sum = sum * keep + warp_sum(weight);
				for (int i = 0; i < own; i++)
					o[i] *= keep;
				int rows = min(32, p.valid - first);
				for (int t = 0; t < rows; t++) {
					float w = __shfl_sync(~0u, weight, t);
					const K *value = (const K *)p.v;
					for (int i = 0; i < own; i++) {
						int ch = i * 32 + lane;
						if (ch < c)
							o[i] = fmaf(w, to_float(value[source.template at<K>(p.row + first + t, ch)]), o[i]);
					}
				}
			}
		}
	}
	for (int i = 0; i < own; i++) {
		int ch = i * 32 + lane;
		if (ch < c)
			y[((int64_t)token * heads + head) * c + ch] = from_float<Y>(o[i] / sum);
	}
}
