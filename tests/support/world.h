/* SPDX-License-Identifier: Apache-2.0 */
/* A daemon without sockets for tests: registry, encoders on their threads, the
 * GPU thread's turns on the test's own thread with the test's own clock, and an
 * outlet that records everything viewers would get. Media time costs no time:
 * where the GPU thread would sleep, the clock is moved on. */
#ifndef TESTS_SUPPORT_WORLD_H
#define TESTS_SUPPORT_WORLD_H
#include <jansson.h>
#include <pthread.h>
#include "server/gpu.h"
#include "server/packet.h"

enum { EVENTS_MAX = 20000, WORLD_ENCODERS_MAX = 4 };
struct event {
	char session[SESSION_ID_BYTES];
	char type[32]; /* of a text; "frame", "finish" */
	json_t *json; /* of a text */
	struct frame_meta meta; /* of a frame */
	uint8_t *bytes;
	size_t size;
	int close_code; /* of a finish */
};
struct world {
	struct conf conf;
	struct outlet outlet;
	struct metrics metrics;
	struct registry *registry;
	struct encoder *encoder[WORLD_ENCODERS_MAX];
	pthread_t thread[WORLD_ENCODERS_MAX];
	struct gpu *gpu;
	int64_t now_us;
	bool journal_hangs; /* nothing is written: world_journal does nothing */

	pthread_mutex_t lock; /* events */
	struct event event[EVENTS_MAX];
	int events;
};
/* Everything but the model; the backend's options behind "test:". With WORLD_LATE
 * in the environment a chunk's last pictures are late. state_dir "" or
 * a folder. Change w->conf before world_open. */
struct world *world_create(const char *options, const char *state_dir);
void world_open(struct world *w); /* makes it all, restores, loads */
/* Lets go of everything as a crash would: no drain, no exact journal. */
void world_close(struct world *w);

/* Events so far of this session and type (NULL: any). */
int world_count(struct world *w, const char *session, const char *type);
/* The nth such event, from 0; negative: from the end. Fails the test when there
 * is none. Valid until world_close. */
const struct event *world_event(struct world *w, const char *session, const char *type, int n);
/* Place of an event among all, to compare orders. */
int world_place(const struct world *w, const struct event *e);
/* Turns until there are `n` such events, moving the clock on where nothing can
 * be done. Fails the test when they do not come. */
void world_run(struct world *w, const char *session, const char *type, int n);
/* Turns until nothing can be done before `for_us` of the clock have passed, then
 * moves the clock there. */
void world_pass(struct world *w, int64_t for_us);
void world_rest(struct world *w); /* until the encoders have done all they were given */
/* Writes the journals that wait, as the journal thread would. False: none did. */
bool world_journal(struct world *w);
/* Texts and numbers of an event's JSON; "" and -1 when absent. */
const char *world_text(const struct event *e, const char *key);
int64_t world_number(const struct event *e, const char *key);
/* Makes a session with this prompt; referenced. Fails the test if refused. */
struct session *world_session(struct world *w, const char *prompt, struct session_request more);
/* Posts a prompt for the next chunk; fails the test if refused. */
struct prompt_receipt world_prompt(struct session *s, const char *text, enum transition t);
#endif
