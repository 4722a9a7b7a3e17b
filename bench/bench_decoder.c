/* SPDX-License-Identifier: Apache-2.0 */
/* Times a model's video decoder, chunk by chunk on random latents, and prints
 * one JSON object: milliseconds of a chunk, best and mean, and of processor
 * time, which other programs on the machine disturb less. The pictures' way to
 * I420 is part of the chunk.
 *
 *	bench_decoder [--backend cpu] [--model DIR|random:wan-1.3b] [--threads N]
 *		[--precision f32|bf16|auto] [--chunks N] [--latents N] [--decoder taehv|wan_vae] [--psnr]
 *
 * --latents: how many a call decodes, default the whole chunk. --decoder: another
 * one than the model's, for random models. --psnr: also decodes three chunks in
 * f32 and prints how near they are. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/decoder.h"

struct bench {
	struct backend *be;
	struct model *model;
	struct weights *weights;
	struct arena *arena, *scratch;
	struct decoder *decoder;
	struct decoder_state *state;
	struct tensor latent, rgb, yuv;
	int latents; /* a call */
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
	b->yuv = arena_tensor(
		b->arena, DTYPE_U8, 2, (int64_t[]){n * m->stride_t, m->height * m->width * 3 / 2});
	b->decoder = decoder_create(b->be, m, b->weights, b->arena, p, e);
	b->state = b->decoder ? decoder_state_create(b->decoder, h, w, b->arena, e) : NULL;
	return b->state ? arena_failed(b->arena, e) : -1;
}

/* One chunk in calls of b->latents. */
static int decode(struct bench *b, struct error *e) {
	int64_t n = b->latent.dim[0];
	float gain, offset;
	decoder_range(b->decoder, &gain, &offset);
	for (int64_t i = 0; i < n; i += b->latents) {
		struct tensor z = tensor_rows(b->latent, i, n - i < b->latents ? n - i : b->latents);
		int pictures = decoder_pictures(b->decoder, b->state, (int)z.dim[0]);
		if (decoder_decode(b->decoder, b->state, &b->rgb, &z, b->scratch, e) < 0)
			return -1;
		struct tensor rgb = tensor_rows(b->rgb, 0, pictures), yuv = tensor_rows(b->yuv, 0, pictures);
		if (pictures > 0 && !arena_measuring(b->scratch))
			backend_ops(b->be)->rgb_to_i420(b->be, &yuv, &rgb, gain, offset);
	}
	return arena_measuring(b->scratch) ? 0 : backend_sync(b->be, e);
}

static int open_all(struct bench *b, const char *backend, const char *dir, const char *decoder,
	int threads, enum precision p, struct error *e) {
	b->be = backend_create(&(struct backend_config){.spec = backend, .threads = threads}, e);
	b->model = b->be ? model_load(dir, e) : NULL;
	if (!b->model)
		return -1;
	if (decoder)
		b->model->decoder.type = strcmp(decoder, "wan_vae") == 0 ? DECODER_WAN_VAE : DECODER_TAEHV;
	b->latents = b->latents > 0 ? b->latents : b->model->chunk_frames;
	b->weights = model_weights(b->model, &b->model->decoder.files, e);
	b->arena = arena_measure(b->be);
	b->scratch = arena_measure(b->be);
	if (!b->weights || !b->arena || !b->scratch || build(b, p, e) < 0 || decode(b, e) < 0)
		return -1;
	size_t held = arena_peak(b->arena), scratch = arena_peak(b->scratch);
	decoder_state_destroy(b->state);
	decoder_destroy(b->decoder);
	arena_destroy(b->arena);
	arena_destroy(b->scratch);
	b->arena = arena_create(b->be, held, e);
	b->scratch = b->arena ? arena_create(b->be, scratch, e) : NULL;
	if (!b->scratch || build(b, p, e) < 0)
		return -1;
	backend_ops(b->be)->noise(b->be, &b->latent, 1, 0, 0);
	return 0;
}

static int measure(struct bench *b, int chunks, struct error *e) {
	double best = 1e30, sum = 0, cpu_best = 1e30;
	for (int i = 0; i <= chunks; i++) {
		double wall = clock_ms(CLOCK_MONOTONIC), cpu = clock_ms(CLOCK_PROCESS_CPUTIME_ID);
		if (decode(b, e) < 0)
			return -1;
		wall = clock_ms(CLOCK_MONOTONIC) - wall;
		cpu = clock_ms(CLOCK_PROCESS_CPUTIME_ID) - cpu;
		if (i == 0)
			continue; /* makes plans */
		sum += wall;
		best = wall < best ? wall : best;
		cpu_best = cpu < cpu_best ? cpu : cpu_best;
	}
	printf("{\"machine\": \"%s\", \"model\": \"%s\", \"decoder\": \"%s\", \"width\": %d, \"height\": %d, "
	       "\"latents_a_call\": %d, \"chunk_ms_best\": %.2f, \"chunk_ms_mean\": %.2f, \"chunk_cpu_ms_best\": %.2f}\n",
		backend_info(b->be).name, b->model->name,
		b->model->decoder.type == DECODER_WAN_VAE ? "wan_vae" : "taehv", b->model->width, b->model->height,
		b->latents, best, sum / chunks, cpu_best);
	return 0;
}

static void close_all(struct bench *b) {
	decoder_state_destroy(b->state);
	decoder_destroy(b->decoder);
	arena_destroy(b->arena);
	arena_destroy(b->scratch);
	weights_close(b->weights);
	model_free(b->model);
	backend_destroy(b->be);
}

/* The third chunk's pictures of a fresh stream, [0, 1], on the heap. */
static float *third_chunk(struct bench *b, int64_t *count, struct error *e) {
	float gain, offset, *f;
	decoder_restart(b->decoder, b->state);
	for (int i = 0; i < 3; i++) {
		backend_ops(b->be)->noise(b->be, &b->latent, 1, i, 0);
		if (decode(b, e) < 0)
			return NULL;
	}
	struct tensor rgb = tensor_rows(b->rgb, 0, b->latents * b->model->stride_t);
	*count = tensor_count(&rgb);
	f = malloc((size_t)*count * sizeof *f);
	if (!f)
		return NULL;
	backend_download(b->be, f, rgb.data, (size_t)*count * sizeof *f);
	decoder_range(b->decoder, &gain, &offset);
	for (int64_t i = 0; i < *count; i++)
		f[i] = fminf(fmaxf(f[i] * gain + offset, 0), 1);
	return f;
}

static int print_psnr(struct bench *b, struct bench *exact, struct error *e) {
	int64_t n = 0;
	double sum = 0;
	float *got = third_chunk(b, &n, e), *want = third_chunk(exact, &n, e);
	for (int64_t i = 0; got && want && i < n; i++)
		sum += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
	int rc = got && want ? 0 : -1;
	free(got);
	free(want);
	if (rc == 0)
		printf("{\"psnr_to_f32_db\": %.2f}\n", -10 * log10(sum / (double)n));
	return rc;
}

int main(int argc, char **argv) {
	static const struct option options[] = {{"model", required_argument, NULL, 'm'},
		{"threads", required_argument, NULL, 't'},
		{"precision", required_argument, NULL, 'p'},
		{"chunks", required_argument, NULL, 'c'}, {"backend", required_argument, NULL, 'b'},
		{"latents", required_argument, NULL, 'l'}, {"decoder", required_argument, NULL, 'd'},
		{"psnr", no_argument, NULL, 'q'}, {0}};
	const char *dir = "models/demo", *backend = "cpu", *decoder = NULL;
	struct bench b = {0};
	bool psnr = false;
	int threads = 0, chunks = 20, precision = PRECISION_F32;
	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (c == 'm')
			dir = optarg;
		else if (c == 't')
			threads = atoi(optarg);
		else if (c == 'c')
			chunks = atoi(optarg);
		else if (c == 'b')
			backend = optarg;
		else if (c == 'l')
			b.latents = atoi(optarg);
		else if (c == 'q')
			psnr = true;
		else if (c == 'd')
			decoder = optarg;
		else if (c == 'p')
			precision = precision_parse(optarg);
		if (c == '?' || chunks < 1 || precision < 0)
			return 2;
	}
	struct error e = {0};
	struct bench exact = {.latents = b.latents};
	if (open_all(&b, backend, dir, decoder, threads, (enum precision)precision, &e) < 0 ||
		measure(&b, chunks, &e) < 0 ||
		(psnr && (open_all(&exact, backend, dir, decoder, threads, PRECISION_F32, &e) < 0 ||
				 print_psnr(&b, &exact, &e) < 0))) {
		fprintf(stderr, "bench_decoder: %s\n", e.text);
		return 1;
	}
	if (psnr)
		close_all(&exact);
	close_all(&b);
	return 0;
}
