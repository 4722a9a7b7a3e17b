/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of attention_sm90.cu: how work is dealt out to CTAs, the ring of key and
 * value tiles in shared memory, the thread that fills it, the warpgroups that use
 * it. A stage of the ring is a step of 64 or 128 keys; "full" and "empty" barriers
 * of keys and of values are apart, because keys are free earlier. Thread: device. */
#pragma once
#include "kernels/cuda/attention_wgmma.cuh"

#define LAST (1 << 16)                   /* in meta: the last step of a part */

/* WGS consumer warpgroups, KEYS keys a step, STAGES steps in flight, room for the
 * queries of this part alone (AHEAD 0) or of the next one, too (1). */
template <int WGS, int KEYS, int STAGES, int AHEAD> struct plan {
	static constexpr int wgs = WGS, keys = KEYS, stages = STAGES, ahead = AHEAD, tiles = KEYS / TILE;
	static constexpr int step_bytes = tiles * TILE_BYTES;
	static constexpr int k_at = (1 + AHEAD) * WGS * TILE_BYTES, v_at = k_at + STAGES * step_bytes;
	static constexpr int bars_at = v_at + STAGES * step_bytes;
	static constexpr int shared_bytes = bars_at + STAGES * (4 * 8 + 4);
	/* The producer is a warpgroup where registers move, else a warp. */
	static constexpr int threads = WGS * 128 + (WGS > 1 ? 128 : 32), ctas = WGS > 1 ? 1 : 2;
	static constexpr int registers = WGS > 2 ? 160 : 232, producer_registers = WGS > 2 ? 32 : 40;
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

template <class P> struct consumer {
	ring<P> r;
	int wg, thread, stage, parity; /* of the next step */
	float unit;

	__device__ void advance() {
		if (++stage == P::stages) {
			stage = 0;
			parity ^= 1;
		}
	}
	/* Lets the producer overwrite what this warp has read. */
	__device__ void release(uint32_t bar) const {
		barrier_release(bar, thread % 32);
	}
	/* The word of this stage. Only the lane that releases the stage reads it: compute-sanitizer does not follow other
	 * lanes' reads through the warp's barrier to that lane's arrival, and would report a race. */
	__device__ int word() const {
		int meta = 0;
		if (thread % 32 == 0)
			meta = r.meta[stage];
		return __shfl_sync(~0u, meta, 0);
	}
	/* A part without queries here: lets the others go on. */
	__device__ void skip() {
		int meta;
		do {
			barrier_wait(r.k_full(stage), parity);
			meta = word();
			barrier_wait(r.v_full(stage), parity);
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
		int meta = word();
		hold(s);
		wgmma_fence();
		issue_scores<P::keys>(s, q, rows_descriptor(r.k(stage)));
		wgmma_commit();
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
			meta = word();
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
			rescale(o, keep);
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
