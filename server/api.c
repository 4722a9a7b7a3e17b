/* SPDX-License-Identifier: Apache-2.0 */
/* See api.h. The table below is the API: dispatch, Allow headers, body checks
 * and /openapi.json all read it. To add an endpoint, add a row and a handler. */
#include "server/api.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include "server/api_parts.h"
#include "server/requests.h"
#include "server/wire.h"

#define IDEMPOTENCY_MAX 1024
#define IDEMPOTENCY_KEEP_US (24 * 3600 * INT64_C(1000000))

#define ACTION_ROW(name, action, fields_, summary_)                                                \
	{                                                                                          \
		"POST", "/v1/sessions/{id}/" name, sessions_act, &(fields_), false, 202, summary_, \
			action                                                                     \
	}

const struct route api_routes[] = {
	{"GET", "/healthz", about_health, NULL, false, 200, "Is the process alive", 0},
	{"GET", "/readyz", about_ready, NULL, false, 200, "Can sessions be made", 0},
	{"GET", "/metrics", about_metrics, NULL, false, 200, "Counters, Prometheus text", 0},
	{"GET", "/openapi.json", about_openapi, NULL, false, 200, "This description", 0},
	{"GET", "/asyncapi.json", about_asyncapi, NULL, false, 200, "Messages of the stream", 0},
	{"GET", "/v1/version", about_version, NULL, false, 200, "Name and version", 0},
	{"GET", "/v1/capabilities", about_capabilities, NULL, false, 200,
		"Limits, modes and geometry", 0},
	{"GET", "/v1/models", about_models, NULL, false, 200, "The loaded model", 0},
	{"GET", "/v1/status", about_status, NULL, false, 200, "What the daemon is doing", 0},
	{"POST", "/v1/sessions", sessions_create, &create_fields, true, 201, "Create a session", 0},
	{"GET", "/v1/sessions", sessions_list, NULL, false, 200, "Live sessions, newest first", 0},
	{"GET", "/v1/sessions/{id}", sessions_get, NULL, false, 200, "State of a session", 0},
	{"DELETE", "/v1/sessions/{id}", sessions_delete, NULL, false, 204, "End a session", 0},
	ACTION_ROW("start", ACTION_START, action_fields, "Start a manual session"),
	ACTION_ROW("pause", ACTION_PAUSE, action_fields, "Pause at the next chunk"),
	ACTION_ROW("resume", ACTION_RESUME, action_fields, "Go on"),
	ACTION_ROW("step", ACTION_STEP, action_fields, "Make one chunk while paused"),
	ACTION_ROW("reset", ACTION_RESET, reset_fields, "Begin a new film"),
	ACTION_ROW("keyframe", ACTION_KEYFRAME, action_fields, "Ask for a key frame"),
	{"POST", "/v1/sessions/{id}/prompts", sessions_prompt_add, &prompt_fields, true, 202,
		"Change the prompt", 0},
	{"GET", "/v1/sessions/{id}/prompts", sessions_prompt_list, NULL, false, 200,
		"Applied and pending prompts", 0},
	{"DELETE", "/v1/sessions/{id}/prompts/{prompt}", sessions_prompt_delete, NULL, false, 204,
		"Withdraw a pending prompt", 0},
	{"GET", "/v1/sessions/{id}/stream", sessions_stream, NULL, false, 101,
		"WebSocket, subprotocol " WIRE_SUBPROTOCOL, 0},
	{"GET", "/", page_index, NULL, false, 200, NULL, 0},
	{"GET", "/s/{id}", page_index, NULL, false, 200, NULL, 0},
	{"GET", "/static/*", page_file, NULL, false, 200, NULL, 0},
};
const size_t api_route_count = sizeof api_routes / sizeof *api_routes;

struct api *api_create(const struct api_config *config, struct error *e) {
	struct api *a = calloc(1, sizeof *a);
	if (!a) {
		error_set(e, -12, "out of memory");
		return NULL;
	}
	a->config = *config;
	a->started_us = wire_now_us();
	const char *root = config->conf->web_root;
	a->page_root = -1;
	if (root && *root && (a->page_root = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0) {
		error_set(e, -errno, "[server] web_root: %s: %s", root, strerror(errno));
		free(a);
		return NULL;
	}
	a->idempotency = idempotency_create(IDEMPOTENCY_MAX, IDEMPOTENCY_KEEP_US);
	a->openapi = docs_openapi();
	a->asyncapi = docs_asyncapi();
	if (!a->idempotency || !a->openapi || !a->asyncapi) {
		error_set(e, -12, "out of memory");
		api_destroy(a);
		return NULL;
	}
	return a;
}

void api_destroy(struct api *a) {
	if (!a)
		return;
	idempotency_destroy(a->idempotency);
	json_decref(a->openapi);
	json_decref(a->asyncapi);
	if (a->page_root >= 0)
		close(a->page_root);
	free(a);
}

void response_finish(struct response *res) {
	json_decref(res->json);
	free(res->text);
	if (res->fd >= 0)
		close(res->fd);
	*res = (struct response){.fd = -1};
}

void response_problem(struct response *res, struct problem *p, const char *instance) {
	res->status = problem_status(p->code);
	res->json = problem_json(p, instance);
	res->content_type = "application/problem+json";
	res->retry_after_s = p->retry_after_s;
	problem_clear(p);
}

static bool id_char(char c) {
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       c == '_' || c == '-';
}

/* Fills c->id and c->part from the path. */
static bool match(const char *pattern, const char *path, struct call *c) {
	char *place[] = {c->id, c->part};
	size_t room[] = {sizeof c->id, sizeof c->part};
	int used = 0;
	for (; *pattern; pattern++) {
		if (*pattern == '*') {
			if (strlen(path) >= sizeof c->part)
				return false;
			strcpy(c->part, path);
			return true;
		}
		if (*pattern != '{') {
			if (*pattern != *path++)
				return false;
			continue;
		}
		size_t n = 0;
		while (id_char(path[n]))
			n++;
		if (!n || n >= room[used])
			return false;
		memcpy(place[used], path, n);
		place[used++][n] = 0;
		path += n;
		pattern = strchr(pattern, '}');
	}
	return !*path;
}

static const struct route *find_route(struct call *c, struct problem *p) {
	const char *method = strcmp(c->req->method, "HEAD") ? c->req->method : "GET";
	char *allow = c->res->allow;
	for (size_t i = 0; i < api_route_count; i++) {
		const struct route *r = &api_routes[i];
		if (!match(r->pattern, c->req->path, c))
			continue;
		if (!strcmp(r->method, method)) {
			*allow = 0;
			return r;
		}
		size_t used = strlen(allow);
		const char *with_head = !strcmp(r->method, "GET") ? ", HEAD" : "";
		snprintf(allow + used, sizeof c->res->allow - used, "%s%s%s", used ? ", " : "",
			r->method, with_head);
	}
	if (*allow)
		problem_set(p, PROBLEM_METHOD_NOT_ALLOWED, "", "This resource takes %s.", allow);
	else
		problem_set(p, PROBLEM_NOT_FOUND, "", "There is nothing at this path.");
	return NULL;
}

static bool is_json_type(const char *type) {
	if (!type)
		return false;
	size_t n = strcspn(type, "; \t");
	return n == strlen("application/json") && !strncasecmp(type, "application/json", n);
}

/* New reference, or NULL: none sent (no problem) or *p. */
static json_t *read_body(const struct call *c, struct problem *p) {
	const struct request *req = c->req;
	if (!req->body_bytes) {
		if (c->route->body_required)
			problem_set(p, PROBLEM_INVALID_JSON, "",
				"The request has no body; send a JSON object.");
		return NULL;
	}
	if (!c->route->body) {
		problem_set(p, PROBLEM_BAD_REQUEST, "", "This request takes no body.");
		return NULL;
	}
	if (!is_json_type(req->content_type)) {
		problem_set(p, PROBLEM_UNSUPPORTED_MEDIA_TYPE, "",
			"Send the body as Content-Type: application/json.");
		return NULL;
	}
	json_t *body = fields_read(req->body, req->body_bytes, p);
	if (body && fields_check(body, c->route->body, p)) {
		json_decref(body);
		return NULL;
	}
	return body;
}

void api_dispatch(struct api *a, const struct request *req, struct response *res) {
	struct problem p = {0};
	struct call c = {.api = a, .req = req, .res = res};
	*res = (struct response){.fd = -1};
	c.route = find_route(&c, &p);
	if (c.route) {
		res->status = c.route->success;
		json_t *body = read_body(&c, &p);
		c.body = body;
		if (p.code == PROBLEM_NONE && c.route->handler(&c, &p))
			problem_set(&p, PROBLEM_INTERNAL, "", "Out of memory.");
		json_decref(body);
	}
	if (p.code != PROBLEM_NONE)
		response_problem(res, &p, req->path);
	else if (res->json && !res->content_type)
		res->content_type = "application/json";
}

bool call_query(const struct call *c, const char *name, char *out, size_t out_bytes) {
	size_t name_bytes = strlen(name);
	for (const char *at = c->req->query; at && *at;) {
		size_t n = strcspn(at, "&");
		if (n > name_bytes && !memcmp(at, name, name_bytes) && at[name_bytes] == '=') {
			size_t size = n - name_bytes - 1;
			if (size >= out_bytes)
				size = out_bytes - 1;
			memcpy(out, at + name_bytes + 1, size);
			out[size] = 0;
			return true;
		}
		at += n + (at[n] == '&');
	}
	return false;
}

int call_answer(struct call *c, json_t *json) {
	c->res->json = json;
	return json ? 0 : -1;
}
