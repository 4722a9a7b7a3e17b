/* SPDX-License-Identifier: Apache-2.0 */
/* Attention by lists of blocks of 16 tokens, bf16, heads of 64 or 128 channels: one
 * CTA a query block, whose keys its warps share out: each warp takes every WARPS-th
 * block of the list through a ring of its own, mma.sync m16n8k16, softmax in f32;
 * at the end the warps' results are merged. No warp waits for another before that.
 * Bound by latency. */
#include "kernels/cuda/attention_small.cuh"

#define ROWS16 16
#define RING 3

template <int C> struct small_plan {
	static constexpr int warps = 512 / C, half = ROWS16 * C * 2, stage = 2 * half; /* keys, then values */
	static constexpr int shared_bytes = warps * RING * stage;
};

/* Byte of 16-byte column `col` of row `row` in 16 rows: pieces of 128 bytes a row, swizzled. */
__device__ __forceinline__ int small_byte(int row, int col) {
	return (col >> 3) * (ROWS16 * 128) + row * 128 + (((col & 7) ^ (row & 7)) << 4);
}

/* Starts to copy entry e's keys and values for one warp; returns how many keys are real. */
template <int C>
__device__ __forceinline__ int load_entry(char *to, const list_source<false> &source, const int32_t *index, int head, int e, int lane) {
	const span_list &l = source.l;
	int block = index[e], frame = block / l.per_frame, row = (block - frame * l.per_frame) * ROWS16;
	kv_frame f = span_frame(l, head, frame);
	int at = row / TILE * (TILE * C * 2) + row % TILE * 128;
#pragma unroll
	for (int i = 0; i < C / 64; i++) {
#pragma unroll
		for (int k = 0; k < 4; k++) {
			int byte = k * 512 + lane * 16;
			copy16(to + i * 2048 + byte, f.k + at + i * (TILE * 128) + byte, true);
			copy16(to + small_plan<C>::half + i * 2048 + byte, f.v + at + i * (TILE * 128) + byte, true);
		}
	}
	return min(ROWS16, l.s - row);
}

/* Merges the warps' results, which lie in the first half of each ring, into y. */
template <int C>
__device__ __forceinline__ void merge_small(__nv_bfloat16 *y, char *shared, const float2 (*state)[ROWS16], int rows, int64_t stride) {
	constexpr int warps = small_plan<C>::warps, ring = RING * small_plan<C>::stage;
	for (int i = threadIdx.x; i < rows * (C / 2); i += warps * 32) {
		int row = i / (C / 2), ch = i % (C / 2) * 2;
		float top = NEVER, sum = 0.f;
		float2 o = make_float2(0.f, 0.f);
		for (int w = 0; w < warps; w++)
			top = fmaxf(top, state[w][row].x);
		for (int w = 0; w < warps; w++) {
			float weight = exp2_fast(state[w][row].x - top);
			float2 x = *reinterpret_cast<const float2 *>(shared + w * ring + (row * C + ch) * 4);
			sum += state[w][row].y * weight;
			o.x += x.x * weight, o.y += x.y * weight;
		}
		float inv = 1.f / sum;
		*reinterpret_cast<__nv_bfloat162 *>(y + row * stride + ch) = __floats2bfloat162_rn(o.x * inv, o.y * inv);
	}
}

/* Grid: query blocks, heads. q and y [n, heads * C]. */
template <int C>
__global__ void __launch_bounds__(small_plan<C>::warps * 32) attention_small_kernel(__nv_bfloat16 *y, const __nv_bfloat16 *q,
	const list_source<false> source, const query_tiles tiles, int heads, float unit) {
	using P = small_plan<C>;
	extern __shared__ __align__(128) char shared[];
	__shared__ float2 state[P::warps][ROWS16];
	int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, head = blockIdx.y, g = lane >> 2, t = lane & 3;
	int first = tiles.first(blockIdx.x), rows = tiles.rows(blockIdx.x);
	int64_t stride = (int64_t)heads * C, begin = first * stride + head * C;
	const int32_t *index = source.index + ((int64_t)head * source.query_blocks + blockIdx.x) * source.kept;
	char *ring = shared + warp * (RING * P::stage);
	int valid[RING];
#pragma unroll
	for (int i = 0; i < RING - 1; i++) {
		valid[i] = 0;
		if (warp + i * P::warps < source.kept)
			valid[i] = load_entry<C>(ring + i * P::stage, source, index, head, warp + i * P::warps, lane);
		copy_commit();
	}
	uint32_t qf[C / 16][4];
#pragma unroll
	for (int i = 0; i < C / 4; i++) {
		int row = g + (i & 1) * 8, ch = i / 4 * 16 + (i >> 1 & 1) * 8 + t * 2;
		qf[i / 4][i % 4] = *reinterpret_cast<const uint32_t *>(q + begin + min(row, rows - 1) * stride + ch);
	}
	float o[C / 8][4], top[2] = {NEVER, NEVER}, sum[2] = {0.f, 0.f};
#pragma unroll
	for (int n = 0; n < C / 8; n++)
		o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0.f;
	int b_row = (lane & 7) + ((lane >> 4) << 3), b_half = (lane >> 3) & 1, v_row = (lane & 7) + (((lane >> 3) & 1) << 3);
	int at = 0, real = valid[0], next = valid[1];
	for (int e = warp; e < source.kept; e += P::warps) {
		copy_wait<RING - 2>();
		__syncwarp();
		int ahead = 0, to = at + RING - 1 >= RING ? at - 1 : at + RING - 1;
		if (e + (RING - 1) * P::warps < source.kept)
			ahead = load_entry<C>(ring + to * P::stage, source, index, head, e + (RING - 1) * P::warps, lane);
		copy_commit();
		const char *k = ring + at * P::stage, *v = k + P::half;
		float s[2][4] = {};
#pragma unroll
		for (int kk = 0; kk < C / 16; kk++) {
			uint32_t b[4];
			ldmatrix4(b, smem_address(k + small_byte(b_row, kk * 2 + b_half)));
			mma_bf16(s[0], qf[kk], b[0], b[1]);
			mma_bf16(s[1], qf[kk], b[2], b[3]);
		}
#pragma unroll
		for (int i = 0; i < 8; i++)
			s[i / 4][i % 4] = i / 4 * 8 + t * 2 + (i & 1) < real ? s[i / 4][i % 4] * unit : NEVER;
#pragma unroll
		for (int r = 0; r < 2; r++) {
			float high = fmaxf(fmaxf(s[0][2 * r], s[0][2 * r + 1]), fmaxf(s[1][2 * r], s[1][2 * r + 1]));
			high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
			high = fmaxf(top[r], fmaxf(high, __shfl_xor_sync(~0u, high, 2)));
			float keep = exp2_fast(top[r] - high);
			top[r] = high;
#pragma unroll
			for (int i = 0; i < 4; i++)
				s[i / 2][2 * r + i % 2] = exp2_fast(s[i / 2][2 * r + i % 2] - high);
			sum[r] = sum[r] * keep + s[0][2 * r] + s[0][2 * r + 1] + s[1][2 * r] + s[1][2 * r + 1];
#pragma unroll
			for (int n = 0; n < C / 8; n++)
				o[n][2 * r] *= keep, o[n][2 * r + 1] *= keep;
		}
		uint32_t a[4] = {pack_bf16(s[0][0], s[0][1]), pack_bf16(s[0][2], s[0][3]), pack_bf16(s[1][0], s[1][1]),
			pack_bf16(s[1][2], s[1][3])};
#pragma unroll
		for (int n = 0; n < C / 8; n += 2) {
			uint32_t b[4];
			ldmatrix4_transposed(b, smem_address(v + small_byte(v_row, n + (lane >> 4))));
			mma_bf16(o[n], a, b[0], b[1]);
			mma_bf16(o[n + 1], a, b[2], b[3]);
		}
		__syncwarp();
		at = at + 1 == RING ? 0 : at + 1;
		real = next, next = ahead;
	}
	copy_wait<0>();
	__syncwarp();
#pragma unroll
	for (int r = 0; r < 2; r++) {
		sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
		sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
		if (t == 0)
			state[warp][g + r * 8] = make_float2(top[r], sum[r]);
#pragma unroll
		for (int n = 0; n < C / 8; n++)
			*reinterpret_cast<float2 *>(ring + ((g + r * 8) * C + n * 8 + t * 2) * 4) = make_float2(o[n][2 * r], o[n][2 * r + 1]);
	}
	__syncthreads();
	merge_small<C>(y + begin, shared, state, rows, stride);
}

template <int C>
static void small_launch(struct backend *be, struct tensor *y, const struct tensor *q, const list_source<false> &source,
	const query_tiles &tiles, int heads, float scale) {
	cudaError_t r = cudaFuncSetAttribute(attention_small_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize,
		small_plan<C>::shared_bytes);
	if (r != cudaSuccess)
		cuda_latch(be, r, "attention", q);
	dim3 grid((unsigned)source.query_blocks, (unsigned)heads);
	attention_small_kernel<C><<<grid, small_plan<C>::warps * 32, small_plan<C>::shared_bytes, cuda_of(be)->stream>>>(
		(__nv_bfloat16 *)y->data, (const __nv_bfloat16 *)q->data, source, tiles, heads, scale * LOG2E);
}

bool attention_small(struct backend *be, struct tensor *y, const struct tensor *q, const list_source<false> &source,
	const query_tiles &tiles, int heads, float scale) {
	if (source.l.block != ROWS16)
		return false;
	if (source.l.c == 64)
		small_launch<64>(be, y, q, source, tiles, heads, scale);
	else if (source.l.c == 128)
		small_launch<128>(be, y, q, source, tiles, heads, scale);
	return source.l.c == 64 || source.l.c == 128;
}
