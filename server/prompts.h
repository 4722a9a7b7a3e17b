/* SPDX-License-Identifier: Apache-2.0 */
/* The prompts of one session, oldest first: what waits, what was handed to the
 * generator, what has been seen. One prompt a chunk: a later one for the same
 * chunk takes the place of the earlier. Pure. Thread: under the session's lock. */
#ifndef SERVER_PROMPTS_H
#define SERVER_PROMPTS_H
#include "server/session.h"

enum prompt_state {
	PROMPT_SCHEDULED, /* waits for its chunk; may be taken back */
	PROMPT_SENT, /* its chunk has begun */
	PROMPT_APPLIED /* its first frame was encoded */
};
enum prompt_at { AT_NEXT, AT_CHUNK, AT_MEDIA_TIME };
struct prompt {
	int64_t number; /* "p2" */
	uint32_t revision;
	enum prompt_state state;
	enum transition transition;
	enum prompt_at at;
	int64_t at_value; /* chunk or microseconds, as asked */
	int64_t chunk; /* where it takes hold */
	uint64_t seq, pts_us; /* of its first frame, once applied */
	char event_id[EVENT_ID_BYTES], by[EVENT_ID_BYTES];
	char text[]; /* UTF-8 */
};
struct prompts {
	struct prompt **item; /* owned */
	int count, capacity;
};
struct prompt *prompt_create(const char *text); /* all else zero; NULL: no memory */
void prompts_finish(struct prompts *p);
/* Takes n. *replaced: the waiting prompt of the same chunk, the caller's now, or
 * NULL. False: no memory, n stays the caller's. */
bool prompts_add(struct prompts *p, struct prompt *n, struct prompt **replaced);
struct prompt *prompts_due(const struct prompts *p, int64_t chunk); /* newest that waits for it */
struct prompt *prompts_by_number(const struct prompts *p, int64_t number);
struct prompt *prompts_by_revision(const struct prompts *p, uint32_t revision);
/* In effect: applied or sent last. NULL before the first chunk. */
struct prompt *prompts_current(const struct prompts *p);
int prompts_waiting(const struct prompts *p);
/* Takes it out; the caller's now. */
void prompts_remove(struct prompts *p, const struct prompt *which);
/* Forgets the oldest applied ones beyond `kept`, never the one in effect. */
void prompts_trim(struct prompts *p, int kept);
#endif
