/* SPDX-License-Identifier: Apache-2.0 */
/* The few-step sampler. One buffer per step holds its noise; the first of them
 * becomes the noisy latent and is then written over by every step.
 * Thread: the backend's. */
#include "engine/sampler.h"

#include <errno.h>
#include <stdlib.h>

struct sampler {
	struct backend *be;
	struct tensor noise[MODEL_STEPS_MAX]; /* [f, C, H, W] each; [0] is x */
	struct tensor flow, latent;
	int steps_max;
	struct sampler_steps steps;
	int step;
	uint64_t seed;
	struct noise_source source;
};

static int philox_draw(
	void *ctx, struct backend *be, struct tensor *y, int64_t chunk, int step, struct error *e) {
	(void)e;
	const struct sampler *s = ctx;
	backend_ops(be)->noise(be, y, s->seed, chunk, step);
	return 0;
}

struct sampler *sampler_create(struct backend *be, int frames, int channels, int height, int width,
	int steps_max, struct arena *a, struct error *e) {
	struct sampler *s = calloc(1, sizeof *s);
	if (!s) {
		error_set(e, -ENOMEM, "no memory for a sampler");
		return NULL;
	}
	const int64_t dim[4] = {frames, channels, height, width};
	s->be = be;
	s->steps_max = steps_max;
	for (int i = 0; i < steps_max; i++)
		s->noise[i] = arena_tensor(a, DTYPE_F32, 4, dim);
	s->flow = arena_tensor(a, DTYPE_F32, 4, dim);
	s->latent = arena_tensor(a, DTYPE_F32, 4, dim);
	sampler_seed(s, 0);
	return s;
}

void sampler_destroy(struct sampler *s) {
	free(s);
}

void sampler_seed(struct sampler *s, uint64_t seed) {
	s->seed = seed;
	s->source = (struct noise_source){philox_draw, s};
}

void sampler_source(struct sampler *s, struct noise_source source) {
	s->source = source;
}

/* Whether new noise is mixed in after pass i. */
static bool renoises(const struct sampler *s, int i) {
	return i + 1 < s->steps.count && s->steps.timestep[i] > s->steps.renoise_above;
}

int sampler_begin(
	struct sampler *s, const struct sampler_steps *steps, int64_t chunk, struct error *e) {
	if (steps->count < 1 || steps->count > s->steps_max)
		return error_set(e, -EINVAL, "a chunk of %d steps: 1 to %d are possible",
			steps->count, s->steps_max);
	s->steps = *steps;
	s->step = 0;
	for (int i = 0; i < steps->count; i++) {
		if (i > 0 && !renoises(s, i - 1))
			continue;
		int r = s->source.draw(s->source.ctx, s->be, &s->noise[i], chunk, i, e);
		if (r < 0)
			return r;
	}
	return 0;
}

double sampler_timestep(const struct sampler *s) {
	return s->steps.timestep[s->step];
}

const struct tensor *sampler_input(const struct sampler *s) {
	return &s->noise[0];
}

struct tensor *sampler_flow(struct sampler *s) {
	return &s->flow;
}

bool sampler_advance(struct sampler *s) {
	bool last = s->step + 1 == s->steps.count, again = renoises(s, s->step);
	float from = (float)(s->steps.timestep[s->step] / 1000),
	      to = last ? 0 : (float)(s->steps.timestep[s->step + 1] / 1000);
	/* Without new noise only as far along the flow as the next level, in place. */
	const float sigma[2] = {again ? from : from - to, to};
	struct tensor *x = &s->noise[0], *end = last || again ? &s->latent : x;
	backend_ops(s->be)->denoise(s->be, end, again ? x : NULL, x, &s->flow,
		again ? &s->noise[s->step + 1] : NULL, sigma);
	s->step++;
	return !last;
}

const struct tensor *sampler_latent(const struct sampler *s) {
	return &s->latent;
}
