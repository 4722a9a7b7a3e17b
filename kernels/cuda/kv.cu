/* SPDX-License-Identifier: Apache-2.0 */
/* Keys and values in their store: copies, re-rotation, plain dumps and what comes
 * from them, with the means. All bound by memory. */
#include "kernels/cuda/kv.cuh"

size_t cuda_kv_bytes(const struct kv_shape *p) {
	size_t per_frame = (size_t)ceil_div(p->frame_tokens, p->block), row = (size_t)p->heads * p->head_dim;
	return 2 * align_up((size_t)p->heads * p->frames * (size_t)kv_frame_elements(p) * dtype_bytes(p->dtype)) +
		align_up(row * p->frames * per_frame * sizeof(float)) + align_up(row * p->frames * sizeof(float));
}

/* Rows s .. rows - 1 of a frame, `at` and every s-th after it: zeros, so that no
 * kernel meets a NaN there. k and v are at the frame's first head. */
template <typename K>
__device__ __forceinline__ void fill_up(K *k, K *v, int at, int s, int rows, int heads, int c, int64_t head_stride) {
	for (int row = s + at; row < rows; row += s) {
		for (int i = threadIdx.x * 4; i < heads * c; i += blockDim.x * 4) {
			int64_t out = i / c * head_stride + kv_at<K>(c, row, i % c);
			store4(k + out, make_float4(0.f, 0.f, 0.f, 0.f));
			store4(v + out, make_float4(0.f, 0.f, 0.f, 0.f));
		}
	}
}

/* Where a token's channel lies. */
struct store_rows {
	int64_t head, frame;
	int c;
	template <typename X> __device__ int64_t at(int h, int f, int row, int ch) const {
		return h * head + f * frame + kv_at<X>(c, row, ch);
	}
};

/* mean[h, block, c] over the block's tokens. Grid: blocks, heads. */
template <typename X>
__global__ void block_mean_kernel(float *mean, const X *x, store_rows rows, int c, int s, int block, int per_frame,
	int64_t mean_head_stride) {
	int b = blockIdx.x, h = blockIdx.y, frame = b / per_frame, first = b % per_frame * block;
	int count = min(block, s - first);
	for (int ch = threadIdx.x; ch < c; ch += blockDim.x) {
		float sum = 0.f;
		for (int t = 0; t < count; t++)
			sum += to_float(x[rows.template at<X>(h, frame, first + t, ch)]);
		mean[h * mean_head_stride + (int64_t)b * c + ch] = sum / count;
	}
}

#define MEAN_GROUPS 8

/* frame[h, f, c] from the block means, weighted by length; each group of 32
 * threads takes every MEAN_GROUPS-th block. Grid: frames, heads, pieces of 32 channels. */
__global__ void __launch_bounds__(32 * MEAN_GROUPS) frame_mean_kernel(float *frame_mean, const float *block_mean, int c,
	int s, int block, int per_frame, int64_t block_head_stride, int64_t frame_head_stride) {
	__shared__ float shared[MEAN_GROUPS][32];
	int f = blockIdx.x, h = blockIdx.y, ch = blockIdx.z * 32 + threadIdx.x, group = threadIdx.y;
	const float *p = block_mean + h * block_head_stride + (int64_t)f * per_frame * c + ch;
	float sum = 0.f;
#pragma unroll 4
	for (int b = group; ch < c && b < per_frame; b += MEAN_GROUPS)
		sum += p[(int64_t)b * c] * min(block, s - b * block);
	shared[group][threadIdx.x] = sum;
	__syncthreads();
	if (group || ch >= c)
		return;
	for (int g = 1; g < MEAN_GROUPS; g++)
		sum += shared[g][threadIdx.x];
	frame_mean[h * frame_head_stride + (int64_t)f * c + ch] = sum / s;
}

static void frame_means(cudaStream_t stream, const kv_view &w, int first, int count) {
	dim3 grid((unsigned)count, (unsigned)w.heads, (unsigned)ceil_div(w.c, 32));
	frame_mean_kernel<<<grid, dim3(32, MEAN_GROUPS), 0, stream>>>(
		w.frame_mean + (int64_t)first * w.c, w.block_mean + (int64_t)first * w.per_frame * w.c, w.c, w.s, w.block,
		w.per_frame, (int64_t)w.frames * w.per_frame * w.c, (int64_t)w.frames * w.c);
}

template <typename K> static void key_means(cudaStream_t stream, const kv_view &w, int first, int count) {
	block_mean_kernel<<<dim3((unsigned)(count * w.per_frame), (unsigned)w.heads), 128, 0, stream>>>(
		w.block_mean + (int64_t)first * w.per_frame * w.c, (const K *)w.k + first * w.frame,
		store_rows{w.head, w.frame, w.c}, w.c, w.s, w.block, w.per_frame, (int64_t)w.frames * w.per_frame * w.c);
	frame_means(stream, w, first, count);
}

/* rows pieces of `bytes` each, `pitch` apart. */
static void copy_rows(struct backend *be, void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t bytes,
	int rows) {
	cudaError_t r = cudaMemcpy2DAsync(dst, dst_pitch, src, src_pitch, bytes, (size_t)rows, cudaMemcpyDeviceToDevice,
		cuda_of(be)->stream);
	if (r != cudaSuccess)
		cuda_latch(be, r, "kv_copy", nullptr);
}

void cuda_kv_copy(struct backend *be, const struct kv_span *dst, const struct kv_span *src) {
	kv_view d = kv_view_of(dst->store), s = kv_view_of(src->store);
	size_t e = dtype_bytes(src->store->shape.dtype), frame = e * d.frame, mean = sizeof(float) * d.c;
	for (int plane = 0; plane < 2; plane++)
		copy_rows(be, (plane ? d.v : d.k) + dst->first * frame, d.frames * frame,
			(plane ? s.v : s.k) + src->first * frame, s.frames * frame, src->count * frame, d.heads);
	copy_rows(be, d.block_mean + (int64_t)dst->first * d.per_frame * d.c, d.frames * d.per_frame * mean,
		s.block_mean + (int64_t)src->first * s.per_frame * s.c, s.frames * s.per_frame * mean,
		src->count * s.per_frame * mean, d.heads);
	copy_rows(be, d.frame_mean + (int64_t)dst->first * d.c, d.frames * mean, s.frame_mean + (int64_t)src->first * s.c,
		s.frames * mean, src->count * mean, d.heads);
}

/* Turns the first tp pairs of every row of a head in delta frames, place(row) being
 * where it begins. Threads 32 x TURN_ROWS: a pair each, whose angle is computed once
 * for many rows. Grid: CTAs that share the rows, heads. */
#define TURN_ROWS 8
#define TURN_CTAS 32
template <typename T, typename F>
__device__ __forceinline__ void turn_rows(T *x, int rows, int tp, double delta, double theta, F place) {
	for (int p = threadIdx.x; p < tp; p += 32) {
		double sn, cs;
		sincos(delta * pow(theta, -(double)p / tp), &sn, &cs);
		for (int row = blockIdx.x * TURN_ROWS + threadIdx.y; row < rows; row += gridDim.x * TURN_ROWS) {
			T *at = x + place(row, 2 * p);
			float a = to_float(at[0]), b = to_float(at[1]);
			at[0] = from_float<T>(a * (float)cs - b * (float)sn);
			at[1] = from_float<T>(a * (float)sn + b * (float)cs);
		}
	}
}

__global__ void rotate_means_kernel(float *x, int64_t head_stride, int rows, int c, int tp, double delta, double theta) {
	turn_rows(x + blockIdx.y * head_stride, rows, tp, delta, theta, [=](int row, int ch) { return (int64_t)row * c + ch; });
}

/* Keys: `rows` tokens of frames of s. */
template <typename T>
__global__ void rotate_kernel(T *x, store_rows layout, int rows, int s, int tp, double delta, double theta) {
	turn_rows(x, rows, tp, delta, theta,
		[=](int row, int ch) { return layout.template at<T>(blockIdx.y, row / s, row % s, ch); });
}

void cuda_kv_rotate(struct backend *be, const struct kv_span *span, double delta, double theta) {
	kv_view w = kv_view_of(span->store);
	cudaStream_t stream = cuda_of(be)->stream;
	int tp = w.c / 2 - 2 * (w.c / 6);
	dim3 threads(32, TURN_ROWS), grid(TURN_CTAS, (unsigned)w.heads);
	by_dtype(be, span->store->shape.dtype, "kv_rotate", [&](auto tk) {
		using K = decltype(tk);
		rotate_kernel<<<grid, threads, 0, stream>>>((K *)w.k + span->first * w.frame, store_rows{w.head, w.frame, w.c},
			span->count * w.s, w.s, tp, delta, theta);
	});
	rotate_means_kernel<<<grid, threads, 0, stream>>>(w.block_mean + (int64_t)span->first * w.per_frame * w.c,
		(int64_t)w.frames * w.per_frame * w.c, span->count * w.per_frame, w.c, tp, delta, theta);
	rotate_means_kernel<<<dim3(1, (unsigned)w.heads), threads, 0, stream>>>(w.frame_mean + (int64_t)span->first * w.c,
		(int64_t)w.frames * w.c, span->count, w.c, tp, delta, theta);
	launch_check(be, "kv_rotate", nullptr);
}

/* One block a token; k and v are plain rows [tokens, heads, c]. */
template <typename K>
__global__ void export_kernel(float *k, float *v, const K *from_k, const K *from_v, store_rows rows, int s, int heads) {
	int64_t token = blockIdx.x;
	int frame = (int)(token / s), at = (int)(token % s), d = heads * rows.c;
	for (int i = threadIdx.x; i < d; i += blockDim.x) {
		int64_t from = rows.at<K>(i / rows.c, frame, at, i % rows.c);
		k[token * d + i] = to_float(from_k[from]);
		v[token * d + i] = to_float(from_v[from]);
	}
}

template <typename K>
__global__ void import_kernel(K *to_k, K *to_v, const float *k, const float *v, store_rows rows, int s, int padded,
	int heads) {
	int64_t token = blockIdx.x;
	int frame = (int)(token / s), at = (int)(token % s), d = heads * rows.c;
	for (int i = threadIdx.x; i < d; i += blockDim.x) {
		int64_t to = rows.at<K>(i / rows.c, frame, at, i % rows.c);
		to_k[to] = from_float<K>(k[token * d + i]);
		to_v[to] = from_float<K>(v[token * d + i]);
	}
	if (rows.c % 4 == 0)
		fill_up(to_k + frame * rows.frame, to_v + frame * rows.frame, at, s, padded, heads, rows.c, rows.head);
}

void cuda_kv_export(struct backend *be, struct tensor *k, struct tensor *v, const struct kv_span *span) {
	kv_view w = kv_view_of(span->store);
	int64_t offset = span->first * w.frame;
	by_dtype(be, span->store->shape.dtype, "kv_export", [&](auto tk) {
		using K = decltype(tk);
		export_kernel<<<(unsigned)(span->count * w.s), 128, 0, cuda_of(be)->stream>>>((float *)k->data, (float *)v->data,
			(const K *)w.k + offset, (const K *)w.v + offset, store_rows{w.head, w.frame, w.c}, w.s, w.heads);
	});
	launch_check(be, "kv_export", k);
}

void cuda_kv_import(struct backend *be, const struct kv_span *span, const struct tensor *k, const struct tensor *v) {
	kv_view w = kv_view_of(span->store);
	int64_t offset = span->first * w.frame;
	by_dtype(be, span->store->shape.dtype, "kv_import", [&](auto tk) {
		using K = decltype(tk);
		import_kernel<<<(unsigned)(span->count * w.s), 128, 0, cuda_of(be)->stream>>>((K *)w.k + offset,
			(K *)w.v + offset, (const float *)k->data, (const float *)v->data, store_rows{w.head, w.frame, w.c}, w.s,
			w.rows, w.heads);
		key_means<K>(cuda_of(be)->stream, w, span->first, span->count);
	});
	launch_check(be, "kv_import", k);
}
