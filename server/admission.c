/* SPDX-License-Identifier: Apache-2.0 */
/* See admission.h. */
#include "server/admission.h"
#include <stdlib.h>
#include <string.h>
#include "server/wire.h"

/* True when the path is /v1/sessions/{id}/stream. */
static bool is_stream(const struct head *h, struct stream_request *out) {
	static const char before[] = "/v1/sessions/", after[] = "/stream";
	size_t fixed = sizeof before - 1 + sizeof after - 1;
	if (h->path.size <= fixed || memcmp(h->path.at, before, sizeof before - 1) != 0 ||
		memcmp(h->path.at + h->path.size - (sizeof after - 1), after, sizeof after - 1) !=
			0)
		return false;
	struct slice id = {h->path.at + sizeof before - 1, h->path.size - fixed};
	if (memchr(id.at, '/', id.size))
		return false;
	if (!slice_copy(id, out->session, sizeof out->session))
		out->session[0] = 0;
	return true;
}

/* The query's since=SEQ; other names are left to others. */
static bool parse_since(const struct head *h, struct stream_request *out) {
	struct slice rest = h->query;
	while (rest.size) {
		const char *end = memchr(rest.at, '&', rest.size);
		struct slice item = {rest.at, end ? (size_t)(end - rest.at) : rest.size};
		rest.at += item.size + (end != NULL);
		rest.size -= item.size + (end != NULL);
		if (item.size < 6 || memcmp(item.at, "since=", 6) != 0)
			continue;
		char text[20], *stop;
		struct slice digits = {item.at + 6, item.size - 6};
		if (!slice_copy(digits, text, sizeof text) || text[0] < '0' || text[0] > '9')
			return false;
		out->since = strtoull(text, &stop, 10);
		out->has_since = true;
		if (*stop)
			return false;
	}
	return true;
}

/* Host, Origin and size: what holds for every request. */
static bool check_request(
	const struct admission *rules, const struct head *h, struct head_fault *f) {
	if (!hosts_accept(&rules->hosts, h->host, rules->local)) {
		*f = (struct head_fault){PROBLEM_HOST_NOT_ALLOWED,
			"This daemon does not go by the name in Host; add it to [server] "
			"allowed_hosts if it should."};
		return false;
	}
	if (!hosts_accept_origin(&rules->hosts, h->origin, h->host)) {
		*f = (struct head_fault){PROBLEM_FORBIDDEN_ORIGIN,
			"Pages of this Origin may not use this daemon; add it to [server] "
			"allowed_origins if they should."};
		return false;
	}
	if (h->content_length > rules->body_bytes_max) {
		*f = (struct head_fault){PROBLEM_BODY_TOO_LARGE,
			"The body is longer than [server] body_bytes_max allows."};
		return false;
	}
	return true;
}

bool admission_check(const struct admission *rules, const struct head *h,
	struct stream_request *out, bool *streams, struct head_fault *f) {
	*out = (struct stream_request){0};
	*streams = is_stream(h, out) && slice_is(h->method, "GET");
	if (!check_request(rules, h, f))
		return false;
	if (!*streams)
		return true;
	if (!head_check_websocket(h, WIRE_SUBPROTOCOL, f))
		return false;
	if (!parse_since(h, out)) {
		*f = (struct head_fault){
			PROBLEM_BAD_REQUEST, "since must be the seq of the last frame received."};
		return false;
	}
	return true;
}
