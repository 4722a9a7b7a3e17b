/* SPDX-License-Identifier: Apache-2.0 */
/* What a chunk cost: its work is enqueued now and done later, so the account
 * holds marks of the device until they are reached, and then times. Thread: the backend's. */
#ifndef ENGINE_ACCOUNT_H
#define ENGINE_ACCOUNT_H
#include "engine/engine.h"
#include "kernels/backend.h"

#define ACCOUNT_SPANS_MAX 64 /* more grow into the last one */

enum account_part { ACCOUNT_CONDITION, ACCOUNT_DIT, ACCOUNT_DECODE, ACCOUNT_PARTS };

struct account {
	struct chunk_info info;
	int count;
	struct account_span {
		enum account_part part;
		struct backend *be;
		uint64_t from, to;
	} span[ACCOUNT_SPANS_MAX];
};

/* Begins a piece of work on `be`: returns the mark for account_end. */
uint64_t account_begin(struct backend *be);
void account_end(struct account *a, enum account_part part, struct backend *be, uint64_t from);
/* Once all its work is done: fills the times of a->info. */
void account_close(struct account *a);
#endif
