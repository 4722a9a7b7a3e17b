/* SPDX-License-Identifier: Apache-2.0 */
/* What other threads may ask of a session: create, prompts, actions, end. Each
 * call checks, changes what is under the lock, tells the viewers, wakes the GPU
 * thread and, where the caller can wait, writes the journal. Thread: any. */
#include "server/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "server/journal.h"
#include "server/session_impl.h"
#include "server/wire.h"

enum { LABEL_BYTES_MAX = 256 };
#define SEED_MAX ((UINT64_C(1) << 53) - 1) /* what a JSON number holds exactly */

static const char *const state_names[] = {
	[SESSION_QUEUED] = "queued",
	[SESSION_PREPARING] = "preparing",
	[SESSION_RUNNING] = "running",
	[SESSION_PAUSED] = "paused",
	[SESSION_ENDED] = "ended",
	[SESSION_FAILED] = "failed",
};
static const char *const action_names[ACTION_COUNT] = {
	[ACTION_START] = "start",
	[ACTION_PAUSE] = "pause",
	[ACTION_RESUME] = "resume",
	[ACTION_STEP] = "step",
	[ACTION_RESET] = "reset",
	[ACTION_KEYFRAME] = "keyframe",
};

const char *session_state_name(enum session_state s) {
	return state_names[s];
}

const char *session_action_name(enum session_action a) {
	return action_names[a];
}

int session_action_parse(const char *name) {
	for (int i = 0; i < ACTION_COUNT; i++) {
		if (strcmp(name, action_names[i]) == 0)
			return i;
	}
	return -1;
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

static void write_journal(struct session *s, bool durable) {
	if (s->registry->journal && durable)
		journal_write(s->registry->journal, s, false);
	else
		session_note(s);
}

/* Twenty-six letters and digits out of 128 random bits. */
static int make_id(char out[SESSION_ID_BYTES]) {
	static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
	uint8_t random[26];
	if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
		return -1;
	out[0] = 's';
	out[1] = '_';
	for (int i = 0; i < 26; i++)
		out[2 + i] = digits[random[i] % 32];
	out[28] = 0;
	return 0;
}

/* Length, encoding, words. 0, or -1 and *p with the counts. */
static int check_text(struct registry *r, const char *field, const char *text, struct problem *p) {
	const struct engine *en = registry_engine(r);
	int bytes_max = r->conf->prompt_bytes_max;
	size_t bytes = strlen(text);
	struct error e = {0};
	if (!en) {
		registry_ready(r, p);
		return -1;
	}
	if (bytes > (size_t)bytes_max) {
		problem_set(p, PROBLEM_PROMPT_TOO_LONG, field,
			"The prompt is %zu bytes long; %d is the limit.", bytes, bytes_max);
		p->extra =
			json_pack("{s:I, s:i}", "bytes", (json_int_t)bytes, "max_bytes", bytes_max);
		return -1;
	}
	if (strspn(text, " \t\r\n") == bytes)
		return problem_set(p, PROBLEM_PROMPT_EMPTY, field,
			"The prompt is empty; say what is to be seen.");
	int tokens = engine_prompt_tokens(en, text, &e),
	    tokens_max = engine_model(en)->prompt_tokens_max;
	if (tokens < 0)
		return problem_set(p,
			e.code == -EILSEQ ? PROBLEM_INVALID_UTF8 : PROBLEM_PROMPT_EMPTY, field,
			"%s.", e.text);
	if (tokens <= tokens_max)
		return 0;
	problem_set(p, PROBLEM_PROMPT_TOO_LONG, field,
		"The prompt is %d tokens long; the model reads %d.", tokens, tokens_max);
	p->extra = json_pack("{s:i, s:i}", "tokens", tokens, "max_tokens", tokens_max);
	return -1;
}

static int check_labels(const struct conf *c, const json_t *labels, struct problem *p) {
	if (!labels)
		return 0;
	if (!json_is_object(labels) || (int)json_object_size(labels) > c->labels_max)
		return problem_set(p, PROBLEM_INVALID_FIELD, "labels",
			"Labels are an object of at most %d strings.", (int)c->labels_max);
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)(uintptr_t)labels, key, value) {
		if (!json_is_string(value) || strlen(key) > LABEL_BYTES_MAX ||
			json_string_length(value) > LABEL_BYTES_MAX)
			return problem_set(p, PROBLEM_INVALID_FIELD, "labels",
				"A label is a string of at most %d bytes.", LABEL_BYTES_MAX);
	}
	return 0;
}

static int check_range(
	const char *field, int64_t value, int64_t min, int64_t max, struct problem *p) {
	if (value == 0 || (value >= min && value <= max))
		return 0;
	return problem_set(p, PROBLEM_INVALID_FIELD, field, "%s is %lld; %lld to %lld is possible.",
		field, (long long)value, (long long)min, (long long)max);
}

static int check_request(struct registry *r, const struct session_request *q, struct problem *p) {
	if (!registry_ready(r, p))
		return -1;
	if (!q->prompt)
		return problem_set(p, PROBLEM_MISSING_FIELD, "prompt", "A session needs a prompt.");
	if (q->has_seed && q->seed > SEED_MAX)
		return problem_set(p, PROBLEM_INVALID_FIELD, "seed", "A seed is 0 to %llu.",
			(unsigned long long)SEED_MAX);
	if (check_range("max_chunks", q->max_chunks, 1, INT32_MAX, p) ||
		check_range("video.bitrate_kbps", q->bitrate_kbps, 50, 100000, p) ||
		check_range("video.keyframe_every_chunks", q->keyframe_every_chunks, 1, 1000, p) ||
		check_range("when_unwatched.after_s", q->unwatched_after_s, 1, 86400, p) ||
		check_range("when_unwatched.ttl_s", q->unwatched_ttl_s, 1, 2592000, p) ||
		check_labels(r->conf, q->labels, p))
		return -1;
	return check_text(r, "prompt", q->prompt, p);
}

static void settle(struct session *s, const struct session_request *q) {
	const struct conf *c = s->registry->conf;
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	s->created_ms = (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
	s->max_pace = q->max_pace;
	s->keep_unwatched = q->keep_unwatched;
	s->manual_start = s->waits_for_start = q->manual_start;
	s->max_chunks = q->max_chunks;
	s->unwatched_after_s = q->unwatched_after_s ? q->unwatched_after_s : c->unwatched_after_s;
	s->unwatched_ttl_s = q->unwatched_ttl_s ? q->unwatched_ttl_s : c->unwatched_ttl_s;
	s->bitrate_kbps = q->bitrate_kbps ? q->bitrate_kbps : c->bitrate_kbps;
	s->keyframe_every_chunks =
		q->keyframe_every_chunks ? q->keyframe_every_chunks : c->keyframe_every_chunks;
	s->labels = q->labels ? json_deep_copy(q->labels) : NULL;
	s->reserved = c->journal_chunks;
}

static int first_prompt(struct session *s, const char *text) {
	struct prompt *p = prompt_create(text), *none;
	if (!p || !prompts_add(&s->prompts, p, &none)) {
		free(p);
		return -1;
	}
	p->number = s->last_number = 1;
	p->revision = s->last_revision = 1;
	return 0;
}

int session_create(struct registry *r, const struct session_request *q, struct session **out,
	struct problem *p) {
	if (check_request(r, q, p) != 0)
		return -1;
	struct session *s = session_alloc(r);
	uint64_t random;
	if (!s || make_id(s->id) != 0 ||
		getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random ||
		first_prompt(s, q->prompt) != 0) {
		session_unref(s);
		return problem_set(p, PROBLEM_INTERNAL, NULL, "No memory for a session.");
	}
	s->seed = q->has_seed ? q->seed : random & 0xffffffff; /* short enough to read out */
	settle(s, q);
	if (registry_add(r, s, p) != 0) {
		session_unref(s);
		return -1;
	}
	char hash[LOG_HASH_BYTES];
	log_hash(hash, q->prompt);
	log_line(r->log, LOG_LEVEL_INFO, "session %s: created, seed %llu, prompt %s", s->id,
		(unsigned long long)s->seed, hash);
	registry_wake(r);
	write_journal(s, true);
	*out = s;
	return 0;
}

/* Chunk whose begin is the first at or after media time t_us; -1 when it lies in
 * the past. Under the lock. */
static int64_t chunk_at(const struct session *s, int64_t t_us) {
	const struct model_info *m = engine_model(registry_engine(s->registry));
	int64_t edge_us = s->next_index * 1000000 * m->fps_den / m->fps_num;
	int64_t begun_us = s->begun_index * 1000000 * m->fps_den / m->fps_num;
	int64_t chunk_us = (int64_t)m->chunk_frames * 1000000 * m->fps_den / m->fps_num;
	if (s->begun >= 0 && t_us <= begun_us)
		return -1;
	int64_t ahead_us = t_us - edge_us;
	return session_earliest(s) + (ahead_us > 0 ? (ahead_us + chunk_us - 1) / chunk_us : 0);
}

/* Finds the chunk a prompt asks for. Under the lock. */
static int target(const struct session *s, const struct prompt_request *q, struct prompt *n,
	struct problem *p) {
	int64_t earliest = session_earliest(s);
	n->at = q->at_chunk ? AT_CHUNK : q->at_media_time ? AT_MEDIA_TIME : AT_NEXT;
	n->at_value = q->at_chunk ? q->chunk : q->media_time_us;
	n->chunk = q->at_chunk        ? q->chunk
		   : q->at_media_time ? chunk_at(s, q->media_time_us)
				      : earliest;
	if (n->chunk > UINT32_MAX)
		return problem_set(p, PROBLEM_INVALID_FIELD,
			q->at_chunk ? "at.chunk" : "at.media_time_us",
			"Chunk %lld lies too far ahead.", (long long)n->chunk);
	if (n->chunk >= earliest)
		return 0;
	problem_set(p, PROBLEM_CHUNK_IN_PAST, q->at_chunk ? "at.chunk" : "at.media_time_us",
		"That chunk has begun; the earliest is %lld.", (long long)earliest);
	p->extra = json_pack("{s:I}", "earliest_chunk", (json_int_t)earliest);
	return -1;
}

/* Puts the prompt on the list. Under the lock. */
static int admit(struct session *s, const struct prompt_request *q, struct prompt *n,
	struct prompt **replaced, struct problem *p) {
	int most = s->registry->conf->pending_prompts_max;
	if (session_is_over(s->state))
		return problem_set(
			p, PROBLEM_WRONG_STATE, NULL, "The session has %s.", state_names[s->state]);
	if (target(s, q, n, p) != 0)
		return -1;
	n->number = s->last_number + 1;
	n->revision = s->last_revision + 1;
	n->transition = q->transition;
	if (!prompts_add(&s->prompts, n, replaced))
		return problem_set(p, PROBLEM_INTERNAL, NULL, "No memory for a prompt.");
	if (prompts_waiting(&s->prompts) > most) {
		prompts_remove(&s->prompts, n);
		p->retry_after_s = 1;
		return problem_set(p, PROBLEM_QUEUE_FULL, NULL,
			"%d prompts wait already; take one back.", most);
	}
	s->last_number = n->number;
	s->last_revision = n->revision;
	s->scenes_wished += n->transition == TRANSITION_CUT;
	return 0;
}

static int check_prompt(struct session *s, const struct prompt_request *q, struct problem *p) {
	if (!q->text)
		return problem_set(p, PROBLEM_MISSING_FIELD, "text", "A prompt needs its text.");
	if (check_text(s->registry, "text", q->text, p) != 0)
		return -1;
	const struct model_info *m = engine_model(registry_engine(s->registry));
	if (!m->transitions[q->transition])
		return problem_set(p, PROBLEM_UNSUPPORTED_FIELD, "transition.mode",
			"Model %s does not know the transition %s.", m->name,
			transition_name(q->transition));
	if (q->event_id && strlen(q->event_id) >= EVENT_ID_BYTES)
		return problem_set(p, PROBLEM_INVALID_FIELD, "event_id",
			"An event_id has at most %d bytes.", EVENT_ID_BYTES - 1);
	return 0;
}

int session_prompt(struct session *s, const struct prompt_request *q, struct prompt_receipt *out,
	struct problem *p) {
	if (check_prompt(s, q, p) != 0)
		return -1;
	struct prompt *n = prompt_create(q->text), *replaced = NULL;
	if (!n)
		return problem_set(p, PROBLEM_INTERNAL, NULL, "No memory for a prompt.");
	snprintf(n->event_id, sizeof n->event_id, "%s", q->event_id ? q->event_id : "");
	snprintf(n->by, sizeof n->by, "%s", q->by ? q->by : "");
	struct packet *accepted = NULL, *superseded = NULL;
	pthread_mutex_lock(&s->speak);
	pthread_mutex_lock(&s->lock);
	int rc = admit(s, q, n, &replaced, p);
	if (rc == 0) {
		*out = (struct prompt_receipt){
			.revision = n->revision, .applies_at_chunk = n->chunk};
		snprintf(out->id, sizeof out->id, "p%lld", (long long)n->number);
		memcpy(out->event_id, n->event_id, sizeof out->event_id);
		accepted = session_prompt_message(s, "prompt.accepted", n, NULL);
		if (replaced)
			superseded = session_prompt_message(s, "prompt.superseded", replaced,
				json_pack("{s:I, s:s, s:s}", "by_revision", (json_int_t)n->revision,
					"by_id", out->id, "reason", "replaced"));
	}
	pthread_mutex_unlock(&s->lock);
	session_publish(s, accepted);
	session_publish(s, superseded);
	pthread_mutex_unlock(&s->speak);
	free(replaced);
	if (rc != 0) {
		free(n);
		return -1;
	}
	char hash[LOG_HASH_BYTES];
	log_hash(hash, q->text);
	log_line(s->registry->log, LOG_LEVEL_INFO, "session %s: prompt %s for chunk %lld: %s, %s",
		s->id, out->id, (long long)out->applies_at_chunk, transition_name(q->transition),
		hash);
	registry_wake(s->registry);
	write_journal(s, q->durable);
	return 0;
}

int session_prompt_cancel(struct session *s, const char *prompt_id, struct problem *p) {
	char *end = NULL;
	long long number = prompt_id[0] == 'p' ? strtoll(prompt_id + 1, &end, 10) : 0;
	struct packet *said = NULL;
	struct prompt *it = NULL;
	pthread_mutex_lock(&s->speak);
	pthread_mutex_lock(&s->lock);
	if (end && !*end)
		it = prompts_by_number(&s->prompts, number);
	int rc = 0;
	if (!it) {
		rc = problem_set(
			p, PROBLEM_NOT_FOUND, "id", "There is no prompt %.20s.", prompt_id);
	} else if (it->state != PROMPT_SCHEDULED) {
		rc = problem_set(p, PROBLEM_PROMPT_ALREADY_APPLIED, "id",
			"Prompt %.20s took hold at chunk %lld.", prompt_id, (long long)it->chunk);
		it = NULL;
	} else if (s->begun < 0 && prompts_waiting(&s->prompts) == 1) {
		rc = problem_set(p, PROBLEM_WRONG_STATE, "id",
			"%.20s is the only prompt; replace it, or end the session.", prompt_id);
		it = NULL;
	} else {
		prompts_remove(&s->prompts, it);
		said = session_prompt_message(s, "prompt.cancelled", it, NULL);
	}
	pthread_mutex_unlock(&s->lock);
	session_publish(s, said);
	pthread_mutex_unlock(&s->speak);
	free(it);
	if (rc == 0)
		session_note(s);
	return rc;
}

/* A new film takes the prompt that waits for the next chunk with it; those for
 * later chunks had the old film's numbers. Under the lock; *said: messages. */
static int wish_reset(struct session *s, const uint64_t *seed, struct packet **said, int most) {
	int n = 0;
	int64_t next = session_earliest(s);
	s->reset_wished = true;
	s->scenes_wished++;
	s->reset_seed = seed ? *seed : s->seed;
	for (int i = 0; i < s->prompts.count;) {
		struct prompt *it = s->prompts.item[i];
		if (it->state == PROMPT_SCHEDULED && it->chunk <= next)
			it->chunk = 0;
		if (it->state != PROMPT_SCHEDULED || it->chunk == 0 || n == most) {
			i++;
			continue;
		}
		said[n++] = session_prompt_message(
			s, "prompt.superseded", it, json_pack("{s:s}", "reason", "reset"));
		prompts_remove(&s->prompts, it);
		free(it);
	}
	return n;
}

static int act(struct session *s, enum session_action a, struct problem *p) {
	if (session_is_over(s->state))
		return problem_set(p, PROBLEM_WRONG_STATE, "action", "The session has %s.",
			state_names[s->state]);
	switch (a) {
	case ACTION_PAUSE:
		s->user_paused = true;
		s->steps_wished = 0;
		break;
	case ACTION_START:
	case ACTION_RESUME:
		s->user_paused = s->waits_for_start = false;
		s->steps_wished = 0;
		break;
	case ACTION_STEP:
		if (!s->user_paused && !s->waits_for_start)
			return problem_set(p, PROBLEM_WRONG_STATE, "action",
				"Only a paused session is stepped; pause it first.");
		s->steps_wished++;
		break;
	default:
		break;
	}
	return 0;
}

int session_act(struct session *s, enum session_action a, const uint64_t *seed,
	int64_t *applies_at_chunk, struct problem *p) {
	enum { SAID_MAX = 1024 }; /* pending_prompts_max has this bound */
	struct packet *said[SAID_MAX];
	int n = 0;
	if (seed && *seed > SEED_MAX)
		return problem_set(p, PROBLEM_INVALID_FIELD, "seed", "A seed is 0 to %llu.",
			(unsigned long long)SEED_MAX);
	pthread_mutex_lock(&s->speak);
	pthread_mutex_lock(&s->lock);
	int rc = act(s, a, p);
	if (rc == 0 && a == ACTION_RESET)
		n = wish_reset(s, seed, said, SAID_MAX);
	if (applies_at_chunk)
		*applies_at_chunk = session_earliest(s);
	pthread_mutex_unlock(&s->lock);
	for (int i = 0; i < n; i++)
		session_publish(s, said[i]);
	pthread_mutex_unlock(&s->speak);
	if (rc == 0 && a == ACTION_KEYFRAME)
		session_request_key(s);
	if (rc == 0 && a != ACTION_KEYFRAME)
		session_note(s);
	registry_wake(s->registry);
	return rc;
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
