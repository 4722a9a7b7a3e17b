/* SPDX-License-Identifier: Apache-2.0 */
/* The core of every attention here: sixteen queries, one in each lane of a
 * vector (or of several), meet keys and values row by row. Because queries are
 * lanes, the softmax's maxima and sums need no shuffles, keys and values are
 * broadcast from where they lie, and sparse and dense differ only in which runs
 * of rows are fed. Online softmax over tiles of TILE keys, base 2.
 *
 * Shapes: queries [c][16], scores [keys][16], result [c][16]; inline, compiled
 * per instruction set. Thread: any; a struct attend belongs to one. */
#ifndef KERNELS_CPU_ATTEND_H
#define KERNELS_CPU_ATTEND_H
#include <math.h>
#include "kernels/cpu/attention.h"
#include "kernels/cpu/simd.h"

#define LANE_VECTORS (LANES / VF_LANES)
#define SCORE_ROWS (LANE_VECTORS == 1 ? 8 : 4) /* rows times vectors fill the FMA pipes */

struct attend {
	float q[ATTEND_DIM_MAX * LANES]; /* scaled by scale * log2(e) */
	float out[ATTEND_DIM_MAX * LANES];
	float score[TILE * LANES];
	float max[LANES], sum[LANES];
	int64_t c;
};

/* Rows of keys and values that lie `stride` floats apart. */
struct run {
	const float *k, *v;
	int64_t stride, count;
};

/* queries: `count` rows, `stride` floats apart; missing ones are zeros. */
static inline void attend_begin(
	struct attend *a, const float *q, int64_t stride, int64_t count, int64_t c, float scale) {
	a->c = c;
	for (int64_t d = 0; d < c; d++) {
		for (int64_t i = 0; i < LANES; i++)
			a->q[d * LANES + i] = i < count ? q[i * stride + d] * (scale * LOG2E) : 0;
	}
	memset(a->out, 0, (size_t)(c * LANES) * sizeof *a->out);
	for (int i = 0; i < LANES; i++) {
		a->max[i] = -INFINITY;
		a->sum[i] = 0;
	}
}

/* score[r][:] = k[r] . q for `rows` (a constant after inlining) rows. */
static inline __attribute__((always_inline)) void score_rows(
	float *score, const float *q, const float *k, int64_t stride, int64_t c, const int rows) {
	vf acc[SCORE_ROWS][LANE_VECTORS];
	for (int r = 0; r < rows; r++)
		for (int v = 0; v < LANE_VECTORS; v++)
			acc[r][v] = vf_set(0);
	for (int64_t d = 0; d < c; d++) {
		for (int v = 0; v < LANE_VECTORS; v++) {
			vf x = vf_load(q + d * LANES + v * VF_LANES);
			for (int r = 0; r < rows; r++)
				acc[r][v] += x * k[r * stride + d];
		}
	}
	for (int r = 0; r < rows; r++)
		for (int v = 0; v < LANE_VECTORS; v++)
			vf_store(score + r * LANES + v * VF_LANES, acc[r][v]);
}

/* out[d][:] += sum over the rows of v[row][d] * weight[row][:], `dims` at a time. */
static inline __attribute__((always_inline)) void value_dims(float *out, const float *weight,
	const float *v, int64_t stride, int64_t count, const int dims) {
	vf acc[SCORE_ROWS][LANE_VECTORS];
	for (int d = 0; d < dims; d++)
		for (int l = 0; l < LANE_VECTORS; l++)
			acc[d][l] = vf_load(out + d * LANES + l * VF_LANES);
	for (int64_t i = 0; i < count; i++) {
		for (int l = 0; l < LANE_VECTORS; l++) {
			vf w = vf_load(weight + i * LANES + l * VF_LANES);
			for (int d = 0; d < dims; d++)
				acc[d][l] += w * v[i * stride + d];
		}
	}
	for (int d = 0; d < dims; d++)
		for (int l = 0; l < LANE_VECTORS; l++)
			vf_store(out + d * LANES + l * VF_LANES, acc[d][l]);
}

static inline void attend_scores(const struct attend *a, float *score, const struct run *run) {
	int64_t r = 0;
	for (; r + SCORE_ROWS <= run->count; r += SCORE_ROWS)
		score_rows(score + r * LANES, a->q, run->k + r * run->stride, run->stride, a->c,
			SCORE_ROWS);
	for (; r < run->count; r++)
		score_rows(score + r * LANES, a->q, run->k + r * run->stride, run->stride, a->c, 1);
}

static inline void attend_values(struct attend *a, const float *weight, const struct run *run) {
	int64_t d = 0;
	for (; d + SCORE_ROWS <= a->c; d += SCORE_ROWS)
		value_dims(a->out + d * LANES, weight, run->v + d, run->stride, run->count,
			SCORE_ROWS);
	for (; d < a->c; d++)
		value_dims(a->out + d * LANES, weight, run->v + d, run->stride, run->count, 1);
}

/* Scores of `keys` rows become weights 2^(score - max); what was summed under
 * the old maximum is scaled to the new one. */
static inline void attend_soften(struct attend *a, int64_t keys) {
	for (int l = 0; l < LANE_VECTORS; l++) {
		float *score = a->score + l * VF_LANES;
		vf old = vf_load(a->max + l * VF_LANES), top = old, sum = vf_set(0);
		for (int64_t i = 0; i < keys; i++)
			top = vf_max(vf_load(score + i * LANES), top);
		for (int64_t i = 0; i < keys; i++) {
			vf w = vf_exp2(vf_load(score + i * LANES) - top);
			vf_store(score + i * LANES, w);
			sum += w;
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

/* Writes the first `count` queries' results, rows `stride` floats apart. */
static inline void attend_end(const struct attend *a, float *y, int64_t stride, int64_t count) {
	for (int64_t i = 0; i < count; i++) {
		float inverse = 1 / a->sum[i];
		for (int64_t d = 0; d < a->c; d++)
			y[i * stride + d] = a->out[d * LANES + i] * inverse;
	}
}
#endif
