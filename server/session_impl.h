/* SPDX-License-Identifier: Apache-2.0 */
/* What session.h hides, for the files that run sessions: session*.c, registry.c,
 * journal.c, gpu*.c, encoder.c. Every member says whose it is.
 * Lock order: journal, speak, registry, lock. */
#ifndef SERVER_SESSION_IMPL_H
#define SERVER_SESSION_IMPL_H
#include <pthread.h>
#include <stdatomic.h>
#include "server/pace.h"
#include "server/prompts.h"
#include "server/session.h"

struct encoder;
struct journal;

#define SESSION_SEED_MAX ((UINT64_C(1) << 53) - 1) /* what a JSON number holds exactly */

/* Owned by the GPU thread. */
enum { SESSION_CHUNKS_OPEN = 4 };
struct session_gpu {
	struct generator *generator; /* NULL: not prepared */
	struct encoder *encoder; /* assigned; NULL: none yet */
	struct pace pace;
	bool mid_chunk;
	bool blocked; /* the encoder's queue is full */
	bool starving; /* the generator had no picture to draw on when ... */
	long long starving_done; /* ... the encoder had given back so many */
	bool released; /* generator gone; waits to hand the end to the encoder */
	int64_t unwatched_since_us; /* 0: watched */
	int64_t wait_from_us; /* since when the pace alone holds the chunk back; 0: it does not */
	/* By chunk: the next one may have begun before the last one's end is told. */
	int64_t pace_wait_us[SESSION_CHUNKS_OPEN];
	uint64_t turn; /* of the last chunk begun; the least is next */
	uint32_t revision; /* in effect */
};

/* How far a session may go before its journal must be written again, so that no
 * number is ever given twice, whenever the process dies. */
struct journal_place {
	int64_t index; /* first picture number that is not set aside */
	uint32_t scenes; /* cuts and resets accounted for */
};

struct session {
	struct registry *registry;
	struct session *next; /* in the registry's list, under its lock */
	atomic_int references;

	/* Constant after create. */
	char id[SESSION_ID_BYTES];
	int64_t created_ms; /* CLOCK_REALTIME */
	bool max_pace, keep_unwatched, manual_start;
	int64_t max_chunks; /* 0: no bound */
	int unwatched_after_s, unwatched_ttl_s, bitrate_kbps, keyframe_every_chunks;
	json_t *labels; /* object, or NULL; read only */
	bool restored; /* from the journal */

	/* Held while state is changed and told, so that messages keep the order of
	 * what they tell. Taken before `lock`. */
	pthread_mutex_t speak;

	pthread_mutex_t lock; /* all below down to `key_wished` */
	enum session_state state;
	char reason[48]; /* of the state, "" */
	char fail_code[40], fail_detail[400]; /* SESSION_FAILED */
	int close_code;
	uint64_t seed;
	bool user_paused, waits_for_start, reset_wished;
	uint64_t reset_seed;
	int steps_wished; /* chunks to make although paused */
	int viewers;
	struct prompts prompts;
	int64_t last_number; /* of prompts */
	uint32_t last_revision, revision; /* given; of the last chunk begun */
	uint32_t epoch; /* 0 before the first frame */
	int64_t begun; /* last chunk begun, -1: none */
	int64_t begun_index, next_index; /* first picture of that chunk and of the next */
	int64_t reserved; /* first chunk number not set aside by the next journal */
	struct journal_place saved; /* what the journal on disk sets aside */
	uint32_t scenes_wished; /* cuts and resets accepted so far */
	bool shown; /* a picture was encoded since this process began */

	atomic_bool key_wished; /* any thread */
	atomic_bool journal_waits; /* it is in the journal's queue */
	struct session_gpu gpu;
};

/* How an ended session is remembered. */
struct ended {
	char id[SESSION_ID_BYTES];
	bool failed;
	int64_t at_us;
	char reason[200];
};

struct registry {
	const struct conf *conf;
	const struct outlet *outlet;
	struct log *log;
	struct metrics *metrics;
	struct journal *journal; /* NULL: none is kept */

	pthread_mutex_t lock; /* down to `ended_count` */
	struct session *first; /* newest; one reference each */
	int live; /* in the list, not over */
	bool draining;
	char stage[64]; /* of loading */
	uint64_t stage_done, stage_total;
	struct ended *ended; /* ring of ended_kept_max */
	int ended_first, ended_count;

	_Atomic(const struct engine *) engine; /* NULL while loading */
	atomic_llong stepped_us; /* last finished step; 0: none */

	/* The GPU thread sleeps on this. */
	pthread_mutex_t wake_lock;
	pthread_cond_t woken;
	bool wake;
};

/* registry.c */
void registry_wake(struct registry *r); /* any thread: the GPU thread has something to do */
void registry_wait(struct registry *r, int64_t timeout_us); /* GPU thread; < 0: until woken */
enum { SESSIONS_LISTED_MAX = 256 };
/* Every session in the list, over or not; referenced. Returns how many. */
int registry_all(struct registry *r, struct session *out[SESSIONS_LISTED_MAX]);
/* Adds to the list; -1 and *p when full or draining. Takes a reference of its own. */
int registry_add(struct registry *r, struct session *s, struct problem *p);
void registry_over(struct registry *r, struct session *s); /* it became a sink: remember the id */
void registry_remove(
	struct registry *r, struct session *s); /* out of the list, reference dropped */
bool registry_draining(struct registry *r);

/* session.c */
struct session *session_alloc(struct registry *r); /* one reference; NULL: no memory */
bool session_is_over(enum session_state s);
void session_publish(struct session *s, struct packet *p); /* takes p; NULL is fine */
/* Takes `speak` around it. */
void session_say(struct session *s, struct packet *p);
/* Ends it for good unless it is over already: state, reason, close code; the GPU
 * thread does the rest. True: it was live. Any thread. */
bool session_sink(struct session *s, enum session_state state, const char *reason, int close_code,
	const struct problem *why);
/* Journal soon, off this thread. */
void session_note(struct session *s);
/* Now when durable, else soon. */
void session_write_journal(struct session *s, bool durable);
/* The journal on disk says so now. Any thread. */
void session_saved(struct session *s, const struct journal_place *place);
int session_chunk_frames_max(const struct model_info *m); /* pictures of the longest chunk */
int64_t session_earliest(const struct session *s); /* first chunk still to begin; under lock */

/* session_prompt.c */
/* Length, encoding, words. 0, or -1 and *p with the counts. */
int session_check_text(struct registry *r, const char *field, const char *text, struct problem *p);

/* session_json.c; all under lock unless said otherwise */
json_t *session_json_prompt(const struct prompt *p);
/* Takes the lock. NULL when the session is over. *place may be NULL. */
json_t *session_json_journal(struct session *s, bool exact, struct journal_place *place);
struct packet *session_state_message(struct session *s); /* takes the lock */
struct packet *session_prompt_message(
	const struct session *s, const char *type, const struct prompt *p, json_t *more);
/* A session as the journal tells it; one reference. NULL and *e. */
struct session *session_from_journal(struct registry *r, const json_t *j, struct error *e);
#endif
