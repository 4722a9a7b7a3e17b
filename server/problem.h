/* SPDX-License-Identifier: Apache-2.0 */
/* Everything that can be refused, as a table: wire code, HTTP status, title.
 * One failure of a request, spoken as RFC 9457 problem+json over HTTP and as
 * an `error` or `prompt.rejected` message over the socket. Thread: a struct
 * problem belongs to its caller. */
#ifndef SERVER_PROBLEM_H
#define SERVER_PROBLEM_H
#include <jansson.h>
#include <stdbool.h>
enum problem_code {
	PROBLEM_NONE,
	PROBLEM_INVALID_JSON,
	PROBLEM_BAD_REQUEST,
	PROBLEM_BAD_SUBPROTOCOL,
	PROBLEM_UNAUTHORIZED,
	PROBLEM_FORBIDDEN_ROLE,
	PROBLEM_FORBIDDEN_ORIGIN,
	PROBLEM_NOT_FOUND,
	PROBLEM_METHOD_NOT_ALLOWED,
	PROBLEM_REQUEST_TIMEOUT,
	PROBLEM_CHUNK_IN_PAST,
	PROBLEM_WRONG_STATE,
	PROBLEM_PROMPT_ALREADY_APPLIED,
	PROBLEM_GONE,
	PROBLEM_PRECONDITION_FAILED,
	PROBLEM_BODY_TOO_LARGE,
	PROBLEM_UNSUPPORTED_MEDIA_TYPE,
	PROBLEM_HOST_NOT_ALLOWED,
	PROBLEM_INVALID_FIELD,
	PROBLEM_MISSING_FIELD,
	PROBLEM_UNSUPPORTED_FIELD,
	PROBLEM_PROMPT_EMPTY,
	PROBLEM_PROMPT_TOO_LONG,
	PROBLEM_INVALID_UTF8,
	PROBLEM_UPGRADE_REQUIRED,
	PROBLEM_RATE_LIMITED,
	PROBLEM_HEADER_TOO_LARGE,
	PROBLEM_INTERNAL,
	PROBLEM_SESSION_LIMIT,
	PROBLEM_QUEUE_FULL,
	PROBLEM_MODEL_LOADING,
	PROBLEM_DRAINING,
	PROBLEM_OUT_OF_DEVICE_MEMORY,
	PROBLEM_COUNT
};
struct problem {
	enum problem_code code; /* PROBLEM_NONE: all is well */
	char detail[400]; /* one sentence that names the fault and the fix */
	char field[64]; /* "transition.mode", or "" */
	int retry_after_s; /* > 0: Retry-After */
	json_t *extra; /* further members (owned), or NULL */
};
/* Fills *p unless it holds one already; returns -1 so that a failing function can end with it. */
int problem_set(struct problem *p, enum problem_code code, const char *field, const char *format,
	...) __attribute__((format(printf, 4, 5)));
void problem_clear(struct problem *p);
const char *problem_name(enum problem_code code); /* "prompt_too_long" */
int problem_status(enum problem_code code);
bool problem_retryable(enum problem_code code);
/* problem+json document; instance may be NULL. New reference. */
json_t *problem_json(const struct problem *p, const char *instance);
#endif
