/* SPDX-License-Identifier: Apache-2.0 */
/* Light forcing's selection: for each query block of each head the key blocks
 * it will read, by the products of means. With many past frames a frame stage
 * first narrows the candidates. Scores are f32 with f64 accumulation, ties go to
 * the lower index, lists ascend. Source: Light Forcing paper, section 3 (HSA).
 * Compiled per instruction set. */
#include <errno.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/kv.h"
#include "kernels/cpu/simd.h"

void CPU_NAME(select_fill)(struct ops *ops);

#define BLOCKS_MAX 16384 /* visible key blocks */
#define FRAMES_MAX 1024 /* visible frames */
#define HEAD_DIM_MAX 512

struct select_job {
	struct block_list *list;
	const float *q_mean; /* [heads, query blocks, c] */
	const struct kv_shape *shape;
	const float *block_means[FRAMES_MAX]; /* of each visible frame: [heads, blocks, c] */
	const float *frame_mean[FRAMES_MAX]; /* [heads, c] */
	int64_t frames;
	struct select_args args;
};

/* A float as an integer of the same order, never 0. */
static uint32_t order_key(float x) {
	uint32_t bits;
	memcpy(&bits, &x, sizeof bits);
	bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
	return bits ? bits : 1;
}

#define VD_LANES (VF_LANES / 2)

static vd dot_step(const double *q, const float *k) {
	vd a;
	vf_half b;
	memcpy(&a, q, sizeof a);
	memcpy(&b, k, sizeof b);
	return a * __builtin_convertvector(b, vd);
}

static float dot(const double *q, const float *k, int64_t c) {
	vd even = {0}, odd = {0};
	int64_t i = 0;
	for (; i + 2 * VD_LANES <= c; i += 2 * VD_LANES) {
		even += dot_step(q + i, k + i);
		odd += dot_step(q + i + VD_LANES, k + i + VD_LANES);
	}
	double part[VD_LANES];
	even += odd;
	memcpy(part, &even, sizeof part);
	for (int step = VD_LANES / 2; step > 0; step /= 2) {
		for (int l = 0; l < step; l++)
			part[l] += part[l + step];
	}
	double sum = part[0];
	for (; i < c; i++)
		sum += q[i] * (double)k[i];
	return (float)sum;
}

/* The `keep` <= n highest of n keys, ascending by index, ties to the lower
 * index. The cut is found bit by bit: the largest value that at least `keep`
 * keys reach. */
static void top_indices(int32_t *out, const uint32_t *key, int64_t n, int64_t keep) {
	uint32_t cut = 0;
	for (int bit = 31; bit >= 0; bit--) {
		uint32_t trial = cut | (uint32_t)1 << bit;
		int32_t reach = 0;
		for (int64_t i = 0; i < n; i++)
			reach += key[i] >= trial;
		if (reach >= keep)
			cut = trial;
		if (reach == keep)
			break; /* no key lies between: this cut will do */
	}
	int64_t above = 0, count = 0;
	for (int64_t i = 0; i < n; i++)
		above += key[i] > cut;
	int64_t equal = keep - above;
	for (int64_t i = 0; i < n && count < keep; i++) {
		if (key[i] > cut || (key[i] == cut && equal-- > 0))
			out[count++] = (int32_t)i;
	}
}

/* Lists the frames whose blocks are candidates, ascending; returns how many. */
static int64_t choose_frames(
	const struct select_job *j, const double *q, int64_t head, int32_t *frame) {
	const struct select_args *a = &j->args;
	int64_t past = j->frames - a->current_frames, c = j->shape->head_dim, n = 0;
	bool all = a->keep_frames == 0 || past <= a->keep_frames;
	int64_t sink = all ? j->frames : a->keep_sink, near = all ? j->frames : past - a->keep_near;
	for (; n < sink; n++)
		frame[n] = (int32_t)n;
	int64_t keep = a->keep_frames - a->keep_sink - a->keep_near;
	if (!all && keep > 0) {
		uint32_t key[FRAMES_MAX];
		for (int64_t i = sink; i < near; i++)
			key[i - sink] = order_key(dot(q, j->frame_mean[i] + head * c, c));
		top_indices(frame + n, key, near - sink, keep);
		for (int64_t i = 0; i < keep; i++, n++)
			frame[n] += (int32_t)sink;
	}
	for (int64_t i = near; i < j->frames; i++)
		frame[n++] = (int32_t)i;
	return n;
}

/* One item: one query block of one head. */
static void select_rows(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct select_job *j = ctx;
	int64_t c = j->shape->head_dim, blocks = kv_blocks(j->shape), kept = j->list->kept;
	uint32_t key[BLOCKS_MAX];
	(void)worker;
	for (int64_t item = begin; item < end; item++) {
		int64_t head = item / j->list->query_blocks;
		int32_t frame[FRAMES_MAX], *index = j->list->index + item * kept;
		double q[HEAD_DIM_MAX];
		for (int64_t i = 0; i < c; i++)
			q[i] = (double)j->q_mean[item * c + i];
		int64_t frames = choose_frames(j, q, head, frame);
		for (int64_t f = 0; f < frames; f++) {
			const float *mean = j->block_means[frame[f]] + head * blocks * c;
			for (int64_t b = 0; b < blocks; b++)
				key[f * blocks + b] = order_key(dot(q, mean + b * c, c));
		}
		top_indices(index, key, frames * blocks, kept);
		for (int64_t i = 0; i < kept; i++)
			index[i] = (int32_t)(frame[index[i] / blocks] * blocks + index[i] % blocks);
	}
}

static int64_t gather_means(struct select_job *j, const struct kv_span *spans, int n_spans) {
	int64_t n = 0;
	for (int i = 0; i < n_spans; i++) {
		for (int k = 0; k < spans[i].count; k++) {
			if (n == FRAMES_MAX)
				return 0;
			j->block_means[n] = kv_block_means(spans[i].store, spans[i].first + k);
			j->frame_mean[n++] = kv_frame_mean(spans[i].store, spans[i].first + k);
		}
	}
	return n;
}

/* Candidates of every row, the same for all. */
static int64_t eligible_blocks(const struct select_job *j) {
	const struct select_args *a = &j->args;
	int64_t past = j->frames - a->current_frames;
	int64_t frames = a->keep_frames == 0 || past <= a->keep_frames
				 ? j->frames
				 : a->current_frames + a->keep_frames;
	return frames * kv_blocks(j->shape);
}

static void select_blocks(struct backend *be, struct block_list *list, const struct tensor *q_mean,
	const struct kv_span *spans, int n_spans, const struct select_args *args) {
	const struct kv_shape *s = &spans[0].store->shape;
	struct select_job job = {.list = list, .q_mean = q_mean->data, .shape = s, .args = *args};
	job.frames = gather_means(&job, spans, n_spans);
	if (!cpu_check(be,
		    job.frames > 0 && job.frames * kv_blocks(s) <= BLOCKS_MAX &&
			    s->head_dim <= HEAD_DIM_MAX,
		    "select_blocks", "too many frames (1024), blocks (16384) or channels (512)",
		    NULL) ||
		!cpu_check(be,
			args->keep_sink >= 0 && args->keep_near >= 0 && args->keep_frames >= 0 &&
				args->current_frames <= job.frames &&
				(args->keep_frames == 0 ||
					args->keep_sink + args->keep_near <= args->keep_frames),
			"select_blocks", "keep_sink + keep_near exceed keep_frames", NULL) ||
		!cpu_check(be,
			cpu_is(q_mean, DTYPE_F32, (int64_t)list->heads * list->query_blocks,
				s->head_dim) &&
				list->heads == s->heads,
			"select_blocks", "q_mean does not fit:", q_mean) ||
		!cpu_check(be,
			list->kept == args->keep && list->kept > 0 &&
				list->kept <= eligible_blocks(&job),
			"select_blocks", "keep is not list->kept or exceeds the candidates", NULL))
		return;
	int64_t items = (int64_t)list->heads * list->query_blocks;
	pool_run(cpu_pool(be), items, pool_grain(cpu_pool(be), items, 1), select_rows, &job);
}

void CPU_NAME(select_fill)(struct ops *ops) {
	ops->select_blocks = select_blocks;
}
