/* SPDX-License-Identifier: Apache-2.0 */
/* Attention on Hopper: heads of 128 channels in bf16, dense or by lists of blocks
 * of whole tiles. One warp copies tiles (they lie as wgmma reads them) into a ring;
 * each consumer warpgroup holds 64 queries and shares the ring: scores of the next
 * keys and values of the last are on the tensor cores while the softmax runs. Three
 * warpgroups share dense keys, two lists of blocks of 128; lists of blocks of 64
 * have one each, two CTAs an SM.
 *
 * CTAs stay: each takes one query tile after the other while all have one to take;
 * the keys of those left over are cut into equal parts, one for each CTA, whose
 * results a second kernel merges. Bound by the tensor cores, blocks of 64 by the
 * second cache. */
#include "kernels/cuda/attention_sm90.cuh"
#include "kernels/cuda/attention_ring.cuh"

/* q, y and their tiles, by value. */
struct query_side {
	__nv_bfloat16 *y;
	const __nv_bfloat16 *q;
	query_tiles tiles;
	int heads;
	/* Where tile t of a head begins, in elements; from token to token. */
	__device__ int64_t at(int head, int t) const {
		return ((int64_t)tiles.first(t) * heads + head) * WIDTH;
	}
	__device__ int64_t stride() const {
		return (int64_t)heads * WIDTH;
	}
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/* The queries of a warpgroup in a part; rows may be 0 or less. */
struct queries {
	int rows;
	int64_t at;
	__device__ __forceinline__ void find(const query_side &io, const schedule &plan, const part &w, bool real, int wgs, int wg) {
		int head = w.unit / plan.per_head, t = (w.unit - head * plan.per_head) * wgs + wg;
		rows = real ? io.tiles.rows(t) : 0;
		at = rows > 0 ? io.at(head, t) : 0;
	}
	__device__ __forceinline__ void load(const query_side &io, char *tile, int thread) const {
		if (rows > 0)
			load_queries(tile, io.q + at, rows, io.stride(), thread);
	}
};
#endif

/* Grid: CTAs of the schedule. q and y [n, heads * 128]. */
template <class P, class S>
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
	part w{}, next{};
	bool more = plan.get(&w, blockIdx.x, 0);
	if (wg == P::wgs) {
		if (P::wgs > 1)
			registers_fewer<P::producer_registers>();
		producer<P> p{r, 0, 1, 0, 0};
		for (int i = 1; more && thread == 0; i++) {
			int head = w.unit / plan.per_head;
			produce(p, source, io.tiles, (w.unit - head * plan.per_head) * P::wgs, head, w);
			more = plan.get(&w, blockIdx.x, i);
		}
		return;
	}
	if (P::wgs > 1)
		registers_more<P::registers>();
	consumer<P> c{r, wg, thread, 0, 0, unit};
	queries now, then;
	now.find(io, plan, w, more, P::wgs, wg);
	if (P::ahead)
		now.load(io, shared + wg * TILE_BYTES, thread);
	for (int i = 1; more; i++) {
		char *tile = shared + ((P::ahead ? (i + 1 & 1) * P::wgs : 0) + wg) * TILE_BYTES;
		if (!P::ahead) {
			named_sync(1 + wg, 128); /* nobody reads the last result any more */
			now.load(io, tile, thread);
		}
		copy_wait<0>();
		fence_async();
		named_sync(1 + wg, 128);
		more = plan.get(&next, blockIdx.x, i);
		then.find(io, plan, next, more, P::wgs, wg);
		if (P::ahead)
			then.load(io, shared + ((i & 1) * P::wgs + wg) * TILE_BYTES, thread);
		if (now.rows <= 0) {
			c.skip();
		} else {
			float o[64], top[2], sum[2];
			c.run(o, top, sum, smem_address(tile));
			if (w.whole)
				store_result(io.y + now.at, tile, o, sum, now.rows, io.stride(), wg, thread);
			else
				store_partial(out, o, top, sum, ((int64_t)(blockIdx.x * 2 + (i - 1 - plan.rounds)) * P::wgs + wg) * TILE, thread);
		}
		w = next, now = then;
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
	store4(io.y + io.at(head, t) + (row % TILE) * io.stride() + lane * 4,
		make_float4(o.x * inv, o.y * inv, o.z * inv, o.w * inv));
}

/* Fewer keys than this are not worth cutting. */
#define CUT_KEYS 4

template <class P, class S>
static void launch(struct backend *be, const query_side &io, const S &source, int n_tiles, int keys, float scale,
	size_t reserved) {
	auto kernel = attention_sm90_kernel<P, S>;
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

using dense_plan = plan<3, 64, 5, 0>;
using shared_plan = plan<2, 128, 3, 0>;
using single_plan = plan<1, 64, 3, 0>;

static query_side side(struct tensor *y, const struct tensor *q, const query_tiles &tiles, int heads) {
	return {(__nv_bfloat16 *)y->data, (const __nv_bfloat16 *)q->data, tiles, heads};
}

bool attention_sm90(struct backend *be, struct tensor *y, const struct tensor *q, const dense_source &source,
	const query_tiles &tiles, int n_tiles, int heads, float scale, size_t reserved) {
	query_side io = side(y, q, tiles, heads);
	int keys = source.l.start[source.l.n] * source.l.tiles;
	launch<dense_plan>(be, io, source, n_tiles, keys, scale, reserved);
	return true;
}

bool attention_sm90(struct backend *be, struct tensor *y, const struct tensor *q, const list_source<true> &source,
	const query_tiles &tiles, int n_tiles, int heads, float scale, size_t reserved) {
	query_side io = side(y, q, tiles, heads);
	if (tiles.parts % 2 == 0)
		launch<shared_plan>(be, io, source, n_tiles, source.kept, scale, reserved);
	else
		launch<single_plan>(be, io, source, n_tiles, source.kept, scale, reserved);
	return true;
}

/* A build without sm_90a runs the empty kernel of another target here: then no. */
bool attention_sm90_ready(struct backend *be) {
	static int known; /* 1 yes, -1 no: the same for all of compute capability 9.0 */
	if (cuda_of(be)->cc != 90)
		return false;
	if (!known) {
		cudaFuncAttributes a{};
		bool ok = cudaFuncGetAttributes(&a, attention_sm90_kernel<dense_plan, dense_source>) == cudaSuccess;
		known = ok && a.ptxVersion == 90 ? 1 : -1;
	}
	return known > 0;
}
