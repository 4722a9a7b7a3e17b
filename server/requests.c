/* SPDX-License-Identifier: Apache-2.0 */
/* See requests.h. */
#include "server/requests.h"
#include <string.h>

static const char no_guidance[] =
	"Guidance is distilled into the model: it runs once per step, without a negative side, "
	"so neither negative_prompt nor guidance_scale can have an effect.";

static const struct field when_unwatched_rows[] = {
	{.name = "action",
		.type = FIELD_CHOICE,
		.choices = "pause continue",
		.help = "What to do when nobody watches."},
	{.name = "after_s",
		.type = FIELD_INTEGER,
		.min = 1,
		.max = 86400,
		.help = "Seconds without a viewer before the action."},
	{.name = "ttl_s",
		.type = FIELD_INTEGER,
		.min = 1,
		.max = 604800,
		.help = "Seconds without a viewer before the session ends."},
};
static const struct fields when_unwatched_fields = FIELDS(when_unwatched_rows);

static const struct field video_rows[] = {
	{.name = "codec", .type = FIELD_CHOICE, .choices = "vp9", .help = "Only VP9."},
	{.name = "bitrate_kbps",
		.type = FIELD_INTEGER,
		.min = 100,
		.max = 20000,
		.help = "Ceiling of the video's bit rate."},
	{.name = "keyframe_every_chunks",
		.type = FIELD_INTEGER,
		.min = 1,
		.max = 64,
		.help = "Distance of key frames; a late joiner decodes from the last one."},
};
static const struct fields video_fields = FIELDS(video_rows);

static const struct field create_rows[] = {
	{.name = "prompt",
		.type = FIELD_TEXT,
		.required = true,
		.help = "What to show; UTF-8, see capabilities.prompt for the limits."},
	{.name = "seed",
		.type = FIELD_INTEGER,
		.min = 0,
		.max = SEED_MAX,
		.help = "Same seed, prompts and weights: same pictures. Absent: drawn, and "
			"echoed."},
	{.name = "start",
		.type = FIELD_CHOICE,
		.choices = "auto manual",
		.help = "manual waits for POST .../start."},
	{.name = "pace",
		.type = FIELD_CHOICE,
		.choices = "realtime max",
		.help = "max makes pictures as fast as it can."},
	{.name = "max_chunks",
		.type = FIELD_INTEGER,
		.min = 0,
		.max = INT32_MAX,
		.help = "End after so many chunks; 0: never."},
	{.name = "when_unwatched", .type = FIELD_OBJECT, .fields = &when_unwatched_fields},
	{.name = "video", .type = FIELD_OBJECT, .fields = &video_fields},
	{.name = "labels",
		.type = FIELD_LABELS,
		.max = 64,
		.help = "Names of your own, given back unchanged."},
	{.name = "negative_prompt", .type = FIELD_REFUSED, .help = no_guidance},
	{.name = "guidance_scale", .type = FIELD_REFUSED, .help = no_guidance},
};
const struct fields create_fields = FIELDS(create_rows);

static const struct field transition_rows[] = {
	{.name = "mode",
		.type = FIELD_CHOICE,
		.choices = "switch recache cut",
		.help = "switch: new words, same memory; recache: memory reread under the new "
			"words; cut: a new scene."},
};
static const struct fields transition_fields = FIELDS(transition_rows);

#define EVENT_ID_ROW                                                                               \
	{                                                                                          \
		.name = "event_id", .type = FIELD_TEXT, .min = 1, .max = EVENT_ID_BYTES - 1,       \
		.help = "Your name for this request; comes back in every answer to it."            \
	}

static const struct field prompt_rows[] = {
	EVENT_ID_ROW,
	{.name = "text", .type = FIELD_TEXT, .required = true, .help = "The new words."},
	{.name = "at", .type = FIELD_AT, .help = "When; absent: with the next chunk."},
	{.name = "transition", .type = FIELD_OBJECT, .fields = &transition_fields},
	{.name = "negative_prompt", .type = FIELD_REFUSED, .help = no_guidance},
	{.name = "guidance_scale", .type = FIELD_REFUSED, .help = no_guidance},
};
const struct fields prompt_fields = FIELDS(prompt_rows);

static const struct field action_rows[] = {EVENT_ID_ROW};
const struct fields action_fields = FIELDS(action_rows);

static const struct field reset_rows[] = {
	EVENT_ID_ROW,
	{.name = "seed",
		.type = FIELD_INTEGER,
		.min = 0,
		.max = SEED_MAX,
		.help = "Of the new film; absent: the same."},
};
const struct fields reset_fields = FIELDS(reset_rows);

static bool text_is(const json_t *object, const char *name, const char *word) {
	const char *text = fields_text(object, name);
	return text && !strcmp(text, word);
}

int requests_create(const json_t *body, struct session_request *out, struct problem *p) {
	if (fields_check(body, &create_fields, p))
		return -1;
	const json_t *unwatched = json_object_get(body, "when_unwatched");
	const json_t *video = json_object_get(body, "video");
	*out = (struct session_request){
		.prompt = fields_text(body, "prompt"),
		.has_seed = json_object_get(body, "seed") != NULL,
		.seed = (uint64_t)fields_integer(body, "seed", 0),
		.manual_start = text_is(body, "start", "manual"),
		.max_pace = text_is(body, "pace", "max"),
		.max_chunks = fields_integer(body, "max_chunks", 0),
		.keep_unwatched = text_is(unwatched, "action", "continue"),
		.unwatched_after_s = (int)fields_integer(unwatched, "after_s", 0),
		.unwatched_ttl_s = (int)fields_integer(unwatched, "ttl_s", 0),
		.bitrate_kbps = (int)fields_integer(video, "bitrate_kbps", 0),
		.keyframe_every_chunks = (int)fields_integer(video, "keyframe_every_chunks", 0),
		.labels = json_object_get(body, "labels"),
	};
	return 0;
}

int requests_prompt(const json_t *body, struct prompt_request *out, struct problem *p) {
	if (fields_check(body, &prompt_fields, p))
		return -1;
	const char *mode = fields_text(json_object_get(body, "transition"), "mode");
	const json_t *at = json_object_get(body, "at");
	int transition = mode ? transition_parse(mode) : TRANSITION_SWITCH;
	if (transition < 0)
		return problem_set(p, PROBLEM_INVALID_FIELD, "transition.mode",
			"There is no transition \"%s\".", mode);
	*out = (struct prompt_request){
		.event_id = fields_text(body, "event_id"),
		.text = fields_text(body, "text"),
		.transition = (enum transition)transition,
		.at_chunk = json_object_get(at, "chunk") != NULL,
		.chunk = fields_integer(at, "chunk", 0),
		.at_media_time = json_object_get(at, "media_time_us") != NULL,
		.media_time_us = fields_integer(at, "media_time_us", 0),
	};
	return 0;
}
