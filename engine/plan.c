/* SPDX-License-Identifier: Apache-2.0 */
/* The memory plan: what a loaded model takes beside its weights, measured with
 * the very code that then allocates, said in numbers, and checked before
 * anything of it is taken. Thread: the backend's. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/loaded.h"

#define MIB(bytes) ((bytes) >> 20)

struct plan {
	size_t slot, kv, decoder; /* of one generator; of it */
	size_t scratch, lane_scratch; /* the second is 0 when they are one */
	size_t recordings;
	size_t weights, free, need, missing; /* free: beside the weights */
	int fit; /* generators that there is room for */
};

/* Layouts of the window times passes, and as many decodes of a chunk. */
static int keys_of_slot(const struct loaded *l) {
	const struct model *m = l->m;
	int steps = m->steps > m->first_steps ? m->steps : m->first_steps;
	int chunks = m->cache.window_frames / m->chunk_frames;
	return 2 * chunks * (steps + 1) + SLOT_FINISHED * m->chunk_frames;
}

static int slot_measure(struct loaded *l, struct plan *p, struct error *e) {
	struct slot s = {.arena = arena_measure(l->be)};
	struct arena *scratch = arena_measure(l->be), *lane = arena_measure(l->be);
	int r = s.arena && scratch && lane ? slot_build(l, &s, e)
					   : error_set(e, -ENOMEM, "no memory to plan with");
	if (r == 0) {
		p->slot = arena_peak(s.arena);
		p->kv = kvcache_bytes(s.cache);
		p->decoder = decoder_state_bytes(s.decoder);
		slot_measure_scratch(l, scratch);
		r = slot_measure_lane(l, &s, lane, e);
		p->scratch = arena_peak(scratch);
		p->lane_scratch = arena_peak(lane);
	}
	if (l->lane == l->be) { /* one works at a time */
		p->scratch = p->scratch > p->lane_scratch ? p->scratch : p->lane_scratch;
		p->lane_scratch = 0;
	}
	slot_drop(&s);
	arena_destroy(scratch);
	arena_destroy(lane);
	return r;
}

static size_t less(size_t a, size_t b) {
	return a > b ? a - b : 0;
}

/* What is free for this plan, `limit` of the whole device and weights that are not
 * there yet considered. */
static void plan_fill(const struct loaded *l, struct plan *p, size_t limit, size_t coming) {
	size_t now = backend_info(l->be).bytes_free, held = l->own_bytes + l->weights_bytes;
	if (limit && less(limit, held) < now)
		now = less(limit, held);
	p->weights = l->weights_bytes + coming;
	p->free = less(now, coming);
	size_t each = p->slot + backend_recording_bytes(l->be, keys_of_slot(l));
	size_t common = p->scratch + p->lane_scratch;
	p->recordings = backend_recording_bytes(l->be, l->slots * keys_of_slot(l));
	p->need = common + p->slot * (size_t)l->slots + p->recordings;
	p->missing = less(p->need + coming, now) + (limit ? less(held, limit) : 0);
	p->fit = (int)(less(p->free, common) / each);
}

static void plan_say(const struct loaded *l, const struct plan *p) {
	loaded_log(l, LOG_LEVEL_INFO,
		"memory in MiB: weights %zu, the device's own %zu; %d generators of %zu (keys and "
		"values %zu, decoder %zu); scratch %zu + %zu; recordings %zu; needed beside "
		"weights %zu, free %zu, headroom %zu, room for %d generators",
		MIB(p->weights), MIB(l->own_bytes), l->slots, MIB(p->slot), MIB(p->kv),
		MIB(p->decoder), MIB(p->scratch), MIB(p->lane_scratch), MIB(p->recordings),
		MIB(p->need), MIB(p->free), MIB(less(p->free, p->need)), p->fit);
}

static int plan_check(const struct loaded *l, const struct plan *p, size_t limit, struct error *e) {
	if (p->missing == 0)
		return 0;
	char fewer[64] = "";
	if (p->fit > 0)
		snprintf(fewer, sizeof fewer, "there is room for %d; ", p->fit);
	return error_set(e, -ENOMEM,
		"device memory: %zu MiB missing%s (weights %zu MiB, generators_max %d x %zu MiB, "
		"scratch %zu MiB, recordings %zu MiB, %zu MiB free beside the weights): %slower "
		"the "
		"number of sessions (generators_max), cache.window_frames (%d), the picture size "
		"or "
		"precision (%s)",
		MIB(p->missing) + 1, limit ? " of the budget" : "", MIB(p->weights), l->slots,
		MIB(p->slot), MIB(p->scratch + p->lane_scratch), MIB(p->recordings), MIB(p->free),
		fewer, l->m->cache.window_frames, precision_name(l->precision));
}

/* The least that weights can take: a byte count for each element, without the
 * text encoder's embeddings, its largest tensor, which stay on the host. */
static size_t weights_least(const struct loaded *l) {
	static const int bytes[] = {[PRECISION_F32] = 4,
		[PRECISION_BF16] = 2,
		[PRECISION_FP8] = 1,
		[PRECISION_INT8] = 1};
	const struct weights *const part[] = {l->text_weights, l->dit_weights, l->decoder_weights};
	int64_t sum = 0;
	for (int i = 0; i < 3; i++) {
		int64_t largest = 0;
		for (int k = 0; k < weights_count(part[i]); k++) {
			struct tensor t;
			if (weights_find(part[i], weights_name(part[i], k), &t) < 0)
				continue;
			sum += tensor_count(&t);
			largest = tensor_count(&t) > largest ? tensor_count(&t) : largest;
		}
		sum -= part[i] == l->text_weights ? largest : 0;
	}
	return (size_t)sum * (size_t)bytes[l->precision];
}

int plan_early(struct loaded *l, size_t limit, struct error *e) {
	struct plan p = {0};
	int r = slot_measure(l, &p, e);
	if (r < 0)
		return r;
	plan_fill(l, &p, limit, weights_least(l));
	return plan_check(l, &p, limit, e);
}

static void plan_publish(struct loaded *l, const struct plan *p) {
	struct model_info *i = &l->base.info;
	i->weights_bytes = l->weights_bytes;
	i->generator_bytes = p->slot;
	i->kv_bytes = p->kv;
	i->decoder_bytes = p->decoder;
	i->scratch_bytes = l->own_bytes + p->scratch + p->lane_scratch;
	i->recordings_bytes = p->recordings;
	i->headroom_bytes = p->free - p->need;
	i->generators_fit = p->fit;
}

int plan_slots(struct loaded *l, size_t limit, struct error *e) {
	struct plan p = {0};
	int r = slot_measure(l, &p, e);
	if (r < 0)
		return r;
	plan_fill(l, &p, limit, 0);
	plan_say(l, &p);
	r = plan_check(l, &p, limit, e);
	if (r < 0)
		return r;
	l->slot = calloc((size_t)l->slots, sizeof *l->slot);
	l->scratch = arena_create(l->be, p.scratch, e);
	l->lane_scratch = l->lane == l->be ? l->scratch : arena_create(l->be, p.lane_scratch, e);
	if (!l->slot || !l->scratch || !l->lane_scratch)
		return error_set(e, -ENOMEM, "no memory for %d generators", l->slots);
	for (int i = 0; i < l->slots && r == 0; i++) {
		l->slot[i].arena = arena_create(l->be, p.slot, e);
		r = l->slot[i].arena ? slot_build(l, &l->slot[i], e) : e->code;
	}
	plan_publish(l, &p);
	return r;
}
