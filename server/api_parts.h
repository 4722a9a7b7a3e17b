/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the API share: the route table and its handlers. Only
 * server/api*.c and server/page.c include this. */
#ifndef SERVER_API_PARTS_H
#define SERVER_API_PARTS_H
#include "server/api.h"
#include "server/fields.h"
struct idempotency;
struct api {
	struct api_config config;
	struct idempotency *idempotency;
	int page_root; /* descriptor of the page's folder; -1: none */
	int64_t started_us;
	json_t *openapi, *asyncapi;
};
/* One call: the request, what the path named, where the answer goes. */
struct call {
	struct api *api;
	const struct request *req;
	struct response *res;
	const struct route *route;
	char id[SESSION_ID_BYTES]; /* first {..} of the pattern */
	char part[96]; /* second {..}, or what '*' stands for */
	const json_t *body; /* checked against route->body; NULL: none sent */
};
struct route {
	const char *method;
	/* Segments; {name} is one segment of [A-Za-z0-9_-], a last '*' any rest. */
	const char *pattern;
	/* 0, or -1 and *p. */
	int (*handler)(struct call *c, struct problem *p);
	const struct fields *body; /* NULL: takes none */
	bool body_required;
	int success; /* status of the usual answer */
	const char *summary; /* NULL: not part of the documented API */
	int argument; /* for handlers that serve several rows */
};
extern const struct route api_routes[];
extern const size_t api_route_count;

int about_health(struct call *c, struct problem *p);
int about_ready(struct call *c, struct problem *p);
int about_metrics(struct call *c, struct problem *p);
int about_version(struct call *c, struct problem *p);
int about_capabilities(struct call *c, struct problem *p);
int about_models(struct call *c, struct problem *p);
int about_status(struct call *c, struct problem *p);
int about_openapi(struct call *c, struct problem *p);
int about_asyncapi(struct call *c, struct problem *p);

int sessions_create(struct call *c, struct problem *p);
int sessions_list(struct call *c, struct problem *p);
int sessions_get(struct call *c, struct problem *p);
int sessions_delete(struct call *c, struct problem *p);
int sessions_act(struct call *c, struct problem *p); /* argument: enum session_action */
int sessions_prompt_add(struct call *c, struct problem *p);
int sessions_prompt_list(struct call *c, struct problem *p);
int sessions_prompt_delete(struct call *c, struct problem *p);
int sessions_stream(struct call *c, struct problem *p); /* no upgrade was asked for: 426 */

int page_index(struct call *c, struct problem *p);
int page_file(struct call *c, struct problem *p);

json_t *docs_openapi(void); /* new reference */
json_t *docs_asyncapi(void); /* new reference */

/* Value of name in a query string, percent-decoding refused; false: absent. */
bool call_query(const struct call *c, const char *name, char *out, size_t out_bytes);
int call_answer(struct call *c, json_t *json); /* takes json; 0, or internal error */

/* Answers to POST /v1/sessions kept by Idempotency-Key, so that a repeated
 * request does not create twice. Bounded in number and age. Any thread. */
struct idempotency *idempotency_create(int max, int64_t keep_us);
void idempotency_destroy(struct idempotency *s);
enum idempotency_result { IDEMPOTENCY_NEW, IDEMPOTENCY_REPEAT, IDEMPOTENCY_REFUSED };
/* NEW: go on, then call idempotency_finish. REPEAT: *answer (new reference) and
 * location hold what was said. REFUSED: *p (another body, or still at work). */
enum idempotency_result idempotency_begin(struct idempotency *s, const char *key, const char *body,
	size_t body_bytes, int64_t now_us, json_t **answer, char location[80], struct problem *p);
/* answer NULL: the request failed and may be tried again. */
void idempotency_finish(
	struct idempotency *s, const char *key, json_t *answer, const char *location);
#endif
