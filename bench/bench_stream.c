/* SPDX-License-Identifier: Apache-2.0 */
/* How fast a model streams without a server: pictures a second once the window
 * is full, and the time from a prompt to the first picture, everything loaded.
 * Pictures count when the host may read them. Prints one JSON object.
 *
 *	bench_stream [--model random:wan-1.3b] [--backend cuda] [--precision P] [--sparsity S]
 *	    [--chunks 12] [--starts 3] [--threads N]
 *
 * Thread: one. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/generator.h"

#define CHUNKS_MAX 1000

struct options {
	struct engine_config engine;
	int chunks, starts;
};

struct bench {
	struct options o;
	struct engine *engine;
	double chunk_ms[CHUNKS_MAX], start_ms[CHUNKS_MAX]; /* measured */
	struct chunk_info last;
	double fps;
};

static int usage(void) {
	fputs("usage: bench_stream [--model DIR] [--backend B] [--precision P] [--sparsity S]\n"
	      "    [--chunks N] [--starts N] [--threads N]\n",
		stderr);
	return 2;
}

static int count_parse(const char *text, int *out) {
	char *end;
	errno = 0;
	long v = strtol(text, &end, 10);
	*out = (int)v;
	return errno == 0 && end != text && *end == 0 && v > 0 && v <= CHUNKS_MAX ? 0 : -1;
}

static int options_parse(struct options *o, int argc, char **argv) {
	static const struct option names[] = {{"model", required_argument, NULL, 'm'},
		{"backend", required_argument, NULL, 'b'},
		{"precision", required_argument, NULL, 'p'},
		{"sparsity", required_argument, NULL, 's'},
		{"chunks", required_argument, NULL, 'c'}, {"starts", required_argument, NULL, 'n'},
		{"threads", required_argument, NULL, 't'}, {NULL, 0, NULL, 0}};
	int c, bad = 0;
	while (!bad && (c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (c) {
		case 'm':
			o->engine.model_dir = optarg;
			break;
		case 'b':
			o->engine.backend = optarg;
			break;
		case 'p':
			o->engine.precision = optarg;
			break;
		case 's':
			o->engine.sparsity = optarg;
			break;
		case 'c':
			bad = count_parse(optarg, &o->chunks);
			break;
		case 'n':
			bad = count_parse(optarg, &o->starts);
			break;
		case 't':
			bad = count_parse(optarg, &o->engine.threads);
			break;
		default:
			bad = -1;
		}
	}
	return bad || optind != argc ? -1 : 0;
}

static double now_ms(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* Steps until a picture is there that is the last of its chunk, or any when
 * `first`; its chunk, or a negative errno. Pictures go straight back. */
static int64_t picture_await(struct generator *g, bool first, int *pictures, struct error *e) {
	for (;;) {
		enum progress p;
		struct frame *f;
		if (generator_step(g, &p, e) < 0)
			return e->code;
		int64_t seen = -1;
		while (generator_frames(g, &f, 1) == 1) {
			if (first || f->frame_in_chunk == f->frames_in_chunk - 1)
				seen = f->chunk;
			++*pictures;
			frame_release(f);
		}
		if (seen >= 0)
			return seen;
	}
}

static struct generator *film_begin(
	struct bench *b, const char *prompt, uint64_t seed, struct error *e) {
	struct generator *g = generator_create(b->engine, seed, e);
	const struct prompt_change change = {prompt, TRANSITION_SWITCH, 1};
	if (g && generator_prompt(g, &change, e) < 0) {
		generator_destroy(g);
		return NULL;
	}
	return g;
}

static int speed_measure(struct bench *b, struct error *e) {
	const struct model *m = engine_model_config(b->engine);
	/* One chunk more than fills the window: the first full one may still prepare things. */
	const int64_t full = m->cache.window_frames / m->chunk_frames + 1;
	struct generator *g = film_begin(b, "a red kite over green hills", 3, e);
	int pictures = 0;
	int64_t chunk = -1;
	while (g && chunk < full && (chunk = picture_await(g, false, &pictures, e)) >= 0)
		;
	double begun = now_ms(), before = begun;
	pictures = 0;
	for (int i = 0; i < b->o.chunks && chunk >= 0; i++) {
		chunk = picture_await(g, false, &pictures, e);
		double now = now_ms();
		b->chunk_ms[i] = now - before;
		before = now;
	}
	b->fps = pictures / (before - begun) * 1e3;
	if (chunk >= 0)
		b->last = generator_chunk_info(g);
	generator_destroy(g);
	return g && chunk >= 0 ? 0 : -1;
}

/* New prompts, so that the text encoder runs. */
static int starts_measure(struct bench *b, struct error *e) {
	for (int i = 0; i < b->o.starts; i++) {
		char prompt[64];
		int pictures = 0;
		snprintf(prompt, sizeof prompt, "a blue sailboat on the sea, take %d", i + 1);
		double begun = now_ms();
		struct generator *g = film_begin(b, prompt, (uint64_t)i, e);
		int64_t chunk = g ? picture_await(g, true, &pictures, e) : -1;
		b->start_ms[i] = now_ms() - begun;
		generator_destroy(g);
		if (chunk < 0)
			return -1;
	}
	return 0;
}

static int by_value(const void *a, const void *b) {
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(const double *values, int n) {
	double sorted[CHUNKS_MAX];
	memcpy(sorted, values, (size_t)n * sizeof *sorted);
	qsort(sorted, (size_t)n, sizeof *sorted, by_value);
	return sorted[n / 2];
}

static void result_print(struct bench *b, double load_s) {
	const struct model_info *i = engine_model(b->engine);
	struct backend *be = engine_backend(b->engine);
	struct backend_info device = backend_info(be);
	printf("{\"model\": \"%s\", \"backend\": \"%s\", \"precision\": \"%s\", \"sparsity\": "
	       "\"%s\", \"size\": \"%dx%d\", \"steps\": %d, \"window_frames\": %d,\n",
		i->name, i->backend, i->precision, i->sparsity, i->width, i->height, i->steps,
		i->window_frames);
	printf(" \"fps\": %.3f, \"chunk_ms_p50\": %.3f, \"chunk_frames\": %d, \"kept_blocks\": %d, "
	       "\"visible_blocks\": %d, \"first_frame_ms\": %.2f,\n \"load_s\": %.2f, "
	       "\"weights_gib\": %.3f, \"allocated_gib\": %.3f, \"vram_gib\": %.3f,\n "
	       "\"chunk_ms\": "
	       "[",
		b->fps, median(b->chunk_ms, b->o.chunks), i->chunk_frames, b->last.kept_blocks,
		b->last.visible_blocks, median(b->start_ms, b->o.starts), load_s,
		(double)i->weights_bytes / 0x1p30, (double)backend_allocated(be) / 0x1p30,
		(double)(device.bytes_total - device.bytes_free) / 0x1p30);
	for (int c = 0; c < b->o.chunks; c++)
		printf("%s%.2f", c ? ", " : "", b->chunk_ms[c]);
	printf("]}\n");
}

int main(int argc, char **argv) {
	static struct bench b = {
		.o = {.engine = {.model_dir = "random:wan-1.3b", .backend = "auto"},
			.chunks = 12,
			.starts = 3}};
	if (options_parse(&b.o, argc, argv) < 0)
		return usage();
	struct error e = {0};
	double begun = now_ms();
	b.engine = engine_create(&b.o.engine, &e);
	double load_s = (now_ms() - begun) / 1e3;
	bool ok = b.engine && speed_measure(&b, &e) == 0 && starts_measure(&b, &e) == 0;
	if (ok)
		result_print(&b, load_s);
	else
		fprintf(stderr, "bench_stream: %s\n", e.text);
	engine_destroy(b.engine);
	return ok ? 0 : 1;
}
