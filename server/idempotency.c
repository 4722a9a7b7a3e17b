/* SPDX-License-Identifier: Apache-2.0 */
/* A ring of the last answers with their keys; the oldest gives way. Searching
 * it is linear: a thousand short keys, once per create. Thread: any (one mutex,
 * never held while calling out). */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "server/api_parts.h"

#define KEY_BYTES_MAX 128

struct entry {
	char key[KEY_BYTES_MAX + 1]; /* "": free */
	uint64_t body_hash;
	size_t body_bytes;
	int64_t at_us;
	json_t *answer; /* NULL: still at work */
	char location[80];
};
struct idempotency {
	pthread_mutex_t lock;
	int max, next;
	int64_t keep_us;
	struct entry entry[];
};

struct idempotency *idempotency_create(int max, int64_t keep_us) {
	struct idempotency *s = calloc(1, sizeof *s + (size_t)max * sizeof(struct entry));
	if (!s)
		return NULL;
	pthread_mutex_init(&s->lock, NULL);
	s->max = max;
	s->keep_us = keep_us;
	return s;
}

void idempotency_destroy(struct idempotency *s) {
	if (!s)
		return;
	for (int i = 0; i < s->max; i++)
		json_decref(s->entry[i].answer);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static uint64_t hash_bytes(const char *bytes, size_t size) {
	uint64_t h = 14695981039346656037u; /* FNV-1a */
	for (size_t i = 0; i < size; i++)
		h = (h ^ (unsigned char)bytes[i]) * 1099511628211u;
	return h;
}

static struct entry *find_entry(struct idempotency *s, const char *key) {
	for (int i = 0; i < s->max; i++)
		if (!strcmp(s->entry[i].key, key))
			return &s->entry[i];
	return NULL;
}

static void forget(struct entry *e) {
	json_decref(e->answer);
	*e = (struct entry){0};
}

/* A place for a new key; skips those still at work. NULL: all are. */
static struct entry *take_place(struct idempotency *s) {
	for (int i = 0; i < s->max; i++) {
		struct entry *e = &s->entry[s->next];
		s->next = (s->next + 1) % s->max;
		if (*e->key && !e->answer)
			continue;
		forget(e);
		return e;
	}
	return NULL;
}

static bool valid_key(const char *key) {
	size_t n = strlen(key);
	for (size_t i = 0; i < n; i++)
		if (key[i] <= 0x20 || key[i] == 0x7f)
			return false;
	return n > 0 && n <= KEY_BYTES_MAX;
}

enum idempotency_result idempotency_begin(struct idempotency *s, const char *key, const char *body,
	size_t body_bytes, int64_t now_us, json_t **answer, char location[80], struct problem *p) {
	if (!valid_key(key)) {
		problem_set(p, PROBLEM_INVALID_FIELD, "Idempotency-Key",
			"Idempotency-Key must be 1 to %d visible ASCII characters.", KEY_BYTES_MAX);
		return IDEMPOTENCY_REFUSED;
	}
	enum idempotency_result result = IDEMPOTENCY_NEW;
	uint64_t hash = hash_bytes(body, body_bytes);
	pthread_mutex_lock(&s->lock);
	struct entry *e = find_entry(s, key);
	if (e && e->answer && now_us - e->at_us > s->keep_us) {
		forget(e);
		e = NULL;
	}
	if (!e) {
		e = take_place(s);
		if (e) {
			strcpy(e->key, key);
			e->body_hash = hash;
			e->body_bytes = body_bytes;
			e->at_us = now_us;
		}
	} else if (e->body_hash != hash || e->body_bytes != body_bytes) {
		problem_set(p, PROBLEM_INVALID_FIELD, "Idempotency-Key",
			"This Idempotency-Key was used with another body; take a new one.");
		result = IDEMPOTENCY_REFUSED;
	} else if (!e->answer) {
		problem_set(p, PROBLEM_WRONG_STATE, "Idempotency-Key",
			"A request with this Idempotency-Key is still at work.");
		result = IDEMPOTENCY_REFUSED;
	} else {
		*answer = json_deep_copy(e->answer);
		strcpy(location, e->location);
		result = IDEMPOTENCY_REPEAT;
	}
	pthread_mutex_unlock(&s->lock);
	return result;
}

void idempotency_finish(
	struct idempotency *s, const char *key, json_t *answer, const char *location) {
	pthread_mutex_lock(&s->lock);
	struct entry *e = find_entry(s, key);
	if (e && answer) {
		e->answer = json_deep_copy(answer);
		snprintf(e->location, sizeof e->location, "%s", location);
	}
	if (e && !e->answer)
		forget(e);
	pthread_mutex_unlock(&s->lock);
}
