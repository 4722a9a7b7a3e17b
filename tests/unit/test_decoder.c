/* SPDX-License-Identifier: Apache-2.0 */
/* Streaming of the video decoders and of the encoder, with the small weights of
 * the reference files: any split of a film into calls gives the same pictures,
 * warm-up pictures are dropped once, a restart forgets, a measured arena
 * suffices, and what does not fit is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/decoder.h"
#include "engine/wan_encoder.h"
#include "tests/support/compare.h"

#define LATENTS 7
#define LATENT_H 3
#define LATENT_W 5
#define CHANNELS 16
#define PICTURES (4 * LATENTS)
#define PICTURE_FLOATS (LATENT_H * 8 * LATENT_W * 8 * 3)

struct film {
	struct backend *be;
	struct weights *weights;
	struct model model;
	struct arena *arena, *scratch;
	struct decoder *decoder;
	struct decoder_state *state;
	struct tensor latent, rgb;
};

static const struct kind {
	enum decoder_type type;
	const char *file;
	int warmup, first; /* pictures: dropped, and given by the first latent */
} kinds[] = {{DECODER_TAEHV, "taehv", 3, 4}, {DECODER_WAN_VAE, "wan_vae", 0, 1}};

static struct weights *open_weights(const char *name) {
	const char *root = getenv("LIGHTFORCED_ROOT");
	char path[512];
	struct error e = {0};
	snprintf(path, sizeof path, "%s/tests/golden/%s.safetensors", root ? root : ".", name);
	struct weights *w = weights_open("", (const char *[]){path}, 1, "weights.", &e);
	if (!w)
		fail_msg("%s", e.text);
	return w;
}

/* A multiplicative generator: about uniform in -2 .. 2. */
static void fill(float *x, int64_t n, uint64_t seed) {
	for (int64_t i = 0; i < n; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		x[i] = (float)(seed >> 40) * 0x1p-22f - 2;
	}
}

static void film_build(struct film *f, struct error *e) {
	f->latent = arena_tensor(
		f->arena, DTYPE_F32, 4, (int64_t[]){LATENTS, CHANNELS, LATENT_H, LATENT_W});
	f->rgb = arena_tensor(
		f->arena, DTYPE_F32, 4, (int64_t[]){PICTURES, LATENT_H * 8, LATENT_W * 8, 3});
	f->decoder = decoder_create(f->be, &f->model, f->weights, f->arena, PRECISION_F32, e);
	assert_non_null(f->decoder);
	f->state = decoder_state_create(f->decoder, LATENT_H, LATENT_W, f->arena, e);
	assert_non_null(f->state);
}

/* Measures first, so that the real arenas are exactly as big as was planned. */
static struct film film_open(const struct kind *k, int warmup) {
	struct error e = {0};
	struct film f = {.weights = open_weights(k->file)};
	f.be = backend_create(&(struct backend_config){.spec = "cpu", .threads = 2}, &e);
	assert_non_null(f.be);
	f.model.latent_channels = CHANNELS;
	f.model.stride_t = 4;
	f.model.stride_s = 8;
	f.model.decoder.type = k->type;
	f.model.decoder.warmup_frames = warmup;
	f.arena = arena_measure(f.be);
	f.scratch = arena_measure(f.be);
	film_build(&f, &e);
	assert_int_equal(decoder_decode(f.decoder, f.state, &f.rgb, &f.latent, f.scratch, &e), 0);
	size_t bytes = arena_peak(f.arena), scratch = arena_peak(f.scratch);
	decoder_state_destroy(f.state);
	decoder_destroy(f.decoder);
	arena_destroy(f.arena);
	arena_destroy(f.scratch);
	f.arena = arena_create(f.be, bytes, &e);
	f.scratch = arena_create(f.be, scratch, &e);
	assert_non_null(f.arena);
	assert_non_null(f.scratch);
	film_build(&f, &e);
	fill(f.latent.data, tensor_count(&f.latent), 1);
	return f;
}

static void film_close(struct film *f) {
	decoder_state_destroy(f->state);
	decoder_destroy(f->decoder);
	arena_destroy(f->arena);
	arena_destroy(f->scratch);
	weights_close(f->weights);
	backend_destroy(f->be);
}

/* Decodes latents [from, from + n) into rgb from picture `at` on; how many came. */
static int decode(struct film *f, int from, int n, int at) {
	struct error e = {0};
	struct tensor l = tensor_rows(f->latent, from, n);
	struct tensor rgb = tensor_rows(f->rgb, at, f->rgb.dim[0] - at);
	int pictures = decoder_pictures(f->decoder, f->state, n);
	if (decoder_decode(f->decoder, f->state, &rgb, &l, f->scratch, &e) < 0)
		fail_msg("%s", e.text);
	return pictures;
}

static float *copy(const struct film *f, int pictures) {
	size_t bytes = (size_t)pictures * PICTURE_FLOATS * sizeof(float);
	float *p = malloc(bytes);
	assert_non_null(p);
	memcpy(p, f->rgb.data, bytes);
	return p;
}

static void any_split_gives_the_same_pictures(void **state) {
	(void)state;
	static const int splits[][LATENTS + 1] = {{1, 1, 1, 1, 1, 1, 1}, {3, 3, 1}, {2, 5}, {6, 1}};
	for (size_t k = 0; k < 2; k++) {
		struct film f = film_open(&kinds[k], 0);
		int whole = decode(&f, 0, LATENTS, 0);
		assert_int_equal(whole, kinds[k].first + 4 * (LATENTS - 1));
		float *want = copy(&f, whole);
		for (size_t s = 0; s < sizeof splits / sizeof *splits; s++) {
			memset(f.rgb.data, 0, tensor_bytes(&f.rgb));
			decoder_restart(f.decoder, f.state);
			int done = 0, from = 0;
			for (int i = 0; splits[s][i]; from += splits[s][i++])
				done += decode(&f, from, splits[s][i], done);
			assert_int_equal(done, whole);
			/* The same sums in the same order. */
			assert_memory_equal(
				f.rgb.data, want, (size_t)whole * PICTURE_FLOATS * sizeof(float));
		}
		free(want);
		film_close(&f);
	}
}

/* Frames of a later latent depend on what came before: histories are in use. */
static void the_past_matters(void **state) {
	(void)state;
	for (size_t k = 0; k < 2; k++) {
		struct film f = film_open(&kinds[k], 0);
		int whole = decode(&f, 0, 3, 0);
		float *want = copy(&f, whole);
		decoder_restart(f.decoder, f.state);
		fill(f.latent.data, tensor_count(&f.latent) / LATENTS, 2);
		decode(&f, 0, 3, 0);
		const float *last = want + (whole - 1) * PICTURE_FLOATS;
		double change =
			compare_max((const float *)f.rgb.data + (whole - 1) * PICTURE_FLOATS, last,
				PICTURE_FLOATS);
		assert_true(change > 1e-3);
		free(want);
		film_close(&f);
	}
}

static void warm_up_is_dropped_once(void **state) {
	(void)state;
	for (size_t k = 0; k < 2; k++) {
		const int drop = 3;
		struct film f = film_open(&kinds[k], drop);
		decoder_keep_warmup(f.state, true);
		int whole = decode(&f, 0, LATENTS, 0);
		float *want = copy(&f, whole);
		decoder_restart(f.decoder, f.state);
		decoder_keep_warmup(f.state, false);
		int first = decode(&f, 0, 1, 0);
		assert_int_equal(first, kinds[k].first > drop ? kinds[k].first - drop : 0);
		int done = first + decode(&f, 1, 2, first);
		done += decode(&f, 3, LATENTS - 3, done);
		assert_int_equal(done, whole - drop);
		assert_memory_equal(f.rgb.data, want + drop * PICTURE_FLOATS,
			(size_t)done * PICTURE_FLOATS * sizeof(float));
		free(want);
		film_close(&f);
	}
}

static void misfits_are_named(void **state) {
	(void)state;
	for (size_t k = 0; k < 2; k++) {
		struct film f = film_open(&kinds[k], 0);
		struct error e = {0};
		struct tensor l = f.latent, rgb = f.rgb;
		l.dim[1]--;
		assert_int_equal(
			decoder_decode(f.decoder, f.state, &rgb, &l, f.scratch, &e), -EINVAL);
		assert_non_null(strstr(e.text, "[7, 15, 3, 5]"));
		e = (struct error){0};
		rgb.dim[0]--;
		assert_int_equal(decoder_decode(f.decoder, f.state, &rgb, &f.latent, f.scratch, &e),
			-EINVAL);
		assert_non_null(strstr(e.text, "[28 or more, 24, 40, 3]"));
		e = (struct error){0};
		f.model.stride_t = 2;
		assert_null(decoder_create(f.be, &f.model, f.weights, f.arena, PRECISION_F32, &e));
		assert_non_null(strstr(e.text, "manifest"));
		/* The other kind's weights: the first tensor it misses. */
		e = (struct error){0};
		f.model.stride_t = 4;
		f.model.decoder.type = kinds[1 - k].type;
		assert_null(decoder_create(f.be, &f.model, f.weights, f.arena, PRECISION_F32, &e));
		assert_non_null(strstr(e.text, k == 0 ? "conv2.weight" : "decoder.1.weight"));
		film_close(&f);
	}
}

static void encoder_streams(void **state) {
	(void)state;
	struct film f = film_open(&kinds[1], 0);
	struct error e = {0};
	struct tensor out[2], rgb = f.rgb;
	struct arena *a = arena_create(f.be, 64 << 20, &e);
	assert_non_null(a);
	struct wan_encoder *d = wan_encoder_create(f.be, &f.model, f.weights, a, PRECISION_F32, &e);
	assert_non_null(d);
	fill(f.rgb.data, tensor_count(&f.rgb), 3);
	rgb.dim[0] = PICTURES - 3; /* 1 + 4 * 6 */
	for (int i = 0; i < 2; i++) {
		struct wan_encoder_state *s =
			wan_encoder_state_create(d, LATENT_H, LATENT_W, a, &e);
		assert_non_null(s);
		out[i] = arena_tensor(a, DTYPE_F32, 4, f.latent.dim);
		int step = i == 0 ? LATENTS : 2; /* latents a call */
		for (int at = 0, from = 0; at < LATENTS; at += step) {
			int n = LATENTS - at < step ? LATENTS - at : step;
			int pictures = 4 * n - (at == 0 ? 3 : 0);
			struct tensor l = tensor_rows(out[i], at, n);
			struct tensor p = tensor_rows(rgb, from, pictures);
			if (wan_encoder_encode(d, s, &l, &p, a, &e) < 0)
				fail_msg("%s", e.text);
			from += pictures;
		}
		struct tensor few = tensor_rows(rgb, 0, 3);
		assert_int_equal(wan_encoder_encode(d, s, &out[i], &few, a, &e), -EINVAL);
		e = (struct error){0};
		wan_encoder_state_destroy(s);
	}
	assert_memory_equal(out[0].data, out[1].data, tensor_bytes(&out[0]));
	const float *z = out[0].data;
	assert_true(compare_abs(z, z + CHANNELS * LATENT_H * LATENT_W, 100) > 1e-3);
	wan_encoder_destroy(d);
	arena_destroy(a);
	film_close(&f);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_split_gives_the_same_pictures),
		cmocka_unit_test(the_past_matters),
		cmocka_unit_test(warm_up_is_dropped_once),
		cmocka_unit_test(misfits_are_named),
		cmocka_unit_test(encoder_streams),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
