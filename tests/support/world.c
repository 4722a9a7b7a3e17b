/* SPDX-License-Identifier: Apache-2.0 */
#include "support/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/journal.h"
#include "server/session_impl.h"
#include "server/wire.h"

enum { PATIENCE_US = 60000000 }; /* real time after which a test is called hung */

static struct event *next_event(struct world *w, struct session *s, const char *type) {
	struct event *e = &w->event[w->events];
	snprintf(e->session, sizeof e->session, "%s", session_id(s));
	snprintf(e->type, sizeof e->type, "%s", type);
	return e;
}

static void record(void *ctx, struct session *s, struct packet *p) {
	struct world *w = ctx;
	pthread_mutex_lock(&w->lock);
	if (w->events < EVENTS_MAX) {
		struct event *e = next_event(w, s, "frame");
		if (p->kind == PACKET_FRAME) {
			e->meta = p->meta;
			e->size = p->size;
			e->bytes = malloc(p->size);
			memcpy(e->bytes, p->data, p->size);
		} else {
			e->json = json_loadb((const char *)p->data, p->size, 0, NULL);
			snprintf(e->type, sizeof e->type, "%s", world_text(e, "type"));
		}
		w->events++;
	}
	pthread_mutex_unlock(&w->lock);
}

static void record_finish(void *ctx, struct session *s, int close_code, const char *reason) {
	struct world *w = ctx;
	(void)reason;
	pthread_mutex_lock(&w->lock);
	if (w->events < EVENTS_MAX) {
		next_event(w, s, "finish")->close_code = close_code;
		w->events++;
	}
	pthread_mutex_unlock(&w->lock);
}

static void set_string(conf_string *at, const char *text) {
	free(*at);
	*at = strdup(text);
}

struct world *world_create(const char *options, const char *state_dir) {
	struct world *w = calloc(1, sizeof *w);
	struct error e = {0};
	char backend[200];
	assert_non_null(w);
	assert_int_equal(conf_default(&w->conf, &e), 0);
	snprintf(backend, sizeof backend,
		"test:fps=16,width=64,height=48,chunk=6,first=3,chunk_ms=0%s%s%s",
		getenv("WORLD_LATE") ? ",late=1" : "", options[0] ? "," : "", options);
	set_string(&w->conf.backend, backend);
	set_string(&w->conf.state_dir, state_dir);
	w->conf.encoder_threads = 1;
	w->conf.cpu_used = 9;
	w->now_us = 1000000000;
	pthread_mutex_init(&w->lock, NULL);
	return w;
}

static void *encode(void *en) {
	encoder_run(en);
	return NULL;
}

void world_open(struct world *w) {
	struct error e = {0};
	w->outlet = (struct outlet){w, record, record_finish};
	w->registry = registry_create(&w->conf, &w->outlet, NULL, &w->metrics, &e);
	assert_non_null(w->registry);
	for (int i = 0; i < w->conf.sessions_max; i++) {
		w->encoder[i] = encoder_create(w->registry, &e);
		assert_non_null(w->encoder[i]);
		assert_int_equal(pthread_create(&w->thread[i], NULL, encode, w->encoder[i]), 0);
	}
	w->gpu = gpu_create(w->registry, w->encoder, w->conf.sessions_max, &e);
	assert_non_null(w->gpu);
	registry_restore(w->registry);
	if (gpu_load(w->gpu, &e) != 0)
		fail_msg("%s", e.text);
}

void world_close(struct world *w) {
	for (int i = 0; i < w->conf.sessions_max; i++) {
		encoder_stop(w->encoder[i]);
		pthread_join(w->thread[i], NULL);
	}
	gpu_destroy(w->gpu);
	for (int i = 0; i < w->conf.sessions_max; i++)
		encoder_destroy(w->encoder[i]);
	registry_destroy(w->registry);
	conf_free(&w->conf);
	for (int i = 0; i < w->events; i++) {
		json_decref(w->event[i].json);
		free(w->event[i].bytes);
	}
	pthread_mutex_destroy(&w->lock);
	free(w);
}

static bool matches(const struct event *e, const char *session, const char *type) {
	return (!session || strcmp(e->session, session) == 0) &&
	       (!type || strcmp(e->type, type) == 0);
}

int world_count(struct world *w, const char *session, const char *type) {
	int n = 0;
	pthread_mutex_lock(&w->lock);
	for (int i = 0; i < w->events; i++)
		n += matches(&w->event[i], session, type);
	pthread_mutex_unlock(&w->lock);
	return n;
}

const struct event *world_event(struct world *w, const char *session, const char *type, int n) {
	const struct event *found = NULL;
	int at = n < 0 ? world_count(w, session, type) + n : n;
	pthread_mutex_lock(&w->lock);
	for (int i = 0, k = 0; i < w->events && !found; i++) {
		if (matches(&w->event[i], session, type) && k++ == at)
			found = &w->event[i];
	}
	pthread_mutex_unlock(&w->lock);
	if (!found)
		fail_msg("no event %s number %d", type, n);
	return found;
}

int world_place(const struct world *w, const struct event *e) {
	return (int)(e - w->event);
}

static bool encoders_rest(struct world *w) {
	for (int i = 0; i < w->conf.sessions_max; i++) {
		if (!encoder_rests(w->encoder[i]))
			return false;
	}
	return true;
}

bool world_journal(struct world *w) {
	bool any = false;
	while (w->registry->journal && !w->journal_hangs && journal_work(w->registry->journal, 0))
		any = true;
	return any;
}

void world_rest(struct world *w) {
	while (!encoders_rest(w))
		registry_wait(w->registry, 200);
}

/* The clock moves only while nobody works: what happens does not depend on how
 * fast the encoders are. */
void world_run(struct world *w, const char *session, const char *type, int n) {
	int64_t until = wire_now_us() + PATIENCE_US;
	while (world_count(w, session, type) < n) {
		bool rest = encoders_rest(w) &&
			    !world_journal(w); /* before the turn: it may free something */
		int64_t wait = gpu_turn(w->gpu, w->now_us);
		if (wait > 0 && rest && encoders_rest(w))
			w->now_us += wait;
		else if (wait != 0)
			registry_wait(w->registry, 200);
		if (wire_now_us() > until)
			fail_msg("waited in vain for %d %s, there are %d", n, type,
				world_count(w, session, type));
	}
}

void world_pass(struct world *w, int64_t for_us) {
	int64_t to = w->now_us + for_us;
	for (;;) {
		bool rest = encoders_rest(w) && !world_journal(w);
		int64_t wait = gpu_turn(w->gpu, w->now_us);
		if (wait == 0)
			continue;
		if (!rest || !encoders_rest(w)) {
			registry_wait(w->registry, 200);
			continue;
		}
		if (w->now_us == to)
			return;
		w->now_us = wait < 0 || w->now_us + wait > to ? to : w->now_us + wait;
	}
}

const char *world_text(const struct event *e, const char *key) {
	const char *s = json_string_value(json_object_get(e->json, key));
	return s ? s : "";
}

int64_t world_number(const struct event *e, const char *key) {
	const json_t *v = json_object_get(e->json, key);
	return json_is_integer(v) ? json_integer_value(v) : -1;
}

struct session *world_session(struct world *w, const char *prompt, struct session_request more) {
	struct session *s;
	struct problem p = {0};
	more.prompt = prompt;
	if (session_create(w->registry, &more, &s, &p) != 0)
		fail_msg("%s", p.detail);
	return s;
}

struct prompt_receipt world_prompt(struct session *s, const char *text, enum transition t) {
	struct prompt_receipt out;
	struct problem p = {0};
	if (session_prompt(s, &(struct prompt_request){.text = text, .transition = t}, &out, &p) !=
		0)
		fail_msg("%s", p.detail);
	return out;
}
