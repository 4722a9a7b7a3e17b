/* SPDX-License-Identifier: Apache-2.0 */
/* What a request head may do, and which port is opened. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "server/admission.h"
#include "server/listener.h"

#define WS                                                                                         \
	"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"               \
	"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: "                  \
	"lightforced.v1\r\n"
#define ALLOWED -1

static const struct {
	const char *request, *fields;
	int fault; /* enum problem_code, or ALLOWED */
	bool streams;
	const char *session;
	int64_t since; /* -1: none asked for */
} rows[] = {
	{"GET /", "", ALLOWED, false, "", -1},
	{"GET /v1/sessions/s_1/stream", WS, ALLOWED, true, "s_1", -1},
	{"GET /v1/sessions/s_1/stream?since=0", WS, ALLOWED, true, "s_1", 0},
	{"GET /v1/sessions/s_1/stream?a=b&since=12", WS, ALLOWED, true, "s_1", 12},
	{"GET /v1/sessions/s_1/stream?since=1234567890123456789", WS, ALLOWED, true, "s_1",
		INT64_C(1234567890123456789)},
	{"GET /v1/sessions/s_1/stream?since=", WS, PROBLEM_BAD_REQUEST, true, "s_1", -1},
	{"GET /v1/sessions/s_1/stream?since=-1", WS, PROBLEM_BAD_REQUEST, true, "s_1", -1},
	{"GET /v1/sessions/s_1/stream?since=+1", WS, PROBLEM_BAD_REQUEST, true, "s_1", -1},
	{"GET /v1/sessions/s_1/stream?since=12345678901234567890", WS, PROBLEM_BAD_REQUEST, true,
		"s_1", -1},
	{"GET /v1/sessions/s_1/stream", "", PROBLEM_UPGRADE_REQUIRED, true, "s_1", -1},
	{"POST /v1/sessions/s_1/stream", WS, ALLOWED, false, "s_1", -1},
	{"GET /v1/sessions//stream", WS, ALLOWED, false, "", -1},
	{"GET /v1/sessions/a/b/stream", WS, ALLOWED, false, "", -1},
	{"GET /v1/sessions/s_1/streams", WS, ALLOWED, false, "", -1},
	{"GET /v1/sessions/0123456789012345678901234567890123456789/stream", WS, ALLOWED, true,
		"0123456789012345678901234567890123456789", -1},
	{"GET /v1/sessions/01234567890123456789012345678901234567890/stream", WS, ALLOWED, true, "",
		-1}, /* longer than any name of ours */
	{"POST /v1/sessions", "Content-Length: 1000\r\n", ALLOWED, false, "", -1},
	{"POST /v1/sessions", "Content-Length: 1001\r\n", PROBLEM_BODY_TOO_LARGE, false, "", -1},
	{"GET /", "Origin: http://evil.example\r\n", PROBLEM_FORBIDDEN_ORIGIN, false, "", -1},
	{"GET /v1/sessions/s_1/stream", WS "Origin: http://evil.example\r\n",
		PROBLEM_FORBIDDEN_ORIGIN, true, "s_1", -1},
};

/* What becomes of row i under this name in Host. */
static bool admitted(size_t i, const char *host, struct stream_request *out, bool *streams,
	struct head_fault *f) {
	struct admission rules = {{"127.0.0.1", NULL, NULL}, NULL, 1000};
	char text[1000];
	int size = snprintf(text, sizeof text, "%s HTTP/1.1\r\nHost: %s\r\n%s\r\n", rows[i].request,
		host, rows[i].fields);
	struct head h;
	*f = (struct head_fault){0};
	assert_int_equal(head_parse(text, (size_t)size, &h, f), HEAD_COMPLETE);
	return admission_check(&rules, &h, out, streams, f);
}

static void each_head_gets_its_way(void **state) {
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct stream_request out;
		struct head_fault f;
		bool streams, ok = admitted(i, "localhost:1", &out, &streams, &f);
		if (ok != (rows[i].fault == ALLOWED) || streams != rows[i].streams ||
			(!ok && (int)f.code != rows[i].fault) ||
			(streams && strcmp(out.session, rows[i].session) != 0) ||
			(ok && out.has_since != (rows[i].since >= 0)) ||
			(ok && out.has_since && out.since != (uint64_t)rows[i].since))
			fail_msg("%s: ok %d, streams %d, session \"%s\", since %" PRIu64 ": %s",
				rows[i].request, ok, streams, out.session, out.since,
				f.text ? f.text : "");
	}
}

static void strange_names_come_first(void **state) {
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct stream_request out;
		struct head_fault f;
		bool streams;
		assert_false(admitted(i, "evil.example", &out, &streams, &f));
		assert_int_equal(f.code, PROBLEM_HOST_NOT_ALLOWED);
	}
}

static void any_free_port_is_opened(void **state) {
	(void)state;
	struct listener l, again;
	struct error e = {0};
	assert_int_equal(listener_open(&l, "127.0.0.1:0", &e), 0);
	assert_true(l.fd >= 0 && l.port > 0);
	assert_string_equal(l.host, "127.0.0.1");
	char where[40];
	snprintf(where, sizeof where, "127.0.0.1:%d", l.port);
	assert_true(listener_open(&again, where, &e) < 0); /* taken */
	assert_non_null(strstr(e.text, where));
	assert_int_equal(again.fd, -1);
	close(l.fd);
}

static void wrong_places_are_named(void **state) {
	(void)state;
	static const char *const wrong[] = {
		"", "8900", "127.0.0.1", "127.0.0.1:", ":99999", "a b:1"};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		struct listener l;
		struct error e = {0};
		if (listener_open(&l, wrong[i], &e) >= 0 || l.fd >= 0 ||
			!strstr(e.text, "[server] listen"))
			fail_msg("\"%s\": %s", wrong[i], e.text);
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_head_gets_its_way),
		cmocka_unit_test(strange_names_come_first),
		cmocka_unit_test(any_free_port_is_opened),
		cmocka_unit_test(wrong_places_are_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
