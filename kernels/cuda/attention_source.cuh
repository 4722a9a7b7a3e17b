/* SPDX-License-Identifier: Apache-2.0 */
/* What every attention core reads from: queries cut into tiles of 64, key sources
 * that say how many tiles of 64 keys a query tile reads and where they lie, and the
 * instructions that bring and multiply them. Thread: device. */
#pragma once
#include "kernels/cuda/kv.cuh"

#define TILE 64
#define LOG2E 1.4426950408889634f
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

/* Byte offset of 16-byte column `col` of row `row` in a tile of bf16. */
template <int C> __device__ __forceinline__ int tile_byte(int row, int col) {
	return (col >> 3) * (TILE * 128) + row * 128 + (((col & 7) ^ (row & 7)) << 4);
}
/* Bit r: row r counts. */
__device__ __forceinline__ uint64_t rows_mask(int valid) {
	return valid >= 64 ? ~0ull : (1ull << valid) - 1;
}

/* ---- key sources ---- */
/* A run of keys of a tile: rows row .. row + rows - 1 of k and v become rows `at` ..
 * of the tile, the first `valid` of them real. Pointers are always readable. */
struct piece {
	const char *k, *v;
	int row, at, rows, valid;
};

/* Every key of the spans, frame after frame, 64 after 64. */
struct dense_source {
	static constexpr bool whole = true, plain = false;
	span_list l;
	__device__ int count() const {
		return l.start[l.n] * l.tiles;
	}
	__device__ int pieces() const {
		return 1;
	}
	__device__ piece get(int, int head, int tile, int) const {
		int in = tile % l.tiles;
		kv_frame f = span_frame(l, head, tile / l.tiles);
		return {f.k, f.v, in * TILE, 0, TILE, min(TILE, l.s - in * TILE)};
	}
	template <typename K> __device__ int64_t at(int row, int ch) const {
		return kv_at<K>(l.c, row, ch);
	}
	__device__ float bonus(int, int, int) const {
		return 0.f;
	}
};

/* The key blocks of a list: as many as fit go into one tile (WHOLE false), or each
 * is one or several tiles (WHOLE true). */
template <bool WHOLE> struct list_source {
	static constexpr bool whole = WHOLE, plain = false;
	span_list l;
	const int32_t *index; /* [heads, query blocks, kept] */
	int kept, query_blocks;
	int per_tile, parts;  /* blocks a tile, tiles a block: one of them is 1 */
	__device__ int count() const {
		return WHOLE ? kept * parts : (kept + per_tile - 1) / per_tile;
	}
	__device__ int pieces() const {
		return WHOLE ? 1 : per_tile;
	}
	__device__ piece get(int query_block, int head, int tile, int e) const {
		int entry = WHOLE ? tile / parts : tile * per_tile + e, part = WHOLE ? tile % parts : 0, at = WHOLE ? 0 : e * l.block;
		int rows = WHOLE ? TILE : e + 1 < per_tile ? l.block : TILE - at;
		if (entry >= kept)
			return {l.k[0], l.v[0], 0, at, rows, 0};
		int block = index[((int64_t)head * query_blocks + query_block) * kept + entry], in = block % l.per_frame * l.block;
		kv_frame f = span_frame(l, head, block / l.per_frame);
		int valid = min(rows, min(l.block, l.s - in) - part * TILE);
		return {f.k, f.v, valid > 0 ? in + part * TILE : 0, at, rows, max(valid, 0)};
	}
	template <typename K> __device__ int64_t at(int row, int ch) const {
		return kv_at<K>(l.c, row, ch);
	}
	__device__ float bonus(int, int, int) const {
		return 0.f;
	}
};

/* Rows of plain matrices [m, heads * c]; optional repeats of the last key, optional
 * bias by distance. */
struct plain_source {
	static constexpr bool whole = false, plain = true;
	const char *k, *v;
	const float *bias; /* [heads, 2 * reach + 1] or NULL */
	int m, c, reach;
	int row_elements, head_bytes; /* from row to row, from head to head */
	float last; /* log of how often the last key stands */
	__device__ int count() const {
		return (m + TILE - 1) / TILE;
	}
	__device__ int pieces() const {
		return 1;
	}
	__device__ piece get(int, int head, int tile, int) const {
		int64_t at = (int64_t)head * head_bytes;
		return {k + at, v + at, tile * TILE, 0, TILE, min(TILE, m - tile * TILE)};
	}
	template <typename K> __device__ int64_t at(int row, int ch) const {
		return (int64_t)row * row_elements + ch;
	}
	__device__ float bonus(int head, int query, int key) const {
		float b = key == m - 1 ? last : 0.f;
		if (bias)
			b += bias[head * (2 * reach + 1) + min(max(key - query, -reach), reach) + reach];
		return b;
	}
};

/* Query tile t is part t % parts of block t / parts: tokens first(t) .. + rows(t);
 * block 0: 64 after 64 of n. */
struct query_tiles {
	int n, s, block, per_frame, parts;
	__device__ int list(int t) const {
		return block ? t / parts : t;
	}
	__device__ int first(int t) const {
		int b = t / parts;
		return block ? b / per_frame * s + b % per_frame * block + t % parts * TILE : t * TILE;
	}
	__device__ int rows(int t) const {
		return block ? min(TILE, min(block, s - t / parts % per_frame * block) - t % parts * TILE) : min(TILE, n - t * TILE);
	}
};
