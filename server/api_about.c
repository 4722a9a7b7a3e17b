/* SPDX-License-Identifier: Apache-2.0 */
/* Answers about the daemon itself. None waits for the engine: what they say is
 * constant after loading or was published by the threads. */
#include <stdlib.h>
#include <string.h>
#include "config.h"
#include "server/api_parts.h"
#include "server/wire.h"

int about_health(struct call *c, struct problem *p) {
	(void)p;
	const struct api_config *k = &c->api->config;
	json_t *out = json_pack("{s:s}", "status", "ok");
	json_t *more = k->health ? k->health(k->health_ctx) : NULL;
	if (more)
		json_object_update(out, more);
	json_decref(more);
	return call_answer(c, out);
}

int about_ready(struct call *c, struct problem *p) {
	if (!registry_ready(c->api->config.registry, p))
		return -1;
	return call_answer(c, json_pack("{s:s}", "status", "ready"));
}

int about_metrics(struct call *c, struct problem *p) {
	(void)p;
	c->res->text = metrics_text(c->api->config.metrics, &c->res->text_bytes);
	c->res->content_type = "text/plain; version=0.0.4; charset=utf-8";
	return c->res->text ? 0 : -1;
}

int about_version(struct call *c, struct problem *p) {
	(void)p;
	return call_answer(c, json_pack("{s:s, s:s, s:s, s:s}", "name", "lightforced", "version",
				      VERSION, "api", "v1", "protocol", WIRE_SUBPROTOCOL));
}

static json_t *modes_json(const struct model_info *m) {
	json_t *modes = json_array();
	for (int pass = 0; pass < 2; pass++)
		for (int t = 0; t < TRANSITION_COUNT; t++) {
			bool first = t == (int)m->transition_first;
			if (!m->transitions[t] || first != (pass == 0))
				continue;
			json_array_append_new(modes,
				json_pack("{s:s, s:f}", "name", transition_name((enum transition)t),
					"cost_chunks", m->transition_cost_chunks[t]));
		}
	return modes;
}

static json_t *suggestions_json(const struct model_info *m) {
	json_t *suggestions = json_loads(m->suggestions_json, 0, NULL);
	return suggestions ? suggestions : json_object();
}

static void add_model(json_t *out, const struct model_info *m) {
	json_object_set_new(out, "suggestions", suggestions_json(m));
	json_object_set_new(out, "modes", modes_json(m));
	json_object_set_new(out, "chunk",
		json_pack("{s:i, s:i, s:i, s:i, s:I}", "frames", m->chunk_frames, "first_frames",
			m->first_chunk_frames, "fps_num", m->fps_num, "fps_den", m->fps_den,
			"duration_us",
			(json_int_t)m->chunk_frames * 1000000 * m->fps_den /
				(m->fps_num ? m->fps_num : 1)));
	json_object_set_new(out, "video",
		json_pack("{s:[s], s:i, s:i}", "codecs", "vp9", "width", m->width, "height",
			m->height));
	json_object_set_new(
		json_object_get(out, "prompt"), "max_tokens", json_integer(m->prompt_tokens_max));
}

json_t *api_capabilities(const struct conf *k, struct registry *r) {
	json_t *out = json_pack("{s:s, s:{s:i}, s:[ss], s:[ssssss], s:[s]}", "protocol",
		WIRE_SUBPROTOCOL, "prompt", "max_bytes", k->prompt_bytes_max, "paces", "realtime",
		"max", "actions", "start", "pause", "resume", "step", "reset", "keyframe", "topics",
		"viewer.stats");
	if (!out)
		return NULL;
	json_object_set_new(out, "limits",
		json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "sessions", k->sessions_max,
			"pending_prompts", k->pending_prompts_max, "body_bytes", k->body_bytes_max,
			"text_bytes", k->text_bytes_max, "messages_per_s", k->messages_per_s,
			"viewers_per_session", k->viewers_per_session_max, "labels",
			k->labels_max));
	const struct engine *en = registry_engine(r);
	if (en)
		add_model(out, engine_model(en));
	else
		json_object_set_new(out, "modes", json_array());
	return out;
}

int about_capabilities(struct call *c, struct problem *p) {
	(void)p;
	return call_answer(c, api_capabilities(c->api->config.conf, c->api->config.registry));
}

static json_t *model_json(const struct model_info *m) {
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:o}",
		"name", m->name, "backend", m->backend, "precision", m->precision, "sparsity",
		m->sparsity, "weights_hash", m->weights_hash, "width", m->width, "height",
		m->height, "fps_num", m->fps_num, "fps_den", m->fps_den, "steps", m->steps,
		"window_frames", m->window_frames, "sink_frames", m->sink_frames, "needs_bytes",
		(json_int_t)(m->weights_bytes + m->generator_bytes + m->scratch_bytes +
			     m->recordings_bytes),
		"suggestions", suggestions_json(m));
}

int about_models(struct call *c, struct problem *p) {
	const struct engine *en = registry_engine(c->api->config.registry);
	if (!en) {
		registry_ready(c->api->config.registry, p);
		return problem_set(p, PROBLEM_MODEL_LOADING, "", "The model is being loaded.");
	}
	return call_answer(c, json_pack("{s:[o]}", "models", model_json(engine_model(en))));
}

int about_status(struct call *c, struct problem *p) {
	(void)p;
	const struct api_config *k = &c->api->config;
	struct problem why = {0};
	bool ready = registry_ready(k->registry, &why);
	const struct engine *en = registry_engine(k->registry);
	const char *state = ready                               ? "ready"
			    : why.code == PROBLEM_MODEL_LOADING ? "loading"
			    : why.code == PROBLEM_DRAINING      ? "draining"
								: "failed";
	struct session *live[256];
	int sessions = session_list(k->registry, NULL, 256, live);
	for (int i = 0; i < sessions; i++)
		session_unref(live[i]);
	json_t *out = json_pack("{s:s, s:s, s:I, s:i, s:i, s:I}", "state", state, "version",
		VERSION, "uptime_s", (json_int_t)((wire_now_us() - c->api->started_us) / 1000000),
		"sessions", sessions, "sessions_max", k->conf->sessions_max, "viewers",
		(json_int_t)metrics_get(k->metrics, METRIC_VIEWERS));
	if (out && en) {
		const struct model_info *m = engine_model(en);
		json_object_set_new(out, "model", json_string(m->name));
		json_object_set_new(out, "backend", json_string(m->backend));
		json_object_set_new(out, "memory",
			json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i}", "weights_bytes",
				(json_int_t)m->weights_bytes, "session_bytes",
				(json_int_t)m->generator_bytes, "session_kv_bytes",
				(json_int_t)m->kv_bytes, "session_decoder_bytes",
				(json_int_t)m->decoder_bytes, "scratch_bytes",
				(json_int_t)m->scratch_bytes, "recordings_bytes",
				(json_int_t)m->recordings_bytes, "headroom_bytes",
				(json_int_t)m->headroom_bytes, "sessions_fit", m->generators_fit));
	} else if (out && why.extra) {
		json_object_update(out, why.extra);
	}
	problem_clear(&why);
	return call_answer(c, out);
}

/* Constant for the life of the process: the version is its ETag. */
static int answer_document(struct call *c, json_t *document) {
	snprintf(c->res->etag, sizeof c->res->etag, "\"%s-%zu\"", VERSION,
		json_dumpb(document, NULL, 0, JSON_COMPACT));
	c->res->cacheable = true;
	if (c->req->if_none_match && !strcmp(c->req->if_none_match, c->res->etag)) {
		c->res->status = 304;
		return 0;
	}
	return call_answer(c, json_incref(document));
}

int about_openapi(struct call *c, struct problem *p) {
	(void)p;
	return answer_document(c, c->api->openapi);
}

int about_asyncapi(struct call *c, struct problem *p) {
	(void)p;
	return answer_document(c, c->api->asyncapi);
}
