/* SPDX-License-Identifier: Apache-2.0 */
/* What a run of lightforced-rollout is compared with: a file of latents, whose
 * pictures are decoded chunk by chunk beside the run's own and held against them.
 * Thread: the program's only one. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/weights.h"
#include "tools/rollout.h"

static int prompts_take(const struct reference *r, struct options *o, struct error *e) {
	const json_t *prompts = weights_metadata(r->file, "prompts");
	for (size_t i = 0; i < json_array_size(prompts); i++) {
		const json_t *p = json_array_get(prompts, i);
		const char *text = json_string_value(json_array_get(p, 1));
		if (!text || options_cue(o, json_integer_value(json_array_get(p, 0)),
				     TRANSITION_SWITCH, text) < 0)
			return error_set(e, -EINVAL,
				"%s: metadata \"prompts\" must be [[chunk, text], ...]",
				o->compare);
	}
	return o->cues ? 0 : error_set(e, -EINVAL, "%s: has no prompts", o->compare);
}

static int file_read(struct reference *r, struct options *o, struct error *e) {
	const struct model *m = engine_model_config(r->engine);
	r->file = weights_open("", &o->compare, 1, NULL, e);
	if (!r->file)
		return -EINVAL;
	if (!o->cues && prompts_take(r, o, e) < 0)
		return -EINVAL;
	const int64_t latent[3] = {
		m->latent_channels, model_latent_height(m), model_latent_width(m)};
	if (weights_find(r->file, "latents", &r->latents) < 0 || r->latents.rank != 4 ||
		r->latents.dtype != DTYPE_F32 ||
		memcmp(r->latents.dim + 1, latent, sizeof latent) != 0)
		return error_set(
			e, -EINVAL, "%s: 'latents' is missing or not of this model", o->compare);
	if (weights_find(r->file, "noise", &r->noise) == 0 &&
		(r->noise.rank != 6 || r->noise.dtype != DTYPE_F32 || r->noise.dim[1] != m->steps ||
			r->noise.dim[2] != m->chunk_frames ||
			memcmp(r->noise.dim + 3, latent, sizeof latent) != 0))
		return error_set(e, -EINVAL, "%s: 'noise' is not of this model", o->compare);
	int64_t chunks = r->latents.dim[0] / m->chunk_frames;
	if (r->noise.data && r->noise.dim[0] < chunks)
		chunks = r->noise.dim[0];
	if (o->chunks == 0 || o->chunks > chunks)
		o->chunks = chunks;
	return 0;
}

/* Pictures of the reference come from a decoder state of our own. */
static int decoder_carve(struct reference *r, struct error *e) {
	const struct model *m = engine_model_config(r->engine);
	const int h = model_latent_height(m), w = model_latent_width(m);
	r->decoder = decoder_state_create(engine_decoder(r->engine), h, w, r->arena, e);
	if (!r->decoder)
		return e->code;
	r->device_latent =
		arena_tensor(r->arena, DTYPE_F32, 4, (int64_t[]){1, m->latent_channels, h, w});
	r->device_rgb = arena_tensor(
		r->arena, DTYPE_F32, 4, (int64_t[]){m->stride_t, m->height, m->width, 3});
	return 0;
}

static int decoder_build(struct reference *r, struct error *e) {
	struct backend *be = engine_backend(r->engine);
	r->arena = arena_measure(be);
	r->scratch = arena_measure(be);
	int rc = decoder_carve(r, e);
	if (rc == 0)
		rc = decoder_decode(engine_decoder(r->engine), r->decoder, &r->device_rgb,
			&r->device_latent, r->scratch, e);
	size_t bytes = arena_peak(r->arena), scratch = arena_peak(r->scratch);
	decoder_state_destroy(r->decoder);
	r->decoder = NULL;
	arena_destroy(r->arena);
	arena_destroy(r->scratch);
	r->arena = rc < 0 ? NULL : arena_create(be, bytes, e);
	r->scratch = r->arena ? arena_create(be, scratch, e) : NULL;
	if (!r->scratch)
		return e->code;
	size_t pictures = tensor_bytes(&r->device_rgb);
	r->rgb = malloc(pictures);
	r->want = malloc(pictures * (size_t)engine_model_config(r->engine)->chunk_frames);
	if (!r->rgb || !r->want)
		return error_set(e, -ENOMEM, "no memory for pictures");
	return decoder_carve(r, e);
}

int reference_open(struct reference *r, struct options *o, struct engine *en, struct error *e) {
	r->engine = en;
	int rc = file_read(r, o, e);
	return rc < 0 ? rc : decoder_build(r, e);
}

void reference_close(struct reference *r) {
	decoder_state_destroy(r->decoder);
	arena_destroy(r->scratch);
	arena_destroy(r->arena);
	weights_close(r->file);
	free(r->rgb);
	free(r->want);
}

int reference_noise(
	void *ctx, struct backend *be, struct tensor *y, int64_t chunk, int step, struct error *e) {
	const struct reference *r = ctx;
	if (chunk >= r->noise.dim[0])
		return error_set(e, -EINVAL, "the noise ends with chunk %d", (int)r->noise.dim[0]);
	size_t bytes = tensor_bytes(y);
	backend_upload(be, y->data,
		(const char *)r->noise.data + (size_t)(chunk * r->noise.dim[1] + step) * bytes,
		bytes);
	return 0;
}

int reference_decode(struct reference *r, int64_t chunk, struct error *e) {
	const int frames = engine_model_config(r->engine)->chunk_frames;
	const struct decoder *d = engine_decoder(r->engine);
	struct backend *be = decoder_backend(d);
	int64_t size = tensor_count(&r->device_latent), at = 0;
	int64_t picture = tensor_count(&r->device_rgb) / r->device_rgb.dim[0];
	const float *latent = (const float *)r->latents.data + chunk * frames * size;
	r->want_at = 0;
	for (int i = 0; i < frames; i++) {
		int n = decoder_pictures(d, r->decoder, 1);
		backend_upload(be, r->device_latent.data, latent + i * size,
			tensor_bytes(&r->device_latent));
		int rc = decoder_decode(
			d, r->decoder, &r->device_rgb, &r->device_latent, r->scratch, e);
		if (rc < 0)
			return rc;
		backend_download(be, r->want + at, r->device_rgb.data,
			(size_t)(n * picture) * sizeof(float));
		at += n * picture;
	}
	return 0;
}

static double clamped(float v, float gain, float offset) {
	return fmin(fmax((double)v * (double)gain + (double)offset, 0), 1);
}

void reference_compare(struct reference *r, const struct tensor *rgb) {
	float gain, offset;
	decoder_range(engine_decoder(r->engine), &gain, &offset);
	int64_t n = tensor_count(rgb);
	backend_download(engine_backend(r->engine), r->rgb, rgb->data, tensor_bytes(rgb));
	for (int64_t i = 0; i < n; i++) {
		double d = clamped(r->rgb[i], gain, offset) -
			   clamped(r->want[r->want_at + i], gain, offset);
		r->squared += d * d;
	}
	r->want_at += n;
	r->compared += n;
}

double reference_psnr_db(const struct reference *r) {
	return -10 * log10(r->squared / (double)r->compared);
}
