/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzed: requests to the API, as "METHOD path?query\nbody". Every request gets
 * one answer with a valid status; refusals are problem documents; no reference
 * to a session is lost. */
#include <stdlib.h>
#include <string.h>
#include "server/api.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/fake_session.h"

static void check(const struct response *res) {
	if (res->status < 200 || res->status > 599)
		abort();
	if (res->status >= 400 && !json_is_string(json_object_get(res->json, "code")))
		abort();
}

static void ask(struct api *a, char *text, size_t size) {
	char *line_end = memchr(text, '\n', size);
	size_t line = line_end ? (size_t)(line_end - text) : size;
	text[line] = 0;
	char *path = strchr(text, ' ');
	if (!path)
		return;
	*path++ = 0;
	char *query = strchr(path, '?');
	if (query)
		*query++ = 0;
	struct request req = {.method = text, .path = path, .query = query};
	req.content_type = "application/json";
	if (line_end) {
		req.body = line_end + 1;
		req.body_bytes = size - line - 1;
		req.idempotency_key = req.body_bytes % 3 ? NULL : "key";
	}
	struct response res;
	api_dispatch(a, &req, &res);
	check(&res);
	response_finish(&res);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	/* Made once: the documents take far longer than a request. */
	static struct conf conf = {.prompt_bytes_max = 4096, .labels_max = 16};
	static struct registry registry;
	static struct api *a;
	if (!a)
		a = api_create(&(struct api_config){.conf = &conf, .registry = &registry}, NULL);
	char *text = malloc(size + 1);
	if (!a || !text)
		abort();
	registry = (struct registry){0};
	strcpy(registry.session[0].id, "s_1");
	registry.session[0].used = true;
	memcpy(text, data, size);
	ask(a, text, size);
	if (registry.session[0].references != 0 || registry.session[1].references > 1)
		abort();
	free(text);
	return 0;
}
