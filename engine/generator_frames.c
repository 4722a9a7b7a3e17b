/* SPDX-License-Identifier: Apache-2.0 */
/* Latent frames through the decoder, on the lane, and the pictures' way to the host
 * until they are handed out. Thread: the backend's. */
#include "engine/generator_impl.h"

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

int stage_decode(struct live *g, bool *blocked, struct error *e) {
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

bool live_frames_ready(const struct live *g) {
	struct backend *lane = g->l->lane;
	return live_pending(&g->base) && backend_reached(lane, g->waiting[g->waiting_first].mark) &&
	       backend_error(lane, NULL) == 0;
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
	while (n < max && live_frames_ready(g)) {
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
