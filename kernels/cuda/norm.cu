/* SPDX-License-Identifier: Apache-2.0 */
/* Row norms fused with what follows them: layer norm + modulation (+ fp8
 * quantisation of the row), RMS norm, channel norm + activation. One block a
 * row, the row kept in registers between the passes: each element is read once
 * and written once, so they are bound by memory. */
#include "kernels/cuda/common.cuh"

#define ROW_THREADS 128
#define ROW_VECTORS 16 /* float4 a thread: rows up to 128 * 16 * 4 = 8192 wide */

/* Loads a row of d (a multiple of 4) into v; returns how many vectors this thread holds. */
template <typename T> __device__ __forceinline__ int row_load(float4 *v, const T *x, int d) {
	int n = 0;
#pragma unroll
	for (int i = 0; i < ROW_VECTORS; i++) {
		int c = (i * ROW_THREADS + threadIdx.x) * 4;
		if (c < d) {
			v[i] = load4(x + c);
			n = i + 1;
		}
	}
	return n;
}

/* Writes the row as T, or as e4m3 codes with the row's scale. */
template <typename T> struct row_writer {
	static __device__ void write(T *y, float *, const float4 *v, int d, int64_t, float *) {
#pragma unroll
		for (int i = 0; i < ROW_VECTORS; i++) {
			int c = (i * ROW_THREADS + threadIdx.x) * 4;
			if (c < d)
				store4(y + c, v[i]);
		}
	}
};
template <> struct row_writer<__nv_fp8_e4m3> {
	static __device__ void write(__nv_fp8_e4m3 *y, float *scale, const float4 *v, int d, int64_t row,
		float *shared) {
		float top = 0.f;
#pragma unroll
		for (int i = 0; i < ROW_VECTORS; i++) {
			if ((i * ROW_THREADS + threadIdx.x) * 4 < d)
				top = fmaxf(top, fmaxf(fmaxf(fabsf(v[i].x), fabsf(v[i].y)),
							 fmaxf(fabsf(v[i].z), fabsf(v[i].w))));
		}
		top = fmaxf(block_max(top, shared), 1e-5f);
		float s = top / 448.f, inv = 448.f / top;
		if (threadIdx.x == 0)
			scale[row] = s;
#pragma unroll
		for (int i = 0; i < ROW_VECTORS; i++) {
			int c = (i * ROW_THREADS + threadIdx.x) * 4;
			if (c < d) {
				__nv_fp8x4_e4m3 q(make_float4(v[i].x * inv, v[i].y * inv, v[i].z * inv, v[i].w * inv));
				*reinterpret_cast<__nv_fp8x4_e4m3 *>(y + c) = q;
			}
		}
	}
};

template <typename X, typename Y>
__global__ void __launch_bounds__(ROW_THREADS) norm_modulate_kernel(Y *y, float *y_scale, const X *x,
	const float *scale, const float *shift, int d, int64_t rows_per_modulation, float eps) {
	__shared__ float shared[33];
	float4 v[ROW_VECTORS];
	int64_t row = blockIdx.x, m = row / rows_per_modulation;
	row_load(v, x + row * d, d);
	float sum = 0.f;
#pragma unroll
	for (int i = 0; i < ROW_VECTORS; i++) {
		if ((i * ROW_THREADS + threadIdx.x) * 4 < d)
			sum += v[i].x + v[i].y + v[i].z + v[i].w;
	}
	float mean = block_sum(sum, shared) / d, var = 0.f;
#pragma unroll
	for (int i = 0; i < ROW_VECTORS; i++) {
		if ((i * ROW_THREADS + threadIdx.x) * 4 < d) {
			v[i].x -= mean, v[i].y -= mean, v[i].z -= mean, v[i].w -= mean;
			var += v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z + v[i].w * v[i].w;
		}
	}
	float r = rsqrtf(block_sum(var, shared) / d + eps);
#pragma unroll
	for (int i = 0; i < ROW_VECTORS; i++) {
		int c = (i * ROW_THREADS + threadIdx.x) * 4;
		if (c < d) {
			float4 a = load4(scale + m * d + c), b = load4(shift + m * d + c);
			v[i].x = v[i].x * r * (1.f + a.x) + b.x;
			v[i].y = v[i].y * r * (1.f + a.y) + b.y;
			v[i].z = v[i].z * r * (1.f + a.z) + b.z;
			v[i].w = v[i].w * r * (1.f + a.w) + b.w;
		}
	}
	row_writer<Y>::write(y + row * d, y_scale, v, d, row, shared);
}

static bool row_fits(struct backend *be, const char *op, const struct tensor *x) {
	int64_t d = tensor_cols(x);
	if (d % 4 == 0 && d <= ROW_THREADS * ROW_VECTORS * 4)
		return true;
	cuda_latch_text(be, -EINVAL, op, "rows must be a multiple of 4 and at most 8192 wide");
	return false;
}

template <typename X, typename Y>
static void norm_modulate_launch(struct backend *be, struct tensor *y, const struct tensor *x,
	const struct tensor *scale, const struct tensor *shift, float eps) {
	int64_t n = tensor_row_count(x), d = tensor_cols(x), m = tensor_row_count(scale);
	norm_modulate_kernel<X, Y><<<(unsigned)n, ROW_THREADS, 0, cuda_of(be)->stream>>>((Y *)y->data,
		y->scale, (const X *)x->data, (const float *)scale->data, (const float *)shift->data, (int)d,
		n / (m > 0 ? m : 1), eps);
	launch_check(be, "norm_modulate", x);
}

void cuda_norm_modulate(struct backend *be, struct tensor *y, const struct tensor *x,
	const struct tensor *scale, const struct tensor *shift, float eps) {
	if (!row_fits(be, "norm_modulate", x))
		return;
	by_dtype(be, x->dtype, "norm_modulate", [&](auto tx) {
		using X = decltype(tx);
		if (y->dtype == DTYPE_FP8_E4M3)
			norm_modulate_launch<X, __nv_fp8_e4m3>(be, y, x, scale, shift, eps);
		else
			by_dtype(be, y->dtype, "norm_modulate", [&](auto ty) {
				norm_modulate_launch<X, decltype(ty)>(be, y, x, scale, shift, eps);
			});
	});
}

template <typename X, typename Y>
__global__ void __launch_bounds__(ROW_THREADS) rms_norm_kernel(Y *y, const X *x, const float *g, int d, float eps) {
	__shared__ float shared[33];
	float4 v[ROW_VECTORS];
	int64_t row = blockIdx.x;
	row_load(v, x + row * d, d);
	float sum = 0.f;
#pragma unroll
	for (int i = 0; i < ROW_VECTORS; i++) {
		if ((i * ROW_THREADS + threadIdx.x) * 4 < d)
			sum += v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z + v[i].w * v[i].w;
	}
	float r = rsqrtf(block_sum(sum, shared) / d + eps);
#pragma unroll
	for (int i = 0; i < ROW_VECTORS; i++) {
		int c = (i * ROW_THREADS + threadIdx.x) * 4;
		if (c < d) {
			float4 w = load4(g + c);
			v[i] = make_float4(v[i].x * r * w.x, v[i].y * r * w.y, v[i].z * r * w.z, v[i].w * r * w.w);
		}
	}
	row_writer<Y>::write(y + row * d, nullptr, v, d, row, shared);
}

void cuda_rms_norm(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *g, float eps) {
	if (!row_fits(be, "rms_norm", x))
		return;
	by_dtype(be, x->dtype, "rms_norm", [&](auto tx) {
		by_dtype(be, y->dtype, "rms_norm", [&](auto ty) {
			using X = decltype(tx);
			using Y = decltype(ty);
			rms_norm_kernel<X, Y><<<(unsigned)tensor_row_count(x), ROW_THREADS, 0, cuda_of(be)->stream>>>(
				(Y *)y->data, (const X *)x->data, (const float *)g->data, (int)tensor_cols(x), eps);
		});
	});
	launch_check(be, "rms_norm", x);
}

/* One warp a pixel: channels are few (8 .. 384) and pixels many. */
template <typename X, typename Y>
__global__ void channel_norm_kernel(Y *y, const X *x, const float *g, int64_t pixels, int channels, int act) {
	int64_t pixel = (int64_t)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
	if (pixel >= pixels)
		return;
	int lane = threadIdx.x & 31;
	const X *in = x + pixel * channels;
	float sum = 0.f;
	for (int c = lane; c < channels; c += 32) {
		float v = to_float(in[c]);
		sum += v * v;
	}
	float r = sqrtf((float)channels) / fmaxf(sqrtf(warp_sum(sum)), 1e-12f);
	for (int c = lane; c < channels; c += 32)
		y[pixel * channels + c] = from_float<Y>(activation_of(to_float(in[c]) * r * g[c], act));
}

void cuda_channel_norm(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *g,
	enum activation act) {
	int64_t pixels = tensor_row_count(x);
	by_dtype(be, x->dtype, "channel_norm", [&](auto tx) {
		by_dtype(be, y->dtype, "channel_norm", [&](auto ty) {
			using X = decltype(tx);
			using Y = decltype(ty);
			channel_norm_kernel<X, Y><<<(unsigned)ceil_div(pixels, 8), 256, 0, cuda_of(be)->stream>>>(
				(Y *)y->data, (const X *)x->data, (const float *)g->data, pixels, (int)tensor_cols(x), act);
		});
	});
	launch_check(be, "channel_norm", x);
}
