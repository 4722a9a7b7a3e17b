/* SPDX-License-Identifier: Apache-2.0 */
/* Looks after one session in a turn: takes back what the ended had, prepares the
 * new, and settles whether it is to run: viewers, pause, pace and journal.
 * Thread: the GPU thread. */
#include "server/gpu_parts.h"

#include <stdio.h>
#include <string.h>

static void at_most(int64_t *wait_us, int64_t us) {
	if (*wait_us < 0 || us < *wait_us)
		*wait_us = us < 0 ? 0 : us;
}

/* Keeps the clock of the unwatched. True: paused for want of viewers. Ends the
 * session after its time. */
static bool unwatched(struct session *s, int64_t now_us, int64_t *wait_us) {
	struct session_gpu *x = &s->gpu;
	pthread_mutex_lock(&s->lock);
	int viewers = s->viewers;
	pthread_mutex_unlock(&s->lock);
	if (viewers > 0) {
		x->unwatched_since_us = 0;
		return false;
	}
	if (x->unwatched_since_us == 0)
		x->unwatched_since_us = now_us;
	if (s->keep_unwatched)
		return false;
	int64_t pause_us = x->unwatched_since_us + (int64_t)s->unwatched_after_s * 1000000;
	int64_t end_us = pause_us + (int64_t)s->unwatched_ttl_s * 1000000;
	if (now_us >= end_us)
		session_sink(s, SESSION_ENDED, "unwatched", 4410, NULL);
	at_most(wait_us, (now_us < pause_us ? pause_us : end_us) - now_us);
	return now_us >= pause_us;
}

/* Why it stands still, or NULL. Under the lock. */
static const char *pause_reason(const struct session *s, bool unwatched) {
	if (s->steps_wished > 0)
		return NULL;
	if (s->user_paused)
		return "user";
	if (s->waits_for_start)
		return "manual";
	return unwatched ? "unwatched" : NULL;
}

/* Its next chunk's numbers are set aside on disk, and so is the scene that it may
 * begin. The journal thread wakes us when they are. Under the lock. */
static bool is_saved(const struct session *s, int frames_max) {
	const struct prompt *due = prompts_due(&s->prompts, session_earliest(s));
	bool scene = s->reset_wished || (due && due->transition == TRANSITION_CUT);
	if (!s->registry->journal)
		return true;
	return s->next_index + frames_max <= s->saved.index &&
	       (!scene || s->saved.scenes == s->scenes_wished);
}

static void set_state(struct session *s, enum session_state state, const char *reason) {
	pthread_mutex_lock(&s->lock);
	bool changed =
		!session_is_over(s->state) && (s->state != state || strcmp(s->reason, reason) != 0);
	if (changed) {
		s->state = state;
		snprintf(s->reason, sizeof s->reason, "%s", reason);
	}
	pthread_mutex_unlock(&s->lock);
	if (changed)
		gpu_say(s, session_state_message(s));
}

/* At a boundary: settles pause and pace. True: its chunk may begin now. */
static bool may_begin(
	struct gpu *g, struct session *s, bool lonely, int64_t now_us, int64_t *wait_us) {
	struct session_gpu *x = &s->gpu;
	const struct model_info *m = engine_model(g->engine);
	pthread_mutex_lock(&s->lock);
	const char *reason = pause_reason(s, lonely);
	bool done = s->max_chunks > 0 && session_earliest(s) >= s->max_chunks;
	int64_t index = s->next_index;
	bool saved = is_saved(s, session_chunk_frames_max(m));
	pthread_mutex_unlock(&s->lock);
	if ((done || reason) && generator_pending(x->generator))
		return false; /* its pictures come first */
	if (done) {
		session_sink(s, SESSION_ENDED, "max_chunks", 1000, NULL);
		at_most(wait_us, 0);
		return false;
	}
	set_state(s, reason ? SESSION_PAUSED : SESSION_RUNNING, reason ? reason : "");
	if (reason) {
		pace_stop(&x->pace);
		x->wait_from_us = 0;
		return false;
	}
	if (!saved)
		session_note(s);
	if (x->blocked || !saved)
		return false;
	int64_t chunk_us = (int64_t)m->chunk_frames * 1000000 * m->fps_den / m->fps_num;
	int64_t begin_us = s->max_pace ? now_us
				       : pace_begin_us(&x->pace, index, now_us,
						 (int64_t)g->conf->lead_ms * 1000, chunk_us,
						 m->fps_num, m->fps_den);
	if (begin_us <= now_us)
		return true;
	if (x->wait_from_us == 0)
		x->wait_from_us = now_us;
	at_most(wait_us, begin_us - now_us);
	return false;
}

bool gpu_tend(struct gpu *g, struct session *s, int64_t now_us, int64_t *wait_us) {
	struct session_gpu *x = &s->gpu;
	bool over = session_is_over(session_state(s));
	bool pending = x->generator && generator_pending(x->generator);
	if (over || (g->draining && !x->mid_chunk && !pending)) {
		if (!x->released || x->encoder || over)
			gpu_put_away(g, s, over);
		if (x->encoder)
			at_most(wait_us, 1000); /* its queue was full */
		return false;
	}
	bool lonely = unwatched(s, now_us, wait_us);
	if (!x->generator && !gpu_prepare(g, s))
		return false;
	gpu_move_frames(s);
	if (x->mid_chunk)
		return !x->blocked && !gpu_is_starving(x);
	if (g->draining)
		return false;
	return may_begin(g, s, lonely, now_us, wait_us);
}
