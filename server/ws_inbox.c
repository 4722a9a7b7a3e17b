/* SPDX-License-Identifier: Apache-2.0 */
/* How other threads reach the ws thread: a bounded queue of events. When it is
 * full an event is lost, never waited for. Thread: inbox_post's is any, the rest
 * is the ws thread's. */
#include "server/ws_parts.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INBOX_ITEMS 8192

/* Reasons are our own ASCII sentences: cutting is safe. */
void reason_copy(char out[REASON_BYTES], const char *text) {
	size_t n = strnlen(text, REASON_BYTES - 1);
	memcpy(out, text, n);
	out[n] = 0;
}

static void let_go(const struct event *ev) {
	packet_unref(ev->packet);
	if (ev->session)
		session_unref(ev->session);
	if (ev->kind == EVENT_ADOPT && ev->fd >= 0)
		close(ev->fd);
}

void event_drop(void *item) {
	struct event *ev = item;
	let_go(ev);
	free(ev);
}

bool inbox_init(struct inbox *b) {
	b->queue = queue_create(INBOX_ITEMS, event_drop);
	return b->queue != NULL;
}

void inbox_finish(struct inbox *b) {
	queue_destroy(b->queue);
}

bool inbox_post(struct inbox *b, const struct event *from) {
	struct event *ev = malloc(sizeof *ev);
	if (ev) {
		*ev = *from;
		if (queue_push(b->queue, ev))
			return true;
	}
	if (from->kind != EVENT_ADOPT)
		atomic_store(&b->overflowed, true);
	free(ev);
	let_go(from);
	return false;
}

struct event *inbox_take(struct inbox *b) {
	return queue_pop(b->queue, 0);
}
