/* SPDX-License-Identifier: Apache-2.0 */
/* Attention to a text on Hopper: bf16, heads of 128 channels, up to 256 keys as
 * plain rows, the last of which may stand for several. Keys and values of a head
 * stay in shared memory; three warpgroups walk over the query tiles. Bound by
 * memory: q is read and y written once. */
#include "kernels/cuda/attention_sm90.cuh"
#include "kernels/cuda/attention_wgmma.cuh"

#define GROUPS 3                /* warpgroups */
#define KEY_TILES_MAX 4         /* 256 keys */

static size_t shared_bytes(int key_tiles) {
	return (size_t)(2 * key_tiles + 2 * GROUPS) * TILE_BYTES;
}

/* Grid: CTAs of a head, heads. bonus: what to add to the raw score of the last key.
 * Shared: keys, values, then two query tiles for each warpgroup. */
__global__ void __launch_bounds__(GROUPS * 128, 1) sdpa_sm90_kernel(__nv_bfloat16 *y, const __nv_bfloat16 *q,
	const plain_source source, int n, int heads, float unit, float bonus) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
	extern __shared__ __align__(1024) char shared[];
	int wg = __shfl_sync(~0u, threadIdx.x / 128, 0), thread = threadIdx.x % 128, lane = thread & 31, head = blockIdx.y;
	int steps = source.count(), tiles = (n + TILE - 1) / TILE, pace = gridDim.x * GROUPS;
	int64_t stride = (int64_t)heads * WIDTH;
	char *v = shared + steps * TILE_BYTES, *room = shared + (2 * steps + wg * 2) * TILE_BYTES;
	const __nv_bfloat16 *from = q + head * WIDTH;
	int t = blockIdx.x * GROUPS + wg;
	for (int i = threadIdx.x; i < steps * TILE * (WIDTH / 8); i += GROUPS * 128) {
		int row = i / (WIDTH / 8), col = i % (WIDTH / 8), to = row / TILE * TILE_BYTES + tile_byte<WIDTH>(row % TILE, col);
		int64_t at = (int64_t)min(row, source.m - 1) * source.row_elements + head * WIDTH + col * 8;
		copy16(shared + to, (const __nv_bfloat16 *)source.k + at, row < source.m);
		copy16(v + to, (const __nv_bfloat16 *)source.v + at, row < source.m);
	}
	if (t < tiles)
		load_queries(room, from + (int64_t)t * TILE * stride, min(TILE, n - t * TILE), stride, thread);
	copy_wait<0>();
	fence_async();
	__syncthreads();
	for (int turn = 0; t < tiles; t += pace, turn ^= 1) {
		int rows = min(TILE, n - t * TILE), next = t + pace;
		char *tile = room + turn * TILE_BYTES;
		copy_wait<0>();
		fence_async();
		named_sync(1 + wg, 128);
		if (next < tiles)
			load_queries(room + (turn ^ 1) * TILE_BYTES, from + (int64_t)next * TILE * stride, min(TILE, n - next * TILE),
				stride, thread);
		float o[64], s[32], top[2] = {NEVER, NEVER}, sum[2] = {0.f, 0.f}, keep[2];
		uint32_t p[4][4];
#pragma unroll
		for (int i = 0; i < 64; i++)
			o[i] = 0.f;
		for (int j = 0; j < steps; j++) {
			hold(s);
			wgmma_fence();
			issue_scores<64>(s, rows_descriptor(smem_address(tile)), rows_descriptor(smem_address(shared + j * TILE_BYTES)));
			wgmma_commit();
			wgmma_wait<0>();
			hold(s);
			int valid = source.m - j * TILE;
			if (valid <= TILE) {
				mask_scores<64>(s, valid, lane);
#pragma unroll
				for (int i = 0; i < 32; i++)
					s[i] += i / 4 * 8 + (lane & 3) * 2 + (i & 1) == valid - 1 ? bonus : 0.f;
			}
			soften<64>(s, top, sum, keep, unit);
			rescale(o, keep);
			pack_scores<64>(p, s);
			hold(o);
			hold(p);
			wgmma_fence();
			issue_values<64>(o, p, values_descriptor(smem_address(v + j * TILE_BYTES), PIECE_BYTES));
			wgmma_commit();
			wgmma_wait<0>();
			hold(o);
			hold(p);
		}
#pragma unroll
		for (int i = 0; i < 2; i++) {
			sum[i] += __shfl_xor_sync(~0u, sum[i], 1);
			sum[i] += __shfl_xor_sync(~0u, sum[i], 2);
		}
		store_result(y + (int64_t)t * TILE * stride + head * WIDTH, tile, o, sum, rows, stride, wg, thread);
	}
#endif
}

bool sdpa_sm90(struct backend *be, struct tensor *y, const struct tensor *q, const plain_source &source,
	const query_tiles &tiles, int heads, float scale) {
	if (source.bias || source.m > KEY_TILES_MAX * TILE)
		return false;
	size_t bytes = shared_bytes(source.m > 0 ? (int)ceil_div(source.m, TILE) : 1);
	cudaError_t r = cudaFuncSetAttribute(sdpa_sm90_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
		(int)shared_bytes(KEY_TILES_MAX));
	if (r != cudaSuccess)
		cuda_latch(be, r, "sdpa", q);
	int ctas = max(cuda_of(be)->processors / heads, 1), most = (int)ceil_div(tiles.n, TILE * GROUPS);
	sdpa_sm90_kernel<<<dim3((unsigned)min(ctas, most), (unsigned)heads), GROUPS * 128, bytes, cuda_of(be)->stream>>>(
		(__nv_bfloat16 *)y->data, (const __nv_bfloat16 *)q->data, source, tiles.n, heads, scale * 1.4426950408889634f,
		source.last / scale);
	return true;
}
