/* SPDX-License-Identifier: Apache-2.0 */
/* Attention over the key cache, dense or by block list, and plain attention
 * for text and pictures. Both cut the work into (head, up to sixteen queries)
 * and feed struct attend runs of keys. Compiled per instruction set. */
#include "kernels/cpu/attend.h"

#include "kernels/cpu/attention.h"
#include "kernels/cpu/cpu.h"

void CPU_NAME(attention_fill)(struct ops *ops);
extern const struct attention16 CPU_NAME(attention16);

/* The keys of block `index` for head h. */
static struct run block_run(const struct kv_job *j, int64_t h, int64_t index) {
	const struct kv_shape *s = j->shape;
	int64_t blocks = kv_blocks(s), block = index % blocks;
	int64_t at = (h * s->frame_tokens + block * s->block) * s->head_dim;
	const char *keys = j->keys[index / blocks];
	return (struct run){.k = (const float *)keys + at,
		.v = (const float *)(keys + kv_keys_bytes(s)) + at,
		.stride = s->head_dim,
		.count = kv_block_tokens(s, block)};
}

/* Feeds one run of any length through the tile; *filled keys wait in it. */
struct feed {
	struct attend *a;
	struct run run[TILE];
	int64_t runs, filled;
};

static void feed_flush(struct feed *f) {
	int64_t at = 0;
	attend_soften(f->a, f->filled);
	for (int64_t i = 0; i < f->runs; i++) {
		attend_values(f->a, f->a->score + at * LANES, &f->run[i]);
		at += f->run[i].count;
	}
	f->runs = f->filled = 0;
}

static void feed_run(struct feed *f, struct run run) {
	while (run.count > 0) {
		struct run part = run;
		if (part.count > TILE - f->filled)
			part.count = TILE - f->filled;
		attend_scores(f->a, f->a->score + f->filled * LANES, &part);
		f->run[f->runs++] = part;
		f->filled += part.count;
		run.k += part.count * run.stride;
		run.v += part.count * run.stride;
		run.count -= part.count;
		if (f->filled == TILE)
			feed_flush(f);
	}
}

/* All keys of a head, frame by frame: longer runs than blocks are. */
static void feed_all(struct feed *f, const struct kv_job *j, int64_t h) {
	for (int64_t i = 0; i < j->frames; i++) {
		struct run run = block_run(j, h, i * kv_blocks(j->shape));
		run.count = j->shape->frame_tokens;
		feed_run(f, run);
	}
}

static void feed_list(struct feed *f, const struct kv_job *j, int64_t h, int64_t query_block) {
	for (int64_t i = 0; i < j->list->kept; i++)
		feed_run(f, block_run(j, h, listed_block(j, h, query_block, i)));
}

static void attention_tiles(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct kv_job *j = ctx;
	int64_t c = j->shape->head_dim, width = j->shape->heads * c, tiles = tiles_per_head(j);
	struct attend a;
	(void)worker;
	for (int64_t item = begin; item < end; item++) {
		int64_t h = item / tiles;
		struct query_tile t = query_tile(j, item % tiles);
		if (t.count <= 0)
			continue; /* past a short block's end */
		struct feed feed = {.a = &a};
		attend_begin(
			&a, j->q + t.first * width + h * c, width, t.count, c, 1 / sqrtf((float)c));
		if (j->list)
			feed_list(&feed, j, h, t.block);
		else
			feed_all(&feed, j, h);
		if (feed.filled > 0)
			feed_flush(&feed);
		attend_end(&a, j->y + t.first * width + h * c, width, t.count);
	}
}

/* 0 when the spans do not fit each other. */
static int64_t visible_frames(const struct kv_span *spans, int n_spans, const void **keys) {
	int64_t n = 0;
	const struct kv_shape *s = &spans[0].store->shape;
	for (int i = 0; i < n_spans; i++) {
		const struct kv_shape *t = &spans[i].store->shape;
		if (t->heads != s->heads || t->head_dim != s->head_dim || t->block != s->block ||
			t->frame_tokens != s->frame_tokens || t->dtype != s->dtype ||
			spans[i].first < 0 || spans[i].first + spans[i].count > t->frames ||
			n + spans[i].count > ATTEND_FRAMES_MAX)
			return 0;
		for (int k = 0; k < spans[i].count; k++)
			keys[n++] = kv_keys(spans[i].store, spans[i].first + k);
	}
	return n;
}

static bool list_fits(const struct block_list *list, const struct kv_job *j) {
	const struct kv_shape *s = j->shape;
	return list->heads == s->heads && list->kept > 0 && j->tokens % s->frame_tokens == 0 &&
	       list->query_blocks == j->tokens / s->frame_tokens * kv_blocks(s) &&
	       list->kept <= j->frames * kv_blocks(s);
}

/* The kernel for this type of keys. */
static pool_fn tiles_for(struct backend *be, const struct kv_shape *s) {
	const struct attention16 *fast = cpu_of(be)->attention16;
	if (s->dtype == DTYPE_F32)
		return attention_tiles;
	bool fits =
		fast && s->block % fast->keys_step == 0 && s->head_dim % fast->channels_step == 0;
	return fits ? fast->tiles : CPU_NAME(attention16).tiles;
}

static void attention(struct backend *be, struct tensor *y, const struct tensor *q,
	const struct kv_span *spans, int n_spans, const struct block_list *list) {
	struct kv_job job = {
		.y = y->data, .q = q->data, .list = list, .shape = &spans[0].store->shape};
	const struct kv_shape *s = job.shape;
	job.frames = visible_frames(spans, n_spans, job.keys);
	job.tokens = tensor_count(q) / ((int64_t)s->heads * s->head_dim);
	job.tiles_per_block = (s->block + LANES - 1) / LANES;
	bool kept = s->dtype == DTYPE_F32 || (s->dtype == DTYPE_BF16 && s->head_dim % 2 == 0);
	if (!cpu_check(be, job.frames > 0, "attention", "the spans differ or exceed their stores",
		    NULL) ||
		!cpu_check(be, kept && s->head_dim <= ATTEND_DIM_MAX, "attention",
			"keys must be f32 or bf16, at most 512 channels a head", NULL) ||
		!cpu_check(be, cpu_alike(y, q), "attention", "y is not f32 of q's size:", y) ||
		!cpu_check(be, !list || list_fits(list, &job), "attention",
			"the block list does not fit q:", q))
		return;
	int64_t items = s->heads * tiles_per_head(&job);
	pool_run(cpu_pool(be), items, pool_grain(cpu_pool(be), items, 1), tiles_for(be, s), &job);
}

struct sdpa_job {
	float *y;
	const float *q, *k, *v;
	const float *bias; /* [heads, 2 * reach + 1] or NULL */
	int64_t n, m, heads, c, reach;
	float scale, last_bias; /* added to the last key's score, base 2 */
};

/* Bias by distance and the last key's weight, in the base of the scores. */
static void sdpa_adjust(const struct sdpa_job *j, struct attend *a, int64_t h, int64_t query,
	int64_t key, int64_t keys) {
	for (int64_t i = 0; j->bias && i < keys; i++) {
		const float *row = j->bias + h * (2 * j->reach + 1) + j->reach;
		for (int64_t lane = 0; lane < LANES; lane++) {
			int64_t d = key + i - (query + lane);
			d = d > j->reach ? j->reach : d < -j->reach ? -j->reach : d;
			a->score[i * LANES + lane] += row[d] * LOG2E;
		}
	}
	for (int64_t lane = 0; key + keys == j->m && lane < LANES; lane++)
		a->score[(keys - 1) * LANES + lane] += j->last_bias;
}

static void sdpa_tiles(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct sdpa_job *j = ctx;
	int64_t tiles = (j->n + LANES - 1) / LANES, width = j->heads * j->c;
	struct attend a;
	(void)worker;
	for (int64_t item = begin; item < end; item++) {
		int64_t h = item / tiles, query = item % tiles * LANES, left = j->n - query;
		int64_t count = left < LANES ? left : LANES, offset = h * j->c;
		attend_begin(&a, j->q + query * width + offset, width, count, j->c, j->scale);
		for (int64_t key = 0; key < j->m; key += TILE) {
			int64_t keys = j->m - key < TILE ? j->m - key : TILE;
			struct run run = {.k = j->k + key * width + offset,
				.v = j->v + key * width + offset,
				.stride = width,
				.count = keys};
			attend_scores(&a, a.score, &run);
			sdpa_adjust(j, &a, h, query, key, keys);
			attend_soften(&a, keys);
			attend_values(&a, a.score, &run);
		}
		attend_end(&a, j->y + query * width + offset, width, count);
	}
}

static void sdpa(struct backend *be, struct tensor *y, const struct tensor *q,
	const struct tensor *k, const struct tensor *v, int heads, const struct sdpa_args *args) {
	int64_t n = tensor_row_count(q), m = tensor_row_count(k), width = tensor_cols(q);
	const struct tensor *bias = args->bias;
	if (!cpu_check(be, cpu_alike(y, q), "sdpa", "y is not f32 of q's size:", y) ||
		!cpu_check(be, cpu_is(k, DTYPE_F32, -1, width) && m > 0, "sdpa",
			"k does not fit:", k) ||
		!cpu_check(be, cpu_is(v, DTYPE_F32, m, width), "sdpa", "v does not fit:", v) ||
		!cpu_check(be, heads > 0 && width % heads == 0 && width / heads <= ATTEND_DIM_MAX,
			"sdpa", "heads do not divide q, or exceed 512 channels:", q) ||
		!cpu_check(be,
			!bias || (cpu_is(bias, DTYPE_F32, heads, -1) && tensor_cols(bias) % 2 == 1),
			"sdpa", "bias does not fit:", bias))
		return;
	struct sdpa_job job = {.y = y->data,
		.q = q->data,
		.k = k->data,
		.v = v->data,
		.bias = bias ? bias->data : NULL,
		.n = n,
		.m = m,
		.heads = heads,
		.c = width / heads,
		.reach = bias ? tensor_cols(bias) / 2 : 0,
		.scale = args->scale,
		.last_bias = args->last_repeats > 1 ? log2f((float)args->last_repeats) : 0};
	int64_t items = heads * ((n + LANES - 1) / LANES);
	pool_run(cpu_pool(be), items, pool_grain(cpu_pool(be), items, 1), sdpa_tiles, &job);
}

void CPU_NAME(attention_fill)(struct ops *ops) {
	ops->attention = attention;
	ops->sdpa = sdpa;
}
