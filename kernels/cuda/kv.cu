/* SPDX-License-Identifier: Apache-2.0 */
/* Keys and values: QK norm + RoPE + cache write in one pass over qkv, then the
 * block means from what was just written (it is still in L2); copies,
 * re-rotation, plain dumps. All bound by memory. */
#include "kernels/cuda/kv.cuh"

#define ROW_THREADS 128

size_t cuda_kv_bytes(const struct kv_shape *p) {
	size_t per_frame = (size_t)ceil_div(p->frame_tokens, p->block), row = (size_t)p->heads * p->head_dim;
	return 2 * align_up((size_t)p->heads * p->frames * (size_t)kv_frame_elements(p) * dtype_bytes(p->dtype)) +
		align_up(row * p->frames * per_frame * sizeof(float)) + align_up(row * p->frames * sizeof(float));
}

/* Rotates the two pairs of v, channels ch .. ch+3 of a head. */
__device__ __forceinline__ float4 rope4(float4 v, int ch, const float *time, const float *space, int tp) {
	int p = ch >> 1;
	const float *a = p < tp ? time + 2 * p : space + 2 * (p - tp);
	const float *b = p + 1 < tp ? time + 2 * (p + 1) : space + 2 * (p + 1 - tp);
	return make_float4(v.x * a[0] - v.y * a[1], v.x * a[1] + v.y * a[0], v.z * b[0] - v.w * b[1],
		v.z * b[1] + v.w * b[0]);
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

/* One block a token. k and v are already at the first slot. */
template <typename X, typename K>
__global__ void __launch_bounds__(ROW_THREADS) qk_norm_rope_kernel(X *q, K *k, K *v, const X *qkv,
	const float *g_q, const float *g_k, const float *time, const float *space, int heads, int c, int s, int tp,
	int rows, int64_t frame_stride, int64_t head_stride, float eps) {
	__shared__ float shared[33];
	int64_t token = blockIdx.x;
	int d = heads * c, frame = (int)(token / s), at = (int)(token % s), sp = c / 2 - tp;
	const X *row = qkv + token * 3 * d;
	time += (int64_t)frame * tp * 2;
	space += (int64_t)at * sp * 2;
	k += frame * frame_stride;
	v += frame * frame_stride;
	float sum_q = 0.f, sum_k = 0.f;
	for (int i = threadIdx.x * 4; i < d; i += ROW_THREADS * 4) {
		float4 a = load4(row + i), b = load4(row + d + i);
		sum_q += a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w;
		sum_k += b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w;
	}
	float rq = rsqrtf(block_sum(sum_q, shared) / d + eps), rk = rsqrtf(block_sum(sum_k, shared) / d + eps);
	for (int i = threadIdx.x * 4; i < d; i += ROW_THREADS * 4) {
		int head = i / c, ch = i % c;
		float4 a = load4(row + i), b = load4(row + d + i), w = load4(g_q + i), u = load4(g_k + i);
		a = make_float4(a.x * rq * w.x, a.y * rq * w.y, a.z * rq * w.z, a.w * rq * w.w);
		b = make_float4(b.x * rk * u.x, b.y * rk * u.y, b.z * rk * u.z, b.w * rk * u.w);
		store4(q + token * d + i, rope4(a, ch, time, space, tp));
		int64_t out = head * head_stride + kv_at<K>(c, at, ch);
		store4(k + out, rope4(b, ch, time, space, tp));
		store4(v + out, load4(row + 2 * d + i));
	}
	fill_up(k, v, at, s, rows, heads, c, head_stride);
}

/* Where a token's channel lies: in plain rows [tokens, heads * c], in a store. */
struct plain_rows {
	int64_t head, token;
	int s;
	template <typename X> __device__ int64_t at(int h, int frame, int row, int ch) const {
		return h * head + ((int64_t)frame * s + row) * token + ch;
	}
};
struct store_rows {
	int64_t head, frame;
	int c;
	template <typename X> __device__ int64_t at(int h, int f, int row, int ch) const {
		return h * head + f * frame + kv_at<X>(c, row, ch);
	}
};

/* mean[h, block, c] over the block's tokens. Grid: blocks, heads. */
template <typename X, class R>
__global__ void block_mean_kernel(float *mean, const X *x, R rows, int c, int s, int block, int per_frame,
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

/* frame[h, f, c] from the block means, weighted by length. Grid: frames, heads. */
__global__ void frame_mean_kernel(float *frame_mean, const float *block_mean, int c, int s, int block, int per_frame,
	int64_t block_head_stride, int64_t frame_head_stride) {
	int f = blockIdx.x, h = blockIdx.y;
	for (int ch = threadIdx.x; ch < c; ch += blockDim.x) {
		const float *p = block_mean + h * block_head_stride + (int64_t)f * per_frame * c + ch;
		float sum = 0.f;
		for (int b = 0; b < per_frame; b++)
			sum += p[(int64_t)b * c] * min(block, s - b * block);
		frame_mean[h * frame_head_stride + (int64_t)f * c + ch] = sum / s;
	}
}

template <typename K> static void key_means(cudaStream_t stream, const kv_view &w, int first, int count) {
	dim3 blocks((unsigned)(count * w.per_frame), (unsigned)w.heads), frames((unsigned)count, (unsigned)w.heads);
	float *bm = w.block_mean + (int64_t)first * w.per_frame * w.c, *fm = w.frame_mean + (int64_t)first * w.c;
	int64_t bm_stride = (int64_t)w.frames * w.per_frame * w.c, fm_stride = (int64_t)w.frames * w.c;
	block_mean_kernel<<<blocks, 128, 0, stream>>>(bm, (const K *)w.k + first * w.frame, store_rows{w.head, w.frame, w.c},
		w.c, w.s, w.block, w.per_frame, bm_stride);
	frame_mean_kernel<<<frames, 128, 0, stream>>>(fm, bm, w.c, w.s, w.block, w.per_frame, bm_stride, fm_stride);
}

void cuda_qk_norm_rope_write(struct backend *be, struct tensor *q, struct tensor *q_mean, const struct kv_span *slot,
	const struct tensor *qkv, const struct tensor *g_q, const struct tensor *g_k, const struct rope *rope, float eps) {
	kv_view w = kv_view_of(slot->store);
	cudaStream_t stream = cuda_of(be)->stream;
	int64_t n = tensor_row_count(qkv), offset = slot->first * w.frame;
	int tp = (int)rope->time.dim[1];
	if (w.c % 4 || n != (int64_t)slot->count * w.s) {
		cuda_latch_text(be, -EINVAL, "qk_norm_rope_write", "head_dim % 4 != 0 or the slots do not hold the tokens");
		return;
	}
	by_dtype(be, qkv->dtype, "qk_norm_rope_write", [&](auto tx) {
		by_dtype(be, slot->store->shape.dtype, "qk_norm_rope_write", [&](auto tk) {
			using X = decltype(tx);
			using K = decltype(tk);
			qk_norm_rope_kernel<X, K><<<(unsigned)n, ROW_THREADS, 0, stream>>>((X *)q->data,
				(K *)w.k + offset, (K *)w.v + offset, (const X *)qkv->data, (const float *)g_q->data,
				(const float *)g_k->data, (const float *)rope->time.data, (const float *)rope->space.data,
				w.heads, w.c, w.s, tp, w.rows, w.frame, w.head, eps);
			key_means<K>(stream, w, slot->first, slot->count);
			if (q_mean) {
				int blocks = slot->count * w.per_frame;
				plain_rows rows{w.c, (int64_t)w.heads * w.c, w.s};
				block_mean_kernel<<<dim3((unsigned)blocks, (unsigned)w.heads), 128, 0, stream>>>(
					(float *)q_mean->data, (const X *)q->data, rows, w.c, w.s, w.block, w.per_frame,
					(int64_t)blocks * w.c);
			}
		});
	});
	launch_check(be, "qk_norm_rope_write", qkv);
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

/* Turns the pair at x, x[1] as pair p of tp turns in delta frames. */
template <typename T> __device__ __forceinline__ void turn_pair(T *x, int p, int tp, double delta, double theta) {
	double sn, cs;
	sincos(delta * pow(theta, -(double)p / tp), &sn, &cs);
	float a = to_float(x[0]), b = to_float(x[1]);
	x[0] = from_float<T>(a * (float)cs - b * (float)sn);
	x[1] = from_float<T>(a * (float)sn + b * (float)cs);
}

/* Turns the first tp pairs of each mean of a head. Grid: means, heads. */
__global__ void rotate_means_kernel(float *x, int64_t head_stride, int c, int tp, double delta, double theta) {
	int p = threadIdx.x;
	if (p < tp)
		turn_pair(x + blockIdx.y * head_stride + (int64_t)blockIdx.x * c + 2 * p, p, tp, delta, theta);
}

/* The same for keys. Grid: tokens, heads. */
template <typename T>
__global__ void rotate_kernel(T *x, store_rows rows, int s, int tp, double delta, double theta) {
	int p = threadIdx.x, frame = blockIdx.x / s, at = blockIdx.x % s;
	if (p < tp)
		turn_pair(x + rows.template at<T>(blockIdx.y, frame, at, 2 * p), p, tp, delta, theta);
}

void cuda_kv_rotate(struct backend *be, const struct kv_span *span, double delta, double theta) {
	kv_view w = kv_view_of(span->store);
	cudaStream_t stream = cuda_of(be)->stream;
	int tp = w.c / 2 - 2 * (w.c / 6);
	unsigned threads = (unsigned)ceil_div(tp, 32) * 32, heads = (unsigned)w.heads, count = (unsigned)span->count;
	by_dtype(be, span->store->shape.dtype, "kv_rotate", [&](auto tk) {
		using K = decltype(tk);
		rotate_kernel<<<dim3(count * w.s, heads), threads, 0, stream>>>((K *)w.k + span->first * w.frame,
			store_rows{w.head, w.frame, w.c}, w.s, tp, delta, theta);
	});
	rotate_means_kernel<<<dim3(count * w.per_frame, heads), threads, 0, stream>>>(
		w.block_mean + (int64_t)span->first * w.per_frame * w.c, (int64_t)w.frames * w.per_frame * w.c, w.c, tp, delta,
		theta);
	rotate_means_kernel<<<dim3(count, heads), threads, 0, stream>>>(w.frame_mean + (int64_t)span->first * w.c,
		(int64_t)w.frames * w.c, w.c, tp, delta, theta);
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
