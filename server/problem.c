/* SPDX-License-Identifier: Apache-2.0 */
/* The table of everything that can be refused, and its JSON. Thread: any. */
#include "server/problem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *name;
	int status;
	bool retryable;
	const char *title;
} problems[PROBLEM_COUNT] = {
	[PROBLEM_NONE] = {"none", 200, false, "No problem"},
	[PROBLEM_INVALID_JSON] = {"invalid_json", 400, false, "Body is not the JSON expected"},
	[PROBLEM_BAD_REQUEST] = {"bad_request", 400, false, "Malformed request"},
	[PROBLEM_BAD_SUBPROTOCOL] = {"bad_subprotocol", 400, false, "Unknown subprotocol"},
	[PROBLEM_UNAUTHORIZED] = {"unauthorized", 401, false, "Not authorized"},
	[PROBLEM_FORBIDDEN_ROLE] = {"forbidden_role", 403, false, "Not allowed in this role"},
	[PROBLEM_FORBIDDEN_ORIGIN] = {"forbidden_origin", 403, false, "Origin not allowed"},
	[PROBLEM_NOT_FOUND] = {"not_found", 404, false, "Not found"},
	[PROBLEM_METHOD_NOT_ALLOWED] = {"method_not_allowed", 405, false, "Method not allowed"},
	[PROBLEM_REQUEST_TIMEOUT] = {"request_timeout", 408, true, "Request took too long"},
	[PROBLEM_CHUNK_IN_PAST] = {"chunk_in_past", 409, true, "Chunk already begun"},
	[PROBLEM_WRONG_STATE] = {"wrong_state", 409, false, "Not possible in this state"},
	[PROBLEM_PROMPT_ALREADY_APPLIED] = {"prompt_already_applied", 409, false,
		"Prompt already applied"},
	[PROBLEM_GONE] = {"gone", 410, false, "Gone"},
	[PROBLEM_PRECONDITION_FAILED] = {"precondition_failed", 412, false, "Precondition failed"},
	[PROBLEM_BODY_TOO_LARGE] = {"body_too_large", 413, false, "Body too large"},
	[PROBLEM_UNSUPPORTED_MEDIA_TYPE] = {"unsupported_media_type", 415, false,
		"Unsupported media type"},
	[PROBLEM_HOST_NOT_ALLOWED] = {"host_not_allowed", 421, false, "Host not allowed"},
	[PROBLEM_INVALID_FIELD] = {"invalid_field", 422, false, "Field has a wrong value"},
	[PROBLEM_MISSING_FIELD] = {"missing_field", 422, false, "Field is missing"},
	[PROBLEM_UNSUPPORTED_FIELD] = {"unsupported_field", 422, false, "Field is not supported"},
	[PROBLEM_PROMPT_EMPTY] = {"prompt_empty", 422, false, "Prompt is empty"},
	[PROBLEM_PROMPT_TOO_LONG] = {"prompt_too_long", 422, false, "Prompt is too long"},
	[PROBLEM_INVALID_UTF8] = {"invalid_utf8", 422, false, "Text is not valid UTF-8"},
	[PROBLEM_UPGRADE_REQUIRED] = {"upgrade_required", 426, false, "WebSocket required"},
	[PROBLEM_RATE_LIMITED] = {"rate_limited", 429, true, "Too many requests"},
	[PROBLEM_HEADER_TOO_LARGE] = {"header_too_large", 431, false, "Header too large"},
	[PROBLEM_INTERNAL] = {"internal", 500, true, "Internal error"},
	[PROBLEM_SESSION_LIMIT] = {"session_limit", 503, true, "All session slots are in use"},
	[PROBLEM_QUEUE_FULL] = {"queue_full", 503, true, "Queue is full"},
	[PROBLEM_MODEL_LOADING] = {"model_loading", 503, true, "Model is loading"},
	[PROBLEM_DRAINING] = {"draining", 503, true, "Server is shutting down"},
	[PROBLEM_OUT_OF_DEVICE_MEMORY] = {"out_of_device_memory", 507, true,
		"Out of device memory"},
};

int problem_set(
	struct problem *p, enum problem_code code, const char *field, const char *format, ...) {
	if (!p || p->code != PROBLEM_NONE)
		return -1;
	va_list args;
	va_start(args, format);
	vsnprintf(p->detail, sizeof p->detail, format, args);
	va_end(args);
	snprintf(p->field, sizeof p->field, "%s", field ? field : "");
	p->code = code;
	return -1;
}

void problem_clear(struct problem *p) {
	json_decref(p->extra);
	*p = (struct problem){0};
}

const char *problem_name(enum problem_code code) {
	return problems[code].name;
}

int problem_status(enum problem_code code) {
	return problems[code].status;
}

bool problem_retryable(enum problem_code code) {
	return problems[code].retryable;
}

json_t *problem_json(const struct problem *p, const char *instance) {
	char type[64];
	snprintf(type, sizeof type, "urn:lightforced:error:%s", problems[p->code].name);
	json_t *j = json_pack("{s:s, s:s, s:i, s:s, s:s, s:b}", "type", type, "title",
		problems[p->code].title, "status", problems[p->code].status, "code",
		problems[p->code].name, "detail", p->detail, "retryable",
		problems[p->code].retryable);
	if (!j)
		return NULL;
	if (p->field[0])
		json_object_set_new(j, "field", json_string(p->field));
	if (p->retry_after_s > 0)
		json_object_set_new(j, "retry_after_s", json_integer(p->retry_after_s));
	if (instance)
		json_object_set_new(j, "instance", json_string(instance));
	if (p->extra)
		json_object_update_missing(j, p->extra);
	return j;
}
