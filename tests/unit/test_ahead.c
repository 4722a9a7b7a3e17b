/* SPDX-License-Identifier: Apache-2.0 */
/* A generator whose device is late: what is enqueued ahead and how far, when
 * pictures and accounts come out, what a lost device leaves. The pictures are
 * those of a device that is never late. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/generator.h"
#include "tests/support/slow_backend.h"
#include "tests/support/toy_model.h"

enum { STRIDE = 4, CHUNK_PICTURES = 12, LUMA = 48 * 32, CHUNKS = 8 };

static struct engine *engine;
static char dir[256];

static int engine_open(void **state) {
	(void)state;
	struct error e = {0};
	assert_int_equal(toy_model_write(&(struct toy_model){.policy = "hsa"}, dir), 0);
	engine = engine_create(
		&(struct engine_config){
			.model_dir = dir, .backend = "cpu", .threads = 1, .generators_max = 2},
		&e);
	if (!engine)
		fail_msg("%s", e.text);
	return 0;
}

static int engine_close(void **state) {
	(void)state;
	engine_destroy(engine);
	toy_model_remove(dir);
	return 0;
}

static struct generator *start(uint64_t seed) {
	struct error e = {0};
	struct generator *g = generator_create(engine, seed, &e);
	if (!g || generator_prompt(
			  g, &(struct prompt_change){"a red kite", TRANSITION_SWITCH, 1}, &e) < 0)
		fail_msg("%s", e.text);
	return g;
}

static enum progress step(struct generator *g) {
	struct error e = {0};
	enum progress p;
	if (generator_step(g, &p, &e) < 0)
		fail_msg("%s", e.text);
	return p;
}

static int released(struct generator *g) {
	struct frame *f;
	int n = 0;
	for (; generator_frames(g, &f, 1) == 1; n++)
		frame_release(f);
	return n;
}

/* To the next boundary; how many pictures came out on the way. */
static int chunk_steps(struct generator *g) {
	int n = 0, steps = 0;
	do {
		step(g);
		n += released(g);
		assert_true(++steps < 50);
	} while (!generator_boundary(g));
	return n;
}

static int drained(struct generator *g) {
	int n = 0;
	while (generator_pending(g)) {
		assert_int_equal(engine_await(engine), 1);
		n += released(g);
	}
	assert_int_equal(engine_await(engine), 0);
	return n;
}

static void a_chunk_begins_while_the_last_one_is_decoded(void **state) {
	(void)state;
	struct generator *g = start(1);
	int out = 0;
	for (int c = 0; c < CHUNKS; c++) {
		assert_int_equal(generator_chunk(g), c);
		out += chunk_steps(g);
		/* The chunk's latent is done and nothing behind it; those of the chunk before
		 * came out before this one's latent. */
		assert_true(generator_pending(g));
		assert_int_equal(out, c * CHUNK_PICTURES);
	}
	assert_int_equal(out + drained(g), CHUNKS * CHUNK_PICTURES);
	generator_destroy(g);
}

static void steps_sleep_at_the_end_of_a_chunk_only(void **state) {
	(void)state;
	struct generator *g = start(1);
	chunk_steps(g);
	for (int c = 0; c < 3; c++) {
		/* Passes, decodes, the refresh: enqueued, whatever the device is at. */
		int before = slow_backend_waits(), quick = 0;
		while (slow_backend_waits() == before) {
			step(g);
			quick++;
		}
		assert_true(quick >= 6);
		while (!generator_boundary(g))
			step(g);
		assert_int_equal(released(g), CHUNK_PICTURES);
	}
	drained(g);
	generator_destroy(g);
}

static void accounts_come_with_the_last_picture(void **state) {
	(void)state;
	struct generator *g = start(1);
	int64_t next = 0;
	for (int c = 0; c < CHUNKS || generator_pending(g);) {
		struct frame *f[2 * CHUNK_PICTURES];
		if (c < CHUNKS) {
			step(g);
			c += generator_boundary(g);
		} else {
			engine_await(engine);
		}
		int n = generator_frames(g, f, 2 * CHUNK_PICTURES);
		for (int i = 0; i < n; i++) {
			bool last = f[i]->frame_in_chunk + 1 == f[i]->frames_in_chunk;
			assert_int_equal(f[i]->chunk, next);
			if (last) {
				struct chunk_info info = generator_chunk_info(g);
				assert_int_equal(i, n - 1); /* nothing of another chunk behind it */
				assert_int_equal(info.chunk, next++);
				assert_int_equal(info.frames, CHUNK_PICTURES);
				assert_int_equal(info.revision, 1);
				assert_true(info.dit_us > 0 && info.decode_us > 0);
			}
			frame_release(f[i]);
		}
	}
	assert_int_equal(next, CHUNKS);
	generator_destroy(g);
}

/* Another generator's pictures are not kept waiting by a chunk. */
static void pictures_of_all_come_in_order(void **state) {
	(void)state;
	struct generator *a = start(1), *b = start(2);
	int of_a = 0, of_b = 0;
	for (int c = 0; c < 4; c++) {
		of_a += chunk_steps(a);
		do {
			step(b);
			of_b += released(b);
			of_a += released(a);
		} while (!generator_boundary(b));
		/* b's latent is done, so a's pictures, which were before it, are. */
		assert_int_equal(of_a, (c + 1) * CHUNK_PICTURES);
		assert_int_equal(of_b, c * CHUNK_PICTURES);
	}
	while (generator_pending(b))
		assert_int_equal(engine_await(engine) + released(b) > 0, 1);
	generator_destroy(a);
	generator_destroy(b);
}

/* The pool is smaller than what could be enqueued. */
static void a_full_pool_sleeps_for_its_own_pictures(void **state) {
	(void)state;
	struct generator *g = start(1);
	struct frame *held[8 * CHUNK_PICTURES];
	int n = 0;
	enum progress p;
	do {
		p = step(g);
		n += generator_frames(g, held + n, CHUNK_PICTURES);
		assert_true(n <= 3 * CHUNK_PICTURES);
	} while (p != PROGRESS_BLOCKED);
	assert_int_equal(n, 3 * CHUNK_PICTURES); /* all that the pool has */
	assert_int_equal(step(g), PROGRESS_BLOCKED);
	for (int i = 0; i < n; i++)
		frame_release(held[i]);
	assert_int_not_equal(step(g), PROGRESS_BLOCKED);
	generator_destroy(g);
}

static void a_generator_may_end_with_pictures_on_their_way(void **state) {
	(void)state;
	struct generator *g = start(1);
	chunk_steps(g);
	step(g);
	assert_true(generator_pending(g));
	generator_destroy(g);
	assert_int_equal(engine_await(engine), 0);
	g = start(2);
	assert_int_equal(chunk_steps(g) + drained(g), CHUNK_PICTURES);
	generator_destroy(g);
}

/* Last: nothing heals it. */
static void a_lost_device_gives_no_pictures(void **state) {
	(void)state;
	struct generator *g = start(1);
	struct error e = {0};
	struct frame *f;
	enum progress p;
	chunk_steps(g);
	assert_true(generator_pending(g));
	slow_backend_break(engine_backend(engine));
	assert_int_equal(generator_frames(g, &f, 1), 0);
	assert_false(generator_pending(g));
	assert_int_equal(engine_await(engine), 0);
	assert_true(engine_broken(engine));
	assert_int_equal(generator_step(g, &p, &e), -EIO);
	assert_non_null(strstr(e.text, "the device is lost"));
	generator_destroy(g);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_chunk_begins_while_the_last_one_is_decoded),
		cmocka_unit_test(steps_sleep_at_the_end_of_a_chunk_only),
		cmocka_unit_test(accounts_come_with_the_last_picture),
		cmocka_unit_test(pictures_of_all_come_in_order),
		cmocka_unit_test(a_full_pool_sleeps_for_its_own_pictures),
		cmocka_unit_test(a_generator_may_end_with_pictures_on_their_way),
		cmocka_unit_test(a_lost_device_gives_no_pictures),
	};
	return cmocka_run_group_tests(tests, engine_open, engine_close);
}
