/* SPDX-License-Identifier: Apache-2.0 */
/* The API without sockets: every route, every way to be refused, and that the
 * documents say what the tables hold. Sessions are a fake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "server/api_parts.h"
#include "server/control.h"
#include "tests/support/fake_session.h"

struct fixture {
	struct conf conf;
	struct registry registry;
	struct metrics metrics;
	struct api *api;
	char folder[64];
	struct response res;
};

static void write_file(const char *folder, const char *name, const char *text) {
	char path[256];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static int set_up(void **state) {
	struct fixture *x = calloc(1, sizeof *x);
	char *argv[] = {(char *)(uintptr_t) "test", NULL};
	struct error e = {0};
	assert_int_equal(conf_load(&x->conf, 1, argv, &e), 0);
	strcpy(x->folder, "/tmp/lightforced-api-XXXXXX");
	assert_non_null(mkdtemp(x->folder));
	char path[200];
	snprintf(path, sizeof path, "%s/web", x->folder);
	assert_int_equal(mkdir(path, 0700), 0);
	write_file(x->folder, "secret.txt", "secret");
	write_file(path, "index.html", "<!doctype html>");
	write_file(path, "a.js", "1");
	write_file(path, ".hidden.js", "1");
	write_file(path, "no-type", "1");
	char link[300];
	snprintf(link, sizeof link, "%s/link.txt", path);
	assert_int_equal(symlink("../secret.txt", link), 0);
	free((char *)(uintptr_t)x->conf.web_root);
	x->conf.web_root = strdup(path);
	x->api = api_create(
		&(struct api_config){
			.conf = &x->conf, .registry = &x->registry, .metrics = &x->metrics},
		&e);
	assert_non_null(x->api);
	x->res.fd = -1;
	*state = x;
	return 0;
}

static int tear_down(void **state) {
	struct fixture *x = *state;
	static const char *const names[] = {"web/index.html", "web/a.js", "web/.hidden.js",
		"web/no-type", "web/link.txt", "secret.txt"};
	response_finish(&x->res);
	api_destroy(x->api);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		char path[200];
		snprintf(path, sizeof path, "%s/%s", x->folder, names[i]);
		unlink(path);
	}
	rmdir(x->conf.web_root);
	rmdir(x->folder);
	for (int i = 0; i < FAKE_SESSIONS; i++) /* every reference was given back */
		if (x->registry.session[i].used)
			assert_int_equal(x->registry.session[i].references, 1);
	conf_free(&x->conf);
	free(x);
	return 0;
}

static struct response *ask(struct fixture *x, struct request req) {
	response_finish(&x->res);
	if (req.body) {
		req.body_bytes = strlen(req.body);
		if (!req.content_type)
			req.content_type = "application/json";
	}
	api_dispatch(x->api, &req, &x->res);
	return &x->res;
}

static struct response *get(struct fixture *x, const char *path) {
	return ask(x, (struct request){.method = "GET", .path = path});
}

static struct response *post(struct fixture *x, const char *path, const char *body) {
	return ask(x, (struct request){.method = "POST", .path = path, .body = body});
}

static const char *text(const struct response *res, const char *name) {
	const char *s = json_string_value(json_object_get(res->json, name));
	return s ? s : "";
}

static void check_problem(
	const struct response *res, int status, const char *code, const char *field) {
	if (res->status != status || strcmp(text(res, "code"), code) != 0 ||
		strcmp(text(res, "field"), field) != 0)
		fail_msg("wanted %d %s %s, got %d %s %s (%s)", status, code, field, res->status,
			text(res, "code"), text(res, "field"), text(res, "detail"));
	assert_string_equal(res->content_type, "application/problem+json");
	assert_int_equal(json_integer_value(json_object_get(res->json, "status")), status);
	assert_true(strlen(text(res, "detail")) > 10);
}

static void a_wrong_name_tells_the_right_ones(void **state) {
	struct fixture *x = *state;
	const struct response *res = post(x, "/v1/sessions", "{\"prompt\":\"a\",\"sed\":1}");
	check_problem(res, 422, "unsupported_field", "sed");
	assert_non_null(strstr(text(res, "detail"), "\"sed\""));
	assert_non_null(strstr(text(res, "detail"), " seed,"));
	assert_null(strstr(text(res, "detail"), "negative_prompt")); /* known, but refused */
	res = post(x, "/v1/sessions", "{\"prompt\":\"a\",\"video\":{\"fps\":1}}");
	check_problem(res, 422, "unsupported_field", "video.fps");
	assert_null(strstr(text(res, "detail"), "seed"));
}

static void bad_bodies_are_refused_precisely(void **state) {
	struct fixture *x = *state;
	static const struct {
		const char *path, *body;
		int status;
		const char *code, *field;
	} rows[] = {
		{"/v1/sessions", "", 400, "invalid_json", ""},
		{"/v1/sessions", "{", 400, "invalid_json", ""},
		{"/v1/sessions", "[]", 400, "invalid_json", ""},
		{"/v1/sessions", "\"a\"", 400, "invalid_json", ""},
		{"/v1/sessions", "{\"prompt\":\"a\"} x", 400, "invalid_json", ""},
		{"/v1/sessions", "{\"prompt\":\"a\",\"prompt\":\"b\"}", 400, "invalid_json", ""},
		{"/v1/sessions", "{\"prompt\":\"a\\u0000b\"}", 400, "invalid_json", ""},
		{"/v1/sessions", "{\"prompt\":\"a\001b\"}", 400, "invalid_json", ""},
		{"/v1/sessions", "{\"prompt\":\"a\xff\"}", 422, "invalid_utf8", ""},
		{"/v1/sessions", "{\"prompt\":\"\xed\xa0\x80\"}", 422, "invalid_utf8", ""},
		{"/v1/sessions", "{\"a\":[[[[[[[[1]]]]]]]]}", 400, "invalid_json", ""},
		{"/v1/sessions", "{}", 422, "missing_field", "prompt"},
		{"/v1/sessions", "{\"prompt\":\"\"}", 422, "prompt_empty", "prompt"},
		{"/v1/sessions", "{\"prompt\":1}", 422, "invalid_field", "prompt"},
		{"/v1/sessions", "{\"prompt\":null}", 422, "invalid_field", "prompt"},
		{"/v1/sessions", "{\"prompt\":\"a\",\"sed\":1}", 422, "unsupported_field", "sed"},
		{"/v1/sessions", "{\"prompt\":\"a\",\"seed\":-1}", 422, "invalid_field", "seed"},
		{"/v1/sessions", "{\"prompt\":\"a\",\"seed\":1.5}", 422, "invalid_field", "seed"},
		{"/v1/sessions", "{\"prompt\":\"a\",\"seed\":\"1\"}", 422, "invalid_field", "seed"},
		{"/v1/sessions", "{\"prompt\":\"a\",\"seed\":9007199254740992}", 422,
			"invalid_field", "seed"},
		{"/v1/sessions", "{\"prompt\":\"a\",\"seed\":99999999999999999999}", 400,
			"invalid_json", ""},
		{"/v1/sessions", "{\"prompt\":\"a\",\"pace\":\"fast\"}", 422, "invalid_field",
			"pace"},
		{"/v1/sessions", "{\"prompt\":\"a\",\"video\":[]}", 422, "invalid_field", "video"},
		{"/v1/sessions", "{\"prompt\":\"a\",\"video\":{\"codec\":\"av1\"}}", 422,
			"invalid_field", "video.codec"},
		{"/v1/sessions", "{\"prompt\":\"a\",\"video\":{\"fps\":1}}", 422,
			"unsupported_field", "video.fps"},
		{"/v1/sessions", "{\"prompt\":\"a\",\"when_unwatched\":{\"after_s\":0}}", 422,
			"invalid_field", "when_unwatched.after_s"},
		{"/v1/sessions", "{\"prompt\":\"a\",\"labels\":{\"b\":1}}", 422, "invalid_field",
			"labels"},
		{"/v1/sessions", "{\"prompt\":\"a\",\"negative_prompt\":\"b\"}", 422,
			"unsupported_field", "negative_prompt"},
		{"/v1/sessions", "{\"prompt\":\"a\",\"guidance_scale\":5}", 422,
			"unsupported_field", "guidance_scale"},
		{"/v1/sessions/s_1/prompts", "{}", 422, "missing_field", "text"},
		{"/v1/sessions/s_1/prompts", "{\"text\":\"a\",\"event_id\":\"\"}", 422,
			"invalid_field", "event_id"},
		{"/v1/sessions/s_1/prompts", "{\"text\":\"a\",\"at\":\"later\"}", 422,
			"invalid_field", "at"},
		{"/v1/sessions/s_1/prompts", "{\"text\":\"a\",\"at\":{\"chunk\":-1}}", 422,
			"invalid_field", "at"},
		{"/v1/sessions/s_1/prompts",
			"{\"text\":\"a\",\"at\":{\"chunk\":1,\"media_time_us\":1}}", 422,
			"invalid_field", "at"},
		{"/v1/sessions/s_1/prompts", "{\"text\":\"a\",\"transition\":{\"mode\":\"blend\"}}",
			422, "invalid_field", "transition.mode"},
		{"/v1/sessions/s_1/prompts", "{\"text\":\"a\",\"negative_prompt\":\"b\"}", 422,
			"unsupported_field", "negative_prompt"},
		{"/v1/sessions/s_1/pause", "{\"seed\":1}", 422, "unsupported_field", "seed"},
		{"/v1/sessions/s_1/reset", "{\"seed\":true}", 422, "invalid_field", "seed"},
	};
	assert_int_equal(post(x, "/v1/sessions", "{\"prompt\":\"a\"}")->status, 201);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		check_problem(post(x, rows[i].path, rows[i].body), rows[i].status, rows[i].code,
			rows[i].field);
	assert_int_equal(x->registry.made, 1);
	assert_int_equal(x->registry.session[0].prompts, 0);
}

static void depth_eight_is_still_read(void **state) {
	struct fixture *x = *state;
	check_problem(post(x, "/v1/sessions", "{\"a\":[[[[[[[\"]]]]]]]]\"]]]]]]]}"), 422,
		"unsupported_field", "a");
}

static void what_is_sent_must_be_json(void **state) {
	struct fixture *x = *state;
	static const char *const types[] = {"text/plain", "application/jsonp", "", "json"};
	for (size_t i = 0; i < sizeof types / sizeof *types; i++)
		check_problem(ask(x, (struct request){.method = "POST",
					     .path = "/v1/sessions",
					     .body = "{\"prompt\":\"a\"}",
					     .content_type = types[i]}),
			415, "unsupported_media_type", "");
	assert_int_equal(ask(x, (struct request){.method = "POST",
					.path = "/v1/sessions",
					.body = "{\"prompt\":\"a\"}",
					.content_type = "Application/JSON; charset=utf-8"})
				 ->status,
		201);
	check_problem(ask(x, (struct request){.method = "GET", .path = "/healthz", .body = "{}"}),
		400, "bad_request", "");
}

static void create_passes_everything_on(void **state) {
	struct fixture *x = *state;
	struct response *res = post(x, "/v1/sessions",
		"{\"prompt\":\"a kite\",\"seed\":9007199254740991,\"start\":\"manual\",\"pace\":"
		"\"max\",\"max_chunks\":7,\"when_unwatched\":{\"action\":\"continue\",\"after_s\":"
		"5,"
		"\"ttl_s\":6},\"video\":{\"codec\":\"vp9\",\"bitrate_kbps\":900,"
		"\"keyframe_every_chunks\":2},\"labels\":{\"show\":\"foyer\"}}");
	assert_int_equal(res->status, 201);
	assert_string_equal(res->location, "/v1/sessions/s_1");
	assert_string_equal(text(res, "id"), "s_1");
	const struct session *s = &x->registry.session[0];
	const struct session_request *q = &s->request;
	assert_string_equal(s->prompt, "a kite");
	assert_true(q->has_seed && q->manual_start && q->max_pace && q->keep_unwatched);
	assert_int_equal(q->seed, 9007199254740991);
	assert_int_equal(q->max_chunks, 7);
	assert_int_equal(q->unwatched_after_s, 5);
	assert_int_equal(q->unwatched_ttl_s, 6);
	assert_int_equal(q->bitrate_kbps, 900);
	assert_int_equal(q->keyframe_every_chunks, 2);
	post(x, "/v1/sessions", "{\"prompt\":\"b\"}");
	q = &x->registry.session[1].request;
	assert_false(q->has_seed || q->manual_start || q->max_pace || q->keep_unwatched);
	res = post(x, "/v1/sessions", "{\"prompt\":\"c\"}");
	check_problem(res, 503, "session_limit", "");
	assert_int_equal(res->retry_after_s, 7);
}

static void create_once_per_key(void **state) {
	struct fixture *x = *state;
	struct request req = {.method = "POST",
		.path = "/v1/sessions",
		.body = "{\"prompt\":\"a\"}",
		.idempotency_key = "k1"};
	assert_int_equal(ask(x, req)->status, 201);
	assert_int_equal(ask(x, req)->status, 201);
	assert_string_equal(text(&x->res, "id"), "s_1");
	assert_string_equal(x->res.location, "/v1/sessions/s_1");
	assert_int_equal(x->registry.made, 1);
	struct request other = req;
	other.body = "{\"prompt\":\"b\"}";
	check_problem(ask(x, other), 422, "invalid_field", "Idempotency-Key");
	struct request bad = req;
	bad.idempotency_key = "a b";
	check_problem(ask(x, bad), 422, "invalid_field", "Idempotency-Key");
	/* A failure is not kept. */
	struct request later = req;
	later.idempotency_key = "k2";
	x->registry.loading = true;
	check_problem(ask(x, later), 503, "model_loading", "");
	assert_int_equal(x->res.retry_after_s, 2);
	x->registry.loading = false;
	assert_int_equal(ask(x, later)->status, 201);
	assert_int_equal(x->registry.made, 2);
}

static void idempotency_is_bounded(void **state) {
	(void)state;
	struct idempotency *s = idempotency_create(4, 1000);
	json_t *answer = json_object(), *before = NULL;
	char location[80], key[16];
	struct problem p = {0};
	for (int i = 0; i < 5; i++) {
		snprintf(key, sizeof key, "k%d", i);
		assert_int_equal(idempotency_begin(s, key, "b", 1, 10, &before, location, &p),
			IDEMPOTENCY_NEW);
		if (i == 0)
			assert_int_equal(
				idempotency_begin(s, key, "b", 1, 10, &before, location, &p),
				IDEMPOTENCY_REFUSED); /* still at work */
		idempotency_finish(s, key, answer, "/l");
	}
	problem_clear(&p);
	assert_int_equal(
		idempotency_begin(s, "k4", "b", 1, 10, &before, location, &p), IDEMPOTENCY_REPEAT);
	json_decref(before);
	assert_int_equal(idempotency_begin(s, "k0", "b", 1, 10, &before, location, &p),
		IDEMPOTENCY_NEW); /* pushed out by k4 */
	assert_int_equal(idempotency_begin(s, "k4", "b", 1, 2000, &before, location, &p),
		IDEMPOTENCY_NEW); /* too old */
	json_decref(answer);
	idempotency_destroy(s);
}

static void sessions_are_steered(void **state) {
	struct fixture *x = *state;
	post(x, "/v1/sessions", "{\"prompt\":\"a\"}");
	struct session *s = &x->registry.session[0];
	struct response *res = post(x, "/v1/sessions/s_1/prompts",
		"{\"event_id\":\"e\",\"text\":\"b\",\"at\":{\"chunk\":9},\"transition\":{\"mode\":"
		"\"cut\"}}");
	assert_int_equal(res->status, 202);
	assert_string_equal(text(res, "event_id"), "e");
	assert_string_equal(text(res, "state"), "scheduled");
	assert_int_equal(json_integer_value(json_object_get(res->json, "applies_at_chunk")), 9);
	assert_int_equal(s->transition, TRANSITION_CUT);
	assert_int_equal(s->at_chunk, 9);
	assert_int_equal(
		post(x, "/v1/sessions/s_1/prompts", "{\"text\":\"c\",\"at\":\"next\"}")->status,
		202);
	assert_int_equal(s->transition, TRANSITION_SWITCH);
	assert_int_equal(s->at_chunk, -1);
	check_problem(post(x, "/v1/sessions/s_1/resume", NULL), 409, "wrong_state", "");
	res = post(x, "/v1/sessions/s_1/reset", "{\"seed\":5,\"event_id\":\"r\"}");
	assert_int_equal(res->status, 202);
	assert_string_equal(text(res, "event_id"), "r");
	assert_true(s->action == ACTION_RESET && s->seeded && s->seed == 5);
	res = post(x, "/v1/sessions/s_1/pause", NULL);
	assert_int_equal(res->status, 202);
	assert_string_equal(text(res, "action"), "pause");
	assert_true(s->action == ACTION_PAUSE && !s->seeded);
	assert_int_equal(get(x, "/v1/sessions/s_1/prompts")->status, 200);
	check_problem(
		ask(x, (struct request){.method = "DELETE", .path = "/v1/sessions/s_1/prompts/p1"}),
		409, "prompt_already_applied", "id");
	assert_int_equal(
		ask(x, (struct request){.method = "DELETE", .path = "/v1/sessions/s_1/prompts/p2"})
			->status,
		204);
	assert_int_equal(s->cancels, 1);
	assert_int_equal(
		ask(x, (struct request){.method = "DELETE", .path = "/v1/sessions/s_1"})->status,
		204);
	check_problem(get(x, "/v1/sessions/s_1"), 404, "not_found", "");
	check_problem(get(x, "/v1/sessions/gone_1"), 410, "gone", "");
}

static void lists_have_pages(void **state) {
	struct fixture *x = *state;
	post(x, "/v1/sessions", "{\"prompt\":\"a\"}");
	post(x, "/v1/sessions", "{\"prompt\":\"b\"}");
	struct request req = {.method = "GET", .path = "/v1/sessions", .query = "limit=1"};
	struct response *res = ask(x, req);
	assert_int_equal(json_array_size(json_object_get(res->json, "sessions")), 1);
	assert_string_equal(text(res, "next"), "s_2");
	req.query = "x=y&after=s_2&limit=1";
	res = ask(x, req);
	json_t *first = json_array_get(json_object_get(res->json, "sessions"), 0);
	assert_string_equal(json_string_value(json_object_get(first, "id")), "s_1");
	assert_true(json_is_null(json_object_get(res->json, "next")));
	static const char *const bad[] = {"limit=0", "limit=101", "limit=x", "limit=", "limit=1x"};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		req.query = bad[i];
		check_problem(ask(x, req), 422, "invalid_field", "limit");
	}
}

static void wrong_paths_and_methods(void **state) {
	struct fixture *x = *state;
	static const char *const nowhere[] = {"/nothing", "/v1", "/v1/", "/v1/sessions/", "//",
		"/s/", "/v1/sessions/a/b", "/v1/sessions/%73_1", "/healthz/", "/healthz%00",
		"/v1/sessions/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
	for (size_t i = 0; i < sizeof nowhere / sizeof *nowhere; i++)
		check_problem(get(x, nowhere[i]), 404, "not_found", "");
	struct response *res = ask(x, (struct request){.method = "PUT", .path = "/v1/sessions"});
	check_problem(res, 405, "method_not_allowed", "");
	assert_string_equal(res->allow, "POST, GET, HEAD");
	res = ask(x, (struct request){.method = "POST", .path = "/"});
	check_problem(res, 405, "method_not_allowed", "");
	assert_string_equal(res->allow, "GET, HEAD");
	assert_int_equal(
		ask(x, (struct request){.method = "HEAD", .path = "/healthz"})->status, 200);
	res = get(x, "/v1/sessions/s_1/stream");
	check_problem(res, 426, "upgrade_required", "");
	assert_string_equal(res->websocket, "13");
}

static void about_the_daemon(void **state) {
	struct fixture *x = *state;
	assert_string_equal(text(get(x, "/healthz"), "status"), "ok");
	assert_int_equal(get(x, "/readyz")->status, 200);
	assert_string_equal(text(get(x, "/v1/status"), "state"), "ready");
	x->registry.loading = true;
	check_problem(get(x, "/readyz"), 503, "model_loading", "");
	assert_string_equal(text(&x->res, "stage"), "weights");
	assert_int_equal(x->res.retry_after_s, 2);
	assert_int_equal(get(x, "/healthz")->status, 200);
	check_problem(get(x, "/v1/models"), 503, "model_loading", "");
	assert_string_equal(text(get(x, "/v1/status"), "state"), "loading");
	assert_string_equal(text(&x->res, "stage"), "weights");
	assert_string_equal(text(get(x, "/v1/version"), "name"), "lightforced");
	assert_string_equal(text(get(x, "/v1/capabilities"), "protocol"), "lightforced.v1");
	metrics_add(&x->metrics, METRIC_FRAMES_SENT, 42);
	struct response *res = get(x, "/metrics");
	assert_non_null(strstr(res->text, "\nlightforced_frames_sent_total 42\n"));
	assert_non_null(strstr(res->text, "lightforced_ws_closed_total{reason=\"slow\"} 0\n"));
}

static void page_files_stay_below_their_folder(void **state) {
	struct fixture *x = *state;
	struct response *res = get(x, "/");
	assert_int_equal(res->status, 200);
	assert_true(res->fd >= 0 && res->page);
	assert_int_equal(res->fd_bytes, strlen("<!doctype html>"));
	assert_true(get(x, "/s/s_1")->page);
	res = get(x, "/static/a.js");
	assert_int_equal(res->status, 200);
	assert_false(res->page);
	assert_string_equal(res->content_type, "text/javascript; charset=utf-8");
	char etag[48];
	strcpy(etag, res->etag);
	res = ask(x,
		(struct request){.method = "GET", .path = "/static/a.js", .if_none_match = etag});
	assert_int_equal(res->status, 304);
	assert_int_equal(res->fd, -1);
	static const char *const outside[] = {"/static/", "/static/../secret.txt", "/static/..",
		"/static/./a.js", "/static//a.js", "/static/.hidden.js", "/static/link.txt",
		"/static/no-type", "/static/%2e%2e/secret.txt", "/static/a.js/",
		"/static/a.js/b.js", "/static/missing.js", "/static/web/../a.js",
		"/static/a\\..\\a.js", "/secret.txt"};
	for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
		check_problem(get(x, outside[i]), 404, "not_found", "");
}

static void documents_hold_every_row(void **state) {
	struct fixture *x = *state;
	json_t *paths = json_object_get(get(x, "/openapi.json")->json, "paths");
	size_t documented = 0, operations = 0;
	for (size_t i = 0; i < api_route_count; i++) {
		const struct route *r = &api_routes[i];
		if (!r->summary)
			continue;
		documented++;
		const char *verb = !strcmp(r->method, "GET")    ? "get"
				   : !strcmp(r->method, "POST") ? "post"
								: "delete";
		json_t *op = json_object_get(json_object_get(paths, r->pattern), verb);
		if (!op)
			fail_msg("%s %s is not in /openapi.json", r->method, r->pattern);
		assert_int_equal(json_object_get(op, "requestBody") != NULL, r->body != NULL);
		assert_int_equal(
			json_object_get(op, "parameters") != NULL, strchr(r->pattern, '{') != NULL);
	}
	const char *path;
	json_t *item;
	json_object_foreach(paths, path, item) operations += json_object_size(item);
	assert_int_equal(operations, documented);
	json_t *messages = json_object_get(
		json_object_get(get(x, "/asyncapi.json")->json, "components"), "messages");
	for (size_t i = 0; i < control_type_count; i++)
		assert_non_null(json_object_get(messages, control_types[i].name));
	char etag[48];
	strcpy(etag, x->res.etag);
	assert_int_equal(ask(x, (struct request){.method = "GET",
					.path = "/asyncapi.json",
					.if_none_match = etag})
				 ->status,
		304);
}

#define API_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
int main(void) {
	const struct CMUnitTest tests[] = {
		API_TEST(a_wrong_name_tells_the_right_ones),
		API_TEST(bad_bodies_are_refused_precisely),
		API_TEST(depth_eight_is_still_read),
		API_TEST(what_is_sent_must_be_json),
		API_TEST(create_passes_everything_on),
		API_TEST(create_once_per_key),
		cmocka_unit_test(idempotency_is_bounded),
		API_TEST(sessions_are_steered),
		API_TEST(lists_have_pages),
		API_TEST(wrong_paths_and_methods),
		API_TEST(about_the_daemon),
		API_TEST(page_files_stay_below_their_folder),
		API_TEST(documents_hold_every_row),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
