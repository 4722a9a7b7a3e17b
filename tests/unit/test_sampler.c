/* SPDX-License-Identifier: Apache-2.0 */
/* The few-step sampler: its arithmetic against doubles, the order in which it
 * asks for noise, seeds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <string.h>

#include "engine/sampler.h"

enum {
	FRAMES = 2,
	CHANNELS = 3,
	HEIGHT = 4,
	WIDTH = 5,
	COUNT = FRAMES * CHANNELS * HEIGHT * WIDTH
};

static struct backend *be;
static struct arena *arena;

static int open_all(void **state) {
	(void)state;
	be = backend_create(&(struct backend_config){.spec = "cpu", .threads = 1}, NULL);
	arena = be ? arena_create(be, 1 << 20, NULL) : NULL;
	return arena ? 0 : -1;
}

static int close_all(void **state) {
	(void)state;
	arena_destroy(arena);
	backend_destroy(be);
	return 0;
}

static struct sampler *make(int steps_max) {
	arena_reset(arena, 0);
	struct sampler *s =
		sampler_create(be, FRAMES, CHANNELS, HEIGHT, WIDTH, steps_max, arena, NULL);
	assert_non_null(s);
	return s;
}

/* Noise i of step j is known; counts the calls. */
struct source {
	int calls;
	int64_t chunk[8];
	int step[8];
};

static double noise_value(int step, int i) {
	return sin(step * 100 + i);
}

static int draw(
	void *ctx, struct backend *b, struct tensor *y, int64_t chunk, int step, struct error *e) {
	struct source *s = ctx;
	if (step == 7)
		return error_set(e, -EIO, "no more noise");
	s->chunk[s->calls] = chunk;
	s->step[s->calls++] = step;
	float v[COUNT];
	for (int i = 0; i < COUNT; i++)
		v[i] = (float)noise_value(step, i);
	backend_upload(b, y->data, v, sizeof v);
	return 0;
}

static double flow_value(int step, int i) {
	return cos(step * 10 + i);
}

static void steps_follow_the_formula(void **state) {
	(void)state;
	struct sampler *s = make(3);
	struct source source = {0};
	sampler_source(s, (struct noise_source){draw, &source});
	const struct sampler_steps steps = {3, {1000, 937.5, 625}, 0};
	assert_int_equal(sampler_begin(s, &steps, 42, NULL), 0);
	assert_int_equal(source.calls, 3);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(source.chunk[i], 42);
		assert_int_equal(source.step[i], i);
	}
	double x[COUNT], x0[COUNT];
	for (int i = 0; i < COUNT; i++)
		x[i] = noise_value(0, i);
	for (int step = 0; step < 3; step++) {
		assert_true(sampler_timestep(s) == steps.timestep[step]);
		float flow[COUNT], got[COUNT];
		backend_download(be, got, sampler_input(s)->data, sizeof got);
		for (int i = 0; i < COUNT; i++) {
			/* |x| < 3, two roundings a step: observed 3e-7 */
			assert_true(fabs(x[i] - (double)got[i]) < 2e-6);
			flow[i] = (float)flow_value(step, i);
		}
		backend_upload(be, sampler_flow(s)->data, flow, sizeof flow);
		double t = steps.timestep[step] / 1000;
		double next = step < 2 ? steps.timestep[step + 1] / 1000 : 0;
		for (int i = 0; i < COUNT; i++) {
			x0[i] = x[i] - t * flow_value(step, i);
			x[i] = (1 - next) * x0[i] + next * noise_value(step + 1, i);
		}
		assert_int_equal(sampler_advance(s), step < 2);
	}
	float got[COUNT];
	backend_download(be, got, sampler_latent(s)->data, sizeof got);
	for (int i = 0; i < COUNT; i++)
		assert_true(fabs(x0[i] - (double)got[i]) < 2e-6);
	sampler_destroy(s);
	sampler_destroy(NULL);
}

/* Noise is drawn before passes 0 and 1 only; from 937.5 on x goes along the flow. */
static void low_steps_follow_the_flow(void **state) {
	(void)state;
	struct sampler *s = make(4);
	struct source source = {0};
	sampler_source(s, (struct noise_source){draw, &source});
	const struct sampler_steps steps = {4, {1000, 937.5, 625, 300}, 937.5};
	assert_int_equal(sampler_begin(s, &steps, 42, NULL), 0);
	assert_int_equal(source.calls, 2);
	assert_int_equal(source.step[1], 1);
	double x[COUNT];
	float flow[COUNT], got[COUNT];
	for (int i = 0; i < COUNT; i++)
		x[i] = noise_value(0, i);
	for (int step = 0; step < 4; step++) {
		double t = steps.timestep[step] / 1000,
		       next = step < 3 ? steps.timestep[step + 1] / 1000 : 0;
		backend_download(be, got, sampler_input(s)->data, sizeof got);
		for (int i = 0; i < COUNT; i++) {
			assert_true(fabs(x[i] - (double)got[i]) < 2e-6); /* observed 4e-7 */
			double v = flow_value(step, i);
			flow[i] = (float)v;
			x[i] = step == 0 ? (1 - next) * (x[i] - t * v) + next * noise_value(1, i)
					 : x[i] - (t - next) * v;
		}
		backend_upload(be, sampler_flow(s)->data, flow, sizeof flow);
		assert_int_equal(sampler_advance(s), step < 3);
	}
	backend_download(be, got, sampler_latent(s)->data, sizeof got);
	for (int i = 0; i < COUNT; i++)
		assert_true(fabs(x[i] - (double)got[i]) < 2e-6);
	sampler_destroy(s);
}

static void first_input(struct sampler *s, int64_t chunk, float *out) {
	const struct sampler_steps steps = {2, {1000, 500}, 0};
	assert_int_equal(sampler_begin(s, &steps, chunk, NULL), 0);
	backend_download(be, out, sampler_input(s)->data, COUNT * sizeof *out);
}

static void noise_depends_on_seed_and_chunk_alone(void **state) {
	(void)state;
	struct sampler *s = make(2);
	float a[COUNT], b[COUNT];
	sampler_seed(s, 5);
	first_input(s, 3, a);
	first_input(s, 4, b);
	assert_memory_not_equal(a, b, sizeof a);
	first_input(s, 3, b);
	assert_memory_equal(a, b, sizeof a);
	sampler_seed(s, 6);
	first_input(s, 3, b);
	assert_memory_not_equal(a, b, sizeof a);
	sampler_seed(s, 5);
	first_input(s, 3, b);
	assert_memory_equal(a, b, sizeof a);
	sampler_destroy(s);
}

static void step_counts_out_of_range_are_refused(void **state) {
	(void)state;
	struct sampler *s = make(2);
	struct error e = {0};
	assert_int_equal(
		sampler_begin(s, &(struct sampler_steps){3, {900, 800, 700}, 0}, 0, &e), -EINVAL);
	assert_int_equal(sampler_begin(s, &(struct sampler_steps){0}, 0, &e), -EINVAL);
	sampler_destroy(s);
}

static void a_failing_source_is_passed_up(void **state) {
	(void)state;
	struct sampler *s = make(8);
	struct source source = {0};
	sampler_source(s, (struct noise_source){draw, &source});
	struct error e = {0};
	const struct sampler_steps steps = {8, {1000, 900, 800, 700, 600, 500, 400, 300}, 0};
	assert_int_equal(sampler_begin(s, &steps, 0, &e), -EIO);
	assert_string_equal(e.text, "no more noise");
	sampler_destroy(s);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(steps_follow_the_formula),
		cmocka_unit_test(low_steps_follow_the_flow),
		cmocka_unit_test(noise_depends_on_seed_and_chunk_alone),
		cmocka_unit_test(step_counts_out_of_range_are_refused),
		cmocka_unit_test(a_failing_source_is_passed_up),
	};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
