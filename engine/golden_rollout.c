/* SPDX-License-Identifier: Apache-2.0 */
/* Reference files of kind "demo model rollout": prompts, noise and what a whole
 * model made of them, dense and in float32. The model is the one given beside
 * the file; its manifest says the conventions. Token ids must be equal, latents
 * within ROLLOUT_TOLERANCE (a rollout carries rounding from chunk to chunk), the
 * pictures within one level of 255 on average. Thread: the backend's. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/generator.h"
#include "engine/golden.h"

#define NAME_BYTES 64
#define ROLLOUT_TOLERANCE 1e-3
#define PICTURES_TOLERANCE 1.0 /* levels of 255, mean */

struct rollout {
	struct golden *g;
	struct engine *engine;
	struct tensor noise, latents, index, pictures; /* of the file */
	int chunks;
	float *got_latents; /* as latents */
	float *picture; /* room for one decode */
	int64_t seen; /* pictures decoded so far */
	double absolute; /* sum over compared values, in levels */
	int64_t compared;
	int64_t prompt_chunk; /* whose context comes next */
	struct error failure; /* inside a callback */
};

static int file_read(struct rollout *r, struct error *e) {
	struct golden *g = r->g;
	const struct {
		const char *name;
		struct tensor *to;
		int rank;
		enum dtype dtype;
	} wanted[] = {
		{"noise", &r->noise, 6, DTYPE_F32},
		{"latents", &r->latents, 4, DTYPE_F32},
		{"frames.index", &r->index, 1, DTYPE_I32},
		{"frames", &r->pictures, 4, DTYPE_U8},
	};
	for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
		struct tensor *t = wanted[i].to;
		if (weights_find(g->file, wanted[i].name, t) < 0 || t->rank != wanted[i].rank ||
			t->dtype != wanted[i].dtype)
			return error_set(e, -EINVAL, "%s: '%s' must be %s of %d dimensions",
				g->path, wanted[i].name, dtype_name(wanted[i].dtype),
				wanted[i].rank);
	}
	const struct model *m = g->model;
	const int64_t noise[6] = {r->noise.dim[0], m->steps, m->chunk_frames, m->latent_channels,
		model_latent_height(m), model_latent_width(m)};
	if (memcmp(noise, r->noise.dim, sizeof noise) != 0)
		return error_set(
			e, -EINVAL, "%s: 'noise' does not fit the model %s", g->path, m->name);
	if (r->latents.dim[0] != noise[0] * noise[2] ||
		memcmp(r->latents.dim + 1, noise + 3, 3 * sizeof noise[0]) != 0)
		return error_set(e, -EINVAL, "%s: 'latents' does not fit 'noise'", g->path);
	if (r->pictures.dim[0] != r->index.dim[0] || r->pictures.dim[1] != 3 ||
		r->pictures.dim[2] != m->height || r->pictures.dim[3] != m->width)
		return error_set(
			e, -EINVAL, "%s: 'frames' does not fit the model %s", g->path, m->name);
	r->chunks = (int)noise[0];
	const json_t *steps = weights_metadata(g->file, "steps");
	for (int i = 0; i < m->steps; i++) {
		if (fabs(json_number_value(json_array_get(steps, (size_t)i)) - m->timestep[i]) >
			1e-3)
			return error_set(e, -EINVAL,
				"%s: metadata \"steps\" are not those of the model %s", g->path,
				m->name);
	}
	return 0;
}

static int noise_draw(
	void *ctx, struct backend *be, struct tensor *y, int64_t chunk, int step, struct error *e) {
	const struct rollout *r = ctx;
	if (chunk >= r->chunks)
		return error_set(e, -EINVAL, "%s: has noise for %d chunks", r->g->path, r->chunks);
	size_t bytes = tensor_bytes(y);
	const char *at =
		(const char *)r->noise.data + (size_t)(chunk * r->noise.dim[1] + step) * bytes;
	backend_upload(be, y->data, at, bytes);
	return 0;
}

static void on_context(void *ctx, const struct tensor *context) {
	struct rollout *r = ctx;
	char name[NAME_BYTES];
	snprintf(name, sizeof name, "prompt%d.context", (int)r->prompt_chunk);
	float *host = malloc(tensor_bytes(context));
	if (!host) {
		error_set(&r->failure, -ENOMEM, "no memory for %s", name);
		return;
	}
	backend_download(engine_backend(r->engine), host, context->data, tensor_bytes(context));
	golden_compare(r->g, name, host, tensor_count(context), NULL, &r->failure);
	free(host);
}

static void on_latent(void *ctx, int64_t chunk, const struct tensor *latent) {
	struct rollout *r = ctx;
	backend_download(engine_backend(r->engine), r->got_latents + chunk * tensor_count(latent),
		latent->data, tensor_bytes(latent));
}

/* Channels lie last in rgb and first in the file. */
static void picture_compare(struct rollout *r, const float *rgb, int64_t row) {
	float gain, offset;
	decoder_range(engine_decoder(r->engine), &gain, &offset);
	int64_t pixels = r->pictures.dim[2] * r->pictures.dim[3];
	const uint8_t *want = (const uint8_t *)r->pictures.data + row * 3 * pixels;
	for (int64_t i = 0; i < pixels; i++) {
		for (int c = 0; c < 3; c++) {
			float v = fminf(fmaxf(rgb[i * 3 + c] * gain + offset, 0), 1);
			r->absolute += fabs(round(255 * (double)v) - want[c * pixels + i]);
		}
	}
	r->compared += 3 * pixels;
}

static void on_pictures(void *ctx, int64_t chunk, const struct tensor *rgb) {
	(void)chunk;
	struct rollout *r = ctx;
	backend_download(engine_backend(r->engine), r->picture, rgb->data, tensor_bytes(rgb));
	for (int64_t i = 0; i < rgb->dim[0]; i++, r->seen++) {
		for (int64_t row = 0; row < r->index.dim[0]; row++) {
			if (((const int32_t *)r->index.data)[row] == r->seen)
				picture_compare(
					r, r->picture + i * (tensor_count(rgb) / rgb->dim[0]), row);
		}
	}
}

static int ids_compare(struct rollout *r, int64_t chunk, const char *text, struct error *e) {
	struct golden *g = r->g;
	char name[NAME_BYTES];
	struct tensor want;
	snprintf(name, sizeof name, "prompt%d.ids", (int)chunk);
	int32_t *ids = malloc((size_t)g->model->dit.text_len * sizeof *ids);
	if (!ids)
		return error_set(e, -ENOMEM, "no memory for token ids");
	int n = engine_prompt_ids(r->engine, text, ids, e);
	if (n >= 0 && (weights_find(g->file, name, &want) < 0 || want.dtype != DTYPE_I32))
		n = error_set(e, -EINVAL, "%s: '%s' is missing", g->path, name);
	if (n >= 0) {
		int64_t wrong = llabs(tensor_count(&want) - n);
		for (int64_t i = 0; i < n && i < tensor_count(&want); i++)
			wrong += ids[i] != ((const int32_t *)want.data)[i];
		golden_report(g, name, (double)wrong, wrong == 0);
	}
	free(ids);
	return n < 0 ? n : 0;
}

/* Sets the prompts that begin with this chunk. */
static int prompts_set(struct rollout *r, struct generator *gen, int64_t chunk, struct error *e) {
	const json_t *prompts = weights_metadata(r->g->file, "prompts");
	for (size_t i = 0; i < json_array_size(prompts); i++) {
		const json_t *p = json_array_get(prompts, i);
		const char *text = json_string_value(json_array_get(p, 1));
		if (!text)
			return error_set(e, -EINVAL,
				"%s: metadata \"prompts\" must be [[chunk, text], ...]",
				r->g->path);
		if (json_integer_value(json_array_get(p, 0)) != chunk)
			continue;
		r->prompt_chunk = chunk;
		int rc = ids_compare(r, chunk, text, e);
		if (rc == 0)
			rc = generator_prompt(gen, &(struct prompt_change){.text = text}, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int chunk_render(struct rollout *r, struct generator *gen, int64_t chunk, struct error *e) {
	int rc = prompts_set(r, gen, chunk, e);
	if (rc < 0)
		return rc;
	do {
		enum progress p;
		struct frame *f;
		rc = generator_step(gen, &p, e);
		if (rc < 0)
			return rc;
		while (generator_frames(gen, &f, 1) == 1)
			frame_release(f);
	} while (!generator_boundary(gen));
	return r->failure.code ? error_set(e, r->failure.code, "%s", r->failure.text) : 0;
}

static int rollout_run(struct rollout *r, struct error *e) {
	struct generator *gen = generator_create(r->engine, 0, e);
	if (!gen)
		return e->code;
	generator_feed(gen, (struct noise_source){noise_draw, r});
	generator_watch(gen, &(struct generator_tap){on_context, on_latent, on_pictures, r});
	int rc = 0;
	for (int64_t chunk = 0; chunk < r->chunks && rc == 0; chunk++)
		rc = chunk_render(r, gen, chunk, e);
	generator_destroy(gen);
	return rc;
}

/* The rollout's own tolerance; its error stays out of g->worst. */
static int results_compare(struct rollout *r, struct error *e) {
	struct golden *g = r->g;
	struct golden before = *g;
	g->tolerance = g->tolerance > ROLLOUT_TOLERANCE ? g->tolerance : ROLLOUT_TOLERANCE;
	int rc = golden_compare(g, "latents", r->got_latents, tensor_count(&r->latents), NULL, e);
	g->tolerance = before.tolerance;
	g->worst = before.worst;
	memcpy(g->worst_name, before.worst_name, sizeof g->worst_name);
	if (rc < 0)
		return rc;
	if (r->compared != tensor_count(&r->pictures))
		return error_set(e, -EINVAL,
			"%s: frames.index names pictures that %d chunks do not give", g->path,
			r->chunks);
	double mean = r->absolute / (double)r->compared;
	golden_report(g, "frames (mean abs of 255)", mean, mean <= PICTURES_TOLERANCE);
	return 0;
}

int golden_check_rollout(struct golden *g, struct error *e) {
	struct rollout r = {.g = g};
	if (!g->model)
		return error_set(
			e, -EINVAL, "%s: needs the model it was made with (--model DIR)", g->path);
	double above = 0; /* files that do not say were made with new noise at every step */
	int rc = file_read(&r, e);
	if (rc == 0 && weights_metadata(g->file, "renoise_above"))
		rc = golden_double(g, "renoise_above", 0, 1000, &above, e);
	if (rc < 0)
		return rc;
	const struct engine_config config = {.model_dir = g->model->dir,
		.renoise_above = &above,
		.backend = backend_info(g->be).kind,
		.precision = precision_name(g->precision),
		.sparsity = "dense"};
	r.engine = engine_create(&config, e);
	if (!r.engine)
		return e->code;
	r.got_latents = malloc(tensor_bytes(&r.latents));
	r.picture = malloc((size_t)g->model->stride_t * (size_t)g->model->height *
			   (size_t)g->model->width * 3 * sizeof(float));
	rc = r.got_latents && r.picture ? rollout_run(&r, e)
					: error_set(e, -ENOMEM, "no memory for a rollout");
	if (rc == 0)
		rc = results_compare(&r, e);
	free(r.got_latents);
	free(r.picture);
	engine_destroy(r.engine);
	return rc;
}
