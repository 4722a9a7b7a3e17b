/* SPDX-License-Identifier: Apache-2.0 */
/* Attention on Hopper: heads of 128 channels in bf16, dense or by lists of blocks
 * of whole tiles. One warp copies tiles (they lie as wgmma reads them) into a ring;
 * each consumer warpgroup holds 64 queries and shares the ring: scores of the next
 * keys and values of the last are on the tensor cores while the softmax runs. Two
 * warpgroups share dense keys and lists of blocks of 128; lists of blocks of 64 have
 * one each, two CTAs an SM.
 *
 * CTAs stay: each takes one query tile after the other while all have one to take;
 * the keys of those left over are cut into equal parts, one for each CTA, whose
 * results a second kernel merges. Bound by the tensor cores, blocks of 64 by the
 * second cache. */
#include <math.h>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_sm90.cuh"
#include "kernels/cuda/sm90.cuh"

#define WIDTH 128                        /* channels of a head */
#define TILE_BYTES (TILE * WIDTH * 2)    /* 16 KB: two pieces of 64 channels */
#define PIECE_BYTES (TILE * 128)

#define LAST (1 << 16)                   /* in meta: the last step of a part */

/* WGS consumer warpgroups, KEYS keys a step, STAGES steps in flight. */
template <int WGS, int KEYS, int STAGES> struct plan {
	static constexpr int wgs = WGS, keys = KEYS, stages = STAGES, tiles = KEYS / TILE;
	static constexpr int step_bytes = tiles * TILE_BYTES;
	static constexpr int k_at = 2 * WGS * TILE_BYTES, v_at = k_at + STAGES * step_bytes; /* queries: this part's and the next's */
	static constexpr int bars_at = v_at + STAGES * step_bytes;
	static constexpr int shared_bytes = bars_at + STAGES * (4 * 8 + 4);
	/* The producer is a warpgroup where registers move, else a warp. */
	static constexpr int threads = WGS * 128 + (WGS > 1 ? 128 : 32), ctas = WGS > 1 ? 1 : 2;
};

/* A part: keys from .. to - 1 (tiles or list entries) for the queries of a unit,
 * WGS * 64 of a head. */
struct part {
	int unit, from, to;
	bool whole;
};

/* Who does what: `whole` units a CTA, then a share of the keys of `left` units. */
struct schedule {
	int units, per_head, keys; /* all units, those of a head, keys of each */
	int rounds, left, ctas;
	/* Part i of a CTA; false: there is none. */
	__host__ __device__ bool get(part *p, int cta, int i) const {
		if (i < rounds) {
			*p = {i * ctas + cta, 0, keys, true};
			return p->unit < units;
		}
		int64_t all = (int64_t)left * keys, at = all * cta / ctas, end = all * (cta + 1) / ctas;
		for (int k = rounds; k < i && at < end; k++)
			at = min(end, (at / keys + 1) * keys);
		if (at >= end)
			return false;
		int unit = (int)(at / keys), from = (int)(at - (int64_t)unit * keys);
		*p = {rounds * ctas + unit, from, (int)min((int64_t)keys, from + end - at), false};
		return true;
	}
};

/* Results of parts, unnormalised: slots of WGS * 64 rows, two a CTA. */
struct partial {
	float *o;      /* [slots, rows, 128] */
	float2 *state; /* [slots, rows]: maximum, sum */
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
template <class P> struct ring {
	uint32_t base; /* of shared memory */
	int *meta;     /* of each stage: valid keys of its tiles, 8 bits each; LAST */
	__device__ uint32_t k(int stage) const {
		return base + P::k_at + stage * P::step_bytes;
	}
	__device__ uint32_t v(int stage) const {
		return base + P::v_at + stage * P::step_bytes;
	}
	__device__ uint32_t bar(int kind, int stage) const {
		return base + P::bars_at + (kind * P::stages + stage) * 8;
	}
	__device__ uint32_t k_full(int s) const {
		return bar(0, s);
	}
	__device__ uint32_t v_full(int s) const {
		return bar(1, s);
	}
	__device__ uint32_t k_empty(int s) const {
		return bar(2, s);
	}
	__device__ uint32_t v_empty(int s) const {
		return bar(3, s);
	}
};

/* ---- producer: one thread ---- */
template <class P> struct producer {
	ring<P> r;
	int stage, parity, slot, meta;

	__device__ void copy(const char *k, const char *v) {
		if (slot == 0)
			barrier_wait(r.k_empty(stage), parity);
		if (P::tiles == 1) {
			bulk_load(r.k(stage), k, TILE_BYTES, r.k_full(stage));
		} else { /* the same channels of all keys of a step lie together */
			for (int h = 0; h < 2; h++)
				bulk_load(r.k(stage) + h * P::tiles * PIECE_BYTES + slot * PIECE_BYTES, k + h * PIECE_BYTES, PIECE_BYTES,
					r.k_full(stage));
		}
		if (slot == 0)
			barrier_wait(r.v_empty(stage), parity);
		bulk_load(r.v(stage) + slot * TILE_BYTES, v, TILE_BYTES, r.v_full(stage));
	}
	/* One tile of keys, the first n real; last: of this part. */
	__device__ void push(const char *k, const char *v, int n, bool last) {
		copy(k, v);
		meta |= n << slot * 8;
		if (++slot < P::tiles && !last)
			return;
		for (; slot < P::tiles; slot++) /* anything finite */
			copy(k, v);
		r.meta[stage] = meta | (last ? LAST : 0);
		barrier_arrive_bytes(r.k_full(stage), P::step_bytes);
		barrier_arrive_bytes(r.v_full(stage), P::step_bytes);
		slot = 0, meta = 0;
		if (++stage == P::stages) {
			stage = 0;
			parity ^= 1;
		}
	}
};

template <class P>
__device__ void produce(producer<P> &p, const dense_source &source, const query_tiles &, int, int head, const part &w) {
	const span_list &l = source.l;
	int frame = w.from / l.tiles, tile = w.from - frame * l.tiles;
	kv_frame f = span_frame(l, head, frame);
	for (int i = w.from; i < w.to; i++) {
		p.push(f.k + tile * TILE_BYTES, f.v + tile * TILE_BYTES, min(TILE, l.s - tile * TILE), i + 1 == w.to);
		if (++tile == l.tiles && i + 1 < w.to) {
			tile = 0;
			f = span_frame(l, head, ++frame);
		}
	}
}

template <class P>
__device__ void produce(producer<P> &p, const list_source<true> &source, const query_tiles &tiles, int tile, int head,
	const part &w) {
	const span_list &l = source.l;
	const int32_t *index = source.index + ((int64_t)head * source.query_blocks + tiles.list(tile)) * source.kept;
	int next = index[w.from];
	for (int e = w.from; e < w.to; e++) {
		int block = next, frame = block / l.per_frame, first = (block - frame * l.per_frame) * l.block;
		int valid = min(l.block, l.s - first);
		kv_frame f = span_frame(l, head, frame);
		next = e + 1 < w.to ? index[e + 1] : 0;
		for (int at = 0; at < valid; at += TILE)
			p.push(f.k + (int64_t)(first + at) * (WIDTH * 2), f.v + (int64_t)(first + at) * (WIDTH * 2),
				min(TILE, valid - at), e + 1 == w.to && at + TILE >= valid);
	}
}

/* ---- consumers ---- */
/* Starts to load 64 rows of q, `rows` of them real, into a tile of this warpgroup. */
__device__ __forceinline__ void load_queries(char *to, const __nv_bfloat16 *q, int rows, int64_t stride, int thread) {
#pragma unroll
	for (int i = 0; i < TILE * WIDTH / 8 / 128; i++) {
		int r = i * 8 + thread / 16, col = thread % 16;
		copy16(to + tile_byte<WIDTH>(r, col), q + (r < rows ? r * stride : 0) + col * 8, r < rows);
	}
	copy_commit();
}

template <int KEYS>
__device__ __forceinline__ void issue_scores(float (&s)[KEYS / 2], uint64_t q, uint64_t k) {
#pragma unroll
	for (int kk = 0; kk < WIDTH / 16; kk++) {
		int q_at = kk / 4 * PIECE_BYTES + kk % 4 * 32, k_at = kk / 4 * (KEYS * 128) + kk % 4 * 32;
		wgmma_scores(s, q + (q_at >> 4), k + (k_at >> 4), kk > 0);
	}
}

template <int KEYS>
__device__ __forceinline__ void issue_values(float (&o)[64], const uint32_t (&p)[KEYS / 16][4], uint64_t v) {
#pragma unroll
	for (int kk = 0; kk < KEYS / 16; kk++)
		wgmma_values(o, p[kk], v + ((kk / 4 * TILE_BYTES + kk % 4 * 2048) >> 4));
}

template <int KEYS> __device__ __forceinline__ void mask_scores(float (&s)[KEYS / 2], int meta, int lane) {
#pragma unroll
	for (int i = 0; i < KEYS / 2; i++) {
		int key = i / 4 * 8 + (lane & 3) * 2 + (i & 1);
		if ((key & 63) >= (meta >> i / 32 * 8 & 255))
			s[i] = NEVER;
	}
}

/* Scores become probabilities; keep[] is what to scale earlier sums and values by. */
template <int KEYS>
__device__ __forceinline__ void soften(float (&s)[KEYS / 2], float (&top)[2], float (&sum)[2], float (&keep)[2], float unit) {
#pragma unroll
	for (int r = 0; r < 2; r++) {
		float high = top[r];
#pragma unroll
		for (int n = 0; n < KEYS / 8; n++)
			high = fmaxf(high, fmaxf(s[n * 4 + 2 * r], s[n * 4 + 2 * r + 1]));
		high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
		high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
		float less = high * unit, part[2] = {0.f, 0.f};
		keep[r] = exp2_fast((top[r] - high) * unit);
		top[r] = high;
#pragma unroll
		for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
			for (int i = 0; i < 2; i++) {
				float &x = s[n * 4 + 2 * r + i];
				x = exp2_fast(fmaf(x, unit, -less));
				part[i] += x;
			}
		}
		sum[r] = fmaf(sum[r], keep[r], part[0] + part[1]);
	}
}

template <int KEYS> __device__ __forceinline__ void pack_scores(uint32_t (&p)[KEYS / 16][4], const float (&s)[KEYS / 2]) {
#pragma unroll
	for (int i = 0; i < KEYS / 4; i++)
		p[i / 4][i % 4] = pack_bf16(s[2 * i], s[2 * i + 1]);
}

/* This warpgroup's result, over its query tile, to y in rows of 256 bytes. */
__device__ __forceinline__ void store_result(__nv_bfloat16 *y, char *tile, const float (&o)[64], const float (&sum)[2], int rows,
	int64_t stride, int wg, int thread) {
	int lane = thread & 31, row = thread / 32 * 16 + (lane >> 2);
	named_sync(1 + wg, 128); /* nobody reads the queries any more */
#pragma unroll
	for (int r = 0; r < 2; r++) {
		float inv = 1.f / sum[r];
#pragma unroll
		for (int n = 0; n < WIDTH / 8; n++)
			*reinterpret_cast<uint32_t *>(tile + tile_byte<WIDTH>(row + r * 8, n) + (lane & 3) * 4) =
				pack_bf16(o[n * 4 + 2 * r] * inv, o[n * 4 + 2 * r + 1] * inv);
	}
	named_sync(1 + wg, 128);
#pragma unroll
	for (int i = 0; i < TILE * WIDTH / 8 / 128; i++) {
		int r = i * 8 + thread / 16, col = thread % 16;
		if (r < rows)
			*reinterpret_cast<uint4 *>(y + r * stride + col * 8) =
				*reinterpret_cast<const uint4 *>(tile + tile_byte<WIDTH>(r, col));
	}
}

/* The same for a part of the keys: 64 rows from row `first` of the partial results. */
__device__ __forceinline__ void store_partial(const partial &out, const float (&o)[64], const float (&top)[2],
	const float (&sum)[2], int64_t first, int thread) {
	int lane = thread & 31;
#pragma unroll
	for (int r = 0; r < 2; r++) {
		int64_t row = first + thread / 32 * 16 + (lane >> 2) + r * 8;
#pragma unroll
		for (int n = 0; n < WIDTH / 8; n++)
			*reinterpret_cast<float2 *>(out.o + row * WIDTH + n * 8 + (lane & 3) * 2) =
				make_float2(o[n * 4 + 2 * r], o[n * 4 + 2 * r + 1]);
		if ((lane & 3) == 0)
			out.state[row] = make_float2(top[r], sum[r]);
	}
}

template <class P, bool TURNS> struct consumer {
	static constexpr int turn = 8; /* named barriers: whose turn it is on the tensor cores */
	ring<P> r;
	int wg, thread, stage, parity; /* of the next step */
	float unit;

	__device__ void take_turn() const {
		if (TURNS)
			named_sync(turn + wg, 256);
	}
	__device__ void give_turn() const {
		if (TURNS)
			named_arrive(turn + (wg ^ 1), 256);
	}
	__device__ void advance() {
		if (++stage == P::stages) {
			stage = 0;
			parity ^= 1;
		}
	}
	__device__ void release(uint32_t bar) const {
		if (thread % 32 == 0)
			barrier_arrive(bar);
	}
	/* A part without queries here: lets the others go on. */
	__device__ void skip() {
		int meta;
		do {
			barrier_wait(r.k_full(stage), parity);
			meta = r.meta[stage];
			take_turn();
			give_turn();
			barrier_wait(r.v_full(stage), parity);
			__syncwarp();
			release(r.k_empty(stage));
			release(r.v_empty(stage));
			advance();
		} while (!(meta & LAST));
	}
	/* All keys of a part against the queries at q: o, unnormalised, with its maxima and sums. */
	__device__ __forceinline__ void run(float (&o)[64], float (&top)[2], float (&sum)[2], uint32_t queries) {
		constexpr int full = P::tiles == 2 ? 64 << 8 | 64 : 64;
		int lane = thread & 31;
		uint64_t q = rows_descriptor(queries);
		float s[P::keys / 2], keep[2];
		uint32_t p[P::keys / 16][4];
#pragma unroll
		for (int i = 0; i < 64; i++)
			o[i] = 0.f;
		top[0] = top[1] = NEVER, sum[0] = sum[1] = 0.f;
		barrier_wait(r.k_full(stage), parity);
		int meta = r.meta[stage];
		take_turn();
		hold(s);
		wgmma_fence();
		issue_scores<P::keys>(s, q, rows_descriptor(r.k(stage)));
		wgmma_commit();
		give_turn();
		wgmma_wait<0>();
		hold(s);
		release(r.k_empty(stage));
		if ((meta & 0xffff) != full)
			mask_scores<P::keys>(s, meta, lane);
		soften<P::keys>(s, top, sum, keep, unit);
		pack_scores<P::keys>(p, s);
		while (!(meta & LAST)) {
			int last = stage, last_parity = parity;
			advance();
			barrier_wait(r.k_full(stage), parity);
			meta = r.meta[stage];
			take_turn();
			hold(s);
			hold(o);
			hold(p);
			wgmma_fence();
			issue_scores<P::keys>(s, q, rows_descriptor(r.k(stage)));
			wgmma_commit();
			barrier_wait(r.v_full(last), last_parity);
			wgmma_fence();
			issue_values<P::keys>(o, p, values_descriptor(r.v(last), PIECE_BYTES));
			wgmma_commit();
			give_turn();
			wgmma_wait<1>();
			hold(s);
			release(r.k_empty(stage));
			if ((meta & 0xffff) != full)
				mask_scores<P::keys>(s, meta, lane);
			soften<P::keys>(s, top, sum, keep, unit);
			wgmma_wait<0>();
			hold(s);
			hold(o);
			hold(p);
			release(r.v_empty(last));
#pragma unroll
			for (int i = 0; i < 64; i++)
				o[i] *= keep[i >> 1 & 1];
			pack_scores<P::keys>(p, s);
		}
		barrier_wait(r.v_full(stage), parity);
		hold(o);
		hold(p);
		wgmma_fence();
		issue_values<P::keys>(o, p, values_descriptor(r.v(stage), PIECE_BYTES));
		wgmma_commit();
		wgmma_wait<0>();
		hold(o);
		release(r.v_empty(stage));
		advance();
#pragma unroll
		for (int i = 0; i < 2; i++) {
			sum[i] += __shfl_xor_sync(~0u, sum[i], 1);
			sum[i] += __shfl_xor_sync(~0u, sum[i], 2);
		}
	}
};
#endif

/* q, y and their tiles, by value. */
struct query_side {
	__nv_bfloat16 *y;
	const __nv_bfloat16 *q;
	query_tiles tiles;
	int heads;
	/* Where tile t of a unit's head begins, in elements. */
	__device__ int64_t at(int head, int t) const {
		return ((int64_t)tiles.first(t) * heads + head) * WIDTH;
	}
};

/* Grid: CTAs of the schedule. q and y [n, heads * 128]. */
template <class P, class S, bool TURNS>
__global__ void __launch_bounds__(P::threads, P::ctas) attention_sm90_kernel(const __grid_constant__ query_side io,
	const __grid_constant__ S source, const __grid_constant__ schedule plan, const partial out, float unit) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
	extern __shared__ __align__(1024) char shared[];
	ring<P> r{smem_address(shared), (int *)(shared + P::bars_at + P::stages * 32)};
	int wg = __shfl_sync(~0u, threadIdx.x / 128, 0), thread = threadIdx.x % 128;
	if (threadIdx.x == 0) {
		for (int s = 0; s < P::stages; s++) {
			barrier_init(r.k_full(s), 1);
			barrier_init(r.v_full(s), 1);
			barrier_init(r.k_empty(s), P::wgs * 4);
			barrier_init(r.v_empty(s), P::wgs * 4);
		}
		fence_async();
	}
	__syncthreads();
	part w, next;
	bool more = plan.get(&w, blockIdx.x, 0);
	if (wg == P::wgs) {
		if (P::wgs > 1)
			registers_fewer<40>();
		producer<P> p{r, 0, 1, 0, 0};
		for (int i = 1; more && thread == 0; i++) {
			int head = w.unit / plan.per_head;
			produce(p, source, io.tiles, (w.unit - head * plan.per_head) * P::wgs, head, w);
			more = plan.get(&w, blockIdx.x, i);
		}
		return;
	}
	if (P::wgs > 1)
		registers_more<232>();
	consumer<P, TURNS> c{r, wg, thread, 0, 0, unit};
	int64_t stride = (int64_t)io.heads * WIDTH;
	int head = w.unit / plan.per_head, t = (w.unit - head * plan.per_head) * P::wgs + wg, rows = 0;
	if (more && (rows = io.tiles.rows(t)) > 0)
		load_queries(shared + wg * TILE_BYTES, io.q + io.at(head, t), rows, stride, thread);
	if (TURNS && wg == 1)
		c.give_turn();
	for (int i = 1; more; i++) {
		char *tile = shared + ((i + 1 & 1) * P::wgs + wg) * TILE_BYTES;
		copy_wait<0>();
		fence_async();
		named_sync(1 + wg, 128);
		more = plan.get(&next, blockIdx.x, i);
		int next_head = next.unit / plan.per_head, next_t = (next.unit - next_head * plan.per_head) * P::wgs + wg, next_rows = 0;
		if (more && (next_rows = io.tiles.rows(next_t)) > 0)
			load_queries(shared + ((i & 1) * P::wgs + wg) * TILE_BYTES, io.q + io.at(next_head, next_t), next_rows, stride, thread);
		if (rows <= 0) {
			c.skip();
		} else {
			float o[64], top[2], sum[2];
			c.run(o, top, sum, smem_address(tile));
			if (w.whole)
				store_result(io.y + io.at(head, t), tile, o, sum, rows, stride, wg, thread);
			else
				store_partial(out, o, top, sum, ((int64_t)(blockIdx.x * 2 + (i - 1 - plan.rounds)) * P::wgs + wg) * TILE, thread);
		}
		w = next, head = next_head, t = next_t, rows = next_rows;
	}
#endif
}

/* y of the units that were cut. One warp a row. Grid: rows of a unit / 4, units left. */
template <int WGS>
__global__ void __launch_bounds__(128) attention_merge_kernel(const __grid_constant__ query_side io,
	const __grid_constant__ schedule plan, const partial in, float unit) {
	int lane = threadIdx.x & 31, row = blockIdx.x * 4 + (threadIdx.x >> 5), which = blockIdx.y;
	int u = plan.rounds * plan.ctas + which, head = u / plan.per_head, t = (u - head * plan.per_head) * WGS + row / TILE;
	if (row % TILE >= io.tiles.rows(t))
		return;
	int64_t all = (int64_t)plan.left * plan.keys, begin = (int64_t)which * plan.keys, end = begin + plan.keys;
	int first = (int)(begin * plan.ctas / all);
	float top = NEVER, sum = 0.f;
	float4 o = make_float4(0.f, 0.f, 0.f, 0.f);
	for (int cta = first; cta < plan.ctas; cta++) {
		int64_t from = all * cta / plan.ctas, to = all * (cta + 1) / plan.ctas;
		if (from >= end)
			break;
		if (to <= begin || to == from)
			continue;
		int64_t at = (int64_t)(cta * 2 + (from < begin)) * (WGS * TILE) + row;
		float2 state = in.state[at];
		float4 x = *reinterpret_cast<const float4 *>(in.o + at * WIDTH + lane * 4);
		float high = fmaxf(top, state.x), a = exp2_fast((top - high) * unit), b = exp2_fast((state.x - high) * unit);
		o = make_float4(o.x * a + x.x * b, o.y * a + x.y * b, o.z * a + x.z * b, o.w * a + x.w * b);
		sum = sum * a + state.y * b;
		top = high;
	}
	float inv = 1.f / sum;
	store4(io.y + io.at(head, t) + (int64_t)(row % TILE) * io.heads * WIDTH + lane * 4,
		make_float4(o.x * inv, o.y * inv, o.z * inv, o.w * inv));
}

/* Fewer keys than this are not worth cutting. */
#define CUT_KEYS 4

template <class P, bool TURNS, class S>
static void launch(struct backend *be, const query_side &io, const S &source, int n_tiles, int keys, float scale,
	size_t reserved) {
	auto kernel = attention_sm90_kernel<P, S, TURNS>;
	cudaStream_t stream = cuda_of(be)->stream;
	schedule plan{};
	plan.per_head = (int)ceil_div(n_tiles, P::wgs);
	plan.units = plan.per_head * io.heads;
	plan.keys = keys;
	plan.ctas = cuda_of(be)->processors * P::ctas;
	bool cut = keys >= CUT_KEYS;
	plan.rounds = cut ? plan.units / plan.ctas : (int)ceil_div(plan.units, plan.ctas);
	plan.left = cut ? plan.units % plan.ctas : 0;
	size_t slots = (size_t)plan.ctas * 2 * P::wgs * TILE, bytes = slots * (WIDTH * sizeof(float) + sizeof(float2));
	char *room = plan.left ? (char *)cuda_scratch(be, reserved + bytes, "attention") : nullptr;
	if (plan.left && !room)
		return;
	partial out{(float *)(room + reserved), (float2 *)(room + reserved + slots * WIDTH * sizeof(float))};
	cudaError_t r = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, P::shared_bytes);
	if (r != cudaSuccess)
		cuda_latch(be, r, "attention", nullptr);
	float unit = scale * 1.4426950408889634f;
	kernel<<<(unsigned)plan.ctas, P::threads, P::shared_bytes, stream>>>(io, source, plan, out, unit);
	if (plan.left)
		attention_merge_kernel<P::wgs><<<dim3(P::wgs * TILE / 4, (unsigned)plan.left), 128, 0, stream>>>(io, plan, out, unit);
}

using shared_plan = plan<2, 64, 4>;
using single_plan = plan<1, 64, 2>;

static query_side side(struct tensor *y, const struct tensor *q, const query_tiles &tiles, int heads) {
	return {(__nv_bfloat16 *)y->data, (const __nv_bfloat16 *)q->data, tiles, heads};
}

bool attention_sm90(struct backend *be, struct tensor *y, const struct tensor *q, const dense_source &source,
	const query_tiles &tiles, int n_tiles, int heads, float scale, size_t reserved) {
	query_side io = side(y, q, tiles, heads);
	int keys = source.l.start[source.l.n] * source.l.tiles;
	launch<shared_plan, false>(be, io, source, n_tiles, keys, scale, reserved);
	return true;
}

bool attention_sm90(struct backend *be, struct tensor *y, const struct tensor *q, const list_source<true> &source,
	const query_tiles &tiles, int n_tiles, int heads, float scale, size_t reserved) {
	query_side io = side(y, q, tiles, heads);
	if (tiles.parts % 2 == 0)
		launch<shared_plan, false>(be, io, source, n_tiles, source.kept, scale, reserved);
	else
		launch<single_plan, false>(be, io, source, n_tiles, source.kept, scale, reserved);
	return true;
}

/* A build without sm_90a runs the empty kernel of another target here: then no. */
bool attention_sm90_ready(struct backend *be) {
	static int known; /* 1 yes, -1 no: the same for all of compute capability 9.0 */
	if (cuda_of(be)->cc != 90)
		return false;
	if (!known) {
		cudaFuncAttributes a{};
		bool ok = cudaFuncGetAttributes(&a, attention_sm90_kernel<shared_plan, dense_source, false>) == cudaSuccess;
		known = ok && a.ptxVersion == 90 ? 1 : -1;
	}
	return known > 0;
}
