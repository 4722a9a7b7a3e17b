/* SPDX-License-Identifier: Apache-2.0 */
/* The list of a session's prompts: one a chunk, what is due, what is forgotten. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>

#include "server/prompts.h"

static struct prompt *add(
	struct prompts *list, int64_t number, int64_t chunk, enum prompt_state state) {
	struct prompt *p = prompt_create("words"), *replaced;
	p->number = number;
	p->revision = (uint32_t)number;
	p->chunk = chunk;
	p->state = state;
	p->seq = (uint64_t)chunk * 12;
	assert_true(prompts_add(list, p, &replaced));
	free(replaced);
	return p;
}

static void one_waits_for_a_chunk(void **state) {
	(void)state;
	struct prompts list = {0};
	add(&list, 1, 0, PROMPT_APPLIED);
	add(&list, 2, 5, PROMPT_SCHEDULED);
	add(&list, 3, 9, PROMPT_SCHEDULED);
	struct prompt *p = prompt_create("newer"), *replaced;
	p->chunk = 5;
	assert_true(prompts_add(&list, p, &replaced));
	assert_int_equal(replaced->number, 2);
	free(replaced);
	assert_int_equal(prompts_waiting(&list), 2);
	assert_null(prompts_due(&list, 4));
	assert_ptr_equal(prompts_due(&list, 5), p);
	assert_ptr_equal(prompts_by_revision(&list, 3), prompts_by_number(&list, 3));
	/* An applied one of the same chunk is no rival. */
	p->state = PROMPT_APPLIED;
	struct prompt *q = prompt_create("again");
	q->chunk = 5;
	assert_true(prompts_add(&list, q, &replaced));
	assert_null(replaced);
	prompts_finish(&list);
}

static void the_one_in_effect_is_the_latest_to_take_hold(void **state) {
	(void)state;
	struct prompts list = {0};
	assert_null(prompts_current(&list));
	struct prompt *early = add(&list, 1, 20, PROMPT_SCHEDULED);
	add(&list, 2, 3, PROMPT_APPLIED);
	struct prompt *sent = add(&list, 3, 8, PROMPT_SENT);
	assert_ptr_equal(prompts_current(&list), sent);
	sent->state = PROMPT_APPLIED;
	early->state = PROMPT_APPLIED; /* accepted first, took hold last */
	assert_ptr_equal(prompts_current(&list), early);
	prompts_finish(&list);
}

static void the_oldest_applied_are_forgotten(void **state) {
	(void)state;
	struct prompts list = {0};
	struct prompt *current = add(&list, 1, 1000, PROMPT_APPLIED);
	for (int i = 2; i < 40; i++)
		add(&list, i, i, i % 4 ? PROMPT_APPLIED : PROMPT_SCHEDULED);
	int waiting = prompts_waiting(&list);
	prompts_trim(&list, 3);
	assert_int_equal(prompts_waiting(&list), waiting);
	assert_int_equal(list.count, waiting + 3);
	assert_ptr_equal(prompts_current(&list), current);
	assert_ptr_equal(list.item[0], current);
	assert_null(prompts_by_number(&list, 2));
	assert_non_null(prompts_by_number(&list, 39));
	prompts_finish(&list);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_waits_for_a_chunk),
		cmocka_unit_test(the_one_in_effect_is_the_latest_to_take_hold),
		cmocka_unit_test(the_oldest_applied_are_forgotten),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
