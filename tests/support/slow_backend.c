/* SPDX-License-Identifier: Apache-2.0 */
/* See slow_backend.h. All state is here, for a few backends at a time. */
#include "tests/support/slow_backend.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend_impl.h"

enum { BACKENDS = 4, LANES = 2, MARKS = 1 << 16, COPIES = 1 << 14 };

/* A download that is not done. */
struct copy {
	void *to, *bytes;
	size_t size;
	uint64_t before; /* the first mark behind it */
};

/* What lies behind `at` of this lane runs after `mark` of the other. */
struct order {
	uint64_t at, mark;
};

struct slow {
	struct backend *be;
	struct slow *other;
	uint64_t marks, done;
	struct copy copy[COPIES];
	int copies;
	struct order order[MARKS];
	int orders, followed;
};
static struct slow all[BACKENDS][LANES];
static struct backend_driver real, slow;
static int waits;

static struct slow *lane_of(const struct backend *be) {
	int i = 0;
	while (all[i / LANES][i % LANES].be != be)
		i++;
	return &all[i / LANES][i % LANES];
}

/* Everything before `mark` of a lane is done, and what that waited for. */
static void complete(struct slow *s, uint64_t mark) {
	if (mark <= s->done)
		return;
	s->done = mark;
	for (; s->followed < s->orders && s->order[s->followed].at < mark; s->followed++)
		complete(s->other, s->order[s->followed].mark);
	int kept = 0;
	for (int k = 0; k < s->copies; k++) {
		struct copy c = s->copy[k];
		if (c.before > mark) {
			s->copy[kept++] = c;
			continue;
		}
		memcpy(c.to, c.bytes, c.size);
		free(c.bytes);
	}
	s->copies = kept;
}

static uint64_t slow_mark(struct backend *be) {
	real.mark(be);
	return ++lane_of(be)->marks;
}

static int slow_reached(struct backend *be, uint64_t mark) {
	return be->root->sticky || mark <= lane_of(be)->done;
}

static int slow_wait(struct backend *be, uint64_t mark, struct error *e) {
	waits++;
	if (!be->root->sticky)
		complete(lane_of(be), mark);
	return backend_error(be, e);
}

static int slow_sync(struct backend *be, struct error *e) {
	struct slow *s = lane_of(be);
	if (!be->root->sticky) {
		complete(s, slow_mark(s->be));
		complete(s->other, slow_mark(s->other->be));
	}
	return backend_error(be, e);
}

static void slow_download_async(struct backend *be, void *dst, const void *src, size_t bytes) {
	struct slow *s = lane_of(be);
	struct copy c = {dst, malloc(bytes), bytes, s->marks + 1};
	if (!c.bytes || s->copies == COPIES)
		abort();
	memcpy(c.bytes, src, bytes);
	s->copy[s->copies++] = c;
}

static void slow_download(struct backend *be, void *dst, const void *src, size_t bytes) {
	struct slow *s = lane_of(be);
	complete(s, slow_mark(be));
	real.download(be, dst, src, bytes);
}

static void slow_order(struct backend *be, struct backend *after, uint64_t mark) {
	struct slow *s = lane_of(be);
	if (be == after || s->orders == MARKS)
		abort();
	s->order[s->orders++] = (struct order){s->marks, mark};
}

static struct backend *slow_lane(struct backend *be) {
	return lane_of(be->root)->other->be;
}

static uint64_t slow_allocations(const struct backend *be) {
	return real.allocations(be->root) + real.allocations(lane_of(be->root)->other->be);
}

static size_t slow_allocated(const struct backend *be) {
	return real.allocated(be->root) + real.allocated(lane_of(be->root)->other->be);
}

static void slow_destroy(struct backend *be) {
	struct slow *s = lane_of(be);
	for (int i = 0; i < LANES; i++) {
		for (int k = 0; k < s[i].copies; k++)
			free(s[i].copy[k].bytes);
	}
	real.destroy(s[1].be);
	real.destroy(be);
	memset(s, 0, LANES * sizeof *s);
}

void slow_backend_break(struct backend *be) {
	backend_fail(be, -EIO, "the device is lost");
	be->root->sticky = 1;
}

int slow_backend_waits(void) {
	return waits;
}

struct backend *__real_cpu_backend_create(
	const struct backend_config *c, int device, struct error *e);
struct backend *__wrap_cpu_backend_create(
	const struct backend_config *c, int device, struct error *e);

struct backend *__wrap_cpu_backend_create(
	const struct backend_config *c, int device, struct error *e) {
	struct backend *made[LANES] = {__real_cpu_backend_create(c, device, e)};
	made[1] = made[0] ? __real_cpu_backend_create(c, device, e) : NULL;
	int at = 0;
	while (at < BACKENDS && all[at][0].be)
		at++;
	if (!made[1] || at == BACKENDS)
		return NULL;
	real = slow = *made[0]->driver;
	slow.destroy = slow_destroy;
	slow.allocated = slow_allocated;
	slow.allocations = slow_allocations;
	slow.mark = slow_mark;
	slow.reached = slow_reached;
	slow.wait = slow_wait;
	slow.sync = slow_sync;
	slow.download = slow_download;
	slow.download_async = slow_download_async;
	slow.lane = slow_lane;
	slow.order = slow_order;
	for (int i = 0; i < LANES; i++) {
		all[at][i].be = made[i];
		all[at][i].other = &all[at][1 - i];
		made[i]->driver = &slow;
		made[i]->root = made[0];
	}
	return made[0];
}
