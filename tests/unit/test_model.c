/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests: a whole one is read as written, and each broken one is refused
 * with the name of the field. The random presets have the published sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model.h"
#include "engine/weights.h"

static const char whole[] =
	"{\"format\": 1, \"name\": \"toy\","
	"\"video\": {\"width\": 64, \"height\": 32, \"fps\": [30000, 1001]},"
	"\"latent\": {\"channels\": 2, \"chunk_frames\": 3},"
	"\"schedule\": {\"steps\": [1000, 500], \"shift\": 5},"
	"\"dit\": {\"files\": [\"a.safetensors\", \"sub/b.safetensors\"], \"strip\": \"model.\", "
	"\"dim\": 16, \"heads\": 2,"
	" \"layers\": 1, \"ffn_dim\": 32, \"text_dim\": 8, \"text_len\": 10, \"patch\": [1, 2]},"
	"\"text\": {\"files\": [\"t.safetensors\"], \"vocab\": 20, \"dim\": 8, \"dim_attention\": "
	"12, \"heads\": 2, \"layers\": 1,"
	" \"ffn_dim\": 16},"
	"\"tokenizer\": {\"file\": \"tok.model\", \"cleaning\": \"wan\", \"eos_id\": 3},"
	"\"decoder\": {\"type\": \"wan_vae\", \"files\": [\"d.safetensors\"], \"mean\": [0, 1.5], "
	"\"std\": [2, 3]},"
	"\"cache\": {\"window_chunks\": 4, \"sink_frames\": 1, \"rope_sink\": \"fixed\", "
	"\"recache\": \"joint\"},"
	"\"sparsity\": {\"policy\": \"hsa\", \"block\": 8, \"target\": 0.85, \"base\": 0.95, "
	"\"horizon_frames\": 63,"
	" \"keep_frames\": 3, \"keep_sink\": 1, \"keep_near\": 1},"
	"\"precision\": [\"f32\", \"int8\"],"
	"\"transition_first\": \"recache\","
	"\"suggestions\": {\"sentences\": [\"a kite\"], \"turns\": [], \"slots\": [{\"name\": "
	"\"n\", \"words\": [\"w\"]}]}}";

static void whole_manifest_is_read(void **state) {
	(void)state;
	struct error e = {0};
	struct model *m = model_parse(whole, strlen(whole), "dir", &e);
	assert_string_equal(e.text, "");
	assert_non_null(m);
	assert_string_equal(m->name, "toy");
	assert_int_equal(m->width, 64);
	assert_int_equal(m->fps_num, 30000);
	assert_int_equal(m->fps_den, 1001);
	assert_int_equal(m->stride_s, 8);
	assert_int_equal(model_frame_tokens(m), 4 * 4); /* latent 4 x 8, patches 1 x 2 */
	assert_int_equal(m->steps, 2);
	assert_true(m->timestep[0] == 1000);
	assert_true(fabs(m->timestep[1] - 2500.0 / 3) < 1e-9);
	assert_int_equal(m->dit.files.count, 2);
	assert_string_equal(m->dit.files.name[1], "sub/b.safetensors");
	assert_string_equal(m->dit.files.strip, "model.");
	assert_int_equal(m->dit.freq_dim, 256);
	assert_true(m->dit.eps == 1e-6f && m->dit.theta == 10000);
	assert_int_equal(m->dit.patch_h, 1);
	assert_int_equal(m->dit.patch_w, 2);
	assert_int_equal(m->tokenizer.cleaning, CLEANING_WAN);
	assert_int_equal(m->tokenizer.text_len, 10);
	assert_int_equal(m->decoder.type, DECODER_WAN_VAE);
	assert_true(m->decoder.denormalise && m->decoder.mean[1] == 1.5f && m->decoder.std[0] == 2);
	assert_int_equal(m->cache.window_frames, 12);
	assert_int_equal(m->cache.sink_frames, 1);
	assert_int_equal(m->cache.recache, RECACHE_JOINT);
	assert_string_equal(m->sparsity.policy, "hsa");
	assert_int_equal(m->sparsity.horizon_frames, 63);
	assert_true(m->precision_allowed[PRECISION_INT8] && !m->precision_allowed[PRECISION_BF16]);
	assert_int_equal(m->transition_first, TRANSITION_RECACHE);
	assert_string_equal(m->suggestions_json,
		"{\"sentences\":[\"a "
		"kite\"],\"turns\":[],\"slots\":[{\"name\":\"n\",\"words\":[\"w\"]}]}");
	model_free(m);
}

/* `whole` with the first `from` replaced by `to`. */
static char *edited(const char *from, const char *to) {
	const char *at = strstr(whole, from);
	assert_non_null(at);
	char *text = NULL;
	assert_true(
		asprintf(&text, "%.*s%s%s", (int)(at - whole), whole, to, at + strlen(from)) > 0);
	return text;
}

/* Position 500 of 1000 at shift 5. */
#define HALF (1000 * 5 * 0.5 / 3)

static void other_steps_replace_the_models(void **state) {
	(void)state;
	struct error e = {0};
	struct model *m = model_parse(whole, strlen(whole), "/m", &e);
	assert_non_null(m);
	m->first_steps = 1;
	for (int i = 0; i < 3; i++) { /* nothing asked for, nothing changed */
		static const char *const none[] = {NULL, "", "model"};
		assert_int_equal(schedule_parse(none[i], m, &e), 0);
		assert_int_equal(m->steps, 2);
		assert_int_equal(m->first_steps, 1);
	}
	assert_int_equal(schedule_parse("1000,500,0.5", m, &e), 0);
	assert_int_equal(m->steps, 3);
	assert_int_equal(m->first_steps, 0);
	assert_true(m->timestep[0] == 1000);
	assert_true(fabs(m->timestep[1] - HALF) < 1e-9 && fabs(m->timestep[2] - 2.495) < 1e-3);
	assert_int_equal(schedule_parse("400", m, &e), 0);
	assert_int_equal(m->steps, 1);
	model_free(m);
}

static void broken_steps_are_refused(void **state) {
	(void)state;
	static const char *const bad[] = {"1000,1000", "400,500", "1001", "0", "-3", "nan", "inf",
		",", "1000,", ",400", "1000 400", "1000;400", "fast", "1000,400x",
		"17,16,15,14,13,12,11,10,9,8,7,6,5,4,3,2,1"};
	struct error e = {0};
	struct model *m = model_parse(whole, strlen(whole), "/m", &e);
	assert_non_null(m);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		e = (struct error){0};
		assert_int_equal(schedule_parse(bad[i], m, &e), -EINVAL);
		assert_non_null(strstr(e.text, bad[i]));
		assert_non_null(strstr(e.text, "must be model, or 1 to 16 falling numbers"));
	}
	m->context_noise = HALF;
	e = (struct error){0};
	assert_int_equal(schedule_parse("1000,500", m, &e), -EINVAL);
	assert_non_null(strstr(e.text, "must be above the model's schedule.context_noise"));
	assert_int_equal(m->steps, 2);
	assert_true(m->timestep[0] == 1000 && fabs(m->timestep[1] - HALF) < 1e-9);
	model_free(m);
}

static void broken_manifests_name_the_field(void **state) {
	(void)state;
	static const struct {
		const char *from, *to, *says;
	} cases[] = {
		{"{\"format\"", "[{\"format\"", "line 1"},
		{"\"format\": 1", "\"format\": 2", "format must be 1"},
		{"\"format\": 1, ", "", "format is missing"},
		{"\"name\"", "\"name\": \"x\", \"name\"", "duplicate object key"},
		{"\"name\": \"toy\"", "\"name\": 7", "name must be a text"},
		{"\"width\": 64", "\"width\": 63", "video.width: 63 must be a multiple of 16"},
		{"\"width\": 64", "\"width\": 64.0",
			"video.width must be a whole number from 16 to 4096"},
		{"\"width\": 64", "\"width\": \"64\"", "video.width must be a whole number"},
		{"\"width\": 64", "\"widht\": 64", "video.widht is not a key"},
		{"\"width\": 64", "\"width\": 1e9", "video.width must be"},
		{"[30000, 1001]", "[30000]", "video.fps must be"},
		{"[30000, 1001]", "0", "video.fps must be"},
		{"[1000, 500]", "[500, 1000]", "schedule.steps must be falling"},
		{"[1000, 500]", "[]", "schedule.steps must be a list of 1 to 16"},
		{"\"shift\": 5", "\"shift\": 5, \"renoise_above\": 1001",
			"schedule.renoise_above must be"},
		{"\"shift\": 5", "\"shift\": 5, \"context_noise\": 900",
			"schedule.context_noise: 900 must be below"},
		{"\"sub/b.safetensors\"", "\"../b\"",
			"dit.files must be a list of file names inside"},
		{"\"sub/b.safetensors\"", "\"/etc/b\"",
			"dit.files must be a list of file names inside"},
		{"\"sub/b.safetensors\"", "\"sub/..\"",
			"dit.files must be a list of file names inside"},
		{"\"sub/b.safetensors\"", "3", "dit.files must be"},
		{"\"dim\": 16", "\"dim\": 18", "dit.dim: 18 must be a multiple of 4"},
		{"\"text_dim\": 8", "\"text_dim\": 9", "dit.text_dim: 9 differs from text.dim, 8"},
		{"[1, 2]", "[1]", "dit.patch must be two"},
		{"\"dim_attention\": 12", "\"dim_attention\": 13",
			"text.dim_attention: 13 must be a multiple of 2"},
		{"\"vocab\": 20, ", "", "text.vocab is missing"},
		{"\"cleaning\": \"wan\"", "\"cleaning\": \"soap\"",
			"tokenizer.cleaning must be one of \"none\" \"wan\""},
		{"\"eos_id\": 3", "\"eos_id\": 20",
			"tokenizer.pad_id and eos_id: 0 and 20 must be below text.vocab"},
		{"\"tok.model\"", "\"/tok\"", "tokenizer.file must be the name of a file inside"},
		{"\"wan_vae\"", "\"vae\"", "decoder.type must be one of \"taehv\" \"wan_vae\""},
		{"[0, 1.5]", "[0]",
			"decoder.mean must be a list of as many numbers as latent.channels"},
		{"\"std\": [2, 3]", "\"std\": [2, 0]",
			"decoder.std must be a list of numbers from 0.001"},
		{", \"std\": [2, 3]", "", "decoder.mean and decoder.std: give both"},
		{"\"window_chunks\": 4, ", "", "cache.window_frames is missing"},
		{"\"window_chunks\": 4", "\"window_chunks\": 4, \"window_frames\": 12",
			"cache.window_frames and cache.window_chunks both"},
		{"\"window_chunks\": 4", "\"window_chunks\": 1",
			"cache.window_frames: 3 must hold the sink, 1, and the chunk, 3"},
		{"\"recache\": \"joint\"", "\"recache\": \"none\"",
			"transition_first: \"recache\" needs cache.recache"},
		{"\"base\": 0.95", "\"base\": 0.5", "sparsity.base: 0.5 must not be below"},
		{"\"target\": 0.85", "\"target\": 1",
			"sparsity.target must be a number from 0 to 0.999"},
		{"\"horizon_frames\": 63", "\"horizon_frames\": 5",
			"sparsity.horizon_frames: 5 must hold two chunks"},
		{"\"keep_near\": 1", "\"keep_near\": 3",
			"sparsity.keep_frames: 3 must hold keep_sink, 1, and keep_near, 3"},
		{"\"hsa\"", "\"a name of many bytes\"",
			"sparsity.policy must be the name of a policy"},
		{"[\"f32\", \"int8\"]", "[\"f64\"]", "precision must be a list of"},
		{"[\"f32\", \"int8\"]", "[]", "precision must be a list of at least one"},
		{"\"transition_first\": \"recache\"", "\"transition_first\": \"fade\"",
			"transition_first must be one of"},
		{"\"turns\": [], ", "", "suggestions must be {"},
		{"[\"w\"]", "[4]", "suggestions must be {"},
		{"\"cache\": {", "\"cache\": 5, \"x\": {", "cache must be an object"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct error e = {0};
		char *text = edited(cases[i].from, cases[i].to);
		struct model *m = model_parse(text, strlen(text), "dir", &e);
		if (m || !strstr(e.text, cases[i].says) || !strstr(e.text, "dir/manifest.json: "))
			fail_msg("case %zu (%s): \"%s\"", i, cases[i].to, e.text);
		free(text);
	}
}

static void parts_may_be_left_out(void **state) {
	(void)state;
	static const char *const cuts[][2] = {
		{"\"transition_first\": \"recache\",", ""},
		{",\"suggestions\": {\"sentences\": [\"a kite\"], \"turns\": [], \"slots\": "
		 "[{\"name\": \"n\", \"words\": [\"w\"]}]}",
			""},
		{"\"sparsity\": {\"policy\": \"hsa\", \"block\": 8, \"target\": 0.85, \"base\": "
		 "0.95, \"horizon_frames\": 63,"
		 " \"keep_frames\": 3, \"keep_sink\": 1, \"keep_near\": 1},",
			""},
	};
	struct error e = {0};
	struct model *m[3];
	for (int i = 0; i < 3; i++) {
		char *text = edited(cuts[i][0], cuts[i][1]);
		m[i] = model_parse(text, strlen(text), "dir", &e);
		assert_string_equal(e.text, "");
		free(text);
	}
	assert_int_equal(m[0]->transition_first, TRANSITION_SWITCH);
	assert_string_equal(m[1]->suggestions_json, "{\"sentences\":[],\"turns\":[],\"slots\":[]}");
	assert_string_equal(m[2]->sparsity.policy, "dense");
	for (int i = 0; i < 3; i++)
		model_free(m[i]);
}

static void random_models_have_published_sizes(void **state) {
	(void)state;
	static const struct {
		const char *spec;
		int tokens, dim, layers;
	} good[] = {
		{"random:wan-1.3b", 1560, 1536, 30},
		{"random:wan-1.3b,768x512", 1536, 1536, 30},
		{"random:wan-14b,64x32", 8, 5120, 40},
	};
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		struct error e = {0};
		struct model *m = model_load(good[i].spec, &e);
		assert_non_null(m);
		assert_int_equal(model_frame_tokens(m), good[i].tokens);
		assert_int_equal(m->dit.dim, good[i].dim);
		assert_int_equal(m->dit.layers, good[i].layers);
		assert_int_equal(m->dit.dim / m->dit.heads, 128);
		struct weights *w = model_weights(m, &m->dit.files, &e);
		struct tensor t;
		assert_int_equal(weights_require(w, "head.head.weight", 2,
					 (int64_t[]){64, m->dit.dim}, &t, &e),
			0);
		weights_close(w);
		model_free(m);
	}
	static const char *const bad[][2] = {
		{"random:wan-2b", "there are wan-1.3b and wan-14b"},
		{"random:wan-1.3b,832", "the size must look like"},
		{"random:wan-1.3b,832x480x2", "the size must look like"},
		{"random:wan-1.3b,832x8", "from 16 to 4096"},
		{"random:wan-1.3b,830x480", "video.width: 830 must be a multiple of 16"},
		{"/nonexistent", "/nonexistent/manifest.json: No such file"},
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct error e = {0};
		assert_null(model_load(bad[i][0], &e));
		if (!strstr(e.text, bad[i][1]))
			fail_msg("%s: %s", bad[i][0], e.text);
	}
}

/* What the shipped model's files hold is not tested here; that it loads is. */
static void demo_model_loads(void **state) {
	(void)state;
	char dir[300];
	snprintf(dir, sizeof dir, "%s/models/demo", getenv("LIGHTFORCED_ROOT"));
	struct error e = {0};
	struct model *m = model_load(dir, &e);
	assert_string_equal(e.text, "");
	const struct model_files *files[] = {&m->dit.files, &m->text.files, &m->decoder.files};
	for (int i = 0; i < 3; i++) {
		struct weights *w = model_weights(m, files[i], &e);
		assert_string_equal(e.text, "");
		assert_true(weights_count(w) > 0);
		weights_close(w);
	}
	model_free(m);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole_manifest_is_read),
		cmocka_unit_test(other_steps_replace_the_models),
		cmocka_unit_test(broken_steps_are_refused),
		cmocka_unit_test(broken_manifests_name_the_field),
		cmocka_unit_test(parts_may_be_left_out),
		cmocka_unit_test(random_models_have_published_sizes),
		cmocka_unit_test(demo_model_loads),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
