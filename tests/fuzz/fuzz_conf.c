/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzed: a settings file. What is accepted lies within the table's bounds; what
 * is refused names file and line. */
#include <stdlib.h>
#include <string.h>

#include "server/conf_table.h"
#include "tests/fuzz/fuzz.h"

static void check(const struct conf *c) {
	for (int i = 0; i < conf_key_count; i++) {
		const struct conf_key *k = &conf_keys[i];
		if (k->type == CONF_STRING && !*conf_string_at(c, k))
			abort();
		if (k->type == CONF_INT && (*conf_int_at(c, k) < k->min || *conf_int_at(c, k) > k->max))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct conf c;
	struct error e = {0};
	char *text = malloc(size + 1);
	if (!text || conf_default(&c, &e) != 0)
		abort();
	memcpy(text, data, size);
	text[size] = 0;
	int rc = conf_read_text(&c, "fuzz", text, size, &e);
	if ((rc != 0) != (e.code != 0) || (rc != 0 && strncmp(e.text, "fuzz:", 5) != 0))
		abort();
	check(&c);
	conf_free(&c);
	free(text);
	return 0;
}
