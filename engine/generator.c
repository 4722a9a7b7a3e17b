/* SPDX-License-Identifier: Apache-2.0 */
/* One endless video as a state machine that its caller pulls. A chunk goes
 * through the stages in order; each call of live_step does one stage's next piece
 * of work and returns. The last latent frame is decoded after the refresh pass,
 * the others before it, so that pictures come out as early as they can and the
 * account of a chunk is complete when its last picture is out.
 * Thread: the backend's; frames are released on any. */
#include "engine/generator.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/loaded.h"
#include "engine/reread.h"

enum stage {
	STAGE_BOUNDARY, /* between chunks: apply what was asked for */
	STAGE_RECACHE, /* reread the memory under a new prompt, pass by pass */
	STAGE_DENOISE,
	STAGE_DECODE, /* all latent frames but the last */
	STAGE_REFRESH, /* keys and values of the clean latent */
	STAGE_DECODE_LAST,
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
	uint64_t mark;
};

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
	struct chunk_info now, done;
	struct error failure;
	struct generator_tap tap;
	int waiting_first, waiting_count;
	struct waiting waiting[]; /* ring of frames_max */
};

static struct live *live_of(struct generator *g) {
	return (struct live *)g;
}

static int64_t clock_us(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
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
	struct sampler_steps steps = {.count = first ? m->first_steps : m->steps};
	memcpy(steps.timestep, first ? m->first_timestep : m->timestep, sizeof steps.timestep);
	int r = sampler_begin(g->s->sampler, &steps, g->chunk, e);
	if (r < 0)
		return r;
	kvcache_begin(g->s->cache, m->chunk_frames);
	dit_stream_begin(l->dit, g->s->stream, l->sparsity, g->s->cache, m->chunk_frames,
		g->scene_chunk, g->seed + (uint64_t)g->chunk);
	const struct sparsity_plan *plan = dit_stream_plan(g->s->stream);
	g->now.kept_blocks = plan->keep;
	g->now.visible_blocks = plan->blocks;
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

static int denoise(struct live *g, struct error *e) {
	struct sampler *s = g->s->sampler;
	int r = pass_run(g, sampler_input(s), sampler_flow(s), sampler_timestep(s), e);
	if (r < 0 || sampler_advance(s))
		return r;
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
	g->now = (struct chunk_info){.chunk = g->chunk};
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
	backend_download_async(l->be, frame_pool_pixels(f), yuv.data, tensor_bytes(&yuv));
	f->index = g->index++;
	f->chunk = g->chunk;
	f->frame_in_chunk = g->pictures_out++;
	f->frames_in_chunk = g->pictures;
	f->revision = g->revision;
	f->scene_start = g->scene_start;
	g->scene_start = false;
	int at = (g->waiting_first + g->waiting_count++) % l->frames_max;
	g->waiting[at] = (struct waiting){f, backend_mark(l->be)};
}

/* One latent frame to pictures. Blocked when the pool has no room for them. */
static int decode(struct live *g, bool *blocked, struct error *e) {
	struct loaded *l = g->l;
	int n = decoder_pictures(l->decoder, g->s->decoder, 1);
	if (frame_pool_available(g->s->pool) < n) {
		*blocked = true;
		return 0;
	}
	struct tensor latent = tensor_rows(*sampler_latent(g->s->sampler), g->decoded, 1);
	int r = decoder_decode(l->decoder, g->s->decoder, &g->s->rgb, &latent, l->scratch, e);
	if (r < 0)
		return r;
	float gain, offset;
	decoder_range(l->decoder, &gain, &offset);
	if (n > 0) {
		struct tensor rgb = tensor_rows(g->s->rgb, 0, n),
			      yuv = tensor_rows(g->s->yuv, 0, n);
		backend_ops(l->be)->rgb_to_i420(l->be, &yuv, &rgb, gain, offset);
		if (g->tap.pictures)
			g->tap.pictures(g->tap.ctx, g->chunk, &rgb);
	}
	for (int i = 0; i < n; i++)
		picture_emit(g, i);
	g->decoded++;
	if (g->stage == STAGE_DECODE && g->decoded == l->m->chunk_frames - 1)
		g->stage = STAGE_REFRESH;
	return 0;
}

/* The chunk's pictures are all on their way: wait for the last, close the account. */
static int chunk_end(struct live *g, struct error *e) {
	int last = (g->waiting_first + g->waiting_count - 1) % g->l->frames_max;
	int r = g->waiting_count ? backend_wait(g->l->be, g->waiting[last].mark, e)
				 : backend_sync(g->l->be, e);
	g->now.revision = g->revision;
	g->now.frames = g->pictures;
	g->now.kv_bytes = kvcache_bytes(g->s->cache);
	g->chunk++;
	g->scene_chunk++;
	g->stage = STAGE_BOUNDARY;
	return r;
}

static bool frames_ready(const struct live *g) {
	return g->waiting_count > 0 && backend_reached(g->l->be, g->waiting[g->waiting_first].mark);
}

static int stage_run(struct live *g, bool *blocked, struct error *e) {
	int64_t start = clock_us(), *spent = &g->now.dit_us;
	int r = 0;
	switch (g->stage) {
	case STAGE_BOUNDARY:
		r = boundary(g, e);
		spent = &g->now.condition_us;
		break;
	case STAGE_RECACHE:
		r = recache(g, e);
		spent = &g->now.condition_us;
		break;
	case STAGE_DENOISE:
		r = denoise(g, e);
		break;
	case STAGE_REFRESH:
		r = refresh(g, e);
		break;
	case STAGE_DECODE:
		r = decode(g, blocked, e);
		spent = &g->now.decode_us;
		break;
	case STAGE_DECODE_LAST:
		r = decode(g, blocked, e);
		spent = &g->now.decode_us;
		if (r == 0 && !*blocked)
			r = chunk_end(g, e);
		break;
	case STAGE_FAILED:
		return error_set(e, g->failure.code, "%s", g->failure.text);
	}
	*spent += clock_us() - start;
	return r;
}

int live_step(struct generator *base, enum progress *p, struct error *e) {
	struct live *g = live_of(base);
	struct loaded *l = g->l;
	struct error own = {0};
	bool blocked = false;
	int r = stage_run(g, &blocked, &own);
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
	if (g->stage == STAGE_BOUNDARY)
		g->done = g->now;
	*p = blocked ? PROGRESS_BLOCKED : frames_ready(g) ? PROGRESS_FRAMES : PROGRESS_BUSY;
	return 0;
}

int live_frames(struct generator *base, struct frame **out, int max) {
	struct live *g = live_of(base);
	int n = 0;
	while (n < max && frames_ready(g)) {
		out[n++] = g->waiting[g->waiting_first].frame;
		g->waiting_first = (g->waiting_first + 1) % g->l->frames_max;
		g->waiting_count--;
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
