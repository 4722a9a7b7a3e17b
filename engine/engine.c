/* SPDX-License-Identifier: Apache-2.0 */
/* The public functions of engine.h. Each looks up the implementation that the
 * backend's name chose and calls it; there is no state here.
 * Thread: as engine.h says. */
#include "engine/engine.h"

#include <errno.h>
#include <string.h>

#include "engine/impl.h"

/* By the backend's name up to a colon; the last row takes every other. */
static const struct {
	const char *backend;
	const struct engine_impl *impl;
} impls[] = {
	{"test", &engine_impl_test},
	{NULL, &engine_impl_model},
};

static const struct engine_impl *impl_find(const char *backend) {
	size_t i = 0, n = backend ? strcspn(backend, ":") : 0;
	while (impls[i].backend &&
		(n != strlen(impls[i].backend) || strncmp(backend, impls[i].backend, n) != 0))
		i++;
	return impls[i].impl;
}

struct engine *engine_create(const struct engine_config *c, struct error *e) {
	return impl_find(c->backend)->create(c, e);
}

void engine_destroy(struct engine *en) {
	if (en)
		en->impl->destroy(en);
}

const struct model_info *engine_model(const struct engine *en) {
	return &en->info;
}

int engine_prompt_tokens(const struct engine *en, const char *utf8, struct error *e) {
	return en->impl->prompt_tokens(en, utf8, e);
}

bool engine_broken(const struct engine *en) {
	return en->impl->broken(en);
}

struct generator *generator_create(struct engine *en, uint64_t seed, struct error *e) {
	return en->impl->generator_create(en, seed, e);
}

void generator_destroy(struct generator *g) {
	if (g)
		g->impl->generator_destroy(g);
}

int generator_prompt(struct generator *g, const struct prompt_change *p, struct error *e) {
	return g->impl->prompt(g, p, e);
}

int generator_reset(struct generator *g, uint64_t seed, struct error *e) {
	return g->impl->reset(g, seed, e);
}

void generator_resume_at(struct generator *g, int64_t chunk, int64_t index) {
	g->impl->resume_at(g, chunk, index);
}

bool generator_boundary(const struct generator *g) {
	return g->impl->boundary(g);
}

int64_t generator_chunk(const struct generator *g) {
	return g->impl->chunk(g);
}

int generator_chunk_frames(const struct generator *g) {
	return g->impl->chunk_frames(g);
}

int generator_step(struct generator *g, enum progress *p, struct error *e) {
	return g->impl->step(g, p, e);
}

int generator_frames(struct generator *g, struct frame **out, int max) {
	return g->impl->frames(g, out, max);
}

struct chunk_info generator_chunk_info(const struct generator *g) {
	return g->impl->chunk_info(g);
}

bool generator_pending(const struct generator *g) {
	return g->impl->pending(g);
}

int engine_await(struct engine *en) {
	return en->impl->await(en);
}
