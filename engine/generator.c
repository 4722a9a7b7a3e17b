/* SPDX-License-Identifier: Apache-2.0 */
/* One endless video as a state machine that its caller pulls. A chunk goes
 * through the stages in order; each call of live_step enqueues one stage's next
 * piece of work and returns. The last latent frame is decoded after the refresh
 * pass, the others before it, so that pictures come out as early as they can and
 * the account of a chunk is complete when its last picture is out.
 *
 * Passes run on the backend's own stream, decoding on its lane, beside the passes
 * that follow. The host is ahead of the device by what is left of a chunk once its
 * latent is done: the refresh pass and decoding. That keeps the device busy
 * while the next chunk is prepared, and a new prompt waits for no more than that.
 * Thread: the backend's; frames are released on any. */
#include "engine/generator.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/account.h"
#include "engine/loaded.h"
#include "engine/reread.h"

enum stage {
	STAGE_BOUNDARY, /* between chunks: apply what was asked for */
	STAGE_RECACHE, /* reread the memory under a new prompt, pass by pass */
	STAGE_DENOISE,
	STAGE_DECODE, /* all latent frames but the last */
	STAGE_REFRESH, /* keys and values of the clean latent */
	STAGE_DECODE_LAST,
	STAGE_SETTLE, /* all is enqueued: wait for the latent */
	STAGE_FAILED
};

struct change {
	char *text; /* owned; NULL: no change waits */
	enum transition transition;
	uint32_t revision;
};

/* A picture on its way out of the device. */
struct waiting {
	struct frame *frame;
	uint64_t mark; /* of the lane */
	int account;
};

/* Chunks whose pictures may be outstanding; a caller that leaves more lying loses
 * the oldest account. */
#define ACCOUNTS 8

struct live {
	struct generator base;
	struct loaded *l;
	struct slot *s;
	uint64_t seed;
	enum stage stage;
	int64_t chunk; /* since create or reset */
	int64_t scene_chunk; /* since the scene began */
	int64_t index; /* of the next picture */
	uint32_t revision;
	bool prompted; /* a prompt is in effect */
	bool scene_start; /* the next picture begins a scene */
	struct change change;
	bool reset;
	uint64_t reset_seed;
	struct reread reread;
	int decoded; /* latent frames of this chunk */
	int pictures; /* that this chunk gives */
	int pictures_out; /* of them, handed out */
	uint64_t latent_mark; /* behind the denoising passes of the chunk */
	uint64_t lane_before; /* mark of the lane before its pictures */
	struct account account[ACCOUNTS];
	int now; /* the account of the chunk in progress */
	struct chunk_info done;
	struct error failure;
	struct generator_tap tap;
	int waiting_first, waiting_count;
	struct waiting waiting[]; /* ring of frames_max */
};

static struct live *live_of(struct generator *g) {
	return (struct live *)g;
}

/* ---- life ---------------------------------------------------------------------- */

static void scene_begin(struct live *g) {
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
	scene_begin(g);
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

/* ---- stages ------------------------------------------------------------------------- */

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
		scene_begin(g);
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
	struct sampler_steps steps = {m->solver, first ? m->first_steps : m->steps, {0}};
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

static int denoise(struct live *g, struct error *e) {
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

static int refresh(struct live *g, struct error *e) {
	int r = pass_run(g, sampler_latent(g->s->sampler), NULL, g->l->m->context_noise, e);
	if (r == 0)
		kvcache_commit(g->s->cache);
	backend_order(g->l->lane, g->l->be, backend_mark(g->l->be));
	g->stage = STAGE_DECODE_LAST;
	return r;
}

static int boundary(struct live *g, struct error *e) {
	if (g->reset) {
		g->reset = false;
		g->seed = g->reset_seed;
		g->chunk = 0;
		sampler_seed(g->s->sampler, g->seed);
		scene_begin(g);
	}
	g->now = (g->now + 1) % ACCOUNTS;
	g->account[g->now] = (struct account){.info.chunk = g->chunk};
	int r = g->change.text ? change_apply(g, e) : 0;
	if (r == 0 && !g->prompted)
		r = error_set(e, -EINVAL, "a generator needs a prompt before its first step");
	g->pictures = decoder_pictures(g->l->decoder, g->s->decoder, g->l->m->chunk_frames);
	return r < 0 || g->stage == STAGE_RECACHE ? r : chunk_begin(g, e);
}

static int recache(struct live *g, struct error *e) {
	bool more;
	int r = reread_step(&g->reread, g->l, g->s, &more, e);
	return r < 0 || more ? r : chunk_begin(g, e);
}

static void picture_emit(struct live *g, int row) {
	struct loaded *l = g->l;
	struct frame *f = frame_pool_take(g->s->pool);
	struct tensor yuv = tensor_rows(g->s->yuv, row, 1);
	backend_download_async(l->lane, frame_pool_pixels(f), yuv.data, tensor_bytes(&yuv));
	f->index = g->index++;
	f->chunk = g->chunk;
	f->frame_in_chunk = g->pictures_out++;
	f->frames_in_chunk = g->pictures;
	f->revision = g->revision;
	f->scene_start = g->scene_start;
	g->scene_start = false;
	int at = (g->waiting_first + g->waiting_count++) % l->frames_max;
	g->waiting[at] = (struct waiting){f, backend_mark(l->lane), g->now};
}

/* Pictures of one latent frame, which are in s->rgb, out to the host. */
static void pictures_emit(struct live *g, int n) {
	struct loaded *l = g->l;
	float gain, offset;
	struct tensor rgb = tensor_rows(g->s->rgb, 0, n), yuv = tensor_rows(g->s->yuv, 0, n);
	decoder_range(l->decoder, &gain, &offset);
	backend_ops(l->lane)->rgb_to_i420(l->lane, &yuv, &rgb, gain, offset);
	if (g->tap.pictures) {
		backend_sync(l->be, NULL); /* a tap reads from any stream */
		g->tap.pictures(g->tap.ctx, g->chunk, &rgb);
	}
	for (int i = 0; i < n; i++)
		picture_emit(g, i);
}

/* One latent frame to pictures. Blocked when the pool has no room for them. */
static int decode(struct live *g, bool *blocked, struct error *e) {
	struct loaded *l = g->l;
	int n = decoder_pictures(l->decoder, g->s->decoder, 1), at = g->now % SLOT_FINISHED;
	if (frame_pool_available(g->s->pool) < n) {
		*blocked = true;
		return 0;
	}
	struct tensor latent = tensor_rows(g->s->finished[at], g->decoded, 1);
	int r = decoder_decode(l->decoder, g->s->decoder, &g->s->rgb, &latent, l->lane_scratch, e);
	if (r < 0)
		return r;
	if (n > 0)
		pictures_emit(g, n);
	g->s->finished_read[at] = backend_mark(l->lane);
	if (n > 0)
		arrivals_add(l, g->s->finished_read[at]);
	g->decoded++;
	if (g->stage == STAGE_DECODE && g->decoded == l->m->chunk_frames - 1)
		g->stage = STAGE_REFRESH;
	return 0;
}

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

static bool frames_ready(const struct live *g) {
	struct backend *lane = g->l->lane;
	return live_pending(&g->base) && backend_reached(lane, g->waiting[g->waiting_first].mark) &&
	       backend_error(lane, NULL) == 0;
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
		return boundary(g, e);
	case STAGE_RECACHE:
		return recache(g, e);
	case STAGE_DENOISE:
		return denoise(g, e);
	case STAGE_REFRESH:
		return refresh(g, e);
	default:
		return decode(g, blocked, e);
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
	*p = blocked ? PROGRESS_BLOCKED : frames_ready(g) ? PROGRESS_FRAMES : PROGRESS_BUSY;
	return 0;
}

bool live_pending(const struct generator *base) {
	const struct live *g = (const struct live *)base;
	return g->waiting_count > 0 && g->stage != STAGE_FAILED && !backend_sticky(g->l->be);
}

int live_await(struct engine *en) {
	struct loaded *l = (struct loaded *)en;
	uint64_t next = backend_sticky(l->be) ? 0 : arrivals_next(l);
	return next && backend_wait(l->lane, next, NULL) == 0;
}

int live_frames(struct generator *base, struct frame **out, int max) {
	struct live *g = live_of(base);
	int n = 0;
	while (n < max && frames_ready(g)) {
		struct waiting w = g->waiting[g->waiting_first];
		g->waiting_first = (g->waiting_first + 1) % g->l->frames_max;
		g->waiting_count--;
		out[n++] = w.frame;
		if (w.frame->frame_in_chunk + 1 < w.frame->frames_in_chunk)
			continue;
		account_close(&g->account[w.account]);
		g->done = g->account[w.account].info;
		break;
	}
	return n;
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
