/* SPDX-License-Identifier: Apache-2.0 */
/* Pictures on their way to the host, of all generators: a ring of the lane's
 * marks, which come in order, so that the first one not reached is the next to
 * be. Thread: the backend's. */
#include "engine/loaded.h"

void arrivals_add(struct loaded *l, uint64_t mark) {
	struct arrivals *a = &l->arrivals;
	if (a->count == ARRIVALS_MAX) { /* the oldest is reached long since */
		a->first = (a->first + 1) % ARRIVALS_MAX;
		a->count--;
	}
	a->mark[(a->first + a->count++) % ARRIVALS_MAX] = mark;
}

uint64_t arrivals_next(struct loaded *l) {
	struct arrivals *a = &l->arrivals;
	while (a->count > 0 && backend_reached(l->lane, a->mark[a->first])) {
		a->first = (a->first + 1) % ARRIVALS_MAX;
		a->count--;
	}
	return a->count > 0 ? a->mark[a->first] : 0;
}
