/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes on the socket: the 48-byte big-endian frame header and every JSON
 * message the server speaks, one function each, so that names and fields stand
 * in one place. All return a packet with one reference (NULL: no memory).
 * ts_us is stamped here (CLOCK_MONOTONIC). Thread: any. Protocol: docs/PROTOCOL.md. */
#ifndef SERVER_WIRE_H
#define SERVER_WIRE_H
#include <jansson.h>
#include "server/packet.h"
#include "server/problem.h"
#include "server/session.h"
int64_t wire_now_us(void); /* CLOCK_MONOTONIC, microseconds */
/* Writes FRAME_HEADER_BYTES into h. */
void wire_frame_header(uint8_t *h, const struct frame_meta *m, bool replayed, uint32_t payload,
	uint64_t sent_ts_us);
/* False when h is too short or inconsistent (for tests and tools). */
bool wire_frame_parse(const uint8_t *h, size_t size, struct frame_meta *m, uint32_t *payload,
	uint64_t *sent_ts_us);
/* A message {"type", "session", "ts_us", ...fields}; takes `fields` (may be NULL). */
struct packet *wire_message(const char *type, const char *session_id, json_t *fields);
#define WIRE_SUBPROTOCOL "lightforced.v1" /* of the WebSocket, named wherever the protocol is */
#define WIRE_CODEC_BYTES 40
/* "vp09.00.30.08.01.01.01.01.00", the level from picture size and rate. */
void wire_codec(char out[WIRE_CODEC_BYTES], int width, int height, int fps_num, int fps_den);
struct packet *wire_video_config(const char *id, uint32_t epoch, int width, int height, int fps_num,
	int fps_den, const char *codec);
struct packet *wire_error(const char *id, const struct problem *p, const char *event_id);
struct packet *wire_notice(const char *id, const char *code, const char *text);
#endif
