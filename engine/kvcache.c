/* SPDX-License-Identifier: Apache-2.0 */
/* Sink and ring of keys and values; see kvcache.h for the idea.
 * Thread: the backend's. */
#include "engine/kvcache.h"

#include <errno.h>
#include <stdlib.h>

struct layer_stores {
	struct kv_store ring;
	struct kv_store sink; /* as queries see it */
	struct kv_store master; /* as it was committed; unused with a fixed sink */
};

struct kvcache {
	struct backend *be;
	const struct ops *ops;
	struct kvcache_config c;
	int ring_frames;
	int64_t origin; /* the frame of slot 0, up to whole rounds */
	int64_t begin; /* oldest frame that the ring holds */
	int64_t next; /* committed up to here */
	int open; /* frames opened by kvcache_begin */
	int sink_held;
	int64_t turned; /* frames by which the visible sink is ahead of the master */
	size_t bytes;
	struct layer_stores layer[];
};

static int round_up(int n, int unit) {
	return (n + unit - 1) / unit * unit;
}

static void store_init(struct kvcache *k, struct kv_store *s, int frames, struct arena *a) {
	s->shape = k->c.shape;
	s->shape.frames = frames;
	size_t bytes = frames ? k->ops->kv_bytes(&s->shape) : 0;
	s->data = bytes ? arena_bytes(a, bytes) : NULL;
	k->bytes += bytes;
}

struct kvcache *kvcache_create(
	struct backend *be, const struct kvcache_config *c, struct arena *a, struct error *e) {
	if (c->sink_frames < 0 || c->window_frames - c->sink_frames < c->chunk_frames) {
		error_set(e, -EINVAL,
			"cache.window_frames is %d: it must hold the sink (%d) and a chunk (%d)",
			c->window_frames, c->sink_frames, c->chunk_frames);
		return NULL;
	}
	struct kvcache *k = calloc(1, sizeof *k + (size_t)c->layers * sizeof k->layer[0]);
	if (!k) {
		error_set(e, -ENOMEM, "no memory for a cache of %d layers", c->layers);
		return NULL;
	}
	k->be = be;
	k->ops = backend_ops(be);
	k->c = *c;
	int recent = c->window_frames - c->sink_frames;
	k->ring_frames = round_up(recent, c->chunk_frames);
	if (k->ring_frames < c->pass_frames)
		k->ring_frames = round_up(c->pass_frames, c->chunk_frames);
	bool turns = c->rope_sink == ROPE_SINK_RELATIVE;
	for (int l = 0; l < c->layers; l++) {
		store_init(k, &k->layer[l].ring, k->ring_frames, a);
		store_init(k, &k->layer[l].sink, c->sink_frames, a);
		store_init(k, &k->layer[l].master, turns ? c->sink_frames : 0, a);
	}
	kvcache_restart(k);
	return k;
}

void kvcache_destroy(struct kvcache *k) {
	free(k);
}

void kvcache_restart(struct kvcache *k) {
	k->sink_held = 0;
	k->turned = 0;
	kvcache_rewind(k, 0);
}

void kvcache_rewind(struct kvcache *k, int64_t frame) {
	k->origin = k->begin = k->next = frame;
	k->open = 0;
}

/* The oldest frame of the ring that the opened frames see. */
static int64_t ring_lowest(const struct kvcache *k) {
	int64_t low = k->next + k->open - (k->c.window_frames - k->c.sink_frames);
	int64_t begin = k->begin > k->sink_held ? k->begin : k->sink_held;
	return low > begin ? low : begin;
}

static int ring_slot(const struct kvcache *k, int64_t frame) {
	return (int)((frame - k->origin) % k->ring_frames);
}

static struct kv_span span_of(const struct kv_store *store, int first, int count) {
	return (struct kv_span){store, first, count};
}

/* Puts the sink right before the oldest visible frame, from the master copy. */
static void sink_turn(struct kvcache *k) {
	int64_t delta = ring_lowest(k) - k->sink_held;
	if (k->c.rope_sink != ROPE_SINK_RELATIVE || k->sink_held == 0 || delta == k->turned)
		return;
	for (int l = 0; l < k->c.layers; l++) {
		struct kv_span master = span_of(&k->layer[l].master, 0, k->sink_held);
		struct kv_span sink = span_of(&k->layer[l].sink, 0, k->sink_held);
		k->ops->kv_copy(k->be, &sink, &master);
		if (delta != 0)
			k->ops->kv_rotate(k->be, &sink, (double)delta, k->c.theta);
	}
	k->turned = delta;
}

void kvcache_begin(struct kvcache *k, int frames) {
	k->open = frames;
	sink_turn(k);
}

/* Those of the opened frames that belong to the sink leave the ring for it. */
static void sink_take(struct kvcache *k) {
	int count = k->c.sink_frames - k->sink_held;
	if (count > k->open)
		count = k->open;
	if (count <= 0 || k->next != k->sink_held)
		return;
	bool turns = k->c.rope_sink == ROPE_SINK_RELATIVE;
	for (int l = 0; l < k->c.layers; l++) {
		struct kv_span from = span_of(&k->layer[l].ring, ring_slot(k, k->next), count);
		struct kv_span sink = span_of(&k->layer[l].sink, k->sink_held, count);
		struct kv_span master = span_of(&k->layer[l].master, k->sink_held, count);
		k->ops->kv_copy(k->be, &sink, &from);
		if (turns)
			k->ops->kv_copy(k->be, &master, &from);
	}
	k->sink_held += count;
}

void kvcache_commit(struct kvcache *k) {
	sink_take(k);
	k->next += k->open;
	k->open = 0;
}

int64_t kvcache_frame(const struct kvcache *k) {
	return k->next;
}

int kvcache_visible_frames(const struct kvcache *k) {
	return k->sink_held + (int)(k->next + k->open - ring_lowest(k));
}

struct kv_span kvcache_slot(const struct kvcache *k, int layer) {
	return span_of(&k->layer[layer].ring, ring_slot(k, k->next), k->open);
}

int kvcache_spans(const struct kvcache *k, int layer, struct kv_span spans[KV_SPANS_MAX]) {
	int n = 0;
	if (k->sink_held > 0)
		spans[n++] = span_of(&k->layer[layer].sink, 0, k->sink_held);
	int64_t low = ring_lowest(k);
	int count = (int)(k->next + k->open - low), first = ring_slot(k, low);
	int head = count < k->ring_frames - first ? count : k->ring_frames - first;
	spans[n++] = span_of(&k->layer[layer].ring, first, head);
	if (count > head)
		spans[n++] = span_of(&k->layer[layer].ring, 0, count - head);
	return n;
}

int64_t kvcache_next(const struct kvcache *k) {
	return k->next;
}

int kvcache_sink_held(const struct kvcache *k) {
	return k->sink_held;
}

size_t kvcache_bytes(const struct kvcache *k) {
	return k->bytes;
}
