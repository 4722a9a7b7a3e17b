/* SPDX-License-Identifier: Apache-2.0 */
/* Handlers under /v1/sessions: find the session, let session.h decide, say what
 * it said. */
#include <stdlib.h>
#include <string.h>
#include "server/api_parts.h"
#include "server/requests.h"
#include "server/wire.h"

#define LIST_MAX 100
#define LIST_PRESET 20

/* The session that the path names, referenced; NULL and *p. */
static struct session *find(struct call *c, struct problem *p) {
	return session_find(c->api->config.registry, c->id, p);
}

static int create(struct call *c, struct problem *p) {
	struct session_request q;
	if (requests_create(c->body, &q, p))
		return -1;
	if ((int)json_object_size(q.labels) > c->api->config.conf->labels_max)
		return problem_set(p, PROBLEM_INVALID_FIELD, "labels",
			"At most %d labels are kept.", c->api->config.conf->labels_max);
	struct session *s;
	if (session_create(c->api->config.registry, &q, &s, p))
		return -1;
	snprintf(c->res->location, sizeof c->res->location, "/v1/sessions/%s", session_id(s));
	json_t *answer = session_json(s);
	session_unref(s);
	return call_answer(c, answer);
}

int sessions_create(struct call *c, struct problem *p) {
	const char *key = c->req->idempotency_key;
	if (!key)
		return create(c, p);
	struct idempotency *kept = c->api->idempotency;
	json_t *before = NULL;
	switch (idempotency_begin(kept, key, c->req->body, c->req->body_bytes, wire_now_us(),
		&before, c->res->location, p)) {
	case IDEMPOTENCY_REFUSED:
		return -1;
	case IDEMPOTENCY_REPEAT:
		return call_answer(c, before);
	case IDEMPOTENCY_NEW:
		break;
	}
	int failed = create(c, p);
	idempotency_finish(kept, key, failed ? NULL : c->res->json, c->res->location);
	return failed;
}

static int list_limit(struct call *c, int *limit, struct problem *p) {
	char text[8], *end;
	*limit = LIST_PRESET;
	if (!call_query(c, "limit", text, sizeof text))
		return 0;
	long n = strtol(text, &end, 10);
	if (*end || end == text || n < 1 || n > LIST_MAX)
		return problem_set(p, PROBLEM_INVALID_FIELD, "limit",
			"limit must be a whole number from 1 to %d.", LIST_MAX);
	*limit = (int)n;
	return 0;
}

int sessions_list(struct call *c, struct problem *p) {
	char after[SESSION_ID_BYTES];
	int limit;
	if (list_limit(c, &limit, p))
		return -1;
	bool paged = call_query(c, "after", after, sizeof after);
	struct session *found[LIST_MAX + 1];
	int n = session_list(c->api->config.registry, paged ? after : NULL, limit + 1, found);
	json_t *items = json_array(), *next = json_null();
	for (int i = 0; i < n; i++) {
		if (i < limit)
			json_array_append_new(items, session_json(found[i]));
		if (i == limit)
			next = json_string(session_id(found[limit - 1]));
	}
	for (int i = 0; i < n; i++)
		session_unref(found[i]);
	return call_answer(c, json_pack("{s:o, s:o}", "sessions", items, "next", next));
}

int sessions_get(struct call *c, struct problem *p) {
	struct session *s = find(c, p);
	if (!s)
		return -1;
	json_t *state = session_json(s);
	session_unref(s);
	return call_answer(c, state);
}

int sessions_delete(struct call *c, struct problem *p) {
	struct session *s = find(c, p);
	if (!s)
		return -1;
	int failed = session_end(s, p);
	session_unref(s);
	return failed;
}

int sessions_act(struct call *c, struct problem *p) {
	struct session *s = find(c, p);
	if (!s)
		return -1;
	enum session_action action = (enum session_action)c->route->argument;
	uint64_t seed = (uint64_t)fields_integer(c->body, "seed", 0);
	bool seeded = json_object_get(c->body, "seed") != NULL;
	int64_t chunk = 0;
	int failed = session_act(s, action, seeded ? &seed : NULL, &chunk, p);
	session_unref(s);
	if (failed)
		return -1;
	json_t *answer = json_pack("{s:s, s:I}", "action", session_action_name(action),
		"applies_at_chunk", (json_int_t)chunk);
	const char *event_id = fields_text(c->body, "event_id");
	if (answer && event_id)
		json_object_set_new(answer, "event_id", json_string(event_id));
	return call_answer(c, answer);
}

int sessions_prompt_add(struct call *c, struct problem *p) {
	struct prompt_request q;
	if (requests_prompt(c->body, &q, p))
		return -1;
	struct session *s = find(c, p);
	if (!s)
		return -1;
	struct prompt_receipt receipt = {0};
	q.durable = true;
	int failed = session_prompt(s, &q, &receipt, p);
	session_unref(s);
	if (failed)
		return -1;
	json_t *answer = json_pack("{s:s, s:I, s:I, s:s}", "id", receipt.id, "revision",
		(json_int_t)receipt.revision, "applies_at_chunk",
		(json_int_t)receipt.applies_at_chunk, "state", "scheduled");
	if (answer && *receipt.event_id)
		json_object_set_new(answer, "event_id", json_string(receipt.event_id));
	return call_answer(c, answer);
}

int sessions_prompt_list(struct call *c, struct problem *p) {
	struct session *s = find(c, p);
	if (!s)
		return -1;
	json_t *prompts = session_prompts_json(s);
	session_unref(s);
	return call_answer(c, json_pack("{s:o}", "prompts", prompts));
}

int sessions_prompt_delete(struct call *c, struct problem *p) {
	struct session *s = find(c, p);
	if (!s)
		return -1;
	int failed = session_prompt_cancel(s, c->part, p);
	session_unref(s);
	return failed;
}

int sessions_stream(struct call *c, struct problem *p) {
	snprintf(c->res->websocket, sizeof c->res->websocket, "13");
	return problem_set(p, PROBLEM_UPGRADE_REQUIRED, "",
		"This resource is a WebSocket: connect with Upgrade: websocket and the subprotocol "
		"lightforced.v1, on a connection of its own.");
}
