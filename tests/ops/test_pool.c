/* SPDX-License-Identifier: Apache-2.0 */
/* The worker pool: every item is done exactly once whatever the slicing,
 * workers that slept wake up, and bad settings are named. Run under TSan too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/pool.h"

struct work {
	int *count; /* [items], how often each was done: plain, so that TSan sees overlaps */
	atomic_int slices, beyond;
	int threads;
};

static void count_items(void *ctx, int64_t begin, int64_t end, int worker) {
	struct work *w = ctx;
	atomic_fetch_add(&w->slices, 1);
	if (worker < 0 || worker >= w->threads)
		atomic_fetch_add(&w->beyond, 1);
	for (int64_t i = begin; i < end; i++)
		w->count[i]++;
}

static void run_case(struct pool *p, int64_t items, int64_t grain) {
	struct work w = {
		.count = calloc((size_t)items + 1, sizeof *w.count), .threads = pool_threads(p)};
	assert_non_null(w.count);
	pool_run(p, items, grain, count_items, &w);
	for (int64_t i = 0; i < items; i++)
		assert_int_equal(w.count[i], 1);
	assert_int_equal(w.count[items], 0);
	assert_int_equal(atomic_load(&w.beyond), 0);
	assert_true(atomic_load(&w.slices) <= (items + grain - 1) / grain);
	free(w.count);
}

static void every_item_is_done_once(void **state) {
	(void)state;
	static const int threads[] = {1, 2, 3, 8};
	for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
		struct error e = {0};
		struct pool *p = pool_create(threads[t], &e);
		assert_non_null(p);
		assert_int_equal(pool_threads(p), threads[t]);
		for (int64_t items = 0; items < 40; items++)
			for (int64_t grain = 1; grain < 7; grain += 2)
				run_case(p, items, grain);
		run_case(p, 10007, pool_grain(p, 10007, 1));
		pool_destroy(p);
	}
}

/* Jobs in a row, jobs after the workers went to sleep, and none at all. */
static void sleepers_wake(void **state) {
	(void)state;
	struct error e = {0};
	struct pool *p = pool_create(4, &e);
	assert_non_null(p);
	for (int i = 0; i < 300; i++) {
		run_case(p, 16, 1);
		if (i % 30 == 0)
			nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
	}
	pool_destroy(p);
	p = pool_create(4, &e);
	assert_non_null(p);
	pool_destroy(p);
	pool_destroy(NULL);
}

/* Each of two items waits for the other: only two threads can finish them. */
static void meet(void *ctx, int64_t begin, int64_t end, int worker) {
	atomic_int *arrived = ctx;
	(void)worker;
	for (int64_t i = begin; i < end; i++) {
		atomic_fetch_add(arrived, 1);
		while (atomic_load(arrived) < 2)
			nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
	}
}

static void workers_take_part(void **state) {
	(void)state;
	struct error e = {0};
	struct pool *p = pool_create(2, &e);
	atomic_int arrived = 0;
	pool_run(p, 2, 1, meet, &arrived);
	assert_int_equal(atomic_load(&arrived), 2);
	pool_destroy(p);
}

static void settings_are_checked(void **state) {
	(void)state;
	struct error e = {0};
	assert_null(pool_create(-1, &e));
	assert_non_null(strstr(e.text, "threads -1"));
	struct pool *p = pool_create(0, &e);
	assert_true(p && pool_threads(p) >= 1);
	assert_int_equal(pool_grain(p, 1, 1), 1);
	assert_int_equal(pool_grain(p, 5, 100), 100);
	pool_destroy(p);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_item_is_done_once),
		cmocka_unit_test(sleepers_wake),
		cmocka_unit_test(workers_take_part),
		cmocka_unit_test(settings_are_checked),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
