/* SPDX-License-Identifier: Apache-2.0 */
/* The frame stream: one thread runs libwebsockets, owns every viewer and, per
 * session, the channel: the messages of the last seconds for late joiners and
 * resuming viewers. A slow viewer loses frames up to the next key frame; nobody
 * else notices. */
#ifndef SERVER_WS_H
#define SERVER_WS_H
#include "server/conf.h"
#include "server/metrics.h"
#include "server/session.h"
struct ws;
/* metrics may be NULL. The registry is given later, with ws_registry, since its outlet is this. */
struct ws *ws_create(const struct conf *c, struct metrics *m, struct error *e);
void ws_registry(struct ws *w, struct registry *r); /* before ws_run */
void ws_run(struct ws *w); /* body of the ws thread, until ws_stop */
void ws_stop(struct ws *w); /* any thread: closes viewers with 1001, then returns from ws_run */
void ws_destroy(struct ws *w);
/* A checked WebSocket upgrade whose head still waits unread in the socket. Any
 * thread; takes the descriptor. An unknown, expired or full session is upgraded
 * and then closed with 4404 / 4410 / 1013 and a reason: a browser cannot read a
 * refused upgrade. */
void ws_adopt(struct ws *w, int fd, const char *session_id, uint64_t since, bool has_since);
/* For struct outlet. Any thread; never blocks. */
void ws_publish(void *ws, struct session *s, struct packet *p);
void ws_finish(void *ws, struct session *s, int close_code, const char *reason);
int64_t ws_ticked_us(const struct ws *w); /* when the loop last turned; any thread */
#endif
