/* SPDX-License-Identifier: Apache-2.0 */
/* Marks to times; see account.h. Thread: the backend's. */
#include "engine/account.h"

uint64_t account_begin(struct backend *be) {
	return backend_mark(be);
}

void account_end(struct account *a, enum account_part part, struct backend *be, uint64_t from) {
	uint64_t to = backend_mark(be);
	struct account_span *last = &a->span[ACCOUNT_SPANS_MAX - 1];
	if (a->count < ACCOUNT_SPANS_MAX)
		a->span[a->count++] = (struct account_span){part, be, from, to};
	else if (last->part == part && last->be == be)
		last->to = to;
}

void account_close(struct account *a) {
	int64_t *const us[ACCOUNT_PARTS] = {
		[ACCOUNT_CONDITION] = &a->info.condition_us,
		[ACCOUNT_DIT] = &a->info.dit_us,
		[ACCOUNT_DECODE] = &a->info.decode_us,
	};
	for (int i = 0; i < a->count; i++) {
		const struct account_span *s = &a->span[i];
		*us[s->part] += backend_elapsed_us(s->be, s->from, s->to);
	}
	a->count = 0;
}
