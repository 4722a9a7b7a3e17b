/* SPDX-License-Identifier: Apache-2.0 */
/* QK norm + RoPE + cache write: one pass over qkv. A block takes a few tokens of
 * one key block, each thread the same channels of all of them, so that sums for
 * the block means come by the way; a second, small kernel joins them, always in
 * the same order. Bound by memory. */
#include "kernels/cuda/kv.cuh"
#include "kernels/cuda/rows.cuh"

#define PART 10 /* tokens a block takes: all parts of 3 x 1560 tokens find room at once on 132 multiprocessors */
#define QKV_THREADS 768 /* at most: leaves 80 registers */

struct qkv_args {
	const float *g_q, *g_k, *time, *space;
	float *sums; /* [parts, 2, d]: of q, of k */
	int heads, c, s, tp, block, per_frame, parts; /* parts of a key block */
	int rows;            /* of a frame in the store */
	int64_t frame, head; /* strides of the store */
	float eps;
};

/* Into a store, in columns of 16 bytes at most. */
template <int E, typename K>
__device__ __forceinline__ void kv_put(K *to, int c, int row, int ch, const raw_piece<E, K> &v) {
	constexpr int N = E * sizeof(K) > 16 ? 16 / sizeof(K) : E;
#pragma unroll
	for (int e = 0; e < E; e += N) {
		raw_piece<N, K> part;
#pragma unroll
		for (int i = 0; i < N; i++)
			part.v[i] = v.v[e + i];
		*reinterpret_cast<raw_piece<N, K> *>(to + kv_at<K>(c, row, ch + e)) = part;
	}
}

/* v * r * g, its pairs turned; rounded to T, whose values are added to sum. */
template <typename T, int E, typename X>
__device__ __forceinline__ raw_piece<E, T> turned(const raw_piece<E, X> &v, float r, const float *gain,
	const float2 (&turn)[E / 2], float (&sum)[E]) {
	raw_piece<E, T> out;
	raw_piece<E, float> g = raw_load<E>(gain);
#pragma unroll
	for (int e = 0; e < E; e += 2) {
		float a = to_float(v.v[e]) * r * g.v[e], b = to_float(v.v[e + 1]) * r * g.v[e + 1];
		float2 t = turn[e / 2];
		out.v[e] = from_float<T>(a * t.x - b * t.y);
		out.v[e + 1] = from_float<T>(a * t.y + b * t.x);
		sum[e] += to_float(out.v[e]);
		sum[e + 1] += to_float(out.v[e + 1]);
	}
	return out;
}

/* Sums of both over the block, one barrier; `shared` is used by every second call. */
__device__ __forceinline__ float2 block_sums(float a, float b, float2 *shared) {
	a = warp_sum(a);
	b = warp_sum(b);
	if ((threadIdx.x & 31) == 0)
		shared[threadIdx.x >> 5] = make_float2(a, b);
	__syncthreads();
	float2 s = shared[0];
	for (int i = 1; i < (int)blockDim.x >> 5; i++)
		s.x += shared[i].x, s.y += shared[i].y;
	return s;
}

/* Grid: frames * per_frame * parts. k and v are already at the first slot. */
template <int E, typename X, typename K>
__global__ void __launch_bounds__(QKV_THREADS) qkv_kernel(X *q, K *k, K *v, const X *qkv, qkv_args p) {
	__shared__ float2 shared[2][32];
	int part = blockIdx.x % p.parts, b = blockIdx.x / p.parts % p.per_frame, frame = blockIdx.x / p.parts / p.per_frame;
	int first = b * p.block + part * PART, end = min(min(first + PART, (b + 1) * p.block), p.s);
	int d = p.heads * p.c, i = threadIdx.x * E, h = i / p.c, ch = i % p.c, sp = p.c / 2 - p.tp;
	bool mine = i < d;
	float sum_q[E] = {}, sum_k[E] = {};
	const X *row = qkv + ((int64_t)frame * p.s + first) * 3 * d + i;
	const float2 *time = (const float2 *)p.time + frame * p.tp + ch / 2, *space = (const float2 *)p.space + ch / 2 - p.tp;
	k += frame * p.frame + h * p.head;
	v += frame * p.frame + h * p.head;
	q += ((int64_t)frame * p.s + first) * d + i;
	for (int at = first; at < end; at++, row += 3 * d, q += d) {
		raw_piece<E, X> rq{}, rk{};
		float qq = 0.f, kk = 0.f;
		if (mine) {
			raw_piece<E, X> rv = raw_load<E>(row + 2 * d);
			raw_piece<E, K> value;
			rq = raw_load<E>(row), rk = raw_load<E>(row + d);
#pragma unroll
			for (int e = 0; e < E; e++)
				value.v[e] = from_float<K>(to_float(rv.v[e]));
			kv_put(v, p.c, at, ch, value);
		}
#pragma unroll
		for (int e = 0; e < E; e++)
			qq += to_float(rq.v[e]) * to_float(rq.v[e]), kk += to_float(rk.v[e]) * to_float(rk.v[e]);
		float2 s = block_sums(qq, kk, shared[at & 1]);
		if (!mine)
			continue;
		float2 turn[E / 2];
#pragma unroll
		for (int e = 0; e < E / 2; e++)
			turn[e] = ch / 2 + e < p.tp ? time[e] : space[at * sp + e];
		*reinterpret_cast<raw_piece<E, X> *>(q) = turned<X>(rq, rsqrtf(s.x / d + p.eps), p.g_q + i, turn, sum_q);
		kv_put(k, p.c, at, ch, turned<K>(rk, rsqrtf(s.y / d + p.eps), p.g_k + i, turn, sum_k));
		/* Rows that fill up the last tile: zeros, so that no kernel meets a NaN there. */
		for (int fill = p.s + at; fill < p.rows; fill += p.s) {
			kv_put(k, p.c, fill, ch, raw_piece<E, K>{});
			kv_put(v, p.c, fill, ch, raw_piece<E, K>{});
		}
	}
	float *sums = p.sums + (int64_t)blockIdx.x * 2 * d + i;
	if (first < end && mine) {
		piece_store(sums, sum_q);
		piece_store(sums + d, sum_k);
	}
}

#define MEAN_GROUPS 16

/* Means of the blocks from the sums of their parts, and of the frames from those;
 * q_mean may be NULL. Groups of 16 threads take a block each; the order of every
 * sum is fixed. Grid: frames, pieces of 64 channels. */
__global__ void __launch_bounds__(16 * MEAN_GROUPS) qkv_means_kernel(float *q_mean, float *k_mean, float *f_mean,
	int64_t q_head, int64_t k_head, int64_t f_head, qkv_args p) {
	__shared__ float shared[MEAN_GROUPS][64];
	int lane = threadIdx.x % 16, group = threadIdx.x / 16, i = blockIdx.y * 64 + lane * 4, d = p.heads * p.c;
	float frame[4] = {};
	for (int b = group; b < p.per_frame && i < d; b += MEAN_GROUPS) {
		int count = min(p.block, p.s - b * p.block), parts = (count + PART - 1) / PART;
		int64_t block = (int64_t)blockIdx.x * p.per_frame + b, at = block * p.c + i % p.c;
		const float *sums = p.sums + block * p.parts * 2 * d + i;
		float q[4] = {}, k[4] = {};
#pragma unroll 7
		for (int t = 0; t < parts; t++) {
			float u[4], w[4];
			piece_load(u, sums + 2 * t * d);
			piece_load(w, sums + (2 * t + 1) * d);
#pragma unroll
			for (int e = 0; e < 4; e++)
				q[e] += u[e], k[e] += w[e];
		}
#pragma unroll
		for (int e = 0; e < 4; e++)
			frame[e] += k[e], q[e] /= count, k[e] /= count;
		piece_store(k_mean + i / p.c * k_head + at, k);
		if (q_mean)
			piece_store(q_mean + i / p.c * q_head + at, q);
	}
	piece_store(&shared[group][lane * 4], frame);
	__syncthreads();
	if (group || i >= d)
		return;
	for (int g = 1; g < MEAN_GROUPS; g++) {
#pragma unroll
		for (int e = 0; e < 4; e++)
			frame[e] += shared[g][lane * 4 + e];
	}
#pragma unroll
	for (int e = 0; e < 4; e++)
		frame[e] /= p.s;
	piece_store(f_mean + i / p.c * f_head + (int64_t)blockIdx.x * p.c + i % p.c, frame);
}

template <int E, typename X, typename K>
static void qkv_launch(cudaStream_t stream, const kv_view &w, const qkv_args &p, const struct kv_span *slot,
	struct tensor *q, struct tensor *q_mean, const struct tensor *qkv) {
	int64_t offset = slot->first * w.frame, blocks = (int64_t)slot->count * w.per_frame;
	unsigned threads = (unsigned)(ceil_div(w.heads * w.c / E, 32) * 32);
	qkv_kernel<E, X, K><<<(unsigned)(blocks * p.parts), threads, 0, stream>>>((X *)q->data, (K *)w.k + offset,
		(K *)w.v + offset, (const X *)qkv->data, p);
	dim3 grid((unsigned)slot->count, (unsigned)ceil_div(w.heads * w.c, 64));
	qkv_means_kernel<<<grid, 16 * MEAN_GROUPS, 0, stream>>>(q_mean ? (float *)q_mean->data : nullptr,
		w.block_mean + (int64_t)slot->first * w.per_frame * w.c, w.frame_mean + (int64_t)slot->first * w.c, blocks * w.c,
		(int64_t)w.frames * w.per_frame * w.c, (int64_t)w.frames * w.c, p);
}

void cuda_qk_norm_rope_write(struct backend *be, struct tensor *q, struct tensor *q_mean, const struct kv_span *slot,
	const struct tensor *qkv, const struct tensor *g_q, const struct tensor *g_k, const struct rope *rope, float eps) {
	kv_view w = kv_view_of(slot->store);
	int64_t d = (int64_t)w.heads * w.c;
	bool wide = w.c % 8 == 0 && d <= 8 * QKV_THREADS;
	if (w.c % 4 || (!wide && d > 4 * QKV_THREADS) || tensor_row_count(qkv) != (int64_t)slot->count * w.s) {
		cuda_latch_text(be, -EINVAL, "qk_norm_rope_write",
			"head_dim % 4 != 0, rows wider than 6144 (odd heads: 3072) or slots that do not hold the tokens");
		return;
	}
	qkv_args p{(const float *)g_q->data, (const float *)g_k->data, (const float *)rope->time.data,
		(const float *)rope->space.data, nullptr, w.heads, w.c, w.s, (int)rope->time.dim[1], w.block, w.per_frame,
		(int)ceil_div(w.block, PART), w.rows, w.frame, w.head, eps};
	size_t sums = (size_t)(slot->count * w.per_frame * p.parts * 2 * d) * sizeof(float);
	p.sums = (float *)cuda_scratch(be, sums, "qk_norm_rope_write");
	if (!p.sums)
		return;
	by_dtype(be, qkv->dtype, "qk_norm_rope_write", [&](auto tx) {
		by_dtype(be, slot->store->shape.dtype, "qk_norm_rope_write", [&](auto tk) {
			using X = decltype(tx);
			using K = decltype(tk);
			if (wide)
				qkv_launch<8, X, K>(cuda_of(be)->stream, w, p, slot, q, q_mean, qkv);
			else
				qkv_launch<4, X, K>(cuda_of(be)->stream, w, p, slot, q, q_mean, qkv);
		});
	});
	launch_check(be, "qk_norm_rope_write", qkv);
}
