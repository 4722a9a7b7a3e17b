/* SPDX-License-Identifier: Apache-2.0 */
/* Looking into a generator of a loaded model and feeding it noise: for reference
 * checks and offline rendering, not for the server. None of it works on the
 * test picture. Thread: the backend's. */
#ifndef ENGINE_GENERATOR_H
#define ENGINE_GENERATOR_H
#include "engine/decoder.h"
#include "engine/engine.h"
#include "engine/sampler.h"

/* Called during generator_step with tensors in backend memory that are good
 * until it returns. Any may be NULL. */
struct generator_tap {
	/* context [n, text_dim] f32 of a prompt that takes effect. */
	void (*context)(void *ctx, const struct tensor *context);
	/* latent [f, C, h, w] f32 of a finished chunk. */
	void (*latent)(void *ctx, int64_t chunk, const struct tensor *latent);
	/* rgb [n, H, W, 3] f32, raw: value * gain + offset is in [0, 1] after clamping. */
	void (*pictures)(void *ctx, int64_t chunk, const struct tensor *rgb);
	void *ctx;
};
void generator_watch(struct generator *g, const struct generator_tap *tap);
/* Noise from here instead of from the seed. */
void generator_feed(struct generator *g, struct noise_source source);

/* Parts of the engine that such callers share. */
struct backend *engine_backend(const struct engine *en);
const struct model *engine_model_config(const struct engine *en);
const struct decoder *engine_decoder(const struct engine *en);
/* Token ids as the text encoder gets them; room for dit.text_len. */
int engine_prompt_ids(const struct engine *en, const char *utf8, int32_t *ids, struct error *e);
#endif
