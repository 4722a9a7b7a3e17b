/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of one stream: keys and values of the sink (the first frames of
 * the scene) and of a ring of recent frames, for every layer. All counts are
 * latent frames.
 *
 * Frame f lies in ring slot (f - origin) mod ring; the chunk being made is
 * written there by each of its passes, over frames that are no longer visible.
 * When it is committed, those of its frames that belong to the sink are copied
 * out, so the sink may be of any length. A query sees the sink, then the
 * newest window - sink frames, its own included: at most three runs of slots.
 *
 * Keys are stored turned by their absolute frame. With a relative sink the
 * model wants the sink to stand right before the ring's oldest visible frame:
 * when the window slides, the sink's keys are turned on from a master copy, by
 * the whole distance, so that rounding never piles up over days.
 * Thread: the backend's. Does not know the transformer. */
#ifndef ENGINE_KVCACHE_H
#define ENGINE_KVCACHE_H
#include "engine/arena.h"
#include "engine/model.h"

struct kvcache_config {
	int layers;
	int window_frames, sink_frames, chunk_frames;
	int pass_frames; /* most frames one pass writes; > chunk only for joint recache */
	enum rope_sink rope_sink;
	double theta;
	struct kv_shape shape; /* frames is ignored */
};
struct kvcache;

/* Memory comes from `a`, which may be measuring. -EINVAL in *e when the window
 * cannot hold the sink and a chunk. */
struct kvcache *kvcache_create(
	struct backend *be, const struct kvcache_config *c, struct arena *a, struct error *e);
void kvcache_destroy(struct kvcache *k); /* memory stays with its arena; NULL is fine */

/* Forgets everything; the next frame is 0. */
void kvcache_restart(struct kvcache *k);
/* Forgets the ring but not the sink: the next pass writes frame `frame`, and
 * nothing between sink and it is visible. For rereading the window. */
void kvcache_rewind(struct kvcache *k, int64_t frame);
/* Opens the slots of the next `frames` frames and turns the sink to where they
 * want it. All passes of a chunk write there. */
void kvcache_begin(struct kvcache *k, int frames);
/* Makes them the newest of the past. */
void kvcache_commit(struct kvcache *k);

/* Of the frames opened by kvcache_begin: */
int64_t kvcache_frame(const struct kvcache *k); /* the first one */
int kvcache_visible_frames(const struct kvcache *k); /* they included */
struct kv_span kvcache_slot(const struct kvcache *k, int layer);
/* Fills spans, oldest first; returns how many. */
int kvcache_spans(const struct kvcache *k, int layer, struct kv_span spans[KV_SPANS_MAX]);

int64_t kvcache_next(const struct kvcache *k); /* the frame that comes next */
int kvcache_sink_held(const struct kvcache *k); /* frames in the sink so far */
size_t kvcache_bytes(const struct kvcache *k);
#endif
