/* SPDX-License-Identifier: Apache-2.0 */
/* Bounded FIFO of pointers between two threads: mutex, condition, ring. With
 * packet references and atomics the only way data crosses threads. */
#ifndef SERVER_QUEUE_H
#define SERVER_QUEUE_H
#include <stdbool.h>
struct queue;
struct queue *queue_create(int capacity, void (*drop)(void *item)); /* NULL: no memory */
void queue_destroy(struct queue *q); /* drops what is left; NULL is fine */
bool queue_push(struct queue *q, void *item); /* false: full or closed; caller keeps item */
void *queue_pop(
	struct queue *q, int timeout_ms); /* -1: for ever; NULL: timeout, or closed and empty */
void queue_close(struct queue *q); /* wakes both ends */
bool queue_closed(struct queue *q);
int queue_length(struct queue *q);
#endif
