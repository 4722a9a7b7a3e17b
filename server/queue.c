/* SPDX-License-Identifier: Apache-2.0 */
/* The bounded queue: a ring under one mutex with one condition for the reader.
 * Writers never wait: a full queue is their answer. Thread: any. */
#include "server/queue.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

struct queue {
	pthread_mutex_t lock;
	pthread_cond_t filled;
	void (*drop)(void *item);
	bool closed;
	int capacity, first, length;
	void *item[];
};

struct queue *queue_create(int capacity, void (*drop)(void *item)) {
	struct queue *q = calloc(1, sizeof *q + (size_t)capacity * sizeof q->item[0]);
	if (!q)
		return NULL;
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&q->filled, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_mutex_init(&q->lock, NULL);
	q->capacity = capacity;
	q->drop = drop;
	return q;
}

static void *take(struct queue *q) {
	if (q->length == 0)
		return NULL;
	void *item = q->item[q->first];
	q->first = (q->first + 1) % q->capacity;
	q->length--;
	return item;
}

void queue_destroy(struct queue *q) {
	if (!q)
		return;
	for (void *item; (item = take(q));) {
		if (q->drop)
			q->drop(item);
	}
	pthread_cond_destroy(&q->filled);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

bool queue_push(struct queue *q, void *item) {
	pthread_mutex_lock(&q->lock);
	bool room = !q->closed && q->length < q->capacity;
	if (room) {
		q->item[(q->first + q->length++) % q->capacity] = item;
		pthread_cond_signal(&q->filled);
	}
	pthread_mutex_unlock(&q->lock);
	return room;
}

void *queue_pop(struct queue *q, int timeout_ms) {
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	int64_t ns = until.tv_nsec + (int64_t)(timeout_ms < 0 ? 0 : timeout_ms) * 1000000;
	until.tv_sec += ns / 1000000000;
	until.tv_nsec = ns % 1000000000;
	pthread_mutex_lock(&q->lock);
	int rc = 0;
	while (q->length == 0 && !q->closed && rc != ETIMEDOUT)
		rc = timeout_ms < 0 ? pthread_cond_wait(&q->filled, &q->lock)
				    : pthread_cond_timedwait(&q->filled, &q->lock, &until);
	void *item = take(q);
	pthread_mutex_unlock(&q->lock);
	return item;
}

void queue_close(struct queue *q) {
	pthread_mutex_lock(&q->lock);
	q->closed = true;
	pthread_cond_broadcast(&q->filled);
	pthread_mutex_unlock(&q->lock);
}

bool queue_closed(struct queue *q) {
	pthread_mutex_lock(&q->lock);
	bool closed = q->closed;
	pthread_mutex_unlock(&q->lock);
	return closed;
}

int queue_length(struct queue *q) {
	pthread_mutex_lock(&q->lock);
	int n = q->length;
	pthread_mutex_unlock(&q->lock);
	return n;
}
