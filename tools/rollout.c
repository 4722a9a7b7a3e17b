/* SPDX-License-Identifier: Apache-2.0 */
/* lightforced-rollout: renders a video without a server, the same bytes every
 * time, for benches and evaluation.
 *
 *	lightforced-rollout --model DIR --prompt TEXT [--at CHUNK [--mode M] --prompt TEXT]...
 *	    [--seed N] [--chunks N] [--sparsity P] [--steps LIST] [--backend B] [--precision P]
 *	    [--threads N] [--out FILE.y4m] [--latents FILE] [--compare FILE] [--eager] [--one-lane]
 *
 * --eager and --one-lane switch off what a GPU backend does to be fast (replaying
 * recorded passes, decoding beside them): the bytes must be the same.
 * --latents writes the latents as safetensors, with the prompts. --compare reads
 * such a file (or a reference file of kind "demo model rollout"): its prompts are
 * taken when none are given, its noise when it has some, and the pictures are
 * held against those that its latents decode to: demo_sparse_psnr_db, over all
 * chunks but the first. Exit status: 0, 1 on failure, 2 on wrong usage. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/weights.h"
#include "tools/rollout.h"

#define CHUNKS_DEFAULT 10

struct render {
	struct options o;
	struct engine *engine;
	const struct model *m;
	FILE *out;
	/* Of this run. */
	float *latents; /* [chunks * f, C, h, w], when asked for */
	int64_t latent_size; /* floats of one chunk */
	/* What it is compared with. */
	struct weights *file;
	struct tensor noise, reference; /* of the file; data NULL: none */
	struct arena *arena, *scratch;
	struct decoder_state *decoder;
	struct tensor device_latent, device_rgb;
	float *rgb, *want; /* host, pictures of one latent frame and of one chunk */
	int64_t want_at; /* picture of the chunk */
	double squared;
	int64_t compared;
	struct chunk_info sum;
	int64_t begun_us, took_us, reported_us, stepping_us;
	uint64_t allocations; /* made when the second chunk was done */
	size_t free_bytes; /* of the device, then */
	struct error failure; /* inside a callback */
};

/* ---- what is compared with --------------------------------------------------- */

static int prompts_take(struct render *r, struct error *e) {
	const json_t *prompts = weights_metadata(r->file, "prompts");
	for (size_t i = 0; i < json_array_size(prompts); i++) {
		const json_t *p = json_array_get(prompts, i);
		const char *text = json_string_value(json_array_get(p, 1));
		if (!text || options_cue(&r->o, json_integer_value(json_array_get(p, 0)),
				     TRANSITION_SWITCH, text) < 0)
			return error_set(e, -EINVAL,
				"%s: metadata \"prompts\" must be [[chunk, text], ...]",
				r->o.compare);
	}
	return r->o.cues ? 0 : error_set(e, -EINVAL, "%s: has no prompts", r->o.compare);
}

static int reference_read(struct render *r, struct error *e) {
	const struct model *m = r->m;
	r->file = weights_open("", &r->o.compare, 1, NULL, e);
	if (!r->file)
		return -EINVAL;
	if (!r->o.cues && prompts_take(r, e) < 0)
		return -EINVAL;
	const int64_t latent[3] = {
		m->latent_channels, model_latent_height(m), model_latent_width(m)};
	if (weights_find(r->file, "latents", &r->reference) < 0 || r->reference.rank != 4 ||
		r->reference.dtype != DTYPE_F32 ||
		memcmp(r->reference.dim + 1, latent, sizeof latent) != 0)
		return error_set(
			e, -EINVAL, "%s: 'latents' is missing or not of this model", r->o.compare);
	if (weights_find(r->file, "noise", &r->noise) == 0 &&
		(r->noise.rank != 6 || r->noise.dtype != DTYPE_F32 || r->noise.dim[1] != m->steps ||
			r->noise.dim[2] != m->chunk_frames ||
			memcmp(r->noise.dim + 3, latent, sizeof latent) != 0))
		return error_set(e, -EINVAL, "%s: 'noise' is not of this model", r->o.compare);
	int64_t chunks = r->reference.dim[0] / m->chunk_frames;
	if (r->noise.data && r->noise.dim[0] < chunks)
		chunks = r->noise.dim[0];
	if (r->o.chunks == 0 || r->o.chunks > chunks)
		r->o.chunks = chunks;
	return 0;
}

/* Pictures of the reference come from a decoder state of our own. */
static int reference_carve(struct render *r, struct error *e) {
	const struct model *m = r->m;
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

static int reference_build(struct render *r, struct error *e) {
	struct backend *be = engine_backend(r->engine);
	r->arena = arena_measure(be);
	r->scratch = arena_measure(be);
	int rc = reference_carve(r, e);
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
	r->want = malloc(pictures * (size_t)r->m->chunk_frames);
	if (!r->rgb || !r->want)
		return error_set(e, -ENOMEM, "no memory for pictures");
	return reference_carve(r, e);
}

/* Decodes the reference's chunk into r->want. */
static int reference_decode(struct render *r, int64_t chunk, struct error *e) {
	const struct decoder *d = engine_decoder(r->engine);
	struct backend *be = decoder_backend(d);
	int64_t size = tensor_count(&r->device_latent), at = 0;
	int64_t picture = tensor_count(&r->device_rgb) / r->device_rgb.dim[0];
	const float *latent = (const float *)r->reference.data + chunk * r->m->chunk_frames * size;
	r->want_at = 0;
	for (int i = 0; i < r->m->chunk_frames; i++) {
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

/* ---- callbacks ------------------------------------------------------------------ */

static int noise_draw(
	void *ctx, struct backend *be, struct tensor *y, int64_t chunk, int step, struct error *e) {
	const struct render *r = ctx;
	if (chunk >= r->noise.dim[0])
		return error_set(e, -EINVAL, "the noise ends with chunk %d", (int)r->noise.dim[0]);
	size_t bytes = tensor_bytes(y);
	backend_upload(be, y->data,
		(const char *)r->noise.data + (size_t)(chunk * r->noise.dim[1] + step) * bytes,
		bytes);
	return 0;
}

static void on_latent(void *ctx, int64_t chunk, const struct tensor *latent) {
	struct render *r = ctx;
	if (r->latents)
		backend_download(engine_backend(r->engine), r->latents + chunk * r->latent_size,
			latent->data, tensor_bytes(latent));
	if (r->reference.data && reference_decode(r, chunk, &r->failure) < 0)
		r->reference.data = NULL; /* the failure is reported after the step */
}

static double clamped(float v, float gain, float offset) {
	return fmin(fmax((double)v * (double)gain + (double)offset, 0), 1);
}

static void on_pictures(void *ctx, int64_t chunk, const struct tensor *rgb) {
	struct render *r = ctx;
	if (!r->reference.data || chunk == 0)
		return;
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

/* ---- rendering ------------------------------------------------------------------- */

static int64_t clock_us(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void chunk_report(struct render *r, const struct chunk_info *info) {
	int64_t now = clock_us();
	printf("chunk %lld: %d pictures, kept %d of %d blocks, condition %.1f ms, transformer %.1f "
	       "ms, decoder %.1f ms; %.1f ms since the last\n",
		(long long)info->chunk, info->frames, info->kept_blocks, info->visible_blocks,
		(double)info->condition_us / 1e3, (double)info->dit_us / 1e3,
		(double)info->decode_us / 1e3, (double)(now - r->reported_us) / 1e3);
	r->reported_us = now;
	r->sum.frames += info->frames;
	r->sum.condition_us += info->condition_us;
	r->sum.dit_us += info->dit_us;
	r->sum.decode_us += info->decode_us;
	if (info->chunk != 1 && r->o.chunks != 1)
		return;
	r->allocations = backend_allocations(engine_backend(r->engine));
	r->free_bytes = backend_info(engine_backend(r->engine)).bytes_free;
}

/* Writes what is done; a chunk is told with its last picture. */
static int frames_take(struct render *r, struct generator *g, struct error *e) {
	struct frame *f;
	int rc = 0;
	while (generator_frames(g, &f, 1) == 1) {
		bool last = f->frame_in_chunk + 1 == f->frames_in_chunk;
		if (rc == 0 && r->out)
			rc = pictures_write(r->out, f, e);
		frame_release(f);
		struct chunk_info info = generator_chunk_info(g);
		if (last)
			chunk_report(r, &info);
	}
	if (rc == 0 && r->failure.code)
		rc = error_set(e, r->failure.code, "%s", r->failure.text);
	return rc;
}

static int chunk_render(struct render *r, struct generator *g, int64_t chunk, struct error *e) {
	for (int i = 0; i < r->o.cues; i++) {
		const struct cue *c = &r->o.cue[i];
		const struct prompt_change change = {c->text, c->mode, (uint32_t)i + 1};
		if (c->chunk == chunk && generator_prompt(g, &change, e) < 0)
			return -EINVAL;
	}
	do {
		enum progress p;
		int64_t from = clock_us();
		int rc = generator_step(g, &p, e);
		r->stepping_us += clock_us() - from;
		if (frames_take(r, g, e) < 0 || rc < 0)
			return e->code;
	} while (!generator_boundary(g));
	return 0;
}

/* All chunks, and the pictures still on their way at the end. */
static int chunks_render(struct render *r, struct generator *g, struct error *e) {
	int rc = 0;
	r->begun_us = r->reported_us = clock_us();
	for (int64_t c = 0; c < r->o.chunks && rc == 0; c++)
		rc = chunk_render(r, g, c, e);
	while (rc == 0 && generator_pending(g)) {
		engine_await(r->engine);
		rc = frames_take(r, g, e);
	}
	r->took_us = clock_us() - r->begun_us;
	return rc;
}

static int outputs_open(struct render *r, struct error *e) {
	if (r->o.chunks == 0)
		r->o.chunks = CHUNKS_DEFAULT;
	r->latent_size = (int64_t)r->m->chunk_frames * r->m->latent_channels *
			 model_latent_height(r->m) * model_latent_width(r->m);
	if (r->o.latents) {
		r->latents = malloc((size_t)(r->o.chunks * r->latent_size) * sizeof(float));
		if (!r->latents)
			return error_set(e, -ENOMEM, "no memory for %lld chunks of latents",
				(long long)r->o.chunks);
	}
	if (!r->o.out)
		return 0;
	r->out = pictures_open(r->o.out, engine_model(r->engine), e);
	return r->out ? 0 : e->code;
}

static void summary_print(const struct render *r) {
	const struct model_info *i = engine_model(r->engine);
	double chunks = (double)r->o.chunks;
	struct backend *be = engine_backend(r->engine);
	struct backend_recordings made = backend_recordings(be);
	printf("%s on %s, %s, %s\n", i->name, i->backend, i->precision, i->sparsity);
	printf("mean of %lld chunks: condition %.1f ms, transformer %.1f ms, decoder %.1f ms; %.2f "
	       "pictures a second\n",
		(long long)r->o.chunks, (double)r->sum.condition_us / 1e3 / chunks,
		(double)r->sum.dit_us / 1e3 / chunks, (double)r->sum.decode_us / 1e3 / chunks,
		r->sum.frames / ((double)r->took_us / 1e6));
	printf("%.1f ms in all, %.1f ms of them inside steps; %llu allocations after the second "
	       "chunk, %.1f MiB less free; recordings: %d held, %lld made, %lld replayed, %lld "
	       "refused\n",
		(double)r->took_us / 1e3, (double)r->stepping_us / 1e3,
		(unsigned long long)(backend_allocations(be) - r->allocations),
		((double)r->free_bytes - (double)backend_info(be).bytes_free) / (1 << 20),
		made.held, (long long)made.recorded, (long long)made.replayed,
		(long long)made.refused);
	if (r->compared)
		printf("demo_sparse_psnr_db %.3f\n", -10 * log10(r->squared / (double)r->compared));
}

static int render_run(struct render *r, struct error *e) {
	r->engine = engine_create(&r->o.engine, e);
	if (!r->engine)
		return e->code;
	r->m = engine_model_config(r->engine);
	int rc = r->o.compare ? reference_read(r, e) : 0;
	if (rc == 0 && r->o.compare)
		rc = reference_build(r, e);
	if (rc == 0)
		rc = outputs_open(r, e);
	struct generator *g = rc == 0 ? generator_create(r->engine, r->o.seed, e) : NULL;
	if (!g)
		return e->code;
	/* Looking in makes a GPU wait: only where it is wanted. */
	generator_watch(
		g, &(struct generator_tap){NULL, r->latents || r->reference.data ? on_latent : NULL,
			   r->reference.data ? on_pictures : NULL, r});
	if (r->noise.data)
		generator_feed(g, (struct noise_source){noise_draw, r});
	rc = chunks_render(r, g, e);
	generator_destroy(g);
	if (rc == 0 && r->latents)
		rc = latents_write(&r->o, r->engine, r->latents, e);
	if (rc == 0)
		summary_print(r);
	return rc;
}

static void render_drop(struct render *r) {
	decoder_state_destroy(r->decoder);
	arena_destroy(r->scratch);
	arena_destroy(r->arena);
	weights_close(r->file);
	engine_destroy(r->engine);
	free(r->rgb);
	free(r->want);
	free(r->latents);
}

int main(int argc, char **argv) {
	struct render r = {.o.engine.backend = "auto"};
	if (options_parse(&r.o, argc, argv) < 0)
		return options_usage();
	struct error e = {0};
	int rc = render_run(&r, &e);
	if (r.out && fclose(r.out) != 0 && rc == 0)
		rc = error_set(&e, -EIO, "%s: %s", r.o.out, strerror(errno));
	render_drop(&r);
	if (rc < 0)
		fprintf(stderr, "lightforced-rollout: %s\n", e.text);
	return rc < 0 ? 1 : 0;
}
