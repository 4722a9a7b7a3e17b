/* SPDX-License-Identifier: Apache-2.0 */
/* lightforced-rollout: renders a video without a server, the same bytes every
 * time, for benches and evaluation.
 *
 *	lightforced-rollout --model DIR --prompt TEXT [--at CHUNK [--mode M] --prompt TEXT]...
 *	    [--seed N] [--chunks N] [--sparsity P] [--steps LIST] [--renoise-above T]
 *	    [--backend B] [--precision P] [--threads N] [--out FILE.y4m] [--latents FILE]
 *	    [--compare FILE] [--eager] [--one-lane]
 *
 * --eager and --one-lane switch off what a GPU backend does to be fast (replaying
 * recorded passes, decoding beside them): the bytes must be the same.
 * --latents writes the latents as safetensors, with the prompts. --compare reads
 * such a file (or a reference file of kind "demo model rollout"): its prompts are
 * taken when none are given, its noise when it has some, and the pictures are
 * held against those that its latents decode to: demo_sparse_psnr_db, over all
 * chunks but the first. Exit status: 0, 1 on failure, 2 on wrong usage. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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
	struct reference reference;
	struct chunk_info sum;
	int64_t begun_us, took_us, reported_us, stepping_us;
	uint64_t allocations; /* made when the second chunk was done */
	size_t free_bytes; /* of the device, then */
	struct error failure; /* inside a callback */
};

/* ---- callbacks ------------------------------------------------------------------ */

static void on_latent(void *ctx, int64_t chunk, const struct tensor *latent) {
	struct render *r = ctx;
	if (r->latents)
		backend_download(engine_backend(r->engine), r->latents + chunk * r->latent_size,
			latent->data, tensor_bytes(latent));
	if (r->reference.latents.data && reference_decode(&r->reference, chunk, &r->failure) < 0)
		r->reference.latents.data = NULL; /* the failure is reported after the step */
}

static void on_pictures(void *ctx, int64_t chunk, const struct tensor *rgb) {
	struct render *r = ctx;
	if (r->reference.latents.data && chunk > 0)
		reference_compare(&r->reference, rgb);
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
	if (r->reference.compared)
		printf("demo_sparse_psnr_db %.3f\n", reference_psnr_db(&r->reference));
}

static int render_run(struct render *r, struct error *e) {
	r->engine = engine_create(&r->o.engine, e);
	if (!r->engine)
		return e->code;
	r->m = engine_model_config(r->engine);
	int rc = r->o.compare ? reference_open(&r->reference, &r->o, r->engine, e) : 0;
	if (rc == 0)
		rc = outputs_open(r, e);
	struct generator *g = rc == 0 ? generator_create(r->engine, r->o.seed, e) : NULL;
	if (!g)
		return e->code;
	/* Looking in makes a GPU wait: only where it is wanted. */
	bool compared = r->reference.latents.data != NULL;
	generator_watch(g, &(struct generator_tap){NULL, r->latents || compared ? on_latent : NULL,
				   compared ? on_pictures : NULL, r});
	if (r->reference.noise.data)
		generator_feed(g, (struct noise_source){reference_noise, &r->reference});
	rc = chunks_render(r, g, e);
	generator_destroy(g);
	if (rc == 0 && r->latents)
		rc = latents_write(&r->o, r->engine, r->latents, e);
	if (rc == 0)
		summary_print(r);
	return rc;
}

static void render_drop(struct render *r) {
	reference_close(&r->reference);
	engine_destroy(r->engine);
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
