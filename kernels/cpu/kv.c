/* SPDX-License-Identifier: Apache-2.0 */
/* Keys and values on their way into and out of the cache: QK norm, RoPE, the
 * write and the means of blocks and frames in one walk over the tokens; copies,
 * rotation in time, export and import. Means are accumulated in f64, because
 * selection compares them. Compiled per instruction set. */
#include "kernels/cpu/kv.h"

#include <errno.h>
#include <math.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

void CPU_NAME(kv_fill)(struct ops *ops);

#define WIDTH_MAX 8192 /* heads * head_dim: sums of a block live on the stack */
#define HEAD_DIM_MAX 512

struct write_job {
	float *q, *q_mean;
	const struct kv_span *slot;
	const float *qkv, *g_q, *g_k;
	const float *time, *space; /* [f, tp, 2], [s, c/2 - tp, 2] */
	int64_t time_pairs;
	float eps;
};

/* One token's rotation: y[2p] = x[2p] cos[2p] + x[2p+1] sin[2p] and
 * y[2p+1] = x[2p+1] cos[2p+1] + x[2p] sin[2p+1], the signs being in sin. */
struct turn {
	float cos[HEAD_DIM_MAX], sin[HEAD_DIM_MAX];
};

static void turn_set(struct turn *t, int64_t first, const float *pairs, int64_t count) {
	for (int64_t p = 0; p < count; p++) {
		int64_t i = 2 * (first + p);
		t->cos[i] = t->cos[i + 1] = pairs[2 * p];
		t->sin[i] = -pairs[2 * p + 1];
		t->sin[i + 1] = pairs[2 * p + 1];
	}
}

/* y = turn(x * scale * gain), one head of c channels; added to sum. */
static void turn_head(float *restrict y, double *restrict sum, const float *restrict x, float scale,
	const float *restrict gain, const struct turn *t, int64_t c) {
	for (int64_t i = 0; i < c; i += 2) {
		float a = x[i] * scale * gain[i], b = x[i + 1] * scale * gain[i + 1];
		y[i] = a * t->cos[i] + b * t->sin[i];
		y[i + 1] = b * t->cos[i + 1] + a * t->sin[i + 1];
	}
	for (int64_t i = 0; i < c; i++)
		sum[i] += (double)y[i];
}

/* Row (head, token) of the keys: c values of the store's type. */
static void put_key(
	const struct kv_store *store, int64_t slot, int64_t h, int64_t i, const float *restrict k) {
	const struct kv_shape *s = &store->shape;
	int64_t at = (h * s->frame_tokens + i) * s->head_dim;
	if (s->dtype == DTYPE_F32) {
		memcpy((float *)kv_keys(store, slot) + at, k, (size_t)s->head_dim * sizeof *k);
		return;
	}
	uint16_t *restrict to = (uint16_t *)kv_keys(store, slot) + at;
	for (int64_t d = 0; d < s->head_dim; d++)
		to[d] = bf16_of(k[d]);
}

static void get_key(
	float *restrict k, const struct kv_store *store, int64_t slot, int64_t h, int64_t i) {
	const struct kv_shape *s = &store->shape;
	int64_t at = (h * s->frame_tokens + i) * s->head_dim;
	if (s->dtype == DTYPE_F32) {
		memcpy(k, (const float *)kv_keys(store, slot) + at,
			(size_t)s->head_dim * sizeof *k);
		return;
	}
	const uint16_t *restrict from = (const uint16_t *)kv_keys(store, slot) + at;
	for (int64_t d = 0; d < s->head_dim; d++)
		k[d] = bf16_value(from[d]);
}

/* The values of one block of one head, from token rows `stride` floats apart. */
static void put_values(const struct kv_store *store, int64_t slot, int64_t h, int64_t block,
	const float *restrict v, int64_t stride) {
	const struct kv_shape *s = &store->shape;
	int64_t c = s->head_dim, tokens = kv_block_tokens(s, block), pitch = kv_pitch(s);
	if (s->dtype == DTYPE_F32) {
		float *to = (float *)kv_values(store, slot) +
			    (h * s->frame_tokens + block * s->block) * c;
		for (int64_t i = 0; i < tokens; i++)
			memcpy(to + i * c, v + i * stride, (size_t)c * sizeof *to);
		return;
	}
	uint16_t *restrict to =
		(uint16_t *)kv_values(store, slot) + (h * kv_blocks(s) + block) * c * pitch;
	for (int64_t d = 0; d < c; d++) {
		for (int64_t i = 0; i < pitch; i++)
			to[d * pitch + i] = i < tokens ? bf16_of(v[i * stride + d]) : 0;
	}
}

static void get_value(
	float *restrict v, const struct kv_store *store, int64_t slot, int64_t h, int64_t i) {
	const struct kv_shape *s = &store->shape;
	int64_t c = s->head_dim, pitch = kv_pitch(s), block = i / s->block;
	if (s->dtype == DTYPE_F32) {
		memcpy(v, (const float *)kv_values(store, slot) + (h * s->frame_tokens + i) * c,
			(size_t)c * sizeof *v);
		return;
	}
	const uint16_t *restrict from = (const uint16_t *)kv_values(store, slot) +
					(h * kv_blocks(s) + block) * c * pitch + i % s->block;
	for (int64_t d = 0; d < c; d++)
		v[d] = bf16_value(from[d * pitch]);
}

static void store_mean(float *mean, const double *sum, int64_t c, int64_t tokens) {
	for (int64_t i = 0; i < c; i++)
		mean[i] = (float)(sum[i] / (double)tokens);
}

/* One item: the tokens of one block of one frame, all heads. */
static void write_blocks(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct write_job *j = ctx;
	const struct kv_store *store = j->slot->store;
	const struct kv_shape *s = &store->shape;
	(void)worker;
	int64_t blocks = kv_blocks(s), c = s->head_dim, width = s->heads * c;
	int64_t query_blocks = blocks * j->slot->count, space_pairs = c / 2 - j->time_pairs;
	for (int64_t item = begin; item < end; item++) {
		int64_t frame = item / blocks, block = item % blocks, slot = j->slot->first + frame;
		int64_t tokens = kv_block_tokens(s, block);
		double q_sum[WIDTH_MAX], k_sum[WIDTH_MAX];
		struct turn turn;
		memset(q_sum, 0, (size_t)width * sizeof *q_sum);
		memset(k_sum, 0, (size_t)width * sizeof *k_sum);
		turn_set(&turn, 0, j->time + frame * j->time_pairs * 2, j->time_pairs);
		for (int64_t i = block * s->block; i < block * s->block + tokens; i++) {
			int64_t token = frame * s->frame_tokens + i;
			const float *q = j->qkv + token * 3 * width, *k = q + width;
			float q_scale = 1 / sqrtf(row_square_sum(q, width) / (float)width + j->eps);
			float k_scale = 1 / sqrtf(row_square_sum(k, width) / (float)width + j->eps);
			turn_set(&turn, j->time_pairs, j->space + i * space_pairs * 2, space_pairs);
			for (int64_t h = 0; h < s->heads; h++) {
				int64_t at = h * c;
				float turned[HEAD_DIM_MAX];
				turn_head(j->q + token * width + at, q_sum + at, q + at, q_scale,
					j->g_q + at, &turn, c);
				turn_head(
					turned, k_sum + at, k + at, k_scale, j->g_k + at, &turn, c);
				put_key(store, slot, h, i, turned);
			}
		}
		for (int64_t h = 0; h < s->heads; h++) {
			int64_t token = frame * s->frame_tokens + block * s->block;
			put_values(store, slot, h, block,
				j->qkv + token * 3 * width + 2 * width + h * c, 3 * width);
			store_mean(kv_block_means(store, slot) + (h * blocks + block) * c,
				k_sum + h * c, c, tokens);
			if (j->q_mean)
				store_mean(j->q_mean + (h * query_blocks + item) * c, q_sum + h * c,
					c, tokens);
		}
	}
}

/* The mean over a frame's tokens, from its block means and their lengths. */
static void write_frame_mean(const struct kv_store *store, int64_t slot) {
	const struct kv_shape *s = &store->shape;
	int64_t blocks = kv_blocks(s), c = s->head_dim;
	for (int64_t h = 0; h < s->heads; h++) {
		double sum[HEAD_DIM_MAX] = {0};
		for (int64_t b = 0; b < blocks; b++) {
			const float *mean = kv_block_means(store, slot) + (h * blocks + b) * c;
			for (int64_t i = 0; i < c; i++)
				sum[i] += (double)mean[i] * (double)kv_block_tokens(s, b);
		}
		store_mean(kv_frame_mean(store, slot) + h * c, sum, c, s->frame_tokens);
	}
}

static bool span_fits(const struct kv_span *span) {
	const struct kv_shape *s = &span->store->shape;
	return span->first >= 0 && span->count >= 0 && span->first + span->count <= s->frames &&
	       s->head_dim % 2 == 0 && s->head_dim <= HEAD_DIM_MAX &&
	       s->heads * s->head_dim <= WIDTH_MAX &&
	       (s->dtype == DTYPE_F32 || s->dtype == DTYPE_BF16);
}

static void qk_norm_rope_write(struct backend *be, struct tensor *q, struct tensor *q_mean,
	const struct kv_span *slot, const struct tensor *qkv, const struct tensor *g_q,
	const struct tensor *g_k, const struct rope *rope, float eps) {
	const char *op = "qk_norm_rope_write";
	const struct kv_shape *s = &slot->store->shape;
	int64_t n = (int64_t)slot->count * s->frame_tokens, c = s->head_dim, width = s->heads * c;
	int64_t blocks = kv_blocks(s), tp = rope->time.dim[1];
	if (!cpu_check(be, span_fits(slot), op, "the slots do not fit their store", NULL) ||
		!cpu_check(
			be, cpu_is(qkv, DTYPE_F32, n, 3 * width), op, "qkv does not fit:", qkv) ||
		!cpu_check(be, q->dtype == DTYPE_F32 && tensor_count(q) == n * width, op,
			"q does not fit:", q) ||
		!cpu_check(be,
			!q_mean || cpu_is(q_mean, DTYPE_F32, s->heads * slot->count * blocks, c),
			op, "q_mean does not fit:", q_mean) ||
		!cpu_check(be, tensor_count(g_q) == width && tensor_count(g_k) == width, op,
			"gains do not fit:", g_q) ||
		!cpu_check(be, tensor_count(&rope->time) == slot->count * tp * 2, op,
			"rope.time does not fit:", &rope->time) ||
		!cpu_check(be, tensor_count(&rope->space) == s->frame_tokens * (c / 2 - tp) * 2, op,
			"rope.space does not fit:", &rope->space))
		return;
	struct write_job job = {.q = q->data,
		.q_mean = q_mean ? q_mean->data : NULL,
		.slot = slot,
		.qkv = qkv->data,
		.g_q = g_q->data,
		.g_k = g_k->data,
		.time = rope->time.data,
		.space = rope->space.data,
		.time_pairs = tp,
		.eps = eps};
	pool_run(cpu_pool(be), slot->count * blocks, 1, write_blocks, &job);
	for (int i = 0; i < slot->count; i++)
		write_frame_mean(slot->store, slot->first + i);
}

static size_t kv_bytes(const struct kv_shape *shape) {
	return (size_t)shape->frames * (size_t)kv_slot_bytes(shape);
}

static bool same_slots(const struct kv_shape *a, const struct kv_shape *b) {
	return a->heads == b->heads && a->head_dim == b->head_dim && a->block == b->block &&
	       a->frame_tokens == b->frame_tokens && a->dtype == b->dtype;
}

static void kv_copy(struct backend *be, const struct kv_span *dst, const struct kv_span *src) {
	if (!cpu_check(be,
		    span_fits(dst) && span_fits(src) && dst->count == src->count &&
			    same_slots(&dst->store->shape, &src->store->shape),
		    "kv_copy", "the spans differ or exceed their stores", NULL))
		return;
	size_t bytes = (size_t)src->count * (size_t)kv_slot_bytes(&src->store->shape);
	memmove(kv_keys(dst->store, dst->first), kv_keys(src->store, src->first), bytes);
}

struct rotate_job {
	const struct kv_span *span;
	int64_t time_pairs;
	const float *cos_sin; /* [time_pairs, 2] */
};

static void rotate_rows(float *x, int64_t rows, int64_t c, const struct rotate_job *j) {
	for (int64_t r = 0; r < rows; r++, x += c) {
		for (int64_t p = 0; p < j->time_pairs; p++) {
			float a = x[2 * p], b = x[2 * p + 1];
			float cos = j->cos_sin[2 * p], sin = j->cos_sin[2 * p + 1];
			x[2 * p] = a * cos - b * sin;
			x[2 * p + 1] = a * sin + b * cos;
		}
	}
}

/* One item: one slot. A frame's means turn like its keys, all by one angle. */
static void rotate_slots(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct rotate_job *j = ctx;
	const struct kv_store *store = j->span->store;
	const struct kv_shape *s = &store->shape;
	(void)worker;
	for (int64_t i = begin; i < end; i++) {
		int64_t slot = j->span->first + i;
		for (int64_t row = 0; row < (int64_t)s->heads * s->frame_tokens; row++) {
			float key[HEAD_DIM_MAX];
			get_key(key, store, slot, 0, row);
			rotate_rows(key, 1, s->head_dim, j);
			put_key(store, slot, 0, row, key);
		}
		rotate_rows(kv_block_means(store, slot), s->heads * kv_blocks(s), s->head_dim, j);
		rotate_rows(kv_frame_mean(store, slot), s->heads, s->head_dim, j);
	}
}

/* Of c / 2 pairs rows and columns have c / 6 each, time has the rest. */
static void kv_rotate(
	struct backend *be, const struct kv_span *span, double delta_frames, double theta) {
	if (!cpu_check(be, span_fits(span), "kv_rotate", "the span exceeds its store", NULL))
		return;
	int64_t c = span->store->shape.head_dim, pairs = c / 2 - 2 * (c / 6);
	float cos_sin[HEAD_DIM_MAX];
	for (int64_t p = 0; p < pairs; p++) {
		double angle = delta_frames * pow(theta, -(double)p / (double)pairs);
		cos_sin[2 * p] = (float)cos(angle);
		cos_sin[2 * p + 1] = (float)sin(angle);
	}
	struct rotate_job job = {.span = span, .time_pairs = pairs, .cos_sin = cos_sin};
	pool_run(cpu_pool(be), span->count, 1, rotate_slots, &job);
}

static bool plain_fits(const struct kv_span *span, const struct tensor *t) {
	const struct kv_shape *s = &span->store->shape;
	return t->dtype == DTYPE_F32 &&
	       tensor_count(t) == (int64_t)span->count * s->heads * s->frame_tokens * s->head_dim;
}

static void kv_export(
	struct backend *be, struct tensor *k, struct tensor *v, const struct kv_span *span) {
	if (!cpu_check(be, span_fits(span), "kv_export", "the span exceeds its store", NULL) ||
		!cpu_check(be, plain_fits(span, k), "kv_export", "k does not fit:", k) ||
		!cpu_check(be, plain_fits(span, v), "kv_export", "v does not fit:", v))
		return;
	const struct kv_shape *s = &span->store->shape;
	int64_t tokens = (int64_t)span->count * s->frame_tokens;
	for (int64_t row = 0; row < tokens * s->heads; row++) {
		int64_t token = row / s->heads, h = row % s->heads;
		int64_t slot = span->first + token / s->frame_tokens, i = token % s->frame_tokens;
		get_key((float *)k->data + row * s->head_dim, span->store, slot, h, i);
		get_value((float *)v->data + row * s->head_dim, span->store, slot, h, i);
	}
}

/* One block of one head of frame f of the span, from plain k, v [tokens, heads, c]. */
static void import_block(const struct kv_span *span, int64_t f, int64_t h, int64_t block,
	const float *k, const float *v) {
	const struct kv_shape *s = &span->store->shape;
	int64_t c = s->head_dim, stride = s->heads * c, slot = span->first + f;
	int64_t first = ((f * s->frame_tokens + block * s->block) * s->heads + h) * c;
	double sum[HEAD_DIM_MAX] = {0};
	for (int64_t i = 0; i < kv_block_tokens(s, block); i++) {
		const float *row = k + first + i * stride;
		put_key(span->store, slot, h, block * s->block + i, row);
		for (int64_t d = 0; d < c; d++)
			sum[d] += (double)row[d];
	}
	put_values(span->store, slot, h, block, v + first, stride);
	store_mean(kv_block_means(span->store, slot) + (h * kv_blocks(s) + block) * c, sum, c,
		kv_block_tokens(s, block));
}

static void kv_import(struct backend *be, const struct kv_span *span, const struct tensor *k,
	const struct tensor *v) {
	if (!cpu_check(be, span_fits(span), "kv_import", "the span exceeds its store", NULL) ||
		!cpu_check(be, plain_fits(span, k), "kv_import", "k does not fit:", k) ||
		!cpu_check(be, plain_fits(span, v), "kv_import", "v does not fit:", v))
		return;
	const struct kv_shape *s = &span->store->shape;
	for (int64_t f = 0; f < span->count; f++) {
		for (int64_t i = 0; i < s->heads * kv_blocks(s); i++)
			import_block(span, f, i / kv_blocks(s), i % kv_blocks(s), k->data, v->data);
		write_frame_mean(span->store, span->first + f);
	}
}

void CPU_NAME(kv_fill)(struct ops *ops) {
	ops->qk_norm_rope_write = qk_norm_rope_write;
	ops->kv_bytes = kv_bytes;
	ops->kv_copy = kv_copy;
	ops->kv_rotate = kv_rotate;
	ops->kv_export = kv_export;
	ops->kv_import = kv_import;
}
