/* SPDX-License-Identifier: Apache-2.0 */
/* What ws.h hides, shared by the files named ws*. Thread: the ws thread, but for
 * what says otherwise. */
#ifndef SERVER_WS_PARTS_H
#define SERVER_WS_PARTS_H
#include <stdatomic.h>
#include "server/channel.h"
#include "server/control.h"
#include "server/metrics.h"
#include "server/packet.h"
#include "server/queue.h"
#include "server/session.h"
#include "server/viewer.h"

struct lws;

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

/* What is kept of one session's messages, and its viewers. */
struct stream {
	struct stream *next;
	struct session *session; /* one reference */
	struct channel channel;
	struct peer *peers;
	int peer_count;
	int told_count; /* of the last session.viewers */
	int64_t told_us;
};
struct streams {
	const struct conf *conf;
	struct registry *registry;
	struct metrics *metrics; /* or NULL */
	struct viewer_limits limits;
	struct stream *first;
	int peer_count; /* the refused, too, until they are gone */
	int64_t stats_us; /* of the last viewer.stats */
};
/* One socket; its memory is the library's, zeroed. */
struct peer {
	struct peer *next;
	struct streams *streams; /* NULL: the handshake is not done */
	struct lws *wsi;
	struct stream *stream; /* NULL: refused, to be closed */
	char session_id[SESSION_ID_BYTES]; /* outlives the stream */
	struct viewer viewer;
	struct control_peer control;
	char *text; /* message being received */
	size_t text_bytes;
	int close_code; /* 0: stays open */
	bool close_now; /* without sending what waits */
	char reason[REASON_BYTES];
};

/* ws_stream.c */
void streams_init(struct streams *all, const struct conf *c, struct metrics *m);
void streams_finish(struct streams *all); /* when no peer is left */
/* Keeps the message for newcomers and pushes it to who watches. */
void streams_publish(struct streams *all, struct session *s, struct packet *p);
/* The session is over: its viewers are closed once they were sent all. */
void streams_end(struct streams *all, struct session *s, int code, const char *reason);
void streams_end_all(struct streams *all, int code, const char *reason);
/* Lets it watch the session, from behind *since when not NULL, or closes it. */
void streams_admit(struct peer *x, const char *session_id, const uint64_t *since);
/* Several times a second. ends_lost: what streams_end should have been told may
 * not have come. */
void streams_tend(struct streams *all, bool ends_lost, int64_t now_us);
void stream_leave(struct peer *x);
void stream_catch_up(struct peer *x); /* frames again, for one that wanted none */

/* ws_peer.c */
void peer_arrive(struct peer *x, struct streams *all, struct lws *wsi); /* the handshake is done */
void peer_begin(struct peer *x); /* it has a stream now */
void peer_part(struct peer *x); /* its socket is gone */
/* Unless it is being closed already. now: without sending what waits. */
void peer_close(struct peer *x, int code, bool now, const char *reason);
void peer_push(struct peer *x, struct packet *p, bool replayed); /* p may be NULL */
void peer_give(struct peer *x, struct packet *p); /* pushes and gives up the reference */
void peer_hear(struct peer *x, const char *text, size_t size); /* one whole message */
void peer_tend(struct peer *x, bool stats, int64_t now_us);

/* ws.c: what needs the socket. */
void ws_ask_to_write(struct peer *x);
void ws_bound_close(struct peer *x); /* it is dropped if it does not go by itself soon */
#endif
