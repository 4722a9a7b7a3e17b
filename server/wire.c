/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes on the socket. Thread: any; nothing is kept. */
#include "server/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { KIND_VIDEO = 1 };

int64_t wire_now_us(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static uint8_t *put(uint8_t *h, uint64_t value, int bytes) {
	for (int i = bytes - 1; i >= 0; i--)
		*h++ = (uint8_t)(value >> 8 * i);
	return h;
}

static uint64_t get(const uint8_t **h, int bytes) {
	uint64_t value = 0;
	for (int i = 0; i < bytes; i++)
		value = value << 8 | *(*h)++;
	return value;
}

void wire_frame_header(uint8_t *h, const struct frame_meta *m, bool replayed, uint32_t payload,
	uint64_t sent_ts_us) {
	h = put(h, KIND_VIDEO, 1);
	h = put(h, m->flags | (replayed ? FRAME_REPLAYED : 0u), 1);
	h = put(h, FRAME_HEADER_BYTES, 2);
	h = put(h, m->epoch, 4);
	h = put(h, m->seq, 8);
	h = put(h, m->pts_us, 8);
	h = put(h, m->chunk, 4);
	h = put(h, m->frame_in_chunk, 2);
	h = put(h, m->frames_in_chunk, 2);
	h = put(h, m->revision, 4);
	h = put(h, payload, 4);
	put(h, sent_ts_us, 8);
}

bool wire_frame_parse(const uint8_t *h, size_t size, struct frame_meta *m, uint32_t *payload,
	uint64_t *sent_ts_us) {
	if (size < FRAME_HEADER_BYTES || h[0] != KIND_VIDEO)
		return false;
	h++;
	m->flags = (uint8_t)get(&h, 1);
	size_t header = (size_t)get(&h, 2);
	m->epoch = (uint32_t)get(&h, 4);
	m->seq = get(&h, 8);
	m->pts_us = get(&h, 8);
	m->chunk = (uint32_t)get(&h, 4);
	m->frame_in_chunk = (uint16_t)get(&h, 2);
	m->frames_in_chunk = (uint16_t)get(&h, 2);
	m->revision = (uint32_t)get(&h, 4);
	*payload = (uint32_t)get(&h, 4);
	*sent_ts_us = get(&h, 8);
	return header >= FRAME_HEADER_BYTES && header <= size && *payload == size - header;
}

struct packet *wire_message(const char *type, const char *session_id, json_t *fields) {
	json_t *j = json_pack("{s:s, s:s*, s:I}", "type", type, "session", session_id, "ts_us",
		(json_int_t)wire_now_us());
	if (j && fields)
		json_object_update_missing(j, fields);
	json_decref(fields);
	char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
	json_decref(j);
	struct packet *p = text ? packet_text(text) : NULL;
	free(text);
	if (p)
		p->made_us = wire_now_us();
	return p;
}

/* VP9 levels: the least one whose picture size and sample rate suffice (VP9
 * bitstream specification, annex A). */
static int vp9_level(int64_t picture, int64_t rate) {
	static const struct {
		int level;
		int64_t rate, picture;
	} levels[] = {
		{10, 829440, 36864},
		{11, 2764800, 73728},
		{20, 4608000, 122880},
		{21, 9216000, 245760},
		{30, 20736000, 552960},
		{31, 36864000, 983040},
		{40, 83558400, 2228224},
		{41, 160432128, 2228224},
		{50, 311951360, 8912896},
		{51, 588251136, 8912896},
		{52, 1176502272, 8912896},
		{60, 1176502272, 35651584},
		{61, 2353004544, 35651584},
		{62, INT64_MAX, INT64_MAX},
	};
	int i = 0;
	while (levels[i].picture < picture || levels[i].rate < rate)
		i++;
	return levels[i].level;
}

void wire_codec(char out[WIRE_CODEC_BYTES], int width, int height, int fps_num, int fps_den) {
	int64_t picture = (int64_t)width * height;
	/* Profile 0, 8 bit, 4:2:0 collocated, BT.709 thrice, limited range. */
	snprintf(out, WIRE_CODEC_BYTES, "vp09.00.%02d.08.01.01.01.01.00",
		vp9_level(picture, picture * fps_num / fps_den));
}

struct packet *wire_video_config(const char *id, uint32_t epoch, int width, int height, int fps_num,
	int fps_den, const char *codec) {
	struct packet *p = wire_message("video.config", id,
		json_pack("{s:I, s:s, s:i, s:i, s:i, s:i, s:{s:s, s:s, s:s, s:b}}", "epoch",
			(json_int_t)epoch, "codec", codec, "width", width, "height", height,
			"fps_num", fps_num, "fps_den", fps_den, "color", "primaries", "bt709",
			"transfer", "bt709", "matrix", "bt709", "fullRange", 0));
	if (p)
		p->sticky = true;
	return p;
}

struct packet *wire_error(const char *id, const struct problem *p, const char *event_id) {
	json_t *j = json_pack("{s:s, s:s, s:b, s:s*}", "code", problem_name(p->code), "message",
		p->detail, "retryable", problem_retryable(p->code), "event_id", event_id);
	if (j && p->field[0])
		json_object_set_new(j, "field", json_string(p->field));
	if (j && p->extra)
		json_object_update_missing(j, p->extra);
	return wire_message("error", id, j);
}

struct packet *wire_notice(const char *id, const char *code, const char *text) {
	return wire_message("notice", id, json_pack("{s:s, s:s}", "code", code, "text", text));
}
