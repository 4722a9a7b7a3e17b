/* SPDX-License-Identifier: Apache-2.0 */
/* What every kernel file shares: the backend's inside, element access over the
 * activation dtypes, reductions, launch checks. Device code only; no model
 * knowledge. Thread: the backend's owner. */
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <errno.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "kernels/cuda/cuda.h"

/* Latches the launch error of the kernel just started, with op name and shape. */
inline void launch_check(struct backend *be, const char *op, const struct tensor *t) {
	cudaError_t r = cudaGetLastError();
	if (r != cudaSuccess)
		cuda_latch(be, r, op, t);
}

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) {
	return (a + b - 1) / b;
}

inline size_t align_up(size_t n) {
	return (n + 255) & ~(size_t)255;
}

/* ---- element access ---- */
template <typename T> __device__ __forceinline__ float to_float(T v);
template <> __device__ __forceinline__ float to_float<float>(float v) {
	return v;
}
template <> __device__ __forceinline__ float to_float<__nv_bfloat16>(__nv_bfloat16 v) {
	return __bfloat162float(v);
}
template <> __device__ __forceinline__ float to_float<__half>(__half v) {
	return __half2float(v);
}
template <typename T> __device__ __forceinline__ T from_float(float v);
template <> __device__ __forceinline__ float from_float<float>(float v) {
	return v;
}
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float v) {
	return __float2bfloat16_rn(v);
}
template <> __device__ __forceinline__ __half from_float<__half>(float v) {
	return __float2half_rn(v);
}

/* Four consecutive elements as float4; p aligned to four elements. */
template <typename T> __device__ __forceinline__ float4 load4(const T *p);
template <> __device__ __forceinline__ float4 load4<float>(const float *p) {
	return *reinterpret_cast<const float4 *>(p);
}
template <> __device__ __forceinline__ float4 load4<__nv_bfloat16>(const __nv_bfloat16 *p) {
	uint2 raw = *reinterpret_cast<const uint2 *>(p);
	float2 a = __bfloat1622float2(*reinterpret_cast<__nv_bfloat162 *>(&raw.x));
	float2 b = __bfloat1622float2(*reinterpret_cast<__nv_bfloat162 *>(&raw.y));
	return make_float4(a.x, a.y, b.x, b.y);
}
template <typename T> __device__ __forceinline__ void store4(T *p, float4 v);
template <> __device__ __forceinline__ void store4<float>(float *p, float4 v) {
	*reinterpret_cast<float4 *>(p) = v;
}
template <> __device__ __forceinline__ void store4<__nv_bfloat16>(__nv_bfloat16 *p, float4 v) {
	__nv_bfloat162 a = __floats2bfloat162_rn(v.x, v.y), b = __floats2bfloat162_rn(v.z, v.w);
	uint2 raw;
	raw.x = *reinterpret_cast<uint32_t *>(&a);
	raw.y = *reinterpret_cast<uint32_t *>(&b);
	*reinterpret_cast<uint2 *>(p) = raw;
}

/* ---- reductions ---- */
__device__ __forceinline__ float warp_sum(float v) {
	for (int o = 16; o > 0; o >>= 1)
		v += __shfl_xor_sync(~0u, v, o);
	return v;
}
__device__ __forceinline__ float warp_max(float v) {
	for (int o = 16; o > 0; o >>= 1)
		v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
	return v;
}
struct join_sum {
	static __device__ __forceinline__ float of(float a, float b) {
		return a + b;
	}
};
struct join_max {
	static __device__ __forceinline__ float of(float a, float b) {
		return fmaxf(a, b);
	}
};
/* Joins v over the block (whole warps, at most 32); every thread gets the same
 * result. One barrier: `shared` holds 32 floats that nothing else uses until the
 * block has met another one. */
template <typename J> __device__ __forceinline__ float block_reduce(float v, float *shared) {
#pragma unroll
	for (int o = 16; o > 0; o >>= 1)
		v = J::of(v, __shfl_xor_sync(~0u, v, o));
	int warps = (int)blockDim.x >> 5;
	if ((threadIdx.x & 31) == 0)
		shared[threadIdx.x >> 5] = v;
	__syncthreads();
	v = shared[0];
	for (int i = 1; i < warps; i++)
		v = J::of(v, shared[i]);
	return v;
}

/* ---- activations ---- */
__device__ __forceinline__ float gelu_tanh(float x) {
	const float k = 0.7978845608028654f;
	return 0.5f * x * (1.f + tanhf(k * (x + 0.044715f * x * x * x)));
}
__device__ __forceinline__ float silu(float x) {
	return x / (1.f + expf(-x));
}
__device__ __forceinline__ float activation_of(float x, int act) {
	switch (act) {
	case ACT_SILU:
		return silu(x);
	case ACT_GELU_TANH:
		return gelu_tanh(x);
	case ACT_RELU:
		return fmaxf(x, 0.f);
	default:
		return x;
	}
}

/* Calls f.template operator()<T>() with the C type of an activation dtype. */
template <typename F> void by_dtype(struct backend *be, enum dtype d, const char *op, F f) {
	if (d == DTYPE_F32)
		f(float{});
	else if (d == DTYPE_BF16)
		f(__nv_bfloat16{});
	else
		cuda_latch_text(be, -EINVAL, op, "activations are f32 or bf16 here");
}
