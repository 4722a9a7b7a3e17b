/* SPDX-License-Identifier: Apache-2.0 */
/* Reference files of kind "causal DiT": a rollout of several chunks with given
 * noise. Every flow, every latent and the final keys and values are compared.
 * Thread: the backend's. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/dit.h"
#include "engine/golden.h"
#include "engine/sampler.h"

#define SCHEDULE_ENTRIES 1000
#define NAME_BYTES 64
#define SIZE_MAX_OF_A_FILE 65536

/* The model that the file describes, and its length. */
struct subject {
	struct model m;
	int chunks;
	double shift;
};

static int metadata_read(const struct golden *g, struct subject *s, struct error *e) {
	struct model *m = &s->m;
	int window;
	double eps;
	const struct {
		const char *key;
		int *to, min;
	} ints[] = {
		{"dim", &m->dit.dim, 1},
		{"ffn_dim", &m->dit.ffn_dim, 1},
		{"num_heads", &m->dit.heads, 1},
		{"num_layers", &m->dit.layers, 1},
		{"text_dim", &m->dit.text_dim, 1},
		{"text_len", &m->dit.text_len, 1},
		{"freq_dim", &m->dit.freq_dim, 2},
		{"latent_h", &m->height, 1},
		{"latent_w", &m->width, 1},
		{"frames_per_chunk", &m->chunk_frames, 1},
		{"sink_frames", &m->cache.sink_frames, 0},
		{"chunks", &s->chunks, 1},
	};
	for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++) {
		int r = golden_int(g, ints[i].key, ints[i].min, SIZE_MAX_OF_A_FILE, ints[i].to, e);
		if (r < 0)
			return r;
	}
	int r = golden_int(g, "local_attn_frames", -1, SIZE_MAX_OF_A_FILE, &window, e);
	if (r == 0)
		r = golden_double(g, "context_noise", 0, 1000, &m->context_noise, e);
	if (r == 0)
		r = golden_double(g, "shift", .01, 100, &s->shift, e);
	if (r == 0)
		r = golden_double(g, "eps", 0, 1, &eps, e);
	if (r < 0)
		return r;
	m->dit.eps = (float)eps;
	m->dit.theta = 10000;
	m->stride_s = 1;
	m->cache.window_frames = window < 0 ? s->chunks * m->chunk_frames : window;
	snprintf(m->sparsity.policy, sizeof m->sparsity.policy, "dense");
	m->sparsity.block = 64;
	return 0;
}

/* What only the tensors tell: channels, patch, steps. */
static int shapes_read(const struct golden *g, struct subject *s, struct error *e) {
	struct tensor patch, steps;
	if (weights_find(g->weights, "patch_embedding.weight", &patch) < 0 || patch.rank != 5)
		return error_set(
			e, -EINVAL, "%s: no patch_embedding.weight of five dimensions", g->path);
	s->m.latent_channels = (int)patch.dim[1];
	s->m.dit.patch_h = (int)patch.dim[3];
	s->m.dit.patch_w = (int)patch.dim[4];
	if (weights_find(g->file, "sched.steps", &steps) < 0 || tensor_count(&steps) < 1 ||
		tensor_count(&steps) > MODEL_STEPS_MAX)
		return error_set(e, -EINVAL, "%s: sched.steps must hold 1 to %d timesteps", g->path,
			MODEL_STEPS_MAX);
	s->m.steps = (int)tensor_count(&steps);
	for (int i = 0; i < s->m.steps; i++)
		s->m.timestep[i] = (double)weights_value(&steps, i);
	return 0;
}

/* The schedule as this engine computes it. */
static int schedule_compare(struct golden *g, const struct subject *s, struct error *e) {
	float sigma[SCHEDULE_ENTRIES], step[MODEL_STEPS_MAX];
	for (int i = 0; i < SCHEDULE_ENTRIES; i++)
		sigma[i] = (float)(schedule_warp(SCHEDULE_ENTRIES - i, s->shift) / 1000);
	for (int i = 0; i < s->m.steps; i++) {
		int best = 0;
		for (int k = 1; k < SCHEDULE_ENTRIES; k++) {
			if (fabs((double)sigma[k] * 1000 - s->m.timestep[i]) <
				fabs((double)sigma[best] * 1000 - s->m.timestep[i]))
				best = k;
		}
		step[i] = (float)schedule_warp(SCHEDULE_ENTRIES - best, s->shift);
	}
	int r = golden_compare(g, "sched.sigmas", sigma, SCHEDULE_ENTRIES, NULL, e);
	return r < 0 ? r : golden_compare(g, "sched.steps", step, s->m.steps, NULL, e);
}

/* Everything a rollout needs; built twice, first against measuring arenas. */
struct bench {
	struct golden *g;
	const struct model *m;
	struct arena *arena, *scratch;
	struct dit *dit;
	struct sparsity *sparsity;
	struct kvcache *cache;
	struct dit_text *text;
	struct dit_stream *stream;
	struct sampler *sampler;
	struct tensor context; /* [n, text_dim] */
};

static void bench_drop(struct bench *b) {
	sampler_destroy(b->sampler);
	dit_stream_destroy(b->stream);
	dit_text_destroy(b->text);
	kvcache_destroy(b->cache);
	sparsity_destroy(b->sparsity);
	dit_destroy(b->dit);
	arena_destroy(b->scratch);
	arena_destroy(b->arena);
	*b = (struct bench){.g = b->g, .m = b->m};
}

static int bench_build(struct bench *b, int rows, struct error *e) {
	const struct model *m = b->m;
	struct backend *be = b->g->be;
	const int visible = m->cache.window_frames, chunk = m->chunk_frames;
	b->dit = dit_create(be, m, b->g->weights, b->arena, b->g->precision, e);
	if (!b->dit)
		return e->code;
	const struct kvcache_config cache = {
		.layers = m->dit.layers,
		.window_frames = visible,
		.sink_frames = m->cache.sink_frames,
		.chunk_frames = chunk,
		.pass_frames = chunk,
		.rope_sink = ROPE_SINK_FIXED,
		.theta = m->dit.theta,
		.shape = dit_kv_shape(b->dit, m->sparsity.block),
	};
	b->sparsity = sparsity_create(&m->sparsity, chunk, visible, e);
	if (!b->sparsity)
		return e->code;
	b->cache = kvcache_create(be, &cache, b->arena, e);
	b->text = dit_text_create(b->dit, b->arena, e);
	b->stream = dit_stream_create(b->dit, b->sparsity, chunk, visible, b->arena, e);
	b->sampler = sampler_create(
		be, chunk, m->latent_channels, m->height, m->width, m->steps, b->arena, e);
	if (!b->cache || !b->text || !b->stream || !b->sampler)
		return e->code;
	b->context = arena_2d(b->arena, DTYPE_F32, rows, m->dit.text_dim);
	dit_measure(b->dit, b->sparsity, chunk, visible, b->scratch);
	return arena_failed(b->arena, e);
}

/* Real rows of the context; those that pad it are zero. */
static int context_rows(const struct tensor *t) {
	int64_t rows = t->dim[0], cols = tensor_cols(t);
	while (rows > 1) {
		bool zero = true;
		for (int64_t i = 0; i < cols && zero; i++)
			zero = weights_value(t, (rows - 1) * cols + i) == 0;
		if (!zero)
			break;
		rows--;
	}
	return (int)rows;
}

static int noise_draw(
	void *ctx, struct backend *be, struct tensor *y, int64_t chunk, int step, struct error *e) {
	const struct golden *g = ctx;
	char name[NAME_BYTES];
	struct tensor t;
	snprintf(name, sizeof name, "chunk%d.noise%d", (int)chunk, step);
	if (weights_find(g->file, name, &t) < 0 || tensor_count(&t) != tensor_count(y) ||
		t.dtype != DTYPE_F32)
		return error_set(e, -EINVAL, "%s: %s is missing or of another size", g->path, name);
	backend_upload(be, y->data, t.data, tensor_bytes(&t));
	return 0;
}

/* Where the file has more rows than t (a cache that never filled), they must be zero. */
static int compare_device(
	struct golden *g, const char *name, const struct tensor *t, struct error *e) {
	int64_t count = tensor_count(t), all = count;
	struct tensor want;
	if (weights_find(g->file, name, &want) == 0 && tensor_count(&want) > count)
		all = tensor_count(&want);
	float *host = calloc((size_t)all, sizeof *host);
	if (!host)
		return error_set(e, -ENOMEM, "no memory for %s", name);
	backend_download(g->be, host, t->data, tensor_bytes(t));
	int r = golden_compare(g, name, host, all, NULL, e);
	free(host);
	return r;
}

static int chunk_run(struct bench *b, int chunk, struct error *e) {
	char name[NAME_BYTES];
	struct sampler_steps steps = {.count = b->m->steps, .renoise_above = b->m->renoise_above};
	memcpy(steps.timestep, b->m->timestep, sizeof steps.timestep);
	int r = sampler_begin(b->sampler, &steps, chunk, e);
	if (r < 0)
		return r;
	kvcache_begin(b->cache, b->m->chunk_frames);
	dit_stream_begin(b->dit, b->stream, b->sparsity, b->cache, b->m->chunk_frames, chunk, 0);
	struct dit_pass pass = {.text = b->text, .stream = b->stream, .cache = b->cache};
	bool more = true;
	for (int i = 0; more; i++) {
		pass.x = sampler_input(b->sampler);
		pass.flow = sampler_flow(b->sampler);
		pass.timestep = sampler_timestep(b->sampler);
		r = dit_forward(b->dit, &pass, b->scratch, e);
		snprintf(name, sizeof name, "chunk%d.flow%d", chunk, i);
		if (r == 0)
			r = compare_device(b->g, name, pass.flow, e);
		if (r < 0)
			return r;
		more = sampler_advance(b->sampler);
	}
	pass.x = sampler_latent(b->sampler);
	pass.flow = NULL;
	pass.timestep = b->m->context_noise;
	r = dit_forward(b->dit, &pass, b->scratch, e);
	snprintf(name, sizeof name, "chunk%d.latent", chunk);
	return r < 0 ? r : compare_device(b->g, name, pass.x, e);
}

/* Keys and values that the last chunk saw, in the order of time. */
static int keys_compare(struct bench *b, struct error *e) {
	struct kv_shape shape = dit_kv_shape(b->dit, b->m->sparsity.block);
	int64_t rows = (int64_t)kvcache_visible_frames(b->cache) * shape.frame_tokens;
	struct arena *a = arena_create(b->g->be,
		2 * (size_t)rows * shape.heads * shape.head_dim * sizeof(float) + 1024, e);
	if (!a)
		return e->code;
	int r = 0;
	for (int l = 0; l < b->m->dit.layers && r == 0; l++) {
		const int64_t dim[3] = {rows, shape.heads, shape.head_dim};
		size_t mark = arena_mark(a);
		struct tensor k = arena_tensor(a, DTYPE_F32, 3, dim),
			      v = arena_tensor(a, DTYPE_F32, 3, dim);
		struct kv_span spans[KV_SPANS_MAX];
		int n = kvcache_spans(b->cache, l, spans);
		for (int i = 0, at = 0; i < n; at += spans[i].count * shape.frame_tokens, i++) {
			struct tensor kr =
				tensor_rows(k, at, (int64_t)spans[i].count * shape.frame_tokens);
			struct tensor vr =
				tensor_rows(v, at, (int64_t)spans[i].count * shape.frame_tokens);
			backend_ops(b->g->be)->kv_export(b->g->be, &kr, &vr, &spans[i]);
		}
		char name[NAME_BYTES];
		snprintf(name, sizeof name, "final.kv%d.k", l);
		r = compare_device(b->g, name, &k, e);
		snprintf(name, sizeof name, "final.kv%d.v", l);
		if (r == 0)
			r = compare_device(b->g, name, &v, e);
		arena_reset(a, mark);
	}
	arena_destroy(a);
	return r;
}

static int rollout(struct bench *b, int chunks, const struct tensor *context, struct error *e) {
	float *rows = malloc(tensor_bytes(&b->context));
	if (!rows)
		return error_set(e, -ENOMEM, "no memory for the context");
	struct tensor real = tensor_rows(*context, 0, b->context.dim[0]);
	weights_to_f32(&real, rows);
	backend_upload(b->g->be, b->context.data, rows, tensor_bytes(&b->context));
	free(rows);
	dit_text_set(b->dit, b->text, &b->context, b->scratch);
	sampler_source(b->sampler, (struct noise_source){noise_draw, b->g});
	int r = 0;
	for (int c = 0; c < chunks && r == 0; c++) {
		r = chunk_run(b, c, e);
		if (r == 0 && c + 1 == chunks)
			r = keys_compare(b, e);
		kvcache_commit(b->cache);
	}
	return r;
}

int golden_check_dit(struct golden *g, struct error *e) {
	struct subject s = {0};
	struct tensor context;
	int r = metadata_read(g, &s, e);
	if (r == 0)
		r = shapes_read(g, &s, e);
	if (r == 0)
		r = schedule_compare(g, &s, e);
	if (r < 0)
		return r;
	if (weights_find(g->file, "in.context", &context) < 0 || context.rank != 2 ||
		context.dim[0] > s.m.dit.text_len || context.dim[1] != s.m.dit.text_dim)
		return error_set(
			e, -EINVAL, "%s: in.context must be [text_len, text_dim]", g->path);
	struct bench b = {.g = g, .m = &s.m};
	b.arena = arena_measure(g->be);
	b.scratch = arena_measure(g->be);
	int rows = context_rows(&context);
	r = b.arena && b.scratch ? bench_build(&b, rows, e) : error_set(e, -ENOMEM, "no memory");
	size_t bytes = r < 0 ? 0 : arena_peak(b.arena), scratch = r < 0 ? 0 : arena_peak(b.scratch);
	bench_drop(&b);
	if (r < 0)
		return r;
	b.arena = arena_create(g->be, bytes, e);
	b.scratch = arena_create(g->be, scratch, e);
	r = b.arena && b.scratch ? bench_build(&b, rows, e) : -ENOMEM;
	if (r == 0)
		r = rollout(&b, s.chunks, &context, e);
	bench_drop(&b);
	return r;
}
