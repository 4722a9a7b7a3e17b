/* SPDX-License-Identifier: Apache-2.0 */
/* The implementation behind engine.h for backend "test": no model, a moving
 * test picture, any size and rate, and faults on demand, so that everything
 * above the engine is tested without weights. The picture is a function of
 * (seed, scene, words, index) alone: the words choose the colour, the scene
 * where the disc starts, so a prompt change and a cut are seen at once and the
 * same calls give the same bytes. Work is imitated by sleeping; one step is as
 * bounded as a model's: one condition, one pass, one group of pictures.
 *
 * "test:fps=24,width=832,height=480,chunk_ms=40,noise=12": options[] lists all.
 * Thread: as engine.h says. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/frames.h"
#include "engine/impl.h"

enum { GROUP = 4, WORD_BYTES = 32 };

struct options {
	int fps, width, height;
	int chunk, first; /* pictures of a steady and of a scene's first chunk */
	int steps, tokens;
	int chunk_ms, prompt_ms, load_ms;
	int slow_every, slow_ms, late;
	int fail_at, broken_at, fail_load;
	int noise;
	char fail_word[WORD_BYTES];
};

static const struct option {
	const char *name;
	size_t offset;
	int preset, min, max;
} options[] = {
	{"fps", offsetof(struct options, fps), 16, 1, 1000},
	{"width", offsetof(struct options, width), 256, 16, 4096},
	{"height", offsetof(struct options, height), 144, 16, 4096},
	{"chunk", offsetof(struct options, chunk), 12, 1, 240},
	{"first", offsetof(struct options, first), 0, 0, 240}, /* 0: as chunk */
	{"steps", offsetof(struct options, steps), 4, 1, 100},
	{"tokens", offsetof(struct options, tokens), 64, 2, 4096}, /* a prompt may have */
	{"chunk_ms", offsetof(struct options, chunk_ms), 100, 0, 60000}, /* work of a chunk */
	{"prompt_ms", offsetof(struct options, prompt_ms), 0, 0, 60000}, /* work of new words */
	{"load_ms", offsetof(struct options, load_ms), 0, 0, 600000},
	{"slow_every", offsetof(struct options, slow_every), 0, 0, 1000000}, /* chunks */
	{"slow_ms", offsetof(struct options, slow_ms), 1000, 0, 600000}, /* extra work then */
	/* 1: a chunk's last pictures are done after the next step, as on a GPU */
	{"late", offsetof(struct options, late), 0, 0, 1},
	{"fail_at", offsetof(struct options, fail_at), -1, -1, 1000000000}, /* chunk that fails */
	{"broken_at", offsetof(struct options, broken_at), -1, -1, 1000000000}, /* ... for good */
	{"fail_load", offsetof(struct options, fail_load), 0, 0, 1},
	{"noise", offsetof(struct options, noise), 0, 0, 64}, /* luma steps: raises the bit rate */
};

struct test_engine {
	struct engine base;
	struct options o;
	int frames_max, generators;
	bool broken;
	struct test_generator *late; /* those with pictures that are not done */
};

/* The words in effect or waiting. */
struct words {
	uint32_t hash, revision;
	enum transition transition;
	bool set, fail;
};

enum phase { PHASE_BOUNDARY, PHASE_CONDITION, PHASE_DENOISE, PHASE_DECODE };

struct test_generator {
	struct generator base;
	struct test_engine *en;
	struct frame_pool *pool;
	struct frame **ready; /* made, not yet taken; ring of frames_max */
	int ready_first, ready_count;
	int late; /* of them, the last ones, not done yet */
	struct test_generator *next_late;
	uint64_t seed, next_seed;
	bool reset_waits;
	struct words now, next;
	enum phase phase;
	int pass, made, total; /* of the chunk in progress; made and total in pictures */
	int64_t chunk, index;
	int64_t scene, scene_index; /* scenes since the start, pictures of this scene */
	bool scene_fresh; /* the next chunk is a scene's first */
	struct chunk_info info, made_info, done; /* in progress, all made, all taken */
};

static int options_parse(struct options *o, const char *spec, struct error *e) {
	for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
		*(int *)((char *)o + options[i].offset) = options[i].preset;
	const char *p = strchr(spec, ':');
	p = p ? p + 1 : "";
	while (*p) {
		size_t n = strcspn(p, ","), k = strcspn(p, "=");
		if (k >= n)
			return error_set(
				e, -EINVAL, "backend %s: '%.*s' is not key=value", spec, (int)n, p);
		const char *value = p + k + 1;
		size_t i = 0, count = sizeof options / sizeof options[0];
		while (i < count &&
			(strlen(options[i].name) != k || strncmp(p, options[i].name, k) != 0))
			i++;
		if (k == 9 && strncmp(p, "fail_word", k) == 0 && n - k - 1 < WORD_BYTES) {
			memcpy(o->fail_word, value, n - k - 1);
			o->fail_word[n - k - 1] = 0;
		} else if (i == count) {
			return error_set(
				e, -EINVAL, "backend %s: no option '%.*s'", spec, (int)k, p);
		} else {
			char *end;
			long v = strtol(value, &end, 10);
			if (end != p + n || end == value || v < options[i].min ||
				v > options[i].max)
				return error_set(e, -EINVAL, "backend %s: %s takes %d to %d", spec,
					options[i].name, options[i].min, options[i].max);
			*(int *)((char *)o + options[i].offset) = (int)v;
		}
		p += n + (p[n] == ',');
	}
	if (o->width % 2 || o->height % 2)
		return error_set(e, -EINVAL, "backend %s: width and height must be even", spec);
	if (o->first == 0)
		o->first = o->chunk;
	return 0;
}

static void work_us(int64_t us) {
	struct timespec t = {us / 1000000, us % 1000000 * 1000};
	while (us > 0 && clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &t) == EINTR)
		;
}

static void info_fill(struct model_info *m, const struct options *o, int generators_max) {
	*m = (struct model_info){
		.name = "test picture",
		.backend = "test",
		.precision = "u8",
		.sparsity = "test",
		.width = o->width,
		.height = o->height,
		.fps_num = o->fps,
		.fps_den = 1,
		.chunk_frames = o->chunk,
		.first_chunk_frames = o->first,
		.steps = o->steps,
		.prompt_tokens_max = o->tokens,
		.window_frames = 21,
		.sink_frames = 3,
		.transitions = {true, true, true},
		.transition_first = TRANSITION_SWITCH,
		.transition_cost_chunks = {0, .8, 0},
		.suggestions_json = "{\"sentences\":[\"a red kite over green hills\","
				    "\"a lighthouse in heavy rain\",\"a paper boat on a river\"],"
				    "\"turns\":[\"at night\",\"in snow\",\"the storm clears\"],"
				    "\"slots\":[]}",
		.generators_max = generators_max,
		.generators_fit = generators_max,
		.warm_chunks = 1,
	};
}

/* Sleeps through load_ms in a hundred slices, reporting each. */
static void load_slowly(const struct engine_config *c, int load_ms) {
	for (int i = 0; i <= 100; i++) {
		if (c->progress)
			c->progress(c->progress_ctx, "weights", (uint64_t)i * 10000, 1000000);
		work_us((int64_t)load_ms * 10);
	}
}

static struct engine *test_create(const struct engine_config *c, struct error *e) {
	struct test_engine *en = calloc(1, sizeof *en);
	if (!en) {
		error_set(e, -ENOMEM, "no memory for the test engine");
		return NULL;
	}
	if (options_parse(&en->o, c->backend, e) != 0) {
		free(en);
		return NULL;
	}
	load_slowly(c, en->o.load_ms);
	if (en->o.fail_load) {
		error_set(e, -EIO, "backend test: fail_load was asked for");
		free(en);
		return NULL;
	}
	en->base.impl = &engine_impl_test;
	en->frames_max = c->frames_max > 0 ? c->frames_max : 3 * en->o.chunk;
	if (en->frames_max < GROUP)
		en->frames_max = GROUP;
	info_fill(&en->base.info, &en->o, c->generators_max > 0 ? c->generators_max : 1);
	return &en->base;
}

static void test_destroy(struct engine *base) {
	free(base);
}

static bool test_broken(const struct engine *base) {
	return ((const struct test_engine *)base)->broken;
}

/* Bytes of the well-formed UTF-8 character at s (RFC 3629), 0 when there is none. */
static int utf8_length(const unsigned char *s) {
	int n = s[0] < 0x80   ? 1
		: s[0] < 0xc2 ? 0
		: s[0] < 0xe0 ? 2
		: s[0] < 0xf0 ? 3
		: s[0] < 0xf5 ? 4
			      : 0;
	for (int i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	}
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
		(s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

/* Words between blanks, and one end mark. */
static int test_prompt_tokens(const struct engine *base, const char *utf8, struct error *e) {
	(void)base;
	int words = 0;
	bool inside = false;
	for (const unsigned char *s = (const unsigned char *)utf8; *s;) {
		int n = utf8_length(s);
		if (n == 0)
			return error_set(e, -EILSEQ, "the prompt is not valid UTF-8 at byte %d",
				(int)(s - (const unsigned char *)utf8));
		bool blank = *s <= ' ';
		words += !blank && !inside;
		inside = !blank;
		s += n;
	}
	return words > 0 ? words + 1 : error_set(e, -EINVAL, "the prompt holds no words");
}

static struct generator *test_generator_create(
	struct engine *base, uint64_t seed, struct error *e) {
	struct test_engine *en = (struct test_engine *)base;
	if (en->generators >= en->base.info.generators_max) {
		error_set(e, -ENOMEM, "all %d generators are in use", en->base.info.generators_max);
		return NULL;
	}
	struct test_generator *g = calloc(1, sizeof *g);
	struct frame **ready = calloc((size_t)en->frames_max, sizeof *ready);
	struct frame_pool *pool =
		frame_pool_create(en->frames_max, en->o.width, en->o.height, NULL, NULL, NULL, e);
	if (!g || !ready || !pool) {
		error_set(e, -ENOMEM, "no memory for a generator");
		frame_pool_disown(pool);
		free(ready);
		free(g);
		return NULL;
	}
	*g = (struct test_generator){
		.base.impl = &engine_impl_test,
		.en = en,
		.pool = pool,
		.ready = ready,
		.seed = seed,
		.scene_fresh = true,
	};
	en->generators++;
	return &g->base;
}

static int test_frames(struct generator *base, struct frame **out, int max) {
	struct test_generator *g = (struct test_generator *)base;
	int n = 0;
	bool last = false;
	while (n < max && g->ready_count > g->late && !last) {
		struct frame *f = g->ready[g->ready_first];
		g->ready_first = (g->ready_first + 1) % g->en->frames_max;
		g->ready_count--;
		last = f->frame_in_chunk + 1 == f->frames_in_chunk;
		out[n++] = f;
	}
	if (last)
		g->done = g->made_info;
	return n;
}

/* Whatever is late is done; false when nothing was. */
static bool late_done(struct test_engine *en) {
	bool any = en->late != NULL;
	for (; en->late; en->late = en->late->next_late)
		en->late->late = 0;
	return any;
}

static void test_generator_destroy(struct generator *base) {
	struct test_generator *g = (struct test_generator *)base;
	struct frame *f;
	late_done(g->en);
	while (test_frames(base, &f, 1) == 1)
		frame_release(f);
	frame_pool_disown(g->pool);
	g->en->generators--;
	free(g->ready);
	free(g);
}

static uint32_t mix(uint32_t h, uint32_t v) {
	h = (h ^ v) * 0x9e3779b1u;
	return h ^ h >> 15;
}

static int test_prompt(struct generator *base, const struct prompt_change *p, struct error *e) {
	struct test_generator *g = (struct test_generator *)base;
	if (test_prompt_tokens(&g->en->base, p->text, e) < 0)
		return -EINVAL;
	uint32_t h = 2166136261u;
	for (const char *s = p->text; *s; s++)
		h = (h ^ (unsigned char)*s) * 16777619u;
	const char *bad = g->en->o.fail_word;
	g->next = (struct words){
		.hash = mix(h, 1),
		.revision = p->revision,
		.transition = p->transition,
		.set = true,
		.fail = bad[0] && strstr(p->text, bad) != NULL,
	};
	return 0;
}

static int test_reset(struct generator *base, uint64_t seed, struct error *e) {
	(void)e;
	struct test_generator *g = (struct test_generator *)base;
	g->reset_waits = true;
	g->next_seed = seed;
	return 0;
}

static void test_resume_at(struct generator *base, int64_t chunk, int64_t index) {
	struct test_generator *g = (struct test_generator *)base;
	g->chunk = chunk;
	g->index = index;
}

static bool test_boundary(const struct generator *base) {
	return ((const struct test_generator *)base)->phase == PHASE_BOUNDARY;
}

static int64_t test_chunk(const struct generator *base) {
	return ((const struct test_generator *)base)->chunk;
}

static bool next_is_scene(const struct test_generator *g) {
	return g->scene_fresh || g->reset_waits ||
	       (g->next.set && g->next.transition == TRANSITION_CUT);
}

static int test_chunk_frames(const struct generator *base) {
	const struct test_generator *g = (const struct test_generator *)base;
	if (g->phase != PHASE_BOUNDARY)
		return g->total;
	return next_is_scene(g) ? g->en->o.first : g->en->o.chunk;
}

static struct chunk_info test_chunk_info(const struct generator *base) {
	return ((const struct test_generator *)base)->done;
}

static bool test_pending(const struct generator *base) {
	return ((const struct test_generator *)base)->ready_count > 0;
}

static int test_await(struct engine *en) {
	return late_done((struct test_engine *)en);
}

static int begin_chunk(struct test_generator *g, struct error *e) {
	struct test_engine *en = g->en;
	if (!g->now.set && !g->next.set)
		return error_set(e, -EINVAL, "a generator needs a prompt before its first step");
	bool scene = next_is_scene(g);
	g->total = scene ? en->o.first : en->o.chunk;
	if (g->reset_waits) {
		g->seed = g->next_seed;
		g->chunk = 0;
		g->reset_waits = false;
	}
	if (scene) {
		g->scene += !g->scene_fresh;
		g->scene_index = 0;
	}
	g->scene_fresh = false;
	g->phase = g->next.set ? PHASE_CONDITION : PHASE_DENOISE;
	if (g->next.set)
		g->now = g->next;
	g->next.set = false;
	if (en->o.broken_at == g->chunk)
		en->broken = true;
	if (en->broken)
		return error_set(e, -EIO, "the device is lost (broken_at=%d)", en->o.broken_at);
	if (en->o.fail_at == g->chunk || g->now.fail)
		return error_set(e, -EIO, "chunk %lld failed as asked", (long long)g->chunk);
	g->pass = g->made = 0;
	int visible = 27 * (int)(g->chunk < 6 ? g->chunk + 1 : 7);
	g->info = (struct chunk_info){
		.chunk = g->chunk,
		.revision = g->now.revision,
		.frames = g->total,
		.kept_blocks = visible / 4 + 20,
		.visible_blocks = visible,
		.kv_bytes = 1 << 20,
	};
	return 0;
}

/* Rows of luma: a gradient that drifts, a disc and a bar that move, noise. */
static void draw_luma(const struct test_generator *g, uint8_t *y, int cx, int cy, int radius) {
	const struct options *o = &g->en->o;
	int w = o->width, h = o->height, t = (int)(g->scene_index % 4096);
	int base = 48 + (int)(g->now.hash & 63), bar = t * 3 % w;
	uint32_t random = mix((uint32_t)g->seed, (uint32_t)g->index) | 1;
	for (int j = 0; j < h; j++, y += w) {
		for (int i = 0; i < w; i++)
			y[i] = (uint8_t)(base + (((i + j + 2 * t) >> 2) & 63));
		for (int i = bar; i < bar + 4 && i < w; i++)
			y[i] = 220;
		int inside = radius * radius - (j - cy) * (j - cy);
		for (int i = cx - radius; inside > 0 && i <= cx + radius; i++) {
			if (i >= 0 && i < w && (i - cx) * (i - cx) < inside)
				y[i] = 190;
		}
		for (int i = 0; o->noise && i < w; i++) {
			random ^= random << 13;
			random ^= random >> 17;
			random ^= random << 5;
			int v = y[i] + (int)(random % (2 * (uint32_t)o->noise + 1)) - o->noise;
			y[i] = (uint8_t)(v < 16 ? 16 : v > 235 ? 235 : v);
		}
	}
}

static void draw(const struct test_generator *g, struct frame *f) {
	const struct options *o = &g->en->o;
	uint8_t *pixels = frame_pool_pixels(f);
	size_t luma = (size_t)o->width * o->height, chroma = luma / 4;
	uint32_t place = mix(mix((uint32_t)g->seed, (uint32_t)(g->seed >> 32)), (uint32_t)g->scene);
	int radius = o->height / 6, t = (int)(g->scene_index % 4096);
	int cx = (int)((place % (uint32_t)o->width + 5 * (uint32_t)t) % (uint32_t)o->width);
	int cy = (int)(((place >> 12) % (uint32_t)o->height + 2 * (uint32_t)t) %
		       (uint32_t)o->height);
	draw_luma(g, pixels, cx, cy, radius);
	memset(pixels + luma, 48 + (int)(g->now.hash >> 8 & 159), chroma);
	memset(pixels + luma + chroma, 48 + (int)(g->now.hash >> 16 & 159), chroma);
}

static void decode_group(struct test_generator *g, int n) {
	for (int i = 0; i < n; i++) {
		struct frame *f = frame_pool_take(g->pool);
		draw(g, f);
		f->index = g->index++;
		f->chunk = g->chunk;
		f->frame_in_chunk = g->made++;
		f->frames_in_chunk = g->total;
		f->revision = g->now.revision;
		f->scene_start = g->scene_index++ == 0;
		g->ready[(g->ready_first + g->ready_count++) % g->en->frames_max] = f;
	}
}

static int64_t now_us(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static enum progress decode_step(struct test_generator *g) {
	const struct options *o = &g->en->o;
	int left = g->total - g->made, n = left % GROUP ? left % GROUP : GROUP;
	if (frame_pool_available(g->pool) < n)
		return PROGRESS_BLOCKED;
	int64_t share = (int64_t)o->chunk_ms * 1000 / (o->steps + 1), from = now_us();
	work_us(share * n / g->total);
	decode_group(g, n);
	g->info.decode_us += now_us() - from;
	if (g->made == g->total) {
		g->made_info = g->info;
		g->phase = PHASE_BOUNDARY;
		g->chunk++;
		if (o->late && g->late == 0) {
			g->late = n;
			g->next_late = g->en->late;
			g->en->late = g;
		}
	}
	return g->ready_count > g->late ? PROGRESS_FRAMES : PROGRESS_BUSY;
}

static int test_step(struct generator *base, enum progress *p, struct error *e) {
	struct test_generator *g = (struct test_generator *)base;
	const struct options *o = &g->en->o;
	*p = PROGRESS_BUSY;
	if (g->phase == PHASE_BOUNDARY) {
		int rc = begin_chunk(g, e);
		if (rc != 0)
			return rc;
	}
	int64_t from = now_us();
	if (g->phase == PHASE_CONDITION) {
		bool recache = g->now.transition == TRANSITION_RECACHE;
		work_us((int64_t)o->prompt_ms * 1000 + (recache ? (int64_t)o->chunk_ms * 800 : 0));
		g->info.condition_us = now_us() - from;
		g->phase = PHASE_DENOISE;
	} else if (g->phase == PHASE_DENOISE) {
		bool slow = g->pass == 0 && o->slow_every && (g->chunk + 1) % o->slow_every == 0;
		work_us((int64_t)o->chunk_ms * 1000 / (o->steps + 1) +
			(slow ? (int64_t)o->slow_ms * 1000 : 0));
		g->info.dit_us += now_us() - from;
		if (++g->pass == o->steps)
			g->phase = PHASE_DECODE;
	} else {
		*p = decode_step(g);
		return 0;
	}
	late_done(g->en);
	return 0;
}

const struct engine_impl engine_impl_test = {
	.create = test_create,
	.generator_create = test_generator_create,
	.destroy = test_destroy,
	.prompt_tokens = test_prompt_tokens,
	.broken = test_broken,
	.generator_destroy = test_generator_destroy,
	.prompt = test_prompt,
	.reset = test_reset,
	.resume_at = test_resume_at,
	.boundary = test_boundary,
	.chunk = test_chunk,
	.chunk_frames = test_chunk_frames,
	.step = test_step,
	.frames = test_frames,
	.chunk_info = test_chunk_info,
	.pending = test_pending,
	.await = test_await,
};
