/* SPDX-License-Identifier: Apache-2.0 */
/* Around the transformer: patches in and out, the few-step update, and the
 * counter-based noise that the CPU gives bit for bit in its integers (Philox
 * 4x32-10; the normals agree to the rounding of log and cos). */
#include "kernels/cuda/common.cuh"

#define THREADS 256

/* y[f*h*w, C*p*q], c slowest, from x[f, C, h*p, w*q] */
template <typename Y>
__global__ void patchify_kernel(Y *y, const float *x, int64_t n, int C, int h, int w, int p, int q) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i >= n)
		return;
	int64_t r = i;
	int b = (int)(r % q);
	r /= q;
	int a = (int)(r % p);
	r /= p;
	int c = (int)(r % C);
	r /= C;
	int col = (int)(r % w);
	r /= w;
	int row = (int)(r % h);
	int64_t f = r / h;
	y[i] = from_float<Y>(x[((f * C + c) * h * p + row * p + a) * (int64_t)(w * q) + col * q + b]);
}

void cuda_patchify(struct backend *be, struct tensor *y, const struct tensor *x, int p, int q) {
	int64_t n = tensor_count(x);
	by_dtype(be, y->dtype, "patchify", [&](auto t) {
		using Y = decltype(t);
		patchify_kernel<<<(unsigned)ceil_div(n, THREADS), THREADS, 0, cuda_of(be)->stream>>>((Y *)y->data,
			(const float *)x->data, n, (int)x->dim[1], (int)x->dim[2] / p, (int)x->dim[3] / q, p, q);
	});
	launch_check(be, "patchify", x);
}

/* y[f, C, H, W] from x[f*h*w, p*q*C], c fastest */
template <typename X>
__global__ void unpatchify_kernel(float *y, const X *x, int64_t n, int C, int H, int W, int p, int q) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i >= n)
		return;
	int col = (int)(i % W), row = (int)(i / W % H), c = (int)(i / ((int64_t)W * H) % C);
	int64_t f = i / ((int64_t)W * H * C), h = H / p, w = W / q;
	int64_t token = (f * h + row / p) * w + col / q;
	y[i] = to_float(x[token * (p * q * C) + ((row % p) * q + col % q) * C + c]);
}

void cuda_unpatchify(struct backend *be, struct tensor *y, const struct tensor *x, int p, int q) {
	int64_t n = tensor_count(y);
	by_dtype(be, x->dtype, "unpatchify", [&](auto t) {
		using X = decltype(t);
		unpatchify_kernel<<<(unsigned)ceil_div(n, THREADS), THREADS, 0, cuda_of(be)->stream>>>((float *)y->data,
			(const X *)x->data, n, (int)y->dim[1], (int)y->dim[2], (int)y->dim[3], p, q);
	});
	launch_check(be, "unpatchify", y);
}

__global__ void denoise_kernel(float *x0, float *next, const float *x, const float *flow, const float *noise,
	int64_t n, float sigma, float sigma_next) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i >= n)
		return;
	float clean = x[i] - sigma * flow[i];
	float again = next ? (1.f - sigma_next) * clean + sigma_next * noise[i] : 0.f;
	x0[i] = clean;
	if (next)
		next[i] = again;
}

void cuda_denoise(struct backend *be, struct tensor *x0, struct tensor *next, const struct tensor *x,
	const struct tensor *flow, const struct tensor *noise, const float sigma[2]) {
	int64_t n = tensor_count(x);
	denoise_kernel<<<(unsigned)ceil_div(n, THREADS), THREADS, 0, cuda_of(be)->stream>>>((float *)x0->data,
		next ? (float *)next->data : nullptr, (const float *)x->data, (const float *)flow->data,
		next ? (const float *)noise->data : nullptr, n, sigma[0], sigma[1]);
	launch_check(be, "denoise", x);
}

__device__ void philox4x32_10(uint32_t c[4], uint32_t k0, uint32_t k1) {
#pragma unroll
	for (int round = 0; round < 10; round++) {
		uint32_t hi0 = __umulhi(0xD2511F53u, c[0]), lo0 = 0xD2511F53u * c[0];
		uint32_t hi1 = __umulhi(0xCD9E8D57u, c[2]), lo1 = 0xCD9E8D57u * c[2];
		c[0] = hi1 ^ c[1] ^ k0;
		c[2] = hi0 ^ c[3] ^ k1;
		c[1] = lo1;
		c[3] = lo0;
		k0 += 0x9E3779B9u;
		k1 += 0xBB67AE85u;
	}
}

/* (x >> 9) * 2^-23 + 2^-24: exact, never 0 or 1. */
__device__ __forceinline__ float unit(uint32_t x) {
	return (float)(x >> 9) * 0x1p-23f + 0x1p-24f;
}

__device__ __forceinline__ void normal_pair(float *z, uint32_t a, uint32_t b) {
	float radius = sqrtf(-2.f * logf(unit(a))), sn, cs;
	sincosf(6.28318530717958648f * unit(b), &sn, &cs);
	z[0] = radius * cs;
	z[1] = radius * sn;
}

__global__ void noise_kernel(float *y, int64_t n, uint64_t seed, uint64_t chunk, uint32_t step) {
	int64_t quad = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (quad * 4 >= n)
		return;
	uint32_t c[4] = {(uint32_t)quad, step, (uint32_t)chunk, (uint32_t)(chunk >> 32)};
	float z[4];
	philox4x32_10(c, (uint32_t)seed, (uint32_t)(seed >> 32));
	normal_pair(z, c[0], c[1]);
	normal_pair(z + 2, c[2], c[3]);
	for (int i = 0; i < 4 && quad * 4 + i < n; i++)
		y[quad * 4 + i] = z[i];
}

void cuda_noise(struct backend *be, struct tensor *y, uint64_t seed, int64_t chunk, int step) {
	int64_t n = tensor_count(y);
	noise_kernel<<<(unsigned)ceil_div(ceil_div(n, 4), THREADS), THREADS, 0, cuda_of(be)->stream>>>((float *)y->data, n,
		seed, (uint64_t)chunk, (uint32_t)step);
	launch_check(be, "noise", y);
}
