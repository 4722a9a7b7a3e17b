/* SPDX-License-Identifier: Apache-2.0 */
/* The passes of a chunk: what a boundary decides, the transformer's passes, the
 * finished latent on its way to the lane. Thread: the backend's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/generator_impl.h"

/* Encodes the waiting prompt and decides how it takes hold. */
static int change_apply(struct live *g, struct error *e) {
	struct loaded *l = g->l;
	struct tensor context;
	int r = prompts_get(l->prompts, g->change.text, &context, l->scratch, e);
	if (r < 0)
		return r;
	dit_text_set(l->dit, g->s->text, &context, l->scratch);
	if (g->tap.context)
		g->tap.context(g->tap.ctx, &context);
	if (g->scene_chunk > 0 && g->change.transition == TRANSITION_CUT)
		live_scene_begin(g);
	if (g->scene_chunk > 0 && g->change.transition == TRANSITION_RECACHE) {
		reread_begin(&g->reread, l, g->s);
		g->stage = STAGE_RECACHE;
	}
	g->revision = g->change.revision;
	g->prompted = true;
	free(g->change.text);
	g->change.text = NULL;
	return 0;
}

static int chunk_begin(struct live *g, struct error *e) {
	struct loaded *l = g->l;
	const struct model *m = l->m;
	bool first = g->scene_chunk == 0 && m->first_steps > 0;
	struct sampler_steps steps = {
		.count = first ? m->first_steps : m->steps, .renoise_above = m->renoise_above};
	memcpy(steps.timestep, first ? m->first_timestep : m->timestep, sizeof steps.timestep);
	int r = sampler_begin(g->s->sampler, &steps, g->chunk, e);
	if (r < 0)
		return r;
	kvcache_begin(g->s->cache, m->chunk_frames);
	dit_stream_begin(l->dit, g->s->stream, l->sparsity, g->s->cache, m->chunk_frames,
		g->scene_chunk, g->seed + (uint64_t)g->chunk);
	const struct sparsity_plan *plan = dit_stream_plan(g->s->stream);
	g->account[g->now].info.kept_blocks = plan->keep;
	g->account[g->now].info.visible_blocks = plan->blocks;
	g->pictures_out = 0;
	g->decoded = 0;
	g->stage = STAGE_DENOISE;
	return 0;
}

int stage_boundary(struct live *g, struct error *e) {
	if (g->reset) {
		g->reset = false;
		g->seed = g->reset_seed;
		g->chunk = 0;
		sampler_seed(g->s->sampler, g->seed);
		live_scene_begin(g);
	}
	g->now = (g->now + 1) % ACCOUNTS;
	g->account[g->now] = (struct account){.info.chunk = g->chunk};
	int r = g->change.text ? change_apply(g, e) : 0;
	if (r == 0 && !g->prompted)
		r = error_set(e, -EINVAL, "a generator needs a prompt before its first step");
	g->pictures = decoder_pictures(g->l->decoder, g->s->decoder, g->l->m->chunk_frames);
	return r < 0 || g->stage == STAGE_RECACHE ? r : chunk_begin(g, e);
}

int stage_recache(struct live *g, struct error *e) {
	bool more;
	int r = reread_step(&g->reread, g->l, g->s, &more, e);
	return r < 0 || more ? r : chunk_begin(g, e);
}

static int pass_run(struct live *g, const struct tensor *x, struct tensor *flow, double timestep,
	struct error *e) {
	const struct dit_pass pass = {
		.x = x,
		.flow = flow,
		.timestep = timestep,
		.text = g->s->text,
		.stream = g->s->stream,
		.cache = g->s->cache,
	};
	return dit_forward(g->l->dit, &pass, g->l->scratch, e);
}

/* Hands the finished latent to the lane, in a copy that the next chunk's passes do
 * not write over. */
static void latent_finish(struct live *g) {
	struct loaded *l = g->l;
	int at = g->now % SLOT_FINISHED;
	const struct tensor *latent = sampler_latent(g->s->sampler);
	if (g->s->finished_read[at])
		backend_order(l->be, l->lane, g->s->finished_read[at]);
	backend_copy(l->be, g->s->finished[at].data, latent->data, tensor_bytes(latent));
	g->latent_mark = backend_mark(l->be);
	backend_order(l->lane, l->be, g->latent_mark);
	g->lane_before = backend_mark(l->lane);
}

int stage_denoise(struct live *g, struct error *e) {
	struct sampler *s = g->s->sampler;
	int r = pass_run(g, sampler_input(s), sampler_flow(s), sampler_timestep(s), e);
	if (r < 0 || sampler_advance(s))
		return r;
	latent_finish(g);
	reread_keep(g->l, g->s, sampler_latent(s));
	if (g->tap.latent)
		g->tap.latent(g->tap.ctx, g->chunk, sampler_latent(s));
	g->stage = g->l->m->chunk_frames > 1 ? STAGE_DECODE : STAGE_REFRESH;
	return 0;
}

int stage_refresh(struct live *g, struct error *e) {
	int r = pass_run(g, sampler_latent(g->s->sampler), NULL, g->l->m->context_noise, e);
	if (r == 0)
		kvcache_commit(g->s->cache);
	backend_order(g->l->lane, g->l->be, backend_mark(g->l->be));
	g->stage = STAGE_DECODE_LAST;
	return r;
}
