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

/* Takes the frames out of the queue, keeps the texts in order. */
static void drop_frames(struct viewer *v, bool counted) {
	int kept = 0;
	for (int i = 0; i < v->count; i++) {
		struct viewer_item item = v->item[(v->first + i) % v->capacity];
		if (item.packet->kind == PACKET_TEXT) {
			v->item[(v->first + kept++) % v->capacity] = item;
			continue;
		}
		v->dropped_frames += counted;
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

static bool push_frame(struct viewer *v, struct packet *p, bool replayed, int64_t now_us) {
	bool key = p->meta.flags & FRAME_KEY;
	if (v->hidden)
		return false;
	if (v->started && p->meta.seq > v->next_seq) {
		/* Lost before it came here: the server's inbox was full. */
		v->dropped_frames += p->meta.seq - v->next_seq;
		v->lag_reason = v->wait_key ? v->lag_reason : "server_busy";
		v->wait_key = true;
	}
	v->next_seq = p->meta.seq + 1;
	if ((key || !v->wait_key) && !replayed &&
		(v->live_bytes + p->size > v->limits->queue_bytes ||
			now_us - oldest_us(v, now_us) > v->limits->queue_us)) {
		drop_frames(v, true);
		v->wait_key = true;
		if (!v->behind_since_us)
			v->behind_since_us = now_us;
	}
	if (v->wait_key && !key) {
		v->dropped_frames += v->started;
		return true;
	}
	v->wait_key = false;
	v->started = true;
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

/* viewer.lag for the frames missing before seq. */
static struct packet *make_lag(struct viewer *v, uint64_t seq) {
	uint64_t from = v->sent_seq + 1;
	struct packet *lag = wire_message("viewer.lag", v->session_id,
		json_pack("{s:I, s:I, s:I, s:s}", "dropped_frames", (json_int_t)(seq - from),
			"from_seq", (json_int_t)from, "to_seq", (json_int_t)seq - 1, "reason",
			v->lag_reason ? v->lag_reason : "slow"));
	v->sent_seq = seq - 1;
	v->lag_reason = NULL;
	return lag;
}

struct packet *viewer_pop(struct viewer *v, bool *replayed) {
	*replayed = false;
	if (!v->count)
		return NULL;
	struct viewer_item item = v->item[v->first];
	if (item.packet->kind == PACKET_FRAME) {
		uint64_t seq = item.packet->meta.seq;
		struct packet *lag =
			v->sent_known && seq > v->sent_seq + 1 ? make_lag(v, seq) : NULL;
		if (lag)
			return lag;
		v->sent_known = true;
		v->sent_seq = seq;
	}
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

void viewer_resume(struct viewer *v, uint64_t seq) {
	v->wait_key = false;
	v->started = v->sent_known = true;
	v->next_seq = seq + 1;
	v->sent_seq = seq;
}

void viewer_hide(struct viewer *v) {
	drop_frames(v, false);
	v->hidden = true;
	v->wait_key = true;
	v->started = v->sent_known = false;
	v->behind_since_us = 0;
}

void viewer_show(struct viewer *v) {
	v->hidden = false;
}

bool viewer_is_lost(const struct viewer *v, int64_t now_us) {
	return v->behind_since_us && now_us - v->behind_since_us > v->limits->behind_us;
}
