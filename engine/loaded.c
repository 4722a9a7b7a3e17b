/* SPDX-License-Identifier: Apache-2.0 */
/* The implementation behind engine.h that runs a model: loading, and what the
 * model is. Sizes come from a measuring run of the very code that then
 * allocates. Thread: the backend's; prompt_tokens any. */
#include "engine/loaded.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sha256.h"

#define GENERATORS_LIMIT 64
#define FRAMES_LIMIT 4096
#define PROMPTS_LIMIT 4096
#define THREADS_LIMIT 1024
#define POOL_CHUNKS 3 /* frames_max by default, in chunks */
#define PROMPTS_CACHED 16 /* by default */
#define LINE_BYTES 600
/* A GPU loads a kernel's code when it is first called: the second chunk of a scene
 * is the first that selects blocks. */
#define WARM_CHUNKS_GPU 2

void loaded_log(const struct loaded *l, enum log_level level, const char *format, ...) {
	if (!l->log)
		return;
	char line[LINE_BYTES];
	va_list args;
	va_start(args, format);
	vsnprintf(line, sizeof line, format, args);
	va_end(args);
	l->log(l->log_ctx, level, line);
}

static void backend_line(void *ctx, const char *line) {
	loaded_log(ctx, LOG_LEVEL_INFO, "%s", line);
}

/* ---- configuration ---------------------------------------------------------- */

static int range_check(const char *name, int value, int low, int high, struct error *e) {
	if (value < low || value > high)
		return error_set(
			e, -EINVAL, "%s is %d: it must be from %d to %d", name, value, low, high);
	return 0;
}

static int config_check(const struct engine_config *c, struct error *e) {
	if (!c->model_dir || !*c->model_dir)
		return error_set(e, -EINVAL, "model: a folder with a manifest.json is needed");
	int r = range_check("threads", c->threads, 0, THREADS_LIMIT, e);
	if (r == 0)
		r = range_check("generators_max", c->generators_max, 0, GENERATORS_LIMIT, e);
	if (r == 0)
		r = range_check("prompts_cached", c->prompts_cached, 0, PROMPTS_LIMIT, e);
	if (r == 0)
		r = range_check("frames_max", c->frames_max, 0, FRAMES_LIMIT, e);
	return r;
}

static int precision_choose(struct loaded *l, const char *name, struct error *e) {
	enum precision p = PRECISION_AUTO;
	if (name && *name) {
		int i = precision_parse(name);
		if (i < 0)
			return error_set(e, -EINVAL,
				"precision \"%.20s\" must be one of auto, f32, bf16, fp8, int8",
				name);
		p = (enum precision)i;
	}
	if (p == PRECISION_AUTO) {
		p = backend_info(l->be).precision;
		if (!l->m->precision_allowed[p])
			p = PRECISION_F32;
	} else if (!l->m->precision_allowed[p]) {
		return error_set(e, -EINVAL,
			"precision %s: the manifest of %s does not allow it (see its "
			"\"precision\")",
			precision_name(p), l->m->name);
	}
	l->precision = p;
	return 0;
}

/* ---- weights ----------------------------------------------------------------- */

static uint64_t weights_size(const struct weights *w) {
	uint64_t sum = 0;
	for (int i = 0; i < weights_count(w); i++) {
		struct tensor t;
		if (weights_find(w, weights_name(w, i), &t) == 0)
			sum += tensor_bytes(&t);
	}
	return sum;
}

static int weights_all_open(struct loaded *l, struct error *e) {
	l->text_weights = model_weights(l->m, &l->m->text.files, e);
	l->dit_weights = l->text_weights ? model_weights(l->m, &l->m->dit.files, e) : NULL;
	l->decoder_weights = l->dit_weights ? model_weights(l->m, &l->m->decoder.files, e) : NULL;
	return l->decoder_weights ? 0 : e->code;
}

static void unused_warn(const struct loaded *l, const char *part, const struct weights *w) {
	int count;
	const char *first = weights_unused(w, &count);
	if (first)
		loaded_log(l, LOG_LEVEL_WARN, "%s: %d tensors of its files are not used, %s first",
			part, count, first);
}

/* How far loading is, in bytes of weights over all parts. */
struct loading {
	const struct engine_config *c;
	const char *stage;
	uint64_t before, end, done, total; /* of this part: first, last; reported; of all */
};

static void loading_report(void *ctx, uint64_t bytes) {
	struct loading *g = ctx;
	uint64_t done = g->before + bytes < g->end ? g->before + bytes : g->end;
	/* In steps of a hundredth: there are hundreds of tensors. */
	if (done < g->done + g->total / 100)
		return;
	g->done = done;
	g->c->progress(g->c->progress_ctx, g->stage, done, g->total);
}

/* The next part, of `bytes`, is loaded from w. */
static void loading_part(struct loading *g, const char *stage, struct weights *w, uint64_t bytes) {
	g->stage = stage;
	g->before = g->done = g->end;
	g->end += bytes;
	if (!g->c->progress)
		return;
	g->c->progress(g->c->progress_ctx, stage, g->before, g->total);
	weights_watch(w, loading_report, g);
}

/* What is prepared from weights, in the order of work. */
static int parts_create(
	struct loaded *l, struct arena *a, const struct engine_config *c, struct error *e) {
	const struct engine_config silent = {0};
	const uint64_t text = weights_size(l->text_weights), dit = weights_size(l->dit_weights);
	const uint64_t decoder = weights_size(l->decoder_weights);
	struct loading g = {.c = arena_measuring(a) ? &silent : c, .total = text + dit + decoder};
	loading_part(&g, "text encoder", l->text_weights, text);
	l->encoder = text_create(l->be, &l->m->text, l->text_weights, a, l->precision, e);
	weights_watch(l->text_weights, NULL, NULL);
	if (!l->encoder)
		return e->code;
	loading_part(&g, "transformer", l->dit_weights, dit);
	l->dit = dit_create(l->be, l->m, l->dit_weights, a, l->precision, e);
	weights_watch(l->dit_weights, NULL, NULL);
	if (!l->dit)
		return e->code;
	loading_part(&g, "decoder", l->decoder_weights, decoder);
	l->decoder = decoder_create(l->lane, l->m, l->decoder_weights, a, l->precision, e);
	weights_watch(l->decoder_weights, NULL, NULL);
	if (!l->decoder)
		return e->code;
	int cached = c->prompts_cached ? c->prompts_cached : PROMPTS_CACHED;
	l->prompts = prompts_create(l->be, l->m, l->tokenizer, l->encoder, cached, a, e);
	if (!l->prompts)
		return e->code;
	if (g.c->progress)
		c->progress(c->progress_ctx, "memory", g.total, g.total);
	return arena_failed(a, e);
}

static void parts_drop(struct loaded *l) {
	prompts_destroy(l->prompts);
	decoder_destroy(l->decoder);
	dit_destroy(l->dit);
	text_destroy(l->encoder);
	l->prompts = NULL;
	l->decoder = NULL;
	l->dit = NULL;
	l->encoder = NULL;
}

static int parts_load(struct loaded *l, const struct engine_config *c, struct error *e) {
	l->tokenizer = tokenizer_create(l->m, e);
	if (!l->tokenizer)
		return e->code;
	int r = weights_all_open(l, e);
	if (r < 0)
		return r;
	struct arena *measure = arena_measure(l->be);
	if (!measure)
		return error_set(e, -ENOMEM, "no memory to plan with");
	r = parts_create(l, measure, c, e);
	if (r == 0)
		r = plan_early(l, c->memory_max_bytes, e);
	size_t bytes = arena_peak(measure);
	parts_drop(l);
	arena_destroy(measure);
	if (r < 0)
		return r;
	l->arena = arena_create(l->be, bytes, e);
	if (!l->arena)
		return e->code;
	r = parts_create(l, l->arena, c, e);
	if (r < 0)
		return r;
	unused_warn(l, "text encoder", l->text_weights);
	unused_warn(l, "transformer", l->dit_weights);
	unused_warn(l, "decoder", l->decoder_weights);
	l->weights_bytes = backend_allocated(l->be) - l->own_bytes;
	return 0;
}

/* ---- what the model is ---------------------------------------------------------- */

/* One hash over those of the parts. */
static void hash_fill(const struct loaded *l, char hex[65]) {
	const struct weights *const part[] = {l->text_weights, l->dit_weights, l->decoder_weights};
	struct sha256 h;
	sha256_init(&h);
	for (int i = 0; i < 3; i++) {
		weights_hash(part[i], hex);
		sha256_add(&h, hex, strlen(hex));
	}
	sha256_hex(&h, hex);
	if (l->m->random)
		hex[0] = 0;
}

/* Passes of a reread, in chunks. */
static double recache_cost(const struct model *m) {
	double passes = (double)m->cache.window_frames / m->chunk_frames - 1;
	if (m->cache.recache == RECACHE_JOINT)
		passes += 1;
	return passes / (m->steps + 1);
}

static void info_fill(struct loaded *l) {
	const struct model *m = l->m;
	struct model_info *i = &l->base.info;
	struct backend_info b = backend_info(l->be);
	snprintf(i->name, sizeof i->name, "%s", m->name);
	snprintf(i->backend, sizeof i->backend, "%s: %s", b.kind, b.name);
	snprintf(i->precision, sizeof i->precision, "%s", precision_name(l->precision));
	sparsity_describe(l->sparsity, i->sparsity, sizeof i->sparsity);
	hash_fill(l, i->weights_hash);
	i->width = m->width;
	i->height = m->height;
	i->fps_num = m->fps_num;
	i->fps_den = m->fps_den;
	i->first_chunk_frames = decoder_pictures(l->decoder, l->slot[0].decoder, m->chunk_frames);
	i->chunk_frames = m->chunk_frames * m->stride_t;
	i->steps = m->steps;
	i->prompt_tokens_max = m->dit.text_len;
	i->window_frames = m->cache.window_frames;
	i->sink_frames = m->cache.sink_frames;
	for (int t = 0; t < TRANSITION_COUNT; t++)
		i->transitions[t] = t != TRANSITION_RECACHE || m->cache.recache != RECACHE_NONE;
	i->transition_first = m->transition_first;
	if (i->transitions[TRANSITION_RECACHE])
		i->transition_cost_chunks[TRANSITION_RECACHE] = recache_cost(m);
	i->suggestions_json = m->suggestions_json;
	i->generators_max = l->slots;
	i->warm_chunks = strcmp(b.kind, "cpu") == 0 ? 1 : WARM_CHUNKS_GPU;
}

/* ---- life --------------------------------------------------------------------- */

static void loaded_destroy(struct engine *en) {
	struct loaded *l = (struct loaded *)en;
	for (int i = 0; l->slot && i < l->slots; i++)
		slot_drop(&l->slot[i]);
	free(l->slot);
	sparsity_destroy(l->sparsity);
	parts_drop(l);
	tokenizer_destroy(l->tokenizer);
	if (l->be) {
		if (l->lane_scratch != l->scratch)
			arena_destroy(l->lane_scratch);
		arena_destroy(l->scratch);
		arena_destroy(l->arena);
	}
	weights_close(l->decoder_weights);
	weights_close(l->dit_weights);
	weights_close(l->text_weights);
	backend_destroy(l->be);
	model_free(l->m);
	free(l);
}

static int loaded_fill(struct loaded *l, const struct engine_config *c, struct error *e) {
	int r = config_check(c, e);
	if (r < 0)
		return r;
	l->m = model_load(c->model_dir, e);
	if (!l->m)
		return e->code;
	r = sparsity_parse(c->sparsity, &l->m->sparsity, e);
	if (r == 0)
		r = schedule_parse(c->steps, l->m, e);
	if (r < 0)
		return r;
	if (c->renoise_above)
		l->m->renoise_above = *c->renoise_above;
	const struct backend_config backend = {
		.spec = c->backend && *c->backend ? c->backend : "auto",
		.threads = c->threads,
		.eager = c->eager,
		.one_lane = c->one_lane,
		.log = backend_line,
		.log_ctx = l};
	l->be = backend_create(&backend, e);
	if (!l->be)
		return e->code;
	l->lane = backend_lane(l->be);
	l->own_bytes = backend_allocated(l->be);
	r = precision_choose(l, c->precision, e);
	if (r < 0)
		return r;
	const struct model *m = l->m;
	l->slots = c->generators_max ? c->generators_max : 1;
	l->frames_max = c->frames_max ? c->frames_max : POOL_CHUNKS * m->chunk_frames * m->stride_t;
	if (l->frames_max < m->stride_t)
		return error_set(e, -EINVAL,
			"frames_max is %d: one latent frame gives %d pictures, so it must be at "
			"least that",
			l->frames_max, m->stride_t);
	l->pass_frames = m->chunk_frames;
	if (m->cache.recache == RECACHE_JOINT)
		l->pass_frames = m->cache.window_frames / m->chunk_frames * m->chunk_frames;
	l->sparsity = sparsity_create(&l->m->sparsity, m->chunk_frames, m->cache.window_frames, e);
	if (!l->sparsity)
		return e->code;
	r = parts_load(l, c, e);
	if (r == 0)
		r = plan_slots(l, c->memory_max_bytes, e);
	if (r == 0)
		r = backend_sync(l->be, e);
	return r;
}

static struct engine *loaded_create(const struct engine_config *c, struct error *e) {
	struct error own = {0};
	e = e ? e : &own; /* so that e->code tells */
	struct loaded *l = calloc(1, sizeof *l);
	if (!l) {
		error_set(e, -ENOMEM, "no memory for an engine");
		return NULL;
	}
	l->base.impl = &engine_impl_model;
	l->log = c->log;
	l->log_ctx = c->log_ctx;
	if (loaded_fill(l, c, e) < 0) {
		loaded_destroy(&l->base);
		return NULL;
	}
	info_fill(l);
	return &l->base;
}

static int loaded_prompt_tokens(const struct engine *en, const char *utf8, struct error *e) {
	return tokenizer_count(((const struct loaded *)en)->tokenizer, utf8, e);
}

static bool loaded_broken(const struct engine *en) {
	const struct loaded *l = (const struct loaded *)en;
	return l->broken || backend_sticky(l->be);
}

const struct engine_impl engine_impl_model = {
	.create = loaded_create,
	.destroy = loaded_destroy,
	.prompt_tokens = loaded_prompt_tokens,
	.broken = loaded_broken,
	.generator_create = live_create,
	.generator_destroy = live_destroy,
	.prompt = live_prompt,
	.reset = live_reset,
	.resume_at = live_resume_at,
	.boundary = live_boundary,
	.chunk = live_chunk,
	.chunk_frames = live_chunk_frames,
	.step = live_step,
	.frames = live_frames,
	.chunk_info = live_chunk_info,
	.pending = live_pending,
	.await = live_await,
};
