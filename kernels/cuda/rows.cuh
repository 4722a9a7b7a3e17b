/* SPDX-License-Identifier: Apache-2.0 */
/* A row of a tensor in the registers of one warp, or of one block when it is
 * wide, so that what follows a product (scales, bias, activation, gate and sum,
 * norm, quantisation) reads each element once and writes it once. A thread holds
 * V pieces of E columns each, piece i at column (i * threads + thread) * E:
 * 16-byte bf16 loads for E = 8. A warp's row meets no barrier and has all its
 * loads under way at once. Bound by memory. Device code only. */
#pragma once
#include "kernels/cuda/common.cuh"

template <int V_, int E_, bool WARP_> struct row_cut {
	static constexpr int V = V_, E = E_;
	static constexpr bool WARP = WARP_;
	static constexpr int threads = WARP_ ? 128 : 512; /* of a block, at most */
	static constexpr int blocks = WARP_ ? 5 : 1;      /* of a multiprocessor, at least */
};

/* Calls f(row_cut, grid, threads) for n rows of d columns, each in a block. */
template <typename F> void by_wide_cut(struct backend *be, const char *op, int64_t n, int64_t d, F f) {
	int64_t threads = ceil_div(d / (d % 8 ? 4 : 8), 4 * 32) * 32;
	if (d % 4 || d < 4 || threads > 512)
		cuda_latch_text(be, -EINVAL, op, "rows must be a multiple of 4 and at most 8192 wide (of 8: 16384)");
	else if (d % 8)
		f(row_cut<4, 4, false>{}, (unsigned)n, dim3((unsigned)threads));
	else
		f(row_cut<4, 8, false>{}, (unsigned)n, dim3((unsigned)threads));
}

/* The same, rows of usual width each in a warp. */
template <typename F> void by_cut(struct backend *be, const char *op, int64_t n, int64_t d, F f) {
	unsigned fours = (unsigned)ceil_div(n, 4);
	if (d % 8 || d > 1536)
		by_wide_cut(be, op, n, d, f);
	else if (d <= 512)
		f(row_cut<2, 8, true>{}, fours, dim3(32, 4));
	else
		f(row_cut<6, 8, true>{}, fours, dim3(32, 4));
}

inline bool row_fits(int64_t d) {
	return d % 4 == 0 && d >= 4 && d <= (d % 8 ? 8192 : 16384);
}

/* Of this thread's block or warp. */
template <typename C> __device__ __forceinline__ int64_t row_number() {
	return C::WARP ? (int64_t)blockIdx.x * 4 + threadIdx.y : (int64_t)blockIdx.x;
}
template <typename C> __device__ __forceinline__ int row_column(int i) {
	return (i * (C::WARP ? 32 : (int)blockDim.x) + (int)threadIdx.x) * C::E;
}
template <typename C, typename J> __device__ __forceinline__ float row_reduce(float v, float *shared) {
	if constexpr (C::WARP) {
#pragma unroll
		for (int o = 16; o > 0; o >>= 1)
			v = J::of(v, __shfl_xor_sync(~0u, v, o));
		return v;
	} else {
		return block_reduce<J>(v, shared);
	}
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

template <int E, typename T> __device__ __forceinline__ void piece_store(T *p, const float (&v)[E], float = 1.f) {
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

/* E elements as they lie in memory: loaded before they are wanted. */
template <int E, typename T> struct alignas(E * sizeof(T) > 16 ? 16 : E * sizeof(T)) raw_piece {
	T v[E];
};
template <int E, typename T> __device__ __forceinline__ raw_piece<E, T> raw_load(const T *p) {
	return *reinterpret_cast<const raw_piece<E, T> *>(p);
}
/* ---- what a product leaves to do ---- */
/* v = act(v + bias[c]); NULL: no bias. */
struct finish {
	const float *bias;
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
__device__ __forceinline__ void piece_finish(float (&v)[E], const finish &f, int column) {
	float w[E];
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
template <typename C, typename T> __device__ __forceinline__ void row_load(float (&v)[C::V][C::E], const T *x, int d) {
#pragma unroll
	for (int i = 0; i < C::V; i++) {
		if (row_column<C>(i) < d)
			piece_load(v[i], x + row_column<C>(i));
	}
}

/* Sum of f(element) over the row, to every thread; `shared`: 32 floats of its own. */
template <typename C, typename F>
__device__ __forceinline__ float row_sum(const float (&v)[C::V][C::E], int d, float *shared, F f) {
	float sum = 0.f;
#pragma unroll
	for (int i = 0; i < C::V; i++) {
		if (row_column<C>(i) < d) {
#pragma unroll
			for (int e = 0; e < C::E; e++)
				sum += f(v[i][e]);
		}
	}
	return row_reduce<C, join_sum>(sum, shared);
}

/* As Y, or as e4m3 codes, clipped; scale: of the codes, and its inverse. y is at the row. */
template <typename C, typename Y>
__device__ __forceinline__ void row_store(Y *y, const float *scale, const float (&v)[C::V][C::E], int d) {
	float inverse = sizeof(Y) == 1 ? scale[1] : 1.f;
#pragma unroll
	for (int i = 0; i < C::V; i++) {
		if (row_column<C>(i) < d)
			piece_store(y + row_column<C>(i), v[i], inverse);
	}
}

/* As products take codes: the library refuses a scale that is not aligned. */
inline bool one_scale(const struct tensor *t) {
	return t->scale && t->one_scale && (uintptr_t)t->scale % 16 == 0;
}

/* The scale of a result, or NULL when it is no codes; false: latched. */
inline bool scale_of(struct backend *be, const char *op, const struct tensor *y, const float **scale) {
	*scale = y->dtype == DTYPE_FP8_E4M3 ? y->scale : nullptr;
	if (y->dtype != DTYPE_FP8_E4M3 || one_scale(y))
		return true;
	cuda_latch_text(be, -EINVAL, op, "fp8 results want one scale, 16-byte aligned");
	return false;
}

/* Calls f(Y) with the C type of a row's output dtype. */
template <typename F> void by_output(struct backend *be, enum dtype d, const char *op, F f) {
	if (d == DTYPE_FP8_E4M3)
		f(__nv_fp8_e4m3{});
	else
		by_dtype(be, d, op, f);
}
