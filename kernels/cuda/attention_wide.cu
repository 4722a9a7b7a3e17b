/* SPDX-License-Identifier: Apache-2.0 */
/* Plain attention with heads too wide for a warp's registers: 192 or 384 channels,
 * the middle block of the Wan VAE. bf16 on the tensor cores (mma.sync), softmax in
 * f32 over all keys as they come. TQ queries a block; two warps share 16 of them:
 * each scores half the keys of a tile, hands its probabilities over in shared
 * memory, and sums half the channels. While keys are multiplied values load, and
 * the other way round. Bound by the tensor cores. */
#include "kernels/cuda/attention.cuh"

template <int C, int TQ, int TK> __host__ __device__ constexpr size_t wide_shared_bytes() {
	return (size_t)(TQ + 2 * TK) * C * 2 + (size_t)TQ * (TK + 8) * 2 + (size_t)TQ * 4 * sizeof(float);
}

/* Byte offset of 16-byte column `col` of row `row`: eight rows meet no bank twice. */
template <int C> __device__ __forceinline__ int wide_at(int row, int col) {
	return (row * (C / 8) + (col ^ (row & 7))) * 16;
}

/* `rows` rows of C channels from row `first` of [count, stride]; those past the end are zeros. */
template <int C>
__device__ __forceinline__ void load_rows(char *to, const __nv_bfloat16 *from, int first, int rows, int count, int64_t stride) {
	for (int i = threadIdx.x; i < rows * (C / 8); i += blockDim.x) {
		int r = i / (C / 8), col = i % (C / 8);
		bool ok = first + r < count;
		copy16(to + wide_at<C>(r, col), ok ? from + (first + r) * stride + col * 8 : from, ok);
	}
}

/* Grid: query tiles, heads; 4 * TQ threads. q, y [n, heads * C], k, v [m, heads * C]. */
template <int C, int TQ, int TK>
__global__ void __launch_bounds__(TQ * 4, 1) attention_wide_kernel(__nv_bfloat16 *y, const __nv_bfloat16 *q,
	const __nv_bfloat16 *k, const __nv_bfloat16 *v, int n, int m, int heads, float scale) {
	constexpr int KEYS = TK / 2, HALF = C / 2, PITCH = TK + 8; /* a warp's keys of a tile, its channels */
	extern __shared__ __align__(128) char wide_shared[];
	char *const tq = wide_shared, *const tk = tq + TQ * C * 2, *const tv = tk + TK * C * 2;
	__nv_bfloat16 *const p = (__nv_bfloat16 *)(tv + TK * C * 2);
	float *const tops = (float *)(p + TQ * PITCH), *const sums = tops + 2 * TQ; /* [2, TQ] each */
	const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, rows = (warp >> 1) * 16, side = warp & 1;
	const int first = blockIdx.x * TQ, tiles = (m + TK - 1) / TK;
	const int64_t stride = (int64_t)heads * C, head = (int64_t)blockIdx.y * C;
	q += head, k += head, v += head, y += head;

	load_rows<C>(tq, q, first, TQ, n, stride);
	load_rows<C>(tk, k, 0, TK, m, stride);
	copy_commit();
	load_rows<C>(tv, v, 0, TK, m, stride);
	copy_commit();
	float o[HALF / 8][4] = {}, top[2] = {NEVER, NEVER}, sum[2] = {0.f, 0.f};
	const int a_row = rows + (lane & 15), b_row = (lane & 7) + ((lane >> 4) << 3), b_col = (lane >> 3) & 1;
	const int v_row = (lane & 7) + (((lane >> 3) & 1) << 3), v_col = lane >> 4;
	scale *= 1.4426950408889634f;
	for (int j = 0; j < tiles; j++) {
		copy_wait<1>();
		__syncthreads();
		float s[KEYS / 8][4] = {};
#pragma unroll 4
		for (int kk = 0; kk < C / 16; kk++) {
			uint32_t a[4], b[4];
			ldmatrix4(a, smem_address(tq + wide_at<C>(a_row, kk * 2 + (lane >> 4))));
#pragma unroll
			for (int i = 0; i < KEYS / 16; i++) {
				ldmatrix4(b, smem_address(tk + wide_at<C>(side * KEYS + i * 16 + b_row, kk * 2 + b_col)));
				mma_bf16(s[2 * i], a, b[0], b[1]);
				mma_bf16(s[2 * i + 1], a, b[2], b[3]);
			}
		}
#pragma unroll
		for (int r = 0; r < 2; r++) {
			float high = NEVER;
#pragma unroll
			for (int i = 0; i < KEYS / 8; i++) {
#pragma unroll
				for (int e = 0; e < 2; e++) {
					bool ok = j * TK + side * KEYS + i * 8 + (lane & 3) * 2 + e < m;
					s[i][2 * r + e] = ok ? s[i][2 * r + e] * scale : NEVER;
					high = fmaxf(high, s[i][2 * r + e]);
				}
			}
			high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
			high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
			if ((lane & 3) == 0)
				tops[side * TQ + rows + (lane >> 2) + r * 8] = high;
		}
		__syncthreads();
		if (j + 1 < tiles)
			load_rows<C>(tk, k, (j + 1) * TK, TK, m, stride);
		copy_commit();
		float keep[2];
#pragma unroll
		for (int r = 0; r < 2; r++) {
			int row = rows + (lane >> 2) + r * 8;
			float high = fmaxf(top[r], fmaxf(tops[row], tops[TQ + row]));
			keep[r] = exp2_fast(top[r] - high);
			top[r] = high;
			sum[r] *= keep[r];
#pragma unroll
			for (int i = 0; i < KEYS / 8; i++) {
				float lo = exp2_fast(s[i][2 * r] - high), hi = exp2_fast(s[i][2 * r + 1] - high);
				sum[r] += lo + hi;
				*(uint32_t *)(p + row * PITCH + side * KEYS + i * 8 + (lane & 3) * 2) = pack_bf16(lo, hi);
			}
		}
#pragma unroll
		for (int i = 0; i < HALF / 8; i++) {
			o[i][0] *= keep[0], o[i][1] *= keep[0];
			o[i][2] *= keep[1], o[i][3] *= keep[1];
		}
		copy_wait<1>();
		__syncthreads();
#pragma unroll
		for (int kk = 0; kk < TK / 16; kk++) {
			uint32_t a[4], b[4];
			ldmatrix4(a, smem_address(p + a_row * PITCH + kk * 16 + (lane >> 4) * 8));
#pragma unroll
			for (int i = 0; i < HALF / 16; i++) {
				ldmatrix4_transposed(b, smem_address(tv + wide_at<C>(kk * 16 + v_row, side * (HALF / 8) + i * 2 + v_col)));
				mma_bf16(o[2 * i], a, b[0], b[1]);
				mma_bf16(o[2 * i + 1], a, b[2], b[3]);
			}
		}
		__syncthreads();
		if (j + 1 < tiles)
			load_rows<C>(tv, v, (j + 1) * TK, TK, m, stride);
		copy_commit();
	}
#pragma unroll
	for (int r = 0; r < 2; r++) {
		sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
		sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
		if ((lane & 3) == 0)
			sums[side * TQ + rows + (lane >> 2) + r * 8] = sum[r];
	}
	__syncthreads();
#pragma unroll
	for (int r = 0; r < 2; r++) {
		int row = rows + (lane >> 2) + r * 8;
		if (first + row >= n)
			continue;
		float inv = __fdividef(1.f, sums[row] + sums[TQ + row]);
		__nv_bfloat16 *out = y + (first + row) * stride + side * HALF + (lane & 3) * 2;
#pragma unroll
		for (int i = 0; i < HALF / 8; i++)
			*(uint32_t *)(out + i * 8) = pack_bf16(o[i][2 * r] * inv, o[i][2 * r + 1] * inv);
	}
}

template <int C, int TQ, int TK>
static void wide_launch(struct backend *be, struct tensor *y, const struct tensor *q, const struct tensor *k,
	const struct tensor *v, int heads, float scale) {
	constexpr size_t bytes = wide_shared_bytes<C, TQ, TK>();
	int n = (int)tensor_row_count(q), m = (int)tensor_row_count(k);
	cudaFuncSetAttribute(attention_wide_kernel<C, TQ, TK>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
	attention_wide_kernel<C, TQ, TK><<<dim3((unsigned)ceil_div(n, TQ), (unsigned)heads), TQ * 4, bytes, cuda_of(be)->stream>>>(
		(__nv_bfloat16 *)y->data, (const __nv_bfloat16 *)q->data, (const __nv_bfloat16 *)k->data,
		(const __nv_bfloat16 *)v->data, n, m, heads, scale);
	launch_check(be, "sdpa", q);
}

bool cuda_sdpa_wide(struct backend *be, struct tensor *y, const struct tensor *q, const struct tensor *k,
	const struct tensor *v, int heads, const struct sdpa_args *args) {
	int c = (int)(tensor_cols(q) / heads);
	if ((c != 192 && c != 384) || args->bias || args->last_repeats > 1 || q->dtype != DTYPE_BF16 || k->dtype != DTYPE_BF16 ||
		v->dtype != DTYPE_BF16 || y->dtype != DTYPE_BF16)
		return false;
	if (c == 192)
		wide_launch<192, 32, 32>(be, y, q, k, v, heads, args->scale);
	else if (cuda_of(be)->cc == 90)
		wide_launch<384, 64, 64>(be, y, q, k, v, heads, args->scale);
	else
		wide_launch<384, 32, 32>(be, y, q, k, v, heads, args->scale);
	return true;
}
