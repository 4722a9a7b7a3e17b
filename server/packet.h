/* SPDX-License-Identifier: Apache-2.0 */
/* One WebSocket message, immutable once published and shared by every viewer:
 * a VP9 frame or a JSON text. Room for the socket library's and our own frame
 * header lies before data, so no viewer copies it: the ws thread, which alone
 * writes, fills the 48 bytes anew before each write. Thread: any (atomic
 * reference count). */
#ifndef SERVER_PACKET_H
#define SERVER_PACKET_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#define FRAME_HEADER_BYTES 48
#define PACKET_HEADROOM 128 /* >= FRAME_HEADER_BYTES + LWS_PRE, asserted in ws.c */
enum packet_kind { PACKET_TEXT, PACKET_FRAME };
enum frame_flag {
	FRAME_KEY = 1,
	FRAME_DISCONTINUITY = 2,
	FRAME_FIRST_OF_CHUNK = 4,
	FRAME_LAST_OF_CHUNK = 8,
	FRAME_REPLAYED = 16
};
/* Fields of the frame header but the two that differ per viewer. */
struct frame_meta {
	uint8_t flags;
	uint32_t epoch;
	uint64_t seq;      /* +1 per frame of the session, never restarts */
	uint64_t pts_us;   /* media time, never restarts */
	uint32_t chunk;
	uint16_t frame_in_chunk, frames_in_chunk;
	uint32_t revision;
};
struct packet {
	enum packet_kind kind;
	struct frame_meta meta; /* PACKET_FRAME */
	int64_t made_us;        /* CLOCK_MONOTONIC when published */
	/* Text that newcomers must see too (video.config): replayed on join. */
	bool sticky;
	size_t size;
	uint8_t *data;          /* PACKET_HEADROOM writable bytes lie before it */
};
struct packet *packet_create(enum packet_kind kind, size_t size); /* one reference; NULL: no memory */
struct packet *packet_text(const char *json);
struct packet *packet_ref(struct packet *p);
void packet_unref(struct packet *p); /* NULL is fine */
#endif
