/* SPDX-License-Identifier: Apache-2.0 */
/* A session as JSON: the REST object, the messages about state and prompts, and
 * the journal with its reader, side by side so that their names agree.
 * Thread: any; the header says which hold the lock. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/session_impl.h"
#include "server/wire.h"

enum { JOURNAL_VERSION = 1, PROMPT_BYTES_MAX = 65536 };

static json_t *at_json(const struct prompt *p) {
	if (p->at == AT_NEXT)
		return json_string("next");
	return json_pack(
		"{s:I}", p->at == AT_CHUNK ? "chunk" : "media_time_us", (json_int_t)p->at_value);
}

/* What every mention of a prompt holds. */
static json_t *prompt_base(const struct prompt *p) {
	char id[24];
	snprintf(id, sizeof id, "p%lld", (long long)p->number);
	return json_pack("{s:s, s:s*, s:I, s:s, s:{s:s}, s:o, s:s*, s:I}", "id", id, "event_id",
		p->event_id[0] ? p->event_id : NULL, "revision", (json_int_t)p->revision, "text",
		p->text, "transition", "mode", transition_name(p->transition), "at", at_json(p),
		"by", p->by[0] ? p->by : NULL, "applies_at_chunk", (json_int_t)p->chunk);
}

json_t *session_json_prompt(const struct prompt *p) {
	json_t *j = prompt_base(p);
	const char *state = p->state == PROMPT_APPLIED ? "applied"
			    : p->state == PROMPT_SENT  ? "sent"
						       : "scheduled";
	json_object_set_new(j, "state", json_string(state));
	if (p->state == PROMPT_APPLIED) {
		json_object_set_new(j, "chunk", json_integer(p->chunk));
		json_object_set_new(j, "seq", json_integer((json_int_t)p->seq));
		json_object_set_new(j, "pts_us", json_integer((json_int_t)p->pts_us));
	}
	return j;
}

struct packet *session_prompt_message(
	const struct session *s, const char *type, const struct prompt *p, json_t *more) {
	json_t *j = prompt_base(p);
	if (j && more)
		json_object_update(j, more);
	json_decref(more);
	return wire_message(type, s->id, j);
}

static json_t *problem_part(const struct session *s) {
	if (s->state != SESSION_FAILED)
		return NULL;
	return json_pack("{s:s, s:s}", "code", s->fail_code, "detail", s->fail_detail);
}

static int64_t chunk_shown(const struct session *s) {
	return s->begun < 0 ? 0 : s->begun;
}

struct packet *session_state_message(struct session *s) {
	pthread_mutex_lock(&s->lock);
	json_t *j = json_pack("{s:s, s:s, s:I, s:I, s:o*}", "state", session_state_name(s->state),
		"reason", s->reason, "chunk", (json_int_t)chunk_shown(s), "seed",
		(json_int_t)s->seed, "problem", problem_part(s));
	pthread_mutex_unlock(&s->lock);
	return wire_message("session.state", s->id, j);
}

static json_t *prompts_json(const struct session *s) {
	json_t *list = json_array();
	for (int i = 0; i < s->prompts.count; i++)
		json_array_append_new(list, session_json_prompt(s->prompts.item[i]));
	return list;
}

json_t *session_prompts_json(struct session *s) {
	pthread_mutex_lock(&s->lock);
	json_t *list = prompts_json(s);
	pthread_mutex_unlock(&s->lock);
	return list;
}

static json_t *created_json(int64_t created_ms) {
	char text[40];
	time_t t = created_ms / 1000;
	struct tm utc;
	gmtime_r(&t, &utc);
	size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
	snprintf(text + n, sizeof text - n, ".%03dZ", (int)(created_ms % 1000));
	return json_string(text);
}

static json_t *video_json(const struct session *s) {
	const struct engine *en = registry_engine(s->registry);
	json_t *j = json_pack("{s:s, s:i, s:i}", "codec", "vp9", "bitrate_kbps", s->bitrate_kbps,
		"keyframe_every_chunks", s->keyframe_every_chunks);
	if (en && j) {
		const struct model_info *m = engine_model(en);
		json_t *size = json_pack("{s:i, s:i, s:i, s:i}", "width", m->width, "height",
			m->height, "fps_num", m->fps_num, "fps_den", m->fps_den);
		json_object_update(j, size);
		json_decref(size);
	}
	return j;
}

static json_t *links_json(const struct session *s) {
	char self[80], stream[96], prompts[96];
	snprintf(self, sizeof self, "/v1/sessions/%s", s->id);
	snprintf(stream, sizeof stream, "%s/stream", self);
	snprintf(prompts, sizeof prompts, "%s/prompts", self);
	return json_pack("{s:s, s:s, s:s}", "self", self, "stream", stream, "prompts", prompts);
}

static int64_t media_time_us(const struct session *s) {
	const struct engine *en = registry_engine(s->registry);
	if (!en)
		return 0;
	const struct model_info *m = engine_model(en);
	return s->begun_index * 1000000 * m->fps_den / m->fps_num;
}

json_t *session_json(struct session *s) {
	pthread_mutex_lock(&s->lock);
	const struct prompt *current = prompts_current(&s->prompts);
	const struct prompt *due = s->shown ? NULL : prompts_due(&s->prompts, session_earliest(s));
	if (due || !current) /* what it will begin with */
		current = due;
	json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:i, s:o*}", "id",
		s->id, "state", session_state_name(s->state), "reason", s->reason, "prompt",
		current ? current->text : "", "seed", (json_int_t)s->seed, "chunk",
		(json_int_t)chunk_shown(s), "media_time_us", (json_int_t)media_time_us(s),
		"prompt_revision", (json_int_t)s->revision, "epoch", (json_int_t)s->epoch,
		"viewers", s->viewers, "problem", problem_part(s));
	json_t *settings = json_pack("{s:s, s:s, s:I, s:{s:s, s:i, s:i}}", "pace",
		s->max_pace ? "max" : "realtime", "start", s->manual_start ? "manual" : "auto",
		"max_chunks", (json_int_t)s->max_chunks, "when_unwatched", "action",
		s->keep_unwatched ? "continue" : "pause", "after_s", s->unwatched_after_s, "ttl_s",
		s->unwatched_ttl_s);
	json_object_update(j, settings);
	json_decref(settings);
	json_object_set_new(j, "created_at", created_json(s->created_ms));
	json_object_set_new(j, "video", video_json(s));
	json_object_set_new(j, "labels", s->labels ? json_deep_copy(s->labels) : json_object());
	json_object_set_new(j, "prompts", prompts_json(s));
	json_object_set_new(j, "links", links_json(s));
	pthread_mutex_unlock(&s->lock);
	return j;
}

/* The first picture, cuts and resets that wait will each begin an epoch of which
 * the journal may not hear before a crash. */
static uint32_t epochs_ahead(const struct session *s) {
	uint32_t n = !s->shown + s->reset_wished;
	for (int i = 0; i < s->prompts.count; i++)
		n += s->prompts.item[i]->state != PROMPT_APPLIED &&
		     s->prompts.item[i]->chunk < s->reserved &&
		     s->prompts.item[i]->transition == TRANSITION_CUT;
	return n;
}

static json_t *journal_base(const struct session *s, bool exact, struct journal_place *place) {
	const struct engine *en = registry_engine(s->registry);
	int chunk_frames = en ? session_chunk_frames_max(engine_model(en)) : 0;
	int64_t next = session_earliest(s), ahead = s->reserved - next;
	if (s->reset_wished)
		ahead = s->registry->conf->journal_chunks; /* of the new film */
	if (exact || ahead < 0)
		ahead = 0;
	int64_t chunk = next + ahead, index = s->next_index + ahead * chunk_frames;
	if (place)
		*place = (struct journal_place){index, s->scenes_wished};
	return json_pack("{s:i, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:b, s:b, s:b}",
		"version", JOURNAL_VERSION, "id", s->id, "created_ms", (json_int_t)s->created_ms,
		"seed", (json_int_t)(s->reset_wished ? s->reset_seed : s->seed), "next_chunk",
		(json_int_t)chunk, "next_index", (json_int_t)index, "epoch",
		(json_int_t)s->epoch + epochs_ahead(s), "last_prompt", (json_int_t)s->last_number,
		"last_revision", (json_int_t)s->last_revision, "max_pace", s->max_pace,
		"keep_unwatched", s->keep_unwatched, "manual_start", s->manual_start, "user_paused",
		s->user_paused, "waits_for_start", s->waits_for_start);
}

json_t *session_json_journal(struct session *s, bool exact, struct journal_place *place) {
	pthread_mutex_lock(&s->lock);
	json_t *j = session_is_over(s->state) ? NULL : journal_base(s, exact, place);
	if (j) {
		json_t *more = json_pack("{s:I, s:i, s:i, s:i, s:i}", "max_chunks",
			(json_int_t)s->max_chunks, "unwatched_after_s", s->unwatched_after_s,
			"unwatched_ttl_s", s->unwatched_ttl_s, "bitrate_kbps", s->bitrate_kbps,
			"keyframe_every_chunks", s->keyframe_every_chunks);
		json_object_update(j, more);
		json_decref(more);
		json_object_set_new(
			j, "labels", s->labels ? json_deep_copy(s->labels) : json_object());
		json_object_set_new(j, "prompts", prompts_json(s));
	}
	pthread_mutex_unlock(&s->lock);
	return j;
}

/* ---- reading a journal */

/* An integer member within bounds; sets *e and answers min otherwise. */
static int64_t number(const json_t *j, const char *key, int64_t min, int64_t max, struct error *e) {
	const json_t *v = json_object_get(j, key);
	int64_t n = json_is_integer(v) ? json_integer_value(v) : min - 1;
	if (n >= min && n <= max)
		return n;
	error_set(e, -EINVAL, "%s is no number from %lld to %lld", key, (long long)min,
		(long long)max);
	return min;
}

static bool flag(const json_t *j, const char *key, struct error *e) {
	const json_t *v = json_object_get(j, key);
	if (!json_is_boolean(v))
		error_set(e, -EINVAL, "%s is neither true nor false", key);
	return json_is_true(v);
}

/* "" when absent and optional. */
static const char *text(
	const json_t *j, const char *key, size_t most, bool optional, struct error *e) {
	const json_t *v = json_object_get(j, key);
	if (!v && optional)
		return "";
	if (json_is_string(v) && json_string_length(v) <= most &&
		strlen(json_string_value(v)) == json_string_length(v))
		return json_string_value(v);
	error_set(e, -EINVAL, "%s is no text of at most %zu bytes", key, most);
	return "";
}

static void read_at(const json_t *j, struct prompt *p, struct error *e) {
	const json_t *at = json_object_get(j, "at");
	p->at = json_object_get(at, "chunk") ? AT_CHUNK
		: json_is_object(at)         ? AT_MEDIA_TIME
					     : AT_NEXT;
	if (p->at != AT_NEXT)
		p->at_value = number(at, p->at == AT_CHUNK ? "chunk" : "media_time_us",
			INT64_MIN + 1, INT64_MAX, e);
}

static int read_prompt(const json_t *j, struct prompts *list, struct error *e) {
	const char *id = text(j, "id", 20, false, e);
	struct prompt *p = prompt_create(text(j, "text", PROMPT_BYTES_MAX, false, e)), *replaced;
	if (!p)
		return error_set(e, -ENOMEM, "no memory for a prompt");
	const char *state = text(j, "state", 16, false, e);
	int mode = transition_parse(text(json_object_get(j, "transition"), "mode", 16, false, e));
	if (mode < 0 || !p->text[0] || id[0] != 'p')
		error_set(e, -EINVAL, "a prompt without text, id or transition");
	snprintf(p->event_id, sizeof p->event_id, "%s",
		text(j, "event_id", EVENT_ID_BYTES - 1, true, e));
	snprintf(p->by, sizeof p->by, "%s", text(j, "by", EVENT_ID_BYTES - 1, true, e));
	p->number = strtoll(id + (id[0] == 'p'), NULL, 10);
	p->revision = (uint32_t)number(j, "revision", 1, UINT32_MAX, e);
	p->transition = mode < 0 ? TRANSITION_SWITCH : (enum transition)mode;
	p->chunk = number(j, "applies_at_chunk", 0, INT64_MAX, e);
	read_at(j, p, e);
	p->state = strcmp(state, "applied") == 0 ? PROMPT_APPLIED
		   : strcmp(state, "sent") == 0  ? PROMPT_SENT
						 : PROMPT_SCHEDULED;
	if (p->state == PROMPT_APPLIED) {
		p->seq = (uint64_t)number(j, "seq", 0, INT64_MAX, e);
		p->pts_us = (uint64_t)number(j, "pts_us", 0, INT64_MAX, e);
	}
	if (e->code == 0 && prompts_add(list, p, &replaced)) {
		free(replaced);
		return 0;
	}
	free(p);
	return error_set(e, -ENOMEM, "no memory for a prompt");
}

static void read_prompts(struct session *s, const json_t *j, struct error *e) {
	const json_t *list = json_object_get(j, "prompts");
	if (!json_is_array(list) || json_array_size(list) == 0)
		error_set(e, -EINVAL, "prompts is no list of prompts");
	for (size_t i = 0; i < json_array_size(list) && e->code == 0; i++)
		read_prompt(json_array_get(list, i), &s->prompts, e);
}

/* A film that comes back begins a scene under the newest words that were due;
 * their chunk is the one it comes back at. */
static int settle_prompts(struct session *s, struct error *e) {
	struct prompt *newest = NULL;
	int64_t chunk = s->begun + 1;
	for (int i = 0; i < s->prompts.count; i++) {
		struct prompt *p = s->prompts.item[i];
		if (p->state != PROMPT_APPLIED && p->chunk <= chunk)
			newest = p;
	}
	for (int i = 0; i < s->prompts.count;) {
		struct prompt *p = s->prompts.item[i];
		bool waits = p->state != PROMPT_APPLIED && p->chunk <= chunk;
		if (waits && p != newest) {
			prompts_remove(&s->prompts, p);
			free(p);
			continue;
		}
		i++;
	}
	if (newest) {
		newest->state = PROMPT_SCHEDULED;
		newest->chunk = chunk;
	}
	const struct prompt *current = prompts_current(&s->prompts);
	s->revision = current ? current->revision : 0;
	return newest || current ? 0 : error_set(e, -EINVAL, "no prompt has taken hold");
}

static void read_settings(struct session *s, const json_t *j, struct error *e) {
	s->created_ms = number(j, "created_ms", 0, INT64_MAX, e);
	s->seed = (uint64_t)number(j, "seed", 0, INT64_MAX, e);
	s->begun = number(j, "next_chunk", 0, UINT32_MAX, e) - 1;
	/* pts in microseconds must stay below 2^63 at any rate. */
	s->begun_index = s->next_index = s->saved.index =
		number(j, "next_index", 0, INT64_C(1) << 40, e);
	s->epoch = (uint32_t)number(j, "epoch", 0, UINT32_MAX - 1, e);
	s->last_number = number(j, "last_prompt", 1, INT64_MAX - 1, e);
	s->last_revision = (uint32_t)number(j, "last_revision", 1, UINT32_MAX - 1, e);
	s->max_pace = flag(j, "max_pace", e);
	s->keep_unwatched = flag(j, "keep_unwatched", e);
	s->manual_start = flag(j, "manual_start", e);
	s->user_paused = flag(j, "user_paused", e);
	s->waits_for_start = flag(j, "waits_for_start", e);
	s->max_chunks = number(j, "max_chunks", 0, UINT32_MAX, e);
	s->unwatched_after_s = (int)number(j, "unwatched_after_s", 1, 86400, e);
	s->unwatched_ttl_s = (int)number(j, "unwatched_ttl_s", 1, 2592000, e);
	s->bitrate_kbps = (int)number(j, "bitrate_kbps", 50, 100000, e);
	s->keyframe_every_chunks = (int)number(j, "keyframe_every_chunks", 1, 1000, e);
}

struct session *session_from_journal(struct registry *r, const json_t *j, struct error *e) {
	struct session *s = session_alloc(r);
	if (!s) {
		error_set(e, -ENOMEM, "no memory for a session");
		return NULL;
	}
	number(j, "version", JOURNAL_VERSION, JOURNAL_VERSION, e);
	const char *id = text(j, "id", SESSION_ID_BYTES - 1, false, e);
	if (strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789_") != strlen(id) || !id[0])
		error_set(e, -EINVAL, "id is not one of ours");
	snprintf(s->id, sizeof s->id, "%s", id);
	read_settings(s, j, e);
	const json_t *labels = json_object_get(j, "labels");
	if (!json_is_object(labels))
		error_set(e, -EINVAL, "labels is no object");
	s->labels = json_deep_copy(labels);
	read_prompts(s, j, e);
	if (e->code != 0 || settle_prompts(s, e) != 0) {
		session_unref(s);
		return NULL;
	}
	s->restored = true;
	s->reserved = s->begun + 1; /* more once the model is there */
	snprintf(s->reason, sizeof s->reason, "recovering");
	return s;
}
