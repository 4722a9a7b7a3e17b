/* SPDX-License-Identifier: Apache-2.0 */
/* /openapi.json and /asyncapi.json, made from the tables that the parsers use:
 * routes and their body fields, the types of client messages. What the server
 * says over the socket is listed below. */
#include <stdio.h>
#include <string.h>
#include "config.h"
#include "server/api_parts.h"
#include "server/control.h"

static const struct {
	const char *name, *summary;
} server_messages[] = {
	{"hello", "First message: protocol, role, server, capabilities, state with prompts, "
		  "resumed, first_seq"},
	{"video.config", "epoch, codec, width, height, fps_num, fps_den, color; before the first "
			 "frame and at each change"},
	{"session.state", "state, reason, chunk, seed, problem"},
	{"session.viewers", "viewers, controllers; at most once a second"},
	{"chunk.begin", "chunk, prompt_revision, frames"},
	{"chunk.end", "as chunk.begin, with timings and bytes"},
	{"prompt.accepted", "event_id, id, revision, text, transition, applies_at_chunk"},
	{"prompt.applied", "event_id, id, revision, chunk, seq, pts_us"},
	{"prompt.cancelled", "event_id, id: it was withdrawn before its chunk"},
	{"prompt.superseded", "event_id, id: another prompt took its chunk"},
	{"prompt.rejected", "event_id, code, message, field, retryable"},
	{"control.accepted", "action, applies_at_chunk, event_id"},
	{"subscribed", "topics"},
	{"viewer.lag", "dropped_frames, from_seq, to_seq, reason"},
	{"viewer.stats", "topic viewer.stats, once a second: queued_messages, queued_bytes, "
			 "sent_frames, sent_bytes, dropped_frames"},
	{"notice", "code, text"},
	{"error", "code, message, retryable, event_id, field"},
	{"pong", "id; ts_us is the server's clock"},
};

static json_t *path_parameters(const char *pattern) {
	json_t *list = json_array();
	for (const char *at = strchr(pattern, '{'); at; at = strchr(at + 1, '{')) {
		size_t n = strcspn(at, "}") - 1;
		json_array_append_new(
			list, json_pack("{s:s#, s:s, s:b, s:{s:s}}", "name", at + 1, (int)n, "in",
				      "path", "required", 1, "schema", "type", "string"));
	}
	return list;
}

static json_t *operation(const struct route *r) {
	char status[8];
	snprintf(status, sizeof status, "%d", r->success);
	json_t *op = json_pack("{s:s, s:{s:{s:s}, s:{s:s}}}", "summary", r->summary, "responses",
		status, "description", r->summary, "default", "$ref",
		"#/components/responses/Problem");
	json_t *parameters = path_parameters(r->pattern);
	if (json_array_size(parameters))
		json_object_set(op, "parameters", parameters);
	json_decref(parameters);
	if (r->body)
		json_object_set_new(op, "requestBody",
			json_pack("{s:b, s:{s:{s:o}}}", "required", r->body_required, "content",
				"application/json", "schema", fields_schema(r->body)));
	return op;
}

static json_t *problem_schema(void) {
	json_t *codes = json_array();
	for (int i = PROBLEM_NONE + 1; i < PROBLEM_COUNT; i++)
		json_array_append_new(codes, json_string(problem_name((enum problem_code)i)));
	return json_pack("{s:s, s:{s:{s:s}, s:{s:s}, s:{s:s}, s:{s:s, s:o}, s:{s:s}, s:{s:s}, "
			 "s:{s:s}, s:{s:s}}}",
		"type", "object", "properties", "type", "type", "string", "title", "type", "string",
		"status", "type", "integer", "code", "type", "string", "enum", codes, "detail",
		"type", "string", "instance", "type", "string", "field", "type", "string",
		"retryable", "type", "boolean");
}

json_t *docs_openapi(void) {
	json_t *paths = json_object();
	for (size_t i = 0; i < api_route_count; i++) {
		const struct route *r = &api_routes[i];
		if (!r->summary)
			continue;
		json_t *path = json_object_get(paths, r->pattern);
		if (!path) {
			path = json_object();
			json_object_set_new(paths, r->pattern, path);
		}
		const char *verb = !strcmp(r->method, "GET")    ? "get"
				   : !strcmp(r->method, "POST") ? "post"
								: "delete";
		json_object_set_new(path, verb, operation(r));
	}
	return json_pack("{s:s, s:{s:s, s:s}, s:o, s:{s:{s:{s:s, s:{s:{s:{s:s}}}}}, s:{s:o}}}",
		"openapi", "3.1.0", "info", "title", "lightforced", "version", VERSION, "paths",
		paths, "components", "responses", "Problem", "description", "Refused; RFC 9457",
		"content", "application/problem+json", "schema", "$ref",
		"#/components/schemas/Problem", "schemas", "Problem", problem_schema());
}

static void add_message(json_t *messages, json_t *list, const char *name, json_t *payload) {
	char ref[96];
	snprintf(ref, sizeof ref, "#/components/messages/%s", name);
	json_object_set_new(
		messages, name, json_pack("{s:s, s:o}", "name", name, "payload", payload));
	json_array_append_new(list, json_pack("{s:s}", "$ref", ref));
}

json_t *docs_asyncapi(void) {
	json_t *messages = json_object(), *from_client = json_array(), *from_server = json_array();
	for (size_t i = 0; i < control_type_count; i++) {
		const struct control_type *t = &control_types[i];
		json_t *schema = fields_schema(t->fields);
		json_object_set_new(json_object_get(schema, "properties"), "type",
			json_pack("{s:s}", "const", t->name));
		json_object_set_new(schema, "description", json_string(t->summary));
		add_message(messages, from_client, t->name, schema);
	}
	for (size_t i = 0; i < sizeof server_messages / sizeof *server_messages; i++)
		add_message(messages, from_server, server_messages[i].name,
			json_pack("{s:s, s:{s:{s:s}}, s:s}", "type", "object", "properties", "type",
				"const", server_messages[i].name, "description",
				server_messages[i].summary));
	add_message(messages, from_server, "frame",
		json_pack("{s:s, s:s}", "type", "string", "description",
			"Binary: 48 bytes of header, big-endian, then one VP9 frame; see "
			"docs/PROTOCOL.md"));
	return json_pack("{s:s, s:{s:s, s:s}, s:{s:{s:{s:{s:o}}, s:{s:{s:o}}}}, s:{s:o}}",
		"asyncapi", "2.6.0", "info", "title", "lightforced stream", "version", VERSION,
		"channels", "/v1/sessions/{id}/stream", "publish", "message", "oneOf", from_client,
		"subscribe", "message", "oneOf", from_server, "components", "messages", messages);
}
