/* SPDX-License-Identifier: Apache-2.0 */
/* A session's references, state and end, and how a change of it is told: to the
 * viewers in order, to the journal, to the GPU thread. What may be asked of it is in
 * session_create.c, session_prompt.c and session_act.c: each call checks, changes
 * what is under the lock, tells the viewers, wakes the GPU thread and, where the
 * caller can wait, writes the journal. Thread: any. */
#include "server/session.h"

#include <stdio.h>
#include <stdlib.h>

#include "server/journal.h"
#include "server/session_impl.h"

static const char *const state_names[] = {
	[SESSION_QUEUED] = "queued",
	[SESSION_PREPARING] = "preparing",
	[SESSION_RUNNING] = "running",
	[SESSION_PAUSED] = "paused",
	[SESSION_ENDED] = "ended",
	[SESSION_FAILED] = "failed",
};

const char *session_state_name(enum session_state s) {
	return state_names[s];
}

bool session_is_over(enum session_state s) {
	return s >= SESSION_ENDED;
}

struct session *session_alloc(struct registry *r) {
	struct session *s = calloc(1, sizeof *s);
	if (!s)
		return NULL;
	s->registry = r;
	s->state = SESSION_PREPARING;
	s->begun = -1;
	atomic_init(&s->references, 1);
	pthread_mutex_init(&s->speak, NULL);
	pthread_mutex_init(&s->lock, NULL);
	return s;
}

struct session *session_ref(struct session *s) {
	atomic_fetch_add_explicit(&s->references, 1, memory_order_relaxed);
	return s;
}

void session_unref(struct session *s) {
	if (!s || atomic_fetch_sub_explicit(&s->references, 1, memory_order_acq_rel) != 1)
		return;
	generator_destroy(s->gpu.generator);
	prompts_finish(&s->prompts);
	json_decref(s->labels);
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->speak);
	free(s);
}

const char *session_id(const struct session *s) {
	return s->id;
}

enum session_state session_state(struct session *s) {
	pthread_mutex_lock(&s->lock);
	enum session_state state = s->state;
	pthread_mutex_unlock(&s->lock);
	return state;
}

void session_publish(struct session *s, struct packet *p) {
	const struct outlet *out = s->registry->outlet;
	if (p && out->publish)
		out->publish(out->ctx, s, p);
	packet_unref(p);
}

void session_say(struct session *s, struct packet *p) {
	pthread_mutex_lock(&s->speak);
	session_publish(s, p);
	pthread_mutex_unlock(&s->speak);
}

void session_note(struct session *s) {
	if (s->registry->journal)
		journal_post(s->registry->journal, s);
}

void session_saved(struct session *s, const struct journal_place *place) {
	pthread_mutex_lock(&s->lock);
	s->saved = *place;
	pthread_mutex_unlock(&s->lock);
	registry_wake(s->registry);
}

int session_chunk_frames_max(const struct model_info *m) {
	return m->first_chunk_frames > m->chunk_frames ? m->first_chunk_frames : m->chunk_frames;
}

int64_t session_earliest(const struct session *s) {
	return s->reset_wished ? 0 : s->begun + 1;
}

void session_write_journal(struct session *s, bool durable) {
	if (s->registry->journal && durable)
		journal_write(s->registry->journal, s, false);
	else
		session_note(s);
}

bool session_sink(struct session *s, enum session_state state, const char *reason, int close_code,
	const struct problem *why) {
	pthread_mutex_lock(&s->lock);
	bool live = !session_is_over(s->state);
	if (live) {
		s->state = state;
		s->close_code = close_code;
		snprintf(s->reason, sizeof s->reason, "%s", reason);
		if (why) {
			snprintf(s->fail_code, sizeof s->fail_code, "%s", problem_name(why->code));
			snprintf(s->fail_detail, sizeof s->fail_detail, "%s", why->detail);
		}
	}
	pthread_mutex_unlock(&s->lock);
	if (!live)
		return false;
	registry_over(s->registry, s);
	log_line(s->registry->log, why ? LOG_LEVEL_ERROR : LOG_LEVEL_INFO, "session %s: %s, %s",
		s->id, state_names[state], why ? why->detail : reason);
	session_note(s);
	registry_wake(s->registry);
	return true;
}

int session_end(struct session *s, struct problem *p) {
	(void)p;
	/* The journal goes before the answer: an ended session must not come back. */
	if (session_sink(s, SESSION_ENDED, "deleted", 1000, NULL) && s->registry->journal)
		journal_write(s->registry->journal, s, false);
	return 0;
}

void session_watched(struct session *s, int viewers) {
	pthread_mutex_lock(&s->lock);
	s->viewers = viewers;
	pthread_mutex_unlock(&s->lock);
	registry_wake(s->registry);
}

void session_request_key(struct session *s) {
	atomic_store(&s->key_wished, true);
}
