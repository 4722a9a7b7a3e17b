/* SPDX-License-Identifier: Apache-2.0 */
/* From noise to a clean latent in a few steps: the model says where noise and
 * picture part (flow); the picture is read off and new noise is mixed in at the
 * next, lower level, or, at low levels, x goes along the flow to it (Euler). All noise of a chunk
 * is drawn when it begins, so that a pass holds nothing that changes from chunk to chunk. Thread:
 * the backend's. Source: Self Forcing; engine/MODEL.md. */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H
#include "engine/arena.h"
#include "engine/model.h"

/* Timesteps of a chunk's passes, falling, 1000 .. 0 exclusive. */
struct sampler_steps {
	int count;
	double timestep[MODEL_STEPS_MAX];
	double renoise_above; /* as struct model's */
};

/* Where noise comes from; y [f, C, H, W] f32 in backend memory. Step 0 is what
 * the chunk starts as, step i > 0 is mixed in before pass i, if any is. */
struct noise_source {
	int (*draw)(void *ctx, struct backend *be, struct tensor *y, int64_t chunk, int step,
		struct error *e);
	void *ctx;
};

struct sampler;
/* Buffers for latents [frames, channels, height, width] and at most steps_max
 * steps; memory from `a`, which may be measuring. */
struct sampler *sampler_create(struct backend *be, int frames, int channels, int height, int width,
	int steps_max, struct arena *a, struct error *e);
void sampler_destroy(struct sampler *s); /* memory stays with its arena; NULL is fine */
/* Philox by (seed, chunk, step), from now on. */
void sampler_seed(struct sampler *s, uint64_t seed);
/* Another source instead; ctx is borrowed. */
void sampler_source(struct sampler *s, struct noise_source source);

/* Draws the noise of a chunk and stands before its first pass. */
int sampler_begin(
	struct sampler *s, const struct sampler_steps *steps, int64_t chunk, struct error *e);
double sampler_timestep(const struct sampler *s); /* of the pass to run now */
const struct tensor *sampler_input(const struct sampler *s);
struct tensor *sampler_flow(struct sampler *s); /* the pass writes its output here */
/* Takes the flow; false when that was the last pass and the latent is ready. */
bool sampler_advance(struct sampler *s);
const struct tensor *sampler_latent(const struct sampler *s); /* [f, C, H, W] f32 */
#endif
