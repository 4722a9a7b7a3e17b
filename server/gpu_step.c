/* SPDX-License-Identifier: Apache-2.0 */
/* A step of one session's generator: what was wished since the last chunk goes
 * in before, pictures that are done go on to the encoder after.
 * Thread: the GPU thread. */
#include "server/gpu_parts.h"

#include <errno.h>
#include <stdlib.h>

#include "server/wire.h"

enum { FRAMES_AT_ONCE = 16 };

/* ---- pictures on to the encoder */

/* Room for pictures in the encoder's queue; when there is none, the next one
 * done wakes us. */
static int room_for(struct session_gpu *x) {
	int room = encoder_room(x->encoder);
	if (room > 0)
		return room;
	encoder_starve(x->encoder);
	return encoder_room(x->encoder); /* one may have been done before we asked */
}

void gpu_move_frames(struct session *s) {
	struct session_gpu *x = &s->gpu;
	struct frame *f[FRAMES_AT_ONCE];
	for (;;) {
		int room = room_for(x);
		x->blocked = room <= 0;
		if (x->blocked)
			return;
		int n = generator_frames(
			x->generator, f, room < FRAMES_AT_ONCE ? room : FRAMES_AT_ONCE);
		if (n <= 0)
			return;
		for (int i = 0; i < n; i++) {
			bool last = f[i]->frame_in_chunk == f[i]->frames_in_chunk - 1;
			struct chunk_info info = generator_chunk_info(x->generator);
			if (!encoder_frame(x->encoder, f[i]))
				frame_release(f[i]); /* texts never fill its queue: not reached */
			if (last)
				encoder_chunk_end(x->encoder, &info,
					x->pace_wait_us[info.chunk % SESSION_CHUNKS_OPEN]);
		}
	}
}

bool gpu_is_starving(struct session_gpu *x) {
	if (x->starving && encoder_done(x->encoder) != x->starving_done)
		x->starving = false;
	return x->starving;
}

/* ---- the chunk that begins */

/* Takes the prompt off that the engine would not have. */
static void reject(struct session *s, struct prompt *p, const struct error *e) {
	pthread_mutex_lock(&s->lock);
	prompts_remove(&s->prompts, p);
	struct packet *said = session_prompt_message(s, "prompt.rejected", p,
		json_pack("{s:s, s:s, s:b}", "code", problem_name(PROBLEM_INTERNAL), "message",
			e->text, "retryable", 0));
	pthread_mutex_unlock(&s->lock);
	gpu_say(s, said);
	free(p);
}

/* What others wished since the last chunk, for the one that begins. */
struct wishes {
	int64_t chunk; /* its number */
	struct prompt *due; /* or NULL; stays on the session's list */
	bool reset;
	uint64_t seed; /* of the film */
	bool reserve; /* the journal is to set more numbers aside */
};

static struct wishes take_wishes(struct session *s, int journal_chunks) {
	pthread_mutex_lock(&s->lock);
	struct wishes w = {.chunk = session_earliest(s), .reset = s->reset_wished};
	w.due = prompts_due(&s->prompts, w.chunk);
	if (w.due) {
		w.due->state = PROMPT_SENT;
		w.due->chunk = w.chunk;
	}
	if (w.reset)
		s->seed = s->reset_seed;
	w.seed = s->seed;
	s->reset_wished = false;
	s->begun = w.chunk;
	s->begun_index = s->next_index;
	s->steps_wished -= s->steps_wished > 0;
	w.reserve = w.reset || w.chunk + journal_chunks / 2 >= s->reserved;
	if (w.reserve)
		s->reserved = w.chunk + journal_chunks;
	pthread_mutex_unlock(&s->lock);
	return w;
}

static int steer(struct session *s, const struct wishes *w, struct error *e) {
	struct session_gpu *x = &s->gpu;
	int rc = w->reset ? generator_reset(x->generator, w->seed, e) : 0;
	if (rc != 0 || !w->due)
		return rc;
	struct prompt_change words = {w->due->text, w->due->transition, w->due->revision};
	struct error refused = {0};
	if (generator_prompt(x->generator, &words, &refused) == 0)
		x->revision = w->due->revision;
	else if (x->revision != 0)
		reject(s, w->due, &refused);
	else
		rc = error_set(e, refused.code, "%s", refused.text);
	return rc;
}

/* Takes over what was wished since the last chunk and tells its begin. */
static int begin_chunk(struct gpu *g, struct session *s, int64_t now_us, struct error *e) {
	struct session_gpu *x = &s->gpu;
	struct wishes w = take_wishes(s, g->conf->journal_chunks);
	int rc = steer(s, &w, e);
	if (rc != 0)
		return rc;
	int frames = generator_chunk_frames(x->generator);
	pthread_mutex_lock(&s->lock);
	s->next_index += frames;
	s->revision = x->revision;
	pthread_mutex_unlock(&s->lock);
	if (w.reserve)
		session_note(s);
	x->mid_chunk = true;
	x->turn = ++g->turn;
	x->pace_wait_us[generator_chunk(x->generator) % SESSION_CHUNKS_OPEN] =
		x->wait_from_us ? now_us - x->wait_from_us : 0;
	x->wait_from_us = 0;
	if (w.reset) /* with the seed of the new film */
		gpu_say(s, session_state_message(s));
	gpu_say(s, wire_message("chunk.begin", s->id,
			   json_pack("{s:I, s:I, s:i}", "chunk", (json_int_t)w.chunk,
				   "prompt_revision", (json_int_t)x->revision, "frames", frames)));
	return 0;
}

/* ---- the step */

void gpu_step(struct gpu *g, struct session *s, int64_t now_us) {
	struct session_gpu *x = &s->gpu;
	struct error e = {0};
	enum progress progress = PROGRESS_BUSY;
	long long done = encoder_done(x->encoder);
	int rc = x->mid_chunk ? 0 : begin_chunk(g, s, now_us, &e);
	if (rc == 0)
		rc = generator_step(x->generator, &progress, &e);
	if (rc != 0) {
		/* A lost device is not this session's failure: it stays in its journal. */
		if (!engine_broken(g->engine))
			gpu_fail(s, rc == -ENOMEM ? PROBLEM_OUT_OF_DEVICE_MEMORY : PROBLEM_INTERNAL,
				&e);
		else
			log_line(
				g->registry->log, LOG_LEVEL_ERROR, "session %s: %s", s->id, e.text);
		return;
	}
	atomic_store(&g->registry->stepped_us, wire_now_us());
	if (generator_boundary(x->generator))
		x->mid_chunk = false;
	gpu_move_frames(s);
	if (progress == PROGRESS_BLOCKED) {
		x->starving = true;
		x->starving_done = done;
		encoder_starve(x->encoder);
	}
}
