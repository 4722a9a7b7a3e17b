/* SPDX-License-Identifier: Apache-2.0 */
/* What ws.h hides, shared by the files named ws*. Thread: the ws thread, but for
 * what says otherwise. */
#ifndef SERVER_WS_PARTS_H
#define SERVER_WS_PARTS_H
#include <stdatomic.h>
#include "server/packet.h"
#include "server/queue.h"
#include "server/session.h"

#define REASON_BYTES 120 /* a close frame has room for 123 */

/* ws_inbox.c: what other threads tell the ws thread, in order. */
enum event_kind { EVENT_MESSAGE, EVENT_FINISH, EVENT_ADOPT };
struct event {
	enum event_kind kind;
	struct session *session; /* one reference; MESSAGE, FINISH */
	struct packet *packet; /* one reference; MESSAGE */
	int close_code; /* FINISH */
	char reason[REASON_BYTES]; /* FINISH */
	int fd; /* ADOPT */
	char session_id[SESSION_ID_BYTES]; /* ADOPT */
	bool has_since; /* ADOPT */
	uint64_t since;
};
struct inbox {
	struct queue *queue;
	atomic_bool overflowed; /* a message or the end of a session was lost */
};
bool inbox_init(struct inbox *b); /* false: no memory */
void inbox_finish(struct inbox *b);
/* Takes the contents of from, whatever happens. True: the ws thread is to be
 * woken. Any thread; never blocks. */
bool inbox_post(struct inbox *b, const struct event *from);
struct event *inbox_take(struct inbox *b); /* for event_drop; NULL: none waits */
void event_drop(void *event); /* with what it still holds; any thread */
void reason_copy(char out[REASON_BYTES], const char *text); /* cut to fit; any thread */
#endif
