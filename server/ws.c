/* SPDX-License-Identifier: Apache-2.0 */
/* See ws.h. The only file that knows libwebsockets: sockets, the loop and its
 * end. Other threads reach this one through the inbox alone and wake it with
 * lws_cancel_service; everything else here belongs to the ws thread. Who watches
 * what is kept in ws_stream.c and ws_peer.c. */
#include "server/ws.h"
#include <assert.h>
#include <errno.h>
#include <libwebsockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include "server/wire.h"
#include "server/ws_parts.h"

static_assert(PACKET_HEADROOM >= FRAME_HEADER_BYTES + LWS_PRE, "headroom of a packet");

#define TICK_US 250000
#define NOTSENT_BYTES 16384 /* of a frame stream kept in the kernel unsent */
#define WRITE_BYTES 262144 /* most that one write hands to the kernel */
#define CLOSE_SECONDS 5 /* for a peer that does not read its close frame */
#define DRAIN_US (2 * INT64_C(1000000))
#define GOODBYE "the server is shutting down"

/* Between lws_adopt_socket and the end of the handshake, by descriptor. */
struct adopted {
	char session_id[SESSION_ID_BYTES];
	bool has_since;
	uint64_t since;
};
struct ws {
	struct streams streams;
	struct inbox inbox;
	struct lws_context *context;
	struct lws_protocols protocols[3];
	lws_sorted_usec_list_t tick;
	atomic_bool stopping;
	atomic_llong ticked_us;
	struct adopted *adopted;
	int adopted_count;
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

void ws_ask_to_write(struct peer *x) {
	lws_callback_on_writable(x->wsi);
}

void ws_bound_close(struct peer *x) {
	lws_set_timeout(x->wsi, PENDING_TIMEOUT_USER_OK, CLOSE_SECONDS);
}

/* Ends it with this close frame; what the library's callback is to return. */
static int hang_up(struct peer *x, int code, const char *reason) {
	x->close_code = code;
	lws_close_reason(x->wsi, (enum lws_close_status)code, (unsigned char *)(uintptr_t)reason,
		strlen(reason));
	return -1;
}

/* Returns what the library's callback is to return: -1 closes. */
static int write_next(struct ws *w, struct peer *x) {
	if (x->close_code && (x->close_now || !x->viewer.count))
		return hang_up(x, x->close_code, x->reason);
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
		metrics_add(w->streams.metrics, METRIC_FRAMES_SENT, 1);
	}
	int sent = lws_write(
		x->wsi, at, size, p->kind == PACKET_FRAME ? LWS_WRITE_BINARY : LWS_WRITE_TEXT);
	packet_unref(p);
	if (sent < (int)size)
		return -1; /* the connection is dead; a partial send is kept by the library */
	metrics_add(w->streams.metrics, METRIC_SENT_BYTES, (long long)size);
	if (x->viewer.count || x->close_code)
		ws_ask_to_write(x);
	return 0;
}

static int receive(struct ws *w, struct peer *x, const char *in, size_t size) {
	if (lws_frame_is_binary(x->wsi))
		return hang_up(x, 1003, "clients send text only");
	if (x->text_bytes + size > (size_t)w->streams.conf->text_bytes_max)
		return hang_up(x, 1009, "message longer than text_bytes_max");
	if (!x->stream)
		return 0; /* about to be closed */
	char *grown = realloc(x->text, x->text_bytes + size + 1);
	if (!grown)
		return hang_up(x, 1011, "out of memory");
	memcpy(grown + x->text_bytes, in, size);
	x->text = grown;
	x->text_bytes += size;
	if (!lws_is_final_fragment(x->wsi) || lws_remaining_packet_payload(x->wsi))
		return 0;
	size = x->text_bytes;
	x->text_bytes = 0;
	peer_hear(x, x->text, size);
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
	switch (ev->kind) {
	case EVENT_MESSAGE:
		streams_publish(&w->streams, ev->session, ev->packet);
		return;
	case EVENT_FINISH:
		streams_end(&w->streams, ev->session, ev->close_code, ev->reason);
		return;
	case EVENT_ADOPT:
		adopt(w, ev);
		return;
	}
}

static void take_all(struct ws *w) {
	struct event *ev;
	while ((ev = inbox_take(&w->inbox))) {
		take(w, ev);
		event_drop(ev);
	}
}

/* The handshake is done: to the session that the path named. */
static void greet(struct ws *w, struct peer *x, struct lws *wsi) {
	int fd = lws_get_socket_fd(wsi), one = 1, unsent = NOTSENT_BYTES;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
	peer_arrive(x, &w->streams, wsi);
	take_all(w); /* older than the state that hello will tell */
	if (w->drain_until_us) {
		peer_close(x, 1001, true, GOODBYE);
		return;
	}
	const struct adopted *a = &w->adopted[fd];
	streams_admit(x, a->session_id, a->has_since ? &a->since : NULL);
}

static void on_tick(lws_sorted_usec_list_t *tick) {
	struct ws *w = lws_container_of(tick, struct ws, tick);
	int64_t now_us = wire_now_us();
	atomic_store(&w->ticked_us, now_us);
	streams_tend(&w->streams, atomic_exchange(&w->inbox.overflowed, false), now_us);
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
		peer_part(x);
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
	w->protocols[1] = (struct lws_protocols){.name = WIRE_SUBPROTOCOL,
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
		.max_http_header_data2 = (unsigned)w->streams.conf->head_bytes_max,
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
	streams_init(&w->streams, c, m);
	atomic_store(&w->ticked_us, wire_now_us());
	w->context = inbox_init(&w->inbox) ? open_context(w) : NULL;
	if (w->context)
		return w;
	error_set(e, -EIO, "libwebsockets did not start");
	ws_destroy(w);
	return NULL;
}

void ws_registry(struct ws *w, struct registry *r) {
	w->streams.registry = r;
}

void ws_destroy(struct ws *w) {
	if (!w)
		return;
	if (w->context)
		lws_context_destroy(w->context);
	inbox_finish(&w->inbox);
	streams_finish(&w->streams);
	free(w->adopted);
	free(w);
}

static void begin_drain(struct ws *w) {
	w->drain_until_us = wire_now_us() + DRAIN_US;
	streams_end_all(&w->streams, 1001, GOODBYE);
}

void ws_run(struct ws *w) {
	lws_sul_schedule(w->context, 0, &w->tick, on_tick, TICK_US);
	while (lws_service(w->context, 0) >= 0) {
		if (atomic_load(&w->stopping) && !w->drain_until_us) {
			take_all(w);
			begin_drain(w);
		}
		if (w->drain_until_us &&
			(!w->streams.peer_count || wire_now_us() > w->drain_until_us))
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
