/* SPDX-License-Identifier: Apache-2.0 */
/* See viewer.h. The age of the oldest waiting frame, not its media time, tells
 * slowness: when the whole machine stalled, frames come late to the queue too,
 * and nobody should lose any. */
#include "server/viewer.h"
#include <stdlib.h>
#include <string.h>
#include "server/wire.h"

void viewer_init(struct viewer *v, const struct viewer_limits *limits, const char *session_id) {
	*v = (struct viewer){.limits = limits, .session_id = session_id, .wait_key = true};
}

void viewer_finish(struct viewer *v) {
	for (int i = 0; i < v->count; i++)
		packet_unref(v->item[(v->first + i) % v->capacity].packet);
	free(v->item);
	v->item = NULL;
	v->count = v->capacity = 0;
}

static bool grow(struct viewer *v) {
	int capacity = v->capacity ? v->capacity * 2 : 64;
	struct viewer_item *item = malloc((size_t)capacity * sizeof *item);
	if (!item)
		return false;
	for (int i = 0; i < v->count; i++)
		item[i] = v->item[(v->first + i) % v->capacity];
	free(v->item);
	v->item = item;
	v->capacity = capacity;
	v->first = 0;
	return true;
}

static void append(struct viewer *v, struct packet *p, bool replayed, int64_t now_us) {
	if (v->count == v->capacity && !grow(v)) {
		v->overflow = true;
		return;
	}
	v->item[(v->first + v->count++) % v->capacity] =
		(struct viewer_item){packet_ref(p), now_us, replayed};
	if (p->kind == PACKET_TEXT)
		v->text_bytes += p->size;
	else if (!replayed)
		v->live_bytes += p->size;
}

static void count_drop(struct viewer *v, const struct packet *p, const char *reason) {
	if (!v->lag_frames++) {
		v->lag_from_seq = p->meta.seq;
		v->lag_reason = reason;
	}
	v->lag_to_seq = p->meta.seq;
	v->dropped_frames++;
}

/* Frames were lost before they came here: the server's inbox was full. */
static void count_gap(struct viewer *v, const struct packet *p, bool key) {
	v->lag_from_seq = v->next_seq;
	v->lag_to_seq = p->meta.seq - 1;
	v->lag_frames = p->meta.seq - v->next_seq;
	v->dropped_frames += v->lag_frames;
	v->lag_reason = "server_busy";
	v->wait_key = !key;
}

/* Takes the frames out of the queue, keeps the texts in order. */
static void drop_frames(struct viewer *v, const char *reason) {
	int kept = 0;
	for (int i = 0; i < v->count; i++) {
		struct viewer_item item = v->item[(v->first + i) % v->capacity];
		if (item.packet->kind == PACKET_TEXT) {
			v->item[(v->first + kept++) % v->capacity] = item;
			continue;
		}
		if (reason)
			count_drop(v, item.packet, reason);
		packet_unref(item.packet);
	}
	v->count = kept;
	v->live_bytes = 0;
}

/* When the oldest live frame was queued; now_us when there is none. */
static int64_t oldest_us(const struct viewer *v, int64_t now_us) {
	for (int i = 0; i < v->count; i++) {
		const struct viewer_item *item = &v->item[(v->first + i) % v->capacity];
		if (item->packet->kind == PACKET_FRAME && !item->replayed)
			return item->queued_us;
	}
	return now_us;
}

static void tell_lag(struct viewer *v, int64_t now_us) {
	struct packet *lag = wire_message("viewer.lag", v->session_id,
		json_pack("{s:I, s:I, s:I, s:s}", "dropped_frames", (json_int_t)v->lag_frames,
			"from_seq", (json_int_t)v->lag_from_seq, "to_seq",
			(json_int_t)v->lag_to_seq, "reason", v->lag_reason));
	v->lag_frames = 0;
	if (lag)
		append(v, lag, false, now_us);
	packet_unref(lag);
}

static bool push_frame(struct viewer *v, struct packet *p, bool replayed, int64_t now_us) {
	bool key = p->meta.flags & FRAME_KEY;
	if (v->hidden)
		return false;
	if (v->started && !v->wait_key && p->meta.seq > v->next_seq)
		count_gap(v, p, key);
	if (!v->wait_key && !replayed &&
		(v->live_bytes + p->size > v->limits->queue_bytes ||
			now_us - oldest_us(v, now_us) > v->limits->queue_us)) {
		drop_frames(v, "slow");
		v->wait_key = true;
		if (!v->behind_since_us)
			v->behind_since_us = now_us;
	}
	if (v->wait_key && !key) {
		if (v->started)
			count_drop(v, p, v->lag_reason ? v->lag_reason : "slow");
		return true;
	}
	v->wait_key = false;
	if (v->lag_frames)
		tell_lag(v, now_us);
	v->lag_reason = NULL;
	v->started = true;
	v->next_seq = p->meta.seq + 1;
	append(v, p, replayed, now_us);
	return false;
}

bool viewer_push(struct viewer *v, struct packet *p, bool replayed, int64_t now_us) {
	if (p->kind == PACKET_FRAME)
		return push_frame(v, p, replayed, now_us);
	if (v->text_bytes + p->size > v->limits->queue_bytes)
		v->overflow = true;
	else
		append(v, p, replayed, now_us);
	return false;
}

struct packet *viewer_pop(struct viewer *v, bool *replayed) {
	if (!v->count)
		return NULL;
	struct viewer_item item = v->item[v->first];
	v->first = (v->first + 1) % v->capacity;
	v->count--;
	if (item.packet->kind == PACKET_TEXT)
		v->text_bytes -= item.packet->size;
	else if (!item.replayed)
		v->live_bytes -= item.packet->size;
	if (item.packet->kind == PACKET_FRAME)
		v->sent_frames++;
	v->sent_bytes += item.packet->size;
	if (!v->count && !v->wait_key)
		v->behind_since_us = 0;
	*replayed = item.replayed;
	return item.packet;
}

void viewer_hide(struct viewer *v) {
	drop_frames(v, NULL);
	v->hidden = true;
	v->wait_key = true;
	v->started = false;
	v->behind_since_us = 0;
	v->lag_frames = 0;
}

void viewer_show(struct viewer *v) {
	v->hidden = false;
}

bool viewer_is_lost(const struct viewer *v, int64_t now_us) {
	return v->behind_since_us && now_us - v->behind_since_us > v->limits->behind_us;
}
