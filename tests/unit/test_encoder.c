/* SPDX-License-Identifier: Apache-2.0 */
/* What a failing VP9 encoder costs: a new one and a key frame; if that fails
 * too, its session and no other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "server/vp9.h"
#include "support/world.h"

enum { CHUNK = 6, FIRST = 3, SICK = FIRST + CHUNK + 2 };

int __real_vp9_encode(struct vp9 *v, const struct frame *f, int64_t index, bool key,
	struct packet **out, struct error *e);
int __wrap_vp9_encode(struct vp9 *v, const struct frame *f, int64_t index, bool key,
	struct packet **out, struct error *e);

static atomic_int failures; /* of picture SICK under revision 1, still to come */

int __wrap_vp9_encode(struct vp9 *v, const struct frame *f, int64_t index, bool key,
	struct packet **out, struct error *e) {
	if (f->index == SICK && f->revision == 1 && atomic_load(&failures) > 0) {
		atomic_fetch_sub(&failures, 1);
		*out = NULL;
		return error_set(e, -EIO, "VP9: failed as asked");
	}
	return __real_vp9_encode(v, f, index, key, out, e);
}

static void a_new_encoder_begins_an_epoch(void **state) {
	(void)state;
	struct world *w = world_create("", "");
	world_open(w);
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	atomic_store(&failures, 1);
	world_run(w, NULL, "chunk.end", 4);
	for (int i = 0; i < FIRST + 3 * CHUNK; i++) {
		const struct frame_meta *m = &world_event(w, NULL, "frame", i)->meta;
		assert_int_equal(m->seq, i); /* nothing is lost */
		assert_int_equal(m->epoch, i < SICK ? 1 : 2);
		assert_int_equal(!!(m->flags & FRAME_KEY), i == 0 || i == SICK);
		assert_int_equal(!!(m->flags & FRAME_DISCONTINUITY), i == SICK);
	}
	const struct event *config = world_event(w, NULL, "video.config", 1);
	assert_int_equal(world_number(config, "epoch"), 2);
	assert_true(world_place(w, config) < world_place(w, world_event(w, NULL, "frame", SICK)));
	session_unref(s);
	world_close(w);
}

static void a_second_failure_is_the_sessions(void **state) {
	(void)state;
	struct world *w = world_create("", "");
	world_open(w);
	struct session *s = world_session(w, "a red kite", (struct session_request){0});
	atomic_store(&failures, 2);
	world_run(w, NULL, "finish", 1);
	assert_int_equal(world_event(w, NULL, "finish", 0)->close_code, 1011);
	const struct event *e = world_event(w, NULL, "session.state", -1);
	assert_string_equal(world_text(e, "state"), "failed");
	const json_t *problem = json_object_get(e->json, "problem");
	assert_string_equal(
		json_string_value(json_object_get(problem, "detail")), "VP9: failed as asked");
	/* The encoder's thread serves the next one. */
	struct session *t = world_session(w, "a boat", (struct session_request){0});
	world_run(w, session_id(t), "chunk.end", 3);
	session_unref(t);
	session_unref(s);
	world_close(w);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_encoder_begins_an_epoch),
		cmocka_unit_test(a_second_failure_is_the_sessions),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
