/* SPDX-License-Identifier: Apache-2.0 */
/* One viewer between its stream and its socket: what it is sent, what it says,
 * why it is closed. Which messages wait and which are dropped is decided in
 * viewer.c, what its words lead to in control.c. Thread: the ws thread. */
#include <stdio.h>
#include <stdlib.h>
#include "server/wire.h"
#include "server/ws_parts.h"

void peer_arrive(struct peer *x, struct streams *all, struct lws *wsi) {
	x->streams = all;
	x->wsi = wsi;
	all->peer_count++;
	metrics_set(all->metrics, METRIC_VIEWERS, all->peer_count);
}

void peer_begin(struct peer *x) {
	struct session *s = x->stream->session;
	const struct streams *all = x->streams;
	snprintf(x->session_id, sizeof x->session_id, "%s", session_id(s));
	viewer_init(&x->viewer, &all->limits, x->session_id);
	x->control = (struct control_peer){.session = s, .conf = all->conf, .visible = true};
}

void peer_close(struct peer *x, int code, bool now, const char *reason) {
	if (x->close_code)
		return;
	x->close_code = code;
	x->close_now = now;
	reason_copy(x->reason, reason);
	ws_ask_to_write(x);
	/* One that does not read will not become writable either. */
	if (now)
		ws_bound_close(x);
}

void peer_push(struct peer *x, struct packet *p, bool replayed) {
	if (!p || x->close_code)
		return;
	uint64_t dropped = x->viewer.dropped_frames;
	if (viewer_push(&x->viewer, p, replayed, wire_now_us()))
		session_request_key(x->stream->session);
	metrics_add(x->streams->metrics, METRIC_FRAMES_DROPPED,
		(long long)(x->viewer.dropped_frames - dropped));
	if (x->viewer.overflow)
		peer_close(x, 1013, true, "too slow: messages piled up");
	if (x->viewer.count)
		ws_ask_to_write(x);
}

void peer_give(struct peer *x, struct packet *p) {
	peer_push(x, p, false);
	packet_unref(p);
}

/* Follows what it said of being visible. */
static void see(struct peer *x) {
	bool shown = !x->viewer.hidden;
	if (x->control.visible == shown)
		return;
	if (shown) {
		viewer_hide(&x->viewer);
		return;
	}
	viewer_show(&x->viewer);
	stream_catch_up(x);
}

void peer_hear(struct peer *x, const char *text, size_t size) {
	peer_give(x, control_handle(&x->control, text, size, wire_now_us()));
	see(x);
}

static void tell_stats(struct peer *x) {
	const struct viewer *v = &x->viewer;
	peer_give(x, wire_message("viewer.stats", session_id(x->stream->session),
			     json_pack("{s:i, s:I, s:I, s:I, s:I}", "queued_messages", v->count,
				     "queued_bytes", (json_int_t)(v->live_bytes + v->text_bytes),
				     "sent_frames", (json_int_t)v->sent_frames, "sent_bytes",
				     (json_int_t)v->sent_bytes, "dropped_frames",
				     (json_int_t)v->dropped_frames)));
}

void peer_tend(struct peer *x, bool stats, int64_t now_us) {
	if (viewer_is_lost(&x->viewer, now_us))
		peer_close(x, 1013, true, "too slow: behind for too long");
	if (stats && x->control.wants_stats)
		tell_stats(x);
}

static void count_close(struct metrics *m, int code) {
	metrics_add(m,
		code == 0      ? METRIC_WS_CLOSED_CLIENT
		: code == 1000 ? METRIC_WS_CLOSED_ENDED
		: code == 1001 ? METRIC_WS_CLOSED_DRAINING
		: code == 1013 ? METRIC_WS_CLOSED_SLOW
			       : METRIC_WS_CLOSED_REFUSED,
		1);
}

void peer_part(struct peer *x) {
	struct streams *all = x->streams;
	if (!all)
		return;
	struct stream *st = x->stream;
	stream_leave(x);
	if (st)
		session_watched(st->session, st->peer_count);
	viewer_finish(&x->viewer);
	free(x->text);
	x->text = NULL;
	all->peer_count--;
	metrics_set(all->metrics, METRIC_VIEWERS, all->peer_count);
	count_close(all->metrics, x->close_code);
}
