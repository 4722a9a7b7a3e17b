/* SPDX-License-Identifier: Apache-2.0 */
/* The convolution of conv.cuh for Hopper (sm_90a): blocks stay and take one tile
 * after the other. One warp fetches patches by tensor copies, which swizzle and
 * zero the border, and weights by bulk copies; it runs ahead, into the next tile,
 * as far as there is room. Warpgroups multiply: pixels from the patch by
 * ldmatrix, as a tap is a row address a lane, weights from shared memory by wgmma.
 * The finished tile goes from registers to memory, quads of lanes exchanging
 * channels so that each stores 16 bytes. bf16 in and out, channels in eights,
 * stride 1. */
#pragma once
#include <cuda.h>
#include <cudaTypedefs.h>

#include "kernels/cuda/conv.cuh"
#include "kernels/cuda/wgmma.cuh"

#define FLOW_PATCHES_MAX 3

/* Shared memory: patches, weights, barriers. */
struct conv_flow_args {
	conv_grid grid;            /* patch_bytes in 1024s */
	int64_t tiles;
	int patches, patch_load;   /* held; bytes of one that are copied */
};

#if WGMMA
__device__ __forceinline__ void tensor_load(uint32_t to, const CUtensorMap *map, int c, int x, int y, int frame, uint32_t bar) {
	asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
		     "[%6];\n" ::"r"(to),
		"l"(map), "r"(c), "r"(x), "r"(y), "r"(frame), "r"(bar)
		: "memory");
}

/* Lane l of a quad gives its v[m] to lane m and gets lane m's v[l]. */
__device__ __forceinline__ void quad_transpose(uint32_t v[4], int lane) {
	bool odd = lane & 1, high = lane & 2;
#pragma unroll
	for (int i = 0; i < 4; i += 2) {
		uint32_t got = __shfl_xor_sync(~0u, odd ? v[i] : v[i + 1], 1);
		v[i] = odd ? got : v[i];
		v[i + 1] = odd ? v[i + 1] : got;
	}
#pragma unroll
	for (int i = 0; i < 2; i++) {
		uint32_t got = __shfl_xor_sync(~0u, high ? v[i] : v[i + 2], 2);
		v[i] = high ? got : v[i];
		v[i + 2] = high ? v[i + 2] : got;
	}
}

/* A ring of slots in shared memory, each with a barrier for full and one for empty. */
struct flow_ring {
	uint32_t full, empty; /* addresses of the first barriers */
	int slots, at, phase;
	__device__ __forceinline__ void next() {
		if (++at == slots) {
			at = 0;
			phase ^= 1;
		}
	}
	__device__ __forceinline__ void wait_full() const {
		barrier_wait(full + at * 8, phase);
	}
	__device__ __forceinline__ void wait_empty() const {
		barrier_wait(empty + at * 8, phase ^ 1);
	}
};

/* What column `column` of all phases adds to an element of the first phase's channel 0. */
__device__ __forceinline__ int column_at(const conv_grid &g, int column) {
	int at = column;
	for (int c = column; c >= g.out; c -= g.out)
		at += (g.rows * g.cols * g.up * g.up - 1) * g.out;
	return at;
}

/* Products of 16 channels in a step, as a type. */
template <int N> struct flow_depth {
	__device__ constexpr int operator()() const {
		return N;
	}
};

/* First time tap that has a frame, and that frame: negative ones are history. */
__device__ __forceinline__ int first_frame(const conv_grid &g, const conv_tile &t, bool history, int *skipped) {
	int frame = t.frame * g.stride_t - (g.kt - 1);
	*skipped = history || frame >= 0 ? 0 : min(-frame, g.kt - 1);
	return frame + *skipped;
}

/* Everything a block reads, in the order of use, by one thread: as far ahead as
 * there is room. A patch is asked for when its room is sure to be free soon: with
 * weights for a whole ring of steps into the patch before. */
template <int TH, int BN, int CK, int STAGES>
__device__ __forceinline__ void flow_fetch(const conv_flow_args &flow, const __nv_bfloat16 *w, bool history, const CUtensorMap *image,
	const CUtensorMap *past, flow_ring patch, flow_ring weight, uint32_t patches_at, uint32_t weights_at) {
	constexpr int B_BYTES = BN * CK * 2;
	const conv_grid &g = flow.grid;
	const int taps = g.kh * g.kw, late = min(STAGES, taps) - 1;
	int64_t ahead = blockIdx.x; /* tile of the next patch */
	conv_tile t = tile_of<TH, BN>(g, (unsigned)ahead);
	int skipped, frame = first_frame(g, t, history, &skipped), left = g.kt - skipped, chunk = 0;
	auto load_patch = [&]() {
		if (ahead >= flow.tiles)
			return;
		patch.wait_empty();
		barrier_arrive_bytes(patch.full + patch.at * 8, flow.patch_load);
		tensor_load(patches_at + patch.at * g.patch_bytes, frame < 0 ? past : image, chunk * CK,
			t.x - g.before[1][t.odd_x], t.y - g.before[0][t.odd_y], frame < 0 ? frame + g.kt - 1 : frame,
			patch.full + patch.at * 8);
		patch.next();
		if (++chunk < g.chunks)
			return;
		chunk = 0;
		frame++;
		if (--left > 0)
			return;
		ahead += gridDim.x;
		t = tile_of<TH, BN>(g, (unsigned)ahead);
		frame = first_frame(g, t, history, &skipped);
		left = g.kt - skipped;
	};
	load_patch();
	for (int64_t tile = blockIdx.x; tile < flow.tiles; tile += gridDim.x) {
		const conv_tile own = tile_of<TH, BN>(g, (unsigned)tile);
		int without, per_frame = g.chunks * taps;
		first_frame(g, own, history, &without);
		const char *from = (const char *)w +
			(((int64_t)own.part * g.column_tiles + own.column / BN) * g.kt + without) * per_frame * B_BYTES;
		for (int p = (g.kt - without) * g.chunks; p > 0; p--) {
			for (int tap = 0; tap < taps; tap++, from += B_BYTES) {
				weight.wait_empty();
				barrier_arrive_bytes(weight.full + weight.at * 8, B_BYTES);
				bulk_load(weights_at + weight.at * B_BYTES, from, B_BYTES, weight.full + weight.at * 8);
				weight.next();
				if (tap == late)
					load_patch();
			}
		}
	}
}

#endif

/* MORE: registers that the multiplying warps take over from the fetching ones, which
 * are four then; 0: as many as the launch gives. */
template <int GROUPS, int MORE> __host__ __device__ constexpr int flow_threads() {
	return GROUPS * 128 + (MORE ? 128 : 32);
}

template <int TH, int BN, int GROUPS, int CK, int STAGES, int BLOCKS, int MORE>
__global__ void __launch_bounds__(flow_threads<GROUPS, MORE>(), BLOCKS) conv_flow_kernel(__nv_bfloat16 *y, const __nv_bfloat16 *w,
	const float *bias, const __nv_bfloat16 *skip, int history, const __grid_constant__ conv_flow_args flow,
	const __grid_constant__ CUtensorMap image, const __grid_constant__ CUtensorMap past) {
#if WGMMA
	constexpr int MI = TH / 4 / GROUPS, NJ = BN / 8, B_BYTES = BN * CK * 2;
	extern __shared__ __align__(1024) char flow_shared[];
	const conv_grid &g = flow.grid;
	const uint32_t patches_at = smem_address(flow_shared), weights_at = patches_at + flow.patches * g.patch_bytes;
	const uint32_t bars = weights_at + STAGES * B_BYTES;
	const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, taps = g.kh * g.kw;
	flow_ring patch{bars, bars + FLOW_PATCHES_MAX * 8, flow.patches, 0, 0};
	flow_ring weight{bars + FLOW_PATCHES_MAX * 16, bars + FLOW_PATCHES_MAX * 16 + STAGES * 8, STAGES, 0, 0};
	if (thread == 0) {
		for (int i = 0; i < flow.patches; i++) {
			barrier_init(patch.full + i * 8, 1);
			barrier_init(patch.empty + i * 8, GROUPS * 4);
		}
		for (int i = 0; i < STAGES; i++) {
			barrier_init(weight.full + i * 8, 1);
			barrier_init(weight.empty + i * 8, GROUPS * 4);
		}
		asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
	}
	__syncthreads();

	if (warp >= GROUPS * 4) {
		if constexpr (MORE > 0)
			registers_fewer<40>();
		if (thread == GROUPS * 128)
			flow_fetch<TH, BN, CK, STAGES>(flow, w, history, &image, &past, patch, weight, patches_at, weights_at);
		return;
	}

	if constexpr (MORE > 0)
		registers_more<MORE>();
	/* Fragment i is row row0 + 4 i of the tile: 16 pixels. */
	const int row0 = (warp >> 2) * MI * 4 + (warp & 3);
	const int pixel = row0 * g.patch_w + (lane & 15), below = 4 * g.patch_w, high = lane >> 4;
	const bool whole_end = (g.in - 1) % CK >= CK / 2; /* else half of the last chunk is empty */
	for (int64_t tile = blockIdx.x; tile < flow.tiles; tile += gridDim.x) {
		const conv_tile t = tile_of<TH, BN>(g, (unsigned)tile);
		int skipped;
		first_frame(g, t, history, &skipped);
		float acc[MI][NJ][4] = {};
		int used = -1; /* slot of weights that products in flight read */
		int chunk = 0, at = 0, dx = 0;
		auto step = [&](auto depth) {
			uint32_t fa_at[MI], fa[2][MI][4];
#pragma unroll
			for (int i = 0; i < MI; i++) {
				fa_at[i] = patches_at + patch.at * g.patch_bytes + pixel_at<CK>(at + i * below, high);
				ldmatrix4(fa[0][i], fa_at[i]);
			}
			weight.wait_full();
			const uint64_t b = wgmma_tile<CK * 2>(weights_at + weight.at * B_BYTES);
#pragma unroll
			for (int kk = 0; kk < depth(); kk++) {
				wgmma_fence();
#pragma unroll
				for (int i = 0; i < MI; i++)
					wgmma_bf16<NJ>(acc[i], fa[kk & 1][i], b + kk * 2);
				wgmma_commit();
				wgmma_wait<1>();
				if (kk == 0 && used >= 0 && lane == 0)
					barrier_arrive(weight.empty + used * 8);
				if (kk + 1 < depth()) {
#pragma unroll
					for (int i = 0; i < MI; i++)
						ldmatrix4(fa[(kk + 1) & 1][i], fa_at[i] ^ ((kk + 1) << 5));
				}
			}
			used = weight.at;
			weight.next();
			at++;
			if (++dx == g.kw) {
				dx = 0;
				at += g.patch_w - g.kw;
			}
		};
		for (int p = (g.kt - skipped) * g.chunks; p > 0; p--) {
			patch.wait_full();
			at = pixel;
			if (++chunk < g.chunks || whole_end) {
				for (int tap = 0; tap < taps; tap++)
					step(flow_depth<CK / 16>{});
			} else {
				for (int tap = 0; tap < taps; tap++)
					step(flow_depth<CK / 32>{});
			}
			if (chunk == g.chunks)
				chunk = 0;
			barrier_release(patch.empty + patch.at * 8, lane);
			patch.next();
		}
		wgmma_wait<0>();
		if (lane == 0)
			barrier_arrive(weight.empty + used * 8);

		/* A quad's lanes exchange channels: of two in each of four fragments each gets eight of one. */
		int late = lane; /* opaque: what follows is not worth registers in the loop */
		asm volatile("" : "+r"(late));
		const int quad = late & 3, across = late >> 2;
		const int corner = (int)output_at(g, t, row0, across, 0), line = 4 * g.up * g.up * g.cols * g.out, eight = 8 * g.up * g.out;
#pragma unroll
		for (int j = 0; j < NJ; j += 4) {
			float2 b[4];
#pragma unroll
			for (int e = 0; e < 4; e++) {
				int column = t.column + (j + e) * 8 + quad * 2; /* columns are even */
				b[e] = bias && column < g.columns ? *(const float2 *)(bias + column) : make_float2(0.f, 0.f);
			}
			const int first = corner + column_at(g, t.column + (j + quad) * 8);
			const bool column_ok = t.column + (j + quad) * 8 < g.columns;
#pragma unroll
			for (int n = 0; n < MI * 2; n++) {
				const int i = n >> 1, half = n & 1, at = first + i * line + half * eight;
				const bool ok = column_ok && t.y + row0 + 4 * i < g.rows && t.x + across + half * 8 < g.cols;
				uint32_t v[4], s[4] = {0, 0, 0, 0};
				if (skip) {
					if (ok)
						*(uint4 *)s = *(const uint4 *)(skip + at);
					quad_transpose(s, late);
				}
#pragma unroll
				for (int e = 0; e < 4; e++) {
					float2 d = __bfloat1622float2(*(__nv_bfloat162 *)&s[e]);
					float lo = acc[i][j + e][half * 2] + b[e].x + d.x, hi = acc[i][j + e][half * 2 + 1] + b[e].y + d.y;
					v[e] = g.relu ? pack_bf16(fmaxf(lo, 0.f), fmaxf(hi, 0.f)) : pack_bf16(lo, hi);
				}
				quad_transpose(v, late);
				if (ok)
					*(uint4 *)(y + at) = make_uint4(v[0], v[1], v[2], v[3]);
			}
		}
	}
#endif
}
