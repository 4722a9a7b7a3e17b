/* SPDX-License-Identifier: Apache-2.0 */
/* The streams: what is kept of each session's messages, who watches it, what a
 * newcomer is sent first, and the end. Knows peers, but no sockets.
 * Thread: the ws thread. */
#include <stdlib.h>
#include "config.h"
#include "server/api.h"
#include "server/wire.h"
#include "server/ws_parts.h"

/* Those of the limits that may be set anew while the daemon runs. */
static void read_limits(struct streams *all) {
	all->limits.queue_us = all->conf->viewer_queue_ms * INT64_C(1000);
	all->limits.behind_us = all->conf->viewer_behind_s * INT64_C(1000000);
}

void streams_init(struct streams *all, const struct conf *c, struct metrics *m) {
	*all = (struct streams){
		.conf = c, .metrics = m, .limits.queue_bytes = (size_t)c->viewer_queue_bytes};
	read_limits(all);
}

static bool is_over(struct session *s) {
	enum session_state state = session_state(s);
	return state == SESSION_ENDED || state == SESSION_FAILED;
}

/* ---- the list */

static struct stream *find_stream(const struct streams *all, const struct session *s) {
	struct stream *st = all->first;
	while (st && st->session != s)
		st = st->next;
	return st;
}

/* Finds or makes it; NULL: no memory. */
static struct stream *open_stream(struct streams *all, struct session *s) {
	struct stream *st = find_stream(all, s);
	if (st)
		return st;
	st = calloc(1, sizeof *st);
	if (!st)
		return NULL;
	st->session = session_ref(s);
	channel_init(&st->channel, (size_t)all->conf->channel_bytes,
		all->conf->channel_ms * INT64_C(1000));
	st->next = all->first;
	all->first = st;
	return st;
}

static void free_stream(struct streams *all, struct stream *st) {
	for (struct stream **at = &all->first; *at; at = &(*at)->next)
		if (*at == st) {
			*at = st->next;
			break;
		}
	channel_finish(&st->channel);
	session_unref(st->session);
	free(st);
}

void streams_finish(struct streams *all) {
	while (all->first)
		free_stream(all, all->first);
}

/* ---- messages and the end */

void streams_publish(struct streams *all, struct session *s, struct packet *p) {
	struct stream *st = open_stream(all, s);
	if (!st)
		return;
	channel_append(&st->channel, p);
	for (struct peer *x = st->peers; x; x = x->next)
		peer_push(x, p, false);
}

void stream_leave(struct peer *x) {
	struct stream *st = x->stream;
	if (!st)
		return;
	for (struct peer **at = &st->peers; *at; at = &(*at)->next)
		if (*at == x) {
			*at = x->next;
			break;
		}
	st->peer_count--;
	x->stream = NULL;
}

/* Viewers leave it and are closed once they were sent all. */
static void finish_stream(struct streams *all, struct stream *st, int code, const char *reason) {
	while (st->peers) {
		struct peer *x = st->peers;
		peer_close(x, code, false, reason);
		ws_bound_close(x);
		x->control.session = NULL;
		stream_leave(x);
	}
	free_stream(all, st);
}

void streams_end(struct streams *all, struct session *s, int code, const char *reason) {
	struct stream *st = find_stream(all, s);
	if (st)
		finish_stream(all, st, code, reason);
}

void streams_end_all(struct streams *all, int code, const char *reason) {
	while (all->first)
		finish_stream(all, all->first, code, reason);
}

/* ---- newcomers */

/* Sends what is kept, from the place that suits this viewer. */
static void replay(struct peer *x, uint64_t begin, bool resumed) {
	struct channel *c = &x->stream->channel;
	struct packet *config = channel_config(c, begin);
	if (config)
		peer_push(x, config, true);
	for (uint64_t i = begin; i < channel_end(c); i++) {
		struct packet *p = channel_at(c, i);
		/* A newcomer has the state in hello; older news would contradict it. */
		if (resumed || p->kind == PACKET_FRAME || p->sticky)
			peer_push(x, p, true);
	}
}

void stream_catch_up(struct peer *x) {
	uint64_t begin;
	bool resumed;
	if (channel_begin(&x->stream->channel, NULL, &begin, &resumed))
		replay(x, begin, false);
	else
		session_request_key(x->stream->session);
}

static struct packet *make_hello(struct peer *x, bool resumed, const uint64_t *first_seq) {
	struct session *s = x->stream->session;
	json_t *fields = json_pack("{s:s, s:s, s:s, s:o*, s:o*, s:b}", "protocol", WIRE_SUBPROTOCOL,
		"role", "controller", "server", "lightforced/" VERSION, "capabilities",
		api_capabilities(x->streams->conf, x->streams->registry), "state", session_json(s),
		"resumed", resumed);
	if (fields && first_seq)
		json_object_set_new(fields, "first_seq", json_integer((json_int_t)*first_seq));
	return wire_message("hello", session_id(s), fields);
}

/* seq of the first frame at or after a message number; false: none is kept. */
static bool first_frame(const struct channel *c, uint64_t begin, uint64_t *seq) {
	for (uint64_t i = begin; i < channel_end(c); i++) {
		const struct packet *p = channel_at(c, i);
		if (p->kind != PACKET_FRAME)
			continue;
		*seq = p->meta.seq;
		return true;
	}
	return false;
}

static void join_stream(struct peer *x, struct stream *st, const uint64_t *since) {
	x->stream = st;
	x->next = st->peers;
	st->peers = x;
	st->peer_count++;
	peer_begin(x);
	uint64_t begin, seq;
	bool resumed;
	bool kept = channel_begin(&st->channel, since, &begin, &resumed);
	bool known = kept && first_frame(&st->channel, begin, &seq);
	if (kept && !known) { /* resumes with the next live frame */
		seq = st->channel.last_seq + 1;
		known = true;
	}
	peer_give(x, make_hello(x, resumed, known ? &seq : NULL));
	if (resumed)
		viewer_resume(&x->viewer, *since);
	replay(x, begin, resumed);
	if (!kept)
		session_request_key(st->session);
	session_watched(st->session, st->peer_count);
}

static void refuse_peer(struct peer *x, const struct problem *p) {
	int code = p->code == PROBLEM_GONE        ? 4410
		   : p->code == PROBLEM_DRAINING  ? 1001
		   : p->code == PROBLEM_NOT_FOUND ? 4404
						  : 1011;
	peer_close(x, code, true, p->detail);
}

void streams_admit(struct peer *x, const char *id, const uint64_t *since) {
	struct streams *all = x->streams;
	struct problem p = {0};
	struct session *s = session_find(all->registry, id, &p);
	if (!s) {
		refuse_peer(x, &p);
		problem_clear(&p);
		return;
	}
	struct stream *st = NULL;
	if (is_over(s))
		peer_close(x, 4410, true, "this session has ended");
	else if (!(st = open_stream(all, s)))
		peer_close(x, 1011, true, "out of memory");
	else if (all->peer_count > all->conf->viewers_max ||
		 st->peer_count >= all->conf->viewers_per_session_max)
		peer_close(x, 1013, true, "full: as many viewers as allowed are watching");
	else
		join_stream(x, st, since);
	session_unref(s);
}

/* ---- from time to time */

static void tell_viewers(struct stream *st, int64_t now_us) {
	if (st->peer_count == st->told_count || now_us - st->told_us < 1000000)
		return;
	st->told_count = st->peer_count;
	st->told_us = now_us;
	struct packet *p = wire_message("session.viewers", session_id(st->session),
		json_pack("{s:i, s:i}", "viewers", st->peer_count, "controllers", st->peer_count));
	for (struct peer *x = st->peers; x && p; x = x->next)
		peer_push(x, p, false);
	packet_unref(p);
}

void streams_tend(struct streams *all, bool ends_lost, int64_t now_us) {
	read_limits(all);
	bool stats = now_us - all->stats_us >= 1000000;
	if (stats)
		all->stats_us = now_us;
	for (struct stream *st = all->first, *next; st; st = next) {
		next = st->next;
		tell_viewers(st, now_us);
		for (struct peer *x = st->peers; x; x = x->next)
			peer_tend(x, stats, now_us);
		if (ends_lost && is_over(st->session))
			finish_stream(all, st, 1011, "the end of this session was lost");
	}
}
