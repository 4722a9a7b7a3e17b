/* SPDX-License-Identifier: Apache-2.0 */
/* Reference files of the video decoders and the Wan encoder: decodes their
 * latents one at a time and all at once, with warm-up pictures kept, and
 * compares raw pictures (before clamping). Thread: the backend's. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/decoder.h"
#include "engine/golden.h"
#include "engine/wan_blocks.h"
#include "engine/wan_encoder.h"

#define STRIDE_S 8
#define STRIDE_T 4

/* What a check holds while it runs; freed whole by film_finish. */
struct film {
	struct golden *g;
	struct model model; /* only the fields a decoder reads */
	int h, w; /* latent */
	struct arena *arena;
	struct decoder *decoder;
	struct decoder_state *state;
	struct wan_encoder *encoder;
	struct wan_encoder_state *encoder_state;
	struct tensor latent, rgb; /* biggest ones wanted, in the arena */
};

static int require_4d(struct golden *g, const char *name, struct tensor *t, struct error *e) {
	int rc = weights_require(g->file, name, 0, NULL, t, e);
	if (rc == 0 && (t->rank != 4 || tensor_count(t) < 1))
		rc = error_set(
			e, -EINVAL, "%s: %s has %d dimensions, want 4", g->path, name, t->rank);
	return rc;
}

static void film_plan(struct film *f, int64_t latents, enum decoder_type type, struct tensor *l) {
	f->h = (int)l->dim[2];
	f->w = (int)l->dim[3];
	f->model.latent_channels = (int)l->dim[1];
	f->model.stride_t = STRIDE_T;
	f->model.stride_s = STRIDE_S;
	f->model.decoder.type = type;
	f->latent = tensor_4d(NULL, DTYPE_F32, latents, l->dim[1], f->h, f->w);
	f->rgb = tensor_4d(NULL, DTYPE_F32, latents * STRIDE_T, (int64_t)f->h * STRIDE_S,
		(int64_t)f->w * STRIDE_S, 3);
}

static void film_close_streams(struct film *f) {
	decoder_state_destroy(f->state);
	wan_encoder_state_destroy(f->encoder_state);
	decoder_destroy(f->decoder);
	wan_encoder_destroy(f->encoder);
	f->state = NULL;
	f->encoder_state = NULL;
	f->decoder = NULL;
	f->encoder = NULL;
}

static void film_finish(struct film *f) {
	film_close_streams(f);
	arena_destroy(f->arena);
}

/* Everything a film needs from f->arena, which may only measure. */
static int film_build(struct film *f, bool encode, struct error *e) {
	struct golden *g = f->g;
	f->latent = arena_tensor(f->arena, DTYPE_F32, 4, f->latent.dim);
	f->rgb = arena_tensor(f->arena, DTYPE_F32, 4, f->rgb.dim);
	f->decoder = decoder_create(g->be, &f->model, g->weights, f->arena, g->precision, e);
	if (!f->decoder)
		return -EINVAL;
	f->state = decoder_state_create(f->decoder, f->h, f->w, f->arena, e);
	if (!f->state)
		return -ENOMEM;
	if (!encode)
		return 0;
	f->encoder = wan_encoder_create(g->be, &f->model, g->weights, f->arena, g->precision, e);
	if (!f->encoder)
		return -EINVAL;
	f->encoder_state = wan_encoder_state_create(f->encoder, f->h, f->w, f->arena, e);
	return f->encoder_state ? 0 : -ENOMEM;
}

/* Measures, allocates, builds. */
static int film_open(struct film *f, bool encode, struct error *e) {
	f->arena = arena_measure(f->g->be);
	if (!f->arena)
		return error_set(e, -ENOMEM, "%s: no memory", f->g->path);
	int rc = film_build(f, encode, e);
	if (rc == 0)
		rc = decoder_decode(f->decoder, f->state, &f->rgb, &f->latent, f->arena, e);
	if (rc == 0 && encode) {
		struct tensor one = tensor_rows(f->latent, 0, 1), four = tensor_rows(f->rgb, 0, 1);
		rc = wan_encoder_encode(f->encoder, f->encoder_state, &one, &four, f->arena, e);
	}
	size_t bytes = arena_peak(f->arena);
	film_finish(f);
	f->arena = NULL;
	if (rc < 0)
		return rc;
	f->arena = arena_create(f->g->be, bytes, e);
	rc = f->arena ? film_build(f, encode, e) : -ENOMEM;
	if (rc == 0)
		decoder_keep_warmup(f->state, true);
	return rc;
}

/* f32 host memory <-> images with the channels last; caller frees. */
static float *frames_download(struct backend *be, const struct tensor *rgb) {
	size_t count = (size_t)tensor_count(rgb);
	int64_t pixels = rgb->dim[1] * rgb->dim[2], c = rgb->dim[3];
	float *last = malloc(count * sizeof *last), *first = malloc(count * sizeof *first);
	if (last && first) {
		backend_download(be, last, rgb->data, count * sizeof *last);
		for (int64_t n = 0; n < rgb->dim[0]; n++) {
			for (int64_t p = 0; p < pixels; p++) {
				for (int64_t k = 0; k < c; k++)
					first[(n * c + k) * pixels + p] =
						last[(n * pixels + p) * c + k];
			}
		}
	} else {
		free(first);
		first = NULL;
	}
	free(last);
	return first;
}

static int frames_upload(
	struct backend *be, struct tensor *rgb, const struct tensor *host, struct error *e) {
	size_t count = (size_t)tensor_count(host);
	int64_t pixels = host->dim[2] * host->dim[3], c = host->dim[1];
	float *first = malloc(count * sizeof *first), *last = malloc(count * sizeof *last);
	int rc = first && last ? 0 : error_set(e, -ENOMEM, "no memory for pictures");
	if (rc == 0) {
		weights_to_f32(host, first);
		for (int64_t n = 0; n < host->dim[0]; n++) {
			for (int64_t k = 0; k < c; k++) {
				for (int64_t p = 0; p < pixels; p++)
					last[(n * pixels + p) * c + k] =
						first[(n * c + k) * pixels + p];
			}
		}
		backend_upload(be, rgb->data, last, count * sizeof *last);
	}
	free(first);
	free(last);
	return rc;
}

/* Decodes the latents `from` in calls of `step` and compares with `to`. */
static int check_decode(
	struct film *f, const char *from, const char *to, int64_t step, struct error *e) {
	struct golden *g = f->g;
	struct tensor host;
	int rc = require_4d(g, from, &host, e);
	if (rc < 0)
		return rc;
	if (host.dim[0] > f->latent.dim[0] || host.dim[1] != f->latent.dim[1] ||
		host.dim[2] != f->h || host.dim[3] != f->w)
		return error_set(
			e, -EINVAL, "%s: %s differs in size from the first latent", g->path, from);
	float *flat = malloc((size_t)tensor_count(&host) * sizeof *flat);
	if (!flat)
		return error_set(e, -ENOMEM, "%s: no memory", from);
	weights_to_f32(&host, flat);
	backend_upload(g->be, f->latent.data, flat, (size_t)tensor_count(&host) * sizeof *flat);
	free(flat);
	int64_t done = 0;
	for (int64_t i = 0; rc == 0 && i < host.dim[0]; i += step) {
		int64_t n = host.dim[0] - i < step ? host.dim[0] - i : step;
		struct tensor part = tensor_rows(f->latent, i, n);
		struct tensor out = tensor_rows(f->rgb, done, f->rgb.dim[0] - done);
		int pictures = decoder_pictures(f->decoder, f->state, (int)n);
		rc = decoder_decode(f->decoder, f->state, &out, &part, f->arena, e);
		done += pictures;
	}
	if (rc < 0)
		return rc;
	struct tensor made = tensor_rows(f->rgb, 0, done);
	float *got = frames_download(g->be, &made);
	rc = got ? golden_compare(g, to, got, tensor_count(&made), NULL, e)
		 : error_set(e, -ENOMEM, "%s: no memory for pictures", to);
	free(got);
	return rc;
}

int golden_check_taehv(struct golden *g, struct error *e) {
	struct tensor latent;
	struct film f = {.g = g};
	int rc = require_4d(g, "latent", &latent, e);
	if (rc < 0)
		return rc;
	film_plan(&f, latent.dim[0], DECODER_TAEHV, &latent);
	rc = film_open(&f, false, e);
	for (int64_t step = 1; rc == 0 && step <= latent.dim[0]; step += latent.dim[0] - 1) {
		decoder_restart(f.decoder, f.state);
		rc = check_decode(&f, "latent", "frames", step, e);
		if (latent.dim[0] == 1)
			break;
	}
	film_finish(&f);
	return rc;
}

static int check_encode(struct film *f, struct error *e) {
	struct golden *g = f->g;
	struct tensor frames, latent;
	int rc = require_4d(g, "encode.frames", &frames, e);
	if (rc == 0)
		rc = require_4d(g, "encode.latent", &latent, e);
	if (rc < 0)
		return rc;
	if (frames.dim[0] > f->rgb.dim[0] || latent.dim[0] > f->latent.dim[0] ||
		frames.dim[1] != 3 || frames.dim[2] != f->rgb.dim[1] ||
		frames.dim[3] != f->rgb.dim[2])
		return error_set(
			e, -EINVAL, "%s: encode.frames differ in size from the film", g->path);
	struct tensor rgb = tensor_rows(f->rgb, 0, frames.dim[0]);
	struct tensor made = tensor_rows(f->latent, 0, latent.dim[0]);
	rc = frames_upload(g->be, &rgb, &frames, e);
	if (rc == 0)
		rc = wan_encoder_encode(f->encoder, f->encoder_state, &made, &rgb, f->arena, e);
	if (rc < 0)
		return rc;
	size_t count = (size_t)tensor_count(&made);
	float *got = malloc(count * sizeof *got);
	if (!got)
		return error_set(e, -ENOMEM, "%s: no memory", g->path);
	backend_download(g->be, got, made.data, count * sizeof *got);
	rc = golden_compare(g, "encode.latent", got, (int64_t)count, NULL, e);
	free(got);
	return rc;
}

/* Decodes all chunks of the file, `step` latents a call. */
static int check_chunks(struct film *f, int64_t step, struct error *e) {
	char from[32], to[32];
	struct tensor t;
	decoder_restart(f->decoder, f->state);
	for (int i = 0;; i++) {
		snprintf(from, sizeof from, "chunk%d.latent", i);
		snprintf(to, sizeof to, "chunk%d.frames", i);
		if (weights_find(f->g->file, from, &t) < 0)
			return 0;
		int rc = check_decode(f, from, to, step, e);
		if (rc < 0)
			return rc;
	}
}

int golden_check_wan_vae(struct golden *g, struct error *e) {
	struct tensor latent, t;
	struct film f = {.g = g};
	int rc = require_4d(g, "chunk0.latent", &latent, e);
	if (rc < 0)
		return rc;
	/* Room for the longest chunk and the pictures to encode. */
	int64_t most = latent.dim[0];
	char name[32];
	for (int i = 1; snprintf(name, sizeof name, "chunk%d.latent", i) > 0 &&
			weights_find(g->file, name, &t) == 0;
		i++) {
		if (t.rank > 0 && t.dim[0] > most)
			most = t.dim[0];
	}
	bool encode = weights_find(g->file, "encode.latent", &t) == 0;
	if (encode && t.rank > 0 && t.dim[0] > most)
		most = t.dim[0];
	film_plan(&f, most, DECODER_WAN_VAE, &latent);
	f.model.decoder.denormalise = latent.dim[1] == WAN_LATENT_CHANNELS;
	memcpy(f.model.decoder.mean, wan_latent_mean, sizeof wan_latent_mean);
	memcpy(f.model.decoder.std, wan_latent_std, sizeof wan_latent_std);
	rc = film_open(&f, encode, e);
	if (rc == 0)
		rc = check_chunks(&f, 1, e);
	if (rc == 0)
		rc = check_chunks(&f, most, e);
	if (rc == 0 && encode)
		rc = check_encode(&f, e);
	film_finish(&f);
	return rc;
}
