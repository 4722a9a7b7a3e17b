/* SPDX-License-Identifier: Apache-2.0 */
/* Request heads: what is accepted, and one row for each way in which two readers
 * of the same bytes could disagree. Also which names and origins are ours. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include "server/head.h"
#include "server/hosts.h"
#include "server/limiter.h"

#define HOST "Host: a\r\n"
#define END "\r\n"

static const struct {
	const char *why, *text;
} refused[] = {
	{"length and encoding", "POST / HTTP/1.1\r\n" HOST
				"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n" END},
	{"encoding alone", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n" END},
	{"encoding in odd case", "POST / HTTP/1.1\r\n" HOST "tRANSFER-eNCODING: x\r\n" END},
	{"two lengths",
		"POST / HTTP/1.1\r\n" HOST "Content-Length: 4\r\nContent-Length: 5\r\n" END},
	{"the same length twice",
		"POST / HTTP/1.1\r\n" HOST "Content-Length: 4\r\ncontent-length: 4\r\n" END},
	{"lengths in a list", "POST / HTTP/1.1\r\n" HOST "Content-Length: 4, 4\r\n" END},
	{"signed length", "POST / HTTP/1.1\r\n" HOST "Content-Length: +4\r\n" END},
	{"negative length", "POST / HTTP/1.1\r\n" HOST "Content-Length: -1\r\n" END},
	{"hexadecimal length", "POST / HTTP/1.1\r\n" HOST "Content-Length: 0x4\r\n" END},
	{"empty length", "POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n" END},
	{"length beyond 64 bits",
		"POST / HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999\r\n" END},
	{"no host", "GET / HTTP/1.1\r\nX: y\r\n" END},
	{"empty host", "GET / HTTP/1.1\r\nHost: \r\n" END},
	{"two hosts", "GET / HTTP/1.1\r\n" HOST "Host: b\r\n" END},
	{"the same host twice", "GET / HTTP/1.1\r\n" HOST HOST END},
	{"two origins", "GET / HTTP/1.1\r\n" HOST "Origin: a\r\nOrigin: b\r\n" END},
	{"bare LF", "GET / HTTP/1.1\nHost: a\n\n"},
	{"bare LF after a field", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n" END},
	{"bare LF as the end", "GET / HTTP/1.1\r\n" HOST "\n"},
	{"bare CR in a value", "GET / HTTP/1.1\r\n" HOST "X: a\rb\r\n" END},
	{"bare CR before the end", "GET / HTTP/1.1\r\n" HOST "X: a\r\r\n" END},
	{"folded line", "GET / HTTP/1.1\r\n" HOST "X: a\r\n b\r\n" END},
	{"folded with a tab", "GET / HTTP/1.1\r\n" HOST "X: a\r\n\tb\r\n" END},
	{"folded first field", "GET / HTTP/1.1\r\n Host: a\r\n" END},
	{"space before the colon", "GET / HTTP/1.1\r\nHost : a\r\n" END},
	{"space in a name", "GET / HTTP/1.1\r\n" HOST "X Y: z\r\n" END},
	{"no colon", "GET / HTTP/1.1\r\n" HOST "XY\r\n" END},
	{"empty name", "GET / HTTP/1.1\r\n" HOST ": z\r\n" END},
	{"control in a value", "GET / HTTP/1.1\r\n" HOST "X: a\001b\r\n" END},
	{"DEL in a value", "GET / HTTP/1.1\r\n" HOST "X: a\177b\r\n" END},
	{"absolute form", "GET http://a/ HTTP/1.1\r\n" HOST END},
	{"authority form", "CONNECT a:80 HTTP/1.1\r\n" HOST END},
	{"asterisk form", "OPTIONS * HTTP/1.1\r\n" HOST END},
	{"no target", "GET HTTP/1.1\r\n" HOST END},
	{"two spaces", "GET  / HTTP/1.1\r\n" HOST END},
	{"space in the target", "GET /a b HTTP/1.1\r\n" HOST END},
	{"tab as separator", "GET\t/\tHTTP/1.1\r\n" HOST END},
	{"fragment", "GET /#a HTTP/1.1\r\n" HOST END},
	{"backslash", "GET /a\\b HTTP/1.1\r\n" HOST END},
	{"high byte in the target", "GET /\xc3\xa4 HTTP/1.1\r\n" HOST END},
	{"blank line first", "\r\nGET / HTTP/1.1\r\n" HOST END},
	{"no version", "GET /\r\n" HOST END},
	{"HTTP/2", "GET / HTTP/2.0\r\n" HOST END},
	{"HTTP/1.2", "GET / HTTP/1.2\r\n" HOST END},
	{"HTTP/1.10", "GET / HTTP/1.10\r\n" HOST END},
	{"lower case version", "GET / http/1.1\r\n" HOST END},
	{"method with a slash", "G/T / HTTP/1.1\r\n" HOST END},
	{"long method", "ABCDEFGHIJKLMNOPQ / HTTP/1.1\r\n" HOST END},
	{"TLS hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n"},
};

static enum head_result parse(const char *text, struct head *h) {
	struct head_fault f;
	return head_parse(text, strlen(text), h, &f);
}

static void each_ambiguity_is_refused(void **state) {
	(void)state;
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
		struct head h;
		struct head_fault f = {0};
		enum head_result r = head_parse(refused[i].text, strlen(refused[i].text), &h, &f);
		if (r != HEAD_REFUSED)
			fail_msg("%s: result %d", refused[i].why, (int)r);
		assert_int_equal(f.code, PROBLEM_BAD_REQUEST);
		assert_true(strlen(f.text) > 10);
	}
}

static void nul_is_refused_anywhere(void **state) {
	(void)state;
	static const char text[] = "GET /abc HTTP/1.1\r\nHost: a\r\nX: yy\r\n\r\n";
	size_t size = sizeof text - 1;
	for (size_t i = 0; i < size; i++) {
		char copy[sizeof text];
		memcpy(copy, text, sizeof text);
		copy[i] = 0;
		struct head h;
		struct head_fault f;
		/* In place of a line end the head may stay unfinished, never complete. */
		assert_int_not_equal(head_parse(copy, size, &h, &f), HEAD_COMPLETE);
	}
}

static void plain_head_is_understood(void **state) {
	(void)state;
	const char *text = "POST /v1/sessions?x=1 HTTP/1.1\r\nHost: localhost:8900\r\n"
			   "content-length: 12 \r\nOrigin:\thttp://localhost:8900\r\n"
			   "X-Odd: caf\xc3\xa9\r\n\r\nbody follows";
	struct head h;
	assert_int_equal(parse(text, &h), HEAD_COMPLETE);
	assert_int_equal(h.bytes, strlen(text) - strlen("body follows"));
	assert_true(slice_is(h.method, "POST"));
	assert_true(slice_is(h.path, "/v1/sessions"));
	assert_true(slice_is(h.query, "x=1"));
	assert_true(slice_is(h.host, "localhost:8900"));
	assert_true(slice_is(h.origin, "http://localhost:8900"));
	assert_int_equal(h.content_length, 12);
	assert_int_equal(h.fields, 4);
	assert_null(h.upgrade.at);
}

/* However few bytes have come: incomplete until the last, and never misjudged. */
static void every_prefix_is_incomplete(void **state) {
	(void)state;
	const char *text = "GET /a?b=c HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
	for (size_t n = 0; n < strlen(text); n++) {
		struct head h;
		struct head_fault f;
		assert_int_equal(head_parse(text, n, &h, &f), HEAD_INCOMPLETE);
	}
	struct head h;
	assert_int_equal(parse(text, &h), HEAD_COMPLETE);
}

static void fields_are_counted(void **state) {
	(void)state;
	char text[4096] = "GET / HTTP/1.1\r\nHost: a\r\n";
	for (int i = 0; i < HEAD_FIELDS_MAX - 1; i++)
		strcat(text, "X: y\r\n");
	char more[4200];
	snprintf(more, sizeof more, "%sX: y\r\n\r\n", text);
	strcat(text, "\r\n");
	struct head h;
	struct head_fault f;
	assert_int_equal(parse(text, &h), HEAD_COMPLETE);
	assert_int_equal(head_parse(more, strlen(more), &h, &f), HEAD_REFUSED);
	assert_int_equal(f.code, PROBLEM_HEADER_TOO_LARGE);
}

#define UPGRADE                                                                                    \
	"GET /x HTTP/1.1\r\n" HOST "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
#define KEY "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
#define VERSION13 "Sec-WebSocket-Version: 13\r\n"
#define OURS "Sec-WebSocket-Protocol: chat, lightforced.v1\r\n"

static void upgrades_are_checked(void **state) {
	(void)state;
	static const struct {
		const char *text;
		enum problem_code code; /* PROBLEM_NONE: accepted */
	} rows[] = {
		{UPGRADE KEY VERSION13 OURS END, PROBLEM_NONE},
		{"GET /x HTTP/1.1\r\n" HOST END, PROBLEM_UPGRADE_REQUIRED},
		{"GET /x HTTP/1.1\r\n" HOST "Upgrade: h2c\r\nConnection: Upgrade\r\n" END,
			PROBLEM_UPGRADE_REQUIRED},
		{"GET /x HTTP/1.1\r\n" HOST "Upgrade: websocket\r\n" KEY VERSION13 OURS END,
			PROBLEM_UPGRADE_REQUIRED},
		{"GET /x HTTP/1.0\r\n" HOST
		 "Upgrade: websocket\r\nConnection: Upgrade\r\n" KEY VERSION13 OURS END,
			PROBLEM_UPGRADE_REQUIRED},
		{UPGRADE KEY "Sec-WebSocket-Version: 8\r\n" OURS END, PROBLEM_UPGRADE_REQUIRED},
		{UPGRADE KEY OURS END, PROBLEM_UPGRADE_REQUIRED},
		{UPGRADE VERSION13 OURS END, PROBLEM_BAD_REQUEST},
		{UPGRADE "Sec-WebSocket-Key: short==\r\n" VERSION13 OURS END, PROBLEM_BAD_REQUEST},
		{UPGRADE "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=!\r\n" VERSION13 OURS END,
			PROBLEM_BAD_REQUEST},
		{UPGRADE KEY VERSION13 OURS "Content-Length: 4\r\n" END, PROBLEM_BAD_REQUEST},
		{UPGRADE KEY VERSION13 END, PROBLEM_BAD_SUBPROTOCOL},
		{UPGRADE KEY VERSION13 "Sec-WebSocket-Protocol: lightforced.v2\r\n" END,
			PROBLEM_BAD_SUBPROTOCOL},
		{UPGRADE KEY VERSION13 "Sec-WebSocket-Protocol: Lightforced.V1\r\n" END,
			PROBLEM_BAD_SUBPROTOCOL},
	};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct head h;
		struct head_fault f = {0};
		assert_int_equal(parse(rows[i].text, &h), HEAD_COMPLETE);
		bool ok = head_check_websocket(&h, "lightforced.v1", &f);
		if (ok != (rows[i].code == PROBLEM_NONE) || f.code != rows[i].code)
			fail_msg("row %zu: code %d", i, (int)f.code);
	}
}

static struct slice of(const char *text) {
	return (struct slice){text, strlen(text)};
}

static void only_our_names_are_accepted(void **state) {
	(void)state;
	struct hosts k = {"10.1.2.3", "show.example, other.example", NULL};
	struct sockaddr_in at = {.sin_family = AF_INET};
	inet_pton(AF_INET, "192.168.7.9", &at.sin_addr);
	static const struct {
		const char *host;
		bool ok;
	} rows[] = {{"localhost", true}, {"LOCALHOST:1", true}, {"127.0.0.1:8900", true},
		{"[::1]:8900", true}, {"10.1.2.3", true}, {"192.168.7.9:80", true},
		{"show.example", true}, {"Other.Example:443", true}, {"evil.example", false},
		{"192.168.7.8", false}, {"localhost.evil.example", false}, {"show.example.", false},
		{"show", false}, {"localhost:", false}, {"localhost:x", false},
		{"localhost:99999", false}, {"[::1", false}, {"[::1]8900", false}, {"::1", false},
		{"a@localhost", false}, {"", false}, {"show.example,", false}};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		if (hosts_accept(&k, of(rows[i].host), (struct sockaddr *)&at) != rows[i].ok)
			fail_msg("Host %s", rows[i].host);
}

static void only_our_pages_are_accepted(void **state) {
	(void)state;
	struct hosts k = {"", NULL, "https://show.example:8443"};
	static const struct {
		const char *origin, *host;
		bool ok;
	} rows[] = {{NULL, "localhost:8900", true},
		{"http://localhost:8900", "localhost:8900", true},
		{"http://localhost", "localhost", true}, {"http://localhost", "localhost:80", true},
		{"https://localhost", "localhost:443", true},
		{"https://show.example:8443", "localhost:8900", true},
		{"http://localhost:8901", "localhost:8900", false},
		{"http://localhost", "localhost:8900", false},
		{"http://127.0.0.1:8900", "localhost:8900", false},
		{"https://show.example", "localhost:8900", false}, {"null", "localhost", false},
		{"", "localhost", false}, {"ftp://localhost", "localhost", false},
		{"http://", "localhost", false}, {"http://evil.example", "localhost", false}};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct slice origin = rows[i].origin ? of(rows[i].origin) : (struct slice){0};
		if (hosts_accept_origin(&k, origin, of(rows[i].host)) != rows[i].ok)
			fail_msg("Origin %s at %s", rows[i].origin, rows[i].host);
	}
}

static int taken(struct limiter *l, const char *address, int64_t now_us) {
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
	assert_int_equal(inet_pton(AF_INET6, address, &v6.sin6_addr), 1);
	int n = 0;
	while (n < 100 && limiter_take(l, (struct sockaddr *)&v6, 2, 5, now_us))
		n++;
	return n;
}

static void addresses_are_limited_alone(void **state) {
	(void)state;
	static struct limiter l;
	int64_t now_us = 1000000;
	assert_int_equal(taken(&l, "2001:db8::1", now_us), 5);
	assert_int_equal(taken(&l, "2001:db8::2", now_us), 0); /* the same /64 */
	assert_int_equal(taken(&l, "2001:db8:0:1::1", now_us), 5);
	assert_int_equal(taken(&l, "::ffff:192.0.2.1", now_us), 5);
	assert_int_equal(taken(&l, "::1", now_us), 100);
	assert_int_equal(taken(&l, "::ffff:127.0.0.5", now_us), 100);
	assert_int_equal(taken(&l, "2001:db8::1", now_us + 1500000), 3); /* 2 a second */
	assert_int_equal(
		taken(&l, "2001:db8::1", now_us + 3600000000), 5); /* never beyond the burst */
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_ambiguity_is_refused),
		cmocka_unit_test(nul_is_refused_anywhere),
		cmocka_unit_test(plain_head_is_understood),
		cmocka_unit_test(every_prefix_is_incomplete),
		cmocka_unit_test(fields_are_counted),
		cmocka_unit_test(upgrades_are_checked),
		cmocka_unit_test(only_our_names_are_accepted),
		cmocka_unit_test(only_our_pages_are_accepted),
		cmocka_unit_test(addresses_are_limited_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
