/* SPDX-License-Identifier: Apache-2.0 */
/* Times every op that a chunk spends its time in, at a model's shapes, and
 * prints one JSON object a line: microseconds and GFLOP/s (median and best),
 * GB/s (inputs and outputs once). Dense linears stand for the peak that
 * attention is compared with.
 *
 *	bench_ops [--backend cpu] [--threads 0] [--seconds 0.3] [--geometry demo|wan]
 *	    [--precision f32|bf16|fp8] [--kv f32|bf16] [--density SHARE] [OP]
 *
 * On a GPU a measurement is many calls and one wait, divided. Activations are as
 * a transformer of that precision has them; density: of the blocks that sparse
 * attention keeps, whose keys alone count as work. LIGHTFORCED_CPU_ISA limits
 * the instruction set. OP: only ops with this in their name. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/backend.h"

#define QUEUED_NS 4000000 /* of calls in a row on a GPU, about */

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
	enum precision precision;
	enum dtype kv, act, input; /* of activations, of those that enter a linear */
	double density; /* 0: as the geometry says */
	double sparse_keys; /* that a query reads; 0: not counted yet */
	bool queued; /* calls only enqueue: a GPU */
	int n, d; /* tokens of a chunk, model width */
	struct tensor x, y, normed, wide, qkv, residual, gate, gain, q_mean, text, rgb, yuv, planes,
		flow;
	struct rope rope;
	struct kv_store store;
	struct kv_span seen, slot;
	struct block_list list;
	struct linear *square, *three, *up, *down;
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

/* On the device, zeros. */
static struct tensor make_empty(struct bench *b, enum dtype d, int rank, const int64_t *dim) {
	struct error e = {0};
	struct tensor t = tensor_make(NULL, d, rank, dim);
	t.data = backend_alloc(b->be, tensor_bytes(&t), &e);
	t.one_scale = d == DTYPE_FP8_E4M3;
	if (t.data && t.one_scale)
		t.scale = backend_alloc(b->be, 2 * sizeof(float), &e);
	if (!t.data || (t.one_scale && !t.scale))
		die("memory", &e);
	return t;
}

/* Random in -1 .. 1, uploaded. */
static struct tensor make(struct bench *b, int rank, const int64_t *dim) {
	static uint32_t state = 1; /* a bench has one thread and no reason to repeat numbers */
	struct error e = {0};
	struct tensor t = make_empty(b, DTYPE_F32, rank, dim);
	float *host = malloc(tensor_bytes(&t));
	if (!host)
		die("memory", &e);
	for (int64_t i = 0; i < tensor_count(&t); i++) {
		state = state * 1664525u + 1013904223u;
		host[i] = (float)(int32_t)state * 0x1p-31f;
	}
	backend_upload(b->be, t.data, host, tensor_bytes(&t));
	free(host);
	return t;
}

/* Random, as an activation. */
static struct tensor make_as(struct bench *b, enum dtype d, int rank, const int64_t *dim) {
	struct tensor plain = make(b, rank, dim);
	if (d == DTYPE_F32)
		return plain;
	struct tensor t = make_empty(b, d, rank, dim), scale = tensor_1d(t.scale, DTYPE_F32, 2);
	if (t.one_scale)
		b->ops->code_scale(b->be, &scale, &plain);
	b->ops->convert(b->be, &t, &plain);
	backend_sync(b->be, NULL);
	backend_free(b->be, plain.data);
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
	struct linear *l = b->ops->linear_create(b->be, &t, NULL, b->precision, &e);
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
	b->x = make_as(b, b->act, DIMS(n, d));
	b->y = make_as(b, b->act, DIMS(n, d));
	b->normed = make_as(b, b->input, DIMS(n, d));
	b->wide = make_as(b, b->input, DIMS(n, g->ffn));
	b->qkv = make_as(b, b->act, DIMS(n, 3 * d));
	b->residual = make(b, DIMS(n, d));
	b->gate = make(b, DIMS(g->current, d));
	b->gain = make(b, DIMS(d));
	b->q_mean = make(b, DIMS(g->heads, g->current * blocks, g->head_dim));
	b->text = make_as(b, b->act, DIMS(g->text, d));
	b->rope.time = make(b, DIMS(g->current, tp, 2));
	b->rope.space = make(b, DIMS(g->frame_tokens, g->head_dim / 2 - tp, 2));
	b->rgb = make(b, DIMS(4 * g->current, g->height, g->width, 3));
	b->yuv = tensor_2d(make(b, DIMS(4 * g->current, g->height, g->width)).data, DTYPE_U8,
		4 * g->current, g->height * g->width * 3 / 2);
	b->planes = make(b, DIMS(g->current, 16, g->height / 8, g->width / 8));
	b->flow = make(b, DIMS(g->current, 16, g->height / 8, g->width / 8));
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
	b->three = make_linear(b, d, 3 * d);
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
	b->ops->linear(b->be, &b->y, &b->normed, b->square, ACT_NONE);
	return (struct cost){2.0 * b->n * b->d * b->d, bytes_of(b, 2)};
}

static struct cost run_linear_qkv(struct bench *b) {
	b->ops->linear(b->be, &b->qkv, &b->normed, b->three, ACT_NONE);
	return (struct cost){6.0 * b->n * b->d * b->d, bytes_of(b, 4)};
}

static struct cost run_linear_up_gelu(struct bench *b) {
	b->ops->linear(b->be, &b->wide, &b->normed, b->up, ACT_GELU_TANH);
	return (struct cost){2.0 * b->n * b->d * b->g.ffn, bytes_of(b, 1) + 4.0 * b->n * b->g.ffn};
}

static struct cost run_linear_down_residual(struct bench *b) {
	b->ops->linear_residual(b->be, &b->residual, &b->wide, b->down, &b->gate);
	return (struct cost){2.0 * b->n * b->d * b->g.ffn, bytes_of(b, 2) + 4.0 * b->n * b->g.ffn};
}

static struct cost run_linear_residual_norm(struct bench *b) {
	struct norm_args norm = {&b->gate, &b->gate, 1e-6f};
	b->ops->linear_residual_norm(
		b->be, &b->normed, &b->residual, &b->normed, b->square, &b->gate, &norm);
	return (struct cost){2.0 * b->n * b->d * b->d, bytes_of(b, 4)};
}

static struct cost run_attention_dense(struct bench *b) {
	b->ops->attention(b->be, &b->y, &b->x, &b->seen, 1, NULL);
	double keys = (double)b->g.frames * b->g.frame_tokens;
	return (struct cost){4.0 * b->n * keys * b->d, bytes_of(b, 2) + 8.0 * keys * b->d};
}

/* Keys that a query reads, on average: the last block of a
 * frame is short. Waits. */
static double listed_keys(struct bench *b) {
	const struct geometry *g = &b->g;
	int per = (g->frame_tokens + g->block - 1) / g->block;
	size_t count = (size_t)(b->list.heads * b->list.query_blocks) * (size_t)b->list.kept;
	int32_t *index = malloc(count * sizeof *index);
	if (!index)
		die("memory", &(struct error){0});
	backend_download(b->be, index, b->list.index, count * sizeof *index);
	double keys = 0;
	for (size_t i = 0; i < count; i++)
		keys += index[i] % per == per - 1 ? g->frame_tokens - (per - 1) * g->block
						  : g->block;
	free(index);
	return keys / b->list.heads / b->list.query_blocks;
}

static struct cost run_attention_sparse(struct bench *b) {
	if (b->sparse_keys == 0) /* the list was filled: select comes first in the table */
		b->sparse_keys = listed_keys(b);
	b->ops->attention(b->be, &b->y, &b->x, &b->seen, 1, &b->list);
	return (struct cost){
		4.0 * b->n * b->sparse_keys * b->d, bytes_of(b, 2) + 8.0 * b->sparse_keys * b->d};
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
	b->ops->norm_modulate(b->be, &b->normed, &b->residual, &b->gate, &b->gate, 1e-6f);
	return (struct cost){0, bytes_of(b, 2)};
}

static struct cost run_rms_norm(struct bench *b) {
	b->ops->rms_norm(b->be, &b->y, &b->x, &b->gain, 1e-6f);
	return (struct cost){0, bytes_of(b, 2)};
}

static struct cost run_gated_gelu(struct bench *b) {
	b->ops->gated_gelu(b->be, &b->y, &b->x, &b->x);
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
	b->ops->denoise(b->be, &b->planes, &b->planes, &b->planes, &b->flow, &b->flow, sigma);
	return (struct cost){0, 4.0 * (double)tensor_bytes(&b->planes)};
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
	{"linear_qkv", run_linear_qkv},
	{"linear_up_gelu", run_linear_up_gelu},
	{"linear_down_residual", run_linear_down_residual},
	{"linear_residual_norm", run_linear_residual_norm},
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

/* Nanoseconds of a call, of `calls` in a row. */
static int64_t time_calls(struct bench *b, size_t i, int calls) {
	struct error e = {0};
	int64_t start = now_ns();
	for (int k = 0; k < calls; k++)
		cases[i].run(b);
	if (backend_sync(b->be, &e) < 0)
		die(cases[i].name, &e);
	return (now_ns() - start) / calls;
}

/* Median of up to 4096 measurements within the time given. */
static void time_case(struct bench *b, size_t i) {
	static int64_t taken[4096];
	int64_t end = now_ns() + (int64_t)(b->seconds * 1e9), count = 0;
	struct cost c = cases[i].run(b);
	time_calls(b, i, 1);
	int calls = b->queued ? (int)(QUEUED_NS / (time_calls(b, i, 8) + 1)) + 1 : 1;
	do
		taken[count++] = time_calls(b, i, calls);
	while (count < 4096 && (now_ns() < end || count < 5));
	qsort(taken, (size_t)count, sizeof *taken, by_value);
	double us = (double)taken[count / 2] / 1e3, best = (double)taken[0] / 1e3;
	printf("{\"op\": \"%s\", \"geometry\": \"%s\", \"us\": %.2f, \"best_us\": %.2f, "
	       "\"gflops\": %.1f, "
	       "\"best_gflops\": %.1f, \"gb_s\": %.2f}\n",
		cases[i].name, b->g.name, us, best, c.flop / us / 1e3, c.flop / best / 1e3,
		c.bytes / us / 1e3);
	fflush(stdout);
}

static int usage(void) {
	fprintf(stderr,
		"usage: bench_ops [--backend NAME] [--threads N] [--seconds S] [--geometry "
		"demo|wan]\n    [--precision f32|bf16|fp8] [--kv f32|bf16] [--density SHARE] "
		"[OP]\n");
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

static int set_precision(struct bench *b, const char *name) {
	static const char *const names[] = {"f32", "bf16", "fp8"};
	for (int i = 0; i < 3; i++) {
		if (strcmp(names[i], name) == 0) {
			b->precision = (enum precision)(PRECISION_F32 + i);
			return 0;
		}
	}
	return -EINVAL;
}

static int set_option(
	struct bench *b, struct backend_config *c, const char *name, const char *value) {
	if (strcmp(name, "--backend") == 0)
		c->spec = value;
	else if (strcmp(name, "--threads") == 0)
		c->threads = (int)strtol(value, NULL, 10);
	else if (strcmp(name, "--seconds") == 0)
		b->seconds = strtod(value, NULL);
	else if (strcmp(name, "--density") == 0)
		b->density = strtod(value, NULL);
	else if (strcmp(name, "--kv") == 0)
		b->kv = strcmp(value, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
	else if (strcmp(name, "--precision") == 0)
		return set_precision(b, value);
	else
		return strcmp(name, "--geometry") == 0 ? set_geometry(b, value) : -EINVAL;
	return 0;
}

/* Dtypes as the transformer chooses them. */
static void set_dtypes(struct bench *b) {
	struct backend_info info = backend_info(b->be);
	b->queued = strcmp(info.kind, "cuda") == 0;
	b->act = b->input = b->precision == PRECISION_F32 ? DTYPE_F32 : info.activation;
	if (b->queued && b->precision == PRECISION_FP8)
		b->input = DTYPE_FP8_E4M3;
	if (b->queued && b->precision != PRECISION_F32)
		b->kv = info.kv;
	int per = (b->g.frame_tokens + b->g.block - 1) / b->g.block;
	if (b->density > 0)
		b->g.keep = (int)(b->density * per * b->g.frames + 0.5);
}

int main(int argc, char **argv) {
	struct bench b = {
		.g = geometries[0], .seconds = 0.3, .filter = "", .precision = PRECISION_F32};
	struct backend_config config = {.spec = "cpu"};
	struct error e = {0};
	for (int i = 1; i < argc; i++) {
		if (argv[i][0] != '-')
			b.filter = argv[i];
		else if (i + 1 == argc || set_option(&b, &config, argv[i], argv[i + 1]) < 0)
			return usage();
		else
			i++;
	}
	b.be = backend_create(&config, &e);
	if (!b.be)
		die("backend", &e);
	b.ops = backend_ops(b.be);
	set_dtypes(&b);
	fill(&b);
	printf("{\"machine\": \"%s\", \"kept_blocks\": %d}\n", backend_info(b.be).name, b.g.keep);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		if (strstr(cases[i].name, b.filter) || strcmp(cases[i].name, "select_blocks") == 0)
			time_case(&b, i);
	}
	b.ops->linear_destroy(b.be, b.square);
	b.ops->linear_destroy(b.be, b.three);
	b.ops->linear_destroy(b.be, b.up);
	b.ops->linear_destroy(b.be, b.down);
	backend_destroy(b.be); /* its memory ends with the process */
	return 0;
}
