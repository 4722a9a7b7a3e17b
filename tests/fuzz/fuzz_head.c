/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzed: request heads. A head that is accepted is accepted at its last byte and
 * not before, whatever follows; its slices lie inside it; and the checks behind
 * the parser stand what it lets through. */
#include <stdlib.h>
#include <string.h>
#include "server/head.h"
#include "server/hosts.h"
#include "tests/fuzz/fuzz.h"

static void check_inside(struct slice s, const char *text, size_t size) {
	if (s.at && (s.at < text || s.at + s.size > text + size))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	/* A copy of exact size, so that a read past the end is seen. */
	char *text = malloc(size ? size : 1);
	memcpy(text, data, size);
	struct head h, again;
	struct head_fault f = {0};
	enum head_result r = head_parse(text, size, &h, &f);
	if (r == HEAD_REFUSED && (f.code == PROBLEM_NONE || !f.text))
		abort();
	if (r == HEAD_COMPLETE) {
		check_inside(h.method, text, h.bytes);
		check_inside(h.path, text, h.bytes);
		check_inside(h.query, text, h.bytes);
		check_inside(h.host, text, h.bytes);
		if (!h.host.size || h.path.at[0] != '/' || memchr(text, 0, h.bytes) ||
			memcmp(text + h.bytes - 4, "\r\n\r\n", 4) != 0)
			abort();
		if (head_parse(text, h.bytes, &again, &f) != HEAD_COMPLETE ||
			again.bytes != h.bytes ||
			head_parse(text, h.bytes - 1, &again, &f) != HEAD_INCOMPLETE)
			abort();
		struct hosts k = {"10.0.0.1", "show.example", "https://show.example"};
		hosts_accept(&k, h.host, NULL);
		hosts_accept_origin(&k, h.origin, h.host);
		head_check_websocket(&h, "lightforced.v1", &f);
	}
	free(text);
	return 0;
}
