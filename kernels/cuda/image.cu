/* SPDX-License-Identifier: Apache-2.0 */
/* Between latents, channels-last images and video frames. Bound by memory. */
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

void cuda_rgb_to_i420(struct backend *be, struct tensor *yuv, const struct tensor *rgb, float gain, float offset) {
	int H = (int)rgb->dim[1], W = (int)rgb->dim[2];
	int64_t squares = rgb->dim[0] * (H / 2) * (int64_t)(W / 2);
	by_dtype(be, rgb->dtype, "rgb_to_i420", [&](auto t) {
		using X = decltype(t);
		i420_kernel<<<(unsigned)ceil_div(squares, THREADS), THREADS, 0, cuda_of(be)->stream>>>((uint8_t *)yuv->data,
			(const X *)rgb->data, squares, H, W, gain, offset);
	});
	launch_check(be, "rgb_to_i420", rgb);
}
