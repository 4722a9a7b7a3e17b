/* SPDX-License-Identifier: Apache-2.0 */
/* See control.h. What a request leads to (prompt.accepted, session.state ...) is
 * published by the session to all viewers; here only refusals, pong and the
 * receipt of a control go back to the one who asked. */
#include "server/control.h"
#include <string.h>
#include "server/requests.h"
#include "server/wire.h"

#define BURST_SECONDS 2

static const char *event_id_of(const json_t *message) {
	const char *id = fields_text(message, "event_id");
	return id && strlen(id) < EVENT_ID_BYTES ? id : NULL;
}

/* Clears p. */
static struct packet *refuse(
	struct control_peer *peer, struct problem *p, const json_t *message, const char *type) {
	json_t *fields = json_pack("{s:s, s:s, s:b, s:s*}", "code", problem_name(p->code),
		"message", p->detail, "retryable", problem_retryable(p->code), "event_id",
		event_id_of(message));
	if (fields && *p->field)
		json_object_set_new(fields, "field", json_string(p->field));
	if (fields && p->extra)
		json_object_update_missing(fields, p->extra);
	problem_clear(p);
	return wire_message(type, session_id(peer->session), fields);
}

static struct packet *prompt_set(struct control_peer *peer, const json_t *message) {
	struct problem p = {0};
	struct prompt_request q;
	struct prompt_receipt receipt;
	if (requests_prompt(message, &q, &p) || session_prompt(peer->session, &q, &receipt, &p))
		return refuse(peer, &p, message, "prompt.rejected");
	return NULL;
}

static struct packet *prompt_cancel(struct control_peer *peer, const json_t *message) {
	struct problem p = {0};
	if (session_prompt_cancel(peer->session, fields_text(message, "id"), &p))
		return refuse(peer, &p, message, "error");
	return NULL;
}

static struct packet *act(struct control_peer *peer, const json_t *message) {
	struct problem p = {0};
	int action = session_action_parse(fields_text(message, "action"));
	uint64_t seed = (uint64_t)fields_integer(message, "seed", 0);
	bool seeded = json_object_get(message, "seed") != NULL;
	int64_t chunk = 0;
	if (action < 0)
		problem_set(&p, PROBLEM_INVALID_FIELD, "action", "There is no action \"%.40s\".",
			fields_text(message, "action"));
	else if (seeded && action != ACTION_RESET)
		problem_set(&p, PROBLEM_UNSUPPORTED_FIELD, "seed", "Only reset takes a seed.");
	else
		session_act(peer->session, (enum session_action)action, seeded ? &seed : NULL,
			&chunk, &p);
	if (p.code != PROBLEM_NONE)
		return refuse(peer, &p, message, "error");
	return wire_message("control.accepted", session_id(peer->session),
		json_pack("{s:s, s:I, s:s*}", "action",
			session_action_name((enum session_action)action), "applies_at_chunk",
			(json_int_t)chunk, "event_id", event_id_of(message)));
}

static struct packet *keyframe(struct control_peer *peer, const json_t *message) {
	(void)message;
	session_request_key(peer->session);
	return NULL;
}

static struct packet *set_visible(struct control_peer *peer, const json_t *message) {
	peer->visible = fields_boolean(message, "visible", true);
	return NULL;
}

static struct packet *report(struct control_peer *peer, const json_t *message) {
	peer->shown_seq = (uint64_t)fields_integer(message, "shown_seq", 0);
	peer->reported_drops = fields_integer(message, "dropped", 0);
	return NULL;
}

static struct packet *ping(struct control_peer *peer, const json_t *message) {
	return wire_message("pong", session_id(peer->session),
		json_pack("{s:O*}", "id", json_object_get(message, "id")));
}

static struct packet *subscribe(struct control_peer *peer, const json_t *message) {
	const json_t *topics = json_object_get(message, "topics");
	bool stats = false;
	for (size_t i = 0; i < json_array_size(topics); i++) {
		const char *topic = json_string_value(json_array_get(topics, i));
		if (strcmp(topic, "viewer.stats") != 0) {
			struct problem p = {0};
			problem_set(&p, PROBLEM_INVALID_FIELD, "topics",
				"There is no topic \"%.40s\"; see capabilities.topics.", topic);
			return refuse(peer, &p, message, "error");
		}
		stats = true;
	}
	peer->wants_stats = stats;
	return wire_message(
		"subscribed", session_id(peer->session), json_pack("{s:O}", "topics", topics));
}

#define ANY_COUNT INT64_C(9007199254740991)
static const struct field cancel_rows[] = {
	{.name = "id",
		.type = FIELD_TEXT,
		.required = true,
		.min = 1,
		.max = 15,
		.help = "Of the prompt."},
	{.name = "event_id", .type = FIELD_TEXT, .min = 1, .max = EVENT_ID_BYTES - 1},
};
static const struct fields cancel_fields = FIELDS(cancel_rows);
static const struct field act_rows[] = {
	{.name = "action",
		.type = FIELD_TEXT,
		.required = true,
		.min = 1,
		.max = 40,
		.help = "start, pause, resume, step, reset or keyframe."},
	{.name = "seed",
		.type = FIELD_INTEGER,
		.max = SEED_MAX,
		.help = "With reset: of the new film."},
	{.name = "event_id", .type = FIELD_TEXT, .min = 1, .max = EVENT_ID_BYTES - 1},
};
static const struct fields act_fields = FIELDS(act_rows);
static const struct fields no_fields = {NULL, 0};
static const struct field visible_rows[] = {
	{.name = "visible",
		.type = FIELD_BOOLEAN,
		.required = true,
		.help = "false stops the frames for this viewer alone."},
};
static const struct fields visible_fields = FIELDS(visible_rows);
static const struct field report_rows[] = {
	{.name = "shown_seq",
		.type = FIELD_INTEGER,
		.max = ANY_COUNT,
		.help = "Last frame painted."},
	{.name = "buffered_frames", .type = FIELD_INTEGER, .max = ANY_COUNT},
	{.name = "decode_us", .type = FIELD_INTEGER, .max = ANY_COUNT},
	{.name = "dropped", .type = FIELD_INTEGER, .max = ANY_COUNT, .help = "Frames not painted."},
};
static const struct fields report_fields = FIELDS(report_rows);
static const struct field ping_rows[] = {
	{.name = "id", .type = FIELD_NAME, .max = 64, .help = "Comes back in pong."},
};
static const struct fields ping_fields = FIELDS(ping_rows);
static const struct field subscribe_rows[] = {
	{.name = "topics",
		.type = FIELD_LIST,
		.required = true,
		.max = 8,
		.help = "All topics wanted from now on; see capabilities.topics."},
};
static const struct fields subscribe_fields = FIELDS(subscribe_rows);

const struct control_type control_types[] = {
	{"prompt.set", &prompt_fields, prompt_set, "Change the prompt; as POST .../prompts"},
	{"prompt.cancel", &cancel_fields, prompt_cancel, "Withdraw a pending prompt"},
	{"control", &act_fields, act, "Start, pause, resume, step, reset, keyframe"},
	{"keyframe.request", &no_fields, keyframe, "This viewer needs a key frame"},
	{"viewer.visible", &visible_fields, set_visible, "Stop or go on sending frames"},
	{"viewer.report", &report_fields, report, "How this viewer is doing"},
	{"ping", &ping_fields, ping, "Ask for the server's clock"},
	{"subscribe", &subscribe_fields, subscribe, "Choose the opt-in messages"},
};
const size_t control_type_count = sizeof control_types / sizeof *control_types;

static const struct control_type *find_type(const json_t *message, struct problem *p) {
	const char *type = fields_text(message, "type");
	if (!type) {
		problem_set(p, PROBLEM_MISSING_FIELD, "type", "type is missing, or not a string.");
		return NULL;
	}
	for (size_t i = 0; i < control_type_count; i++)
		if (!strcmp(control_types[i].name, type))
			return &control_types[i];
	problem_set(p, PROBLEM_INVALID_FIELD, "type", "There is no message type \"%.40s\".", type);
	return NULL;
}

struct packet *control_handle(
	struct control_peer *peer, const char *text, size_t size, int64_t now_us) {
	struct problem p = {0};
	double per_s = peer->conf->messages_per_s;
	if (!bucket_take(&peer->messages, per_s, per_s * BURST_SECONDS, now_us)) {
		if (peer->told_limit)
			return NULL;
		peer->told_limit = true;
		problem_set(&p, PROBLEM_RATE_LIMITED, "",
			"More than %d messages a second; this one and those that follow too fast "
			"are not read.",
			peer->conf->messages_per_s);
		return refuse(peer, &p, NULL, "error");
	}
	peer->told_limit = false;
	json_t *message = fields_read(text, size, &p);
	const struct control_type *type = message ? find_type(message, &p) : NULL;
	struct packet *answer = NULL;
	if (type) {
		json_object_del(message, "type");
		if (!fields_check(message, type->fields, &p))
			answer = type->handler(peer, message);
	}
	if (p.code != PROBLEM_NONE)
		answer = refuse(peer, &p, message,
			type && type->handler == prompt_set ? "prompt.rejected" : "error");
	json_decref(message);
	return answer;
}
