/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding. Work items live in a ring one longer than the queue can hold, so
 * that nothing is allocated per picture but its packet. Epochs begin here: with
 * the first picture of a scene and with each new encoder.
 * Thread: encoder_run's; the GPU thread's where the header says so. */
#include "server/encoder.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/queue.h"
#include "server/session_impl.h"
#include "server/vp9.h"
#include "server/wire.h"

enum { TEXTS_MAX = 64, TICK_MS = 1000, LONG_CHUNK_US = 1000000 };

enum work_kind { WORK_OPEN, WORK_TEXT, WORK_FRAME, WORK_CHUNK_END, WORK_CLOSE };
struct work {
	enum work_kind kind;
	union {
		struct {
			struct session *session; /* a reference */
			uint32_t epoch, revision; /* before its first picture here */
		} open; /* WORK_OPEN */
		struct packet *packet; /* WORK_TEXT, a reference */
		struct frame *frame; /* WORK_FRAME, owned */
		struct {
			struct chunk_info info;
			int64_t pace_wait_us;
		} end; /* WORK_CHUNK_END */
		struct {
			int code;
			bool tell;
			char reason[120];
		} close; /* WORK_CLOSE */
	};
};

struct encoder {
	struct registry *registry;
	struct queue *queue;
	atomic_llong ticked_us, frames_done;
	atomic_int frames_waiting, waiting; /* waiting: work of every kind */
	atomic_bool busy, starved;

	/* GPU thread */
	int frames_max, next, count; /* next: of work[count] */

	/* encoder thread: the session at hand and its film */
	struct session *session;
	struct vp9 *vp9;
	const struct model_info *model;
	struct vp9_config config;
	struct rate_cap cap;
	bool fresh; /* the next picture begins an epoch */
	bool begun; /* a picture of this session was encoded here */
	uint32_t epoch, revision;
	int chunks_since_key;
	int64_t key_us; /* media time of the last key frame */
	int64_t key_wall_us;
	int64_t encode_us, bytes; /* of the chunk in progress */

	struct work work[];
};

struct encoder *encoder_create(struct registry *r, struct error *e) {
	int frames_max = r->conf->frames_queued_max, count = frames_max + TEXTS_MAX + 2;
	struct encoder *en = calloc(1, sizeof *en + (size_t)count * sizeof en->work[0]);
	struct queue *queue = queue_create(count - 2, NULL);
	if (!en || !queue) {
		free(en);
		queue_destroy(queue);
		error_set(e, -ENOMEM, "no memory for an encoder's queue");
		return NULL;
	}
	en->registry = r;
	en->queue = queue;
	en->frames_max = frames_max;
	en->count = count;
	atomic_store(&en->ticked_us, wire_now_us());
	return en;
}

/* ---- GPU thread */

static bool push(struct encoder *en, const struct work *w) {
	struct work *slot = &en->work[en->next];
	/* The slot is free: of `count`, count - 2 are queued at most and one is in work. */
	*slot = *w;
	atomic_fetch_add(&en->waiting, 1);
	if (!queue_push(en->queue, slot)) {
		atomic_fetch_sub(&en->waiting, 1);
		return false;
	}
	en->next = (en->next + 1) % en->count;
	return true;
}

bool encoder_open(struct encoder *en, struct session *s) {
	if (atomic_load(&en->busy))
		return false;
	atomic_store(&en->busy, true);
	struct work w = {.kind = WORK_OPEN, .open.session = session_ref(s)};
	pthread_mutex_lock(&s->lock);
	w.open.epoch = s->epoch;
	w.open.revision = s->restored ? s->revision : 0;
	pthread_mutex_unlock(&s->lock);
	if (push(en, &w))
		return true;
	session_unref(s);
	atomic_store(&en->busy, false);
	return false;
}

bool encoder_text(struct encoder *en, struct packet *p) {
	return !p || push(en, &(struct work){.kind = WORK_TEXT, .packet = p});
}

int encoder_room(const struct encoder *en) {
	return en->frames_max - atomic_load(&en->frames_waiting);
}

bool encoder_frame(struct encoder *en, struct frame *f) {
	if (encoder_room(en) <= 0)
		return false;
	atomic_fetch_add(&en->frames_waiting, 1);
	if (push(en, &(struct work){.kind = WORK_FRAME, .frame = f}))
		return true;
	atomic_fetch_sub(&en->frames_waiting, 1);
	return false;
}

bool encoder_chunk_end(struct encoder *en, const struct chunk_info *info, int64_t pace_wait_us) {
	return push(en, &(struct work){.kind = WORK_CHUNK_END, .end = {*info, pace_wait_us}});
}

bool encoder_close(struct encoder *en, int close_code, const char *reason, bool tell) {
	struct work w = {.kind = WORK_CLOSE, .close = {.code = close_code, .tell = tell}};
	snprintf(w.close.reason, sizeof w.close.reason, "%s", reason);
	return push(en, &w);
}

void encoder_starve(struct encoder *en) {
	atomic_store(&en->starved, true);
}

bool encoder_rests(const struct encoder *en) {
	return atomic_load(&en->waiting) == 0;
}

long long encoder_done(const struct encoder *en) {
	return atomic_load(&en->frames_done);
}

int64_t encoder_ticked_us(const struct encoder *en) {
	return atomic_load(&en->ticked_us);
}

/* ---- encoder thread */

static void open_session(struct encoder *en, const struct work *w) {
	struct session *s = w->open.session;
	const struct conf *c = en->registry->conf;
	const char *rate_control = c->rate_control;
	en->session = s;
	en->model = engine_model(registry_engine(en->registry));
	en->config = (struct vp9_config){
		.width = en->model->width,
		.height = en->model->height,
		.fps_num = en->model->fps_num,
		.fps_den = en->model->fps_den,
		.bitrate_kbps = s->bitrate_kbps,
		.cq_level = c->cq_level,
		.cpu_used = c->cpu_used,
		.threads = c->encoder_threads,
		.network = strcmp(rate_control, "network") == 0,
	};
	rate_cap_init(&en->cap, c->cq_level, s->bitrate_kbps);
	en->epoch = w->open.epoch;
	en->revision = w->open.revision;
	en->fresh = true;
	en->begun = false;
	en->chunks_since_key = 0;
	en->key_wall_us = 0;
	en->encode_us = en->bytes = 0;
	/* Made ahead of the first picture: it takes as long as several frames. */
	struct error e = {0};
	en->vp9 = vp9_create(&en->config, &e);
	if (!en->vp9)
		log_line(en->registry->log, LOG_LEVEL_ERROR, "session %s: %s", s->id, e.text);
}

static void close_session(struct encoder *en, const struct work *w) {
	struct session *s = en->session;
	const struct outlet *out = en->registry->outlet;
	vp9_destroy(en->vp9);
	en->vp9 = NULL;
	pthread_mutex_lock(&s->speak);
	if (w->close.tell)
		session_publish(s, session_state_message(s));
	if (out->finish)
		out->finish(out->ctx, s, w->close.code, w->close.reason);
	pthread_mutex_unlock(&s->speak);
	session_unref(s);
	en->session = NULL;
	atomic_store(&en->busy, false);
	registry_wake(en->registry);
}

static uint64_t pts_us(const struct encoder *en, int64_t index) {
	return (uint64_t)(index * 1000000 * en->model->fps_den / en->model->fps_num);
}

/* A new scene or a new encoder: another epoch, told before its first frame. */
static void begin_epoch(struct encoder *en) {
	struct session *s = en->session;
	char codec[WIRE_CODEC_BYTES];
	const struct model_info *m = en->model;
	wire_codec(codec, m->width, m->height, m->fps_num, m->fps_den);
	en->epoch++;
	pthread_mutex_lock(&s->lock);
	s->epoch = en->epoch;
	s->shown = true;
	pthread_mutex_unlock(&s->lock);
	session_say(s, wire_video_config(s->id, en->epoch, m->width, m->height, m->fps_num,
			       m->fps_den, codec));
	if (en->begun || s->restored)
		session_note(s);
}

/* The first frame under new words: they are applied, and viewers hear it just
 * before they see it. */
static void tell_applied(struct encoder *en, const struct frame *f) {
	struct session *s = en->session;
	struct packet *said = NULL;
	en->revision = f->revision;
	pthread_mutex_lock(&s->speak);
	pthread_mutex_lock(&s->lock);
	struct prompt *p = prompts_by_revision(&s->prompts, f->revision);
	if (p && p->state == PROMPT_SENT) {
		p->state = PROMPT_APPLIED;
		p->chunk = f->chunk;
		p->seq = (uint64_t)f->index;
		p->pts_us = pts_us(en, f->index);
		said = session_prompt_message(s, "prompt.applied", p,
			json_pack("{s:I, s:I, s:I}", "chunk", (json_int_t)p->chunk, "seq",
				(json_int_t)p->seq, "pts_us", (json_int_t)p->pts_us));
		prompts_trim(&s->prompts, en->registry->conf->prompts_kept_max);
	}
	pthread_mutex_unlock(&s->lock);
	session_publish(s, said);
	pthread_mutex_unlock(&s->speak);
	session_note(s);
}

/* A viewer's wish for a key frame is met at the next chunk, or at once where
 * chunks are long, and not too soon after the last. */
static bool wished_key(struct encoder *en, const struct frame *f) {
	int64_t chunk_us = (int64_t)pts_us(en, f->frames_in_chunk);
	int64_t gap_us = (int64_t)en->registry->conf->keyframe_interval_ms * 1000;
	if (f->frame_in_chunk != 0 && chunk_us <= LONG_CHUNK_US)
		return false;
	if (wire_now_us() - en->key_wall_us < gap_us)
		return false;
	return atomic_exchange(&en->session->key_wished, false);
}

static bool needs_key(struct encoder *en, const struct frame *f) {
	bool words = f->revision != en->revision;
	bool first = f->frame_in_chunk == 0;
	return en->fresh ||
	       (first && (words || en->chunks_since_key >= en->session->keyframe_every_chunks)) ||
	       wished_key(en, f);
}

/* Encodes, and once more with a new encoder when the old one fails. */
static int encode(struct encoder *en, const struct frame *f, bool *key, struct packet **out,
	struct error *e) {
	if (en->vp9 && vp9_encode(en->vp9, f, f->index, *key, out, e) == 0)
		return 0;
	if (en->vp9) {
		log_line(en->registry->log, LOG_LEVEL_WARN, "session %s: %s; a new encoder is made",
			en->session->id, e->text);
		*e = (struct error){0};
		packet_unref(*out);
		vp9_destroy(en->vp9);
		if (!en->fresh)
			begin_epoch(en);
	}
	*key = en->fresh = true;
	en->config.cq_level = en->cap.level;
	en->vp9 = vp9_create(&en->config, e);
	return en->vp9 ? vp9_encode(en->vp9, f, f->index, true, out, e) : e->code;
}

static void fill_meta(
	struct encoder *en, const struct frame *f, bool discontinuity, struct packet *p) {
	uint8_t flags = p->meta.flags;
	flags |= discontinuity ? FRAME_DISCONTINUITY : 0;
	flags |= f->frame_in_chunk == 0 ? FRAME_FIRST_OF_CHUNK : 0;
	flags |= f->frame_in_chunk == f->frames_in_chunk - 1 ? FRAME_LAST_OF_CHUNK : 0;
	p->meta = (struct frame_meta){
		.flags = flags,
		.epoch = en->epoch,
		.seq = (uint64_t)f->index,
		.pts_us = pts_us(en, f->index),
		.chunk = (uint32_t)f->chunk,
		.frame_in_chunk = (uint16_t)f->frame_in_chunk,
		.frames_in_chunk = (uint16_t)f->frames_in_chunk,
		.revision = f->revision,
	};
	p->made_us = wire_now_us();
}

static void fail_session(struct encoder *en, const struct error *e) {
	struct problem why = {0};
	problem_set(&why, PROBLEM_INTERNAL, NULL, "%s", e->text);
	session_sink(en->session, SESSION_FAILED, "encoder", 1011, &why);
}

static void encode_frame(struct encoder *en, const struct frame *f) {
	struct session *s = en->session;
	struct error e = {0};
	struct packet *p = NULL;
	int64_t from = wire_now_us();
	if (f->scene_start)
		en->fresh = true;
	if (en->fresh)
		begin_epoch(en);
	bool key = needs_key(en, f);
	if (encode(en, f, &key, &p, &e) != 0) {
		packet_unref(p);
		fail_session(en, &e);
		return;
	}
	if (f->revision != en->revision)
		tell_applied(en, f);
	fill_meta(en, f, en->fresh && (en->begun || s->restored), p);
	if (p->meta.flags & FRAME_KEY) {
		en->chunks_since_key = 0;
		en->key_wall_us = p->made_us;
		atomic_store(&s->key_wished, false);
	}
	en->fresh = false;
	en->begun = true;
	en->encode_us += wire_now_us() - from;
	en->bytes += (int64_t)p->size;
	metrics_add(en->registry->metrics, METRIC_FRAMES_ENCODED, 1);
	session_publish(s, p);
}

static void tell_chunk_end(struct encoder *en, const struct work *w) {
	const struct chunk_info *i = &w->end.info;
	struct session *s = en->session;
	json_t *timings = json_pack("{s:I, s:I, s:I, s:I, s:I}", "condition_us",
		(json_int_t)i->condition_us, "dit_us", (json_int_t)i->dit_us, "vae_us",
		(json_int_t)i->decode_us, "encode_us", (json_int_t)en->encode_us, "pace_wait_us",
		(json_int_t)w->end.pace_wait_us);
	json_t *sparsity = json_pack("{s:i, s:i, s:s}", "kept_blocks", i->kept_blocks,
		"visible_blocks", i->visible_blocks, "policy", en->model->sparsity);
	json_t *j = json_pack("{s:I, s:I, s:i, s:o, s:I, s:o, s:I, s:i}", "chunk",
		(json_int_t)i->chunk, "prompt_revision", (json_int_t)i->revision, "frames",
		i->frames, "timings", timings, "bytes", (json_int_t)en->bytes, "sparsity", sparsity,
		"kv_bytes", (json_int_t)i->kv_bytes, "q", en->vp9 ? vp9_quantizer(en->vp9) : 0);
	session_say(s, wire_message("chunk.end", s->id, j));
	int level = rate_cap_chunk(&en->cap, en->bytes, (int64_t)pts_us(en, i->frames));
	if (en->vp9 && !en->config.network)
		vp9_set_quality(en->vp9, level);
	en->chunks_since_key++;
	en->encode_us = en->bytes = 0;
	metrics_add(en->registry->metrics, METRIC_CHUNKS, 1);
}

static void frame_done(struct encoder *en, struct frame *f) {
	frame_release(f);
	atomic_fetch_sub(&en->frames_waiting, 1);
	atomic_fetch_add(&en->frames_done, 1);
	if (atomic_exchange(&en->starved, false))
		registry_wake(en->registry);
}

static void work(struct encoder *en, struct work *w) {
	switch (w->kind) {
	case WORK_OPEN:
		open_session(en, w);
		break;
	case WORK_TEXT:
		session_say(en->session, w->packet);
		break;
	case WORK_FRAME:
		if (session_state(en->session) != SESSION_FAILED)
			encode_frame(en, w->frame);
		frame_done(en, w->frame);
		break;
	case WORK_CHUNK_END:
		tell_chunk_end(en, w);
		break;
	case WORK_CLOSE:
		close_session(en, w);
		break;
	}
}

void encoder_run(struct encoder *en) {
	for (;;) {
		struct work *w = queue_pop(en->queue, TICK_MS);
		atomic_store(&en->ticked_us, wire_now_us());
		if (w) {
			work(en, w);
			atomic_fetch_sub(&en->waiting, 1);
		} else if (queue_closed(en->queue)) {
			return;
		}
	}
}

void encoder_stop(struct encoder *en) {
	queue_close(en->queue);
}

void encoder_destroy(struct encoder *en) {
	if (!en)
		return;
	for (struct work *w; (w = queue_pop(en->queue, 0));) {
		if (w->kind == WORK_OPEN)
			session_unref(w->open.session);
		else if (w->kind == WORK_TEXT)
			packet_unref(w->packet);
		else if (w->kind == WORK_FRAME)
			frame_release(w->frame);
	}
	vp9_destroy(en->vp9);
	session_unref(en->session);
	queue_destroy(en->queue);
	free(en);
}
