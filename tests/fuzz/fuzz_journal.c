/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzed: a session's journal. What comes back has words to begin with; what is
 * refused has a reason. */
#include <stdlib.h>

#include "server/session_impl.h"
#include "tests/fuzz/fuzz.h"

static void check(struct session *s) {
	if (!s->id[0] || s->prompts.count < 1 || s->begun < -1 || s->next_index < 0 || s->bitrate_kbps < 1)
		abort();
	if (!prompts_current(&s->prompts) && !prompts_due(&s->prompts, s->begun + 1))
		abort();
	/* What was read is written again and read again. */
	struct error e = {0};
	json_t *j = session_json_journal(s, true, NULL);
	struct session *again = session_from_journal(s->registry, j, &e);
	if (!again || again->next_index != s->next_index || again->begun != s->begun)
		abort();
	json_decref(j);
	session_unref(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct conf c;
	struct error e = {0};
	struct outlet none = {0};
	json_t *j = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
	if (!j)
		return 0;
	if (conf_default(&c, &e) != 0)
		abort();
	struct registry *r = registry_create(&c, &none, NULL, NULL, &e);
	struct session *s = session_from_journal(r, j, &e);
	if ((s == NULL) != (e.code != 0))
		abort();
	if (s)
		check(s);
	session_unref(s);
	registry_destroy(r);
	conf_free(&c);
	json_decref(j);
	return 0;
}
