/* SPDX-License-Identifier: Apache-2.0 */
/* Hierarchical selection: exactly the CPU's lists. One CTA takes ROWS query blocks of
 * a head, so that means of keys are read once for them. It scores the middle frames
 * in f64, keeps the best of them, scores the blocks of the frames that are left in
 * f32 and keeps the best `keep` as ascending lists: blocks whose f32 score is too
 * near to the cut for its rounding error are scored again in f64. Scores are compared
 * as f32, ties go to the lower index. Eight lanes share a product, one warp ranks a
 * row. Bound by latency. */
#include "kernels/cuda/kv.cuh"

#define THREADS 512
#define GROUPS (THREADS / 8)
#define ROWS 8  /* query blocks a CTA */
#define PAIR 2  /* means a group scores at a time */
#define WIDE 128 /* channels of a piece */
#define HELD 18 /* keys a lane holds while it ranks: 576 blocks */
#define SHARED_MAX (96 * 1024)
/* Keys while a row is ranked: not eligible; not kept; in doubt; kept. */
#define CLOSED 0u
#define DROPPED 1u
#define DOUBTED 2u
#define KEPT (~0u)

/* Ascending unsigned order of floats, never CLOSED; larger key = larger value. */
__device__ __forceinline__ uint32_t ordered(float v) {
	uint32_t u = __float_as_uint(v);
	return max(u & 0x80000000u ? ~u : u | 0x80000000u, 1u);
}
__device__ __forceinline__ float value_of(uint32_t key) {
	return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

/* Products of four channels of q and of a mean, added to sum. */
template <typename T> __device__ __forceinline__ T add4(T sum, const float4 &a, const float4 &b) {
	sum = fma((T)a.x, (T)b.x, sum);
	sum = fma((T)a.y, (T)b.y, sum);
	sum = fma((T)a.z, (T)b.z, sum);
	return fma((T)a.w, (T)b.w, sum);
}
__device__ __forceinline__ float4 channels(const float *p, int ch, int c) {
	return ch < c ? *reinterpret_cast<const float4 *>(p + ch) : make_float4(0.f, 0.f, 0.f, 0.f);
}

/* Where channel ch of row r lies in q. */
__device__ __forceinline__ int place_of(int r, int ch) {
	return ch / WIDE * (ROWS * WIDE) + r * WIDE + ch % WIDE;
}

/* The score of row r of q and mean in f64 by the LANES lanes of a group, all of a warp calling. */
template <int LANES> __device__ __forceinline__ float exact(const float *q, int r, const float *mean, int c, int lane) {
	double sum = 0.;
	for (int ch = lane % LANES * 4; ch < c; ch += LANES * 4)
		sum = add4(sum, *reinterpret_cast<const float4 *>(q + place_of(r, ch)), channels(mean, ch, c));
	__syncwarp();
#pragma unroll
	for (int o = LANES / 2; o > 0; o >>= 1)
		sum += __shfl_xor_sync(~0u, sum, o);
	return (float)sum;
}

/* What a CTA works on. */
struct selection {
	const span_list &l;
	const select_args &a;
	int head, rows, frames, blocks, near, candidates;
	float *q;       /* [c in pieces of WIDE][ROWS][WIDE], zeros where there is nothing */
	float *norm;    /* [ROWS]: |q| */
	uint32_t *key;  /* [ROWS][blocks] */
	uint32_t *open; /* [frames]: the rows for which a frame's blocks are eligible, one bit each */

	__device__ const float *frame_mean(int f) const {
		int slot, s = span_find(l, f, &slot);
		return l.frame_mean[s] + ((int64_t)head * l.slots[s] + slot) * l.c;
	}
	__device__ const float *block_mean(int b, int f) const {
		int slot, s = span_find(l, f, &slot);
		return l.block_mean[s] + (((int64_t)head * l.slots[s] + slot) * l.per_frame + (b - f * l.per_frame)) * l.c;
	}
};

/* Opens the best `middle` of the candidate frames of each row: those that fewer than
 * `middle` surpass. Whole CTA. */
__device__ __forceinline__ void open_frames(const selection &s, int middle, int lane, int warp) {
	int group = threadIdx.x / 8, n = s.candidates;
	for (int base = warp * 4; base < n; base += GROUPS) {
		int i = min(base + group % 4, n - 1);
		const float *mean = s.frame_mean(s.a.keep_sink + i);
		for (int r = 0; r < s.rows; r++) {
			float score = exact<8>(s.q, r, mean, s.l.c, lane);
			if (lane % 8 == 0 && base + group % 4 < n)
				s.key[r * n + i] = ordered(score);
		}
	}
	__syncthreads();
	const uint32_t *key = s.key + warp * n;
	for (int i = lane; i < n && warp < s.rows; i += 32) {
		int better = 0;
		for (int j = 0; j < n; j++)
			better += key[j] > key[i] || (key[j] == key[i] && j < i);
		if (better < middle)
			atomicOr(&s.open[s.a.keep_sink + i], 1u << warp);
	}
	__syncthreads();
}

/* f32 scores of all rows with the PAIR blocks from b on; returns the larger |mean|^2.
 * All lanes of the warp call this. */
__device__ __forceinline__ float score(const selection &s, int b, int lane) {
	float sum[PAIR][ROWS + 1] = {}; /* the last: |mean|^2 */
	uint32_t rows[PAIR];            /* for which each block is eligible */
	const float *mean[PAIR];
	int c = s.l.c;
#pragma unroll
	for (int j = 0; j < PAIR; j++) {
		int at = min(b + j, s.blocks - 1), f = at / s.l.per_frame;
		rows[j] = b + j < s.blocks ? s.open[f] : 0;
		mean[j] = s.block_mean(at, f);
	}
	for (int piece = 0; piece < c && (rows[0] | rows[1]); piece += WIDE) {
		const float4 *q = reinterpret_cast<const float4 *>(s.q + piece * ROWS) + lane % 8;
		float4 k[4][PAIR];
#pragma unroll
		for (int i = 0; i < 4 * PAIR; i++)
			k[i / PAIR][i % PAIR] = channels(mean[i % PAIR], piece + lane % 8 * 4 + i / PAIR * 32, c);
#pragma unroll
		for (int u = 0; u < 4; u++) {
#pragma unroll
			for (int j = 0; j < PAIR; j++)
				sum[j][ROWS] = add4(sum[j][ROWS], k[u][j], k[u][j]);
#pragma unroll
			for (int r = 0; r < ROWS; r++) {
				float4 x = q[r * (WIDE / 4) + u * 8];
#pragma unroll
				for (int j = 0; j < PAIR; j++)
					sum[j][r] = add4(sum[j][r], x, k[u][j]);
			}
		}
	}
	__syncwarp();
#pragma unroll
	for (int i = 0; i < PAIR * (ROWS + 1); i++) {
		float &x = sum[i / (ROWS + 1)][i % (ROWS + 1)];
#pragma unroll
		for (int o = 4; o > 0; o >>= 1)
			x += __shfl_xor_sync(~0u, x, o);
	}
#pragma unroll
	for (int j = 0; j < PAIR; j++) {
		for (int r = lane % 8; r < s.rows && b + j < s.blocks; r += 8) {
			float x = 0.f;
#pragma unroll
			for (int i = 0; i < ROWS; i++)
				x = i == r ? sum[j][i] : x;
			s.key[r * s.blocks + b + j] = rows[j] >> r & 1 ? ordered(x) : CLOSED;
		}
	}
	return fmaxf(sum[0][ROWS], sum[1][ROWS]);
}

/* n keys of a row as one warp ranks them: lane l holds l, l + 32 .., those past
 * HELD * 32 stay in shared memory. */
struct ranking {
	uint32_t mine[HELD];
	uint32_t *key;
	int n, lane;

	__device__ __forceinline__ void load() {
#pragma unroll
		for (int i = 0; i < HELD; i++)
			mine[i] = i * 32 + lane < n ? key[i * 32 + lane] : CLOSED;
	}
	__device__ __forceinline__ void save() const {
#pragma unroll
		for (int i = 0; i < HELD; i++) {
			if (i * 32 + lane < n)
				key[i * 32 + lane] = mine[i];
		}
		__syncwarp();
	}
	/* f(index, key) for every key of this lane; all lanes take the same number of steps. */
	template <typename F> __device__ __forceinline__ void each(F f) {
#pragma unroll
		for (int i = 0; i < HELD; i++)
			f(i * 32 + lane, mine[i]);
		for (int i = HELD * 32 + lane; i - lane < n; i += 32) {
			uint32_t x = i < n ? key[i] : CLOSED;
			f(i, x);
			if (i < n)
				key[i] = x;
		}
	}
	/* How many keys reach `cut` > 0. */
	__device__ __forceinline__ int reached(uint32_t cut) {
		int count = 0;
		each([&](int, uint32_t &x) { count += x >= cut; });
		return __reduce_add_sync(~0u, count);
	}
	/* The keep-th largest key, found bit by bit, from the first on in which the
	 * eligible differ, until that many keys reach it. */
	__device__ __forceinline__ uint32_t last_kept(int keep) {
		uint32_t most = 0, least = ~0u;
		each([&](int, uint32_t &x) {
			most = max(most, x);
			least = x != CLOSED ? min(least, x) : least;
		});
		most = __reduce_max_sync(~0u, most), least = __reduce_min_sync(~0u, least);
		int bit = 31 - __clz((int)(most ^ least)); /* -1: all alike */
		uint32_t cut = bit < 0 ? most : most & ~((2u << bit) - 1);
		least = ~0u;
		for (; bit >= 0; bit--) {
			int count = reached(cut | 1u << bit);
			if (count >= keep)
				cut |= 1u << bit;
			if (count == keep)
				break;
		}
		each([&](int, uint32_t &x) { least = x >= cut ? min(least, x) : least; });
		return __reduce_min_sync(~0u, least);
	}
};

/* f32 scores err by less than `error`: keeps what is above the cut by twice as much
 * and drops what is below. Returns whether that leaves no choice. One warp. */
__device__ __forceinline__ bool decide(ranking &rank, int keep, float error) {
	float cut = value_of(rank.last_kept(keep));
	int kept = 0, doubted = 0;
	rank.each([&](int, uint32_t &x) {
		float v = value_of(x);
		x = x == CLOSED ? CLOSED : v > cut + 2.f * error ? KEPT : v < cut - 2.f * error ? DROPPED : DOUBTED;
		kept += x == KEPT;
		doubted += x == DOUBTED;
	});
	kept = __reduce_add_sync(~0u, kept);
	doubted = __reduce_add_sync(~0u, doubted);
	return kept + doubted == keep;
}

/* f64 scores for the keys in doubt. */
__device__ __forceinline__ void score_doubted(const selection &s, ranking &rank, int row) {
	rank.save();
	for (int first = 0; first < rank.n; first += 32) {
		int i = first + rank.lane;
		uint32_t left = __ballot_sync(~0u, i < rank.n && rank.key[i] == DOUBTED);
		for (; left; left &= left - 1) {
			int b = first + __ffs(left) - 1;
			uint32_t x = ordered(exact<32>(s.q, row, s.block_mean(b, b / s.l.per_frame), s.l.c, rank.lane));
			if (rank.lane == 0)
				rank.key[b] = min(max(x, DOUBTED), KEPT - 1);
		}
	}
	__syncwarp();
	rank.load();
}

/* The row's list: what is above the cut, and of what equals it the first. */
__device__ __forceinline__ void write_list(int32_t *out, ranking &rank, uint32_t cut, int keep) {
	uint32_t below = (1u << rank.lane) - 1;
	int equal = keep - (cut == ~0u ? 0 : rank.reached(cut + 1)), used = 0;
	rank.each([&](int i, uint32_t &x) {
		uint32_t ties = __ballot_sync(~0u, x == cut);
		bool kept = x > cut || (x == cut && __popc(ties & below) < equal);
		uint32_t all = __ballot_sync(~0u, kept);
		if (kept)
			out[used + __popc(all & below)] = i;
		used += __popc(all);
		equal -= min(equal, __popc(ties));
	});
}

/* Grid: query blocks / ROWS, heads. Shared: as in struct selection. */
__global__ void __launch_bounds__(THREADS, 1) select_kernel(int32_t *index, const float *q_mean, const __grid_constant__ span_list l,
	const __grid_constant__ select_args a, int query_blocks) {
	extern __shared__ __align__(16) char shared[];
	__shared__ uint32_t top; /* bits of the largest |mean|^2 */
	int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = threadIdx.x >> 3, first = blockIdx.x * ROWS;
	int frames = l.start[l.n], past = frames - a.current_frames, wide = (int)ceil_div(l.c, WIDE) * WIDE;
	selection s{l, a, (int)blockIdx.y, min(ROWS, query_blocks - first), frames, frames * l.per_frame, past - a.keep_near,
		past - a.keep_near - a.keep_sink, (float *)shared, (float *)shared + ROWS * wide, nullptr, nullptr};
	s.key = (uint32_t *)(s.norm + ROWS);
	s.open = s.key + ROWS * s.blocks;
	const float *from = q_mean + ((int64_t)s.head * query_blocks + first) * l.c;
	for (int i = threadIdx.x; i < ROWS * wide; i += THREADS) {
		int r = i / wide, ch = i - r * wide;
		s.q[place_of(r, ch)] = r < s.rows && ch < l.c ? from[r * l.c + ch] : 0.f;
	}
	bool two_stage = a.keep_frames > 0 && past > a.keep_frames;
	for (int f = threadIdx.x; f < frames; f += THREADS)
		s.open[f] = !two_stage || f < a.keep_sink || f >= s.near ? (1u << s.rows) - 1 : 0;
	if (threadIdx.x == 0)
		top = 0;
	__syncthreads();
	if (warp < s.rows) {
		float sum = 0.f;
		for (int ch = lane; ch < l.c; ch += 32)
			sum += s.q[place_of(warp, ch)] * s.q[place_of(warp, ch)];
		sum = warp_sum(sum);
		if (lane == 0)
			s.norm[warp] = sqrtf(sum);
	}
	int middle = a.keep_frames - a.keep_sink - a.keep_near;
	if (two_stage && middle > 0)
		open_frames(s, middle, lane, warp);

	float most = 0.f;
	for (int base = warp * 4 * PAIR; base < s.blocks; base += PAIR * GROUPS)
		most = fmaxf(most, score(s, base + group % 4 * PAIR, lane));
	atomicMax(&top, __float_as_uint(warp_max(most)));
	__syncthreads();
	if (warp >= s.rows)
		return;
	/* c / 8 + 3 roundings of sums, those of the products and of the f64 score. */
	float error = (float)(l.c / 8 + 8) * 0x1.02p-24f * s.norm[warp] * sqrtf(__uint_as_float(top));
	ranking rank;
	rank.key = s.key + warp * s.blocks, rank.n = s.blocks, rank.lane = lane;
	rank.load();
	int32_t *out = index + ((int64_t)s.head * query_blocks + first + warp) * a.keep;
	if (decide(rank, a.keep, error)) {
		write_list(out, rank, DOUBTED, a.keep);
	} else {
		score_doubted(s, rank, warp);
		write_list(out, rank, rank.last_kept(a.keep), a.keep);
	}
}

void cuda_select_blocks(struct backend *be, struct block_list *list, const struct tensor *q_mean,
	const struct kv_span *spans, int n_spans, const struct select_args *args) {
	span_list l = span_list_of(spans, n_spans);
	int frames = l.start[n_spans], past = frames - args->current_frames, blocks = frames * l.per_frame;
	bool two_stage = args->keep_frames > 0 && past > args->keep_frames;
	int eligible = (two_stage ? args->current_frames + args->keep_frames : frames) * l.per_frame;
	if (l.c % 4 || list->kept != args->keep || list->kept < 1 || list->kept > eligible ||
		(args->keep_frames && args->keep_sink + args->keep_near > args->keep_frames)) {
		cuda_latch_text(be, -EINVAL, "select_blocks", "keep exceeds the candidates, or head_dim % 4 != 0");
		return;
	}
	size_t bytes = (ROWS * ((size_t)ceil_div(l.c, WIDE) * WIDE + 1 + (size_t)blocks) + (size_t)frames) * 4;
	if (bytes > SHARED_MAX) {
		cuda_latch_text(be, -EINVAL, "select_blocks", "the window has more key blocks than fit into shared memory");
		return;
	}
	cudaError_t r = cudaFuncSetAttribute(select_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_MAX);
	if (r != cudaSuccess)
		cuda_latch(be, r, "select_blocks", q_mean);
	dim3 grid((unsigned)ceil_div(list->query_blocks, ROWS), (unsigned)l.heads);
	select_kernel<<<grid, THREADS, bytes, cuda_of(be)->stream>>>(list->index, (const float *)q_mean->data, l, *args,
		list->query_blocks);
	launch_check(be, "select_blocks", q_mean);
}
