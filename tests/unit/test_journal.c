/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions come back: after a crash, after an orderly end, beside torn files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/journal.h"
#include "server/session_impl.h"
#include "support/world.h"

enum { CHUNK = 6, FIRST = 3 };

static char folder[64];

static int make_folder(void **state) {
	(void)state;
	snprintf(folder, sizeof folder, "/tmp/lightforced-state-XXXXXX");
	return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
	(void)state;
	char command[128];
	snprintf(command, sizeof command, "rm -rf %s", folder);
	return system(command); /* a test may */
}

static struct world *fresh(const char *options) {
	struct world *w = world_create(options, folder);
	world_open(w);
	return w;
}

static bool exists(const char *id, const char *ending) {
	char path[160];
	snprintf(path, sizeof path, "%s/sessions/%s%s", folder, id, ending);
	return access(path, R_OK) == 0;
}

static void put(const char *id, const char *text) {
	char path[160];
	snprintf(path, sizeof path, "%s/sessions/%s.json", folder, id);
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
	assert_int_equal(fclose(f), 0);
}

static void a_crash_costs_a_scene_at_most(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(w, "a red kite",
		(struct session_request){.has_seed = true, .seed = 42, .bitrate_kbps = 900});
	char id[SESSION_ID_BYTES];
	snprintf(id, sizeof id, "%s", session_id(s));
	assert_true(exists(id, ".json")); /* before the answer */
	world_run(w, NULL, "chunk.begin", 3);
	world_journal(w);
	struct prompt_request q = {.text = "at night", .durable = true};
	struct prompt_receipt r;
	struct problem p = {0};
	assert_int_equal(session_prompt(s, &q, &r, &p), 0);
	world_run(w, NULL, "chunk.end", 5);
	q = (struct prompt_request){
		.text = "much later", .at_chunk = true, .chunk = 100, .durable = true};
	assert_int_equal(session_prompt(s, &q, &r, &p), 0);
	world_run(w, NULL, "chunk.end", 7); /* and nothing more is written */
	const struct frame_meta last = world_event(w, NULL, "frame", -1)->meta;
	session_unref(s);
	world_close(w); /* kill -9 */

	w = fresh("");
	s = session_find(w->registry, id, &p);
	assert_non_null(s);
	session_watched(s, 1);
	world_run(w, NULL, "chunk.end", 2);
	const struct frame_meta *m = &world_event(w, NULL, "frame", 0)->meta;
	assert_int_equal(m->epoch, last.epoch + 1);
	assert_int_equal(m->flags, FRAME_KEY | FRAME_DISCONTINUITY | FRAME_FIRST_OF_CHUNK);
	assert_int_equal(m->revision, 2);
	assert_true(m->seq > last.seq);
	assert_in_range(m->chunk, last.chunk + 1, last.chunk + (uint32_t)w->conf.journal_chunks);
	assert_int_equal(m->pts_us, m->seq * 62500);
	json_t *j = session_json(s);
	const char *prompt;
	int seed, bitrate;
	assert_int_equal(json_unpack(j, "{s:s,s:i,s:{s:i}}", "prompt", &prompt, "seed", &seed,
				 "video", "bitrate_kbps", &bitrate),
		0);
	assert_string_equal(prompt, "at night");
	assert_int_equal(seed, 42);
	assert_int_equal(bitrate, 900);
	json_decref(j);
	/* What waits for a later chunk still does; new prompts get new names. */
	assert_string_equal(world_prompt(s, "in snow", TRANSITION_SWITCH).id, "p4");
	world_run(w, NULL, "prompt.applied", 1);
	j = session_prompts_json(s);
	assert_int_equal(json_array_size(j), 4);
	assert_string_equal(
		json_string_value(json_object_get(json_array_get(j, 2), "state")), "scheduled");
	json_decref(j);
	session_unref(s);
	world_close(w);
}

/* With a disk that hangs the film stops at the numbers set aside: none can be
 * given twice. */
static void no_number_is_given_twice(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s =
		world_session(w, "a red kite", (struct session_request){.max_pace = true});
	session_watched(s, 1);
	w->journal_hangs = true;
	world_pass(w, 10000000);
	int most = w->conf.journal_chunks;
	assert_in_range(world_count(w, NULL, "chunk.begin"), most - 1, most + 1);
	assert_true(s->next_index <= s->saved.index);
	w->journal_hangs = false;
	world_run(w, NULL, "chunk.end", 3 * most);
	/* A cut waits for its own line in the journal. */
	w->journal_hangs = true;
	int64_t begun = world_prompt(s, "at night", TRANSITION_CUT).applies_at_chunk;
	world_pass(w, 10000000);
	assert_int_equal(world_count(w, NULL, "chunk.begin"), begun);
	w->journal_hangs = false;
	world_run(w, NULL, "prompt.applied", 2);
	session_unref(s);
	world_close(w);
}

/* Accepted, answered, then the crash before its chunk: it must take hold. */
static void an_accepted_prompt_is_not_lost(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	char id[SESSION_ID_BYTES];
	snprintf(id, sizeof id, "%s", session_id(s));
	world_run(w, NULL, "chunk.end", 2);
	struct prompt_request q = {
		.text = "at night", .transition = TRANSITION_CUT, .durable = true};
	struct prompt_receipt r;
	struct problem p = {0};
	assert_int_equal(session_prompt(s, &q, &r, &p), 0);
	session_unref(s);
	world_close(w);
	w = fresh("");
	s = session_find(w->registry, id, &p);
	json_t *j = session_json(s);
	assert_string_equal(json_string_value(json_object_get(j, "prompt")), "at night");
	json_decref(j);
	session_unref(s);
	world_run(w, id, "frame", 1);
	assert_string_equal(
		world_text(world_event(w, id, "prompt.applied", 0), "text"), "at night");
	assert_int_equal(world_event(w, id, "frame", 0)->meta.revision, 2);
	world_close(w);
}

static void an_orderly_end_loses_no_number(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	char id[SESSION_ID_BYTES];
	snprintf(id, sizeof id, "%s", session_id(s));
	world_run(w, NULL, "chunk.begin", 5);
	registry_drain(w->registry);
	while (!gpu_drain_turn(w->gpu, w->now_us))
		;
	while (world_count(w, NULL, "finish") == 0)
		registry_wait(w->registry, 1000);
	registry_journal_flush(w->registry);
	const struct frame_meta last = world_event(w, NULL, "frame", -1)->meta;
	session_unref(s);
	world_close(w);
	w = fresh("");
	world_run(w, id, "frame", 1);
	const struct frame_meta *m = &world_event(w, id, "frame", 0)->meta;
	assert_int_equal(m->seq, last.seq + 1);
	assert_int_equal(m->chunk, last.chunk + 1);
	world_close(w);
}

static void what_ended_does_not_come_back(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	char id[SESSION_ID_BYTES];
	snprintf(id, sizeof id, "%s", session_id(s));
	world_run(w, NULL, "chunk.end", 1);
	struct problem p = {0};
	session_end(s, &p);
	assert_false(exists(id, ".json"));
	world_journal(w); /* a write that was under way must not bring it back */
	assert_false(exists(id, ".json"));
	session_unref(s);
	world_close(w);
}

static void a_pause_survives(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	char id[SESSION_ID_BYTES];
	snprintf(id, sizeof id, "%s", session_id(s));
	struct problem p = {0};
	session_act(s, ACTION_PAUSE, NULL, NULL, &p);
	world_journal(w);
	session_unref(s);
	world_close(w);
	w = fresh("");
	world_pass(w, 1000000);
	assert_int_equal(world_count(w, id, "frame"), 0);
	assert_string_equal(world_text(world_event(w, id, "session.state", -1), "reason"), "user");
	world_close(w);
}

/* Every beginning of a journal is a torn one. */
static void torn_files_are_moved_aside(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	struct session *good = world_session(w, "a boat", (struct session_request){0});
	char id[SESSION_ID_BYTES], id_good[SESSION_ID_BYTES];
	snprintf(id, sizeof id, "%s", session_id(s));
	snprintf(id_good, sizeof id_good, "%s", session_id(good));
	json_t *j = session_json_journal(s, false, NULL);
	char *text = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	session_unref(s);
	session_unref(good);
	world_close(w);
	size_t size = strlen(text);
	for (size_t n = 0; n < size; n += 1 + n / 16) {
		char *torn = strndup(text, n);
		put(id, torn);
		free(torn);
		w = world_create("", folder);
		w->outlet = (struct outlet){0};
		struct error e = {0};
		w->registry = registry_create(&w->conf, &w->outlet, NULL, NULL, &e);
		assert_non_null(w->registry);
		assert_int_equal(registry_restore(w->registry), 1); /* the good one */
		assert_true(exists(id, ".json.bad"));
		assert_false(exists(id, ".json"));
		assert_true(exists(id_good, ".json"));
		registry_destroy(w->registry);
		conf_free(&w->conf);
		free(w);
	}
	free(text);
}

/* A pipe that nobody writes to would be read for ever. */
static void what_is_no_file_is_moved_aside(void **state) {
	(void)state;
	struct world *w = fresh("");
	world_close(w);
	char path[160];
	snprintf(path, sizeof path, "%s/sessions/s_pipe.json", folder);
	assert_int_equal(mkfifo(path, 0600), 0);
	snprintf(path, sizeof path, "%s/sessions/s_folder.json", folder);
	assert_int_equal(mkdir(path, 0700), 0);
	w = fresh("");
	assert_true(exists("s_pipe", ".json.bad"));
	assert_true(exists("s_folder", ".json.bad"));
	world_close(w);
}

/* The disk is full: the old journal stays, nothing else is left behind. */
static void a_write_that_fails_leaves_the_old_one(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	const char *id = session_id(s);
	struct rlimit before, full = {16, 16};
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	full.rlim_max = before.rlim_max;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &full), 0);
	struct prompt_request q = {.text = "at night", .durable = true};
	struct prompt_receipt r;
	struct problem p = {0};
	int rc = session_prompt(s, &q, &r, &p);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_int_equal(rc, 0);
	assert_true(exists(id, ".json"));
	assert_false(exists(id, ".tmp"));
	session_unref(s);
	world_close(w);
}

/* A journal whose one member is wrong is refused as a whole. */
static void wrong_members_are_named(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	json_t *good = session_json_journal(s, false, NULL);
	struct error e = {0};
	struct session *back = session_from_journal(w->registry, good, &e);
	assert_non_null(back);
	session_unref(back);
	const char *key;
	json_t *value;
	json_object_foreach(good, key, value) {
		static const char *const wrong[] = {"null", "-7", "\"../x\"", "[{}]", "{\"a\":[]}"};
		for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
			if (strcmp(key, "labels") == 0 && i == 4)
				continue; /* is an object */
			json_t *bad = json_deep_copy(good);
			json_object_set_new(bad, key, json_loads(wrong[i], JSON_DECODE_ANY, NULL));
			e = (struct error){0};
			back = session_from_journal(w->registry, bad, &e);
			if (back)
				fail_msg("%s %s was taken", key, wrong[i]);
			assert_true(e.text[0] != 0);
			json_decref(bad);
		}
	}
	json_decref(good);
	session_unref(s);
	world_close(w);
}

static void a_folder_serves_one_daemon(void **state) {
	(void)state;
	struct world *w = fresh("");
	struct error e = {0};
	assert_null(journal_create(folder, NULL, &e));
	assert_non_null(strstr(e.text, "in use by another"));
	world_close(w);
	e = (struct error){0};
	assert_null(journal_create("/proc/nowhere", NULL, &e));
	assert_non_null(strstr(e.text, "[server] state_dir: /proc/nowhere: No such file"));
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			no_number_is_given_twice, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(
			a_crash_costs_a_scene_at_most, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(
			an_accepted_prompt_is_not_lost, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(
			an_orderly_end_loses_no_number, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(
			what_ended_does_not_come_back, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(a_pause_survives, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(
			torn_files_are_moved_aside, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(
			what_is_no_file_is_moved_aside, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(
			a_write_that_fails_leaves_the_old_one, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(
			wrong_members_are_named, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(
			a_folder_serves_one_daemon, make_folder, remove_folder),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
