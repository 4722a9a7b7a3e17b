/* SPDX-License-Identifier: Apache-2.0 */
/* A session from a request: checked whole, then made, listed, and in the journal
 * before the caller hears of it. Thread: any that may wait for the disk. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "server/session_impl.h"

enum { LABEL_BYTES_MAX = 256 };

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
	if (q->has_seed && q->seed > SESSION_SEED_MAX)
		return problem_set(p, PROBLEM_INVALID_FIELD, "seed", "A seed is 0 to %llu.",
			(unsigned long long)SESSION_SEED_MAX);
	if (check_range("max_chunks", q->max_chunks, 1, INT32_MAX, p) ||
		check_range("video.bitrate_kbps", q->bitrate_kbps, 50, 100000, p) ||
		check_range("video.keyframe_every_chunks", q->keyframe_every_chunks, 1, 1000, p) ||
		check_range("when_unwatched.after_s", q->unwatched_after_s, 1, 86400, p) ||
		check_range("when_unwatched.ttl_s", q->unwatched_ttl_s, 1, 2592000, p) ||
		check_labels(r->conf, q->labels, p))
		return -1;
	return session_check_text(r, "prompt", q->prompt, p);
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
	session_write_journal(s, true);
	*out = s;
	return 0;
}
