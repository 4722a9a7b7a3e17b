/* SPDX-License-Identifier: Apache-2.0 */
/* Between latents, channels-last images and video frames, and the norm over an
 * image's channels. Bound by memory. */
#include "kernels/cuda/common.cuh"

#define THREADS 256

/* y[f,H,W,C] from x[f,C,H,W] */
template <typename Y>
__global__ void latent_to_image_kernel(Y *y, const float *x, const float *mean, const float *std, int64_t n, int C,
	int64_t hw, float bound) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i >= n)
		return;
	int c = (int)(i % C);
	int64_t pixel = i / C % hw, f = i / (C * hw);
	float v = x[(f * C + c) * hw + pixel];
	if (std)
		v = v * std[c] + mean[c];
	if (bound > 0.f)
		v = bound * tanhf(v / bound);
	y[i] = from_float<Y>(v);
}

void cuda_latent_to_image(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *mean,
	const struct tensor *std, float bound) {
	int64_t n = tensor_count(x);
	by_dtype(be, y->dtype, "latent_to_image", [&](auto t) {
		using Y = decltype(t);
		latent_to_image_kernel<<<(unsigned)ceil_div(n, THREADS), THREADS, 0, cuda_of(be)->stream>>>((Y *)y->data,
			(const float *)x->data, mean ? (const float *)mean->data : nullptr,
			std ? (const float *)std->data : nullptr, n, (int)x->dim[1], x->dim[2] * x->dim[3], bound);
	});
	launch_check(be, "latent_to_image", x);
}

/* y[f,C,H,W] from the first C channels of x[f,H,W,X] */
template <typename X>
__global__ void image_to_latent_kernel(float *y, const X *x, const float *mean, const float *std, int64_t n, int C,
	int from, int64_t hw) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i >= n)
		return;
	int c = (int)(i / hw % C);
	int64_t pixel = i % hw, f = i / (C * hw);
	float v = to_float(x[(f * hw + pixel) * from + c]);
	y[i] = std ? (v - mean[c]) / std[c] : v;
}

void cuda_image_to_latent(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *mean,
	const struct tensor *std) {
	int64_t n = tensor_count(y);
	by_dtype(be, x->dtype, "image_to_latent", [&](auto t) {
		using X = decltype(t);
		image_to_latent_kernel<<<(unsigned)ceil_div(n, THREADS), THREADS, 0, cuda_of(be)->stream>>>((float *)y->data,
			(const X *)x->data, mean ? (const float *)mean->data : nullptr,
			std ? (const float *)std->data : nullptr, n, (int)y->dim[1], (int)tensor_cols(x), y->dim[2] * y->dim[3]);
	});
	launch_check(be, "image_to_latent", x);
}

/* ---- channel norm ---- */
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

__device__ __forceinline__ float activation_fast(float x, int act) {
	return act == ACT_SILU ? __fdividef(x, 1.f + __expf(-x)) : activation_of(x, act);
}

/* bf16 in eights: `lanes` neighbours hold a pixel in V vectors of 16 bytes each,
 * and take one pixel after the other. */
template <int V>
__global__ void __launch_bounds__(THREADS) channel_norm_vectors_kernel(uint4 *y, const uint4 *x, const float *g,
	int64_t pixels, int lanes, int act) {
	int lane = threadIdx.x & (lanes - 1), vectors = V * lanes;
	int64_t step = (int64_t)gridDim.x * (THREADS / lanes);
	float gain[V][8], root = sqrtf(8.f * vectors);
#pragma unroll
	for (int i = 0; i < V; i++) {
#pragma unroll
		for (int e = 0; e < 8; e++)
			gain[i][e] = g[(i * lanes + lane) * 8 + e];
	}
	for (int64_t base = (int64_t)blockIdx.x * (THREADS / lanes); base < pixels; base += step) {
		int64_t pixel = base + threadIdx.x / lanes; /* whole warps stay together */
		bool ok = pixel < pixels;
		uint4 raw[V];
		float sum = 0.f;
#pragma unroll
		for (int i = 0; i < V; i++) {
			raw[i] = ok ? x[pixel * vectors + i * lanes + lane] : make_uint4(0, 0, 0, 0);
			const __nv_bfloat162 *pair = (const __nv_bfloat162 *)&raw[i];
#pragma unroll
			for (int e = 0; e < 4; e++) {
				float2 v = __bfloat1622float2(pair[e]);
				sum += v.x * v.x + v.y * v.y;
			}
		}
		for (int o = lanes >> 1; o > 0; o >>= 1)
			sum += __shfl_xor_sync(~0u, sum, o);
		float r = root * rsqrtf(fmaxf(sum, 1e-24f));
#pragma unroll
		for (int i = 0; i < V; i++) {
			__nv_bfloat162 *pair = (__nv_bfloat162 *)&raw[i];
#pragma unroll
			for (int e = 0; e < 4; e++) {
				float2 v = __bfloat1622float2(pair[e]);
				pair[e] = __floats2bfloat162_rn(activation_fast(v.x * r * gain[i][e * 2], act),
					activation_fast(v.y * r * gain[i][e * 2 + 1], act));
			}
			if (ok)
				y[pixel * vectors + i * lanes + lane] = raw[i];
		}
	}
}

template <int V>
static void channel_norm_vectors(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *g,
	int lanes, int act) {
	int64_t pixels = tensor_row_count(x), blocks = ceil_div(pixels * lanes, THREADS), most = 16 * cuda_of(be)->processors;
	channel_norm_vectors_kernel<V><<<(unsigned)(blocks < most ? blocks : most), THREADS, 0, cuda_of(be)->stream>>>(
		(uint4 *)y->data, (const uint4 *)x->data, (const float *)g->data, pixels, lanes, act);
}

void cuda_channel_norm(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *g,
	enum activation act) {
	int64_t pixels = tensor_row_count(x), channels = tensor_cols(x), lanes = channels / 8;
	int vectors = 1;
	if (lanes % 3 == 0)
		lanes /= 3, vectors = 3;
	bool fits = channels % 8 == 0 && lanes <= 32 && (lanes & (lanes - 1)) == 0;
	if (fits && x->dtype == DTYPE_BF16 && y->dtype == DTYPE_BF16) {
		vectors == 3 ? channel_norm_vectors<3>(be, y, x, g, (int)lanes, act)
			     : channel_norm_vectors<1>(be, y, x, g, (int)lanes, act);
		launch_check(be, "channel_norm", x);
		return;
	}
	by_dtype(be, x->dtype, "channel_norm", [&](auto tx) {
		by_dtype(be, y->dtype, "channel_norm", [&](auto ty) {
			using X = decltype(tx);
			using Y = decltype(ty);
			channel_norm_kernel<X, Y><<<(unsigned)ceil_div(pixels, 8), 256, 0, cuda_of(be)->stream>>>(
				(Y *)y->data, (const X *)x->data, (const float *)g->data, pixels, (int)channels, act);
		});
	});
	launch_check(be, "channel_norm", x);
}

/* ---- I420 ---- */
/* One thread a 2x2 square. BT.709 limited: Y 16..235, chroma 16..240 from the
 * mean of the square. */
template <typename X>
__global__ void i420_kernel(uint8_t *yuv, const X *rgb, int64_t squares, int H, int W, float gain, float offset) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i >= squares)
		return;
	int w2 = W / 2, h2 = H / 2, sx = (int)(i % w2), sy = (int)(i / w2 % h2);
	int64_t f = i / ((int64_t)w2 * h2);
	uint8_t *frame = yuv + f * ((int64_t)W * H * 3 / 2);
	float sum[3] = {0.f, 0.f, 0.f};
	for (int dy = 0; dy < 2; dy++) {
		for (int dx = 0; dx < 2; dx++) {
			int64_t at = (f * H + sy * 2 + dy) * W + sx * 2 + dx;
			float c[3];
			for (int k = 0; k < 3; k++) {
				c[k] = fminf(fmaxf(to_float(rgb[at * 3 + k]) * gain + offset, 0.f), 1.f);
				sum[k] += 0.25f * c[k];
			}
			float luma = 0.2126f * c[0] + 0.7152f * c[1] + 0.0722f * c[2];
			frame[(int64_t)(sy * 2 + dy) * W + sx * 2 + dx] = (uint8_t)(16.f + 219.f * luma + 0.5f);
		}
	}
	float luma = 0.2126f * sum[0] + 0.7152f * sum[1] + 0.0722f * sum[2];
	uint8_t *u = frame + (int64_t)W * H, *v = u + (int64_t)w2 * h2;
	u[(int64_t)sy * w2 + sx] = (uint8_t)(128.f + 224.f * (sum[2] - luma) / 1.8556f + 0.5f);
	v[(int64_t)sy * w2 + sx] = (uint8_t)(128.f + 224.f * (sum[0] - luma) / 1.5748f + 0.5f);
}

__device__ __forceinline__ uint32_t luma_of(const float c[3]) {
	return (uint32_t)(16.f + 219.f * (0.2126f * c[0] + 0.7152f * c[1] + 0.0722f * c[2]) + 0.5f);
}

/* One thread four pixels of two rows: W in fours. */
template <typename X>
__global__ void i420_wide_kernel(uint8_t *yuv, const X *rgb, int64_t pieces, int H, int W, float gain, float offset) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i >= pieces)
		return;
	int w4 = W / 4, h2 = H / 2, sx = (int)(i % w4), sy = (int)(i / w4 % h2);
	int64_t f = i / ((int64_t)w4 * h2), plane = (int64_t)W * H;
	uint8_t *frame = yuv + f * (plane * 3 / 2);
	float sum[2][3] = {};
#pragma unroll
	for (int dy = 0; dy < 2; dy++) {
		int64_t at = (int64_t)(sy * 2 + dy) * W + sx * 4;
		const X *row = rgb + (f * plane + at) * 3;
		float4 q[3] = {load4(row), load4(row + 4), load4(row + 8)};
		const float *p = (const float *)q;
		uint32_t packed = 0;
#pragma unroll
		for (int k = 0; k < 4; k++) {
			float c[3];
#pragma unroll
			for (int e = 0; e < 3; e++) {
				c[e] = fminf(fmaxf(p[k * 3 + e] * gain + offset, 0.f), 1.f);
				sum[k / 2][e] += 0.25f * c[e];
			}
			packed |= luma_of(c) << (8 * k);
		}
		*(uint32_t *)(frame + at) = packed;
	}
	uint32_t u = 0, v = 0;
#pragma unroll
	for (int k = 0; k < 2; k++) {
		float luma = 0.2126f * sum[k][0] + 0.7152f * sum[k][1] + 0.0722f * sum[k][2];
		u |= (uint32_t)(128.f + 224.f * (sum[k][2] - luma) / 1.8556f + 0.5f) << (8 * k);
		v |= (uint32_t)(128.f + 224.f * (sum[k][0] - luma) / 1.5748f + 0.5f) << (8 * k);
	}
	int64_t chroma = (int64_t)sy * (W / 2) + sx * 2;
	*(uint16_t *)(frame + plane + chroma) = (uint16_t)u;
	*(uint16_t *)(frame + plane + plane / 4 + chroma) = (uint16_t)v;
}

void cuda_rgb_to_i420(struct backend *be, struct tensor *yuv, const struct tensor *rgb, float gain, float offset) {
	int H = (int)rgb->dim[1], W = (int)rgb->dim[2];
	int64_t squares = rgb->dim[0] * (H / 2) * (int64_t)(W / 2);
	by_dtype(be, rgb->dtype, "rgb_to_i420", [&](auto t) {
		using X = decltype(t);
		if (W % 4 == 0) {
			i420_wide_kernel<<<(unsigned)ceil_div(squares / 2, THREADS), THREADS, 0, cuda_of(be)->stream>>>(
				(uint8_t *)yuv->data, (const X *)rgb->data, squares / 2, H, W, gain, offset);
			return;
		}
		i420_kernel<<<(unsigned)ceil_div(squares, THREADS), THREADS, 0, cuda_of(be)->stream>>>((uint8_t *)yuv->data,
			(const X *)rgb->data, squares, H, W, gain, offset);
	});
	launch_check(be, "rgb_to_i420", rgb);
}
