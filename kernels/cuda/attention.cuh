/* SPDX-License-Identifier: Apache-2.0 */
/* The two attention cores, apart from where keys come from. A key source says
 * how many tiles of 64 keys a query tile reads, where each row of a tile lies,
 * and what is added to its logit.
 *
 * attention_mma: 64 queries x 64 keys, 4 warps of 16 rows, bf16 mma.sync
 * m16n8k16 with f32 accumulators, Q in registers, K and V double-buffered by
 * cp.async, XOR swizzle (row & 7) on 16-byte columns so that ldmatrix meets no
 * bank twice, online softmax in f32 with exp2. Portable: sm_89, sm_90, sm_120.
 *
 * attention_rows: one warp a query, any dtype and head width; the exact f32
 * path for goldens and odd shapes. */
#pragma once
#include "kernels/cuda/kv.cuh"

#define TILE 64
#define NEVER (-1e30f) /* start of a running maximum: finite, so that differences are */

__device__ __forceinline__ uint32_t smem_address(const void *p) {
	return (uint32_t)__cvta_generic_to_shared(p);
}
/* 16 bytes, zero-filled when !ok. */
__device__ __forceinline__ void copy16(void *dst, const void *src, bool ok) {
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(smem_address(dst)), "l"(src),
		"r"(ok ? 16 : 0));
}
__device__ __forceinline__ void copy_commit() {
	asm volatile("cp.async.commit_group;\n");
}
template <int N> __device__ __forceinline__ void copy_wait() {
	asm volatile("cp.async.wait_group %0;\n" ::"n"(N));
}
__device__ __forceinline__ void ldmatrix4(uint32_t r[4], uint32_t address) {
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(address));
}
__device__ __forceinline__ void ldmatrix4_transposed(uint32_t r[4], uint32_t address) {
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(address));
}
__device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
		     "{%0,%1,%2,%3};\n"
		     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi) {
	__nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
	return *reinterpret_cast<uint32_t *>(&v);
}
__device__ __forceinline__ float exp2_fast(float x) {
	float y;
	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

/* Byte offset of 16-byte column `col` of row `row` in a tile of C channels. */
template <int C> __device__ __forceinline__ int swizzled(int row, int col) {
	return (row * (C / 8) + (col ^ (row & 7))) * 16;
}

/* ---- key sources ---- */
/* A run of key rows inside a tile: rows at .. at + rows - 1, the first `valid`
 * of them real. Pointers are always readable. */
struct piece {
	const char *k, *v; /* of the first row */
	int at, rows, valid;
};

/* Every key of the spans, 64 after 64; a tile never crosses a span. */
struct dense_source {
	span_list l;
	int tiles[KV_SPANS_MAX + 1]; /* before span i; [n] is the total */
	int row_bytes;
	__device__ int count() const {
		return tiles[l.n];
	}
	__device__ int pieces() const {
		return 1;
	}
	__device__ piece get(int, int head, int tile, int) const {
		int i = (l.n > 1 && tile >= tiles[1]) + (l.n > 2 && tile >= tiles[2]);
		int64_t first = (int64_t)(tile - tiles[i]) * TILE, all = (int64_t)(l.start[i + 1] - l.start[i]) * l.s;
		int64_t row = head * l.tokens[i] + (int64_t)l.first[i] * l.s + first;
		return {l.k[i] + row * row_bytes, l.v[i] + row * row_bytes, 0, TILE, (int)min((int64_t)TILE, all - first)};
	}
	__device__ float bonus(int, int, int) const {
		return 0.f;
	}
};

/* The key blocks of a list; as many as fit go into one tile. */
struct list_source {
	span_list l;
	const int32_t *index; /* [heads, query blocks, kept] */
	int kept, query_blocks, per_tile, row_bytes;
	__device__ int count() const {
		return (kept + per_tile - 1) / per_tile;
	}
	__device__ int pieces() const {
		return per_tile;
	}
	__device__ piece get(int query_block, int head, int tile, int e) const {
		int at = tile * per_tile + e, rows = e + 1 < per_tile ? l.block : TILE - e * l.block;
		if (at >= kept)
			return {l.k[0], l.v[0], e * l.block, rows, 0};
		int block = index[((int64_t)head * query_blocks + query_block) * kept + at];
		int frame = block / l.per_frame, in = block % l.per_frame, slot;
		int i = span_find(l, frame, &slot);
		int64_t row = head * l.tokens[i] + (int64_t)slot * l.s + in * l.block;
		return {l.k[i] + row * row_bytes, l.v[i] + row * row_bytes, e * l.block, rows,
			min(l.block, l.s - in * l.block)};
	}
	__device__ float bonus(int, int, int) const {
		return 0.f;
	}
};

/* Rows of plain matrices [m, heads * c]; optional repeats of the last key, optional
 * bias by distance. row_bytes is the stride of a row, head_bytes of a head. */
struct plain_source {
	const char *k, *v;
	const float *bias; /* [heads, 2 * reach + 1] or NULL */
	int m, row_bytes, head_bytes, reach;
	float last; /* log of how often the last key stands */
	__device__ int count() const {
		return (m + TILE - 1) / TILE;
	}
	__device__ int pieces() const {
		return 1;
	}
	__device__ piece get(int, int head, int tile, int) const {
		int64_t at = (int64_t)tile * TILE * row_bytes + (int64_t)head * head_bytes;
		return {k + at, v + at, 0, TILE, min(TILE, m - tile * TILE)};
	}
	__device__ float bonus(int head, int query, int key) const {
		float b = key == m - 1 ? last : 0.f;
		if (bias)
			b += bias[head * (2 * reach + 1) + min(max(key - query, -reach), reach) + reach];
		return b;
	}
};

/* ---- mma core ---- */
template <int C> constexpr size_t mma_shared_bytes() {
	return (size_t)TILE * C * 2 * 4 + 2 * TILE * sizeof(float);
}

/* Starts the loads of one tile; mask[r] becomes 0 for a row that counts, NEVER else. */
template <int C, class S>
__device__ __forceinline__ void load_tile(char *k, char *v, float *mask, const S &source, int query_block, int head,
	int tile) {
	for (int e = 0; e < source.pieces(); e++) {
		piece p = source.get(query_block, head, tile, e);
		for (int i = threadIdx.x; i < p.rows * (C / 8); i += blockDim.x) {
			int r = i / (C / 8), col = i % (C / 8);
			bool ok = r < p.valid;
			int64_t from = ok ? (int64_t)r * source.row_bytes + col * 16 : 0;
			int to = swizzled<C>(p.at + r, col);
			copy16(k + to, p.k + from, ok);
			copy16(v + to, p.v + from, ok);
		}
		for (int r = threadIdx.x; r < p.rows; r += blockDim.x)
			mask[p.at + r] = r < p.valid ? 0.f : NEVER;
	}
}

/* One warp's 16 rows of scores for a tile: s[n][..] over 8 groups of 8 keys. */
template <int C>
__device__ __forceinline__ void score_tile(float s[8][4], const uint32_t q[C / 16][4], const char *k, int lane) {
#pragma unroll
	for (int n = 0; n < 8; n++)
		s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.f;
	/* matrix i of the four: keys (i / 2) * 8 .., channels (i % 2) * 8 .. */
	int row = (lane & 7) + ((lane >> 4) << 3), half = (lane >> 3) & 1;
#pragma unroll
	for (int kk = 0; kk < C / 16; kk++) {
#pragma unroll
		for (int n = 0; n < 8; n += 2) {
			uint32_t b[4];
			ldmatrix4(b, smem_address(k + swizzled<C>(n * 8 + row, kk * 2 + half)));
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
			ldmatrix4_transposed(b, smem_address(v + swizzled<C>(kk * 16 + row, n + half)));
			mma_bf16(o[n], a, b[0], b[1]);
			mma_bf16(o[n + 1], a, b[2], b[3]);
		}
	}
}

/* Online softmax of one tile: s becomes exp2 probabilities, o is rescaled. */
template <int C>
__device__ __forceinline__ void softmax_tile(float s[8][4], float o[C / 8][4], float top[2], float sum[2]) {
#pragma unroll
	for (int r = 0; r < 2; r++) {
		float high = top[r];
#pragma unroll
		for (int n = 0; n < 8; n++)
			high = fmaxf(high, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
		high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
		high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
		float keep = exp2_fast(top[r] - high), part = 0.f;
		top[r] = high;
#pragma unroll
		for (int n = 0; n < 8; n++) {
			s[n][2 * r] = exp2_fast(s[n][2 * r] - high);
			s[n][2 * r + 1] = exp2_fast(s[n][2 * r + 1] - high);
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

/* Grid: query tiles, heads; 128 threads. q and y [n, heads * C]. Query tile t is
 * tokens first_of(t) .. + rows_of(t). */
struct query_tiles {
	int n, s, block, per_frame; /* block 0: 64 after 64 */
	__device__ int first(int t) const {
		return block ? t / per_frame * s + t % per_frame * block : t * TILE;
	}
	__device__ int rows(int t) const {
		return block ? min(block, s - t % per_frame * block) : min(TILE, n - t * TILE);
	}
};

template <int C, class S>
__global__ void __launch_bounds__(128) attention_mma_kernel(__nv_bfloat16 *y, const __nv_bfloat16 *q, const S source,
	const query_tiles tiles, int heads, float scale) {
	extern __shared__ __align__(128) char shared[];
	constexpr int bytes = TILE * C * 2;
	char *k[2] = {shared, shared + bytes}, *v[2] = {shared + 2 * bytes, shared + 3 * bytes};
	float *mask[2] = {(float *)(shared + 4 * bytes), (float *)(shared + 4 * bytes) + TILE};
	int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, head = blockIdx.y, tile = blockIdx.x;
	int first = tiles.first(tile), rows = tiles.rows(tile), count = source.count();
	bool busy = warp * 16 < rows;

	/* Q through the second key buffer into registers. */
	for (int i = threadIdx.x; i < TILE * (C / 8); i += 128) {
		int r = i / (C / 8), col = i % (C / 8);
		bool ok = r < rows;
		copy16(k[1] + swizzled<C>(r, col), q + ((int64_t)(first + (ok ? r : 0)) * heads + head) * C + col * 8, ok);
	}
	copy_commit();
	load_tile<C>(k[0], v[0], mask[0], source, tile, head, 0);
	copy_commit();
	copy_wait<1>();
	__syncthreads();
	uint32_t qf[C / 16][4];
#pragma unroll
	for (int kk = 0; kk < C / 16; kk++)
		ldmatrix4(qf[kk], smem_address(k[1] + swizzled<C>(warp * 16 + (lane & 15), kk * 2 + (lane >> 4))));
	__syncthreads();

	float o[C / 8][4], top[2] = {NEVER, NEVER}, sum[2] = {0.f, 0.f}, s[8][4];
#pragma unroll
	for (int n = 0; n < C / 8; n++)
		o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0.f;
	scale *= 1.4426950408889634f;
	for (int j = 0; j < count; j++) {
		int at = j & 1;
		if (j + 1 < count)
			load_tile<C>(k[at ^ 1], v[at ^ 1], mask[at ^ 1], source, tile, head, j + 1);
		copy_commit();
		copy_wait<1>();
		__syncthreads();
		if (busy) {
			score_tile<C>(s, qf, k[at], lane);
#pragma unroll
			for (int n = 0; n < 8; n++) {
#pragma unroll
				for (int i = 0; i < 4; i++) {
					int key = n * 8 + (lane & 3) * 2 + (i & 1);
					int row = first + warp * 16 + (lane >> 2) + (i >> 1) * 8;
					s[n][i] = s[n][i] * scale + mask[at][key] +
						1.4426950408889634f * source.bonus(head, row, j * TILE + key);
				}
			}
			softmax_tile<C>(s, o, top, sum);
			value_tile<C>(o, s, v[at], lane);
		}
		__syncthreads();
	}
#pragma unroll
	for (int r = 0; r < 2; r++) {
		sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
		sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
		int row = warp * 16 + (lane >> 2) + r * 8;
		if (row >= rows)
			continue;
		float inv = 1.f / sum[r];
		__nv_bfloat16 *out = y + ((int64_t)(first + row) * heads + head) * C + (lane & 3) * 2;
#pragma unroll
		for (int n = 0; n < C / 8; n++)
			*reinterpret_cast<__nv_bfloat162 *>(out + n * 8) =
				__floats2bfloat162_rn(o[n][2 * r] * inv, o[n][2 * r + 1] * inv);
	}
}

/* ---- plain core: one warp a query ---- */
#define ROWS_C_MAX 512

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
	int own = (c + 31) / 32;
	for (int i = 0; i < own; i++)
		o[i] = 0.f;
	for (int j = 0; j < source.count(); j++) {
		for (int e = 0; e < source.pieces(); e++) {
			piece p = source.get(query_block, head, j, e);
			for (int first = 0; first < p.valid; first += 32) {
				int r = first + lane;
				float score = NEVER;
				if (r < p.valid) {
					const K *key = (const K *)(p.k + (int64_t)r * source.row_bytes);
					float dot = 0.f;
					for (int ch = 0; ch < c; ch++)
						dot = fmaf(query[warp][ch], to_float(key[ch]), dot);
					score = dot + source.bonus(head, token, j * TILE + p.at + r);
				}
				float high = fmaxf(top, warp_max(score)), keep = expf(top - high);
				float weight = r < p.valid ? expf(score - high) : 0.f;
				top = high;
				sum = sum * keep + warp_sum(weight);
				for (int i = 0; i < own; i++)
					o[i] *= keep;
				int rows = min(32, p.valid - first);
				for (int t = 0; t < rows; t++) {
					float w = __shfl_sync(~0u, weight, t);
					const K *value = (const K *)(p.v + (int64_t)(first + t) * source.row_bytes);
					for (int i = 0; i < own; i++) {
						int ch = i * 32 + lane;
						if (ch < c)
							o[i] = fmaf(w, to_float(value[ch]), o[i]);
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
