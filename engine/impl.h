/* SPDX-License-Identifier: Apache-2.0 */
/* What stands behind engine.h: one table of functions per implementation. The
 * public functions in engine.c only look up the table; they hold no state.
 * An implementation embeds struct engine and struct generator as the first
 * member of its own structs. Thread: as engine.h says for each function.
 * Included by implementations only. */
#ifndef ENGINE_IMPL_H
#define ENGINE_IMPL_H
#include "engine/engine.h"

struct engine_impl {
	/* Must set ->impl of what they return. */
	struct engine *(*create)(const struct engine_config *c, struct error *e);
	struct generator *(*generator_create)(struct engine *en, uint64_t seed, struct error *e);

	void (*destroy)(struct engine *en); /* never NULL */
	int (*prompt_tokens)(const struct engine *en, const char *utf8, struct error *e);
	bool (*broken)(const struct engine *en);

	void (*generator_destroy)(struct generator *g); /* never NULL */
	int (*prompt)(struct generator *g, const struct prompt_change *p, struct error *e);
	int (*reset)(struct generator *g, uint64_t seed, struct error *e);
	void (*resume_at)(struct generator *g, int64_t chunk, int64_t index);
	bool (*boundary)(const struct generator *g);
	int64_t (*chunk)(const struct generator *g);
	int (*chunk_frames)(const struct generator *g);
	int (*step)(struct generator *g, enum progress *p, struct error *e);
	int (*frames)(struct generator *g, struct frame **out, int max);
	struct chunk_info (*chunk_info)(const struct generator *g);
	bool (*pending)(const struct generator *g);
	int (*await)(struct engine *en);
};

struct engine {
	const struct engine_impl *impl;
	struct model_info info; /* what engine_model answers */
};

struct generator {
	const struct engine_impl *impl;
};

extern const struct engine_impl engine_impl_model; /* loaded.c; its generators: generator*.c */
extern const struct engine_impl engine_impl_test; /* test.c */
#endif
