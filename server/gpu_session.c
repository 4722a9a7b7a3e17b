/* SPDX-License-Identifier: Apache-2.0 */
/* Beginning and end of a session on the GPU thread: it gets a generator and an
 * encoder and gives both back; its words go through the encoder meanwhile.
 * Thread: the GPU thread. */
#include "server/gpu_parts.h"

#include <errno.h>

void gpu_say(struct session *s, struct packet *p) {
	if (!s->gpu.encoder || !encoder_text(s->gpu.encoder, p))
		session_say(s, p);
}

void gpu_fail(struct session *s, enum problem_code code, const struct error *e) {
	struct problem why = {0};
	problem_set(&why, code, NULL, "%s", e->text);
	session_sink(s, SESSION_FAILED, "engine", 1011, &why);
}

static struct encoder *free_encoder(struct gpu *g, struct session *s) {
	for (int i = 0; i < g->encoder_count; i++) {
		if (encoder_open(g->encoders[i], s))
			return g->encoders[i];
	}
	return NULL;
}

bool gpu_prepare(struct gpu *g, struct session *s) {
	struct session_gpu *x = &s->gpu;
	struct error e = {0};
	if (!x->encoder)
		x->encoder = free_encoder(g, s);
	if (!x->encoder)
		return false; /* one that closes wakes us */
	pthread_mutex_lock(&s->lock);
	uint64_t seed = s->seed;
	int64_t chunk = s->begun + 1, index = s->next_index;
	const struct prompt *current = s->restored ? prompts_current(&s->prompts) : NULL;
	if (s->restored)
		s->reserved = chunk + g->conf->journal_chunks;
	pthread_mutex_unlock(&s->lock);
	x->generator = generator_create(g->engine, seed, &e);
	if (!x->generator) {
		gpu_fail(
			s, e.code == -ENOMEM ? PROBLEM_OUT_OF_DEVICE_MEMORY : PROBLEM_INTERNAL, &e);
		return false;
	}
	if (s->restored) {
		session_note(s);
		generator_resume_at(x->generator, chunk, index);
	}
	/* An applied prompt stays on the list while it is the current one. */
	if (current) {
		struct prompt_change words = {current->text, TRANSITION_SWITCH, current->revision};
		x->revision = current->revision;
		if (generator_prompt(x->generator, &words, &e) != 0) {
			gpu_fail(s, PROBLEM_INTERNAL, &e);
			return false;
		}
	}
	return true;
}

/* The close reason viewers get. */
static const char *close_words(struct session *s, bool over) {
	if (!over)
		return "the server is shutting down";
	return s->state == SESSION_FAILED ? "the session failed" : "the session ended";
}

void gpu_put_away(struct gpu *g, struct session *s, bool over) {
	struct session_gpu *x = &s->gpu;
	generator_destroy(x->generator);
	x->generator = NULL;
	x->released = true;
	int code = over ? s->close_code : 1001; /* constant once it is over */
	const char *reason = close_words(s, over);
	if (x->encoder) {
		if (!encoder_close(x->encoder, code, reason, over))
			return; /* its queue is full: again next turn */
	} else {
		const struct outlet *out = g->registry->outlet;
		if (over)
			session_say(s, session_state_message(s));
		if (out->finish)
			out->finish(out->ctx, s, code, reason);
	}
	x->encoder = NULL;
	if (over)
		registry_remove(g->registry, s);
}
