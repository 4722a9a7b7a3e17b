/* SPDX-License-Identifier: Apache-2.0 */
/* Attention over the key cache (dense and by list) and plain attention, against
 * loops in double, at awkward shapes. Tolerance: scores sum c products (relative
 * error about sqrt(c) * 2^-24 of their size, which is up to 5) and enter an
 * exponential: 5 * sqrt(384) * 6e-8 = 6e-6 at worst. */
#include "tests/ops/ops_test.h"

#define LIMIT 6e-6 /* observed: 1.3e-6 at worst on baseline, avx2 and avx512 */

static struct fixture fx;

struct geometry {
	int heads, c, s, block, frames, current;
};

struct case_data {
	struct geometry g;
	float *q, *k, *v; /* host [tokens, heads, c] */
	struct kv_store store;
	struct kv_span span[KV_SPANS_MAX];
	int spans;
};

static int64_t per_frame(const struct geometry *g) {
	return (g->s + g->block - 1) / g->block;
}

/* Visible frames lie in three spans that wrap, where there are enough. */
static void make_case(struct case_data *d, struct geometry g, enum dtype dtype) {
	int64_t row = (int64_t)g.heads * g.c;
	*d = (struct case_data){.g = g};
	d->q = fixture_host(&fx, g.current * g.s * row, 1.5f, 0);
	d->k = fixture_host(&fx, g.frames * g.s * row, 1.0f, 0.1f);
	d->v = fixture_host(&fx, g.frames * g.s * row, 1.0f, 0.5f);
	d->store.shape = (struct kv_shape){g.heads, g.c, g.s, g.block, g.frames + 2, dtype};
	d->store.data = fixture_bytes(&fx, fx.ops->kv_bytes(&d->store.shape));
	int first[KV_SPANS_MAX] = {0, 4, 2}, count[KV_SPANS_MAX] = {1, g.frames - 2, 1};
	d->spans = 3;
	if (g.frames < 4) {
		first[0] = 1;
		count[0] = g.frames;
		d->spans = 1;
	}
	int64_t at = 0;
	for (int i = 0; i < d->spans; i++) {
		d->span[i] = (struct kv_span){&d->store, first[i], count[i]};
		struct tensor k =
			fixture_upload(&fx, d->k + at * g.s * row, DIMS(count[i] * g.s, row));
		struct tensor v =
			fixture_upload(&fx, d->v + at * g.s * row, DIMS(count[i] * g.s, row));
		fx.ops->kv_import(fx.be, &d->span[i], &k, &v);
		at += count[i];
	}
	assert_int_equal(at, g.frames);
}

static void free_case(struct case_data *d) {
	free(d->q);
	free(d->k);
	free(d->v);
	fixture_reset(&fx);
}

static bool listed(const int32_t *index, int64_t kept, int64_t block) {
	bool found = !index;
	for (int64_t x = 0; index && x < kept; x++)
		found |= index[x] == block;
	return found;
}

/* One query of one head; w is room for m weights. */
static void reference_row(const struct case_data *d, const int32_t *index, int64_t kept, int64_t i,
	int64_t h, double *w, float *y) {
	const struct geometry *g = &d->g;
	int64_t m = g->frames * g->s, row = g->heads * g->c;
	double top = -INFINITY, sum = 0;
	for (int64_t j = 0; j < m; j++) {
		double s = 0;
		for (int64_t x = 0; x < g->c; x++)
			s += (double)d->q[i * row + h * g->c + x] *
			     (double)d->k[j * row + h * g->c + x];
		int64_t block = j / g->s * per_frame(g) + j % g->s / g->block;
		w[j] = listed(index, kept, block) ? s / sqrt(g->c) : -INFINITY;
		top = w[j] > top ? w[j] : top;
	}
	for (int64_t j = 0; j < m; j++) {
		w[j] = exp(w[j] - top);
		sum += w[j];
	}
	for (int64_t x = 0; x < g->c; x++) {
		double o = 0;
		for (int64_t j = 0; j < m; j++)
			o += w[j] * (double)d->v[j * row + h * g->c + x];
		y[i * row + h * g->c + x] = (float)(o / sum);
	}
}

/* y[n, heads, c]; index NULL: dense, else [heads, query blocks, kept]. */
static float *reference(const struct case_data *d, const int32_t *index, int64_t kept) {
	const struct geometry *g = &d->g;
	int64_t n = g->current * g->s, m = g->frames * g->s, row = g->heads * g->c;
	int64_t query_blocks = per_frame(g) * g->current;
	float *y = malloc((size_t)(n * row) * sizeof *y);
	double *w = malloc((size_t)m * sizeof *w);
	assert_true(y && w);
	for (int64_t i = 0; i < n; i++) {
		int64_t qb = i / g->s * per_frame(g) + i % g->s / g->block;
		for (int64_t h = 0; h < g->heads; h++)
			reference_row(d, index ? index + (h * query_blocks + qb) * kept : NULL,
				kept, i, h, w, y);
	}
	free(w);
	return y;
}

static const struct geometry shapes[] = {
	{1, 16, 16, 16, 1, 1},
	{2, 16, 24, 8, 6, 3},
	{3, 16, 26, 8, 5, 2},
	{2, 32, 30, 8, 7, 3},
	{4, 64, 144, 16, 7, 3},
	{2, 128, 65, 64, 4, 1},
	{1, 20, 17, 5, 5, 2},
	{2, 64, 33, 16, 9, 3},
	{1, 64, 150, 40, 4, 2},
	{1, 2, 3, 1, 5, 1},
	{1, 128, 152, 64, 3, 1},
	{2, 32, 200, 192, 2, 1},
	{1, 64, 96, 32, 5, 2},
};
#define SHAPES (sizeof shapes / sizeof *shapes)

/* Not every backend keeps keys in both types. */
static bool keeps(enum dtype dtype) {
	struct backend_info info = backend_info(fx.be);
	return strcmp(info.kind, "cpu") == 0 || info.kv == dtype || dtype == DTYPE_F32;
}

/* f32, then bf16: queries, keys, values and weights are rounded by 2^-8 each,
 * scores of up to 5 by 5 * 2^-8 * sqrt(2) as their roundings add up; L-inf over
 * L-inf, so 3e-2; observed: 9.6e-3 at worst (a head of two
 * channels), else 5.1e-3, alike on every set. */
static const struct {
	enum dtype dtype;
	const char *dense, *by_list;
	double limit;
} kinds[] = {
	{DTYPE_F32, "attention, dense", "attention, by list", LIMIT},
	{DTYPE_BF16, "attention, dense, bf16", "attention, by list, bf16", 3e-2},
};

static void dense_case(struct geometry g, int kind) {
	struct case_data d;
	make_case(&d, g, kinds[kind].dtype);
	int64_t n = d.g.current * d.g.s, row = d.g.heads * d.g.c;
	struct tensor q = fixture_upload(&fx, d.q, DIMS(n, row));
	struct tensor y = fixture_tensor(&fx, DTYPE_F32, DIMS(n, row));
	float *want = reference(&d, NULL, 0);
	fx.ops->attention(fx.be, &y, &q, d.span, d.spans, NULL);
	fixture_expect(&fx, kinds[kind].dense, &y, want, kinds[kind].limit);
	free(want);
	free_case(&d);
}

static void attention_dense_agrees(void **state) {
	(void)state;
	for (int kind = 0; kind < 2 && keeps(kinds[kind].dtype); kind++) {
		for (size_t i = 0; i < SHAPES; i++)
			dense_case(shapes[i], kind);
	}
}

/* Random ascending lists, another for each row. */
static int32_t *random_lists(int64_t rows, int64_t total, int64_t kept) {
	int32_t *index = malloc((size_t)(rows * kept) * sizeof *index);
	assert_non_null(index);
	for (int64_t r = 0; r < rows; r++) {
		int64_t need = kept, at = 0;
		for (int64_t b = 0; b < total; b++) {
			if (need > 0 && (total - b == need || fixture_normal(&fx) > 0)) {
				index[r * kept + at++] = (int32_t)b;
				need--;
			}
		}
		assert_int_equal(at, kept);
	}
	return index;
}

static void list_case(struct geometry g, int kind) {
	struct case_data d;
	make_case(&d, g, kinds[kind].dtype);
	int64_t n = d.g.current * d.g.s, row = d.g.heads * d.g.c;
	int64_t total = per_frame(&d.g) * d.g.frames, query_blocks = per_frame(&d.g) * d.g.current;
	int64_t kept = (total + 2) / 3, rows = query_blocks * d.g.heads;
	int32_t *index = random_lists(rows, total, kept);
	struct tensor q = fixture_upload(&fx, d.q, DIMS(n, row));
	struct tensor y = fixture_tensor(&fx, DTYPE_F32, DIMS(n, row));
	struct block_list list = {d.g.heads, (int)query_blocks, (int)kept,
		fixture_bytes(&fx, (size_t)(rows * kept) * sizeof *index)};
	backend_upload(fx.be, list.index, index, (size_t)(rows * kept) * sizeof *index);
	float *want = reference(&d, index, kept);
	fx.ops->attention(fx.be, &y, &q, d.span, d.spans, &list);
	fixture_expect(&fx, kinds[kind].by_list, &y, want, kinds[kind].limit);
	free(want);
	free(index);
	free_case(&d);
}

static void attention_by_list_agrees(void **state) {
	(void)state;
	for (int kind = 0; kind < 2 && keeps(kinds[kind].dtype); kind++) {
		for (size_t i = 0; i < SHAPES; i++)
			list_case(shapes[i], kind);
	}
}

/* Large scores: the largest weight is all but 1, nothing overflows. */
static void attention_survives_large_scores(void **state) {
	(void)state;
	struct case_data d;
	make_case(&d, (struct geometry){1, 64, 150, 16, 2, 1}, DTYPE_F32);
	for (int64_t i = 0; i < 150 * 64; i++)
		d.q[i] *= 200;
	struct tensor q = fixture_upload(&fx, d.q, DIMS(150, 64));
	struct tensor y = fixture_tensor(&fx, DTYPE_F32, DIMS(150, 64));
	float *want = reference(&d, NULL, 0);
	fx.ops->attention(fx.be, &y, &q, d.span, d.spans, NULL);
	/* scores up to 1000: f32 leaves 1000 * 8 * 6e-8 = 5e-4; observed: 3.9e-5 */
	fixture_expect(&fx, "attention, scores of 1000", &y, want, 5e-4);
	free(want);
	free_case(&d);
}

static void sdpa_case(int64_t n, int64_t m, int heads, int64_t c, int repeats, int64_t reach) {
	int64_t row = heads * c;
	float *hq = fixture_host(&fx, n * row, 1, 0), *hk = fixture_host(&fx, m * row, 1, 0);
	float *hv = fixture_host(&fx, m * row, 1, 0.3f);
	float *hb = fixture_host(&fx, heads * (2 * reach + 1), 2, 0);
	float *want = malloc((size_t)(n * row) * sizeof *want);
	double *w = malloc((size_t)m * sizeof *w);
	float scale = reach ? 0.25f : 1 / sqrtf((float)c);
	for (int64_t i = 0; i < n * heads; i++) {
		int64_t query = i / heads, h = i % heads;
		double sum = 0;
		for (int64_t j = 0; j < m; j++) {
			double s = 0;
			for (int64_t x = 0; x < c; x++)
				s += (double)hq[query * row + h * c + x] *
				     (double)hk[j * row + h * c + x];
			int64_t d = j - query > reach    ? reach
				    : j - query < -reach ? -reach
							 : j - query;
			s = s * (double)scale +
			    (reach ? (double)hb[h * (2 * reach + 1) + d + reach] : 0);
			w[j] = exp(s) * (repeats > 1 && j == m - 1 ? repeats : 1);
			sum += w[j];
		}
		for (int64_t x = 0; x < c; x++) {
			double o = 0;
			for (int64_t j = 0; j < m; j++)
				o += w[j] * (double)hv[j * row + h * c + x];
			want[query * row + h * c + x] = (float)(o / sum);
		}
	}
	struct tensor q = fixture_upload(&fx, hq, DIMS(n, row)),
		      k = fixture_upload(&fx, hk, DIMS(m, row));
	struct tensor v = fixture_upload(&fx, hv, DIMS(m, row));
	struct tensor bias = fixture_upload(&fx, hb, DIMS(heads, 2 * reach + 1));
	struct tensor y = fixture_tensor(&fx, DTYPE_F32, DIMS(n, row));
	struct sdpa_args args = {
		.scale = scale, .last_repeats = repeats, .bias = reach ? &bias : NULL};
	fx.ops->sdpa(fx.be, &y, &q, &k, &v, heads, &args);
	fixture_expect(&fx,
		reach     ? "sdpa, bias"
		: repeats ? "sdpa, last key repeated"
			  : "sdpa",
		&y, want, LIMIT);
	free(hq);
	free(hk);
	free(hv);
	free(hb);
	free(want);
	free(w);
	fixture_reset(&fx);
}

static void sdpa_agrees(void **state) {
	(void)state;
	sdpa_case(1, 1, 1, 16, 0, 0);
	sdpa_case(17, 33, 3, 20, 0, 0);
	sdpa_case(130, 300, 1, 384, 0, 0);
	sdpa_case(33, 21, 4, 64, 44, 0);
	sdpa_case(5, 129, 2, 64, 500, 0);
	sdpa_case(40, 40, 2, 64, 0, 9);
	sdpa_case(1, 3, 2, 8, 0, 1);
	sdpa_case(150, 150, 2, 16, 0, 127);
}

int main(void) {
	fx = fixture_create();
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(attention_dense_agrees),
		cmocka_unit_test(attention_by_list_agrees),
		cmocka_unit_test(attention_survives_large_scores),
		cmocka_unit_test(sdpa_agrees),
	};
	int failed = cmocka_run_group_tests_name("attention", tests, NULL, NULL);
	fixture_destroy(&fx);
	return failed;
}
