/* SPDX-License-Identifier: Apache-2.0 */
/* Chunk-Aware Growth against values worked out from the paper's formula, and
 * the budget, its floor, minimum and cap. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/sparsity.h"

static struct sparsity_config hsa(double target, double base, int horizon) {
	return (struct sparsity_config){.policy = "hsa",
		.block = 64,
		.target = target,
		.base = base,
		.horizon_frames = horizon,
		.keep_frames = 6,
		.keep_sink = 1,
		.keep_near = 2};
}

struct growth {
	int horizon, chunk, window;
	double target, base;
	int count; /* of values, from chunk 0 */
	double s[8];
	double last; /* of the horizon; 0: not given */
};

static const struct growth growths[] = {
	{21, 3, 21, .88, .98, 7, {0, .826990, .855068, .871806, .883228, .891660, .898213},
		.898213},
	{21, 3, 21, .80, .90, 7, {0, .746990, .775068, .791806, .803228, .811660, .818213}, 0},
	{21, 3, -1, .80, .90, 7, {0, .746990, .775068, .791806, .803228, .811660, .818213}, 0},
	{128, 8, 32, .85, .95, 6, {0, .754954, .790746, .812082, .826642, .837390}, .881041},
	{21, 3, 21, .85, .95, 7, {0, .796990, .825068, .841806, .853228, .861660, .868213}, 0},
	{21, 3, 21, .90, .98, 7, {0, .857592, .880055, .893445, .902583, .909328, .914570}, 0},
	{63, 3, 12, .85, .95, 6, {0, .734473, .774023, .797599, .813689, .825565}, .883487},
	{21, 3, 21, .70, .80, 7, {0, .646990, .675068, .691806, .703228, .711660, .718213},
		.718213},
};

static void growth_agrees_with_worked_values(void **state) {
	(void)state;
	for (size_t i = 0; i < sizeof growths / sizeof growths[0]; i++) {
		const struct growth *g = &growths[i];
		struct sparsity_config c = hsa(g->target, g->base, g->horizon);
		struct error e = {0};
		struct sparsity *s = sparsity_create(&c, g->chunk, g->window, &e);
		assert_non_null(s);
		for (int k = 0; k < g->count; k++)
			assert_true(fabs(sparsity_of_chunk(s, k) - g->s[k]) <
				    6e-7); /* six digits given */
		int last = g->horizon / g->chunk - 1;
		if (g->last > 0)
			assert_true(fabs(sparsity_of_chunk(s, last) - g->last) < 6e-7);
		/* Beyond the plan the last entry holds. */
		assert_true(sparsity_of_chunk(s, last) == sparsity_of_chunk(s, 1000000));
		sparsity_destroy(s);
	}
	sparsity_destroy(NULL);
}

static void equal_base_and_target_do_not_grow(void **state) {
	(void)state;
	struct sparsity_config c = hsa(.85, .85, 21);
	struct sparsity *s = sparsity_create(&c, 3, 21, NULL);
	assert_true(sparsity_of_chunk(s, 0) == 0);
	for (int k = 1; k < 9; k++)
		assert_true(sparsity_of_chunk(s, k) == .85);
	sparsity_destroy(s);
}

static void budget_floors_with_a_grain_of_mercy(void **state) {
	(void)state;
	assert_int_equal(
		sparsity_keep(.9, 250, 250), 25); /* (1 - .9) * 250 is 24.999999999999993 */
	assert_int_equal(sparsity_keep(.9, 259, 259), 25);
	assert_int_equal(sparsity_keep(.99, 50, 50), 1); /* at least one */
	assert_int_equal(sparsity_keep(1, 50, 50), 1);
	assert_int_equal(sparsity_keep(.5, 100, 30), 30); /* never more than there are */
	assert_int_equal(sparsity_keep(0, 72, 72), 72);
}

/* Kept and visible blocks of chunks 0, 1, ..., window and horizon 21 frames. */
struct kept {
	double target, base;
	int frame_blocks;
	int chunks;
	int keep[7], blocks[7];
};

static const struct kept kepts[] = {
	{.88, .98, 24, 7, {72, 24, 31, 36, 42, 46, 51}, {72, 144, 216, 288, 360, 432, 504}},
	{.88, .98, 12, 7, {36, 12, 15, 18, 21, 23, 25}, {36, 72, 108, 144, 180, 216, 252}},
	{.85, .95, 24, 7, {72, 29, 37, 45, 52, 59, 66}, {72, 144, 216, 288, 360, 432, 504}},
	{.80, .90, 12, 7, {36, 18, 24, 29, 35, 40, 45}, {36, 72, 108, 144, 180, 216, 252}},
	{.90, .98, 24, 7, {72, 20, 25, 30, 35, 39, 43}, {72, 144, 216, 288, 360, 432, 504}},
	{.88, .98, 25, 7, {75, 25, 32, 38, 43, 48, 53}, {75, 150, 225, 300, 375, 450, 525}},
	{.70, .80, 9, 7, {27, 19, 26, 33, 40, 46, 53}, {27, 54, 81, 108, 135, 162, 189}},
};

static void plans_keep_the_worked_numbers_of_blocks(void **state) {
	(void)state;
	for (size_t i = 0; i < sizeof kepts / sizeof kepts[0]; i++) {
		const struct kept *k = &kepts[i];
		struct sparsity_config c = hsa(k->target, k->base, 21);
		struct sparsity *s = sparsity_create(&c, 3, 21, NULL);
		for (int chunk = 0; chunk < k->chunks; chunk++) {
			struct sparsity_plan p =
				sparsity_plan(s, chunk, (chunk + 1) * 3, 3, k->frame_blocks);
			assert_int_equal(p.blocks, k->blocks[chunk]);
			assert_int_equal(p.keep, k->keep[chunk]);
			assert_int_equal(p.kind, chunk == 0 ? SPARSITY_DENSE : SPARSITY_SCORED);
			if (chunk > 0) {
				assert_int_equal(p.select.keep, p.keep);
				assert_int_equal(p.select.current_frames, 3);
				assert_int_equal(p.select.keep_frames, 6);
			}
		}
		sparsity_destroy(s);
	}
}

static void frame_stage_caps_the_budget(void **state) {
	(void)state;
	struct sparsity_config c = hsa(.1, .1, 63);
	struct sparsity *s = sparsity_create(&c, 3, -1, NULL);
	/* Seven past frames, six kept, three own: 9 of 10 frames are eligible, .9
	 * of the blocks are asked for; with 20 frames .9 * 200 exceeds 90. */
	assert_int_equal(sparsity_plan(s, 6, 20, 3, 10).keep, 90);
	assert_int_equal(sparsity_plan(s, 2, 9, 3, 10).keep, 81); /* one stage: 6 past frames */
	sparsity_destroy(s);
	snprintf(c.policy, sizeof c.policy, "topk");
	s = sparsity_create(&c, 3, -1, NULL);
	struct sparsity_plan p = sparsity_plan(s, 6, 20, 3, 10);
	assert_int_equal(p.keep, 180); /* no frame stage, no cap */
	assert_int_equal(p.select.keep_frames, 0);
	sparsity_destroy(s);
}

static void listed_policies_fill_ascending_rows_in_range(void **state) {
	(void)state;
	static const char *const policy[] = {"window", "random"};
	for (int i = 0; i < 2; i++) {
		struct sparsity_config c = hsa(.7, .7, 21);
		snprintf(c.policy, sizeof c.policy, "%s", policy[i]);
		struct sparsity *s = sparsity_create(&c, 3, 21, NULL);
		assert_true(sparsity_listed(s));
		struct sparsity_plan p = sparsity_plan(s, 6, 21, 3, 9);
		assert_int_equal(p.kind, SPARSITY_LISTED);
		assert_int_equal(p.keep, 56); /* floor(.3 * 189) */
		int32_t list[20][56], seen[189] = {0};
		sparsity_fill(s, &p, list[0], 20, 7);
		for (int row = 0; row < 20; row++) {
			for (int k = 0; k < 56; k++) {
				assert_in_range(list[row][k], k ? list[row][k - 1] + 1 : 0, 188);
				seen[list[row][k]]++;
			}
		}
		if (i == 0) { /* the sink's 9 blocks and the newest 47 */
			for (int k = 0; k < 56; k++)
				assert_int_equal(list[19][k], k < 9 ? k : 189 - 56 + k);
		} else { /* 20 * 56 draws of 189: a block never or always drawn has p < 1e-3 * 189
			  */
			assert_memory_not_equal(list[0], list[1], sizeof list[0]);
			for (int k = 0; k < 189; k++)
				assert_in_range(seen[k], 0, 19);
		}
		sparsity_destroy(s);
	}
}

static void window_without_a_budget_keeps_whole_frames(void **state) {
	(void)state;
	struct sparsity_config c = hsa(0, 0, 21);
	snprintf(c.policy, sizeof c.policy, "window");
	struct sparsity *s = sparsity_create(&c, 3, 21, NULL);
	assert_int_equal(sparsity_plan(s, 6, 21, 3, 9).keep, (1 + 2 + 3) * 9);
	assert_int_equal(sparsity_plan(s, 1, 6, 3, 9).kind, SPARSITY_DENSE);
	sparsity_destroy(s);
}

static void a_pass_that_sees_only_itself_is_dense(void **state) {
	(void)state;
	struct sparsity_config c = hsa(.85, .95, 21);
	struct sparsity *s = sparsity_create(&c, 3, 12, NULL);
	struct sparsity_plan p = sparsity_plan(s, 3, 12, 12, 9);
	assert_int_equal(p.kind, SPARSITY_DENSE);
	assert_int_equal(p.keep, p.blocks);
	sparsity_destroy(s);
}

static void a_manifest_without_the_section_has_defaults(void **state) {
	(void)state;
	struct sparsity_config c = {.policy = "dense"};
	struct sparsity *s = sparsity_create(&c, 3, 21, NULL);
	assert_int_equal(sparsity_block(s), 64);
	sparsity_destroy(s);
	assert_int_equal(sparsity_parse("hsa:.8/.9", &c, NULL), 0);
	s = sparsity_create(&c, 3, 21, NULL);
	assert_non_null(s);
	assert_true(fabs(sparsity_of_chunk(s, 6) - .818213) < 6e-7);
	/* keep_frames 0: no frame stage, and so no cap */
	struct sparsity_plan p = sparsity_plan(s, 6, 21, 3, 12);
	assert_int_equal(p.keep, 45);
	assert_int_equal(p.select.keep_frames, 0);
	sparsity_destroy(s);
}

static void specs_are_read_and_faults_named(void **state) {
	(void)state;
	struct sparsity_config c = hsa(.7, .8, 21);
	assert_int_equal(sparsity_parse("model", &c, NULL), 0);
	assert_int_equal(sparsity_parse(NULL, &c, NULL), 0);
	assert_string_equal(c.policy, "hsa");
	assert_true(c.target == .7 && c.base == .8);
	assert_int_equal(sparsity_parse("topk:.85/.95", &c, NULL), 0);
	assert_string_equal(c.policy, "topk");
	assert_true(c.target == .85 && c.base == .95);
	assert_int_equal(sparsity_parse("random:0.5", &c, NULL), 0);
	assert_true(c.target == .5 && c.base == .5);
	assert_int_equal(sparsity_parse("dense", &c, NULL), 0);
	assert_string_equal(c.policy, "dense");
	static const char *const bad[] = {
		"hsb", "hsa:", "hsa:1", "hsa:-.1", "hsa:.5/", "hsa:.5/.6x", "hsa:nan", ":.5"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct error e = {0};
		assert_int_equal(sparsity_parse(bad[i], &c, &e), -EINVAL);
		assert_non_null(strstr(e.text, bad[i]));
	}
}

static void plans_that_cannot_be_are_refused(void **state) {
	(void)state;
	struct error e = {0};
	struct sparsity_config c = hsa(.7, .8, 5);
	assert_null(sparsity_create(&c, 3, 21, &e));
	assert_non_null(strstr(e.text, "horizon_frames"));
	c = hsa(.7, .8, 21);
	c.keep_frames = 2;
	e = (struct error){0};
	assert_null(sparsity_create(&c, 3, 21, &e));
	assert_non_null(strstr(e.text, "keep_frames"));
	c = hsa(.7, .8, 21);
	snprintf(c.policy, sizeof c.policy, "best");
	e = (struct error){0};
	assert_null(sparsity_create(&c, 3, 21, &e));
	assert_non_null(strstr(e.text, "policy"));
}

static void descriptions_name_the_numbers(void **state) {
	(void)state;
	char buf[48];
	struct sparsity_config c = hsa(.7, .8, 21);
	struct sparsity *s = sparsity_create(&c, 3, 21, NULL);
	assert_string_equal(sparsity_describe(s, buf, sizeof buf), "hsa 0.70/0.80 of 21 frames");
	sparsity_destroy(s);
	snprintf(c.policy, sizeof c.policy, "dense");
	s = sparsity_create(&c, 3, 21, NULL);
	assert_string_equal(sparsity_describe(s, buf, sizeof buf), "dense");
	sparsity_destroy(s);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(growth_agrees_with_worked_values),
		cmocka_unit_test(equal_base_and_target_do_not_grow),
		cmocka_unit_test(budget_floors_with_a_grain_of_mercy),
		cmocka_unit_test(plans_keep_the_worked_numbers_of_blocks),
		cmocka_unit_test(frame_stage_caps_the_budget),
		cmocka_unit_test(listed_policies_fill_ascending_rows_in_range),
		cmocka_unit_test(window_without_a_budget_keeps_whole_frames),
		cmocka_unit_test(a_pass_that_sees_only_itself_is_dense),
		cmocka_unit_test(a_manifest_without_the_section_has_defaults),
		cmocka_unit_test(specs_are_read_and_faults_named),
		cmocka_unit_test(plans_that_cannot_be_are_refused),
		cmocka_unit_test(descriptions_name_the_numbers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
