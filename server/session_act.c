/* SPDX-License-Identifier: Apache-2.0 */
/* Actions on a session: start, pause, resume, step, reset, keyframe. They change what
 * is wished; the GPU thread does it. Thread: any. */
#include <stdlib.h>
#include <string.h>

#include "server/session_impl.h"

static const char *const action_names[ACTION_COUNT] = {
	[ACTION_START] = "start",
	[ACTION_PAUSE] = "pause",
	[ACTION_RESUME] = "resume",
	[ACTION_STEP] = "step",
	[ACTION_RESET] = "reset",
	[ACTION_KEYFRAME] = "keyframe",
};

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
			session_state_name(s->state));
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
	if (seed && *seed > SESSION_SEED_MAX)
		return problem_set(p, PROBLEM_INVALID_FIELD, "seed", "A seed is 0 to %llu.",
			(unsigned long long)SESSION_SEED_MAX);
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
