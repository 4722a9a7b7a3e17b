/* SPDX-License-Identifier: Apache-2.0 */
/* The stages of a chunk in order, their accounts, and what a failure does.
 * Thread: the backend's. */
#include "engine/generator_impl.h"

/* All of the chunk is enqueued: what is known of it goes into the account. */
static void chunk_end(struct live *g) {
	struct chunk_info *info = &g->account[g->now].info;
	info->revision = g->revision;
	info->frames = g->pictures;
	info->kv_bytes = kvcache_bytes(g->s->cache);
	g->stage = STAGE_SETTLE;
}

/* The next chunk may begin once this one's latent is done; pictures from before it
 * are done earlier and must not lie around meanwhile. */
static int settle(struct live *g, bool sleep, struct error *e) {
	struct loaded *l = g->l;
	if (!backend_reached(l->be, g->latent_mark)) {
		uint64_t next = sleep ? arrivals_next(l) : 0;
		if (!sleep)
			return 0;
		if (next && next <= g->lane_before)
			return backend_wait(l->lane, next, e);
		int r = backend_wait(l->be, g->latent_mark, e);
		if (r < 0)
			return r;
	}
	if (g->pictures == 0) { /* none to close the account with */
		account_close(&g->account[g->now]);
		g->done = g->account[g->now].info;
	}
	g->chunk++;
	g->scene_chunk++;
	g->stage = STAGE_BOUNDARY;
	return 0;
}

/* Which stream a stage works on, and whose time it is. */
static const struct {
	enum account_part part;
	bool lane;
} stages[] = {
	[STAGE_BOUNDARY] = {ACCOUNT_CONDITION, false},
	[STAGE_RECACHE] = {ACCOUNT_CONDITION, false},
	[STAGE_DENOISE] = {ACCOUNT_DIT, false},
	[STAGE_DECODE] = {ACCOUNT_DECODE, true},
	[STAGE_REFRESH] = {ACCOUNT_DIT, false},
	[STAGE_DECODE_LAST] = {ACCOUNT_DECODE, true},
};

static int stage_enqueue(struct live *g, bool *blocked, struct error *e) {
	switch (g->stage) {
	case STAGE_BOUNDARY:
		return stage_boundary(g, e);
	case STAGE_RECACHE:
		return stage_recache(g, e);
	case STAGE_DENOISE:
		return stage_denoise(g, e);
	case STAGE_REFRESH:
		return stage_refresh(g, e);
	default:
		return stage_decode(g, blocked, e);
	}
}

static int stage_run(struct live *g, bool *blocked, struct error *e) {
	if (g->stage == STAGE_FAILED)
		return error_set(e, g->failure.code, "%s", g->failure.text);
	if (g->stage == STAGE_SETTLE)
		return settle(g, true, e);
	enum stage stage = g->stage;
	struct backend *be = stages[stage].lane ? g->l->lane : g->l->be;
	uint64_t from = account_begin(be);
	int r = stage_enqueue(g, blocked, e);
	if (!*blocked)
		account_end(&g->account[g->now], stages[stage].part, be, from);
	if (r < 0 || stage != STAGE_DECODE_LAST || *blocked)
		return r;
	chunk_end(g);
	return settle(g, false, e);
}

int live_step(struct generator *base, enum progress *p, struct error *e) {
	struct live *g = live_of(base);
	struct loaded *l = g->l;
	struct error own = {0};
	bool blocked = false;
	int r = stage_run(g, &blocked, &own);
	if (r == 0 && blocked && live_pending(base)) { /* its own pictures fill the pool */
		r = backend_wait(l->lane, g->waiting[g->waiting_first].mark, &own);
		blocked = false;
	}
	if (r == 0)
		r = backend_error(l->be, &own);
	if (r < 0) {
		if (backend_sticky(l->be))
			l->broken = true;
		else
			backend_clear(l->be);
		g->failure = own;
		g->stage = STAGE_FAILED;
		return error_set(e, r, "%s", own.text);
	}
	*p = blocked ? PROGRESS_BLOCKED : live_frames_ready(g) ? PROGRESS_FRAMES : PROGRESS_BUSY;
	return 0;
}
