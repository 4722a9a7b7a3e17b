/* SPDX-License-Identifier: Apache-2.0 */
/* A generator of a loaded model: its life, what it is asked for, what it answers,
 * and looking in. What is asked for waits here until the next chunk boundary takes
 * it up. Thread: the backend's. */
#include "engine/generator_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- life ---------------------------------------------------------------------- */

void live_scene_begin(struct live *g) {
	kvcache_restart(g->s->cache);
	decoder_restart(g->l->decoder, g->s->decoder);
	g->scene_chunk = 0;
	g->scene_start = true;
}

struct generator *live_create(struct engine *en, uint64_t seed, struct error *e) {
	struct loaded *l = (struct loaded *)en;
	int i = 0;
	while (i < l->slots && l->slot[i].used)
		i++;
	if (i == l->slots) {
		error_set(e, -ENOMEM, "all %d generators (generators_max) are in use", l->slots);
		return NULL;
	}
	struct live *g = calloc(1, sizeof *g + (size_t)l->frames_max * sizeof g->waiting[0]);
	if (!g) {
		error_set(e, -ENOMEM, "no memory for a generator");
		return NULL;
	}
	g->base.impl = &engine_impl_model;
	g->l = l;
	g->s = &l->slot[i];
	g->s->used = true;
	g->seed = seed;
	sampler_seed(g->s->sampler, seed);
	live_scene_begin(g);
	return &g->base;
}

void live_destroy(struct generator *base) {
	struct live *g = live_of(base);
	if (g->waiting_count > 0) /* the device may still be writing them */
		backend_sync(g->l->be, NULL);
	for (int i = 0; i < g->waiting_count; i++)
		frame_release(g->waiting[(g->waiting_first + i) % g->l->frames_max].frame);
	g->s->used = false;
	free(g->change.text);
	free(g);
}

int live_prompt(struct generator *base, const struct prompt_change *p, struct error *e) {
	struct live *g = live_of(base);
	if ((int)p->transition < 0 || p->transition >= TRANSITION_COUNT ||
		!g->l->base.info.transitions[p->transition])
		return error_set(e, -EINVAL, "transition: this model does not do \"%s\"",
			(int)p->transition >= 0 && p->transition < TRANSITION_COUNT
				? transition_name(p->transition)
				: "?");
	int tokens = tokenizer_count(g->l->tokenizer, p->text, e);
	if (tokens < 0)
		return tokens;
	char *text = strdup(p->text);
	if (!text)
		return error_set(e, -ENOMEM, "no memory for a prompt");
	free(g->change.text);
	g->change = (struct change){text, p->transition, p->revision};
	return 0;
}

int live_reset(struct generator *base, uint64_t seed, struct error *e) {
	(void)e;
	struct live *g = live_of(base);
	g->reset = true;
	g->reset_seed = seed;
	return 0;
}

void live_resume_at(struct generator *base, int64_t chunk, int64_t index) {
	live_of(base)->chunk = chunk;
	live_of(base)->index = index;
}

/* ---- what is asked ---------------------------------------------------------------- */

bool live_boundary(const struct generator *base) {
	return ((const struct live *)base)->stage == STAGE_BOUNDARY;
}

int64_t live_chunk(const struct generator *base) {
	const struct live *g = (const struct live *)base;
	return g->stage == STAGE_BOUNDARY && g->reset ? 0 : g->chunk;
}

int live_chunk_frames(const struct generator *base) {
	const struct live *g = (const struct live *)base;
	if (g->stage != STAGE_BOUNDARY)
		return g->pictures;
	bool cut = g->reset || (g->change.text && g->change.transition == TRANSITION_CUT);
	if (cut)
		return g->l->base.info.first_chunk_frames;
	return decoder_pictures(g->l->decoder, g->s->decoder, g->l->m->chunk_frames);
}

struct chunk_info live_chunk_info(const struct generator *base) {
	return ((const struct live *)base)->done;
}

/* ---- looking in -------------------------------------------------------------------- */

void generator_watch(struct generator *base, const struct generator_tap *tap) {
	live_of(base)->tap = *tap;
}

void generator_feed(struct generator *base, struct noise_source source) {
	sampler_source(live_of(base)->s->sampler, source);
}

struct backend *engine_backend(const struct engine *en) {
	return ((const struct loaded *)en)->be;
}

const struct model *engine_model_config(const struct engine *en) {
	return ((const struct loaded *)en)->m;
}

const struct decoder *engine_decoder(const struct engine *en) {
	return ((const struct loaded *)en)->decoder;
}

int engine_prompt_ids(const struct engine *en, const char *utf8, int32_t *ids, struct error *e) {
	const struct loaded *l = (const struct loaded *)en;
	char *clean = tokenizer_clean(l->tokenizer, utf8, e);
	int n = clean ? tokenizer_encode(l->tokenizer, clean, ids, e) : -EINVAL;
	free(clean);
	return n;
}
