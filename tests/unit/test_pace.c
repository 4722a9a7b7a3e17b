/* SPDX-License-Identifier: Apache-2.0 */
/* The media clock: on time, a little late, far behind, after a pause. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "server/pace.h"

enum { CHUNK = 12, CHUNK_US = 750000, LEAD_US = 250000 };
static const int64_t START = 5000000;

static int64_t begin(struct pace *p, int64_t chunk, int64_t now) {
	return pace_begin_us(p, 100 + chunk * CHUNK, now, LEAD_US, CHUNK_US, 16, 1);
}

static void chunks_begin_a_lead_before_they_are_due(void **state) {
	(void)state;
	struct pace p = {0};
	assert_true(begin(&p, 0, START) <= START); /* at once */
	assert_int_equal(begin(&p, 1, START), START + CHUNK_US - LEAD_US);
	assert_int_equal(begin(&p, 1, START + 1000), START + CHUNK_US - LEAD_US);
	assert_int_equal(
		begin(&p, 1000, START + CHUNK_US), START + 1000 * (int64_t)CHUNK_US - LEAD_US);
}

static void a_small_delay_is_caught_up(void **state) {
	(void)state;
	struct pace p = {0};
	begin(&p, 0, START);
	int64_t late = START + CHUNK_US - LEAD_US + CHUNK_US; /* by one chunk */
	assert_true(begin(&p, 1, late) <= late);
	assert_int_equal(begin(&p, 2, late), START + 2 * CHUNK_US - LEAD_US);
}

static void a_stall_moves_the_clock(void **state) {
	(void)state;
	struct pace p = {0};
	begin(&p, 0, START);
	int64_t late = START + 20 * CHUNK_US;
	assert_int_equal(begin(&p, 1, late), late);
	assert_int_equal(begin(&p, 2, late), late + CHUNK_US); /* no rush */
}

static void a_pause_starts_it_anew(void **state) {
	(void)state;
	struct pace p = {0};
	begin(&p, 0, START);
	pace_stop(&p);
	int64_t later = START + 100 * CHUNK_US;
	assert_true(begin(&p, 1, later) <= later);
	assert_int_equal(begin(&p, 2, later), later + CHUNK_US - LEAD_US);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(chunks_begin_a_lead_before_they_are_due),
		cmocka_unit_test(a_small_delay_is_caught_up),
		cmocka_unit_test(a_stall_moves_the_clock),
		cmocka_unit_test(a_pause_starts_it_anew),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
