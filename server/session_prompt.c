/* SPDX-License-Identifier: Apache-2.0 */
/* Prompts of a session: checked, put on the list for the chunk that they ask for,
 * taken back. Thread: any. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/session_impl.h"

int session_check_text(struct registry *r, const char *field, const char *text, struct problem *p) {
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
		return problem_set(p, PROBLEM_WRONG_STATE, NULL, "The session has %s.",
			session_state_name(s->state));
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
	if (session_check_text(s->registry, "text", q->text, p) != 0)
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
	session_write_journal(s, q->durable);
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
