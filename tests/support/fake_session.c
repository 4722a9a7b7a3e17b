/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/fake_session.h"
#include <stdio.h>
#include <string.h>

static const char *const state_names[] = {
	"queued", "preparing", "running", "paused", "ended", "failed"};
static const char *const action_names[ACTION_COUNT] = {
	"start", "pause", "resume", "step", "reset", "keyframe"};

const char *session_state_name(enum session_state s) {
	return state_names[s];
}

const char *session_action_name(enum session_action a) {
	return action_names[a];
}

int session_action_parse(const char *name) {
	for (int i = 0; i < ACTION_COUNT; i++)
		if (!strcmp(action_names[i], name))
			return i;
	return -1;
}

int registry_ready(struct registry *r, struct problem *p) {
	if (r->draining)
		problem_set(p, PROBLEM_DRAINING, "", "Shutting down.");
	else if (r->loading) {
		problem_set(p, PROBLEM_MODEL_LOADING, "", "Loading: weights, 1 of 2 bytes.");
		p->retry_after_s = 2;
		p->extra = json_pack(
			"{s:s, s:i, s:i}", "stage", "weights", "loaded_bytes", 1, "total_bytes", 2);
	}
	return !r->draining && !r->loading;
}

const struct engine *registry_engine(struct registry *r) {
	(void)r;
	return NULL;
}

int session_create(struct registry *r, const struct session_request *q, struct session **out,
	struct problem *p) {
	if (!registry_ready(r, p))
		return -1;
	if (!*q->prompt)
		return problem_set(p, PROBLEM_PROMPT_EMPTY, "prompt", "The prompt has no words.");
	for (int i = 0; i < FAKE_SESSIONS; i++) {
		struct session *s = &r->session[i];
		if (s->used)
			continue;
		*s = (struct session){.used = true, .references = 2, .request = *q};
		snprintf(s->id, sizeof s->id, "s_%d", ++r->made);
		snprintf(s->prompt, sizeof s->prompt, "%s", q->prompt);
		*out = s;
		return 0;
	}
	p->retry_after_s = 7;
	return problem_set(p, PROBLEM_SESSION_LIMIT, "", "All slots are in use.");
}

struct session *session_find(struct registry *r, const char *id, struct problem *p) {
	for (int i = 0; i < FAKE_SESSIONS; i++)
		if (r->session[i].used && !strcmp(r->session[i].id, id))
			return session_ref(&r->session[i]);
	if (!strncmp(id, "gone", 4))
		problem_set(p, PROBLEM_GONE, "", "Session %s has ended.", id);
	else
		problem_set(p, PROBLEM_NOT_FOUND, "", "There is no session %s.", id);
	return NULL;
}

struct session *session_ref(struct session *s) {
	s->references++;
	return s;
}

void session_unref(struct session *s) {
	s->references--;
}

int session_list(struct registry *r, const char *after, int max, struct session **out) {
	int n = 0;
	bool on = !after;
	for (int i = FAKE_SESSIONS - 1; i >= 0 && n < max; i--) {
		struct session *s = &r->session[i];
		if (s->used && on)
			out[n++] = session_ref(s);
		on = on || (s->used && !strcmp(s->id, after));
	}
	return n;
}

const char *session_id(const struct session *s) {
	return s->id;
}

int session_prompt(struct session *s, const struct prompt_request *q, struct prompt_receipt *out,
	struct problem *p) {
	if (!*q->text)
		return problem_set(p, PROBLEM_PROMPT_EMPTY, "text", "The prompt has no words.");
	snprintf(s->prompt, sizeof s->prompt, "%s", q->text);
	s->transition = q->transition;
	s->at_chunk = q->at_chunk ? q->chunk : -1;
	s->prompts++;
	*out = (struct prompt_receipt){.revision = (uint32_t)s->prompts + 1,
		.applies_at_chunk = q->at_chunk ? q->chunk : 3};
	snprintf(out->id, sizeof out->id, "p%d", s->prompts + 1);
	if (q->event_id)
		snprintf(out->event_id, sizeof out->event_id, "%s", q->event_id);
	return 0;
}

int session_prompt_cancel(struct session *s, const char *id, struct problem *p) {
	if (!strcmp(id, "p1"))
		return problem_set(p, PROBLEM_PROMPT_ALREADY_APPLIED, "id", "p1 is on screen.");
	s->cancels++;
	return 0;
}

int session_act(struct session *s, enum session_action a, const uint64_t *seed,
	int64_t *applies_at_chunk, struct problem *p) {
	if (a == ACTION_RESUME && s->acts == 0)
		return problem_set(p, PROBLEM_WRONG_STATE, "", "It is not paused.");
	s->acts++;
	s->action = a;
	s->seeded = seed != NULL;
	s->seed = seed ? *seed : 0;
	if (applies_at_chunk)
		*applies_at_chunk = 4;
	return 0;
}

int session_end(struct session *s, struct problem *p) {
	(void)p;
	s->used = false;
	return 0;
}

void session_watched(struct session *s, int viewers) {
	(void)s, (void)viewers;
}

void session_request_key(struct session *s) {
	s->keys++;
}

json_t *session_json(struct session *s) {
	return json_pack("{s:s, s:s, s:I}", "id", s->id, "prompt", s->prompt, "seed",
		(json_int_t)s->request.seed);
}

json_t *session_prompts_json(struct session *s) {
	return json_pack("[{s:s}]", "text", s->prompt);
}

enum session_state session_state(struct session *s) {
	return s->ended ? SESSION_ENDED : SESSION_RUNNING;
}
