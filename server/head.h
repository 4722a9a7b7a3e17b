/* SPDX-License-Identifier: Apache-2.0 */
/* Strict parser of an HTTP/1.x request head (RFC 9112), for bytes that the
 * acceptor peeked at. It refuses all that two readers could understand
 * differently: bare LF, folded lines, NUL, space before the colon, repeated or
 * odd Host and Content-Length, any Transfer-Encoding, anything but a plain
 * path as target. Pure: no allocation, no state. Fuzzed. */
#ifndef SERVER_HEAD_H
#define SERVER_HEAD_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "server/problem.h"
#define HEAD_FIELDS_MAX 100
struct slice {
	const char *at; /* NULL: absent; not NUL-terminated */
	size_t size;
};
bool slice_is(struct slice s, const char *text);
bool slice_is_nocase(struct slice s, const char *text); /* ASCII */
/* Copies as a C string; false when it does not fit. */
bool slice_copy(struct slice s, char *out, size_t out_bytes);
/* True when the comma-separated list s holds token, ASCII case ignored if nocase. */
bool slice_has_token(struct slice s, const char *token, bool nocase);

/* Slices point into the parsed bytes. */
struct head {
	size_t bytes; /* of the head, blank line included */
	struct slice method, path, query;
	int minor; /* HTTP/1.minor */
	struct slice host, origin, content_type, upgrade, connection;
	struct slice ws_key, ws_version, ws_protocols; /* Sec-WebSocket- */
	int64_t content_length; /* -1: absent */
	int fields;
};
/* Why a head was refused; text is a static sentence. */
struct head_fault {
	enum problem_code code;
	const char *text;
};
enum head_result { HEAD_INCOMPLETE, HEAD_COMPLETE, HEAD_REFUSED };
/* Looks at the first size bytes of a connection. A fault is reported as soon as
 * it is seen, an unfinished head as HEAD_INCOMPLETE (the caller bounds its size
 * and its time). */
enum head_result head_parse(
	const char *bytes, size_t size, struct head *h, struct head_fault *fault);
/* The upgrade asked for is a WebSocket we speak: version 13, a valid key, our
 * subprotocol among those offered. Else false and *fault. */
bool head_check_websocket(const struct head *h, const char *subprotocol, struct head_fault *fault);
#endif
