/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of one generator, laid out at load: first against a measuring
 * arena, which gives the size, then for real. Thread: the backend's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/loaded.h"

static int round_up(int n, int unit) {
	return (n + unit - 1) / unit * unit;
}

static struct kvcache_config cache_config(const struct loaded *l) {
	const struct model *m = l->m;
	return (struct kvcache_config){
		.layers = m->dit.layers,
		.window_frames = m->cache.window_frames,
		.sink_frames = m->cache.sink_frames,
		.chunk_frames = m->chunk_frames,
		.pass_frames = l->pass_frames,
		.rope_sink = m->cache.rope_sink,
		.theta = m->dit.theta,
		.shape = dit_kv_shape(l->dit, sparsity_block(l->sparsity)),
	};
}

static struct tensor latents(const struct loaded *l, int frames, struct arena *a) {
	return arena_tensor(a, DTYPE_F32, 4,
		(int64_t[]){frames, l->m->latent_channels, model_latent_height(l->m),
			model_latent_width(l->m)});
}

static void release_pinned(void *ctx, void *memory) {
	backend_free(ctx, memory);
}

static int pool_build(struct loaded *l, struct slot *s, struct error *e) {
	const struct model *m = l->m;
	size_t bytes = frame_pool_picture_bytes(m->width, m->height) * (size_t)l->frames_max;
	void *memory = backend_alloc_pinned(l->be, bytes, e);
	if (!memory)
		return e->code;
	s->pool = frame_pool_create(
		l->frames_max, m->width, m->height, memory, release_pinned, l->be, e);
	if (!s->pool)
		backend_free(l->be, memory);
	return s->pool ? 0 : e->code;
}

int slot_build(struct loaded *l, struct slot *s, struct error *e) {
	const struct model *m = l->m;
	const struct kvcache_config cache = cache_config(l);
	const int h = model_latent_height(m), w = model_latent_width(m);
	const int steps = m->steps > m->first_steps ? m->steps : m->first_steps;
	s->cache = kvcache_create(l->be, &cache, s->arena, e);
	s->text = dit_text_create(l->dit, s->arena, e);
	s->stream = dit_stream_create(
		l->dit, l->sparsity, l->pass_frames, m->cache.window_frames, s->arena, e);
	s->sampler = sampler_create(
		l->be, m->chunk_frames, m->latent_channels, h, w, steps, s->arena, e);
	s->decoder = decoder_state_create(l->decoder, h, w, s->arena, e);
	if (!s->cache || !s->text || !s->stream || !s->sampler || !s->decoder)
		return e->code;
	if (m->cache.recache != RECACHE_NONE) {
		s->sink = latents(l, round_up(m->cache.sink_frames, m->chunk_frames), s->arena);
		s->recent = latents(l, round_up(m->cache.window_frames, m->chunk_frames), s->arena);
		s->reread = latents(l, l->pass_frames, s->arena);
	}
	for (int i = 0; i < SLOT_FINISHED; i++)
		s->finished[i] = latents(l, m->chunk_frames, s->arena);
	s->rgb = arena_tensor(
		s->arena, DTYPE_F32, 4, (int64_t[]){m->stride_t, m->height, m->width, 3});
	s->yuv = arena_2d(s->arena, DTYPE_U8, m->stride_t,
		(int64_t)frame_pool_picture_bytes(m->width, m->height));
	if (arena_measuring(s->arena))
		return 0;
	int r = arena_failed(s->arena, e);
	return r < 0 ? r : pool_build(l, s, e);
}

void slot_drop(struct slot *s) {
	frame_pool_disown(s->pool);
	decoder_state_destroy(s->decoder);
	sampler_destroy(s->sampler);
	dit_stream_destroy(s->stream);
	dit_text_destroy(s->text);
	kvcache_destroy(s->cache);
	arena_destroy(s->arena);
	*s = (struct slot){0};
}

void slot_measure_scratch(struct loaded *l, struct arena *scratch) {
	dit_measure(l->dit, l->sparsity, l->pass_frames, l->m->cache.window_frames, scratch);
	text_measure(l->encoder, l->m->dit.text_len, scratch);
}

int slot_measure_lane(struct loaded *l, struct slot *s, struct arena *scratch, struct error *e) {
	struct tensor latent = latents(l, 1, s->arena);
	return decoder_decode(l->decoder, s->decoder, &s->rgb, &latent, scratch, e);
}
