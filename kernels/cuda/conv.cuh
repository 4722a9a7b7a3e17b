/* SPDX-License-Identifier: Apache-2.0 */
/* The tensor core convolution: a tile of TH x 16 output pixels by BN channels.
 * What the tile reads of one frame, its patch with the border, is copied into
 * shared memory once for CK channels, and every tap reads its pixels from there:
 * ldmatrix takes a row address per lane, so a tap is an offset. Weights lie in
 * memory as the steps want them, one [BN, CK] block a tap, swizzled already.
 *
 *	steps: for each time tap, for each CK channels (a patch), for each tap
 *
 * Over a doubled image each place of a 2x2 square is a convolution of its own on
 * the small image (kernels/fold.h), a part. Phases are more columns. History, padding, strides are arithmetic of the patch walk, which steps
 * without dividing. Pixels of 2 * CK bytes are swizzled in columns of 16 bytes,
 * so that eight neighbours meet no bank twice. bf16 in, f32 sums, bf16 or f32
 * out. Portable: sm_89, sm_90, sm_120. */
#pragma once
#include "kernels/cuda/attention.cuh"

#define TILE_WIDTH 16

/* A call, by value. Rows and columns: of one part's output. */
struct conv_grid {
	int in, out, kt, kh, kw, stride_t, stride, phases, up;
	int columns;               /* phases * out: phases lie side by side, they read the same */
	bool relu;
	int before[2][2];          /* [y, x][odd]: how far before its place a part's first tap lies */
	int H, W, rows, cols;      /* input; output */
	int tiles_y, tiles_x, column_tiles, parts; /* parts: places of the square, 1 or 4 */
	int chunks;                /* patches of CK channels a frame */
	int patch_h, patch_w, patch_bytes;
	int lead;                  /* patches loaded ahead; lead + 1 are held */
};

/* A call as conv.cu gives it to conv_sm90.cu: false, and nothing done, where that
 * one has no kernel for it. */
struct conv_tiles {
	const conv_grid *grid;
	int columns, chunk; /* of the packed weights */
	const void *w;
	const float *bias;
};
bool conv_flow(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *history,
	const struct conv_tiles *c, const struct tensor *skip);

/* What a block makes. */
struct conv_tile {
	int column, part, odd_y, odd_x, frame, y, x; /* frame, y, x: in the part's output */
};

template <int TH, int BN> __host__ __device__ __forceinline__ conv_tile tile_of(const conv_grid &g, unsigned block) {
	conv_tile t;
	t.column = (int)(block % (unsigned)g.column_tiles) * BN;
	block /= (unsigned)g.column_tiles;
	t.part = (int)(block % (unsigned)g.parts);
	block /= (unsigned)g.parts;
	t.odd_y = t.part / g.up;
	t.odd_x = t.part % g.up;
	t.x = (int)(block % (unsigned)g.tiles_x) * TILE_WIDTH;
	block /= (unsigned)g.tiles_x;
	t.y = (int)(block % (unsigned)g.tiles_y) * TH;
	t.frame = (int)(block / (unsigned)g.tiles_y);
	return t;
}

/* Element of column `column` (of all phases) of the tile's pixel (row, col) in the
 * output image [frames * phases, rows * up, cols * up, out]. */
__host__ __device__ __forceinline__ int64_t output_at(const conv_grid &g, const conv_tile &t, int row, int col, int column) {
	int phase = 0;
	for (; column >= g.out; column -= g.out)
		phase++;
	int64_t line = ((int64_t)t.frame * g.phases + phase) * g.rows * g.up + (t.y + row) * g.up + t.odd_y;
	return (line * g.cols * g.up + (t.x + col) * g.up + t.odd_x) * g.out + column;
}

/* Byte offset of 16-byte column `vec` of pixel (or weight row) i. */
template <int CK> __host__ __device__ __forceinline__ int swizzle_of(int i) {
	return CK == 64 ? i & 7 : (i >> 1) & 3;
}
template <int CK> __host__ __device__ __forceinline__ int pixel_at(int i, int vec) {
	return i * CK * 2 + ((vec ^ swizzle_of<CK>(i)) << 4);
}

/* f(i, offset of the input pixel in its frame or -1 for padding) for each pixel of a
 * patch that is thread `thread`'s, at the patch's upper left input pixel. */
template <int STEP, typename F>
__host__ __device__ __forceinline__ void patch_walk(const conv_grid &g, int first, int top, int left, F f) {
	int y = first / g.patch_w, x = first % g.patch_w;
	for (int i = first; i < g.patch_h * g.patch_w; i += STEP) {
		int iy = top + y, ix = left + x;
		bool inside = (unsigned)iy < (unsigned)g.H && (unsigned)ix < (unsigned)g.W;
		f(i, inside ? iy * g.W + ix : -1);
		for (x += STEP; x >= g.patch_w; x -= g.patch_w)
			y++;
	}
}

template <int CK> __host__ __device__ constexpr int conv_stages() {
	return CK == 64 ? 3 : 4;
}
/* A row of the finished tile in shared memory: 16 bytes more than it needs, against bank conflicts. */
template <int BN> __host__ __device__ constexpr int conv_pitch() {
	return BN * 2 + 16;
}

/* Step s of a block: weights of step s + AHEAD and, with the first tap of a patch,
 * the patch `lead` further are under way while step s is multiplied. */
template <int TH, int BN, int WM, int WN, int CK, int BLOCKS, typename Y>
__global__ void __launch_bounds__(WM *WN * 32, BLOCKS) conv_patch_kernel(Y *y, const __nv_bfloat16 *x,
	const __nv_bfloat16 *history, const __nv_bfloat16 *w, const float *bias, const Y *skip,
	const __grid_constant__ conv_grid g) {
	constexpr int THREADS = WM * WN * 32, MI = TH / WM, NJ = BN / WN / 8, VECS = CK / 8;
	constexpr int STAGES = conv_stages<CK>(), AHEAD = STAGES - 1;
	constexpr int B_BYTES = BN * CK * 2, PITCH = conv_pitch<BN>();
	static_assert(TH % WM == 0 && BN % (WN * 16) == 0, "tile shape");
	extern __shared__ __align__(1024) char conv_shared[];
	char *const shared = conv_shared;
	char *const a = shared + STAGES * B_BYTES;
	const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, wm = warp / WN, wn = warp % WN;
	const conv_tile t = tile_of<TH, BN>(g, blockIdx.x);
	const int taps = g.kh * g.kw, vec = thread & (VECS - 1);
	const int top = t.y * g.stride - g.before[0][t.odd_y], left = t.x * g.stride - g.before[1][t.odd_x];

	/* Frames before the stream are zeros: their time taps are left out. */
	int frame = t.frame * g.stride_t - (g.kt - 1), skipped = 0;
	if (!history && frame < 0) {
		skipped = min(-frame, g.kt - 1);
		frame += skipped;
	}
	const int patches = (g.kt - skipped) * g.chunks, steps = patches * taps;
	const char *weights = (const char *)w + thread * 16 +
		(((int64_t)t.part * g.column_tiles + t.column / BN) * g.kt + skipped) * g.chunks * taps * B_BYTES;

	int chunk = 0, to_patch = 0; /* of the next patch to load */
	auto load_patch = [&]() {
		const int64_t plane = (int64_t)g.H * g.W * g.in;
		const int c = chunk * CK + vec * 8;
		const __nv_bfloat16 *from = (frame < 0 ? history + (frame + g.kt - 1) * plane : x + frame * plane) + c;
		char *to = a + to_patch * g.patch_bytes;
		patch_walk<THREADS / VECS>(g, thread / VECS, top, left, [&](int i, int offset) {
			bool ok = offset >= 0 && c < g.in;
			copy16(to + pixel_at<CK>(i, vec), ok ? from + (int64_t)offset * g.in : x, ok);
		});
		if (++chunk == g.chunks) {
			chunk = 0;
			frame++;
		}
		to_patch = to_patch == g.lead ? 0 : to_patch + 1;
	};
	int to_stage = 0;
	auto load_weights = [&]() {
#pragma unroll
		for (int i = 0; i < B_BYTES; i += THREADS * 16) {
			if (B_BYTES % (THREADS * 16) == 0 || i + thread * 16 < B_BYTES)
				copy16(shared + to_stage * B_BYTES + i + thread * 16, weights + i, true);
		}
		weights += B_BYTES;
		to_stage = to_stage == STAGES - 1 ? 0 : to_stage + 1;
	};

	for (int p = 0; p < g.lead && p < patches; p++)
		load_patch();
	for (int s = 0; s < AHEAD; s++) {
		if (s < steps)
			load_weights();
		copy_commit();
	}

	/* Fragment i is row row0 + i of the tile: 16 pixels. */
	const int row0 = wm * MI, pixel = (row0 * g.patch_w + (lane & 15)) * g.stride, below = g.patch_w * g.stride, high = lane >> 4;
	uint32_t fb_at[NJ / 2];
#pragma unroll
	for (int j = 0; j < (NJ / 2); j++)
		fb_at[j] = pixel_at<CK>(wn * (BN / WN) + j * 16 + (lane & 7) + ((lane >> 4) << 3), (lane >> 3) & 1);
	const uint32_t a_base = smem_address(a), b_base = smem_address(shared);
	float acc[MI][NJ][4] = {};
	int patch = 0, stage = 0, in_patch = 0, dx = 0, dy = 0;
	for (int s = 0; s < steps; s++) {
		copy_wait<AHEAD - 1>();
		__syncthreads();
		if (dx == 0 && dy == 0 && patch + g.lead < patches)
			load_patch();
		if (s + AHEAD < steps)
			load_weights();
		copy_commit();
		const uint32_t ta = a_base + in_patch * g.patch_bytes, tb = b_base + stage * B_BYTES;
		const int first = pixel + dy * g.patch_w + dx;
		uint32_t fa_at[MI];
#pragma unroll
		for (int i = 0; i < MI; i++)
			fa_at[i] = ta + pixel_at<CK>(first + i * below, high);
#pragma unroll
		for (int kk = 0; kk < CK / 16; kk++) {
			uint32_t fa[MI][4], fb[NJ / 2][4];
#pragma unroll
			for (int j = 0; j < (NJ / 2); j++) {
				ldmatrix4(fb[j], tb + (fb_at[j] ^ (kk << 5)));
			}
#pragma unroll
			for (int i = 0; i < MI; i++)
				ldmatrix4(fa[i], fa_at[i] ^ (kk << 5));
#pragma unroll
			for (int i = 0; i < MI; i++) {
#pragma unroll
				for (int j = 0; j < NJ; j++)
					mma_bf16(acc[i][j], fa[i], fb[j >> 1][(j & 1) * 2], fb[j >> 1][(j & 1) * 2 + 1]);
			}
		}
		stage = stage == STAGES - 1 ? 0 : stage + 1;
		if (++dx == g.kw) {
			dx = 0;
			if (++dy == g.kh) {
				dy = 0;
				patch++;
				in_patch = in_patch == g.lead ? 0 : in_patch + 1;
			}
		}
	}
	copy_wait<0>();
	__syncthreads();

	/* This lane's two channels of fragment j, two rows of pixels a fragment i. */
	const int channel = wn * (BN / WN) + (lane & 3) * 2, bias_at = t.column + channel;
	const bool whole = sizeof(Y) == 2 && g.out % 8 == 0;
	auto each_vector = [&](auto f) {
		for (int e = thread; e < TH * TILE_WIDTH * (BN / 8); e += THREADS) {
			int p = e / (BN / 8), v = e % (BN / 8), row = p / TILE_WIDTH, col = p % TILE_WIDTH;
			if (t.y + row < g.rows && t.x + col < g.cols && t.column + v * 8 < g.columns)
				f(shared + p * PITCH + v * 16, output_at(g, t, row, col, t.column + v * 8));
		}
	};
	if (whole && skip) {
		each_vector([&](char *at, int64_t offset) { copy16(at, skip + offset, true); });
		copy_commit();
		copy_wait<0>();
		__syncthreads();
	}
#pragma unroll
	for (int j = 0; j < NJ; j++) {
		float b[2] = {0.f, 0.f};
#pragma unroll
		for (int e = 0; e < 2; e++) {
			if (bias && t.column + channel + j * 8 + e < g.columns)
				b[e] = bias[bias_at + j * 8 + e];
		}
#pragma unroll
		for (int i = 0; i < MI; i++) {
#pragma unroll
			for (int half = 0; half < 2; half++) {
				const int row = row0 + i, col = (lane >> 2) + half * 8;
				float v[2] = {acc[i][j][half * 2] + b[0], acc[i][j][half * 2 + 1] + b[1]};
				if (whole) {
					uint32_t *at = (uint32_t *)(shared + (row * TILE_WIDTH + col) * PITCH + (channel + j * 8) * 2);
					if (skip) {
						float2 s = __bfloat1622float2(*(__nv_bfloat162 *)at);
						v[0] += s.x;
						v[1] += s.y;
					}
					if (g.relu) {
						v[0] = fmaxf(v[0], 0.f);
						v[1] = fmaxf(v[1], 0.f);
					}
					*at = pack_bf16(v[0], v[1]);
					continue;
				}
#pragma unroll
				for (int e = 0; e < 2; e++) {
					int o = t.column + channel + j * 8 + e;
					if (t.y + row >= g.rows || t.x + col >= g.cols || o >= g.columns)
						continue;
					int64_t at = output_at(g, t, row, col, o);
					float r = skip ? v[e] + to_float(skip[at]) : v[e];
					y[at] = from_float<Y>(g.relu ? fmaxf(r, 0.f) : r);
				}
			}
		}
	}
	if (!whole)
		return;
	__syncthreads();
	each_vector([&](char *at, int64_t offset) { *(uint4 *)(y + offset) = *(const uint4 *)at; });
}
