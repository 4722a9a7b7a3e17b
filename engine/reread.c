/* SPDX-License-Identifier: Apache-2.0 */
/* Rereading the memory under another prompt; see reread.h. Frames are counted
 * as the cache counts them, from the beginning of the scene.
 * Thread: the backend's. */
#include "engine/reread.h"

static void frame_copy(struct loaded *l, struct tensor *to, int64_t to_row,
	const struct tensor *from, int64_t from_row) {
	struct tensor a = tensor_rows(*to, to_row, 1), b = tensor_rows(*from, from_row, 1);
	backend_copy(l->be, a.data, b.data, tensor_bytes(&a));
}

void reread_keep(struct loaded *l, struct slot *s, const struct tensor *latent) {
	if (l->m->cache.recache == RECACHE_NONE)
		return;
	int64_t first = kvcache_frame(s->cache);
	for (int64_t i = 0; i < latent->dim[0]; i++) {
		int64_t frame = first + i;
		frame_copy(l, &s->recent, frame % s->recent.dim[0], latent, i);
		if (frame < s->sink.dim[0])
			frame_copy(l, &s->sink, frame, latent, i);
	}
}

/* All in one pass over as many whole chunks as the window holds. */
static void begin_joint(struct reread *r, const struct loaded *l, struct slot *s, int64_t end) {
	int64_t n = end < l->pass_frames ? end : l->pass_frames;
	r->next = end - n;
	r->step = (int)n;
	if (r->next == 0)
		kvcache_restart(s->cache);
	else
		kvcache_rewind(s->cache, r->next);
}

/* Chunk by chunk: the sink, then those that the next chunk will see of the ring. */
static void begin_sequential(
	struct reread *r, const struct loaded *l, struct slot *s, int64_t end) {
	const struct model *m = l->m;
	int64_t recent = m->cache.window_frames - m->cache.sink_frames - m->chunk_frames;
	int64_t first = end - recent > 0 ? end - recent : 0;
	first -= first % m->chunk_frames;
	r->step = m->chunk_frames;
	kvcache_restart(s->cache);
	if (first <= s->sink.dim[0]) {
		r->next = 0; /* nothing lies between them */
		return;
	}
	r->sink_end = s->sink.dim[0];
	r->next = first;
	if (r->sink_end == 0)
		kvcache_rewind(s->cache, first);
}

void reread_begin(struct reread *r, const struct loaded *l, struct slot *s) {
	int64_t end = kvcache_next(s->cache);
	*r = (struct reread){.end = end};
	if (l->m->cache.recache == RECACHE_JOINT)
		begin_joint(r, l, s, end);
	else
		begin_sequential(r, l, s, end);
}

int reread_step(struct reread *r, struct loaded *l, struct slot *s, bool *more, struct error *e) {
	bool sink = r->sink_next < r->sink_end;
	int64_t first = sink ? r->sink_next : r->next;
	const struct tensor *from = sink ? &s->sink : &s->recent;
	for (int i = 0; i < r->step; i++)
		frame_copy(l, &s->reread, i, from, (first + i) % from->dim[0]);
	struct tensor x = tensor_rows(s->reread, 0, r->step);
	kvcache_begin(s->cache, r->step);
	int64_t c = kvcache_visible_frames(s->cache) / l->m->chunk_frames - 1;
	dit_stream_begin(
		l->dit, s->stream, l->sparsity, s->cache, r->step, c > 0 ? c : 0, (uint64_t)first);
	const struct dit_pass pass = {
		.x = &x,
		.timestep = l->m->context_noise,
		.text = s->text,
		.stream = s->stream,
		.cache = s->cache,
	};
	int rc = dit_forward(l->dit, &pass, l->scratch, e);
	if (rc < 0)
		return rc;
	kvcache_commit(s->cache);
	if (sink) {
		r->sink_next += r->step;
		if (r->sink_next == r->sink_end)
			kvcache_rewind(s->cache, r->next);
	} else {
		r->next += r->step;
	}
	*more = r->next < r->end;
	return 0;
}
