/* SPDX-License-Identifier: Apache-2.0 */
/* The GPU thread: loads the model, then takes turns. A turn looks after every
 * session (gpu_tend.c), picks the one that may work and makes one step of it
 * (gpu_step.c). All times of a turn come in as now_us. Thread: the GPU thread. */
#include "server/gpu_parts.h"

#include <errno.h>
#include <stdlib.h>

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

/* ---- turns */

int64_t gpu_turn(struct gpu *g, int64_t now_us) {
	struct session *all[SESSIONS_LISTED_MAX], *next = NULL;
	int64_t wait_us = GPU_FOREVER;
	int n = registry_all(g->registry, all);
	for (int i = 0; i < n; i++) {
		struct session *s = all[i];
		if (!gpu_tend(g, s, now_us, &wait_us))
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

/* ---- the thread */

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
