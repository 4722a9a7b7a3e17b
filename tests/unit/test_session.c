/* SPDX-License-Identifier: Apache-2.0 */
/* The life of sessions on the test engine: what viewers are told, in which order,
 * and what each call changes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "support/world.h"
#include "server/session_impl.h"

enum { CHUNK = 6, FIRST = 3, FRAME_US = 62500 };

static struct world *fresh(const char *options) {
	struct world *w = world_create(options, "");
	world_open(w);
	return w;
}

static enum problem_code act(struct session *s, enum session_action a, const uint64_t *seed) {
	struct problem p = {0};
	session_act(s, a, seed, NULL, &p);
	enum problem_code code = p.code;
	problem_clear(&p);
	return code;
}

static void leave(struct world *w, struct session *s) {
	session_unref(s);
	world_close(w);
}

static void a_film_is_told_in_order(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(
		w, "a red kite", (struct session_request){.has_seed = true, .seed = 42});
	session_watched(s, 1);
	world_run(w, NULL, "chunk.end", 6);
	static const char *const order[] = {"session.state", "chunk.begin", "video.config",
		"prompt.applied", "frame", "frame", "frame", "chunk.end"};
	for (int i = 0, at = 0; i < 8; i++) {
		const struct event *e = world_event(w, NULL, NULL, at++);
		if (strcmp(e->type, "chunk.begin") == 0 && world_number(e, "chunk") == 1)
			e = world_event(
				w, NULL, NULL, at++); /* the next chunk may begin meanwhile */
		assert_string_equal(e->type, order[i]);
	}
	assert_string_equal(
		world_text(world_event(w, NULL, "session.state", 0), "state"), "running");
	const struct event *e = world_event(w, NULL, "prompt.applied", 0);
	assert_string_equal(world_text(e, "id"), "p1");
	assert_int_equal(world_number(e, "revision"), 1);
	assert_int_equal(world_number(e, "seq"), 0);
	e = world_event(w, NULL, "video.config", 0);
	assert_int_equal(world_number(e, "epoch"), 1);
	assert_int_equal(world_number(e, "width"), 64);
	assert_string_equal(world_text(e, "codec"), "vp09.00.10.08.01.01.01.01.00");
	for (int i = 0; i < FIRST + 4 * CHUNK; i++) {
		const struct frame_meta *m = &world_event(w, NULL, "frame", i)->meta;
		int chunk = i < FIRST ? 0 : 1 + (i - FIRST) / CHUNK,
		    in = i < FIRST ? i : (i - FIRST) % CHUNK;
		int frames = chunk == 0 ? FIRST : CHUNK;
		assert_int_equal(m->seq, i);
		assert_int_equal(m->pts_us, (uint64_t)i * FRAME_US);
		assert_int_equal(m->chunk, chunk);
		assert_int_equal(m->frame_in_chunk, in);
		assert_int_equal(m->frames_in_chunk, frames);
		assert_int_equal(m->epoch, 1);
		assert_int_equal(m->revision, 1);
		uint8_t flags = (in == 0 ? FRAME_FIRST_OF_CHUNK : 0) |
				(in == frames - 1 ? FRAME_LAST_OF_CHUNK : 0) |
				(in == 0 && chunk % 4 == 0 ? FRAME_KEY : 0);
		assert_int_equal(m->flags, flags);
	}
	e = world_event(w, NULL, "chunk.end", 1);
	assert_int_equal(world_number(e, "chunk"), 1);
	assert_int_equal(world_number(e, "frames"), CHUNK);
	assert_int_equal(world_number(e, "prompt_revision"), 1);
	const json_t *timings = json_object_get(e->json, "timings"),
		     *sparsity = json_object_get(e->json, "sparsity");
	static const char *const parts[] = {
		"condition_us", "dit_us", "vae_us", "encode_us", "pace_wait_us"};
	for (int i = 0; i < 5; i++)
		assert_true(json_is_integer(json_object_get(timings, parts[i])));
	assert_true(json_integer_value(json_object_get(sparsity, "kept_blocks")) > 0);
	assert_string_equal(json_string_value(json_object_get(sparsity, "policy")), "test");
	int64_t bytes = 0;
	for (int i = FIRST; i < FIRST + CHUNK; i++)
		bytes += (int64_t)world_event(w, NULL, "frame", i)->size;
	assert_int_equal(world_number(e, "bytes"), bytes);
	leave(w, s);
}

static void the_rest_object_tells_all(void **state) {
	(void)state;
	struct world *w = fresh("");
	json_t *labels = json_pack("{s:s}", "show", "foyer");
	struct session *s = world_session(w, "a red kite",
		(struct session_request){
			.has_seed = true, .seed = 42, .labels = labels, .bitrate_kbps = 900});
	json_decref(labels);
	world_run(w, NULL, "chunk.end", 2);
	json_t *j = session_json(s);
	const char *id, *name, *prompt, *stream, *label, *pace, *p1;
	int seed, bitrate, every, width;
	assert_int_equal(
		json_unpack(j, "{s:s,s:s,s:s,s:i,s:{s:s},s:{s:s},s:s,s:{s:i,s:i,s:i},s:[{s:s}]}",
			"id", &id, "state", &name, "prompt", &prompt, "seed", &seed, "links",
			"stream", &stream, "labels", "show", &label, "pace", &pace, "video",
			"bitrate_kbps", &bitrate, "keyframe_every_chunks", &every, "width", &width,
			"prompts", "state", &p1),
		0);
	char want[80];
	snprintf(want, sizeof want, "/v1/sessions/%s/stream", id);
	assert_string_equal(stream, want);
	assert_string_equal(name, "running");
	assert_string_equal(prompt, "a red kite");
	assert_string_equal(label, "foyer");
	assert_string_equal(pace, "realtime");
	assert_string_equal(p1, "applied");
	assert_int_equal(seed, 42);
	assert_int_equal(bitrate, 900);
	assert_int_equal(every, 4);
	assert_int_equal(width, 64);
	json_decref(j);
	leave(w, s);
}

static void a_later_prompt_for_the_same_chunk_wins(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	world_run(w, NULL, "chunk.begin", 3);
	struct prompt_receipt a = world_prompt(s, "at night", TRANSITION_SWITCH);
	struct prompt_receipt b = world_prompt(s, "in snow", TRANSITION_RECACHE);
	assert_string_equal(a.id, "p2");
	assert_string_equal(b.id, "p3");
	assert_int_equal(a.applies_at_chunk, 3);
	assert_int_equal(b.applies_at_chunk, 3);
	world_run(w, NULL, "prompt.applied", 2);
	world_run(w, NULL, "frame", FIRST + 3 * CHUNK);
	const struct event *e = world_event(w, NULL, "prompt.superseded", 0);
	assert_string_equal(world_text(e, "id"), "p2");
	assert_int_equal(world_number(e, "by_revision"), 3);
	e = world_event(w, NULL, "prompt.accepted", 1);
	assert_string_equal(world_text(e, "text"), "in snow");
	assert_int_equal(world_number(e, "applies_at_chunk"), 3);
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(e->json, "transition"), "mode")),
		"recache");
	assert_string_equal(world_text(e, "at"), "next");
	e = world_event(w, NULL, "prompt.applied", 1);
	assert_string_equal(world_text(e, "id"), "p3");
	assert_int_equal(world_number(e, "chunk"), 3);
	assert_int_equal(world_number(e, "seq"), FIRST + 2 * CHUNK);
	/* The message is just ahead of its frame, which is a key. */
	const struct event *f = world_event(w, NULL, "frame", FIRST + 2 * CHUNK);
	assert_int_equal(f->meta.revision, 3);
	assert_true(f->meta.flags & FRAME_KEY);
	assert_true(world_place(w, e) < world_place(w, f));
	assert_true(world_place(w, e) >
		    world_place(w, world_event(w, NULL, "frame", FIRST + 2 * CHUNK - 1)));
	assert_int_equal(f->meta.epoch, 1);
	leave(w, s);
}

static void prompts_can_be_given_for_later(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	world_run(w, NULL, "chunk.begin", 3); /* chunks 0, 1, 2 have begun */
	struct problem p = {0};
	struct prompt_receipt r;
	struct prompt_request q = {
		.text = "later", .at_chunk = true, .chunk = 5, .event_id = "e-1"};
	assert_int_equal(session_prompt(s, &q, &r, &p), 0);
	assert_int_equal(r.applies_at_chunk, 5);
	assert_string_equal(r.event_id, "e-1");
	q.chunk = 2;
	assert_int_equal(session_prompt(s, &q, &r, &p), -1);
	assert_int_equal(p.code, PROBLEM_CHUNK_IN_PAST);
	assert_int_equal(json_integer_value(json_object_get(p.extra, "earliest_chunk")), 3);
	problem_clear(&p);
	/* Chunk 3 begins at picture 15, chunk 6 at 33. */
	q = (struct prompt_request){
		.text = "by time", .at_media_time = true, .media_time_us = 33 * FRAME_US};
	assert_int_equal(session_prompt(s, &q, &r, &p), 0);
	assert_int_equal(r.applies_at_chunk, 6);
	q.media_time_us += 1; /* rounded up to an edge */
	assert_int_equal(session_prompt(s, &q, &r, &p), 0);
	assert_int_equal(r.applies_at_chunk, 7);
	q.media_time_us = 9 * FRAME_US; /* chunk 2 began there */
	assert_int_equal(session_prompt(s, &q, &r, &p), -1);
	assert_int_equal(p.code, PROBLEM_CHUNK_IN_PAST);
	problem_clear(&p);
	world_prompt(s, "before", TRANSITION_SWITCH);
	world_run(w, NULL, "prompt.applied", 5);
	static const char *const ids[] = {"p1", "p5", "p2", "p3", "p4"};
	static const int chunks[] = {0, 3, 5, 6, 7};
	for (int i = 0; i < 5; i++) {
		const struct event *e = world_event(w, NULL, "prompt.applied", i);
		assert_string_equal(world_text(e, "id"), ids[i]);
		assert_int_equal(world_number(e, "chunk"), chunks[i]);
	}
	leave(w, s);
}

static void a_waiting_prompt_is_taken_back(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	world_run(w, NULL, "chunk.begin", 2);
	world_prompt(s, "at night", TRANSITION_SWITCH);
	struct problem p = {0};
	assert_int_equal(session_prompt_cancel(s, "p2", &p), 0);
	static const struct {
		const char *id;
		enum problem_code code;
	} row[] = {{"p2", PROBLEM_NOT_FOUND}, {"p1", PROBLEM_PROMPT_ALREADY_APPLIED},
		{"p1x", PROBLEM_NOT_FOUND}, {"", PROBLEM_NOT_FOUND}};
	for (int i = 0; i < 4; i++) {
		assert_int_equal(session_prompt_cancel(s, row[i].id, &p), -1);
		assert_int_equal(p.code, row[i].code);
		problem_clear(&p);
	}
	world_run(w, NULL, "chunk.end", 5);
	assert_int_equal(world_count(w, NULL, "prompt.cancelled"), 1);
	assert_int_equal(world_count(w, NULL, "prompt.applied"), 1);
	leave(w, s);
}

static void wrong_prompts_are_refused_with_counts(void **state) {
	(void)state;
	struct world *w = fresh("tokens=4");
	w->conf.prompt_bytes_max = 40;
	w->conf.pending_prompts_max = 2;
	struct session *s = world_session(w, "a kite", (struct session_request){0});
	static const struct {
		const char *text;
		enum problem_code code;
		const char *count;
		int value;
	} row[] = {
		{NULL, PROBLEM_MISSING_FIELD, NULL, 0},
		{"", PROBLEM_PROMPT_EMPTY, NULL, 0},
		{" \t\n", PROBLEM_PROMPT_EMPTY, NULL, 0},
		{"\x01", PROBLEM_PROMPT_EMPTY, NULL, 0},
		{"\xff", PROBLEM_INVALID_UTF8, NULL, 0},
		{"one two three four", PROBLEM_PROMPT_TOO_LONG, "tokens", 5},
		{"0123456789012345678901234567890123456789x", PROBLEM_PROMPT_TOO_LONG, "bytes", 41},
	};
	for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
		struct problem p = {0};
		struct prompt_receipt r;
		assert_int_equal(
			session_prompt(s, &(struct prompt_request){.text = row[i].text}, &r, &p),
			-1);
		assert_int_equal(p.code, row[i].code);
		if (row[i].count)
			assert_int_equal(json_integer_value(json_object_get(p.extra, row[i].count)),
				row[i].value);
		problem_clear(&p);
	}
	world_run(w, NULL, "chunk.begin", 1);
	struct problem p = {0};
	struct prompt_receipt r;
	for (int i = 0; i < 3; i++) {
		struct prompt_request q = {.text = "later", .at_chunk = true, .chunk = 100 + i};
		assert_int_equal(session_prompt(s, &q, &r, &p), i < 2 ? 0 : -1);
	}
	assert_int_equal(p.code, PROBLEM_QUEUE_FULL);
	problem_clear(&p);
	leave(w, s);
}

static void pause_step_and_resume(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	session_watched(s, 1);
	world_run(w, NULL, "chunk.begin", 2);
	assert_int_equal(act(s, ACTION_STEP, NULL), PROBLEM_WRONG_STATE);
	assert_int_equal(act(s, ACTION_PAUSE, NULL), PROBLEM_NONE);
	world_pass(w, 60000000);
	assert_int_equal(
		world_count(w, NULL, "chunk.begin"), 2); /* the chunk in hand was finished */
	assert_int_equal(world_count(w, NULL, "frame"), FIRST + CHUNK);
	const struct event *e = world_event(w, NULL, "session.state", -1);
	assert_string_equal(world_text(e, "state"), "paused");
	assert_string_equal(world_text(e, "reason"), "user");
	struct prompt_receipt r = world_prompt(s, "at night", TRANSITION_SWITCH);
	assert_int_equal(r.applies_at_chunk, 2);
	act(s, ACTION_STEP, NULL);
	act(s, ACTION_STEP, NULL);
	world_pass(w, 60000000);
	assert_int_equal(world_count(w, NULL, "chunk.begin"), 4);
	assert_int_equal(world_number(world_event(w, NULL, "prompt.applied", 1), "chunk"), 2);
	act(s, ACTION_RESUME, NULL);
	world_run(w, NULL, "chunk.begin", 8);
	for (int i = 0; i < FIRST + 5 * CHUNK; i++)
		assert_int_equal(world_event(w, NULL, "frame", i)->meta.seq, i);
	leave(w, s);
}

static void a_manual_start_waits(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s =
		world_session(w, "a red kite", (struct session_request){.manual_start = true});
	session_watched(s, 1);
	world_pass(w, 10000000);
	assert_int_equal(world_count(w, NULL, "chunk.begin"), 0);
	assert_string_equal(
		world_text(world_event(w, NULL, "session.state", -1), "reason"), "manual");
	act(s, ACTION_START, NULL);
	world_run(w, NULL, "chunk.end", 2);
	leave(w, s);
}

static void the_unwatched_pause_and_then_end(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	char id[SESSION_ID_BYTES];
	snprintf(id, sizeof id, "%s", session_id(s));
	world_pass(w, 29000000);
	assert_string_equal(
		world_text(world_event(w, NULL, "session.state", -1), "state"), "running");
	world_pass(w, 2000000);
	assert_string_equal(
		world_text(world_event(w, NULL, "session.state", -1), "state"), "paused");
	assert_string_equal(
		world_text(world_event(w, NULL, "session.state", -1), "reason"), "unwatched");
	int made = world_count(w, NULL, "chunk.begin");
	struct prompt_receipt r = world_prompt(s, "at night", TRANSITION_SWITCH); /* is accepted */
	assert_int_equal(r.applies_at_chunk, made);
	world_pass(w, 300000000);
	assert_int_equal(world_count(w, NULL, "chunk.begin"), made);
	session_watched(s, 1); /* somebody comes */
	world_run(w, NULL, "chunk.begin", made + 2);
	assert_string_equal(
		world_text(world_event(w, NULL, "session.state", -1), "state"), "running");
	session_watched(s, 0);
	world_pass(w, 629000000);
	assert_string_equal(
		world_text(world_event(w, NULL, "session.state", -1), "state"), "paused");
	world_pass(w, 2000000);
	world_run(w, NULL, "finish", 1);
	assert_string_equal(
		world_text(world_event(w, NULL, "session.state", -1), "state"), "ended");
	assert_int_equal(world_event(w, NULL, "finish", 0)->close_code, 4410);
	struct problem p = {0};
	assert_null(session_find(w->registry, id, &p));
	assert_int_equal(p.code, PROBLEM_GONE);
	problem_clear(&p);
	assert_null(session_find(w->registry, "s_never", &p));
	assert_int_equal(p.code, PROBLEM_NOT_FOUND);
	problem_clear(&p);
	leave(w, s);
}

static void who_asks_for_it_goes_on_unwatched(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s =
		world_session(w, "a red kite", (struct session_request){.keep_unwatched = true});
	world_pass(w, 40000000);
	assert_string_equal(
		world_text(world_event(w, NULL, "session.state", -1), "state"), "running");
	leave(w, s);
}

static void reset_begins_a_new_film(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(
		w, "a red kite", (struct session_request){.has_seed = true, .seed = 5});
	session_watched(s, 1);
	world_run(w, NULL, "chunk.end", 2);
	struct problem p = {0};
	struct prompt_receipt r;
	struct prompt_request later = {.text = "later", .at_chunk = true, .chunk = 400};
	assert_int_equal(session_prompt(s, &later, &r, &p), 0);
	uint64_t seed = 77;
	int64_t at = -1;
	assert_int_equal(session_act(s, ACTION_RESET, &seed, &at, &p), 0);
	assert_int_equal(at, 0);
	assert_string_equal(
		world_text(world_event(w, NULL, "prompt.superseded", 0), "reason"), "reset");
	assert_int_equal(world_prompt(s, "at night", TRANSITION_SWITCH).applies_at_chunk, 0);
	world_run(w, NULL, "video.config", 2);
	world_run(w, NULL, "chunk.end", 6);
	int frames = world_count(w, NULL, "frame"), at_reset = -1;
	for (int i = 0; i < frames; i++) {
		const struct frame_meta *m = &world_event(w, NULL, "frame", i)->meta;
		assert_int_equal(m->seq, i); /* never restarts */
		if (m->epoch == 2 && at_reset < 0) {
			at_reset = i;
			assert_int_equal(m->chunk, 0);
			assert_int_equal(m->revision, 3);
			assert_int_equal(
				m->flags, FRAME_KEY | FRAME_DISCONTINUITY | FRAME_FIRST_OF_CHUNK);
		}
	}
	assert_true(at_reset > 0);
	json_t *j = session_json(s);
	assert_int_equal(json_integer_value(json_object_get(j, "seed")), 77);
	json_decref(j);
	leave(w, s);
}

static void a_cut_begins_a_scene(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	world_run(w, NULL, "chunk.begin", 2);
	assert_int_equal(world_prompt(s, "at night", TRANSITION_CUT).applies_at_chunk, 2);
	world_run(w, NULL, "chunk.end", 4);
	const struct frame_meta *m = &world_event(w, NULL, "frame", FIRST + CHUNK)->meta;
	assert_int_equal(m->epoch, 2);
	assert_int_equal(m->chunk, 2);
	assert_int_equal(m->frames_in_chunk, FIRST);
	assert_int_equal(m->seq, FIRST + CHUNK);
	assert_int_equal(m->flags, FRAME_KEY | FRAME_DISCONTINUITY | FRAME_FIRST_OF_CHUNK);
	assert_int_equal(world_number(world_event(w, NULL, "video.config", 1), "epoch"), 2);
	leave(w, s);
}

static void one_failure_is_one_sessions(void **state) {
	(void)state;
	struct world *w = fresh("fail_word=boom");
	struct session *a = world_session(w, "a red kite", (struct session_request){0});
	struct session *b = world_session(w, "a boat", (struct session_request){0});
	char ida[SESSION_ID_BYTES], idb[SESSION_ID_BYTES];
	snprintf(ida, sizeof ida, "%s", session_id(a));
	snprintf(idb, sizeof idb, "%s", session_id(b));
	world_run(w, idb, "chunk.end", 2);
	world_prompt(b, "boom", TRANSITION_SWITCH);
	world_run(w, idb, "finish", 1);
	assert_int_equal(world_event(w, idb, "finish", 0)->close_code, 1011);
	const struct event *e = world_event(w, idb, "session.state", -1);
	assert_string_equal(world_text(e, "state"), "failed");
	assert_non_null(strstr(
		json_string_value(json_object_get(json_object_get(e->json, "problem"), "detail")),
		"failed as asked"));
	int made = world_count(w, ida, "chunk.end");
	world_run(w, ida, "chunk.end", made + 3);
	struct problem p = {0};
	assert_null(session_find(w->registry, idb, &p));
	assert_non_null(strstr(p.detail, "failed as asked"));
	problem_clear(&p);
	/* Its place is free again. */
	session_unref(b);
	b = world_session(w, "a boat", (struct session_request){0});
	world_run(w, session_id(b), "chunk.end", 2);
	session_unref(b);
	leave(w, a);
}

static void sessions_take_turns_by_chunk(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session_request max = {.max_pace = true};
	struct session *a = world_session(w, "a red kite", max),
		       *b = world_session(w, "a boat", max);
	struct problem p = {0};
	struct session *none;
	max.prompt = "a third";
	assert_int_equal(session_create(w->registry, &max, &none, &p), -1);
	assert_int_equal(p.code, PROBLEM_SESSION_LIMIT);
	assert_true(p.retry_after_s > 0);
	problem_clear(&p);
	for (int i = 0; i < 500; i++) {
		world_rest(w); /* no encoder holds anybody back */
		assert_int_equal(gpu_turn(w->gpu, w->now_us), 0);
		assert_in_range(a->begun - b->begun + 1, 0, 2);
		assert_false(a->gpu.mid_chunk && b->gpu.mid_chunk); /* a chunk is finished first */
	}
	assert_true(a->begun > 20);
	struct session *list[4];
	assert_int_equal(session_list(w->registry, NULL, 4, list), 2);
	assert_ptr_equal(list[0], b); /* newest first */
	session_unref(list[0]);
	session_unref(list[1]);
	assert_int_equal(session_list(w->registry, session_id(b), 4, list), 1);
	session_unref(list[0]);
	session_unref(b);
	leave(w, a);
}

static void a_short_queue_loses_nothing(void **state) {
	(void)state;
	struct world *w = world_create("", "");
	w->conf.frames_queued_max = 1;
	world_open(w);
	struct session *s =
		world_session(w, "a red kite", (struct session_request){.max_pace = true});
	world_run(w, NULL, "chunk.end", 20);
	for (int i = 0; i < FIRST + 19 * CHUNK; i++)
		assert_int_equal(world_event(w, NULL, "frame", i)->meta.seq, i);
	leave(w, s);
}

static void real_time_is_kept(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	session_watched(s, 1);
	int64_t from = w->now_us;
	world_run(w, NULL, "chunk.begin", 33);
	/* Chunk 32 begins at picture 3 + 31 * 6; the lead is 250 ms. */
	assert_int_equal(w->now_us - from, (FIRST + 31 * CHUNK) * FRAME_US - 250000);
	leave(w, s);
}

static void a_wished_key_comes_with_the_next_chunk(void **state) {
	(void)state;
	struct world *w = fresh("");
	w->conf.keyframe_interval_ms = 0;
	struct session *s = world_session(w, "a red kite",
		(struct session_request){.keyframe_every_chunks = 1000, .manual_start = true});
	session_watched(s, 1);
	act(s, ACTION_STEP, NULL);
	act(s, ACTION_STEP, NULL);
	world_pass(w, 10000000);
	assert_int_equal(act(s, ACTION_KEYFRAME, NULL), PROBLEM_NONE);
	session_request_key(s); /* two wishes, one key */
	act(s, ACTION_STEP, NULL);
	act(s, ACTION_STEP, NULL);
	world_pass(w, 10000000);
	world_run(w, NULL, "chunk.end", 4);
	for (int i = 0; i < FIRST + 3 * CHUNK; i++) {
		bool key = world_event(w, NULL, "frame", i)->meta.flags & FRAME_KEY;
		assert_int_equal(key, i == 0 || i == FIRST + CHUNK);
	}
	leave(w, s);
}

static void a_film_of_given_length_ends(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s =
		world_session(w, "a red kite", (struct session_request){.max_chunks = 3});
	world_run(w, NULL, "finish", 1);
	assert_int_equal(world_count(w, NULL, "chunk.end"), 3);
	assert_int_equal(world_event(w, NULL, "finish", 0)->close_code, 1000);
	assert_string_equal(
		world_text(world_event(w, NULL, "session.state", -1), "reason"), "max_chunks");
	assert_string_equal(world_event(w, NULL, NULL, -1)->type, "finish");
	assert_int_equal(act(s, ACTION_PAUSE, NULL), PROBLEM_WRONG_STATE);
	leave(w, s);
}

static void a_deleted_session_is_gone_at_once(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	world_run(w, NULL, "chunk.begin", 2);
	struct problem p = {0};
	assert_int_equal(session_end(s, &p), 0);
	assert_int_equal(session_end(s, &p), 0);
	assert_null(session_find(w->registry, session_id(s), &p));
	assert_int_equal(p.code, PROBLEM_GONE);
	problem_clear(&p);
	world_run(w, NULL, "finish", 1);
	assert_int_equal(world_event(w, NULL, "finish", 0)->close_code, 1000);
	world_pass(w, 1000000);
	assert_int_equal(world_count(w, NULL, "finish"), 1);
	leave(w, s);
}

static void only_so_many_ended_ids_are_kept(void **state) {
	(void)state;
	struct world *w = world_create("", "");
	w->conf.ended_kept_max = 1;
	world_open(w);
	struct problem p = {0};
	struct session *a = world_session(w, "a", (struct session_request){0});
	struct session *b = world_session(w, "b", (struct session_request){0});
	session_end(a, &p);
	session_end(b, &p);
	assert_null(session_find(w->registry, session_id(a), &p));
	assert_int_equal(p.code, PROBLEM_NOT_FOUND);
	problem_clear(&p);
	assert_null(session_find(w->registry, session_id(b), &p));
	assert_int_equal(p.code, PROBLEM_GONE);
	problem_clear(&p);
	session_unref(b);
	leave(w, a);
}

static void draining_finishes_the_chunk(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	world_run(w, NULL, "chunk.begin", 2);
	registry_drain(w->registry);
	struct problem p = {0};
	struct session *none;
	assert_int_equal(registry_ready(w->registry, &p), 0);
	problem_clear(&p);
	assert_int_equal(
		session_create(w->registry, &(struct session_request){.prompt = "x"}, &none, &p),
		-1);
	assert_int_equal(p.code, PROBLEM_DRAINING);
	problem_clear(&p);
	while (!gpu_drain_turn(w->gpu, w->now_us))
		;
	encoder_stop(w->encoder[0]);
	while (world_count(w, NULL, "finish") == 0)
		registry_wait(w->registry, 1000);
	assert_int_equal(world_count(w, NULL, "chunk.end"), 2);
	assert_int_equal(world_count(w, NULL, "frame"), FIRST + CHUNK);
	assert_string_equal(world_text(world_event(w, NULL, "notice", 0), "code"), "draining");
	assert_int_equal(world_event(w, NULL, "finish", 0)->close_code, 1001);
	leave(w, s);
}

static void wrong_requests_are_refused(void **state) {
	(void)state;
	struct world *w = fresh("");
	json_t *labels = json_pack("{s:i}", "show", 1);
	const struct {
		struct session_request q;
		enum problem_code code;
		const char *field;
	} row[] = {
		{{.prompt = NULL}, PROBLEM_MISSING_FIELD, "prompt"},
		{{.prompt = ""}, PROBLEM_PROMPT_EMPTY, "prompt"},
		{{.prompt = "a", .has_seed = true, .seed = UINT64_C(1) << 53},
			PROBLEM_INVALID_FIELD, "seed"},
		{{.prompt = "a", .max_chunks = -1}, PROBLEM_INVALID_FIELD, "max_chunks"},
		{{.prompt = "a", .bitrate_kbps = 1}, PROBLEM_INVALID_FIELD, "video.bitrate_kbps"},
		{{.prompt = "a", .keyframe_every_chunks = 5000}, PROBLEM_INVALID_FIELD,
			"video.keyframe_every_chunks"},
		{{.prompt = "a", .unwatched_ttl_s = -5}, PROBLEM_INVALID_FIELD,
			"when_unwatched.ttl_s"},
		{{.prompt = "a", .labels = labels}, PROBLEM_INVALID_FIELD, "labels"},
	};
	for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
		struct problem p = {0};
		struct session *none;
		assert_int_equal(session_create(w->registry, &row[i].q, &none, &p), -1);
		assert_int_equal(p.code, row[i].code);
		assert_string_equal(p.field, row[i].field);
		problem_clear(&p);
	}
	json_decref(labels);
	world_close(w);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_film_is_told_in_order),
		cmocka_unit_test(the_rest_object_tells_all),
		cmocka_unit_test(a_later_prompt_for_the_same_chunk_wins),
		cmocka_unit_test(prompts_can_be_given_for_later),
		cmocka_unit_test(a_waiting_prompt_is_taken_back),
		cmocka_unit_test(wrong_prompts_are_refused_with_counts),
		cmocka_unit_test(pause_step_and_resume),
		cmocka_unit_test(a_manual_start_waits),
		cmocka_unit_test(the_unwatched_pause_and_then_end),
		cmocka_unit_test(who_asks_for_it_goes_on_unwatched),
		cmocka_unit_test(reset_begins_a_new_film),
		cmocka_unit_test(a_cut_begins_a_scene),
		cmocka_unit_test(one_failure_is_one_sessions),
		cmocka_unit_test(sessions_take_turns_by_chunk),
		cmocka_unit_test(a_short_queue_loses_nothing),
		cmocka_unit_test(real_time_is_kept),
		cmocka_unit_test(a_wished_key_comes_with_the_next_chunk),
		cmocka_unit_test(a_film_of_given_length_ends),
		cmocka_unit_test(a_deleted_session_is_gone_at_once),
		cmocka_unit_test(only_so_many_ended_ids_are_kept),
		cmocka_unit_test(draining_finishes_the_chunk),
		cmocka_unit_test(wrong_requests_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
