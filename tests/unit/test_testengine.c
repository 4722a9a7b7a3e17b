/* SPDX-License-Identifier: Apache-2.0 */
/* The test engine: same calls same bytes, words and cuts seen, faults as asked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "engine/engine.h"

#define SMALL "test:fps=16,width=64,height=48,chunk=6,first=3,chunk_ms=0"
enum { BYTES = 64 * 48 * 3 / 2, FRAMES = 64 };

/* Copies of what a generator gave; everything a viewer could tell apart. */
struct film {
	struct frame frame[FRAMES];
	uint8_t pixels[FRAMES][BYTES];
	int count;
};

static struct engine *engine_open(const char *backend) {
	struct error e = {0};
	struct engine *en =
		engine_create(&(struct engine_config){.backend = backend, .generators_max = 2}, &e);
	assert_non_null(en);
	return en;
}

static int run_chunk(struct generator *g, struct film *film, struct error *e) {
	do {
		enum progress p;
		int rc = generator_step(g, &p, e);
		if (rc != 0)
			return rc;
		struct frame *f;
		while (generator_frames(g, &f, 1) == 1) {
			assert_true(film->count < FRAMES);
			film->frame[film->count] = *f;
			memcpy(film->pixels[film->count++], f->plane[0], BYTES);
			frame_release(f);
		}
	} while (!generator_boundary(g));
	return 0;
}

static void say(struct generator *g, const char *text, enum transition t, uint32_t revision) {
	struct prompt_change p = {text, t, revision};
	assert_int_equal(generator_prompt(g, &p, NULL), 0);
}

/* Two chunks, a switch, a cut, a reset: 3 + 6 + 6 + 3 + 3 pictures. */
static void play(struct engine *en, uint64_t seed, struct film *film) {
	struct generator *g = generator_create(en, seed, NULL);
	assert_non_null(g);
	film->count = 0;
	say(g, "a red kite", TRANSITION_SWITCH, 1);
	run_chunk(g, film, NULL);
	run_chunk(g, film, NULL);
	say(g, "a blue boat", TRANSITION_SWITCH, 2);
	run_chunk(g, film, NULL);
	say(g, "a blue boat", TRANSITION_CUT, 3);
	assert_int_equal(generator_chunk_frames(g), 3);
	run_chunk(g, film, NULL);
	assert_int_equal(generator_reset(g, seed + 1, NULL), 0);
	run_chunk(g, film, NULL);
	generator_destroy(g);
}

static struct film one, two;

static void the_same_calls_give_the_same_film(void **state) {
	(void)state;
	struct engine *en = engine_open(SMALL);
	play(en, 7, &one);
	play(en, 7, &two);
	assert_int_equal(one.count, 21);
	assert_memory_equal(one.pixels, two.pixels, sizeof one.pixels);
	play(en, 8, &two);
	assert_memory_not_equal(one.pixels, two.pixels, sizeof one.pixels);
	engine_destroy(en);
}

static void frames_carry_their_place(void **state) {
	(void)state;
	struct engine *en = engine_open(SMALL);
	play(en, 7, &one);
	static const int64_t chunk[] = {0, 1, 2, 3, 0};
	static const int frames[] = {3, 6, 6, 3, 3};
	static const uint32_t revision[] = {1, 1, 2, 3, 3};
	static const bool scene[] = {true, false, false, true, true};
	int at = 0;
	for (int c = 0; c < 5; c++) {
		for (int i = 0; i < frames[c]; i++, at++) {
			const struct frame *f = &one.frame[at];
			assert_int_equal(f->index, at);
			assert_int_equal(f->chunk, chunk[c]);
			assert_int_equal(f->frame_in_chunk, i);
			assert_int_equal(f->frames_in_chunk, frames[c]);
			assert_int_equal(f->revision, revision[c]);
			assert_int_equal(f->scene_start, scene[c] && i == 0);
		}
	}
	/* New words: another colour. The middle of the V plane tells. */
	assert_int_not_equal(one.pixels[8][BYTES - 1], one.pixels[9][BYTES - 1]);
	/* The picture moves. */
	assert_memory_not_equal(one.pixels[0], one.pixels[1], BYTES);
	engine_destroy(en);
}

static void faults_come_as_asked(void **state) {
	(void)state;
	struct engine *en = engine_open(SMALL ",fail_at=1,fail_word=boom");
	struct generator *a = generator_create(en, 1, NULL), *b = generator_create(en, 1, NULL);
	struct error e = {0};
	assert_null(generator_create(en, 1, &e));
	assert_int_equal(e.code, -ENOMEM);
	say(a, "calm", TRANSITION_SWITCH, 1);
	say(b, "a boom", TRANSITION_SWITCH, 1);
	one.count = 0;
	assert_int_equal(run_chunk(a, &one, NULL), 0);
	assert_int_equal(run_chunk(b, &one, NULL), -EIO);
	assert_int_equal(run_chunk(a, &one, NULL), -EIO);
	assert_false(engine_broken(en));
	generator_destroy(a);
	generator_destroy(b);
	engine_destroy(en);
	en = engine_open(SMALL ",broken_at=0");
	a = generator_create(en, 1, NULL);
	say(a, "calm", TRANSITION_SWITCH, 1);
	assert_int_equal(run_chunk(a, &one, NULL), -EIO);
	assert_true(engine_broken(en));
	generator_destroy(a);
	engine_destroy(en);
}

static void pictures_not_taken_block(void **state) {
	(void)state;
	struct engine *en = engine_open(SMALL);
	struct generator *g = generator_create(en, 1, NULL);
	say(g, "calm", TRANSITION_SWITCH, 1);
	enum progress p = PROGRESS_BUSY;
	for (int i = 0; i < 1000 && p != PROGRESS_BLOCKED; i++)
		assert_int_equal(generator_step(g, &p, NULL), 0);
	assert_int_equal(p, PROGRESS_BLOCKED);
	struct frame *f[18];
	int n = 0, got;
	while ((got = generator_frames(g, f + n, 18 - n)) > 0) {
		assert_true(got <= 6); /* none past the end of a chunk */
		n += got;
	}
	assert_in_range(n, 15, 18); /* three chunks of six, less a group that did not fit */
	for (int i = 0; i < n; i++)
		frame_release(f[i]);
	assert_int_equal(generator_step(g, &p, NULL), 0);
	assert_int_equal(p, PROGRESS_FRAMES);
	generator_destroy(g);
	engine_destroy(en);
}

static void prompts_are_counted_and_checked(void **state) {
	(void)state;
	struct engine *en = engine_open("test");
	assert_int_equal(engine_prompt_tokens(en, "  a red\tkite ", NULL), 4);
	assert_int_equal(engine_prompt_tokens(en, " \n", NULL), -EINVAL);
	static const char *const bad[] = {"\x80", "a\xc0\xaf", "\xe0\x80\x80", "\xed\xa0\x80",
		"\xf4\x90\x80\x80", "\xff", "\xe2\x82"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_int_equal(engine_prompt_tokens(en, bad[i], NULL), -EILSEQ);
	assert_int_equal(
		engine_prompt_tokens(en, "\xc3\xa9 \xe2\x82\xac \xf0\x9f\xaa\x81", NULL), 4);
	engine_destroy(en);
}

static void wrong_options_are_named(void **state) {
	(void)state;
	static const struct {
		const char *backend, *says;
	} row[] = {
		{"test:fps", "key=value"},
		{"test:speed=3", "no option 'speed'"},
		{"test:fps=0", "fps takes 1 to 1000"},
		{"test:fps=12x", "fps takes"},
		{"test:width=63", "even"},
		{"test:fail_load=1", "fail_load"},
	};
	for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
		struct error e = {0};
		assert_null(engine_create(&(struct engine_config){.backend = row[i].backend}, &e));
		assert_non_null(strstr(e.text, row[i].says));
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_same_calls_give_the_same_film),
		cmocka_unit_test(frames_carry_their_place),
		cmocka_unit_test(faults_come_as_asked),
		cmocka_unit_test(pictures_not_taken_block),
		cmocka_unit_test(prompts_are_counted_and_checked),
		cmocka_unit_test(wrong_options_are_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
