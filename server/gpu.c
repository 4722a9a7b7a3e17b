/* SPDX-License-Identifier: Apache-2.0 */
/* Turns on the GPU thread. A turn looks after every session (prepares the new,
 * puts away the ended, moves finished pictures to the encoder), picks the one
 * that may work and makes one step of it. All times come in as now_us.
 * Thread: the GPU thread. */
#include "server/gpu_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/wire.h"

enum { IDLE_TICK_US = 1000000 };

struct gpu *gpu_create(struct registry *r, struct encoder **encoders, int count, struct error *e) {
	struct gpu *g = calloc(1, sizeof *g);
	if (!g) {
		error_set(e, -ENOMEM, "no memory for the GPU thread");
		return NULL;
	}
	g->registry = r;
	g->conf = r->conf;
	g->encoders = encoders;
	g->encoder_count = count;
	atomic_store(&g->ticked_us, wire_now_us());
	return g;
}

void gpu_destroy(struct gpu *g) {
	if (!g)
		return;
	struct session *all[SESSIONS_LISTED_MAX];
	int n = registry_all(g->registry, all);
	for (int i = 0; i < n; i++) {
		generator_destroy(all[i]->gpu.generator);
		all[i]->gpu.generator = NULL;
		session_unref(all[i]);
	}
	registry_model(g->registry, NULL);
	engine_destroy(g->engine);
	free(g);
}

enum gpu_end gpu_end(const struct gpu *g) {
	return (enum gpu_end)atomic_load(&g->end);
}

bool gpu_config_at_fault(const struct gpu *g) {
	return g->config_at_fault;
}

int64_t gpu_ticked_us(const struct gpu *g) {
	return atomic_load(&g->ticked_us);
}

static void tick(struct gpu *g) {
	atomic_store(&g->ticked_us, wire_now_us());
}

/* ---- loading */

static void loading(void *ctx, const char *stage, uint64_t done, uint64_t total) {
	struct gpu *g = ctx;
	tick(g);
	registry_loading(g->registry, stage, done, total);
}

/* Chunks nobody sees: first calls are slow, and a model that cannot make one must
 * not be called ready. */
static int warm_up(struct gpu *g, struct error *e) {
	struct generator *gen = generator_create(g->engine, 0, e);
	if (!gen)
		return e->code;
	struct prompt_change words = {.text = "warm", .revision = 1};
	int rc = generator_prompt(gen, &words, e), chunks = engine_model(g->engine)->warm_chunks;
	for (int made = 0; rc == 0 && (made < chunks || generator_pending(gen));) {
		enum progress p;
		struct frame *f;
		if (made < chunks) {
			rc = generator_step(gen, &p, e);
			made += rc == 0 && generator_boundary(gen);
		} else {
			engine_await(g->engine);
		}
		tick(g);
		while (rc == 0 && generator_frames(gen, &f, 1) == 1)
			frame_release(f);
		if (registry_draining(g->registry))
			rc = error_set(e, -ECANCELED, "stopped while loading");
	}
	generator_destroy(gen);
	return rc;
}

int gpu_load(struct gpu *g, struct error *e) {
	const struct conf *c = g->conf;
	const char *backend = c->backend;
	int64_t from = wire_now_us();
	struct engine_config config = {
		.model_dir = c->model,
		.backend = backend,
		.precision = c->precision,
		.sparsity = c->sparsity,
		.steps = c->steps,
		.threads = c->threads,
		.generators_max = c->sessions_max,
		.prompts_cached = c->prompts_cached,
		.memory_max_bytes = (size_t)c->vram_budget_mib << 20,
		.progress = loading,
		.progress_ctx = g,
		.log = log_engine,
		.log_ctx = g->registry->log,
	};
	g->engine = engine_create(&config, e);
	if (!g->engine)
		return e->code;
	loading(g, "warm-up chunk", 0, 0);
	int rc = warm_up(g, e);
	if (rc != 0) {
		engine_destroy(g->engine);
		g->engine = NULL;
		return rc;
	}
	const struct model_info *m = engine_model(g->engine);
	log_line(g->registry->log, LOG_LEVEL_INFO,
		"model %s ready after %lld ms: %s, %s, %dx%d at %d/%d, %s", m->name,
		(long long)(wire_now_us() - from) / 1000, m->backend, m->precision, m->width,
		m->height, m->fps_num, m->fps_den, m->sparsity);
	registry_model(g->registry, g->engine);
	return 0;
}

/* ---- is it to run? */

/* Why it stands still, or NULL. Under the lock. */
static const char *pause_reason(const struct session *s, bool unwatched) {
	if (s->steps_wished > 0)
		return NULL;
	if (s->user_paused)
		return "user";
	if (s->waits_for_start)
		return "manual";
	return unwatched ? "unwatched" : NULL;
}

static void at_most(int64_t *wait_us, int64_t us) {
	if (*wait_us < 0 || us < *wait_us)
		*wait_us = us < 0 ? 0 : us;
}

/* Keeps the clock of the unwatched. True: paused for want of viewers. Ends the
 * session after its time. */
static bool unwatched(struct session *s, int64_t now_us, int64_t *wait_us) {
	struct session_gpu *x = &s->gpu;
	pthread_mutex_lock(&s->lock);
	int viewers = s->viewers;
	pthread_mutex_unlock(&s->lock);
	if (viewers > 0) {
		x->unwatched_since_us = 0;
		return false;
	}
	if (x->unwatched_since_us == 0)
		x->unwatched_since_us = now_us;
	if (s->keep_unwatched)
		return false;
	int64_t pause_us = x->unwatched_since_us + (int64_t)s->unwatched_after_s * 1000000;
	int64_t end_us = pause_us + (int64_t)s->unwatched_ttl_s * 1000000;
	if (now_us >= end_us)
		session_sink(s, SESSION_ENDED, "unwatched", 4410, NULL);
	at_most(wait_us, (now_us < pause_us ? pause_us : end_us) - now_us);
	return now_us >= pause_us;
}

/* Its next chunk's numbers are set aside on disk, and so is the scene that it may
 * begin. The journal thread wakes us when they are. Under the lock. */
static bool is_saved(const struct session *s, int frames_max) {
	const struct prompt *due = prompts_due(&s->prompts, session_earliest(s));
	bool scene = s->reset_wished || (due && due->transition == TRANSITION_CUT);
	if (!s->registry->journal)
		return true;
	return s->next_index + frames_max <= s->saved.index &&
	       (!scene || s->saved.scenes == s->scenes_wished);
}

static void set_state(struct session *s, enum session_state state, const char *reason) {
	pthread_mutex_lock(&s->lock);
	bool changed =
		!session_is_over(s->state) && (s->state != state || strcmp(s->reason, reason) != 0);
	if (changed) {
		s->state = state;
		snprintf(s->reason, sizeof s->reason, "%s", reason);
	}
	pthread_mutex_unlock(&s->lock);
	if (changed)
		gpu_say(s, session_state_message(s));
}

/* At a boundary: settles pause and pace. True: its chunk may begin now. */
static bool may_begin(
	struct gpu *g, struct session *s, bool lonely, int64_t now_us, int64_t *wait_us) {
	struct session_gpu *x = &s->gpu;
	const struct model_info *m = engine_model(g->engine);
	pthread_mutex_lock(&s->lock);
	const char *reason = pause_reason(s, lonely);
	bool done = s->max_chunks > 0 && session_earliest(s) >= s->max_chunks;
	int64_t index = s->next_index;
	bool saved = is_saved(s, session_chunk_frames_max(m));
	pthread_mutex_unlock(&s->lock);
	if ((done || reason) && generator_pending(x->generator))
		return false; /* its pictures come first */
	if (done) {
		session_sink(s, SESSION_ENDED, "max_chunks", 1000, NULL);
		at_most(wait_us, 0);
		return false;
	}
	set_state(s, reason ? SESSION_PAUSED : SESSION_RUNNING, reason ? reason : "");
	if (reason) {
		pace_stop(&x->pace);
		x->wait_from_us = 0;
		return false;
	}
	if (!saved)
		session_note(s);
	if (x->blocked || !saved)
		return false;
	int64_t chunk_us = (int64_t)m->chunk_frames * 1000000 * m->fps_den / m->fps_num;
	int64_t begin_us = s->max_pace ? now_us
				       : pace_begin_us(&x->pace, index, now_us,
						 (int64_t)g->conf->lead_ms * 1000, chunk_us,
						 m->fps_num, m->fps_den);
	if (begin_us <= now_us)
		return true;
	if (x->wait_from_us == 0)
		x->wait_from_us = now_us;
	at_most(wait_us, begin_us - now_us);
	return false;
}

/* Looks after one session. True: it can make a step now. */
static bool tend(struct gpu *g, struct session *s, int64_t now_us, int64_t *wait_us) {
	struct session_gpu *x = &s->gpu;
	bool over = session_is_over(session_state(s));
	bool pending = x->generator && generator_pending(x->generator);
	if (over || (g->draining && !x->mid_chunk && !pending)) {
		if (!x->released || x->encoder || over)
			gpu_put_away(g, s, over);
		if (x->encoder)
			at_most(wait_us, 1000); /* its queue was full */
		return false;
	}
	bool lonely = unwatched(s, now_us, wait_us);
	if (!x->generator && !gpu_prepare(g, s))
		return false;
	gpu_move_frames(s);
	if (x->mid_chunk)
		return !x->blocked && !gpu_is_starving(x);
	if (g->draining)
		return false;
	return may_begin(g, s, lonely, now_us, wait_us);
}

int64_t gpu_turn(struct gpu *g, int64_t now_us) {
	struct session *all[SESSIONS_LISTED_MAX], *next = NULL;
	int64_t wait_us = GPU_FOREVER;
	int n = registry_all(g->registry, all);
	for (int i = 0; i < n; i++) {
		struct session *s = all[i];
		if (!tend(g, s, now_us, &wait_us))
			continue;
		/* A chunk that has begun goes first; then the one that waited longest. */
		bool better =
			!next || (s->gpu.mid_chunk && !next->gpu.mid_chunk) ||
			(s->gpu.mid_chunk == next->gpu.mid_chunk && s->gpu.turn < next->gpu.turn);
		if (better)
			next = s;
	}
	if (next)
		gpu_step(g, next, now_us);
	/* Nothing to enqueue: pictures on their way are worth sleeping for. */
	if (next || engine_await(g->engine))
		wait_us = 0;
	for (int i = 0; i < n; i++)
		session_unref(all[i]);
	return wait_us;
}

bool gpu_drain_turn(struct gpu *g, int64_t now_us) {
	g->draining = true;
	int64_t wait_us = gpu_turn(g, now_us);
	struct session *all[SESSIONS_LISTED_MAX];
	int n = registry_all(g->registry, all);
	bool away = true;
	for (int i = 0; i < n; i++) {
		away = away && all[i]->gpu.released && !all[i]->gpu.encoder;
		session_unref(all[i]);
	}
	if (!away && wait_us != 0)
		registry_wait(g->registry, wait_us < 0 || wait_us > 10000 ? 10000 : wait_us);
	return away;
}

static void end(struct gpu *g, enum gpu_end how) {
	registry_wake(g->registry);
	atomic_store(&g->end, (int)how);
}

/* The device is lost. Sessions stay in their journals; viewers are sent away. */
static void abandon(struct gpu *g) {
	log_line(g->registry->log, LOG_LEVEL_ERROR,
		"the device is lost: the daemon ends to start anew");
	registry_drain(g->registry);
	struct session *all[SESSIONS_LISTED_MAX];
	int n = registry_all(g->registry, all);
	for (int i = 0; i < n; i++) {
		all[i]->gpu.mid_chunk = false;
		session_unref(all[i]);
	}
	for (int i = 0; i < 100 && !gpu_drain_turn(g, wire_now_us()); i++)
		;
	end(g, GPU_BROKEN);
}

void gpu_run(struct gpu *g) {
	struct error e = {0};
	int rc = gpu_load(g, &e);
	if (rc != 0 && !registry_draining(g->registry)) {
		log_line(g->registry->log, LOG_LEVEL_ERROR, "the model cannot be loaded: %s",
			e.text);
		g->config_at_fault = conf_is_to_blame(rc);
		end(g, GPU_NO_MODEL);
		return;
	}
	while (rc == 0 && !registry_draining(g->registry)) {
		tick(g);
		int64_t wait_us = gpu_turn(g, wire_now_us());
		if (engine_broken(g->engine)) {
			abandon(g);
			return;
		}
		if (wait_us != 0)
			registry_wait(g->registry,
				wait_us < 0 || wait_us > IDLE_TICK_US ? IDLE_TICK_US : wait_us);
	}
	while (rc == 0 && !gpu_drain_turn(g, wire_now_us()))
		tick(g);
	end(g, GPU_DRAINED);
}
