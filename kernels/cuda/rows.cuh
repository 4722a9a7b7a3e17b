/* SPDX-License-Identifier: Apache-2.0 */
/* A row of a tensor in the registers of one block, so that what follows a
 * product (scales, bias, activation, gate and sum, norm, quantisation) reads
 * each element once and writes it once. A thread holds V pieces of E columns
 * each, piece i at column (i * threads + thread) * E: 16-byte bf16 loads for
 * E = 8. Bound by memory. Device code only. */
#pragma once
#include "kernels/cuda/common.cuh"

template <int V_, int E_> struct row_cut {
	static constexpr int V = V_, E = E_;
	static constexpr int threads = V_ == 1 ? 256 : 512; /* at most */
};

/* Calls f(row_cut, threads) for rows of d columns. */
template <typename F> void by_cut(struct backend *be, const char *op, int64_t d, F f) {
	int64_t pieces = d / (d % 8 ? 4 : 8), v = d % 8 == 0 && pieces <= 256 ? 1 : 4;
	int64_t threads = ceil_div(ceil_div(pieces, v), 32) * 32;
	if (d % 4 || d < 4 || threads > 512)
		cuda_latch_text(be, -EINVAL, op, "rows must be a multiple of 4 and at most 8192 wide (of 8: 16384)");
	else if (d % 8)
		f(row_cut<4, 4>{}, (unsigned)threads);
	else if (v == 1)
		f(row_cut<1, 8>{}, (unsigned)threads);
	else
		f(row_cut<4, 8>{}, (unsigned)threads);
}

inline bool row_fits(int64_t d) {
	return d % 4 == 0 && d >= 4 && d <= (d % 8 ? 8192 : 16384);
}

__device__ __forceinline__ int row_column(int i, int e) {
	return (i * (int)blockDim.x + (int)threadIdx.x) * e;
}

/* ---- pieces ---- */
template <int E, typename T> __device__ __forceinline__ void piece_load(float (&v)[E], const T *p) {
	if constexpr (E == 8 && sizeof(T) == 2) {
		uint4 raw = *reinterpret_cast<const uint4 *>(p);
		const uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
		for (int i = 0; i < 4; i++) {
			v[2 * i] = __uint_as_float(word[i] << 16);
			v[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
		}
	} else {
#pragma unroll
		for (int i = 0; i < E; i += 4) {
			float4 q = load4(p + i);
			v[i] = q.x, v[i + 1] = q.y, v[i + 2] = q.z, v[i + 3] = q.w;
		}
	}
}

template <int E, typename T> __device__ __forceinline__ void piece_store(T *p, const float (&v)[E]) {
	if constexpr (E == 8 && sizeof(T) == 2) {
		uint32_t word[4];
#pragma unroll
		for (int i = 0; i < 4; i++) {
			__nv_bfloat162 two = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
			word[i] = *reinterpret_cast<uint32_t *>(&two);
		}
		*reinterpret_cast<uint4 *>(p) = make_uint4(word[0], word[1], word[2], word[3]);
	} else {
#pragma unroll
		for (int i = 0; i < E; i += 4)
			store4(p + i, make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]));
	}
}

template <int E> __device__ __forceinline__ void piece_store(__nv_fp8_e4m3 *p, const float (&v)[E], float inverse) {
	uint32_t word[E / 4];
#pragma unroll
	for (int i = 0; i < E; i += 4) {
		__nv_fp8x4_e4m3 q(make_float4(v[i] * inverse, v[i + 1] * inverse, v[i + 2] * inverse, v[i + 3] * inverse));
		word[i / 4] = *reinterpret_cast<uint32_t *>(&q);
	}
	if constexpr (E == 8)
		*reinterpret_cast<uint2 *>(p) = make_uint2(word[0], word[1]);
	else
		*reinterpret_cast<uint32_t *>(p) = word[0];
}

/* ---- what a product leaves to do ---- */
/* v = act(v * row[r] * col[c] + bias[c]); NULL: not that part. */
struct finish {
	const float *row, *col, *bias;
	int act; /* enum activation */
};

/* Results of T are worth no more than T's precision. */
template <typename T> __device__ __forceinline__ float activate_as(float x, int act) {
	if (sizeof(T) == 2 && act == ACT_GELU_TANH) { /* x * sigmoid(2 k (x + ..)) */
		const float k = -2.f * 0.7978845608028654f;
		return __fdividef(x, 1.f + __expf(k * (x + 0.044715f * x * x * x)));
	}
	return activation_of(x, act);
}

template <typename T, int E>
__device__ __forceinline__ void piece_finish(float (&v)[E], const finish &f, int64_t row, int column) {
	float w[E];
	if (f.row) {
		float s = f.row[row];
		piece_load(w, f.col + column);
#pragma unroll
		for (int e = 0; e < E; e++)
			v[e] *= s * w[e];
	}
	if (f.bias) {
		piece_load(w, f.bias + column);
#pragma unroll
		for (int e = 0; e < E; e++)
			v[e] += w[e];
	}
	if (f.act != ACT_NONE) {
#pragma unroll
		for (int e = 0; e < E; e++)
			v[e] = activate_as<T>(v[e], f.act);
	}
}

/* ---- rows ---- */
template <typename T, int V, int E> __device__ __forceinline__ void row_load(float (&v)[V][E], const T *x, int d) {
#pragma unroll
	for (int i = 0; i < V; i++) {
		if (row_column(i, E) < d)
			piece_load(v[i], x + row_column(i, E));
	}
}

/* Sum of f(element) over the row, to every thread; `shared`: 32 floats of its own. */
template <int V, int E, typename F>
__device__ __forceinline__ float row_sum(const float (&v)[V][E], int d, float *shared, F f) {
	float sum = 0.f;
#pragma unroll
	for (int i = 0; i < V; i++) {
		if (row_column(i, E) < d) {
#pragma unroll
			for (int e = 0; e < E; e++)
				sum += f(v[i][e]);
		}
	}
	return block_reduce<join_sum>(sum, shared);
}

/* As Y, or as e4m3 codes with the row's scale: the largest magnitude becomes the
 * largest code. */
template <typename Y, int V, int E>
__device__ __forceinline__ void row_store(Y *y, float *, const float (&v)[V][E], int d, int64_t, float *) {
#pragma unroll
	for (int i = 0; i < V; i++) {
		if (row_column(i, E) < d)
			piece_store(y + row_column(i, E), v[i]);
	}
}
template <int V, int E>
__device__ __forceinline__ void row_store(__nv_fp8_e4m3 *y, float *scale, const float (&v)[V][E], int d, int64_t row,
	float *shared) {
	float top = 0.f;
#pragma unroll
	for (int i = 0; i < V; i++) {
		if (row_column(i, E) < d) {
#pragma unroll
			for (int e = 0; e < E; e++)
				top = fmaxf(top, fabsf(v[i][e]));
		}
	}
	top = fmaxf(block_reduce<join_max>(top, shared), 1e-5f);
	float inverse = 448.f / top;
	if (threadIdx.x == 0)
		scale[row] = top / 448.f;
#pragma unroll
	for (int i = 0; i < V; i++) {
		if (row_column(i, E) < d)
			piece_store(y + row_column(i, E), v[i], inverse);
	}
}

/* Calls f(Y) with the C type of a row's output dtype. */
template <typename F> void by_output(struct backend *be, enum dtype d, const char *op, F f) {
	if (d == DTYPE_FP8_E4M3)
		f(__nv_fp8_e4m3{});
	else
		by_dtype(be, d, op, f);
}
