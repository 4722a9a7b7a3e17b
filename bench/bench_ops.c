/* SPDX-License-Identifier: Apache-2.0 */
/* Times every op that a chunk spends its time in, at a model's shapes, and
 * prints one JSON object a line: microseconds and GFLOP/s (median and best),
 * GB/s (inputs and outputs once). Dense linears stand for the peak that
 * attention is compared with.
 *
 *	bench_ops [--backend cpu] [--threads 0] [--seconds 0.3] [--geometry demo|wan] [--kv
 *f32|bf16] [OP]
 *
 * LIGHTFORCED_CPU_ISA limits the instruction set. OP: only ops with this in
 * their name. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/backend.h"

struct geometry {
	const char *name;
	int frame_tokens, current, frames, heads, head_dim, ffn, text, block, keep;
	int keep_frames, keep_sink, keep_near;
	int height, width; /* pixels */
};

/* A chunk with its window full, light forcing as the manifest sets it. */
static const struct geometry geometries[] = {
	{"demo", 144, 3, 21, 4, 64, 1024, 40, 16, 53, 6, 1, 2, 144, 256},
	{"wan", 1560, 3, 21, 12, 128, 8960, 60, 64, 95, 6, 1, 2, 480, 832},
};

struct bench {
	struct backend *be;
	const struct ops *ops;
	struct geometry g;
	double seconds;
	const char *filter;
	enum dtype kv;
	int n, d; /* tokens of a chunk, model width */
	struct tensor x, y, wide, wide2, qkv, residual, gate, gain, q_mean, text, rgb, yuv, planes;
	struct rope rope;
	struct kv_store store;
	struct kv_span seen, slot;
	struct block_list list;
	struct linear *square, *up, *down;
};

static void die(const char *what, const struct error *e) {
	fprintf(stderr, "bench_ops: %s: %s\n", what, e->text);
	exit(1);
}

static int64_t now_ns(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Random in -1 .. 1, uploaded. */
static struct tensor make(struct bench *b, int rank, const int64_t *dim) {
	static uint32_t state = 1; /* a bench has one thread and no reason to repeat numbers */
	struct error e = {0};
	struct tensor t = tensor_make(NULL, DTYPE_F32, rank, dim);
	float *host = malloc(tensor_bytes(&t));
	t.data = backend_alloc(b->be, tensor_bytes(&t), &e);
	if (!t.data || !host)
		die("memory", &e);
	for (int64_t i = 0; i < tensor_count(&t); i++) {
		state = state * 1664525u + 1013904223u;
		host[i] = (float)(int32_t)state * 0x1p-31f;
	}
	backend_upload(b->be, t.data, host, tensor_bytes(&t));
	free(host);
	return t;
}

static struct linear *make_linear(struct bench *b, int64_t in, int64_t out) {
	struct error e = {0};
	float *w = malloc((size_t)(in * out) * sizeof *w);
	if (!w)
		die("memory", &e);
	for (int64_t i = 0; i < in * out; i++)
		w[i] = (float)(i % 257 - 128) / 2048;
	struct tensor t = tensor_2d(w, DTYPE_F32, out, in);
	struct linear *l = b->ops->linear_create(b->be, &t, NULL, PRECISION_F32, &e);
	free(w);
	if (!l)
		die("linear", &e);
	return l;
}

#define DIMS(...)                                                                                  \
	(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) {                   \
		__VA_ARGS__                                                                        \
	}

static void fill(struct bench *b) {
	const struct geometry *g = &b->g;
	struct error e = {0};
	int blocks = (g->frame_tokens + g->block - 1) / g->block,
	    tp = g->head_dim / 2 - 2 * (g->head_dim / 6);
	int64_t n = g->current * g->frame_tokens, d = g->heads * g->head_dim;
	b->n = (int)n;
	b->d = (int)d;
	b->x = make(b, DIMS(n, d));
	b->y = make(b, DIMS(n, d));
	b->wide = make(b, DIMS(n, g->ffn));
	b->wide2 = make(b, DIMS(n, g->ffn));
	b->qkv = make(b, DIMS(n, 3 * d));
	b->residual = make(b, DIMS(n, d));
	b->gate = make(b, DIMS(g->current, d));
	b->gain = make(b, DIMS(d));
	b->q_mean = make(b, DIMS(g->heads, g->current * blocks, g->head_dim));
	b->text = make(b, DIMS(g->text, d));
	b->rope.time = make(b, DIMS(g->current, tp, 2));
	b->rope.space = make(b, DIMS(g->frame_tokens, g->head_dim / 2 - tp, 2));
	b->rgb = make(b, DIMS(4 * g->current, g->height, g->width, 3));
	b->yuv = tensor_2d(make(b, DIMS(4 * g->current, g->height, g->width)).data, DTYPE_U8,
		4 * g->current, g->height * g->width * 3 / 2);
	b->planes = make(b, DIMS(g->current, 16, g->height / 8, g->width / 8));
	b->store.shape = (struct kv_shape){
		g->heads, g->head_dim, g->frame_tokens, g->block, g->frames, b->kv};
	b->store.data = backend_alloc(b->be, b->ops->kv_bytes(&b->store.shape), &e);
	b->list = (struct block_list){g->heads, g->current * blocks, g->keep, NULL};
	b->list.index = backend_alloc(
		b->be, (size_t)(g->heads * g->current * blocks * g->keep) * sizeof(int32_t), &e);
	if (!b->store.data || !b->list.index)
		die("memory", &e);
	b->seen = (struct kv_span){&b->store, 0, g->frames};
	b->slot = (struct kv_span){&b->store, g->frames - g->current, g->current};
	struct tensor k = make(b, DIMS(g->frames * g->frame_tokens, d));
	b->ops->kv_import(b->be, &b->seen, &k, &k);
	b->square = make_linear(b, d, d);
	b->up = make_linear(b, d, g->ffn);
	b->down = make_linear(b, g->ffn, d);
}

/* ---- the ops: each does one call and says what it costs ---- */

struct cost {
	double flop, bytes;
};

static double bytes_of(const struct bench *b, int tensors) {
	return (double)tensors * b->n * b->d * 4;
}

static struct cost run_linear_square(struct bench *b) {
	b->ops->linear(b->be, &b->y, &b->x, b->square, ACT_NONE);
	return (struct cost){2.0 * b->n * b->d * b->d, bytes_of(b, 2)};
}

static struct cost run_linear_up_gelu(struct bench *b) {
	b->ops->linear(b->be, &b->wide, &b->x, b->up, ACT_GELU_TANH);
	return (struct cost){2.0 * b->n * b->d * b->g.ffn, bytes_of(b, 1) + 4.0 * b->n * b->g.ffn};
}

static struct cost run_linear_down_residual(struct bench *b) {
	b->ops->linear_residual(b->be, &b->residual, &b->wide2, b->down, &b->gate);
	return (struct cost){2.0 * b->n * b->d * b->g.ffn, bytes_of(b, 2) + 4.0 * b->n * b->g.ffn};
}

static struct cost run_attention_dense(struct bench *b) {
	b->ops->attention(b->be, &b->y, &b->x, &b->seen, 1, NULL);
	double keys = (double)b->g.frames * b->g.frame_tokens;
	return (struct cost){4.0 * b->n * keys * b->d, bytes_of(b, 2) + 8.0 * keys * b->d};
}

static struct cost run_attention_sparse(struct bench *b) {
	b->ops->attention(b->be, &b->y, &b->x, &b->seen, 1, &b->list);
	double keys = (double)b->g.keep * b->g.block;
	return (struct cost){4.0 * b->n * keys * b->d, bytes_of(b, 2) + 8.0 * keys * b->d};
}

static struct cost run_cross(struct bench *b) {
	struct sdpa_args args = {.scale = 0.1f, .last_repeats = 20};
	b->ops->sdpa(b->be, &b->y, &b->x, &b->text, &b->text, b->g.heads, &args);
	return (struct cost){4.0 * b->n * b->g.text * b->d, bytes_of(b, 2)};
}

static struct cost run_select(struct bench *b) {
	const struct geometry *g = &b->g;
	struct select_args args = {g->current, g->keep, g->keep_frames, g->keep_sink, g->keep_near};
	b->ops->select_blocks(b->be, &b->list, &b->q_mean, &b->seen, 1, &args);
	return (struct cost){
		2.0 * b->list.query_blocks * g->frames * (b->list.query_blocks / g->current) * b->d,
		0};
}

static struct cost run_qk_norm_rope_write(struct bench *b) {
	b->ops->qk_norm_rope_write(
		b->be, &b->x, &b->q_mean, &b->slot, &b->qkv, &b->gain, &b->gain, &b->rope, 1e-6f);
	return (struct cost){0, bytes_of(b, 6)};
}

static struct cost run_norm_modulate(struct bench *b) {
	b->ops->norm_modulate(b->be, &b->y, &b->x, &b->gate, &b->gate, 1e-6f);
	return (struct cost){0, bytes_of(b, 2)};
}

static struct cost run_rms_norm(struct bench *b) {
	b->ops->rms_norm(b->be, &b->y, &b->x, &b->gain, 1e-6f);
	return (struct cost){0, bytes_of(b, 2)};
}

static struct cost run_gated_gelu(struct bench *b) {
	b->ops->gated_gelu(b->be, &b->y, &b->x, &b->residual);
	return (struct cost){0, bytes_of(b, 3)};
}

static struct cost run_kv_rotate(struct bench *b) {
	struct kv_span sink = {&b->store, 0, b->g.current};
	b->ops->kv_rotate(b->be, &sink, 3, 10000);
	return (struct cost){0, bytes_of(b, 2)};
}

static struct cost run_noise(struct bench *b) {
	b->ops->noise(b->be, &b->planes, 1, 2, 3);
	return (struct cost){0, (double)tensor_bytes(&b->planes)};
}

static struct cost run_denoise(struct bench *b) {
	float sigma[2] = {0.9f, 0.8f};
	b->ops->denoise(b->be, &b->y, &b->y, &b->x, &b->residual, &b->residual, sigma);
	return (struct cost){0, bytes_of(b, 4)};
}

static struct cost run_rgb_to_i420(struct bench *b) {
	b->ops->rgb_to_i420(b->be, &b->yuv, &b->rgb, 0.5f, 0.5f);
	return (struct cost){0, (double)tensor_bytes(&b->rgb) + (double)tensor_bytes(&b->yuv)};
}

static const struct {
	const char *name;
	struct cost (*run)(struct bench *b);
} cases[] = {
	{"linear_square", run_linear_square},
	{"linear_up_gelu", run_linear_up_gelu},
	{"linear_down_residual", run_linear_down_residual},
	{"select_blocks", run_select},
	{"attention_sparse", run_attention_sparse},
	{"attention_dense", run_attention_dense},
	{"cross_attention", run_cross},
	{"qk_norm_rope_write", run_qk_norm_rope_write},
	{"norm_modulate", run_norm_modulate},
	{"rms_norm", run_rms_norm},
	{"gated_gelu", run_gated_gelu},
	{"kv_rotate", run_kv_rotate},
	{"noise", run_noise},
	{"denoise", run_denoise},
	{"rgb_to_i420", run_rgb_to_i420},
};

static int by_value(const void *a, const void *b) {
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return x < y ? -1 : x > y;
}

/* Median of up to 4096 calls within the time given; on a GPU one call each
 * includes the wait, so small ops read high there. */
static void time_case(struct bench *b, size_t i) {
	static int64_t taken[4096];
	struct error e = {0};
	int64_t end = now_ns() + (int64_t)(b->seconds * 1e9), count = 0;
	struct cost c = cases[i].run(b);
	do {
		int64_t start = now_ns();
		cases[i].run(b);
		if (backend_sync(b->be, &e) < 0)
			die(cases[i].name, &e);
		taken[count++] = now_ns() - start;
	} while (count < 4096 && (now_ns() < end || count < 5));
	qsort(taken, (size_t)count, sizeof *taken, by_value);
	double us = (double)taken[count / 2] / 1e3, best = (double)taken[0] / 1e3;
	printf("{\"op\": \"%s\", \"geometry\": \"%s\", \"us\": %.1f, \"best_us\": %.1f, "
	       "\"gflops\": %.1f, "
	       "\"best_gflops\": %.1f, \"gb_s\": %.2f}\n",
		cases[i].name, b->g.name, us, best, c.flop / us / 1e3, c.flop / best / 1e3,
		c.bytes / us / 1e3);
}

static int usage(void) {
	fprintf(stderr, "usage: bench_ops [--backend NAME] [--threads N] [--seconds S] [--geometry "
			"demo|wan] [OP]\n");
	return 2;
}

static int set_geometry(struct bench *b, const char *name) {
	for (size_t i = 0; i < sizeof geometries / sizeof *geometries; i++) {
		if (strcmp(geometries[i].name, name) == 0) {
			b->g = geometries[i];
			return 0;
		}
	}
	return -EINVAL;
}

int main(int argc, char **argv) {
	struct bench b = {.g = geometries[0], .seconds = 0.3, .filter = ""};
	struct backend_config config = {.spec = "cpu"};
	struct error e = {0};
	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : NULL;
		if (argv[i][0] != '-') {
			b.filter = argv[i];
			continue;
		}
		i++;
		if (value && strcmp(argv[i - 1], "--backend") == 0)
			config.spec = value;
		else if (value && strcmp(argv[i - 1], "--threads") == 0)
			config.threads = (int)strtol(value, NULL, 10);
		else if (value && strcmp(argv[i - 1], "--seconds") == 0)
			b.seconds = strtod(value, NULL);
		else if (value && strcmp(argv[i - 1], "--kv") == 0)
			b.kv = strcmp(value, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
		else if (!value || strcmp(argv[i - 1], "--geometry") != 0 ||
			 set_geometry(&b, value) < 0)
			return usage();
	}
	b.be = backend_create(&config, &e);
	if (!b.be)
		die("backend", &e);
	b.ops = backend_ops(b.be);
	fill(&b);
	printf("{\"machine\": \"%s\"}\n", backend_info(b.be).name);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		if (strstr(cases[i].name, b.filter) || strcmp(cases[i].name, "select_blocks") == 0)
			time_case(&b, i);
	}
	b.ops->linear_destroy(b.be, b.square);
	b.ops->linear_destroy(b.be, b.up);
	b.ops->linear_destroy(b.be, b.down);
	backend_destroy(b.be); /* its memory ends with the process */
	return 0;
}
