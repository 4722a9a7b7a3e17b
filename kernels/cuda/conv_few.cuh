/* SPDX-License-Identifier: Apache-2.0 */
/* The convolution to few channels, RGB: here taps are columns. Every pixel of a
 * patch is multiplied once by the weights of all taps, [taps * out, in], and an
 * output sums what its neighbours have for it; the plain way would read the patch
 * once a tap for a handful of columns. 8 x 16 outputs a block, bf16 mma.sync, f32
 * sums. Bound by memory. */
#pragma once
#include "kernels/cuda/conv.cuh"

#define FEW_HEIGHT 8
#define FEW_THREADS 128
#define FEW_COLUMNS 32
#define FEW_PITCH 29   /* floats a pixel: odd, so that neighbours lie in different banks; the most columns is one less */
#define FEW_PIXELS 192 /* of a patch at most: 3 fragments of 16 for each of 4 warps */

/* Weights: [kt, chunks, 32 rows (tap * out + o), CK], swizzled as pixels are. g.lead + 1 patches are held. */
template <int CK, typename Y>
__global__ void __launch_bounds__(FEW_THREADS, 6) conv_few_kernel(Y *y, const __nv_bfloat16 *x, const __nv_bfloat16 *history,
	const __nv_bfloat16 *w, const float *bias, const Y *skip, const __grid_constant__ conv_grid g) {
	constexpr int VECS = CK / 8, B_BYTES = FEW_COLUMNS * CK * 2;
	extern __shared__ __align__(1024) char conv_shared[];
	char *const patches = conv_shared, *const weights = conv_shared + (g.lead + 1) * g.patch_bytes;
	const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, pixels = g.patch_h * g.patch_w;
	const conv_tile t = tile_of<FEW_HEIGHT, FEW_COLUMNS>(g, blockIdx.x);
	const int vec = thread & (VECS - 1);
	const int64_t plane = (int64_t)g.H * g.W * g.in;
	int frame = t.frame * g.stride_t - (g.kt - 1), skipped = history || frame >= 0 ? 0 : min(-frame, g.kt - 1), chunk = 0;
	frame += skipped;
	const int steps = (g.kt - skipped) * g.chunks;
	const char *from_weights = (const char *)w + (int64_t)skipped * g.chunks * B_BYTES;
	auto load = [&](int slot) {
		const int c = chunk * CK + vec * 8;
		const __nv_bfloat16 *from = (frame < 0 ? history + (frame + g.kt - 1) * plane : x + frame * plane) + c;
		char *to = patches + slot * g.patch_bytes;
		patch_walk<FEW_THREADS / VECS>(g, thread / VECS, t.y - g.before[0][0], t.x - g.before[1][0], [&](int i, int offset) {
			bool ok = offset >= 0 && c < g.in;
			copy16(to + pixel_at<CK>(i, vec), ok ? from + (int64_t)offset * g.in : x, ok);
		});
#pragma unroll
		for (int i = thread * 16; i < B_BYTES; i += FEW_THREADS * 16)
			copy16(weights + slot * B_BYTES + i, from_weights + i, true);
		from_weights += B_BYTES;
		if (++chunk == g.chunks) {
			chunk = 0;
			frame++;
		}
	};

	float acc[3][4][4] = {};
	load(0);
	copy_commit();
	for (int s = 0; s < steps; s++) {
		if (s + 1 < steps)
			load((s + 1) & 1);
		copy_commit();
		copy_wait<1>();
		__syncthreads();
		const uint32_t ta = smem_address(patches + (s & 1) * g.patch_bytes), tb = smem_address(weights + (s & 1) * B_BYTES);
#pragma unroll
		for (int kk = 0; kk < CK / 16; kk++) {
			uint32_t fb[2][4];
#pragma unroll
			for (int j = 0; j < 2; j++)
				ldmatrix4(fb[j], tb + pixel_at<CK>(j * 16 + (lane & 7) + ((lane >> 4) << 3), kk * 2 + ((lane >> 3) & 1)));
#pragma unroll
			for (int i = 0; i < 3; i++) {
				uint32_t fa[4];
				ldmatrix4(fa, ta + pixel_at<CK>(min((i * 4 + warp) * 16 + (lane & 15), pixels - 1), kk * 2 + (lane >> 4)));
#pragma unroll
				for (int j = 0; j < 4; j++)
					mma_bf16(acc[i][j], fa, fb[j >> 1][(j & 1) * 2], fb[j >> 1][(j & 1) * 2 + 1]);
			}
		}
		__syncthreads();
	}

	/* What every pixel has for its neighbours, where the patch was. */
	float *const parts = (float *)conv_shared;
	const int columns = g.kh * g.kw * g.out;
#pragma unroll
	for (int i = 0; i < 3; i++) {
#pragma unroll
		for (int j = 0; j < 4; j++) {
#pragma unroll
			for (int e = 0; e < 4; e++) {
				int pixel = (i * 4 + warp) * 16 + (lane >> 2) + (e >> 1) * 8, column = j * 8 + (lane & 3) * 2 + (e & 1);
				if (pixel < pixels && column < columns)
					parts[pixel * FEW_PITCH + column] = acc[i][j][e];
			}
		}
	}
	__syncthreads();
	const int row = thread >> 4, col = thread & 15;
	if (t.y + row >= g.rows || t.x + col >= g.cols)
		return;
	const int64_t at = output_at(g, t, row, col, 0);
	for (int o = 0; o < g.out; o++) {
		float sum = bias ? bias[o] : 0.f;
		for (int dy = 0; dy < g.kh; dy++) {
			for (int dx = 0; dx < g.kw; dx++)
				sum += parts[((row + dy) * g.patch_w + col + dx) * FEW_PITCH + (dy * g.kw + dx) * g.out + o];
		}
		if (skip)
			sum += to_float(skip[at + o]);
		y[at + o] = from_float<Y>(g.relu ? fmaxf(sum, 0.f) : sum);
	}
}
