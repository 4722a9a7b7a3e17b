/* SPDX-License-Identifier: Apache-2.0 */
/* A loaded model end to end, on a toy: the same seed gives the same bytes
 * whatever the threads; prompts, cuts, resets and rereads take hold where they
 * should; the pool bounds what is out; faults are named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/generator.h"
#include "tests/support/toy_model.h"

enum { PICTURE_BYTES = 48 * 32 * 3 / 2, STRIDE = 4, CHUNK_PICTURES = 12 };

/* "cpu", or what the environment says: GPUs must pass all of this, too. */
static const char *test_backend = "cpu";

static const char kite[] = "a red kite flies right over green hills at noon";
static const char boat[] = "a white sailboat sails left on the sea at night";

struct world {
	char dir[256];
	struct engine *engine;
};

/* ---- rendering ------------------------------------------------------------------ */

/* Pictures of a run, with what was said about each. */
struct film {
	int count;
	struct frame about[256];
	uint8_t pixels[256][PICTURE_BYTES];
};

static struct film *film_new(void) {
	struct film *f = calloc(1, sizeof *f);
	assert_non_null(f);
	return f;
}

static void film_add(struct film *film, const struct frame *f) {
	uint8_t *to = film->pixels[film->count];
	assert_true(film->count < 256);
	assert_int_equal(f->width, 48);
	assert_int_equal(f->height, 32);
	memcpy(to, f->plane[0], 48 * 32);
	memcpy(to + 48 * 32, f->plane[1], 24 * 16);
	memcpy(to + 48 * 32 * 5 / 4, f->plane[2], 24 * 16);
	film->about[film->count++] = *f;
}

static void take_all(struct generator *g, struct film *film) {
	struct frame *f[5];
	int n;
	while ((n = generator_frames(g, f, 5)) > 0) {
		for (int i = 0; i < n; i++) {
			film_add(film, f[i]);
			frame_release(f[i]);
		}
	}
}

static void chunk_steps(struct generator *g, struct film *film) {
	struct error e = {0};
	int steps = 0;
	do {
		enum progress p = PROGRESS_BUSY;
		if (generator_step(g, &p, &e) < 0)
			fail_msg("%s", e.text);
		assert_int_not_equal(p, PROGRESS_BLOCKED);
		if (p == PROGRESS_FRAMES)
			take_all(g, film);
		assert_true(++steps < 50);
	} while (!generator_boundary(g));
}

/* What the device is still at. */
static void drain(struct world *w, struct generator *g, struct film *film) {
	while (generator_pending(g)) {
		engine_await(w->engine);
		take_all(g, film);
	}
}

/* A chunk from its first step to its last picture. */
static void chunk_run(struct world *w, struct generator *g, struct film *film) {
	chunk_steps(g, film);
	drain(w, g, film);
}

static void prompt(struct generator *g, const char *text, enum transition t, uint32_t revision) {
	struct error e = {0};
	if (generator_prompt(g, &(struct prompt_change){text, t, revision}, &e) < 0)
		fail_msg("%s", e.text);
}

static void assert_same(const struct film *a, int a0, const struct film *b, int b0, int count) {
	assert_true(a0 + count <= a->count && b0 + count <= b->count);
	for (int i = 0; i < count; i++)
		assert_memory_equal(a->pixels[a0 + i], b->pixels[b0 + i], PICTURE_BYTES);
}

static bool differ(const struct film *a, int a0, const struct film *b, int b0, int count) {
	assert_true(a0 + count <= a->count && b0 + count <= b->count);
	return memcmp(a->pixels[a0], b->pixels[b0], (size_t)count * PICTURE_BYTES) != 0;
}

/* ---- engines ---------------------------------------------------------------------- */

static struct world world_open(const struct toy_model *toy, const struct engine_config *more) {
	struct world w;
	struct error e = {0};
	assert_int_equal(toy_model_write(toy, w.dir), 0);
	struct engine_config c = more ? *more : (struct engine_config){0};
	c.model_dir = w.dir;
	c.backend = test_backend;
	c.threads = c.threads ? c.threads : 1;
	w.engine = engine_create(&c, &e);
	if (!w.engine)
		fail_msg("%s", e.text);
	return w;
}

static void world_close(struct world *w) {
	engine_destroy(w->engine);
	toy_model_remove(w->dir);
}

static struct generator *start(struct world *w, uint64_t seed, const char *text) {
	struct error e = {0};
	struct generator *g = generator_create(w->engine, seed, &e);
	if (!g)
		fail_msg("%s", e.text);
	prompt(g, text, TRANSITION_SWITCH, 1);
	return g;
}

/* `chunks` under one prompt. */
static struct film *render(struct world *w, uint64_t seed, const char *text, int chunks) {
	struct film *film = film_new();
	struct generator *g = start(w, seed, text);
	for (int i = 0; i < chunks; i++)
		chunk_run(w, g, film);
	generator_destroy(g);
	return film;
}

/* `before` chunks of kite, then `after` of `text` by this transition. */
static struct film *render_change(
	struct world *w, const char *text, enum transition t, int before, int after) {
	struct film *film = film_new();
	struct generator *g = start(w, 1, kite);
	for (int i = 0; i < before; i++)
		chunk_run(w, g, film);
	prompt(g, text, t, 2);
	for (int i = 0; i < after; i++)
		chunk_run(w, g, film);
	generator_destroy(g);
	return film;
}

/* ---- tests ------------------------------------------------------------------------- */

static void the_same_seed_gives_the_same_bytes(void **state) {
	(void)state;
	static const char *const policy[] = {"dense", "hsa", "topk", "window", "random"};
	struct film *dense = NULL;
	for (int i = 0; i < 5; i++) {
		const struct toy_model toy = {.policy = policy[i]};
		struct world one = world_open(&toy, NULL);
		struct world two = world_open(&toy, &(struct engine_config){.threads = 3});
		struct film *a = render(&one, 7, kite, 5), *b = render(&one, 7, kite, 5);
		struct film *c = render(&two, 7, kite, 5), *d = render(&one, 8, kite, 5);
		assert_int_equal(a->count, 5 * CHUNK_PICTURES);
		assert_same(a, 0, b, 0, a->count);
		assert_same(a, 0, c, 0, a->count);
		assert_true(differ(a, 0, d, 0, 1));
		/* Policies agree in the first chunk, which is dense, and in no later one. */
		if (dense) {
			assert_same(a, 0, dense, 0, CHUNK_PICTURES);
			assert_true(differ(a, CHUNK_PICTURES, dense, CHUNK_PICTURES, 1));
		}
		free(b);
		free(c);
		free(d);
		if (dense)
			free(a);
		else
			dense = a;
		world_close(&one);
		world_close(&two);
	}
	free(dense);
}

static void pictures_say_where_they_belong(void **state) {
	(void)state;
	struct world w = world_open(&(struct toy_model){.policy = "hsa"}, NULL);
	const struct model_info *m = engine_model(w.engine);
	assert_int_equal(m->chunk_frames, CHUNK_PICTURES);
	assert_int_equal(m->first_chunk_frames, CHUNK_PICTURES);
	assert_string_equal(m->name, "toy");
	assert_string_equal(m->precision, "f32");
	assert_int_equal(strlen(m->weights_hash), 64);
	struct film *film = film_new();
	struct generator *g = start(&w, 1, kite);
	for (int c = 0; c < 4; c++) {
		assert_true(generator_boundary(g));
		assert_int_equal(generator_chunk(g), c);
		assert_int_equal(generator_chunk_frames(g), CHUNK_PICTURES);
		chunk_run(&w, g, film);
		struct chunk_info info = generator_chunk_info(g);
		assert_int_equal(info.chunk, c);
		assert_int_equal(info.revision, 1);
		assert_int_equal(info.frames, CHUNK_PICTURES);
		/* 2 blocks a frame, sparsity from .5 to .6: fewer than all, from the second on */
		assert_int_equal(info.visible_blocks, (c < 3 ? c + 1 : 3) * 6);
		assert_true(
			c == 0 ? info.kept_blocks == 6 : info.kept_blocks < info.visible_blocks);
		assert_true(info.kv_bytes > 0 && info.dit_us > 0 && info.decode_us > 0);
	}
	generator_destroy(g);
	for (int i = 0; i < film->count; i++) {
		const struct frame *f = &film->about[i];
		assert_int_equal(f->index, i);
		assert_int_equal(f->chunk, i / CHUNK_PICTURES);
		assert_int_equal(f->frame_in_chunk, i % CHUNK_PICTURES);
		assert_int_equal(f->frames_in_chunk, CHUNK_PICTURES);
		assert_int_equal(f->revision, 1);
		assert_int_equal(f->scene_start, i == 0);
	}
	free(film);
	world_close(&w);
}

static void warm_up_pictures_are_dropped_once_a_scene(void **state) {
	(void)state;
	struct world w = world_open(&(struct toy_model){.warmup_frames = 3}, NULL);
	assert_int_equal(engine_model(w.engine)->first_chunk_frames, CHUNK_PICTURES - 3);
	struct film *film = film_new();
	struct generator *g = start(&w, 1, kite);
	assert_int_equal(generator_chunk_frames(g), CHUNK_PICTURES - 3);
	chunk_run(&w, g, film);
	assert_int_equal(film->count, CHUNK_PICTURES - 3);
	assert_int_equal(generator_chunk_frames(g), CHUNK_PICTURES);
	chunk_run(&w, g, film);
	assert_int_equal(film->count, 2 * CHUNK_PICTURES - 3);
	prompt(g, boat, TRANSITION_CUT, 2);
	assert_int_equal(generator_chunk_frames(g), CHUNK_PICTURES - 3);
	chunk_run(&w, g, film);
	assert_int_equal(film->count, 3 * CHUNK_PICTURES - 6);
	assert_int_equal(film->about[2 * CHUNK_PICTURES - 3].index, 2 * CHUNK_PICTURES - 3);
	assert_true(film->about[2 * CHUNK_PICTURES - 3].scene_start);
	generator_destroy(g);
	free(film);
	world_close(&w);
}

static void generators_do_not_see_each_other(void **state) {
	(void)state;
	struct world w =
		world_open(&(struct toy_model){0}, &(struct engine_config){.generators_max = 2});
	struct film *kites = render(&w, 1, kite, 4), *boats = render(&w, 2, boat, 4);
	struct film *a = film_new(), *b = film_new();
	struct generator *g = start(&w, 1, kite), *h = start(&w, 2, boat);
	struct error e = {0};
	assert_null(generator_create(w.engine, 3, &e));
	assert_int_equal(e.code, -ENOMEM);
	assert_non_null(strstr(e.text, "generators_max"));
	/* Step by step, so that they meet in the middle of chunks. */
	for (int done[2] = {0, 0}; done[0] + done[1] < 8;) {
		struct generator *const both[] = {g, h};
		struct film *const to[] = {a, b};
		for (int i = 0; i < 2; i++) {
			enum progress p;
			if (done[i] == 4)
				continue;
			assert_int_equal(generator_step(both[i], &p, &e), 0);
			take_all(both[i], to[i]);
			done[i] += generator_boundary(both[i]);
		}
	}
	drain(&w, g, a);
	drain(&w, h, b);
	assert_same(a, 0, kites, 0, kites->count);
	assert_same(b, 0, boats, 0, boats->count);
	generator_destroy(g);
	/* Its slot, used before, gives what a new one gives. */
	struct film *again = render(&w, 1, kite, 4);
	assert_same(again, 0, kites, 0, kites->count);
	generator_destroy(h);
	free(kites);
	free(boats);
	free(a);
	free(b);
	free(again);
	world_close(&w);
}

static void a_switch_takes_hold_at_the_next_chunk(void **state) {
	(void)state;
	struct world w = world_open(&(struct toy_model){0}, NULL);
	struct film *plain = render(&w, 1, kite, 4), *film = film_new();
	struct generator *g = start(&w, 1, kite);
	chunk_run(&w, g, film);
	enum progress p;
	assert_int_equal(generator_step(g, &p, NULL), 0); /* chunk 1 has begun */
	assert_false(generator_boundary(g));
	prompt(g, kite, TRANSITION_SWITCH, 7); /* replaced before it takes hold */
	prompt(g, boat, TRANSITION_SWITCH, 9);
	chunk_run(&w, g, film);
	chunk_run(&w, g, film);
	assert_int_equal(generator_chunk_info(g).revision, 9);
	generator_destroy(g);
	assert_same(film, 0, plain, 0, 2 * CHUNK_PICTURES);
	assert_true(differ(film, 2 * CHUNK_PICTURES, plain, 2 * CHUNK_PICTURES, 1));
	for (int i = 0; i < film->count; i++)
		assert_int_equal(film->about[i].revision, i < 2 * CHUNK_PICTURES ? 1 : 9);
	free(plain);
	free(film);
	world_close(&w);
}

static void a_cut_begins_a_new_scene_and_counts_on(void **state) {
	(void)state;
	struct world w = world_open(&(struct toy_model){.policy = "hsa"}, NULL);
	struct film *film = render_change(&w, boat, TRANSITION_CUT, 4, 3);
	/* The same as a film that begins at chunk 4 with those words. */
	struct film *fresh = film_new();
	struct error e = {0};
	struct generator *g = generator_create(w.engine, 1, &e);
	generator_resume_at(g, 4, 1000);
	prompt(g, boat, TRANSITION_RECACHE, 1); /* there is nothing to reread: as any other */
	for (int i = 0; i < 3; i++)
		chunk_run(&w, g, fresh);
	generator_destroy(g);
	assert_same(film, 4 * CHUNK_PICTURES, fresh, 0, 3 * CHUNK_PICTURES);
	assert_int_equal(fresh->about[0].chunk, 4);
	assert_int_equal(fresh->about[0].index, 1000);
	for (int i = 0; i < film->count; i++) {
		assert_int_equal(film->about[i].chunk, i / CHUNK_PICTURES);
		assert_int_equal(film->about[i].index, i);
		assert_int_equal(film->about[i].scene_start, i == 0 || i == 4 * CHUNK_PICTURES);
	}
	free(film);
	free(fresh);
	world_close(&w);
}

static void a_reset_is_a_new_film(void **state) {
	(void)state;
	struct world w = world_open(&(struct toy_model){.policy = "random"}, NULL);
	struct film *fresh = render(&w, 2, kite, 2), *film = film_new();
	struct generator *g = start(&w, 1, kite);
	for (int i = 0; i < 5; i++)
		chunk_run(&w, g, film);
	struct error e = {0};
	assert_int_equal(generator_reset(g, 2, &e), 0);
	assert_int_equal(generator_chunk(g), 0);
	chunk_run(&w, g, film);
	chunk_run(&w, g, film);
	generator_destroy(g);
	assert_same(film, 5 * CHUNK_PICTURES, fresh, 0, 2 * CHUNK_PICTURES);
	assert_true(film->about[5 * CHUNK_PICTURES].scene_start);
	assert_int_equal(film->about[5 * CHUNK_PICTURES].chunk, 0);
	assert_int_equal(film->about[5 * CHUNK_PICTURES].index, 5 * CHUNK_PICTURES);
	free(fresh);
	free(film);
	world_close(&w);
}

/* Under the same words, rereading what has not yet slid must change nothing:
 * each pass is the refresh pass it was before. */
static void rereading_the_same_words_changes_nothing(void **state) {
	(void)state;
	static const char *const policy[] = {"dense", "hsa"};
	static const char *const rope[] = {"relative", "fixed"};
	for (int i = 0; i < 2; i++) {
		const struct toy_model toy = {.window_frames = 12,
			.sink_frames = i ? 1 : 3,
			.policy = policy[i],
			.rope_sink = rope[i]};
		struct world w = world_open(&toy, NULL);
		for (int before = 1; before <= 3; before++) {
			struct film *again = render_change(&w, kite, TRANSITION_RECACHE, before, 2);
			struct film *plain = render_change(&w, kite, TRANSITION_SWITCH, before, 2);
			assert_same(again, 0, plain, 0, plain->count);
			free(again);
			free(plain);
		}
		world_close(&w);
	}
}

static void rereading_other_words_differs_from_a_switch(void **state) {
	(void)state;
	static const struct toy_model toys[] = {
		{.recache = "sequential"},
		{.recache = "sequential",
			.rope_sink = "fixed",
			.window_frames = 12,
			.sink_frames = 1},
		{.recache = "sequential", .window_frames = 9, .sink_frames = 0},
		{.recache = "sequential", .window_frames = 11, .sink_frames = 4},
		{.recache = "joint"},
		{.recache = "joint", .rope_sink = "fixed", .policy = "hsa"},
		{.recache = "sequential", .policy = "random"},
		{.recache = "sequential", .policy = "window"},
	};
	for (size_t i = 0; i < sizeof toys / sizeof toys[0]; i++) {
		struct world w = world_open(&toys[i], NULL);
		assert_true(engine_model(w.engine)->transitions[TRANSITION_RECACHE]);
		assert_true(engine_model(w.engine)->transition_cost_chunks[TRANSITION_RECACHE] > 0);
		for (int before = 2; before <= 7; before += 5) { /* before and after sliding */
			struct film *re = render_change(&w, boat, TRANSITION_RECACHE, before, 2);
			struct film *sw = render_change(&w, boat, TRANSITION_SWITCH, before, 2);
			int at = before * CHUNK_PICTURES;
			assert_same(re, 0, sw, 0, at);
			assert_true(differ(re, at, sw, at, 1));
			assert_int_equal(re->about[at].revision, 2);
			assert_false(re->about[at].scene_start);
			free(re);
			free(sw);
		}
		world_close(&w);
	}
}

/* One chunk in the window: a joint pass is the one sequential pass. */
static void joint_and_sequential_agree_on_one_chunk(void **state) {
	(void)state;
	struct world a = world_open(&(struct toy_model){.recache = "joint"}, NULL);
	struct world b = world_open(&(struct toy_model){.recache = "sequential"}, NULL);
	struct film *joint = render_change(&a, boat, TRANSITION_RECACHE, 1, 2);
	struct film *sequential = render_change(&b, boat, TRANSITION_RECACHE, 1, 2);
	assert_same(joint, 0, sequential, 0, joint->count);
	free(joint);
	free(sequential);
	world_close(&a);
	world_close(&b);
}

static void steps_of_the_first_chunk_may_differ(void **state) {
	(void)state;
	struct world a = world_open(&(struct toy_model){.first_steps = "[1000,800,400]"}, NULL);
	struct world b = world_open(&(struct toy_model){0}, NULL);
	struct film *three = render(&a, 1, kite, 1), *two = render(&b, 1, kite, 1);
	assert_true(differ(three, 0, two, 0, 1));
	free(three);
	free(two);
	world_close(&a);
	world_close(&b);
}

static void the_pool_blocks_and_loses_nothing(void **state) {
	(void)state;
	struct world w =
		world_open(&(struct toy_model){0}, &(struct engine_config){.frames_max = 5});
	struct film *want, *film = film_new();
	want = render(&w, 1, kite, 2);
	struct generator *g = start(&w, 1, kite);
	struct frame *held[8];
	int n = 0, blocked = 0;
	struct error e = {0};
	while (film->count < 2 * CHUNK_PICTURES) {
		enum progress p;
		assert_int_equal(generator_step(g, &p, &e), 0);
		n += generator_frames(g, held + n, 8 - n);
		assert_true(n <= 5);
		if (p != PROGRESS_BLOCKED)
			continue;
		/* Nothing is done however often it is asked; then all is given back. */
		assert_int_equal(generator_step(g, &p, &e), 0);
		assert_int_equal(p, PROGRESS_BLOCKED);
		assert_int_equal(n, STRIDE);
		blocked++;
		for (int i = 0; i < n; i++) {
			film_add(film, held[i]);
			frame_release(held[i]);
		}
		n = 0;
		if (film->count == 2 * CHUNK_PICTURES - STRIDE)
			break;
	}
	while (!generator_boundary(g)) {
		enum progress p;
		assert_int_equal(generator_step(g, &p, &e), 0);
	}
	drain(&w, g, film);
	assert_int_equal(blocked, 5);
	generator_destroy(g);
	assert_same(film, 0, want, 0, want->count);
	free(film);
	free(want);
	world_close(&w);
}

static void pictures_outlive_their_generator(void **state) {
	(void)state;
	struct world w = world_open(&(struct toy_model){0}, NULL);
	struct film *want = render(&w, 1, kite, 2);
	struct generator *g = start(&w, 1, kite);
	struct frame *held[CHUNK_PICTURES];
	int n = 0;
	enum progress p;
	while (n < STRIDE) {
		assert_int_equal(generator_step(g, &p, NULL), 0);
		n += generator_frames(g, held + n, STRIDE - n);
	}
	generator_destroy(g); /* in the middle of a chunk */
	struct film *other = render(&w, 2, boat, 2); /* in the same slot */
	for (int i = 0; i < n; i++) {
		assert_memory_equal(held[i]->plane[0], want->pixels[i], 48 * 32);
		frame_release(held[i]);
	}
	free(other);
	free(want);
	world_close(&w);
}

/* A device may prepare for shapes when it first meets them, not later. */
static void nothing_is_allocated_once_warm(void **state) {
	(void)state;
	struct world w = world_open(&(struct toy_model){.policy = "hsa"}, NULL);
	struct film *film = render_change(&w, boat, TRANSITION_RECACHE, 5, 2);
	struct backend *be = engine_backend(w.engine);
	size_t before = backend_allocated(be);
	uint64_t made = backend_allocations(be);
	assert_true(before > 0 && made > 0);
	free(film);
	film = render_change(&w, "a blue airship at dawn in the fog", TRANSITION_RECACHE, 7, 3);
	assert_int_equal(backend_allocated(be), before);
	assert_int_equal(backend_allocations(be), made);
	free(film);
	world_close(&w);
}

static void faults_of_prompts_are_named(void **state) {
	(void)state;
	struct world w = world_open(&(struct toy_model){.recache = "none"}, NULL);
	struct error e = {0};
	enum progress p;
	assert_false(engine_model(w.engine)->transitions[TRANSITION_RECACHE]);
	assert_int_equal(engine_prompt_tokens(w.engine, "\xff", &e), -EINVAL);
	struct generator *g = generator_create(w.engine, 1, NULL);
	e = (struct error){0};
	assert_int_equal(generator_prompt(g, &(struct prompt_change){.text = "\xc3"}, &e), -EINVAL);
	e = (struct error){0};
	assert_int_equal(
		generator_prompt(g, &(struct prompt_change){kite, TRANSITION_RECACHE, 1}, &e),
		-EINVAL);
	assert_non_null(strstr(e.text, "recache"));
	e = (struct error){0};
	assert_int_equal(generator_step(g, &p, &e), -EINVAL);
	assert_non_null(strstr(e.text, "prompt"));
	/* It stays failed; the engine does not. */
	e = (struct error){0};
	assert_int_equal(generator_step(g, &p, &e), -EINVAL);
	assert_false(engine_broken(w.engine));
	generator_destroy(g);
	struct film *film = render(&w, 1, kite, 1);
	assert_int_equal(film->count, CHUNK_PICTURES);
	free(film);
	world_close(&w);
}

static void configurations_that_cannot_be_are_refused(void **state) {
	(void)state;
	char dir[256];
	assert_int_equal(toy_model_write(&(struct toy_model){0}, dir), 0);
	const struct {
		struct engine_config c;
		const char *says;
	} cases[] = {
		{{.backend = "cpu"}, "manifest.json"},
		{{.backend = "cpu", .model_dir = "/nonexistent"}, "/nonexistent/manifest.json"},
		{{.backend = "cpu", .model_dir = dir, .frames_max = 3}, "frames_max"},
		{{.backend = "cpu", .model_dir = dir, .generators_max = -1}, "generators_max"},
		{{.backend = "cpu", .model_dir = dir, .threads = 5000}, "threads"},
		{{.backend = "cpu", .model_dir = dir, .prompts_cached = -1}, "prompts_cached"},
		{{.backend = "cpu", .model_dir = dir, .precision = "f33"}, "precision"},
		{{.backend = "cpu", .model_dir = dir, .precision = "int8"}, "int8"},
		{{.backend = "cpu", .model_dir = dir, .sparsity = "best"}, "best"},
		{{.backend = "cpu", .model_dir = dir, .memory_max_bytes = 1}, "generators_max"},
		{{.backend = "nonesuch", .model_dir = dir}, "nonesuch"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct error e = {0};
		assert_null(engine_create(&cases[i].c, &e));
		assert_true(e.code < 0);
		if (!strstr(e.text, cases[i].says))
			fail_msg("case %zu: \"%s\" does not say %s", i, e.text, cases[i].says);
		assert_null(engine_create(&cases[i].c, NULL));
	}
	toy_model_remove(dir);
	engine_destroy(NULL);
	generator_destroy(NULL);
}

struct progress_log {
	int calls;
	uint64_t done, total;
	bool fell;
};

static void note_progress(void *ctx, const char *stage, uint64_t done, uint64_t total) {
	struct progress_log *p = ctx;
	assert_non_null(stage);
	p->calls++;
	p->fell = p->fell || done < p->done;
	p->done = done;
	p->total = total;
}

static void loading_reports_progress(void **state) {
	(void)state;
	struct progress_log log = {0};
	struct world w = world_open(&(struct toy_model){0},
		&(struct engine_config){.progress = note_progress, .progress_ctx = &log});
	assert_true(log.calls > 20); /* within parts, too */
	assert_false(log.fell);
	assert_true(log.total > 0 && log.done == log.total);
	world_close(&w);
}

/* Exit status 77: there is no such device here. */
static bool backend_is_there(void) {
	const char *spec = getenv("LIGHTFORCED_TEST_BACKEND");
	struct error e = {0};
	test_backend = spec ? spec : test_backend;
	struct backend *be = backend_create(&(struct backend_config){.spec = test_backend}, &e);
	if (!be)
		printf("skipped: %s\n", e.text);
	backend_destroy(be);
	return be != NULL;
}

int main(void) {
	if (!backend_is_there())
		return 77;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_same_seed_gives_the_same_bytes),
		cmocka_unit_test(pictures_say_where_they_belong),
		cmocka_unit_test(warm_up_pictures_are_dropped_once_a_scene),
		cmocka_unit_test(generators_do_not_see_each_other),
		cmocka_unit_test(a_switch_takes_hold_at_the_next_chunk),
		cmocka_unit_test(a_cut_begins_a_new_scene_and_counts_on),
		cmocka_unit_test(a_reset_is_a_new_film),
		cmocka_unit_test(rereading_the_same_words_changes_nothing),
		cmocka_unit_test(rereading_other_words_differs_from_a_switch),
		cmocka_unit_test(joint_and_sequential_agree_on_one_chunk),
		cmocka_unit_test(steps_of_the_first_chunk_may_differ),
		cmocka_unit_test(the_pool_blocks_and_loses_nothing),
		cmocka_unit_test(pictures_outlive_their_generator),
		cmocka_unit_test(nothing_is_allocated_once_warm),
		cmocka_unit_test(faults_of_prompts_are_named),
		cmocka_unit_test(configurations_that_cannot_be_are_refused),
		cmocka_unit_test(loading_reports_progress),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
