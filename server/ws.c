/* SPDX-License-Identifier: Apache-2.0 */
/* See ws.h. The only file that knows libwebsockets. Other threads reach this one
 * through the inbox alone and wake it with lws_cancel_service; everything else
 * here belongs to the ws thread. Who is sent what is decided in channel.c and
 * viewer.c; what viewers say, in control.c. */
#include "server/ws.h"
#include <assert.h>
#include <errno.h>
#include <libwebsockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include "config.h"
#include "server/api.h"
#include "server/channel.h"
#include "server/control.h"
#include "server/viewer.h"
#include "server/wire.h"
#include "server/ws_parts.h"

static_assert(PACKET_HEADROOM >= FRAME_HEADER_BYTES + LWS_PRE, "headroom of a packet");

#define SUBPROTOCOL "lightforced.v1"
#define TICK_US 250000
#define NOTSENT_BYTES 16384 /* of a frame stream kept in the kernel unsent */
#define WRITE_BYTES 262144 /* most that one write hands to the kernel */
#define CLOSE_SECONDS 5 /* for a peer that does not read its close frame */
#define DRAIN_US (2 * INT64_C(1000000))

/* One session's stream. */
struct stream {
	struct stream *next;
	struct session *session; /* one reference */
	struct channel channel;
	struct peer *peers;
	int peer_count;
	int told_count; /* of the last session.viewers */
	int64_t told_us;
};
/* One socket; its memory is the library's, zeroed. */
struct peer {
	struct peer *next;
	struct ws *ws;
	struct lws *wsi;
	struct stream *stream; /* NULL: refused, to be closed */
	char session_id[SESSION_ID_BYTES]; /* outlives the stream */
	struct viewer viewer;
	struct control_peer control;
	char *text; /* message being received */
	size_t text_bytes;
	int close_code; /* 0: stays open */
	bool close_now; /* without sending what waits */
	char reason[REASON_BYTES];
};
/* Between lws_adopt_socket and the end of the handshake, by descriptor. */
struct adopted {
	char session_id[SESSION_ID_BYTES];
	bool has_since;
	uint64_t since;
};
struct ws {
	const struct conf *conf;
	struct registry *registry;
	struct metrics *metrics;
	struct lws_context *context;
	struct lws_protocols protocols[3];
	struct viewer_limits limits;
	lws_sorted_usec_list_t tick;
	struct inbox inbox;
	atomic_bool stopping;
	atomic_llong ticked_us;
	struct stream *streams;
	struct adopted *adopted;
	int adopted_count, peer_count;
	int64_t stats_us; /* of the last viewer.stats */
	int64_t drain_until_us; /* 0: not draining */
};

static void post(struct ws *w, const struct event *ev) {
	if (inbox_post(&w->inbox, ev))
		lws_cancel_service(w->context);
}

void ws_publish(void *ws, struct session *s, struct packet *p) {
	post(ws,
		&(struct event){
			.kind = EVENT_MESSAGE, .session = session_ref(s), .packet = packet_ref(p)});
}

void ws_finish(void *ws, struct session *s, int close_code, const char *reason) {
	struct event ev = {
		.kind = EVENT_FINISH, .session = session_ref(s), .close_code = close_code};
	reason_copy(ev.reason, reason ? reason : "");
	post(ws, &ev);
}

void ws_adopt(struct ws *w, int fd, const char *id, uint64_t since, bool has_since) {
	struct event ev = {.kind = EVENT_ADOPT, .fd = fd, .has_since = has_since, .since = since};
	snprintf(ev.session_id, sizeof ev.session_id, "%s", id);
	post(w, &ev);
}

static void close_peer(struct peer *x, int code, bool now, const char *reason) {
	if (x->close_code)
		return;
	x->close_code = code;
	x->close_now = now;
	reason_copy(x->reason, reason);
	lws_callback_on_writable(x->wsi);
	/* One that does not read will not become writable either. */
	if (now)
		lws_set_timeout(x->wsi, PENDING_TIMEOUT_USER_OK, CLOSE_SECONDS);
}

static void push(struct peer *x, struct packet *p, bool replayed) {
	if (!p || x->close_code)
		return;
	uint64_t dropped = x->viewer.dropped_frames;
	if (viewer_push(&x->viewer, p, replayed, wire_now_us()))
		session_request_key(x->stream->session);
	metrics_add(x->ws->metrics, METRIC_FRAMES_DROPPED,
		(long long)(x->viewer.dropped_frames - dropped));
	if (x->viewer.overflow)
		close_peer(x, 1013, true, "too slow: messages piled up");
	if (x->viewer.count)
		lws_callback_on_writable(x->wsi);
}

/* Pushes and gives up the reference. */
static void push_own(struct peer *x, struct packet *p) {
	push(x, p, false);
	packet_unref(p);
}

static struct stream *find_stream(struct ws *w, const struct session *s) {
	struct stream *st = w->streams;
	while (st && st->session != s)
		st = st->next;
	return st;
}

static struct stream *open_stream(struct ws *w, struct session *s) {
	struct stream *st = find_stream(w, s);
	if (st)
		return st;
	st = calloc(1, sizeof *st);
	if (!st)
		return NULL;
	st->session = session_ref(s);
	channel_init(
		&st->channel, (size_t)w->conf->channel_bytes, w->conf->channel_ms * INT64_C(1000));
	st->next = w->streams;
	w->streams = st;
	return st;
}

static void free_stream(struct ws *w, struct stream *st) {
	for (struct stream **at = &w->streams; *at; at = &(*at)->next)
		if (*at == st) {
			*at = st->next;
			break;
		}
	channel_finish(&st->channel);
	session_unref(st->session);
	free(st);
}

static void leave_stream(struct peer *x) {
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

/* The stream is over: viewers leave it and are closed once they were sent all. */
static void finish_stream(struct ws *w, struct stream *st, int code, const char *reason) {
	while (st->peers) {
		struct peer *x = st->peers;
		close_peer(x, code, false, reason);
		lws_set_timeout(x->wsi, PENDING_TIMEOUT_USER_OK, CLOSE_SECONDS);
		x->control.session = NULL;
		leave_stream(x);
	}
	free_stream(w, st);
}

/* Sends what is kept, from the place that suits this viewer. */
static void replay(struct peer *x, uint64_t begin, bool resumed) {
	struct channel *c = &x->stream->channel;
	struct packet *config = channel_config(c, begin);
	if (config)
		push(x, config, true);
	for (uint64_t i = begin; i < channel_end(c); i++) {
		struct packet *p = channel_at(c, i);
		/* A newcomer has the state in hello; older news would contradict it. */
		if (resumed || p->kind == PACKET_FRAME || p->sticky)
			push(x, p, true);
	}
}

static struct packet *make_hello(struct peer *x, bool resumed, const uint64_t *first_seq) {
	struct session *s = x->stream->session;
	json_t *fields = json_pack("{s:s, s:s, s:s, s:o*, s:o*, s:b}", "protocol", SUBPROTOCOL,
		"role", "controller", "server", "lightforced/" VERSION, "capabilities",
		api_capabilities(x->ws->conf, x->ws->registry), "state", session_json(s), "resumed",
		resumed);
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
	snprintf(x->session_id, sizeof x->session_id, "%s", session_id(st->session));
	viewer_init(&x->viewer, &x->ws->limits, x->session_id);
	x->control =
		(struct control_peer){.session = st->session, .conf = x->ws->conf, .visible = true};
	uint64_t begin, seq;
	bool resumed;
	bool kept = channel_begin(&st->channel, since, &begin, &resumed);
	bool known = kept && first_frame(&st->channel, begin, &seq);
	if (kept && !known) { /* resumes with the next live frame */
		seq = st->channel.last_seq + 1;
		known = true;
	}
	push_own(x, make_hello(x, resumed, known ? &seq : NULL));
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
	close_peer(x, code, true, p->detail);
}

static void count_close(struct ws *w, int code) {
	metrics_add(w->metrics,
		code == 0      ? METRIC_WS_CLOSED_CLIENT
		: code == 1000 ? METRIC_WS_CLOSED_ENDED
		: code == 1001 ? METRIC_WS_CLOSED_DRAINING
		: code == 1013 ? METRIC_WS_CLOSED_SLOW
			       : METRIC_WS_CLOSED_REFUSED,
		1);
}

static void part(struct ws *w, struct peer *x) {
	if (!x->ws)
		return;
	struct stream *st = x->stream;
	leave_stream(x);
	if (st)
		session_watched(st->session, st->peer_count);
	viewer_finish(&x->viewer);
	free(x->text);
	x->text = NULL;
	w->peer_count--;
	metrics_set(w->metrics, METRIC_VIEWERS, w->peer_count);
	count_close(w, x->close_code);
}

/* Returns what the library's callback is to return: -1 closes. */
static int write_next(struct ws *w, struct peer *x) {
	if (x->close_code && (x->close_now || !x->viewer.count)) {
		lws_close_reason(x->wsi, (enum lws_close_status)x->close_code,
			(unsigned char *)x->reason, strlen(x->reason));
		return -1;
	}
	bool replayed = false;
	struct packet *p = viewer_pop(&x->viewer, &replayed);
	if (!p)
		return 0;
	uint8_t *at = p->data;
	size_t size = p->size;
	if (p->kind == PACKET_FRAME) {
		at -= FRAME_HEADER_BYTES;
		size += FRAME_HEADER_BYTES;
		wire_frame_header(
			at, &p->meta, replayed, (uint32_t)p->size, (uint64_t)wire_now_us());
		metrics_add(w->metrics, METRIC_FRAMES_SENT, 1);
	}
	int sent = lws_write(
		x->wsi, at, size, p->kind == PACKET_FRAME ? LWS_WRITE_BINARY : LWS_WRITE_TEXT);
	packet_unref(p);
	if (sent < (int)size)
		return -1; /* the connection is dead; a partial send is kept by the library */
	metrics_add(w->metrics, METRIC_SENT_BYTES, (long long)size);
	if (x->viewer.count || x->close_code)
		lws_callback_on_writable(x->wsi);
	return 0;
}

static int refuse_message(struct peer *x, int code, const char *reason) {
	x->close_code = code;
	lws_close_reason(x->wsi, (enum lws_close_status)code, (unsigned char *)(uintptr_t)reason,
		strlen(reason));
	return -1;
}

static void see(struct peer *x) {
	bool shown = !x->viewer.hidden;
	if (x->control.visible == shown)
		return;
	if (shown) {
		viewer_hide(&x->viewer);
		return;
	}
	viewer_show(&x->viewer);
	uint64_t begin;
	bool resumed;
	if (channel_begin(&x->stream->channel, NULL, &begin, &resumed))
		replay(x, begin, false);
	else
		session_request_key(x->stream->session);
}

static int receive(struct ws *w, struct peer *x, const char *in, size_t size) {
	if (lws_frame_is_binary(x->wsi))
		return refuse_message(x, 1003, "clients send text only");
	if (x->text_bytes + size > (size_t)w->conf->text_bytes_max)
		return refuse_message(x, 1009, "message longer than text_bytes_max");
	if (!x->stream)
		return 0; /* about to be closed */
	char *grown = realloc(x->text, x->text_bytes + size + 1);
	if (!grown)
		return refuse_message(x, 1011, "out of memory");
	memcpy(grown + x->text_bytes, in, size);
	x->text = grown;
	x->text_bytes += size;
	if (!lws_is_final_fragment(x->wsi) || lws_remaining_packet_payload(x->wsi))
		return 0;
	size = x->text_bytes;
	x->text_bytes = 0;
	struct packet *answer = control_handle(&x->control, x->text, size, wire_now_us());
	if (answer)
		push_own(x, answer);
	see(x);
	return 0;
}

static void adopt(struct ws *w, struct event *ev) {
	if (ev->fd >= w->adopted_count) {
		int count = ev->fd + 64;
		struct adopted *grown = realloc(w->adopted, (size_t)count * sizeof *grown);
		if (!grown)
			return; /* event_drop closes the descriptor */
		w->adopted = grown;
		w->adopted_count = count;
	}
	struct adopted *a = &w->adopted[ev->fd];
	a->has_since = ev->has_since;
	a->since = ev->since;
	memcpy(a->session_id, ev->session_id, sizeof a->session_id);
	/* Closes the descriptor itself when it cannot take it. */
	lws_adopt_socket(w->context, ev->fd);
	ev->fd = -1;
}

static void take(struct ws *w, struct event *ev) {
	if (ev->kind == EVENT_ADOPT) {
		adopt(w, ev);
		return;
	}
	struct stream *st = ev->kind == EVENT_MESSAGE ? open_stream(w, ev->session)
						      : find_stream(w, ev->session);
	if (!st)
		return;
	if (ev->kind == EVENT_FINISH) {
		finish_stream(w, st, ev->close_code, ev->reason);
		return;
	}
	channel_append(&st->channel, ev->packet);
	for (struct peer *x = st->peers; x; x = x->next)
		push(x, ev->packet, false);
}

static void take_all(struct ws *w) {
	struct event *ev;
	while ((ev = inbox_take(&w->inbox))) {
		take(w, ev);
		event_drop(ev);
	}
}

/* The handshake is done: finds the session that the path named. */
static void greet(struct ws *w, struct peer *x, struct lws *wsi) {
	x->ws = w;
	x->wsi = wsi;
	int fd = lws_get_socket_fd(wsi), one = 1, unsent = NOTSENT_BYTES;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
	w->peer_count++;
	metrics_set(w->metrics, METRIC_VIEWERS, w->peer_count);
	take_all(w); /* older than the state that hello will tell */
	if (w->drain_until_us) {
		close_peer(x, 1001, true, "the server is shutting down");
		return;
	}
	const struct adopted *a = &w->adopted[fd];
	struct problem p = {0};
	struct session *s = session_find(w->registry, a->session_id, &p);
	if (!s) {
		refuse_peer(x, &p);
		problem_clear(&p);
		return;
	}
	enum session_state state = session_state(s);
	struct stream *st = NULL;
	if (state == SESSION_ENDED || state == SESSION_FAILED)
		close_peer(x, 4410, true, "this session has ended");
	else if (!(st = open_stream(w, s)))
		close_peer(x, 1011, true, "out of memory");
	else if (w->peer_count > w->conf->viewers_max ||
		 st->peer_count >= w->conf->viewers_per_session_max)
		close_peer(x, 1013, true, "full: as many viewers as allowed are watching");
	else
		join_stream(x, st, a->has_since ? &a->since : NULL);
	session_unref(s);
}

static void tell_viewers(struct stream *st, int64_t now_us) {
	if (st->peer_count == st->told_count || now_us - st->told_us < 1000000)
		return;
	st->told_count = st->peer_count;
	st->told_us = now_us;
	struct packet *p = wire_message("session.viewers", session_id(st->session),
		json_pack("{s:i, s:i}", "viewers", st->peer_count, "controllers", st->peer_count));
	for (struct peer *x = st->peers; x && p; x = x->next)
		push(x, p, false);
	packet_unref(p);
}

static void tell_stats(struct peer *x) {
	const struct viewer *v = &x->viewer;
	push_own(x, wire_message("viewer.stats", session_id(x->stream->session),
			    json_pack("{s:i, s:I, s:I, s:I, s:I}", "queued_messages", v->count,
				    "queued_bytes", (json_int_t)(v->live_bytes + v->text_bytes),
				    "sent_frames", (json_int_t)v->sent_frames, "sent_bytes",
				    (json_int_t)v->sent_bytes, "dropped_frames",
				    (json_int_t)v->dropped_frames)));
}

static void tend_stream(struct ws *w, struct stream *st, int64_t now_us, bool stats) {
	tell_viewers(st, now_us);
	for (struct peer *x = st->peers; x; x = x->next) {
		if (viewer_is_lost(&x->viewer, now_us))
			close_peer(x, 1013, true, "too slow: behind for too long");
		if (stats && x->control.wants_stats)
			tell_stats(x);
	}
	(void)w;
}

static void on_tick(lws_sorted_usec_list_t *tick) {
	struct ws *w = lws_container_of(tick, struct ws, tick);
	int64_t now_us = wire_now_us();
	atomic_store(&w->ticked_us, now_us);
	w->limits.queue_us = w->conf->viewer_queue_ms * INT64_C(1000);
	w->limits.behind_us = w->conf->viewer_behind_s * INT64_C(1000000);
	bool stats = now_us - w->stats_us >= 1000000;
	if (stats)
		w->stats_us = now_us;
	bool overflowed = atomic_exchange(&w->inbox.overflowed, false);
	for (struct stream *st = w->streams, *next; st; st = next) {
		next = st->next;
		tend_stream(w, st, now_us, stats);
		enum session_state state = session_state(st->session);
		if (overflowed && (state == SESSION_ENDED || state == SESSION_FAILED))
			finish_stream(w, st, 1011, "the end of this session was lost");
	}
	lws_sul_schedule(w->context, 0, &w->tick, on_tick, TICK_US);
}

static int on_event(
	struct lws *wsi, enum lws_callback_reasons why, void *user, void *in, size_t size) {
	struct ws *w = lws_context_user(lws_get_context(wsi));
	struct peer *x = user;
	switch (why) {
	case LWS_CALLBACK_EVENT_WAIT_CANCELLED:
		take_all(w);
		return 0;
	case LWS_CALLBACK_ESTABLISHED:
		greet(w, x, wsi);
		return 0;
	case LWS_CALLBACK_SERVER_WRITEABLE:
		return write_next(w, x);
	case LWS_CALLBACK_RECEIVE:
		return receive(w, x, in, size);
	case LWS_CALLBACK_CLOSED:
		part(w, x);
		return 0;
	default:
		return 0;
	}
}

/* The acceptor passes upgrades alone; anything else ends here. */
static int on_http(
	struct lws *wsi, enum lws_callback_reasons why, void *user, void *in, size_t size) {
	if (why == LWS_CALLBACK_HTTP)
		return -1;
	return lws_callback_http_dummy(wsi, why, user, in, size);
}

static struct lws_context *open_context(struct ws *w) {
	static const lws_retry_bo_t alive = {
		.secs_since_valid_ping = 20, .secs_since_valid_hangup = 30};
	w->protocols[0] = (struct lws_protocols){.name = "http", .callback = on_http};
	w->protocols[1] = (struct lws_protocols){.name = SUBPROTOCOL,
		.callback = on_event,
		.per_session_data_size = sizeof(struct peer),
		.rx_buffer_size = 4096,
		.tx_packet_size = WRITE_BYTES};
	struct lws_context_creation_info info = {
		.port = CONTEXT_PORT_NO_LISTEN_SERVER,
		.protocols = w->protocols,
		.user = w,
		.retry_and_idle_policy = &alive,
		.timeout_secs = 5,
		.max_http_header_data2 = (unsigned)w->conf->head_bytes_max,
		.max_http_header_pool2 = 64,
		.options = LWS_SERVER_OPTION_VALIDATE_UTF8,
	};
	lws_set_log_level(LLL_ERR, NULL);
	return lws_create_context(&info);
}

struct ws *ws_create(const struct conf *c, struct metrics *m, struct error *e) {
	struct ws *w = calloc(1, sizeof *w);
	if (!w) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	w->conf = c;
	w->metrics = m;
	w->limits = (struct viewer_limits){.queue_bytes = (size_t)c->viewer_queue_bytes,
		.queue_us = c->viewer_queue_ms * INT64_C(1000),
		.behind_us = c->viewer_behind_s * INT64_C(1000000)};
	atomic_store(&w->ticked_us, wire_now_us());
	w->context = inbox_init(&w->inbox) ? open_context(w) : NULL;
	if (w->context)
		return w;
	error_set(e, -EIO, "libwebsockets did not start");
	ws_destroy(w);
	return NULL;
}

void ws_registry(struct ws *w, struct registry *r) {
	w->registry = r;
}

void ws_destroy(struct ws *w) {
	if (!w)
		return;
	if (w->context)
		lws_context_destroy(w->context);
	inbox_finish(&w->inbox);
	while (w->streams)
		free_stream(w, w->streams);
	free(w->adopted);
	free(w);
}

static void begin_drain(struct ws *w) {
	w->drain_until_us = wire_now_us() + DRAIN_US;
	while (w->streams)
		finish_stream(w, w->streams, 1001, "the server is shutting down");
}

void ws_run(struct ws *w) {
	lws_sul_schedule(w->context, 0, &w->tick, on_tick, TICK_US);
	while (lws_service(w->context, 0) >= 0) {
		if (atomic_load(&w->stopping) && !w->drain_until_us) {
			take_all(w);
			begin_drain(w);
		}
		if (w->drain_until_us && (!w->peer_count || wire_now_us() > w->drain_until_us))
			break;
	}
	lws_sul_cancel(&w->tick);
}

void ws_stop(struct ws *w) {
	atomic_store(&w->stopping, true);
	lws_cancel_service(w->context);
}

int64_t ws_ticked_us(const struct ws *w) {
	return atomic_load(&w->ticked_us);
}
