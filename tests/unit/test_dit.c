/* SPDX-License-Identifier: Apache-2.0 */
/* The transformer on a toy: the merged padding key equals attending to every
 * padding row, the shortened pass leaves the keys and values of the whole one,
 * unknown timesteps are refused, scales of fp8 codes clip nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/dit_impl.h"
#include "tests/support/compare.h"
#include "tests/support/toy_model.h"

enum { ROWS = 7 };

struct fixture {
	char dir[256];
	struct backend *be;
	struct model *m;
	struct weights *w;
	struct arena *arena, *scratch;
	struct dit *dit;
	struct sparsity *sparsity;
	struct kvcache *cache;
	struct dit_text *text;
	struct dit_stream *stream;
	struct tensor x, flow, context;
};

static struct fixture f;

static int setup(void **state) {
	(void)state;
	struct error e = {0};
	if (toy_model_write(&(struct toy_model){0}, f.dir) < 0)
		return -1;
	f.m = model_load(f.dir, &e);
	f.be = backend_create(&(struct backend_config){.spec = "cpu", .threads = 1}, &e);
	f.w = f.m ? model_weights(f.m, &f.m->dit.files, &e) : NULL;
	f.arena = f.be ? arena_create(f.be, 8 << 20, &e) : NULL;
	f.scratch = f.be ? arena_create(f.be, 8 << 20, &e) : NULL;
	f.dit = f.w && f.scratch ? dit_create(f.be, f.m, f.w, f.arena, PRECISION_F32, &e) : NULL;
	if (!f.dit)
		return -1;
	const int chunk = f.m->chunk_frames, window = f.m->cache.window_frames;
	const struct kvcache_config cache = {.layers = f.m->dit.layers,
		.window_frames = window,
		.sink_frames = f.m->cache.sink_frames,
		.chunk_frames = chunk,
		.pass_frames = chunk,
		.rope_sink = f.m->cache.rope_sink,
		.theta = f.m->dit.theta,
		.shape = dit_kv_shape(f.dit, f.m->sparsity.block)};
	f.cache = kvcache_create(f.be, &cache, f.arena, &e);
	f.sparsity = sparsity_create(&f.m->sparsity, chunk, window, &e);
	f.text = dit_text_create(f.dit, f.arena, &e);
	f.stream = dit_stream_create(f.dit, f.sparsity, chunk, window, f.arena, &e);
	const int64_t dim[4] = {
		chunk, f.m->latent_channels, model_latent_height(f.m), model_latent_width(f.m)};
	f.x = arena_tensor(f.arena, DTYPE_F32, 4, dim);
	f.flow = arena_tensor(f.arena, DTYPE_F32, 4, dim);
	f.context = arena_2d(f.arena, DTYPE_F32, f.m->dit.text_len, f.m->dit.text_dim);
	backend_ops(f.be)->noise(f.be, &f.x, 1, 2, 3);
	struct tensor real = tensor_rows(f.context, 0, ROWS);
	backend_ops(f.be)->noise(f.be, &real, 4, 5, 6); /* the other rows stay zero */
	return arena_failed(f.arena, &e);
}

static int teardown(void **state) {
	(void)state;
	dit_stream_destroy(f.stream);
	dit_text_destroy(f.text);
	sparsity_destroy(f.sparsity);
	kvcache_destroy(f.cache);
	dit_destroy(f.dit);
	arena_destroy(f.scratch);
	arena_destroy(f.arena);
	weights_close(f.w);
	backend_destroy(f.be);
	model_free(f.m);
	toy_model_remove(f.dir);
	return 0;
}

static int pass(double timestep, bool flow, struct error *e) {
	const struct dit_pass p = {.x = &f.x,
		.flow = flow ? &f.flow : NULL,
		.timestep = timestep,
		.text = f.text,
		.stream = f.stream,
		.cache = f.cache};
	return dit_forward(f.dit, &p, f.scratch, e);
}

static void begin(void) {
	kvcache_restart(f.cache);
	kvcache_begin(f.cache, f.m->chunk_frames);
	dit_stream_begin(f.dit, f.stream, f.sparsity, f.cache, f.m->chunk_frames, 0, 0);
}

static float *host_copy(const struct tensor *t) {
	float *v = malloc(tensor_bytes(t));
	assert_non_null(v);
	backend_download(f.be, v, t->data, tensor_bytes(t));
	return v;
}

static void merged_padding_equals_attending_to_all_of_it(void **state) {
	(void)state;
	struct error e = {0};
	begin();
	struct tensor real = tensor_rows(f.context, 0, ROWS);
	dit_text_set(f.dit, f.text, &real, f.scratch);
	assert_int_equal(pass(f.m->timestep[0], true, &e), 0);
	float *merged = host_copy(&f.flow);
	dit_text_set(f.dit, f.text, &f.context, f.scratch); /* every padding row by itself */
	assert_int_equal(pass(f.m->timestep[0], true, &e), 0);
	float *spread = host_copy(&f.flow);
	int64_t n = tensor_count(&f.flow);
	/* Sums of up to 64 terms in another order: 64 * 6e-8; observed 2.2e-7. */
	assert_true(compare_max(merged, spread, n) < 4e-6);
	/* And the padding matters: leaving it out gives something else. */
	real = tensor_rows(f.context, 0, ROWS - 1);
	dit_text_set(f.dit, f.text, &real, f.scratch);
	assert_int_equal(pass(f.m->timestep[0], true, &e), 0);
	float *other = host_copy(&f.flow);
	assert_true(compare_max(other, spread, n) > 1e-3);
	free(merged);
	free(spread);
	free(other);
}

static void keys_of_layer(int layer, float *k, float *v) {
	const struct kv_shape s = dit_kv_shape(f.dit, f.m->sparsity.block);
	struct kv_span slot = kvcache_slot(f.cache, layer);
	int rows = slot.count * s.frame_tokens;
	struct tensor kt = tensor_3d(k, DTYPE_F32, rows, s.heads, s.head_dim);
	struct tensor vt = tensor_3d(v, DTYPE_F32, rows, s.heads, s.head_dim);
	backend_ops(f.be)->kv_export(f.be, &kt, &vt, &slot);
}

static void the_short_pass_leaves_the_same_keys(void **state) {
	(void)state;
	struct error e = {0};
	enum { MOST = 3 * 6 * 48 };
	float k[2][2][MOST], v[2][2][MOST]; /* [whole or short][layer] */
	struct tensor real = tensor_rows(f.context, 0, ROWS);
	assert_int_equal(f.m->chunk_frames * dit_frame_tokens(f.dit) * f.m->dit.dim, MOST);
	dit_text_set(f.dit, f.text, &real, f.scratch);
	for (int shorter = 0; shorter < 2; shorter++) {
		begin();
		assert_int_equal(pass(f.m->context_noise, !shorter, &e), 0);
		for (int l = 0; l < 2; l++)
			keys_of_layer(l, k[shorter][l], v[shorter][l]);
	}
	assert_memory_equal(k[0], k[1], sizeof k[0]);
	assert_memory_equal(v[0], v[1], sizeof v[0]);
	assert_memory_not_equal(k[0][0], k[0][1], sizeof k[0][0]);
}

static void other_timesteps_are_refused(void **state) {
	(void)state;
	struct error e = {0};
	begin();
	assert_int_equal(pass(123.25, true, &e), -EINVAL);
	assert_non_null(strstr(e.text, "123.25"));
}

static void missing_and_misshaped_weights_are_named(void **state) {
	(void)state;
	struct arena *measure = arena_measure(f.be);
	const struct {
		int layers, ffn_dim;
		const char *says;
	} cases[] = {{3, 64, "blocks.2."}, {2, 65, "blocks.0.ffn.0.weight"}};
	for (int i = 0; i < 2; i++) {
		struct model m = *f.m;
		struct error e = {0};
		m.dit.layers = cases[i].layers;
		m.dit.ffn_dim = cases[i].ffn_dim;
		assert_null(dit_create(f.be, &m, f.w, measure, PRECISION_F32, &e));
		if (!strstr(e.text, cases[i].says))
			fail_msg("\"%s\" does not say %s", e.text, cases[i].says);
	}
	arena_destroy(measure);
	dit_destroy(NULL);
}

/* One layer, two timesteps, random modulations; the worst row is all in one channel. */
enum { D = 24, HIDDEN = 40, STEPS = 2 };

static float noise(void) {
	static uint64_t state = 1;
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (float)(state >> 40) * 0x1p-23f - 1;
}

/* Row x of D, normalised, then modulated; the largest magnitude of it. */
static float modulated(float *x, const float *scale, const float *shift) {
	float mean = 0, square = 0, peak = 0;
	for (int i = 0; i < D; i++)
		mean += x[i] / D;
	for (int i = 0; i < D; i++)
		square += (x[i] - mean) * (x[i] - mean) / D;
	for (int i = 0; i < D; i++) {
		x[i] = (x[i] - mean) / sqrtf(square) * (1 + scale[i]) + shift[i];
		peak = fmaxf(peak, fabsf(x[i]));
	}
	return peak;
}

static float product_peak(const float *x, const float *w, const float *b, int rows) {
	float peak = 0;
	for (int r = 0; r < rows; r++) {
		float sum = b[r];
		for (int i = 0; i < D; i++)
			sum += x[i] * w[r * D + i];
		peak = fmaxf(peak, fabsf(sum));
	}
	return peak;
}

static void codes_are_never_clipped(void **state) {
	(void)state;
	struct error e = {0};
	struct dit *d = calloc(1, sizeof *d + sizeof d->layer[0]);
	assert_non_null(d);
	struct dit_layer *l = d->layer;
	static float table[STEPS * MOD_COUNT * D], w[HIDDEN * D], b[HIDDEN];
	float scale[STEPS][CODES_COUNT][CODE_SCALE_STRIDE];
	for (size_t i = 0; i < sizeof table / sizeof *table; i++)
		table[i] = 2 * noise();
	for (size_t i = 0; i < sizeof w / sizeof *w; i++)
		w[i] = noise();
	for (int i = 0; i < HIDDEN; i++)
		b[i] = noise();
	struct tensor wt = tensor_2d(w, DTYPE_F32, HIDDEN, D), bt = tensor_1d(b, DTYPE_F32, HIDDEN);
	assert_int_equal(dit_row_bound(&wt, &bt, &l->ffn_row, &l->ffn_bias, &e), 0);
	l->v_row = l->ffn_row;
	l->v_bias = l->ffn_bias;
	d->be = f.be;
	d->c = (struct dit_config){.dim = D, .layers = 1};
	d->timesteps = STEPS;
	d->code_scale = tensor_4d(backend_alloc(f.be, sizeof scale, &e), DTYPE_F32, STEPS, 1,
		CODES_COUNT, CODE_SCALE_STRIDE);
	assert_int_equal(dit_codes_load(d, table, &e), 0);
	backend_download(f.be, scale, d->code_scale.data, sizeof scale);
	double used = 0;
	for (int t = 0; t < STEPS; t++) {
		assert_true(fabsf(scale[t][CODES_SA][0] * scale[t][CODES_SA][1] - 1) < 1e-6f);
		const float *row = table + t * MOD_COUNT * D;
		for (int k = 0; k < 400; k++) {
			float sa[D], ff[D];
			for (int i = 0; i < D; i++)
				sa[i] = ff[i] = k < D ? (float)(i == k) : noise();
			float peak = modulated(sa, row + MOD_SCALE_SA * D, row + MOD_SHIFT_SA * D);
			assert_true(peak <= 448 * scale[t][CODES_SA][0]);
			used = fmax(used, (double)(peak / 448 / scale[t][CODES_SA][0]));
			for (int other = 0; other < STEPS; other++)
				assert_true(product_peak(sa, w, b, HIDDEN) <=
					    448 * scale[other][CODES_O][0]);
			peak = modulated(ff, row + MOD_SCALE_FF * D, row + MOD_SHIFT_FF * D);
			assert_true(peak <= 448 * scale[t][CODES_FF][0]);
			assert_true(product_peak(ff, w, b, HIDDEN) <=
				    448 * scale[t][CODES_HIDDEN][0]);
		}
	}
	assert_true(used > 0.5); /* a bound, not a guess far away */
	backend_free(f.be, d->code_scale.data);
	free(d);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(merged_padding_equals_attending_to_all_of_it),
		cmocka_unit_test(the_short_pass_leaves_the_same_keys),
		cmocka_unit_test(other_timesteps_are_refused),
		cmocka_unit_test(missing_and_misshaped_weights_are_named),
		cmocka_unit_test(codes_are_never_clipped),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
