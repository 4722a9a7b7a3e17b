/* SPDX-License-Identifier: Apache-2.0 */
/* The policy for viewers as a model: random arrivals, random reading, random
 * hiding; what a viewer is sent must always be decodable, in order and bounded.
 * And where late joiners and returning viewers begin. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "server/channel.h"
#include "server/viewer.h"
#include "server/wire.h"

static uint32_t draw(uint32_t *x) {
	*x = *x * 1664525 + 1013904223;
	return *x >> 8;
}

static struct packet *make_frame(uint64_t seq, bool key, size_t size, int64_t now_us) {
	struct packet *p = packet_create(PACKET_FRAME, size);
	assert_non_null(p);
	p->meta = (struct frame_meta){.seq = seq, .flags = key ? FRAME_KEY : 0};
	p->made_us = now_us;
	return p;
}

static struct packet *make_text(const char *text, bool sticky, int64_t now_us) {
	struct packet *p = packet_text(text);
	assert_non_null(p);
	p->sticky = sticky;
	p->made_us = now_us;
	return p;
}

/* The other side of a viewer: fails on what a decoder would fail on. */
struct decoder {
	bool started;
	uint64_t last_seq;
	uint64_t told_seq; /* last one decoded or said to be dropped */
	uint64_t frames, lag_told; /* frames that viewer.lag said were dropped */
};

static void decode(struct decoder *d, const struct packet *p, bool hidden_since) {
	if (p->kind == PACKET_TEXT) {
		json_t *j = json_loadb((const char *)p->data, p->size, 0, NULL);
		assert_non_null(j);
		if (!strcmp(json_string_value(json_object_get(j, "type")), "viewer.lag")) {
			json_int_t n = json_integer_value(json_object_get(j, "dropped_frames"));
			json_int_t from = json_integer_value(json_object_get(j, "from_seq"));
			json_int_t to = json_integer_value(json_object_get(j, "to_seq"));
			assert_true(n > 0 && n == to - from + 1);
			if (d->started && !hidden_since)
				assert_int_equal(from, d->told_seq + 1);
			d->told_seq = (uint64_t)to;
			d->lag_told += (uint64_t)n;
		}
		json_decref(j);
		return;
	}
	bool key = p->meta.flags & FRAME_KEY;
	assert_true(!d->started || p->meta.seq > d->last_seq);
	assert_true(key || (d->started && p->meta.seq == d->last_seq + 1));
	if (d->started && !hidden_since) /* every loss was told before */
		assert_int_equal(p->meta.seq, d->told_seq + 1);
	d->started = true;
	d->last_seq = d->told_seq = p->meta.seq;
	d->frames++;
}

static void viewers_are_never_sent_what_they_cannot_decode(void **state) {
	(void)state;
	const struct viewer_limits limits = {
		.queue_bytes = 20000, .queue_us = 2000000, .behind_us = 10000000};
	uint64_t drops = 0, sent = 0;
	for (uint32_t run = 0; run < 200; run++) {
		uint32_t x = run;
		struct viewer v;
		struct decoder d = {0};
		bool wants_key = false, hidden_since = false;
		int64_t now_us = 1;
		viewer_init(&v, &limits, "s");
		for (uint64_t seq = 0; seq < 600; seq++) {
			now_us += 62500;
			if (draw(&x) % 200 == 0)
				continue; /* lost on its way here: a gap */
			bool key = seq == 0 || (wants_key ? draw(&x) % 4 == 0 : draw(&x) % 48 == 0);
			struct packet *p = make_frame(seq, key, 100 + draw(&x) % 2000, now_us);
			wants_key = viewer_push(&v, p, false, now_us);
			packet_unref(p);
			assert_true(v.live_bytes <= limits.queue_bytes);
			if (draw(&x) % 20 == 0) {
				p = make_text("{\"type\":\"notice\"}", false, now_us);
				viewer_push(&v, p, false, now_us);
				packet_unref(p);
			}
			if (draw(&x) % 150 == 0) {
				viewer_hide(&v);
				hidden_since = true;
			} else if (v.hidden && draw(&x) % 10 == 0) {
				viewer_show(&v);
			}
			/* A reader slower or faster than the frames, by run. */
			for (uint32_t reads = draw(&x) % (2 + run % 3); reads-- > 0;) {
				bool replayed;
				struct packet *out = viewer_pop(&v, &replayed);
				if (!out)
					break;
				decode(&d, out, hidden_since);
				packet_unref(out);
			}
		}
		drops += v.dropped_frames;
		sent += d.frames;
		if (!hidden_since)
			assert_in_range(v.dropped_frames, d.lag_told, d.lag_told + 600);
		viewer_finish(&v);
	}
	assert_true(drops > 1000 && sent > 10000); /* the model did meet both */
}

static void a_fast_viewer_loses_nothing(void **state) {
	(void)state;
	const struct viewer_limits limits = {
		.queue_bytes = 1000000, .queue_us = 2000000, .behind_us = 10000000};
	struct viewer v;
	struct decoder d = {0};
	viewer_init(&v, &limits, "s");
	uint64_t seq = 0;
	/* Everything stalls for 30 s between bursts of 36 frames: nobody is slow. */
	for (int64_t now_us = 1; seq < 3600; now_us += 30000000) {
		for (int i = 0; i < 36; i++, seq++) {
			struct packet *p = make_frame(seq, seq % 48 == 0, 5000, now_us);
			assert_false(viewer_push(&v, p, false, now_us));
			packet_unref(p);
		}
		bool replayed;
		for (struct packet *out; (out = viewer_pop(&v, &replayed)); packet_unref(out))
			decode(&d, out, false);
	}
	assert_int_equal(d.frames, 3600);
	assert_int_equal(v.dropped_frames, 0);
	assert_false(viewer_is_lost(&v, 1));
	viewer_finish(&v);
}

static void a_viewer_that_never_reads_is_given_up(void **state) {
	(void)state;
	const struct viewer_limits limits = {
		.queue_bytes = 10000, .queue_us = 2000000, .behind_us = 10000000};
	struct viewer v;
	viewer_init(&v, &limits, "s");
	int64_t now_us = 1, lost_us = 0, first_drop_us = 0;
	for (uint64_t seq = 0; seq < 400 && !lost_us; seq++) {
		struct packet *p = make_frame(seq, seq % 48 == 0, 1500, now_us);
		viewer_push(&v, p, false, now_us);
		packet_unref(p);
		if (v.dropped_frames && !first_drop_us)
			first_drop_us = now_us;
		if (viewer_is_lost(&v, now_us))
			lost_us = now_us;
		now_us += 62500;
	}
	assert_true(first_drop_us > 0);
	assert_in_range(lost_us - first_drop_us, 10000001, 10000000 + 62500);
	viewer_finish(&v);
}

static void texts_are_bounded_too(void **state) {
	(void)state;
	const struct viewer_limits limits = {
		.queue_bytes = 1000, .queue_us = 2000000, .behind_us = 10000000};
	struct viewer v;
	viewer_init(&v, &limits, "s");
	struct packet *p = make_text("{\"type\":\"notice\",\"text\":\"0123456789\"}", false, 1);
	for (int i = 0; i < 1000 && !v.overflow; i++)
		viewer_push(&v, p, false, 1);
	assert_true(v.overflow);
	assert_true(v.text_bytes <= 1000);
	packet_unref(p);
	viewer_finish(&v);
}

static void append(struct channel *c, struct packet *p) {
	assert_true(channel_append(c, p));
	packet_unref(p);
}

static void fill(struct channel *c, uint64_t first, uint64_t count, uint64_t key_every) {
	for (uint64_t seq = first; seq < first + count; seq++)
		append(c, make_frame(seq, seq % key_every == 0, 1000, (int64_t)seq * 62500));
}

static void newcomers_begin_at_the_last_key(void **state) {
	(void)state;
	struct channel c;
	uint64_t begin;
	bool resumed;
	channel_init(&c, 1 << 20, 10000000);
	assert_false(channel_begin(&c, NULL, &begin, &resumed));
	append(&c, make_text("{\"epoch\":1}", true, 0));
	fill(&c, 0, 60, 48);
	assert_true(channel_begin(&c, NULL, &begin, &resumed));
	assert_false(resumed);
	assert_int_equal(channel_at(&c, begin)->meta.seq, 48);
	assert_true(channel_at(&c, begin)->meta.flags & FRAME_KEY);
	assert_memory_equal(channel_config(&c, begin)->data, "{\"epoch\":1}", 11);
	/* A new scene: its configuration stands before its key. */
	append(&c, make_text("{\"epoch\":2}", true, 60 * 62500));
	append(&c, make_frame(60, true, 1000, 60 * 62500));
	assert_true(channel_begin(&c, NULL, &begin, &resumed));
	assert_int_equal(channel_at(&c, begin)->meta.seq, 60);
	assert_memory_equal(channel_config(&c, begin)->data, "{\"epoch\":2}", 11);
	channel_finish(&c);
}

static void those_who_return_miss_nothing(void **state) {
	(void)state;
	struct channel c;
	channel_init(&c, 1 << 20, 10000000);
	fill(&c, 0, 400, 48);
	/* 10 s are kept: 160 frames of 16 a second, and the newest. */
	for (uint64_t since = 0; since < 402; since++) {
		uint64_t begin;
		bool resumed;
		bool kept = channel_begin(&c, &since, &begin, &resumed);
		assert_true(kept);
		assert_int_equal(resumed, since >= 239 && since <= 399);
		const struct packet *p = channel_at(&c, begin);
		if (resumed && since < 399)
			assert_int_equal(p->meta.seq, since + 1);
		else if (resumed)
			assert_null(p); /* up to date: live from here */
		else
			assert_int_equal(p->meta.seq, 384);
	}
	channel_finish(&c);
}

static void memory_is_bounded(void **state) {
	(void)state;
	struct channel c;
	channel_init(&c, 50000, 10000000);
	append(&c, make_text("{\"epoch\":1}", true, 0));
	append(&c, make_frame(0, true, 1000, 0));
	for (uint64_t seq = 1; seq < 2000; seq++) {
		append(&c, make_frame(seq, false, 1000, (int64_t)seq));
		assert_true(c.bytes <= 50000);
	}
	/* The key went; nobody can join before the next, but who is here can resume. */
	uint64_t begin, since = 1990;
	bool resumed;
	assert_false(channel_begin(&c, NULL, &begin, &resumed));
	assert_true(channel_begin(&c, &since, &begin, &resumed) && resumed);
	assert_memory_equal(channel_config(&c, begin)->data, "{\"epoch\":1}", 11);
	channel_finish(&c);
}

static void a_pause_forgets_no_picture(void **state) {
	(void)state;
	struct channel c;
	channel_init(&c, 1 << 20, 10000000);
	fill(&c, 0, 50, 48);
	append(&c, make_text("{\"type\":\"session.state\"}", false, 3600000000));
	uint64_t begin;
	bool resumed;
	assert_true(channel_begin(&c, NULL, &begin, &resumed));
	assert_int_equal(channel_at(&c, begin)->meta.seq, 48);
	channel_finish(&c);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(viewers_are_never_sent_what_they_cannot_decode),
		cmocka_unit_test(a_fast_viewer_loses_nothing),
		cmocka_unit_test(a_viewer_that_never_reads_is_given_up),
		cmocka_unit_test(texts_are_bounded_too),
		cmocka_unit_test(newcomers_begin_at_the_last_key),
		cmocka_unit_test(those_who_return_miss_nothing),
		cmocka_unit_test(memory_is_bounded),
		cmocka_unit_test(a_pause_forgets_no_picture),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
