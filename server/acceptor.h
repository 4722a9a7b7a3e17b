/* SPDX-License-Identifier: Apache-2.0 */
/* The one port. Accepts, looks at the request head without taking it out of the
 * socket (MSG_PEEK), checks everything that can be checked before a session is
 * looked up, answers refusals itself, and hands the socket to http.c or, for a
 * WebSocket upgrade, to ws.c. Thread: acceptor_run owns it all; create, stop,
 * port and ticked may be called from main. */
#ifndef SERVER_ACCEPTOR_H
#define SERVER_ACCEPTOR_H
#include <stdint.h>
#include "server/conf.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/ws.h"
struct acceptor;
/* Opens the port (conf->listen, "ADDR:PORT", "[V6]:PORT"; port 0: any free one). */
struct acceptor *acceptor_create(
	const struct conf *c, struct http *h, struct ws *w, struct metrics *m, struct error *e);
void acceptor_destroy(struct acceptor *a); /* after acceptor_run returned; NULL is fine */
void acceptor_run(struct acceptor *a); /* body of the thread, until acceptor_stop */
void acceptor_stop(struct acceptor *a); /* any thread: closes the port, ends acceptor_run */
int acceptor_port(const struct acceptor *a); /* the port really open */
int64_t acceptor_ticked_us(const struct acceptor *a); /* when the loop last turned; any thread */
#endif
