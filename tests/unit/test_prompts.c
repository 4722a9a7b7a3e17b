/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of encoded prompts over the demo model's own encoder on the CPU:
 * the context is the reference's, a second call costs no encoding, the least
 * recently used prompt makes room. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/prompts.h"

struct fixture {
	struct model *m;
	struct backend *be;
	struct weights *w;
	struct tokenizer *t;
	struct arena *a, *scratch;
	struct text_encoder *encoder;
};

static void scratch_create(struct fixture *f, struct error *e) {
	struct arena *measure = arena_measure(f->be);
	text_measure(f->encoder, f->m->tokenizer.text_len, measure);
	f->scratch = arena_create(f->be, arena_peak(measure), e);
	arena_destroy(measure);
}

static int set_up(void **state) {
	struct fixture *f = calloc(1, sizeof *f);
	struct error e = {0};
	char dir[300];
	snprintf(dir, sizeof dir, "%s/models/demo", getenv("LIGHTFORCED_ROOT"));
	f->m = model_load(dir, &e);
	f->be = backend_create(&(struct backend_config){.spec = "cpu", .threads = 1}, &e);
	if (f->m && f->be) {
		f->w = model_weights(f->m, &f->m->text.files, &e);
		f->t = tokenizer_create(f->m, &e);
		f->a = arena_create(f->be, 1 << 22, &e);
	}
	if (f->w && f->a)
		f->encoder = text_create(f->be, &f->m->text, f->w, f->a, PRECISION_F32, &e);
	if (f->encoder)
		scratch_create(f, &e);
	*state = f;
	if (e.code)
		print_error("%s\n", e.text);
	return e.code;
}

static int tear_down(void **state) {
	struct fixture *f = *state;
	text_destroy(f->encoder);
	arena_destroy(f->scratch);
	arena_destroy(f->a);
	tokenizer_destroy(f->t);
	weights_close(f->w);
	backend_destroy(f->be);
	model_free(f->m);
	free(f);
	return 0;
}

static struct prompts *prompts_make(struct fixture *f, int count) {
	struct error e = {0};
	struct prompts *p = prompts_create(f->be, f->m, f->t, f->encoder, count, f->a, &e);
	assert_non_null(p);
	assert_int_equal(arena_failed(f->a, &e), 0);
	return p;
}

/* Checks the counts after asking for `text`. */
static void expect(
	struct fixture *f, struct prompts *p, const char *text, int64_t hits, int64_t misses) {
	struct error e = {0};
	struct tensor context;
	int64_t h, m;
	assert_int_equal(prompts_get(p, text, &context, f->scratch, &e), 0);
	prompts_counts(p, &h, &m);
	assert_int_equal(h, hits);
	assert_int_equal(m, misses);
}

static void least_recently_used_makes_room(void **state) {
	struct prompts *p = prompts_make(*state, 2);
	expect(*state, p, "a red kite", 0, 1);
	expect(*state, p, "a blue bird", 0, 2);
	expect(*state, p, "a red kite", 1, 2);
	expect(*state, p, "a green boat", 1, 3); /* pushes the bird out */
	expect(*state, p, "a red kite", 2, 3);
	expect(*state, p, "a blue bird", 2, 4);
	prompts_destroy(p);
}

/* Encoding, keeping and uploading again give the same rows. */
static void kept_rows_are_the_encoded_ones(void **state) {
	struct fixture *f = *state;
	struct prompts *p = prompts_make(f, 4);
	struct error e = {0};
	struct tensor context;
	float *row[2];
	int64_t n = 0;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(
			prompts_get(p, "a red kite flies left", &context, f->scratch, &e), 0);
		n = tensor_count(&context);
		row[i] = malloc((size_t)n * sizeof(float));
		backend_download(f->be, row[i], context.data, (size_t)n * sizeof(float));
		expect(f, p, "something else", 2 * i, 2); /* overwrites the context */
	}
	assert_true(n > f->m->text.dim);
	assert_memory_equal(row[0], row[1], (size_t)n * sizeof(float));
	free(row[0]);
	free(row[1]);
	prompts_destroy(p);
}

static void context_is_the_reference(void **state) {
	struct fixture *f = *state;
	struct prompts *p = prompts_make(f, 4);
	struct error e = {0};
	char path[300];
	const char *file = path;
	snprintf(path, sizeof path, "%s/tests/golden/demo_rollout.safetensors",
		getenv("LIGHTFORCED_ROOT"));
	struct weights *w = weights_open("", &file, 1, NULL, &e);
	const json_t *prompt = json_array_get(weights_metadata(w, "prompts"), 0);
	struct tensor want, context;
	assert_int_equal(weights_find(w, "prompt0.context", &want), 0);
	const char *text = json_string_value(json_array_get(prompt, 1));
	assert_int_equal(prompts_get(p, text, &context, f->scratch, &e), 0);
	assert_int_equal(tensor_count(&context), tensor_count(&want));
	double difference = 0, reference = 0;
	const float *got = context.data; /* the CPU's memory is ours */
	for (int64_t i = 0; i < tensor_count(&want); i++) {
		difference =
			fmax(difference, fabs((double)got[i] - (double)weights_value(&want, i)));
		reference = fmax(reference, fabs((double)weights_value(&want, i)));
	}
	assert_true(difference / reference <= 1e-4); /* seen 3.4e-7 */
	weights_close(w);
	prompts_destroy(p);
}

static void bad_texts_change_nothing(void **state) {
	struct fixture *f = *state;
	struct prompts *p = prompts_make(f, 2);
	struct tensor context;
	struct error e = {0};
	expect(f, p, "a red kite", 0, 1);
	assert_int_equal(prompts_get(p, "kite \xff", &context, f->scratch, &e), -EINVAL);
	assert_non_null(strstr(e.text, "byte 5"));
	expect(f, p, "a red kite", 1, 1);
	prompts_destroy(p);
}

static void bad_ids_are_named(void **state) {
	struct fixture *f = *state;
	struct error e = {0};
	size_t mark = arena_mark(f->a);
	struct tensor out = arena_2d(f->a, DTYPE_F32, 2, f->m->text.dim);
	assert_int_equal(
		text_encode(f->encoder, (int32_t[]){0, 100000}, 2, &out, f->scratch, &e), -EINVAL);
	assert_non_null(strstr(e.text, "token 1 of the prompt has the id 100000"));
	arena_reset(f->a, mark);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(least_recently_used_makes_room),
		cmocka_unit_test(kept_rows_are_the_encoded_ones),
		cmocka_unit_test(context_is_the_reference),
		cmocka_unit_test(bad_texts_change_nothing),
		cmocka_unit_test(bad_ids_are_named),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
