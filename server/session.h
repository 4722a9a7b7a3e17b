/* SPDX-License-Identifier: Apache-2.0 */
/* A running video and the registry of all. Calls below may come from any
 * thread unless a line says otherwise: they check, post to the session's
 * mailbox and wake the GPU thread; generator and encoder belong to their
 * threads. A found session is referenced: give it back with session_unref.
 * Lock order: registry, then session; never held while calling out. */
#ifndef SERVER_SESSION_H
#define SERVER_SESSION_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "engine/engine.h"
#include "server/conf.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/packet.h"
#include "server/problem.h"

struct session;
struct registry;
#define SESSION_ID_BYTES 41
#define EVENT_ID_BYTES 65

enum session_state {
	SESSION_QUEUED,
	SESSION_PREPARING,
	SESSION_RUNNING,
	SESSION_PAUSED,
	SESSION_ENDED,
	SESSION_FAILED
};
const char *session_state_name(enum session_state s);

/* Where what a session makes goes: set once, before any session exists. Both
 * take a reference of their own and must not block. */
struct outlet {
	void *ctx;
	/* Next message of a session's stream, in order. Called from the GPU,
	 * encoder, http and ws threads. */
	void (*publish)(void *ctx, struct session *s, struct packet *p);
	/* The session is over: viewers get this close code and reason after what
	 * was published. 1000 ended, 1011 failed, 1001 draining, 4410 expired. */
	void (*finish)(void *ctx, struct session *s, int close_code, const char *reason);
};

/* A parsed, not yet checked, create request; strings borrowed. */
struct session_request {
	const char *prompt;
	bool has_seed;
	uint64_t seed; /* 0 .. 2^53-1 */
	bool manual_start; /* start: "manual" */
	bool max_pace; /* pace: "max" */
	int64_t max_chunks; /* 0: no bound */
	bool keep_unwatched; /* when_unwatched.action "continue" instead of "pause" */
	int unwatched_after_s; /* 0: from the config */
	int unwatched_ttl_s; /* 0: from the config */
	int bitrate_kbps, keyframe_every_chunks; /* 0: from the config */
	const json_t *labels; /* object of strings, or NULL */
};
/* at: absent or "next", {"chunk": N}, {"media_time_us": T}. */
struct prompt_request {
	const char *event_id; /* or NULL */
	const char *text;
	enum transition transition;
	bool at_chunk;
	int64_t chunk;
	bool at_media_time;
	int64_t media_time_us;
	const char *by; /* key name, or NULL */
	bool durable; /* write the journal before answering: for HTTP, never on the ws thread */
};
struct prompt_receipt {
	char id[16]; /* "p2" */
	char event_id[EVENT_ID_BYTES];
	uint32_t revision;
	int64_t applies_at_chunk;
};
enum session_action {
	ACTION_START,
	ACTION_PAUSE,
	ACTION_RESUME,
	ACTION_STEP,
	ACTION_RESET,
	ACTION_KEYFRAME,
	ACTION_COUNT
};
const char *session_action_name(enum session_action a);
int session_action_parse(const char *name); /* -1: none */

/* All borrowed; *out may still be filled in until the first session exists; log
 * and metrics may be NULL. */
struct registry *registry_create(const struct conf *c, const struct outlet *out, struct log *log,
	struct metrics *m, struct error *e);
void registry_destroy(struct registry *r);
/* Sessions of the journals in state_dir: they wait, preparing, for the model.
 * Before any other thread runs. Returns how many came back. */
int registry_restore(struct registry *r);
/* Body of the journal thread, until registry_journal_stop. */
void registry_journal_run(struct registry *r);
void registry_journal_stop(struct registry *r);
/* Writes every session's exact place, once nothing moves any more. */
void registry_journal_flush(struct registry *r);
struct log *registry_log(struct registry *r);
struct metrics *registry_metrics(struct registry *r);
/* Age of the last finished step of any generator; -1: none yet. */
int64_t registry_step_age_us(struct registry *r);
/* The model is there: sessions may be made. Called once, by the GPU thread. */
void registry_model(struct registry *r, const struct engine *en);
/* Stage and bytes for /readyz while loading. */
void registry_loading(struct registry *r, const char *stage, uint64_t done, uint64_t total);
/* 1 when sessions may be made; else 0 and *p (model_loading with stage and bytes, draining). */
int registry_ready(struct registry *r, struct problem *p);
const struct engine *registry_engine(struct registry *r); /* NULL while loading */
void registry_drain(struct registry *r); /* refuse new sessions, notice to all */

/* 0 and a referenced *out, or -1 and *p. The stream starts at once. */
int session_create(struct registry *r, const struct session_request *q, struct session **out,
	struct problem *p);
/* NULL and *p: not_found, or gone for one that ended within 24 h. */
struct session *session_find(struct registry *r, const char *id, struct problem *p);
struct session *session_ref(struct session *s);
void session_unref(struct session *s);
/* Up to max live sessions newest first, after `after` (id or NULL); referenced. Returns how many.
 */
int session_list(struct registry *r, const char *after, int max, struct session **out);
const char *session_id(const struct session *s);
int session_prompt(struct session *s, const struct prompt_request *q, struct prompt_receipt *out,
	struct problem *p);
int session_prompt_cancel(struct session *s, const char *prompt_id, struct problem *p);
/* seed: for reset, NULL keeps the same. *applies_at_chunk may be NULL. */
int session_act(struct session *s, enum session_action a, const uint64_t *seed,
	int64_t *applies_at_chunk, struct problem *p);
int session_end(struct session *s, struct problem *p); /* DELETE; idempotent while known */
/* The ws thread tells how many watch; drives pause, resume and end of the unwatched. */
void session_watched(struct session *s, int viewers);
void session_request_key(struct session *s); /* coalesced, rate limited */
/* Whole public state as the REST object; new reference. */
json_t *session_json(struct session *s);
/* `prompts` part: applied and pending; new reference. */
json_t *session_prompts_json(struct session *s);
enum session_state session_state(struct session *s);
#endif
