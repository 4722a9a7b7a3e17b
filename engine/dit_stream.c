/* SPDX-License-Identifier: Apache-2.0 */
/* What a stream's passes read beside the cache: rotations of time and the lists of
 * policies that do not look at the keys. Thread: the backend's. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "engine/dit_impl.h"

struct dit_stream *dit_stream_create(const struct dit *d, const struct sparsity *s, int pass_frames,
	int visible_frames, struct arena *a, struct error *e) {
	struct dit_stream *t = calloc(1, sizeof *t);
	int per_frame = (d->frame_tokens + sparsity_block(s) - 1) / sparsity_block(s);
	int64_t lists = !sparsity_listed(s) ? 0 : sparsity_listed_per_layer(s) ? d->c.layers : 1;
	int64_t entries = lists * d->c.heads * pass_frames * per_frame * visible_frames * per_frame;
	if (t) {
		t->time = arena_tensor(a, DTYPE_F32, 3, (int64_t[]){pass_frames, d->time_pairs, 2});
		if (entries)
			t->listed = arena_tensor(a, DTYPE_I32, 1, &entries);
		size_t bytes = tensor_bytes(&t->time), other = (size_t)entries * sizeof(int32_t);
		t->host = malloc(bytes > other ? bytes : other);
	}
	if (!t || !t->host) {
		free(t);
		error_set(e, -ENOMEM, "no memory for a stream's tables");
		return NULL;
	}
	return t;
}

void dit_stream_destroy(struct dit_stream *t) {
	if (t)
		free(t->host);
	free(t);
}

/* Angles in double: exact to f32 for years of frames. */
static void time_table(const struct dit *d, struct dit_stream *t, int64_t first, int frames) {
	float *at = t->host;
	for (int64_t f = first; f < first + frames; f++) {
		for (int p = 0; p < d->time_pairs; p++) {
			double angle = (double)f * pow(d->c.theta, -(double)p / d->time_pairs);
			*at++ = (float)cos(angle);
			*at++ = (float)sin(angle);
		}
	}
	struct tensor rows = tensor_rows(t->time, 0, frames);
	backend_upload(d->be, rows.data, t->host, tensor_bytes(&rows));
}

void dit_stream_begin(const struct dit *d, struct dit_stream *t, const struct sparsity *s,
	const struct kvcache *k, int frames, int64_t c, uint64_t seed) {
	int per_frame = (d->frame_tokens + sparsity_block(s) - 1) / sparsity_block(s);
	t->frames = frames;
	time_table(d, t, kvcache_frame(k), frames);
	t->plan = sparsity_plan(s, c, kvcache_visible_frames(k), frames, per_frame);
	if (t->plan.kind != SPARSITY_LISTED)
		return;
	int64_t rows = (int64_t)d->c.heads * frames * per_frame;
	int64_t layers = sparsity_listed_per_layer(s) ? d->c.layers : 1;
	t->layer_stride = layers > 1 ? rows * t->plan.keep : 0;
	sparsity_fill(s, &t->plan, t->host, layers * rows, seed);
	backend_upload(d->be, t->listed.data, t->host,
		(size_t)(layers * rows * t->plan.keep) * sizeof(int32_t));
}

const struct sparsity_plan *dit_stream_plan(const struct dit_stream *t) {
	return &t->plan;
}
