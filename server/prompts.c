/* SPDX-License-Identifier: Apache-2.0 */
/* The list of prompts. A few dozen entries at most: plain scans.
 * Thread: under the session's lock. */
#include "server/prompts.h"

#include <stdlib.h>
#include <string.h>

struct prompt *prompt_create(const char *text) {
	size_t size = strlen(text) + 1;
	struct prompt *p = calloc(1, sizeof *p + size);
	if (p)
		memcpy(p->text, text, size);
	return p;
}

void prompts_finish(struct prompts *p) {
	for (int i = 0; i < p->count; i++)
		free(p->item[i]);
	free(p->item);
	*p = (struct prompts){0};
}

bool prompts_add(struct prompts *p, struct prompt *n, struct prompt **replaced) {
	if (p->count == p->capacity) {
		int capacity = p->capacity ? 2 * p->capacity : 8;
		struct prompt **item = realloc(p->item, (size_t)capacity * sizeof *item);
		if (!item)
			return false;
		p->item = item;
		p->capacity = capacity;
	}
	*replaced = NULL;
	for (int i = 0; i < p->count && !*replaced; i++) {
		if (p->item[i]->state == PROMPT_SCHEDULED && p->item[i]->chunk == n->chunk)
			*replaced = p->item[i];
	}
	if (*replaced)
		prompts_remove(p, *replaced);
	p->item[p->count++] = n;
	return true;
}

struct prompt *prompts_due(const struct prompts *p, int64_t chunk) {
	for (int i = p->count - 1; i >= 0; i--) {
		if (p->item[i]->state == PROMPT_SCHEDULED && p->item[i]->chunk <= chunk)
			return p->item[i];
	}
	return NULL;
}

struct prompt *prompts_by_number(const struct prompts *p, int64_t number) {
	for (int i = 0; i < p->count; i++) {
		if (p->item[i]->number == number)
			return p->item[i];
	}
	return NULL;
}

struct prompt *prompts_by_revision(const struct prompts *p, uint32_t revision) {
	for (int i = 0; i < p->count; i++) {
		if (p->item[i]->revision == revision)
			return p->item[i];
	}
	return NULL;
}

/* The list is in order of acceptance; a prompt scheduled early may take hold
 * late, so the highest chunk decides, not the place. */
struct prompt *prompts_current(const struct prompts *p) {
	struct prompt *best = NULL;
	for (int i = 0; i < p->count; i++) {
		struct prompt *q = p->item[i];
		if (q->state == PROMPT_SCHEDULED)
			continue;
		bool newer = !best || q->state < best->state ||
			     (q->state == best->state &&
				     (q->state == PROMPT_APPLIED ? q->seq >= best->seq
								 : q->chunk >= best->chunk));
		if (newer)
			best = q;
	}
	return best;
}

int prompts_waiting(const struct prompts *p) {
	int n = 0;
	for (int i = 0; i < p->count; i++)
		n += p->item[i]->state == PROMPT_SCHEDULED;
	return n;
}

void prompts_remove(struct prompts *p, const struct prompt *which) {
	for (int i = 0; i < p->count; i++) {
		if (p->item[i] == which) {
			p->count--;
			memmove(&p->item[i], &p->item[i + 1],
				(size_t)(p->count - i) * sizeof *p->item);
			return;
		}
	}
}

void prompts_trim(struct prompts *p, int kept) {
	int applied = 0;
	for (int i = 0; i < p->count; i++)
		applied += p->item[i]->state == PROMPT_APPLIED;
	const struct prompt *current = prompts_current(p);
	for (int i = 0; i < p->count && applied > kept;) {
		struct prompt *q = p->item[i];
		if (q->state == PROMPT_APPLIED && q != current) {
			prompts_remove(p, q);
			free(q);
			applied--;
		} else {
			i++;
		}
	}
}
