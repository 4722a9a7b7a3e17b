/* SPDX-License-Identifier: Apache-2.0 */
/* Cache attention with keys, values, queries and weights in bf16, sums in f32.
 * Pairs of neighbours are one 32-bit operand: two channels for the scores, two
 * tokens for the values. Compiled for each way there is to multiply pairs:
 *
 *	any set        by shifting halves apart: correct, not fast
 *	avx512bf16     vdpbf16ps
 *	amx            tiles of 16 keys (or channels) by 16 queries by 32
 *
 * Error against f32: 2^-8 of each operand, see tests/ops. Structure as in
 * attend.h: queries are lanes, the softmax is online over TILE keys. */
#include <math.h>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/bf16.h"
#include "kernels/cpu/simd.h"
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif
/* A test brings its own tile functions, to check the walk on any CPU. */
#if defined(__AMX_BF16__) || defined(TILES_EMULATED)
#define HAVE_TILES 1
#else
#define HAVE_TILES 0
#endif

extern const struct attention16 CPU_NAME(attention16);

#define LANE_VECTORS (LANES / VF_LANES)
#define ROWS (LANE_VECTORS == 1 ? 8 : 4) /* sums that are built at once */
#if HAVE_TILES
#define PAD 16 /* keys of a run are rounded up to this */
#else
#define PAD 2
#endif

struct attend16 {
	int32_t q[ATTEND_DIM_MAX / 2 * LANES] __attribute__((aligned(64))); /* [c / 2][16] pairs */
	int32_t weight[TILE / 2 * LANES] __attribute__((aligned(64))); /* [keys / 2][16] pairs */
	float score[TILE * LANES] __attribute__((aligned(64))); /* [keys][16] */
	float out[ATTEND_DIM_MAX * LANES] __attribute__((aligned(64))); /* [c][16] */
	float max[LANES], sum[LANES];
	int64_t c;
};

/* `count` keys: rows of c channels, and columns of channel rows `pitch` long. */
struct run16 {
	const uint16_t *k, *v;
	int64_t c, pitch, count;
	int64_t padded; /* count rounded up to PAD */
};

static int32_t pack(float low, float high) {
	return (int32_t)(bf16_of(low) | (uint32_t)bf16_of(high) << 16);
}

static void begin(struct attend16 *a, const float *q, int64_t stride, int64_t count, int64_t c) {
	float scale = LOG2E / sqrtf((float)c);
	a->c = c;
	for (int64_t d = 0; d < c / 2; d++) {
		for (int64_t i = 0; i < LANES; i++) {
			const float *row = q + i * stride + 2 * d;
			a->q[d * LANES + i] = i < count ? pack(row[0] * scale, row[1] * scale) : 0;
		}
	}
	memset(a->out, 0, (size_t)(c * LANES) * sizeof *a->out);
	for (int i = 0; i < LANES; i++) {
		a->max[i] = -INFINITY;
		a->sum[i] = 0;
	}
}

#if HAVE_TILES

/* The tile intrinsics do not say that they touch memory: p is read or written. */
static inline void tiles_fence(const void *p) {
	__asm__ volatile("" ::"r"(p) : "memory");
}

/* Tile registers: 0, 1 sums of 16 rows by 16 lanes; 2 keys, 16 rows of 32
 * channels; 3 their queries; 4 values, 16 channels of `step` tokens; 5 their
 * weights. */
static void tiles_configure(int64_t step) {
	struct {
		uint8_t palette, start_row, reserved[14];
		uint16_t row_bytes[16];
		uint8_t rows[16];
	} config __attribute__((aligned(64))) = {.palette = 1,
		.row_bytes = {64, 64, 64, 64, (uint16_t)(step * 2), 64},
		.rows = {16, 16, 16, 16, 16, (uint8_t)(step / 2)}};
	tiles_fence(&config);
	_tile_loadconfig(&config);
}

static void scores(const struct attend16 *a, float *score, const struct run16 *run) {
	for (int64_t key = 0; key < run->padded; key += 32) {
		int two = key + 16 < run->padded;
		_tile_zero(0);
		_tile_zero(1);
		tiles_fence(a);
		for (int64_t d = 0; d < a->c; d += 32) {
			_tile_loadd(3, a->q + d / 2 * LANES, 64);
			_tile_loadd(2, run->k + key * run->c + d, run->c * 2);
			_tile_dpbf16ps(0, 2, 3);
			if (two) {
				_tile_loadd(2, run->k + (key + 16) * run->c + d, run->c * 2);
				_tile_dpbf16ps(1, 2, 3);
			}
		}
		_tile_stored(0, score + key * LANES, 64);
		if (two)
			_tile_stored(1, score + (key + 16) * LANES, 64);
		tiles_fence(a);
	}
}

static void values(struct attend16 *a, const struct run16 *run, int64_t runs, int64_t step) {
	tiles_fence(a);
	for (int64_t d = 0; d < a->c; d += 32) {
		const int32_t *weight = a->weight;
		_tile_loadd(0, a->out + d * LANES, 64);
		_tile_loadd(1, a->out + (d + 16) * LANES, 64);
		for (int64_t r = 0; r < runs; r++) {
			const uint16_t *v = run[r].v + d * run[r].pitch;
			for (int64_t key = 0; key < run[r].padded; key += step) {
				_tile_loadd(5, weight + key / 2 * LANES, 64);
				_tile_loadd(4, v + key, run[r].pitch * 2);
				_tile_dpbf16ps(0, 4, 5);
				_tile_loadd(4, v + 16 * run[r].pitch + key, run[r].pitch * 2);
				_tile_dpbf16ps(1, 4, 5);
			}
			weight += run[r].padded / 2 * LANES;
		}
		_tile_stored(0, a->out + d * LANES, 64);
		_tile_stored(1, a->out + (d + 16) * LANES, 64);
	}
	tiles_fence(a);
}

/* Tokens of a value tile: 32 where every run is a multiple of it. */
static int64_t tiles_begin(const struct kv_shape *s) {
	bool wide = s->block % 32 == 0 && s->frame_tokens % s->block % 32 == 0;
	tiles_configure(wide ? 32 : 16);
	return wide ? 32 : 16;
}

static void tiles_end(void) {
	_tile_release();
}

#else

/* sum[lane] += both products of the pairs x[lane] and *pair. */
static inline vf dot_pair(vf sum, vi x, const uint16_t *pair) {
	uint32_t p;
	memcpy(&p, pair, sizeof p);
#if defined(__AVX512BF16__)
	return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)_mm512_set1_epi32((int)p));
#else
	vf low = (vf)(x << 16), high = (vf)(x & (int32_t)0xffff0000);
	return sum + low * bf16_value((uint16_t)p) + high * bf16_value((uint16_t)(p >> 16));
#endif
}

static inline vi vi_load(const int32_t *p) {
	vi v;
	memcpy(&v, p, sizeof v);
	return v;
}

/* score[r][:] = k[r] . q for `rows` (a constant after inlining) rows. */
static inline __attribute__((always_inline)) void score_rows(
	float *score, const int32_t *q, const uint16_t *k, int64_t c, const int rows) {
	vf acc[ROWS][LANE_VECTORS];
	for (int r = 0; r < rows; r++)
		for (int l = 0; l < LANE_VECTORS; l++)
			acc[r][l] = vf_set(0);
	for (int64_t d = 0; d < c; d += 2) {
		for (int l = 0; l < LANE_VECTORS; l++) {
			vi x = vi_load(q + d / 2 * LANES + l * VF_LANES);
			for (int r = 0; r < rows; r++)
				acc[r][l] = dot_pair(acc[r][l], x, k + r * c + d);
		}
	}
	for (int r = 0; r < rows; r++)
		for (int l = 0; l < LANE_VECTORS; l++)
			vf_store(score + r * LANES + l * VF_LANES, acc[r][l]);
}

static void scores(const struct attend16 *a, float *score, const struct run16 *run) {
	int64_t r = 0;
	for (; r + ROWS <= run->count; r += ROWS)
		score_rows(score + r * LANES, a->q, run->k + r * run->c, run->c, ROWS);
	for (; r < run->count; r++)
		score_rows(score + r * LANES, a->q, run->k + r * run->c, run->c, 1);
}

/* out[d][:] += values of `dims` channels, all keys of a run. */
static inline __attribute__((always_inline)) void value_dims(float *out, const int32_t *weight,
	const uint16_t *v, const struct run16 *run, const int dims) {
	vf acc[ROWS][LANE_VECTORS];
	for (int d = 0; d < dims; d++)
		for (int l = 0; l < LANE_VECTORS; l++)
			acc[d][l] = vf_load(out + d * LANES + l * VF_LANES);
	for (int64_t i = 0; i < run->padded; i += 2) {
		for (int l = 0; l < LANE_VECTORS; l++) {
			vi w = vi_load(weight + i / 2 * LANES + l * VF_LANES);
			for (int d = 0; d < dims; d++)
				acc[d][l] = dot_pair(acc[d][l], w, v + d * run->pitch + i);
		}
	}
	for (int d = 0; d < dims; d++)
		for (int l = 0; l < LANE_VECTORS; l++)
			vf_store(out + d * LANES + l * VF_LANES, acc[d][l]);
}

static void values(struct attend16 *a, const struct run16 *run, int64_t runs, int64_t step) {
	const int32_t *weight = a->weight;
	(void)step;
	for (int64_t r = 0; r < runs; weight += run[r].padded / 2 * LANES, r++) {
		int64_t d = 0;
		for (; d + ROWS <= a->c; d += ROWS)
			value_dims(a->out + d * LANES, weight, run[r].v + d * run[r].pitch, &run[r],
				ROWS);
		for (; d < a->c; d++)
			value_dims(a->out + d * LANES, weight, run[r].v + d * run[r].pitch, &run[r],
				1);
	}
}

static int64_t tiles_begin(const struct kv_shape *s) {
	(void)s;
	return 0;
}

static void tiles_end(void) {
}

#endif

/* Weights are not negative, so rounding half up needs no sign. */
static inline vi pack_weights(vf even, vf odd) {
	vi low = ((vi)even + 0x8000) >> 16;
	return low | (((vi)odd + 0x8000) & (int32_t)0xffff0000);
}

/* Scores of `keys` rows (even) become pairs of weights 2^(score - max); what
 * was summed under the old maximum is scaled to the new one. */
static void soften(struct attend16 *a, int64_t keys) {
	for (int l = 0; l < LANE_VECTORS; l++) {
		const float *score = a->score + l * VF_LANES;
		vf old = vf_load(a->max + l * VF_LANES), top = old, sum = vf_set(0);
		for (int64_t i = 0; i < keys; i++)
			top = vf_max(vf_load(score + i * LANES), top);
		for (int64_t i = 0; i < keys; i += 2) {
			vf even = vf_exp2(vf_load(score + i * LANES) - top);
			vf odd = vf_exp2(vf_load(score + (i + 1) * LANES) - top);
			vi pair = pack_weights(even, odd);
			memcpy(a->weight + i / 2 * LANES + l * VF_LANES, &pair, sizeof pair);
			sum += even + odd;
		}
		vf shrink = vf_exp2(old - top);
		vf_store(a->max + l * VF_LANES, top);
		vf_store(a->sum + l * VF_LANES, vf_load(a->sum + l * VF_LANES) * shrink + sum);
		for (int64_t d = 0; d < a->c; d++) {
			float *out = a->out + d * LANES + l * VF_LANES;
			vf_store(out, vf_load(out) * shrink);
		}
	}
}

/* Runs wait until their keys fill the tile. */
struct feed16 {
	struct attend16 *a;
	struct run16 run[TILE];
	int64_t runs, filled, step;
};

static void flush(struct feed16 *f) {
	soften(f->a, f->filled);
	values(f->a, f->run, f->runs, f->step);
	f->runs = f->filled = 0;
}

static void feed(struct feed16 *f, struct run16 run) {
	while (run.count > 0) {
		struct run16 part = run;
		part.count = run.count < TILE ? run.count : TILE;
		part.padded = (part.count + PAD - 1) / PAD * PAD;
		if (f->filled + part.padded > TILE)
			flush(f);
		float *score = f->a->score + f->filled * LANES;
		scores(f->a, score, &part);
		for (int64_t i = part.count * LANES; i < part.padded * LANES; i++)
			score[i] = -INFINITY;
		f->run[f->runs++] = part;
		f->filled += part.padded;
		run.k += part.count * run.c;
		run.v += part.count;
		run.count -= part.count;
	}
}

static struct run16 block_run(const struct kv_job *j, int64_t h, int64_t index) {
	const struct kv_shape *s = j->shape;
	int64_t blocks = kv_blocks(s), block = index % blocks, c = s->head_dim, pitch = kv_pitch(s);
	const char *keys = j->keys[index / blocks];
	return (struct run16){
		.k = (const uint16_t *)keys + (h * s->frame_tokens + block * s->block) * c,
		.v = (const uint16_t *)(keys + kv_keys_bytes(s)) + (h * blocks + block) * c * pitch,
		.c = c,
		.pitch = pitch,
		.count = kv_block_tokens(s, block)};
}

static void end_tile(const struct attend16 *a, float *y, int64_t stride, int64_t count) {
	for (int64_t i = 0; i < count; i++) {
		float inverse = 1 / a->sum[i];
		for (int64_t d = 0; d < a->c; d++)
			y[i * stride + d] = a->out[d * LANES + i] * inverse;
	}
}

static void attention16_tiles(void *ctx, int64_t first, int64_t end, int worker) {
	const struct kv_job *j = ctx;
	int64_t c = j->shape->head_dim, width = j->shape->heads * c, tiles = tiles_per_head(j);
	struct attend16 a;
	struct feed16 f = {.a = &a, .step = tiles_begin(j->shape)};
	(void)worker;
	for (int64_t item = first; item < end; item++) {
		int64_t h = item / tiles;
		struct query_tile t = query_tile(j, item % tiles);
		if (t.count <= 0)
			continue; /* past a short block's end */
		begin(&a, j->q + t.first * width + h * c, width, t.count, c);
		for (int64_t i = 0; i < listed_count(j); i++)
			feed(&f, block_run(j, h, listed_block(j, h, t.block, i)));
		flush(&f);
		end_tile(&a, j->y + t.first * width + h * c, width, t.count);
	}
	tiles_end();
}

const struct attention16 CPU_NAME(attention16) = {
	.tiles = attention16_tiles,
#if HAVE_TILES
	.keys_step = 16,
	.channels_step = 32,
#else
	.keys_step = 1,
	.channels_step = 2,
#endif
};
