/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon answers over HTTP: one table of routes, JSON in, JSON out.
 * No sockets and no HTTP library here, so a test calls api_dispatch as
 * server/http.c does. Parsers, allowed fields and /openapi.json come from the
 * same tables. Thread: any; api_dispatch may run on several at once. */
#ifndef SERVER_API_H
#define SERVER_API_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "server/conf.h"
#include "server/metrics.h"
#include "server/problem.h"
#include "server/session.h"

/* One request, its head already checked by server/head.c. Strings are borrowed,
 * NULL when the header is absent. */
struct request {
	const char *method;
	const char *path; /* as sent: not percent-decoded, without the query */
	const char *query; /* behind '?', or NULL */
	const char *body; /* NULL when there is none */
	size_t body_bytes;
	const char *content_type, *accept, *idempotency_key, *if_none_match;
};
/* One answer: json, text or fd, whichever is set. Empty it with response_finish. */
struct response {
	int status;
	json_t *json; /* owned */
	const char *content_type; /* static string */
	char *text; /* owned */
	size_t text_bytes;
	int fd; /* owned; -1: none. A file of the page, fd_bytes long */
	size_t fd_bytes;
	bool page; /* gets the page's Content-Security-Policy */
	bool cacheable; /* else Cache-Control: no-store */
	int retry_after_s; /* > 0: Retry-After */
	char location[80], etag[48], allow[64];
	char websocket[8]; /* Upgrade and Sec-WebSocket-Version of a 426 */
};
void response_finish(struct response *res);
/* Turns a problem into the answer; clears p. instance: the path, or NULL. */
void response_problem(struct response *res, struct problem *p, const char *instance);

struct api;
struct api_config {
	const struct conf *conf; /* borrowed, as is all below */
	struct registry *registry;
	struct metrics *metrics;
	/* Members to add to /healthz, such as {"last_step_age_ms": 12}; must not
	 * wait for the engine. New reference, or NULL. May itself be NULL. */
	json_t *(*health)(void *ctx);
	void *health_ctx;
};
struct api *api_create(const struct api_config *c, struct error *e);
void api_destroy(struct api *a);
/* Finds the route and runs its handler; fills *res whatever happens. */
void api_dispatch(struct api *a, const struct request *req, struct response *res);
/* What this daemon and its model can do; the same in hello and at
 * /v1/capabilities. New reference. */
json_t *api_capabilities(const struct conf *c, struct registry *r);
#endif
