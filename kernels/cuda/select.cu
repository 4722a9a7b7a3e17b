/* SPDX-License-Identifier: Apache-2.0 */
/* Hierarchical selection. One CTA takes ROWS query blocks of a head: it scores the
 * middle frames, keeps the best of them, scores the blocks of the frames that are
 * left and keeps the best `keep` as ascending lists. Scores accumulate in f64, or,
 * where a GPU has few units for it, in pairs of f32 that hold as many bits, and
 * are compared as f32; ties go to the lower index: exactly the CPU's lists. Eight
 * lanes share a dot product, one warp ranks a row. Bound by latency and arithmetic. */
#include "kernels/cuda/kv.cuh"

#define THREADS 256
#define GROUPS (THREADS / 8)
#define ROWS 4 /* query blocks a CTA: means of keys are read once for them */
#define PAIR 2 /* means a group scores at a time */
#define HELD 18 /* keys a lane holds while it ranks: 576 blocks */
#define SHARED_MAX (96 * 1024)

/* A sum of products, to about 48 bits. */
struct pair_sum {
	using value = float;
	float high, low;
	__device__ __forceinline__ void clear() {
		high = low = 0.f;
	}
	/* Adds x + rest, the sum of high and x without error. */
	__device__ __forceinline__ void add(float x, float rest) {
		float sum = __fadd_rn(high, x), part = __fsub_rn(sum, high);
		float lost = __fadd_rn(__fsub_rn(high, __fsub_rn(sum, part)), __fsub_rn(x, part));
		low = __fadd_rn(low, __fadd_rn(lost, rest));
		high = sum;
	}
	__device__ __forceinline__ void add_product(float a, float b) {
		float p = __fmul_rn(a, b);
		add(p, __fmaf_rn(a, b, -p));
	}
	__device__ __forceinline__ void add_lane(int o) {
		add(__shfl_xor_sync(~0u, high, o), __shfl_xor_sync(~0u, low, o));
	}
	__device__ __forceinline__ float result() const {
		return __fadd_rn(high, low);
	}
};

struct double_sum {
	using value = double;
	double sum;
	__device__ __forceinline__ void clear() {
		sum = 0.;
	}
	__device__ __forceinline__ void add_product(double a, double b) {
		sum = fma(a, b, sum);
	}
	__device__ __forceinline__ void add_lane(int o) {
		sum += __shfl_xor_sync(~0u, sum, o);
	}
	__device__ __forceinline__ float result() const {
		return (float)sum;
	}
};

/* Ascending unsigned order of floats, never 0; larger key = larger value. */
__device__ __forceinline__ uint32_t ordered(float v) {
	uint32_t u = __float_as_uint(v);
	return max(u & 0x80000000u ? ~u : u | 0x80000000u, 1u);
}

/* Where channel ch of a query mean lies in shared memory: what the eight lanes of a
 * group read at a time is one run. */
__device__ __forceinline__ int place_of(int ch) {
	return ch / 32 * 32 + ch % 4 * 8 + ch % 32 / 4;
}

/* Two means and the rows that want their products. */
struct wanted {
	uint32_t *key[PAIR]; /* of row 0, that of row r is n further on each; NULL: nowhere */
	const float *mean[PAIR];
	uint32_t rows[PAIR]; /* one bit each; the others get 0 */
};

/* Keys of the products of q (shared, rows `pitch` apart) and means. All lanes of the
 * warp call this, each group of eight for means of its own. */
template <class SUM>
__device__ __forceinline__ void score(const wanted &w, int n, const typename SUM::value *q, int pitch, int c, int lane) {
	SUM sum[PAIR][ROWS];
	uint32_t any = w.rows[0] | w.rows[1];
#pragma unroll
	for (int i = 0; i < PAIR * ROWS; i++)
		sum[i / ROWS][i % ROWS].clear();
	for (int base = lane % 8 * 4; base < c && any; base += 128) {
		float4 k[4][PAIR];
#pragma unroll
		for (int i = 0; i < 4 * PAIR; i++) {
			int ch = base + i / PAIR * 32;
			k[i / PAIR][i % PAIR] = ch < c ? *reinterpret_cast<const float4 *>(w.mean[i % PAIR] + ch) : make_float4(0, 0, 0, 0);
		}
#pragma unroll
		for (int i = 0; i < 4 * ROWS; i++) {
			int ch = base + i / ROWS * 32, r = i % ROWS;
			if (ch >= c || !(any >> r & 1))
				continue;
			const typename SUM::value *p = q + r * pitch + place_of(ch);
			typename SUM::value a = p[0], b = p[8], d = p[16], e = p[24];
#pragma unroll
			for (int j = 0; j < PAIR; j++) {
				const float4 &m = k[i / ROWS][j];
				sum[j][r].add_product(a, m.x);
				sum[j][r].add_product(b, m.y);
				sum[j][r].add_product(d, m.z);
				sum[j][r].add_product(e, m.w);
			}
		}
	}
	__syncwarp();
#pragma unroll
	for (int i = 0; i < PAIR * ROWS; i++) {
		int j = i / ROWS, r = i % ROWS;
#pragma unroll
		for (int o = 4; o > 0; o >>= 1)
			sum[j][r].add_lane(o);
		if (lane % 8 == 0 && w.key[j])
			w.key[j][r * n] = w.rows[j] >> r & 1 ? ordered(sum[j][r].result()) : 0;
	}
}

/* n keys of a row as one warp ranks them: lane l holds l, l + 32 .. */
struct ranking {
	uint32_t mine[HELD];
	const uint32_t *key;
	int n, lane;

	__device__ __forceinline__ ranking(const uint32_t *keys, int count, int l) : key(keys), n(count), lane(l) {
#pragma unroll
		for (int i = 0; i < HELD; i++)
			mine[i] = i * 32 + lane < n ? key[i * 32 + lane] : 0;
	}
	/* How many keys reach `cut` > 0. */
	__device__ __forceinline__ int reached(uint32_t cut) const {
		int count = 0;
#pragma unroll
		for (int i = 0; i < HELD; i++)
			count += mine[i] >= cut;
		for (int i = HELD * 32 + lane; i < n; i += 32)
			count += key[i] >= cut;
		return __reduce_add_sync(~0u, count);
	}
	/* Calls take(i, place) for the `keep` largest, ascending, ties to the lower index.
	 * The cut is found bit by bit: the largest value that at least `keep` keys reach. */
	template <typename F> __device__ __forceinline__ void best(int keep, F take) const {
		uint32_t cut = 0, below = (1u << lane) - 1;
		for (int bit = 31; bit >= 0; bit--) {
			uint32_t trial = cut | 1u << bit;
			int count = reached(trial);
			if (count >= keep)
				cut = trial;
			if (count == keep)
				break;
		}
		int equal = keep - (cut == ~0u ? 0 : reached(cut + 1)), used = 0;
		auto look = [&](int i, uint32_t x) {
			uint32_t ties = __ballot_sync(~0u, x == cut && x != 0);
			bool kept = x > cut || (x == cut && x != 0 && __popc(ties & below) < equal);
			uint32_t all = __ballot_sync(~0u, kept);
			if (kept)
				take(i, used + __popc(all & below));
			used += __popc(all);
			equal -= min(equal, __popc(ties));
		};
#pragma unroll
		for (int i = 0; i < HELD; i++) {
			if (i * 32 < n)
				look(i * 32 + lane, mine[i]);
		}
		for (int first = HELD * 32; first < n; first += 32)
			look(first + lane, first + lane < n ? key[first + lane] : 0);
	}
};

/* Grid: query blocks / ROWS, heads. Shared: q[ROWS][c up to 32s], key[ROWS][blocks],
 * open[frames]: the rows for which a frame's blocks are candidates, one bit each. */
template <class SUM>
__global__ void __launch_bounds__(THREADS) select_kernel(int32_t *index, const float *q_mean, const span_list l,
	const select_args a, int query_blocks) {
	extern __shared__ __align__(16) char shared[];
	int frames = l.start[l.n], blocks = frames * l.per_frame, past = frames - a.current_frames;
	int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = threadIdx.x >> 3, head = blockIdx.y;
	int first = blockIdx.x * ROWS, rows = min(ROWS, query_blocks - first);
	typename SUM::value *q = (typename SUM::value *)shared;
	int pitch = (int)ceil_div(l.c, 32) * 32;
	uint32_t *key = (uint32_t *)(q + ROWS * pitch), *open = key + ROWS * blocks, all = (1u << rows) - 1;
	for (int i = threadIdx.x; i < rows * l.c; i += THREADS)
		q[i / l.c * pitch + place_of(i % l.c)] = q_mean[((int64_t)head * query_blocks + first) * l.c + i];
	bool two_stage = a.keep_frames > 0 && past > a.keep_frames;
	int near = past - a.keep_near, middle = a.keep_frames - a.keep_sink - a.keep_near, candidates = near - a.keep_sink;
	for (int f = threadIdx.x; f < frames; f += THREADS)
		open[f] = !two_stage || f < a.keep_sink || f >= near ? all : 0;
	__syncthreads();

	if (two_stage && middle > 0) {
		for (int base = 0; base < candidates; base += PAIR * GROUPS) {
			wanted w;
#pragma unroll
			for (int j = 0; j < PAIR; j++) {
				int i = base + group * PAIR + j, slot, s = span_find(l, a.keep_sink + min(i, candidates - 1), &slot);
				w.mean[j] = l.frame_mean[s] + ((int64_t)head * l.slots[s] + slot) * l.c;
				w.key[j] = i < candidates ? key + i : nullptr;
				w.rows[j] = i < candidates ? all : 0;
			}
			score<SUM>(w, candidates, q, pitch, l.c, lane);
		}
		__syncthreads();
		if (warp < rows)
			ranking(key + warp * candidates, candidates, lane).best(min(middle, candidates), [&](int i, int) {
				atomicOr(&open[a.keep_sink + i], 1u << warp);
			});
		__syncthreads();
	}
	for (int base = 0; base < blocks; base += PAIR * GROUPS) {
		wanted w;
#pragma unroll
		for (int j = 0; j < PAIR; j++) {
			int i = base + group * PAIR + j, b = min(i, blocks - 1), f = b / l.per_frame, slot, s = span_find(l, f, &slot);
			w.mean[j] = l.block_mean[s] + (((int64_t)head * l.slots[s] + slot) * l.per_frame + (b - f * l.per_frame)) * l.c;
			w.key[j] = i < blocks ? key + i : nullptr;
			w.rows[j] = i < blocks ? open[f] : 0;
		}
		score<SUM>(w, blocks, q, pitch, l.c, lane);
	}
	__syncthreads();
	if (warp < rows) {
		int32_t *out = index + ((int64_t)head * query_blocks + first + warp) * a.keep;
		ranking(key + warp * blocks, blocks, lane).best(a.keep, [&](int i, int place) { out[place] = i; });
	}
}

template <class SUM>
static void select_launch(struct backend *be, struct block_list *list, const struct tensor *q_mean, const span_list &l,
	const struct select_args *args, int blocks, int frames) {
	size_t bytes = ROWS * ((size_t)ceil_div(l.c, 32) * 32 * sizeof(typename SUM::value) + (size_t)blocks * 4) + (size_t)frames * 4;
	cudaError_t r = cudaFuncSetAttribute(select_kernel<SUM>, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_MAX);
	if (r != cudaSuccess)
		cuda_latch(be, r, "select_blocks", q_mean);
	if (bytes > SHARED_MAX) {
		cuda_latch_text(be, -EINVAL, "select_blocks", "the window has more key blocks than fit into shared memory");
		return;
	}
	dim3 grid((unsigned)ceil_div(list->query_blocks, ROWS), (unsigned)l.heads);
	select_kernel<SUM><<<grid, THREADS, bytes, cuda_of(be)->stream>>>(list->index, (const float *)q_mean->data, l, *args,
		list->query_blocks);
	launch_check(be, "select_blocks", q_mean);
}

void cuda_select_blocks(struct backend *be, struct block_list *list, const struct tensor *q_mean,
	const struct kv_span *spans, int n_spans, const struct select_args *args) {
	span_list l = span_list_of(spans, n_spans);
	int frames = l.start[n_spans], past = frames - args->current_frames, cc = cuda_of(be)->cc;
	bool two_stage = args->keep_frames > 0 && past > args->keep_frames;
	int eligible = (two_stage ? args->current_frames + args->keep_frames : frames) * l.per_frame;
	if (l.c % 4 || list->kept != args->keep || list->kept < 1 || list->kept > eligible ||
		(args->keep_frames && args->keep_sink + args->keep_near > args->keep_frames)) {
		cuda_latch_text(be, -EINVAL, "select_blocks", "keep exceeds the candidates, or head_dim % 4 != 0");
		return;
	}
	bool doubles = cc == 90 || cc == 100; /* half as many f64 units as f32 */
	if (doubles)
		select_launch<double_sum>(be, list, q_mean, l, args, frames * l.per_frame, frames);
	else
		select_launch<pair_sum>(be, list, q_mean, l, args, frames * l.per_frame, frames);
}
