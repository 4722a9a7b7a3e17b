/* SPDX-License-Identifier: Apache-2.0 */
/* The picture pool: bounds, layout, life after its owner. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>

#include "engine/frames.h"

enum { WIDTH = 6, HEIGHT = 4, COUNT = 3 };

static void note_release(void *ctx, void *memory) {
	*(void **)ctx = memory;
}

static void planes_follow_each_other_and_the_pool_ends(void **state) {
	(void)state;
	struct error e = {0};
	struct frame_pool *p = frame_pool_create(COUNT, WIDTH, HEIGHT, NULL, NULL, NULL, &e);
	assert_non_null(p);
	struct frame *f[COUNT];
	for (int i = 0; i < COUNT; i++) {
		assert_int_equal(frame_pool_available(p), COUNT - i);
		f[i] = frame_pool_take(p);
		assert_non_null(f[i]);
		assert_ptr_equal(f[i]->plane[0], frame_pool_pixels(f[i]));
		assert_int_equal(f[i]->plane[1] - f[i]->plane[0], WIDTH * HEIGHT);
		assert_int_equal(f[i]->plane[2] - f[i]->plane[1], WIDTH * HEIGHT / 4);
		assert_int_equal(f[i]->stride[0], WIDTH);
		assert_int_equal(f[i]->stride[1], WIDTH / 2);
		assert_int_equal(f[i]->stride[2], WIDTH / 2);
	}
	assert_null(frame_pool_take(p));
	assert_true(frame_pool_pixels(f[1]) - frame_pool_pixels(f[0]) ==
		    (ptrdiff_t)frame_pool_picture_bytes(WIDTH, HEIGHT));
	f[1]->index = 7;
	frame_release(f[1]);
	struct frame *again = frame_pool_take(p);
	assert_ptr_equal(again, f[1]);
	assert_int_equal(again->index, 0); /* a taken picture carries nothing over */
	for (int i = 0; i < COUNT; i++)
		frame_release(f[i]);
	frame_release(NULL);
	frame_pool_disown(p);
	frame_pool_disown(NULL);
}

static void *release_elsewhere(void *f) {
	frame_release(f);
	return NULL;
}

static void the_last_picture_frees_the_pool(void **state) {
	(void)state;
	static uint8_t memory[COUNT * WIDTH * HEIGHT * 3 / 2];
	void *released = NULL;
	struct frame_pool *p =
		frame_pool_create(COUNT, WIDTH, HEIGHT, memory, note_release, &released, NULL);
	assert_non_null(p);
	struct frame *a = frame_pool_take(p), *b = frame_pool_take(p);
	frame_pool_disown(p);
	assert_null(released);
	frame_release(a);
	assert_null(released);
	frame_pool_pixels(b)[0] = 1; /* still ours */
	pthread_t t;
	assert_int_equal(pthread_create(&t, NULL, release_elsewhere, b), 0);
	pthread_join(t, NULL);
	assert_ptr_equal(released, memory);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(planes_follow_each_other_and_the_pool_ends),
		cmocka_unit_test(the_last_picture_frees_the_pool),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
