/* SPDX-License-Identifier: Apache-2.0 */
/* The frame header byte by byte, the messages field by field, the problem table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>

#include "server/problem.h"
#include "server/wire.h"

static const struct frame_meta meta = {
	.flags = FRAME_KEY | FRAME_FIRST_OF_CHUNK,
	.epoch = 0x01020304,
	.seq = 0x1112131415161718,
	.pts_us = 0x2122232425262728,
	.chunk = 0x31323334,
	.frame_in_chunk = 0x4142,
	.frames_in_chunk = 0x5152,
	.revision = 0x61626364,
};
static const uint8_t bytes[FRAME_HEADER_BYTES] = {
	0x01, 0x15, 0x00, 0x30, 0x01, 0x02, 0x03, 0x04, /* kind, flags, header bytes, epoch */
	0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, /* seq */
	0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, /* pts */
	0x31, 0x32, 0x33, 0x34, 0x41, 0x42, 0x51, 0x52, /* chunk, frame in it, frames in it */
	0x61, 0x62, 0x63, 0x64, 0x00, 0x01, 0x02, 0x03, /* revision, payload */
	0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, /* sent */
};

static void the_header_is_48_bytes_big_endian(void **state) {
	(void)state;
	uint8_t h[FRAME_HEADER_BYTES];
	wire_frame_header(h, &meta, true, 0x00010203, 0x7172737475767778);
	assert_memory_equal(h, bytes, sizeof h);
	wire_frame_header(h, &meta, false, 0x00010203, 0x7172737475767778);
	assert_int_equal(h[1], FRAME_KEY | FRAME_FIRST_OF_CHUNK);
}

static void a_header_that_lies_is_refused(void **state) {
	(void)state;
	uint8_t h[FRAME_HEADER_BYTES + 8] = {0};
	struct frame_meta m;
	uint32_t payload;
	uint64_t sent;
	wire_frame_header(h, &meta, false, 8, 5);
	assert_true(wire_frame_parse(h, sizeof h, &m, &payload, &sent));
	assert_int_equal(m.seq, meta.seq);
	assert_int_equal(m.frames_in_chunk, meta.frames_in_chunk);
	assert_int_equal(m.revision, meta.revision);
	assert_int_equal(payload, 8);
	assert_int_equal(sent, 5);
	for (size_t n = 0; n < sizeof h; n++)
		assert_false(wire_frame_parse(h, n, &m, &payload, &sent));
	h[3] = 47; /* shorter than any version's */
	assert_false(wire_frame_parse(h, sizeof h, &m, &payload, &sent));
	h[3] = 52; /* a longer header, four bytes of payload */
	h[39] = 4;
	assert_true(wire_frame_parse(h, sizeof h, &m, &payload, &sent));
	h[0] = 2;
	assert_false(wire_frame_parse(h, sizeof h, &m, &payload, &sent));
}

static json_t *parse(struct packet *p) {
	assert_non_null(p);
	assert_int_equal(p->kind, PACKET_TEXT);
	json_t *j = json_loadb((const char *)p->data, p->size, 0, NULL);
	assert_non_null(j);
	packet_unref(p);
	return j;
}

static const char *text(const json_t *j, const char *key) {
	const char *s = json_string_value(json_object_get(j, key));
	return s ? s : "";
}

static void messages_carry_type_session_and_time(void **state) {
	(void)state;
	int64_t before = wire_now_us();
	json_t *j = parse(wire_message("pong", "s_1", json_pack("{s:i}", "id", 7)));
	int64_t ts = json_integer_value(json_object_get(j, "ts_us"));
	assert_string_equal(text(j, "type"), "pong");
	assert_string_equal(text(j, "session"), "s_1");
	assert_true(ts >= before && ts <= wire_now_us());
	assert_int_equal(json_integer_value(json_object_get(j, "id")), 7);
	json_decref(j);
	j = parse(wire_message("bare", NULL, NULL));
	assert_null(json_object_get(j, "session"));
	json_decref(j);
}

static void config_names_what_a_decoder_needs(void **state) {
	(void)state;
	struct packet *p = wire_video_config("s_1", 3, 832, 480, 16, 1, "vp09");
	assert_true(p->sticky);
	json_t *j = parse(p);
	const json_t *color = json_object_get(j, "color");
	assert_int_equal(json_integer_value(json_object_get(j, "epoch")), 3);
	assert_int_equal(json_integer_value(json_object_get(j, "width")), 832);
	assert_int_equal(json_integer_value(json_object_get(j, "fps_num")), 16);
	assert_string_equal(text(color, "primaries"), "bt709");
	assert_string_equal(text(color, "transfer"), "bt709");
	assert_string_equal(text(color, "matrix"), "bt709");
	assert_true(json_is_false(json_object_get(color, "fullRange")));
	json_decref(j);
}

static void the_level_follows_the_size(void **state) {
	(void)state;
	static const struct {
		int width, height, fps;
		const char *codec;
	} row[] = {
		{832, 480, 16, "vp09.00.30.08.01.01.01.01.00"},
		{256, 144, 16, "vp09.00.10.08.01.01.01.01.00"},
		{256, 144, 60, "vp09.00.11.08.01.01.01.01.00"},
		{832, 480, 60, "vp09.00.31.08.01.01.01.01.00"},
		{1920, 1080, 30, "vp09.00.40.08.01.01.01.01.00"},
		{3840, 2160, 60, "vp09.00.51.08.01.01.01.01.00"},
		{16384, 16384, 60, "vp09.00.62.08.01.01.01.01.00"},
	};
	for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
		char codec[WIRE_CODEC_BYTES];
		wire_codec(codec, row[i].width, row[i].height, row[i].fps, 1);
		assert_string_equal(codec, row[i].codec);
	}
}

static void problems_are_spoken_twice(void **state) {
	(void)state;
	struct problem p = {0};
	assert_int_equal(
		problem_set(&p, PROBLEM_CHUNK_IN_PAST, "at.chunk", "Chunk %d began.", 12), -1);
	problem_set(&p, PROBLEM_INTERNAL, NULL, "later"); /* the first one stays */
	p.extra = json_pack("{s:i}", "earliest_chunk", 14);
	json_t *j = problem_json(&p, "/v1/sessions");
	assert_string_equal(text(j, "code"), "chunk_in_past");
	assert_int_equal(json_integer_value(json_object_get(j, "status")), 409);
	assert_string_equal(text(j, "detail"), "Chunk 12 began.");
	assert_string_equal(text(j, "field"), "at.chunk");
	assert_string_equal(text(j, "instance"), "/v1/sessions");
	assert_int_equal(json_integer_value(json_object_get(j, "earliest_chunk")), 14);
	assert_true(json_is_true(json_object_get(j, "retryable")));
	json_decref(j);
	j = parse(wire_error("s_1", &p, "c-1"));
	assert_string_equal(text(j, "type"), "error");
	assert_string_equal(text(j, "message"), "Chunk 12 began.");
	assert_string_equal(text(j, "event_id"), "c-1");
	json_decref(j);
	problem_clear(&p);
	for (int i = 0; i < PROBLEM_COUNT; i++) {
		assert_non_null(problem_name(i)); /* no row was forgotten */
		assert_in_range(problem_status(i), 200, 599);
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_header_is_48_bytes_big_endian),
		cmocka_unit_test(a_header_that_lies_is_refused),
		cmocka_unit_test(messages_carry_type_session_and_time),
		cmocka_unit_test(config_names_what_a_decoder_needs),
		cmocka_unit_test(the_level_follows_the_size),
		cmocka_unit_test(problems_are_spoken_twice),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
