/* SPDX-License-Identifier: Apache-2.0 */
/* The bump allocator: alignment, planning by measuring, the one failure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "engine/arena.h"
#include "tests/support/fake_backend.h"

/* Takes 12 codes, 3 scales and 10 floats: 3 blocks of 256. */
static void plan(struct arena *a, struct tensor *codes, struct tensor *floats) {
	*codes = arena_2d(a, DTYPE_I8, 3, 4);
	*floats = arena_2d(a, DTYPE_F32, 2, 5);
}

static void measured_plan_fits_exactly(void **state) {
	(void)state;
	struct backend be = {.limit = 1 << 20};
	struct tensor codes, floats;
	struct arena *m = arena_measure(&be);
	plan(m, &codes, &floats);
	assert_null(codes.data);
	assert_true(arena_measuring(m));
	assert_int_equal(arena_peak(m), 768);
	assert_int_equal(arena_failed(m, NULL), 0);
	struct error e = {0};
	struct arena *a = arena_create(&be, arena_peak(m), &e);
	assert_non_null(a);
	plan(a, &codes, &floats);
	assert_int_equal(arena_failed(a, &e), 0);
	assert_int_equal((uintptr_t)codes.data % 256, 0);
	assert_ptr_equal(codes.scale, (char *)codes.data + 256);
	assert_ptr_equal(floats.data, (char *)codes.data + 512);
	assert_null(floats.scale);
	memset(floats.data, 1, 256); /* the last byte is ours: a sanitizer would tell */
	arena_destroy(a);
	arena_destroy(m);
	assert_int_equal(be.held, 0);
}

static void full_arena_says_how_much_was_needed(void **state) {
	(void)state;
	struct backend be = {.limit = 1 << 20};
	struct error e = {0};
	struct arena *a = arena_create(&be, 256, &e);
	struct tensor codes, floats;
	plan(a, &codes, &floats);
	assert_non_null(codes.data);
	assert_null(floats.data);
	assert_int_equal(arena_failed(a, &e), -ENOMEM);
	assert_string_equal(e.text, "arena: 768 bytes needed, 256 planned");
	arena_destroy(a);
}

static void reset_gives_back_the_younger(void **state) {
	(void)state;
	struct backend be = {.limit = 1 << 20};
	struct arena *a = arena_create(&be, 4096, NULL);
	void *first = arena_bytes(a, 1);
	size_t mark = arena_mark(a);
	void *second = arena_bytes(a, 1000);
	arena_reset(a, mark);
	assert_ptr_equal(arena_bytes(a, 1), second);
	assert_ptr_not_equal(first, second);
	arena_reset(a, 100000); /* a mark that is not younger changes nothing */
	assert_int_equal(arena_mark(a), 512);
	assert_int_equal(arena_peak(a), 256 + 1024);
	arena_destroy(a);
}

static void refused_memory_is_an_error(void **state) {
	(void)state;
	struct backend be = {.limit = 1000};
	struct error e = {0};
	assert_null(arena_create(&be, 100000, &e));
	assert_int_equal(e.code, -ENOMEM);
	assert_non_null(strstr(e.text, "arena of 100096 bytes"));
	assert_int_equal(be.held, 0);
	arena_destroy(NULL);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(measured_plan_fits_exactly),
		cmocka_unit_test(full_arena_says_how_much_was_needed),
		cmocka_unit_test(reset_gives_back_the_younger),
		cmocka_unit_test(refused_memory_is_an_error),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
