/* SPDX-License-Identifier: Apache-2.0 */
/* Times every convolution of the video decoders at 480x832, one JSON object a
 * line: its shape, microseconds a call (best of the rounds), how many calls a
 * latent has, TFLOP/s counted as if nothing was folded. bench/peer_conv.py reads
 * these lines and times the same shapes with cuDNN.
 *
 *	bench_conv [--backend cuda] [--latents 1] [--ms 20] [NAME]
 *
 * NAME: only shapes with this in their name. On a CPU: --backend cpu. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/backend.h"

struct shape {
	const char *name;
	int frames, h, w, in, out, kt, k, phases, upsample; /* frames a latent */
	bool skip, rgb; /* rgb: the result is f32 */
	int calls; /* a latent */
};
static const struct shape shapes[] = {
	{"taehv first", 1, 60, 104, 16, 256, 1, 3, 1, 1, false, false, 1},
	{"taehv memory 256", 1, 60, 104, 256, 256, 2, 3, 1, 1, false, false, 3},
	{"taehv conv 256", 1, 60, 104, 256, 256, 1, 3, 1, 1, false, false, 3},
	{"taehv skip 256", 1, 60, 104, 256, 256, 1, 3, 1, 1, true, false, 3},
	{"taehv up 256", 1, 60, 104, 256, 128, 1, 3, 1, 2, false, false, 1},
	{"taehv memory 128", 1, 120, 208, 128, 128, 2, 3, 1, 1, false, false, 3},
	{"taehv conv 128", 1, 120, 208, 128, 128, 1, 3, 1, 1, false, false, 3},
	{"taehv skip 128", 1, 120, 208, 128, 128, 1, 3, 1, 1, true, false, 3},
	{"taehv up 128", 1, 120, 208, 128, 64, 1, 3, 2, 2, false, false, 1},
	{"taehv memory 64", 2, 240, 416, 64, 64, 2, 3, 1, 1, false, false, 3},
	{"taehv conv 64", 2, 240, 416, 64, 64, 1, 3, 1, 1, false, false, 3},
	{"taehv skip 64", 2, 240, 416, 64, 64, 1, 3, 1, 1, true, false, 3},
	{"taehv up 64", 2, 240, 416, 64, 64, 1, 3, 2, 2, false, false, 1},
	{"taehv last", 4, 480, 832, 64, 3, 1, 3, 1, 1, false, true, 1},
	{"wan first", 1, 60, 104, 16, 384, 3, 3, 1, 1, false, false, 1},
	{"wan 384 small", 1, 60, 104, 384, 384, 3, 3, 1, 1, false, false, 10},
	{"wan time 384", 1, 60, 104, 384, 384, 3, 1, 2, 1, false, false, 1},
	{"wan up 384", 2, 60, 104, 384, 192, 1, 3, 1, 2, false, false, 1},
	{"wan 192 to 384", 2, 120, 208, 192, 384, 3, 3, 1, 1, false, false, 1},
	{"wan point", 2, 120, 208, 192, 384, 1, 1, 1, 1, false, false, 1},
	{"wan 384", 2, 120, 208, 384, 384, 3, 3, 1, 1, true, false, 5},
	{"wan time 384 big", 2, 120, 208, 384, 384, 3, 1, 2, 1, false, false, 1},
	{"wan up 384 big", 4, 120, 208, 384, 192, 1, 3, 1, 2, false, false, 1},
	{"wan 192", 4, 240, 416, 192, 192, 3, 3, 1, 1, true, false, 6},
	{"wan up 192", 4, 240, 416, 192, 96, 1, 3, 1, 2, false, false, 1},
	{"wan 96", 4, 480, 832, 96, 96, 3, 3, 1, 1, true, false, 6},
	{"wan head", 4, 480, 832, 96, 3, 3, 3, 1, 1, false, true, 1},
};

struct bench {
	struct backend *be;
	const struct ops *ops;
	enum dtype image;
	int latents;
	double ms; /* a round */
};

static void die(const char *what, const struct error *e) {
	fprintf(stderr, "bench_conv: %s: %s\n", what, e->text);
	exit(1);
}

static double now_us(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

/* Random in -1 .. 1: zeros would cost the chip less power, hence be faster. */
static struct tensor image(struct bench *b, enum dtype d, int f, int h, int w, int c) {
	struct error e = {0};
	struct tensor t = tensor_4d(NULL, d, f, h, w, c), plain = t;
	t.data = backend_alloc(b->be, tensor_bytes(&t), &e);
	plain.dtype = DTYPE_F32;
	plain.data = backend_alloc(b->be, tensor_bytes(&plain), &e);
	if (!t.data || !plain.data)
		die("memory", &e);
	b->ops->noise(b->be, &plain, 7, f, c);
	b->ops->convert(b->be, &t, &plain);
	backend_sync(b->be, NULL);
	backend_free(b->be, plain.data);
	return t;
}

static struct conv *convolution(struct bench *b, const struct shape *s) {
	struct error e = {0};
	struct conv_spec spec = {s->in, s->out, s->kt, s->k, s->k, 1, 1, s->k / 2, s->k / 2, s->k / 2,
		s->k / 2, s->phases, s->upsample, ACT_RELU};
	int64_t dim[6] = {s->phases, s->out, s->kt, s->k, s->k, s->in};
	struct tensor w = tensor_make(NULL, DTYPE_F32, 6, dim);
	int64_t n = tensor_count(&w);
	float *f = malloc((size_t)n * sizeof *f), *bias = calloc((size_t)(s->phases * s->out), sizeof *bias);
	if (!f || !bias)
		die("memory", &e);
	for (int64_t i = 0; i < n; i++)
		f[i] = (float)(i * 7919 % 257 - 128) / 4096;
	w.data = f;
	struct tensor bt = tensor_2d(bias, DTYPE_F32, s->phases, s->out);
	struct conv *c = b->ops->conv_create(b->be, &spec, &w, &bt,
		b->image == DTYPE_F32 ? PRECISION_F32 : PRECISION_BF16, &e);
	if (!c)
		die(s->name, &e);
	backend_sync(b->be, NULL);
	free(f);
	free(bias);
	return c;
}

static void time_shape(struct bench *b, const struct shape *s) {
	struct error e = {0};
	int f = s->frames * b->latents, oh = s->h * s->upsample, ow = s->w * s->upsample;
	struct tensor x = image(b, b->image, f, s->h, s->w, s->in);
	struct tensor past = image(b, b->image, s->kt > 1 ? s->kt - 1 : 1, s->h, s->w, s->in);
	struct tensor y = image(b, s->rgb ? DTYPE_F32 : b->image, f * s->phases, oh, ow, s->out);
	struct tensor add = y;
	if (s->skip)
		add = image(b, b->image, f * s->phases, oh, ow, s->out);
	struct conv *c = convolution(b, s);
	double best = 1e30;
	int calls = 1;
	for (int round = 0; round < 5; round++) {
		double start = now_us();
		for (int i = 0; i < calls; i++)
			b->ops->conv(b->be, &y, &x, s->kt > 1 ? &past : NULL, c, s->skip ? &add : NULL);
		if (backend_sync(b->be, &e) < 0)
			die(s->name, &e);
		double us = (now_us() - start) / calls;
		if (round > 1)
			best = us < best ? us : best;
		if (round < 2)
			calls = us > b->ms * 1e3 ? 1 : (int)(b->ms * 1e3 / us) + 1;
	}
	double flop = 2. * (double)tensor_count(&y) * s->kt * s->k * s->k * s->in;
	printf("{\"name\": \"%s\", \"frames\": %d, \"h\": %d, \"w\": %d, \"in\": %d, \"out\": %d, \"kt\": %d, "
	       "\"k\": %d, \"phases\": %d, \"upsample\": %d, \"skip\": %d, \"calls\": %d, \"us\": %.1f, "
	       "\"tflops\": %.1f}\n",
		s->name, f, s->h, s->w, s->in, s->out, s->kt, s->k, s->phases, s->upsample, s->skip, s->calls, best,
		flop / best * 1e-6);
	fflush(stdout);
	b->ops->conv_destroy(b->be, c);
	backend_free(b->be, x.data);
	backend_free(b->be, past.data);
	backend_free(b->be, y.data);
	if (s->skip)
		backend_free(b->be, add.data);
}

int main(int argc, char **argv) {
	struct bench b = {.latents = 1, .ms = 20};
	struct backend_config config = {.spec = "cuda"};
	struct error e = {0};
	const char *filter = "";
	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : "";
		if (argv[i][0] != '-')
			filter = argv[i];
		else if (strcmp(argv[i], "--backend") == 0 && ++i)
			config.spec = value;
		else if (strcmp(argv[i], "--latents") == 0 && ++i)
			b.latents = (int)strtol(value, NULL, 10);
		else if (strcmp(argv[i], "--ms") == 0 && ++i)
			b.ms = strtod(value, NULL);
		else
			return 2;
	}
	b.be = b.latents > 0 ? backend_create(&config, &e) : NULL;
	if (!b.be)
		die("backend", &e);
	b.ops = backend_ops(b.be);
	b.image = backend_info(b.be).activation;
	printf("{\"machine\": \"%s\", \"latents\": %d}\n", backend_info(b.be).name, b.latents);
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		if (strstr(shapes[i].name, filter))
			time_shape(&b, &shapes[i]);
	}
	backend_destroy(b.be);
	return 0;
}
