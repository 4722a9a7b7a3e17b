/* SPDX-License-Identifier: Apache-2.0 */
/* All sessions: the list of the living, the ids of those that ended, whether new
 * ones may come, and the bell that wakes the GPU thread. Thread: any. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/journal.h"
#include "server/session_impl.h"
#include "server/wire.h"

struct registry *registry_create(const struct conf *c, const struct outlet *out, struct log *log,
	struct metrics *m, struct error *e) {
	struct registry *r = calloc(1, sizeof *r);
	struct ended *ended = calloc((size_t)c->ended_kept_max, sizeof *ended);
	if (!r || !ended) {
		free(r);
		free(ended);
		error_set(e, -ENOMEM, "no memory for the list of sessions");
		return NULL;
	}
	r->conf = c;
	r->outlet = out;
	r->log = log;
	r->metrics = m;
	r->ended = ended;
	snprintf(r->stage, sizeof r->stage, "starting");
	pthread_mutex_init(&r->lock, NULL);
	pthread_mutex_init(&r->wake_lock, NULL);
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&r->woken, &monotonic);
	pthread_condattr_destroy(&monotonic);
	const char *state_dir = c->state_dir;
	if (state_dir[0]) {
		r->journal = journal_create(state_dir, log, e);
		if (!r->journal) {
			registry_destroy(r);
			return NULL;
		}
	}
	return r;
}

void registry_destroy(struct registry *r) {
	if (!r)
		return;
	while (r->first)
		registry_remove(r, r->first);
	journal_destroy(r->journal);
	pthread_cond_destroy(&r->woken);
	pthread_mutex_destroy(&r->wake_lock);
	pthread_mutex_destroy(&r->lock);
	free(r->ended);
	free(r);
}

struct log *registry_log(struct registry *r) {
	return r->log;
}

struct metrics *registry_metrics(struct registry *r) {
	return r->metrics;
}

int64_t registry_step_age_us(struct registry *r) {
	int64_t at = atomic_load(&r->stepped_us);
	return at ? wire_now_us() - at : -1;
}

void registry_model(struct registry *r, const struct engine *en) {
	atomic_store(&r->engine, en);
	if (en)
		metrics_set(r->metrics, METRIC_READY, 1);
}

const struct engine *registry_engine(struct registry *r) {
	return atomic_load(&r->engine);
}

void registry_loading(struct registry *r, const char *stage, uint64_t done, uint64_t total) {
	pthread_mutex_lock(&r->lock);
	snprintf(r->stage, sizeof r->stage, "%s", stage);
	r->stage_done = done;
	r->stage_total = total;
	pthread_mutex_unlock(&r->lock);
}

int registry_ready(struct registry *r, struct problem *p) {
	bool loaded = registry_engine(r) != NULL;
	pthread_mutex_lock(&r->lock);
	bool draining = r->draining;
	if (draining) {
		problem_set(
			p, PROBLEM_DRAINING, NULL, "The server is shutting down; try again soon.");
		p->retry_after_s = 5;
	} else if (!loaded) {
		problem_set(p, PROBLEM_MODEL_LOADING, NULL,
			"The model is loading: %s, %llu of %llu bytes.", r->stage,
			(unsigned long long)r->stage_done, (unsigned long long)r->stage_total);
		if (!p->extra)
			p->extra = json_pack("{s:s, s:I, s:I}", "stage", r->stage, "loaded_bytes",
				(json_int_t)r->stage_done, "total_bytes",
				(json_int_t)r->stage_total);
		p->retry_after_s = 2;
	}
	pthread_mutex_unlock(&r->lock);
	return loaded && !draining;
}

void registry_wake(struct registry *r) {
	pthread_mutex_lock(&r->wake_lock);
	r->wake = true;
	pthread_cond_signal(&r->woken);
	pthread_mutex_unlock(&r->wake_lock);
}

void registry_wait(struct registry *r, int64_t timeout_us) {
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	int64_t ns = until.tv_nsec + (timeout_us < 0 ? 0 : timeout_us) * 1000;
	until.tv_sec += ns / 1000000000;
	until.tv_nsec = ns % 1000000000;
	pthread_mutex_lock(&r->wake_lock);
	int rc = 0;
	while (!r->wake && rc != ETIMEDOUT)
		rc = timeout_us < 0 ? pthread_cond_wait(&r->woken, &r->wake_lock)
				    : pthread_cond_timedwait(&r->woken, &r->wake_lock, &until);
	r->wake = false;
	pthread_mutex_unlock(&r->wake_lock);
}

int registry_all(struct registry *r, struct session *out[SESSIONS_LISTED_MAX]) {
	int n = 0;
	pthread_mutex_lock(&r->lock);
	for (struct session *s = r->first; s && n < SESSIONS_LISTED_MAX; s = s->next)
		out[n++] = session_ref(s);
	pthread_mutex_unlock(&r->lock);
	return n;
}

int registry_add(struct registry *r, struct session *s, struct problem *p) {
	int rc = 0;
	pthread_mutex_lock(&r->lock);
	if (r->draining) {
		rc = problem_set(
			p, PROBLEM_DRAINING, NULL, "The server is shutting down; try again soon.");
	} else if (r->live >= r->conf->sessions_max) {
		rc = problem_set(p, PROBLEM_SESSION_LIMIT, NULL,
			"All %d session slots are in use; end one, or try again later.",
			(int)r->conf->sessions_max);
	} else {
		s->next = r->first;
		r->first = session_ref(s);
		metrics_set(r->metrics, METRIC_SESSIONS, ++r->live);
	}
	pthread_mutex_unlock(&r->lock);
	if (rc != 0)
		p->retry_after_s = 5;
	return rc;
}

void registry_over(struct registry *r, struct session *s) {
	struct ended it = {.at_us = wire_now_us()};
	pthread_mutex_lock(&s->lock);
	memcpy(it.id, s->id, sizeof it.id);
	it.failed = s->state == SESSION_FAILED;
	snprintf(it.reason, sizeof it.reason, "%.199s", it.failed ? s->fail_detail : s->reason);
	pthread_mutex_unlock(&s->lock);
	pthread_mutex_lock(&r->lock);
	int capacity = r->conf->ended_kept_max;
	r->ended[(r->ended_first + r->ended_count) % capacity] = it;
	if (r->ended_count < capacity)
		r->ended_count++;
	else
		r->ended_first = (r->ended_first + 1) % capacity;
	metrics_set(r->metrics, METRIC_SESSIONS, --r->live);
	pthread_mutex_unlock(&r->lock);
}

void registry_remove(struct registry *r, struct session *s) {
	pthread_mutex_lock(&r->lock);
	struct session **at = &r->first;
	while (*at && *at != s)
		at = &(*at)->next;
	bool found = *at != NULL;
	if (found)
		*at = s->next;
	pthread_mutex_unlock(&r->lock);
	if (found)
		session_unref(s);
}

/* Fills *p for an id that is not among the living. Under the lock. */
static void tell_ended(struct registry *r, const char *id, struct problem *p) {
	int64_t oldest = wire_now_us() - (int64_t)r->conf->ended_kept_s * 1000000;
	for (int i = r->ended_count - 1; i >= 0; i--) {
		const struct ended *it = &r->ended[(r->ended_first + i) % r->conf->ended_kept_max];
		if (strcmp(it->id, id) != 0 || it->at_us < oldest)
			continue;
		problem_set(p, PROBLEM_GONE, NULL, "Session %s %s: %s.", id,
			it->failed ? "failed" : "ended", it->reason);
		if (!p->extra)
			p->extra = json_pack("{s:s, s:s}", "state", it->failed ? "failed" : "ended",
				"reason", it->reason);
		return;
	}
	problem_set(p, PROBLEM_NOT_FOUND, NULL, "There is no session %.40s.", id);
}

static bool is_live(struct session *s) {
	pthread_mutex_lock(&s->lock);
	bool live = !session_is_over(s->state);
	pthread_mutex_unlock(&s->lock);
	return live;
}

struct session *session_find(struct registry *r, const char *id, struct problem *p) {
	pthread_mutex_lock(&r->lock);
	struct session *s = r->first;
	while (s && strcmp(s->id, id) != 0)
		s = s->next;
	if (s && is_live(s)) {
		session_ref(s);
	} else {
		s = NULL;
		tell_ended(r, id, p);
	}
	pthread_mutex_unlock(&r->lock);
	return s;
}

int session_list(struct registry *r, const char *after, int max, struct session **out) {
	int n = 0;
	pthread_mutex_lock(&r->lock);
	struct session *s = r->first;
	while (after && s && strcmp(s->id, after) != 0)
		s = s->next;
	if (after && s)
		s = s->next;
	for (; s && n < max; s = s->next) {
		if (is_live(s))
			out[n++] = session_ref(s);
	}
	pthread_mutex_unlock(&r->lock);
	return n;
}

void registry_drain(struct registry *r) {
	struct session *all[SESSIONS_LISTED_MAX];
	pthread_mutex_lock(&r->lock);
	r->draining = true;
	pthread_mutex_unlock(&r->lock);
	metrics_set(r->metrics, METRIC_READY, 0);
	int n = registry_all(r, all);
	for (int i = 0; i < n; i++) {
		session_say(all[i],
			wire_notice(all[i]->id, "draining",
				"The server is shutting down; the session waits in its journal."));
		session_unref(all[i]);
	}
	registry_wake(r);
}

bool registry_draining(struct registry *r) {
	pthread_mutex_lock(&r->lock);
	bool draining = r->draining;
	pthread_mutex_unlock(&r->lock);
	return draining;
}

/* One journal at the start. */
static int restore_one(void *ctx, const json_t *j, struct error *e) {
	struct registry *r = ctx;
	struct session *s = session_from_journal(r, j, e);
	if (!s)
		return e->code;
	struct problem p = {0};
	if (registry_add(r, s, &p) != 0) {
		log_line(r->log, LOG_LEVEL_WARN, "session %s stays in its journal: %s", s->id,
			p.detail);
		problem_clear(&p);
	}
	session_unref(s);
	return 0;
}

int registry_restore(struct registry *r) {
	if (r->journal)
		journal_load(r->journal, restore_one, r);
	return r->live;
}

void registry_journal_run(struct registry *r) {
	if (r->journal)
		journal_run(r->journal);
}

void registry_journal_stop(struct registry *r) {
	if (r->journal)
		journal_stop(r->journal);
}

void registry_journal_flush(struct registry *r) {
	struct session *all[SESSIONS_LISTED_MAX];
	int n = registry_all(r, all);
	for (int i = 0; i < n; i++) {
		if (r->journal)
			journal_write(r->journal, all[i], true);
		session_unref(all[i]);
	}
}
