/* SPDX-License-Identifier: Apache-2.0 */
/* What viewers say over the socket, against a fake session. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "server/control.h"
#include "tests/support/fake_session.h"

struct fixture {
	struct conf conf;
	struct session session;
	struct control_peer peer;
	json_t *answer; /* NULL: none */
	int64_t now_us;
};

static void set_up(struct fixture *x) {
	*x = (struct fixture){.session = {.id = "s_1", .used = true}, .now_us = 1000000};
	x->conf.messages_per_s = 30;
	x->peer = (struct control_peer){.session = &x->session, .conf = &x->conf, .visible = true};
}

/* A second passes before each message, so that the rate does not matter. */
static json_t *say(struct fixture *x, const char *text) {
	json_decref(x->answer);
	x->now_us += 1000000;
	struct packet *p = control_handle(&x->peer, text, strlen(text), x->now_us);
	x->answer = p ? json_loadb((const char *)p->data, p->size, 0, NULL) : NULL;
	assert_true(!p || x->answer);
	packet_unref(p);
	return x->answer;
}

static const char *field(const struct fixture *x, const char *name) {
	const char *s = json_string_value(json_object_get(x->answer, name));
	return s ? s : "";
}

static void wrong_messages_get_an_error(void **state) {
	(void)state;
	struct fixture x;
	set_up(&x);
	static const struct {
		const char *text, *type, *code, *field;
	} rows[] = {
		{"", "error", "invalid_json", ""},
		{"hello", "error", "invalid_json", ""},
		{"[]", "error", "invalid_json", ""},
		{"{\"type\":\"ping\",\"type\":\"ping\"}", "error", "invalid_json", ""},
		{"{}", "error", "missing_field", "type"},
		{"{\"type\":1}", "error", "missing_field", "type"},
		{"{\"type\":\"dance\"}", "error", "invalid_field", "type"},
		{"{\"type\":\"ping\",\"extra\":1}", "error", "unsupported_field", "extra"},
		{"{\"type\":\"ping\",\"id\":[]}", "error", "invalid_field", "id"},
		{"{\"type\":\"control\"}", "error", "missing_field", "action"},
		{"{\"type\":\"control\",\"action\":\"jump\"}", "error", "invalid_field", "action"},
		{"{\"type\":\"control\",\"action\":\"pause\",\"seed\":1}", "error",
			"unsupported_field", "seed"},
		{"{\"type\":\"control\",\"action\":\"resume\"}", "error", "wrong_state", ""},
		{"{\"type\":\"viewer.visible\"}", "error", "missing_field", "visible"},
		{"{\"type\":\"viewer.visible\",\"visible\":1}", "error", "invalid_field",
			"visible"},
		{"{\"type\":\"prompt.cancel\",\"id\":\"p1\"}", "error", "prompt_already_applied",
			"id"},
		{"{\"type\":\"subscribe\",\"topics\":[\"gossip\"]}", "error", "invalid_field",
			"topics"},
		{"{\"type\":\"prompt.set\"}", "prompt.rejected", "missing_field", "text"},
		{"{\"type\":\"prompt.set\",\"text\":\"\"}", "prompt.rejected", "prompt_empty",
			"text"},
		{"{\"type\":\"prompt.set\",\"text\":\"a\",\"guidance_scale\":2}", "prompt.rejected",
			"unsupported_field", "guidance_scale"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		assert_non_null(say(&x, rows[i].text));
		assert_string_equal(field(&x, "type"), rows[i].type);
		assert_string_equal(field(&x, "code"), rows[i].code);
		assert_string_equal(field(&x, "field"), rows[i].field);
		assert_string_equal(field(&x, "session"), "s_1");
	}
	assert_int_equal(x.session.prompts + x.session.acts + x.session.cancels, 0);
	say(&x, "{\"type\":\"prompt.set\",\"text\":\"\",\"event_id\":\"e7\"}");
	assert_string_equal(field(&x, "event_id"), "e7");
	json_decref(x.answer);
}

static void messages_reach_the_session(void **state) {
	(void)state;
	struct fixture x;
	set_up(&x);
	assert_null(say(&x, "{\"type\":\"prompt.set\",\"text\":\"b\",\"event_id\":\"e\","
			    "\"transition\":{\"mode\":\"recache\"}}"));
	assert_string_equal(x.session.prompt, "b");
	assert_int_equal(x.session.transition, TRANSITION_RECACHE);
	assert_null(say(&x, "{\"type\":\"prompt.cancel\",\"id\":\"p2\"}"));
	assert_int_equal(x.session.cancels, 1);
	assert_non_null(say(
		&x, "{\"type\":\"control\",\"action\":\"reset\",\"seed\":6,\"event_id\":\"r\"}"));
	assert_string_equal(field(&x, "type"), "control.accepted");
	assert_string_equal(field(&x, "event_id"), "r");
	assert_true(x.session.action == ACTION_RESET && x.session.seeded && x.session.seed == 6);
	assert_null(say(&x, "{\"type\":\"keyframe.request\"}"));
	assert_int_equal(x.session.keys, 1);
	assert_null(say(&x, "{\"type\":\"viewer.visible\",\"visible\":false}"));
	assert_false(x.peer.visible);
	assert_null(say(&x, "{\"type\":\"viewer.report\",\"shown_seq\":7,\"buffered_frames\":2,"
			    "\"decode_us\":3,\"dropped\":4}"));
	assert_int_equal(x.peer.shown_seq, 7);
	assert_int_equal(x.peer.reported_drops, 4);
	assert_non_null(say(&x, "{\"type\":\"subscribe\",\"topics\":[\"viewer.stats\"]}"));
	assert_true(x.peer.wants_stats);
	say(&x, "{\"type\":\"subscribe\",\"topics\":[]}");
	assert_false(x.peer.wants_stats);
	say(&x, "{\"type\":\"ping\",\"id\":12}");
	assert_string_equal(field(&x, "type"), "pong");
	assert_int_equal(json_integer_value(json_object_get(x.answer, "id")), 12);
	assert_true(json_integer_value(json_object_get(x.answer, "ts_us")) > 0);
	json_decref(x.answer);
}

static void floods_are_cut(void **state) {
	(void)state;
	struct fixture x;
	set_up(&x);
	static const char message[] = "{\"type\":\"keyframe.request\"}";
	int told = 0;
	for (int i = 0; i < 1000; i++) {
		struct packet *p = control_handle(&x.peer, message, sizeof message - 1, 5);
		told += p != NULL;
		packet_unref(p);
	}
	assert_int_equal(x.session.keys, 60); /* two seconds' worth at once */
	assert_int_equal(told, 1);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_messages_get_an_error),
		cmocka_unit_test(messages_reach_the_session),
		cmocka_unit_test(floods_are_cut),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
