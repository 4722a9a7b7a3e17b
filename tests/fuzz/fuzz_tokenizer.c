/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzed: a prompt, through both cleanings and the demo model's tokenizer.
 * Whatever comes out of cleaning must be UTF-8, ids must be within the
 * vocabulary. LIGHTFORCED_ROOT names the tree. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/clean.h"
#include "engine/tokenizer.h"
#include "tests/fuzz/fuzz.h"

struct demo {
	struct model *m;
	struct tokenizer *t;
};

/* Loaded once a process; libFuzzer keeps no state of ours. */
static const struct demo *demo_get(void) {
	static struct demo d;
	if (!d.t) {
		char dir[300];
		struct error e = {0};
		snprintf(dir, sizeof dir, "%s/models/demo",
			getenv("LIGHTFORCED_ROOT") ? getenv("LIGHTFORCED_ROOT") : ".");
		d.m = model_load(dir, &e);
		d.t = d.m ? tokenizer_create(d.m, &e) : NULL;
		if (!d.t) {
			fprintf(stderr, "%s\n", e.text);
			abort();
		}
	}
	return &d;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	const struct demo *d = demo_get();
	char *text = malloc(size + 1);
	int32_t *ids = malloc((size_t)d->m->tokenizer.text_len * sizeof *ids);
	if (!text || !ids)
		abort();
	memcpy(text, data, size);
	text[size] = 0;
	for (int how = CLEANING_NONE; how <= CLEANING_WAN; how++) {
		struct error e = {0};
		char *clean = clean_text(text, (enum cleaning)how, &e);
		if (clean ? utf8_check(clean, &e) < 0 : e.code == 0)
			abort();
		int n = clean ? tokenizer_encode(d->t, clean, ids, &e) : 1;
		if (n < 1 || n > d->m->tokenizer.text_len)
			abort();
		for (int i = 0; clean && i < n; i++) {
			if (ids[i] < 0 || ids[i] >= d->m->text.vocab)
				abort();
		}
		free(clean);
	}
	free(ids);
	free(text);
	return 0;
}
