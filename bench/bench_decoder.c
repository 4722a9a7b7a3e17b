/* SPDX-License-Identifier: Apache-2.0 */
/* Times a model's video decoder, chunk by chunk on random latents, and prints
 * one JSON object: milliseconds of a chunk, best and mean, and of processor
 * time, which other programs on the machine disturb less.
 *
 *	bench_decoder [--model DIR] [--threads N] [--precision f32|bf16] [--chunks N] */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine/decoder.h"

struct bench {
	struct backend *be;
	struct model *model;
	struct weights *weights;
	struct arena *arena, *scratch;
	struct decoder *decoder;
	struct decoder_state *state;
	struct tensor latent, rgb;
};

static double clock_ms(clockid_t id) {
	struct timespec t;
	clock_gettime(id, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* Everything in b->arena, which may only measure. */
static int build(struct bench *b, enum precision p, struct error *e) {
	const struct model *m = b->model;
	int h = model_latent_height(m), w = model_latent_width(m), n = m->chunk_frames;
	b->latent = arena_tensor(b->arena, DTYPE_F32, 4, (int64_t[]){n, m->latent_channels, h, w});
	b->rgb = arena_tensor(
		b->arena, DTYPE_F32, 4, (int64_t[]){n * m->stride_t, m->height, m->width, 3});
	b->decoder = decoder_create(b->be, m, b->weights, b->arena, p, e);
	b->state = b->decoder ? decoder_state_create(b->decoder, h, w, b->arena, e) : NULL;
	return b->state ? arena_failed(b->arena, e) : -1;
}

static int open_all(
	struct bench *b, const char *dir, int threads, enum precision p, struct error *e) {
	b->be = backend_create(&(struct backend_config){.spec = "cpu", .threads = threads}, e);
	b->model = b->be ? model_load(dir, e) : NULL;
	if (!b->model)
		return -1;
	const struct model_files *f = &b->model->decoder.files;
	b->weights = weights_open(dir, (const char *const *)f->name, f->count, f->strip, e);
	b->arena = arena_measure(b->be);
	b->scratch = arena_measure(b->be);
	if (!b->weights || !b->arena || !b->scratch || build(b, p, e) < 0 ||
		decoder_decode(b->decoder, b->state, &b->rgb, &b->latent, b->scratch, e) < 0)
		return -1;
	size_t held = arena_peak(b->arena), scratch = arena_peak(b->scratch);
	decoder_state_destroy(b->state);
	decoder_destroy(b->decoder);
	arena_destroy(b->arena);
	arena_destroy(b->scratch);
	b->arena = arena_create(b->be, held, e);
	b->scratch = b->arena ? arena_create(b->be, scratch, e) : NULL;
	return b->scratch ? build(b, p, e) : -1;
}

static int measure(struct bench *b, int chunks, struct error *e) {
	double best = 1e30, sum = 0, cpu_best = 1e30;
	for (int i = 0; i <= chunks; i++) {
		double wall = clock_ms(CLOCK_MONOTONIC), cpu = clock_ms(CLOCK_PROCESS_CPUTIME_ID);
		if (decoder_decode(b->decoder, b->state, &b->rgb, &b->latent, b->scratch, e) < 0)
			return -1;
		wall = clock_ms(CLOCK_MONOTONIC) - wall;
		cpu = clock_ms(CLOCK_PROCESS_CPUTIME_ID) - cpu;
		if (i == 0)
			continue; /* makes plans */
		sum += wall;
		best = wall < best ? wall : best;
		cpu_best = cpu < cpu_best ? cpu : cpu_best;
	}
	printf("{\"machine\": \"%s\", \"model\": \"%s\", \"chunk_ms_best\": %.1f, "
	       "\"chunk_ms_mean\": %.1f, \"chunk_cpu_ms_best\": %.1f}\n",
		backend_info(b->be).name, b->model->name, best, sum / chunks, cpu_best);
	return 0;
}

int main(int argc, char **argv) {
	static const struct option options[] = {{"model", required_argument, NULL, 'm'},
		{"threads", required_argument, NULL, 't'},
		{"precision", required_argument, NULL, 'p'},
		{"chunks", required_argument, NULL, 'c'}, {0}};
	const char *dir = "models/demo";
	int threads = 0, chunks = 20, precision = PRECISION_F32;
	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (c == 'm')
			dir = optarg;
		else if (c == 't')
			threads = atoi(optarg);
		else if (c == 'c')
			chunks = atoi(optarg);
		else if (c == 'p')
			precision = precision_parse(optarg);
		if (c == '?' || chunks < 1 || precision < 0)
			return 2;
	}
	struct bench b = {0};
	struct error e = {0};
	if (open_all(&b, dir, threads, (enum precision)precision, &e) < 0 ||
		measure(&b, chunks, &e) < 0) {
		fprintf(stderr, "bench_decoder: %s\n", e.text);
		return 1;
	}
	decoder_state_destroy(b.state);
	decoder_destroy(b.decoder);
	arena_destroy(b.arena);
	arena_destroy(b.scratch);
	weights_close(b.weights);
	model_free(b.model);
	backend_destroy(b.be);
	return 0;
}
