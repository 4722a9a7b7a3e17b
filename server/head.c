/* SPDX-License-Identifier: Apache-2.0 */
/* See head.h. Lines are cut at CRLF and judged one by one, in order, so that a
 * partial head is refused at the earliest byte that makes it wrong. */
#include "server/head.h"
#include <string.h>
#include <strings.h>

#define METHOD_BYTES_MAX 16

static const struct head_fault bare_lf = {
	PROBLEM_BAD_REQUEST, "A line ends with LF alone; lines end with CR LF."};

bool slice_is(struct slice s, const char *text) {
	return s.at && s.size == strlen(text) && !memcmp(s.at, text, s.size);
}

bool slice_is_nocase(struct slice s, const char *text) {
	return s.at && s.size == strlen(text) && !strncasecmp(s.at, text, s.size);
}

bool slice_copy(struct slice s, char *out, size_t out_bytes) {
	if (s.size >= out_bytes || (s.size && memchr(s.at, 0, s.size)))
		return false;
	if (s.size)
		memcpy(out, s.at, s.size);
	out[s.size] = 0;
	return true;
}

static struct slice trim(struct slice s) {
	while (s.size && (s.at[0] == ' ' || s.at[0] == '\t'))
		s.at++, s.size--;
	while (s.size && (s.at[s.size - 1] == ' ' || s.at[s.size - 1] == '\t'))
		s.size--;
	return s;
}

bool slice_has_token(struct slice s, const char *token, bool nocase) {
	while (s.size) {
		const char *comma = memchr(s.at, ',', s.size);
		struct slice item = {s.at, comma ? (size_t)(comma - s.at) : s.size};
		struct slice word = trim(item);
		if (nocase ? slice_is_nocase(word, token) : slice_is(word, token))
			return true;
		if (!comma)
			return false;
		s.at += item.size + 1;
		s.size -= item.size + 1;
	}
	return false;
}

/* RFC 9110 5.6.2: characters of a token. */
static bool token_char(unsigned char c) {
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool all_token(struct slice s) {
	for (size_t i = 0; i < s.size; i++)
		if (!token_char((unsigned char)s.at[i]))
			return false;
	return s.size > 0;
}

static bool refuse(struct head_fault *f, enum problem_code code, const char *text) {
	*f = (struct head_fault){code, text};
	return false;
}

static bool parse_target(struct slice t, struct head *h, struct head_fault *f) {
	if (!t.size || t.at[0] != '/')
		return refuse(f, PROBLEM_BAD_REQUEST,
			"The request target must be a path that begins with '/'.");
	for (size_t i = 0; i < t.size; i++)
		if (t.at[i] <= 0x20 || t.at[i] == 0x7f || t.at[i] == '#' || t.at[i] == '\\')
			return refuse(f, PROBLEM_BAD_REQUEST,
				"The request target holds a character that must be "
				"percent-encoded.");
	const char *mark = memchr(t.at, '?', t.size);
	h->path = (struct slice){t.at, mark ? (size_t)(mark - t.at) : t.size};
	if (mark)
		h->query = (struct slice){mark + 1, t.size - h->path.size - 1};
	return true;
}

static bool parse_request_line(struct slice line, struct head *h, struct head_fault *f) {
	const char *first = memchr(line.at, ' ', line.size);
	if (!first)
		return refuse(
			f, PROBLEM_BAD_REQUEST, "The first line must be 'METHOD /path HTTP/1.1'.");
	h->method = (struct slice){line.at, (size_t)(first - line.at)};
	if (h->method.size > METHOD_BYTES_MAX || !all_token(h->method))
		return refuse(f, PROBLEM_BAD_REQUEST, "The method is not a valid name.");
	struct slice rest = {first + 1, line.size - h->method.size - 1};
	const char *second = memchr(rest.at, ' ', rest.size);
	if (!second)
		return refuse(
			f, PROBLEM_BAD_REQUEST, "The first line must be 'METHOD /path HTTP/1.1'.");
	struct slice target = {rest.at, (size_t)(second - rest.at)};
	struct slice version = {second + 1, rest.size - target.size - 1};
	if (!slice_is(version, "HTTP/1.1") && !slice_is(version, "HTTP/1.0"))
		return refuse(
			f, PROBLEM_BAD_REQUEST, "The protocol must be HTTP/1.1 (or HTTP/1.0).");
	h->minor = version.at[7] - '0';
	return parse_target(target, h, f);
}

static bool parse_length(struct slice v, struct head *h, struct head_fault *f) {
	if (!v.size || v.size > 15)
		return refuse(f, PROBLEM_BAD_REQUEST, "Content-Length must be a decimal number.");
	int64_t n = 0;
	for (size_t i = 0; i < v.size; i++) {
		if (v.at[i] < '0' || v.at[i] > '9')
			return refuse(
				f, PROBLEM_BAD_REQUEST, "Content-Length must be a decimal number.");
		n = n * 10 + (v.at[i] - '0');
	}
	h->content_length = n;
	return true;
}

/* Fields that we act upon: each may come once. */
static const struct known_field {
	const char *name;
	size_t offset; /* of its slice in struct head */
	const char *repeated;
} known_fields[] = {
	{"Host", offsetof(struct head, host), "Host is given more than once."},
	{"Origin", offsetof(struct head, origin), "Origin is given more than once."},
	{"Content-Type", offsetof(struct head, content_type),
		"Content-Type is given more than once."},
	{"Upgrade", offsetof(struct head, upgrade), "Upgrade is given more than once."},
	{"Connection", offsetof(struct head, connection), "Connection is given more than once."},
	{"Sec-WebSocket-Key", offsetof(struct head, ws_key),
		"Sec-WebSocket-Key is given more than once."},
	{"Sec-WebSocket-Version", offsetof(struct head, ws_version),
		"Sec-WebSocket-Version is given more than once."},
	{"Sec-WebSocket-Protocol", offsetof(struct head, ws_protocols),
		"Sec-WebSocket-Protocol is given more than once."},
};

static bool keep_field(
	struct slice name, struct slice value, struct head *h, struct head_fault *f) {
	if (slice_is_nocase(name, "Transfer-Encoding"))
		return refuse(f, PROBLEM_BAD_REQUEST,
			"Transfer-Encoding is not accepted; send the body with Content-Length.");
	if (slice_is_nocase(name, "Content-Length")) {
		if (h->content_length >= 0)
			return refuse(
				f, PROBLEM_BAD_REQUEST, "Content-Length is given more than once.");
		return parse_length(value, h, f);
	}
	for (size_t i = 0; i < sizeof known_fields / sizeof *known_fields; i++) {
		const struct known_field *k = &known_fields[i];
		if (!slice_is_nocase(name, k->name))
			continue;
		struct slice *place = (struct slice *)(void *)((char *)h + k->offset);
		if (place->at)
			return refuse(f, PROBLEM_BAD_REQUEST, k->repeated);
		*place = value;
	}
	return true;
}

static bool parse_field(struct slice line, struct head *h, struct head_fault *f) {
	if (++h->fields > HEAD_FIELDS_MAX)
		return refuse(
			f, PROBLEM_HEADER_TOO_LARGE, "More than 100 header fields were sent.");
	if (line.at[0] == ' ' || line.at[0] == '\t')
		return refuse(f, PROBLEM_BAD_REQUEST,
			"A header line begins with a blank: folded lines are not accepted.");
	const char *colon = memchr(line.at, ':', line.size);
	if (!colon)
		return refuse(f, PROBLEM_BAD_REQUEST, "A header line has no colon.");
	struct slice name = {line.at, (size_t)(colon - line.at)};
	if (!all_token(name))
		return refuse(f, PROBLEM_BAD_REQUEST,
			"A header name holds a blank or another character that no name may have.");
	struct slice value = trim((struct slice){colon + 1, line.size - name.size - 1});
	for (size_t i = 0; i < value.size; i++) {
		unsigned char c = (unsigned char)value.at[i];
		if ((c < 0x20 && c != '\t') || c == 0x7f)
			return refuse(f, PROBLEM_BAD_REQUEST,
				"A header value holds a control character.");
	}
	return keep_field(name, value, h, f);
}

static bool check_whole(const struct head *h, struct head_fault *f) {
	if (!h->host.at || !h->host.size)
		return refuse(f, PROBLEM_BAD_REQUEST, "The Host header is missing.");
	return true;
}

enum head_result head_parse(
	const char *bytes, size_t size, struct head *h, struct head_fault *fault) {
	memset(h, 0, sizeof *h);
	h->content_length = -1;
	size_t at = 0;
	if (size && !token_char((unsigned char)bytes[0])) {
		refuse(fault, PROBLEM_BAD_REQUEST,
			"This is not HTTP (TLS ends at a proxy before).");
		return HEAD_REFUSED;
	}
	for (int line_number = 0;; line_number++) {
		const char *end = at < size ? memchr(bytes + at, '\n', size - at) : NULL;
		if (!end)
			return HEAD_INCOMPLETE;
		if (end == bytes + at || end[-1] != '\r') {
			*fault = bare_lf;
			return HEAD_REFUSED;
		}
		struct slice line = {bytes + at, (size_t)(end - 1 - (bytes + at))};
		at = (size_t)(end - bytes) + 1;
		if (memchr(line.at, '\r', line.size) || memchr(line.at, 0, line.size)) {
			refuse(fault, PROBLEM_BAD_REQUEST, "The head holds a stray CR or NUL.");
			return HEAD_REFUSED;
		}
		if (line_number > 0 && !line.size) {
			h->bytes = at;
			return check_whole(h, fault) ? HEAD_COMPLETE : HEAD_REFUSED;
		}
		if (!(line_number ? parse_field(line, h, fault)
				  : parse_request_line(line, h, fault)))
			return HEAD_REFUSED;
	}
}

/* 16 bytes in base64: 22 characters and "==". */
static bool valid_key(struct slice k) {
	if (k.size != 24 || k.at[22] != '=' || k.at[23] != '=')
		return false;
	for (size_t i = 0; i < 22; i++) {
		char c = k.at[i];
		bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			  (c >= '0' && c <= '9') || c == '+' || c == '/';
		if (!ok)
			return false;
	}
	return true;
}

bool head_check_websocket(const struct head *h, const char *subprotocol, struct head_fault *f) {
	if (!slice_has_token(h->upgrade, "websocket", true) ||
		!slice_has_token(h->connection, "upgrade", true) || h->minor != 1)
		return refuse(f, PROBLEM_UPGRADE_REQUIRED,
			"This resource is a WebSocket: connect with Upgrade: websocket.");
	if (!slice_is(h->ws_version, "13"))
		return refuse(f, PROBLEM_UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13.");
	if (!valid_key(h->ws_key))
		return refuse(
			f, PROBLEM_BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64.");
	if (h->content_length > 0)
		return refuse(f, PROBLEM_BAD_REQUEST, "A WebSocket request has no body.");
	if (!slice_has_token(h->ws_protocols, subprotocol, false))
		return refuse(f, PROBLEM_BAD_SUBPROTOCOL,
			"Offer the subprotocol lightforced.v1 in Sec-WebSocket-Protocol.");
	return true;
}
