/* SPDX-License-Identifier: Apache-2.0 */
/* The text encoder's buckets, against the published table: reference files are
 * too short to reach the far ones. The encoder itself is held against
 * tests/golden/umt5.safetensors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "engine/text.h"

static void buckets_of_32_up_to_128(void **state) {
	(void)state;
	static const struct {
		int first, last, bucket;
	} rows[] = {{0, 0, 0}, {1, 1, 1}, {2, 2, 2}, {3, 3, 3}, {4, 4, 4}, {5, 5, 5}, {6, 6, 6},
		{7, 7, 7}, {8, 11, 8}, {12, 15, 9}, {16, 22, 10}, {23, 31, 11}, {32, 45, 12},
		{46, 63, 13}, {64, 90, 14}, {91, 600, 15}};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		for (int d = rows[i].first; d <= rows[i].last; d++) {
			assert_int_equal(text_bucket(-d, 32, 128), rows[i].bucket);
			assert_int_equal(
				text_bucket(d, 32, 128), rows[i].bucket + (d > 0 ? 16 : 0));
		}
	}
}

/* ln(d/2)/ln(16) * 2 of d = 2, 7, 8, 31: 0, .9, 1, 1.98. */
static void buckets_of_other_sizes(void **state) {
	(void)state;
	assert_int_equal(text_bucket(-2, 8, 32), 2);
	assert_int_equal(text_bucket(-7, 8, 32), 2);
	assert_int_equal(text_bucket(-8, 8, 32), 3);
	assert_int_equal(text_bucket(31, 8, 32), 7);
	assert_int_equal(text_bucket(1000, 8, 32), 7);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buckets_of_32_up_to_128),
		cmocka_unit_test(buckets_of_other_sizes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
