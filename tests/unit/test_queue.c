/* SPDX-License-Identifier: Apache-2.0 */
/* Queue and packet: bounds, order, closing, counts under two threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>

#include "server/packet.h"
#include "server/queue.h"

enum { ITEMS = 20000 };

static int dropped;

static void drop(void *item) {
	(void)item;
	dropped++;
}

static void a_full_queue_refuses(void **state) {
	(void)state;
	int item[4] = {0};
	struct queue *q = queue_create(3, drop);
	assert_null(queue_pop(q, 0));
	for (int i = 0; i < 3; i++)
		assert_true(queue_push(q, &item[i]));
	assert_false(queue_push(q, &item[3]));
	assert_int_equal(queue_length(q), 3);
	assert_ptr_equal(queue_pop(q, 0), &item[0]);
	assert_true(queue_push(q, &item[3]));
	for (int i = 1; i < 4; i++)
		assert_ptr_equal(queue_pop(q, -1), &item[i]);
	queue_destroy(q);
	queue_destroy(NULL);
	assert_int_equal(dropped, 0);
}

static void a_closed_queue_empties_and_ends(void **state) {
	(void)state;
	int item[3] = {0};
	struct queue *q = queue_create(3, drop);
	for (int i = 0; i < 2; i++)
		queue_push(q, &item[i]);
	assert_false(queue_closed(q));
	queue_close(q);
	assert_true(queue_closed(q));
	assert_false(queue_push(q, &item[2]));
	assert_ptr_equal(queue_pop(q, -1), &item[0]);
	dropped = 0;
	queue_destroy(q);
	assert_int_equal(dropped, 1);
}

static void *write_all(void *arg) {
	for (uintptr_t i = 1; i <= ITEMS; i++) {
		while (!queue_push(arg, (void *)i))
			sched_yield();
	}
	queue_close(arg);
	return NULL;
}

static void order_holds_between_threads(void **state) {
	(void)state;
	struct queue *q = queue_create(7, NULL);
	pthread_t t;
	assert_int_equal(pthread_create(&t, NULL, write_all, q), 0);
	uintptr_t last = 0;
	for (void *item; (item = queue_pop(q, -1)); last++)
		assert_int_equal((uintptr_t)item, last + 1);
	assert_int_equal(last, ITEMS);
	pthread_join(t, NULL);
	queue_destroy(q);
}

static void *use_packet(void *arg) {
	for (int i = 0; i < ITEMS; i++)
		packet_unref(packet_ref(arg));
	packet_unref(arg);
	return NULL;
}

/* The last reference frees; the sanitizers see a miscount. */
static void packets_are_counted(void **state) {
	(void)state;
	struct packet *p = packet_text("{}");
	assert_int_equal(p->kind, PACKET_TEXT);
	assert_int_equal(p->size, 2);
	assert_memory_equal(p->data, "{}", 2);
	memset(p->data - PACKET_HEADROOM, 0xff, PACKET_HEADROOM);
	assert_int_equal(p->size, 2);
	pthread_t t;
	packet_ref(p);
	assert_int_equal(pthread_create(&t, NULL, use_packet, p), 0);
	use_packet(p);
	pthread_join(t, NULL);
	packet_unref(NULL);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_full_queue_refuses),
		cmocka_unit_test(a_closed_queue_empties_and_ends),
		cmocka_unit_test(order_holds_between_threads),
		cmocka_unit_test(packets_are_counted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
