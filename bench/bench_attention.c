/* SPDX-License-Identifier: Apache-2.0 */
/* Times attention at a video model's sizes and prints one JSON object: dense over
 * the full window and over one chunk, sparse over random lists of blocks of 64, of
 * 128 and of 16 tokens (TFLOPS of the kept keys: 4 * queries * kept keys * channels *
 * heads), selection, and attention to a text.
 *
 *	bench_attention [--backend cuda] [--frames 21] [--tokens 1560] [--heads 12]
 *		[--channels 128] [--density 0.15] [--samples 20] [--seconds 0.005] [CASE]
 *
 * A sample is a batch of calls that takes about --seconds, between two waits; the
 * median of --samples after a warm-up. CASE: only cases with this in their name. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/backend.h"

#define CHUNK 3 /* frames */
#define TEXT 120
#define SAMPLES_MAX 1000

struct bench {
	struct backend *be;
	const struct ops *ops;
	int frames, tokens, heads, channels, samples;
	double density, seconds;
	const char *filter;
	enum dtype act, kv;
	int n, d; /* queries, model width */
	struct tensor q, y, k, v, text_k, text_v;
	bool comma;
};

static void die(const char *what, const struct error *e) {
	fprintf(stderr, "bench_attention: %s: %s\n", what, e->text);
	exit(1);
}

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *memory(struct bench *b, size_t bytes) {
	struct error e = {0};
	void *p = backend_alloc(b->be, bytes, &e);
	if (!p)
		die("memory", &e);
	return p;
}

static uint32_t random_u32(void) {
	static uint64_t state = 1; /* a bench has one thread */
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(state >> 32);
}

/* [rows, cols] of the dtype, uniform in -scale .. scale. */
static struct tensor filled(
	struct bench *b, enum dtype dtype, int64_t rows, int64_t cols, float scale) {
	struct tensor t = tensor_2d(NULL, dtype, rows, cols);
	t.data = memory(b, tensor_bytes(&t));
	struct tensor plain = tensor_2d(NULL, DTYPE_F32, rows, cols);
	float *host = malloc(tensor_bytes(&plain));
	struct error e = {0};
	if (!host)
		die("memory", &e);
	for (int64_t i = 0; i < rows * cols; i++)
		host[i] = scale * (float)(int32_t)random_u32() * 0x1p-31f;
	plain.data = memory(b, tensor_bytes(&plain));
	backend_upload(b->be, plain.data, host, tensor_bytes(&plain));
	b->ops->convert(b->be, &t, &plain);
	backend_sync(b->be, NULL);
	backend_free(b->be, plain.data);
	free(host);
	return t;
}

/* ---- what is timed ---- */
struct call {
	struct kv_store store;
	struct kv_span span;
	struct block_list list;
	struct tensor q_mean;
	struct select_args select;
	struct sdpa_args text;
	int queries;
	int kind; /* 0 attention, 1 attention by list, 2 selection, 3 text */
	double flop;
};

static void run(struct bench *b, struct call *c) {
	struct tensor q = tensor_rows(b->q, 0, c->queries), y = tensor_rows(b->y, 0, c->queries);
	if (c->kind == 2)
		b->ops->select_blocks(b->be, &c->list, &c->q_mean, &c->span, 1, &c->select);
	else if (c->kind == 3)
		b->ops->sdpa(b->be, &y, &q, &b->text_k, &b->text_v, b->heads, &c->text);
	else
		b->ops->attention(b->be, &y, &q, &c->span, 1, c->kind == 1 ? &c->list : NULL);
}

static int by_value(const void *a, const void *b) {
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static double batch(struct bench *b, struct call *c, int calls) {
	struct error e = {0};
	double start = now();
	for (int i = 0; i < calls; i++)
		run(b, c);
	if (backend_sync(b->be, &e) < 0)
		die("run", &e);
	return (now() - start) / calls;
}

static void report(struct bench *b, const char *name, struct call *c) {
	static double taken[SAMPLES_MAX];
	batch(b, c, 1);
	double once = batch(b, c, 3);
	int calls = (int)(b->seconds / once) + 1;
	for (int i = 0; i < b->samples; i++)
		taken[i] = batch(b, c, calls);
	qsort(taken, (size_t)b->samples, sizeof *taken, by_value);
	double median = taken[b->samples / 2], best = taken[0];
	printf("%s\n  \"%s_us\": %.2f, \"%s_best_us\": %.2f", b->comma ? "," : "", name,
		median * 1e6, name, best * 1e6);
	if (c->flop > 0)
		printf(", \"%s_tflops\": %.2f", name, c->flop / median * 1e-12);
	fflush(stdout);
	b->comma = true;
}

static void store_make(struct bench *b, struct call *c, int block, int frames) {
	c->store.shape = (struct kv_shape){b->heads, b->channels, b->tokens, block, frames, b->kv};
	c->store.data = memory(b, b->ops->kv_bytes(&c->store.shape));
	c->span = (struct kv_span){&c->store, 0, frames};
	struct tensor k = tensor_rows(b->k, 0, (int64_t)frames * b->tokens),
		      v = tensor_rows(b->v, 0, (int64_t)frames * b->tokens);
	b->ops->kv_import(b->be, &c->span, &k, &v);
	c->queries = CHUNK * b->tokens;
}

static int block_tokens(const struct bench *b, int block, int index) {
	int left = b->tokens - index * block;
	return left < block ? left : block;
}

/* Random ascending lists; counts the work. */
static void list_fill(struct bench *b, struct call *c, int block, int frames) {
	int per_frame = (b->tokens + block - 1) / block, all = frames * per_frame,
	    keep = (int)(b->density * all);
	c->list = (struct block_list){b->heads, CHUNK * per_frame, keep > 0 ? keep : 1, NULL};
	int lists = b->heads * c->list.query_blocks;
	size_t bytes = (size_t)lists * (size_t)c->list.kept * sizeof(int32_t);
	int32_t *host = malloc(bytes);
	struct error e = {0};
	if (!host)
		die("memory", &e);
	for (int l = 0; l < lists; l++) {
		int64_t keys = 0, left = c->list.kept, at = (int64_t)l * c->list.kept;
		for (int i = 0; i < all && left > 0; i++) {
			if ((int64_t)(random_u32() % (uint32_t)(all - i)) >= left)
				continue;
			host[at++] = i;
			left--;
			keys += block_tokens(b, block, i % per_frame);
		}
		c->flop += 4. * block_tokens(b, block, l % c->list.query_blocks % per_frame) *
			   (double)keys * b->channels;
	}
	c->list.index = memory(b, bytes);
	backend_upload(b->be, c->list.index, host, bytes);
	backend_sync(b->be, NULL);
	free(host);
}

static bool wanted(const struct bench *b, const char *name) {
	return strstr(name, b->filter) != NULL;
}

static void done(struct bench *b, struct call *c) {
	backend_free(b->be, c->store.data);
	backend_free(b->be, c->list.index);
	backend_free(b->be, c->q_mean.data);
}

static void dense(struct bench *b, const char *name, int frames) {
	struct call c = {.kind = 0};
	if (!wanted(b, name))
		return;
	store_make(b, &c, 64, frames);
	c.flop = 4. * c.queries * (double)frames * b->tokens * b->d;
	report(b, name, &c);
	done(b, &c);
}

static void sparse(struct bench *b, const char *name, int block) {
	struct call c = {.kind = 1};
	if (!wanted(b, name))
		return;
	store_make(b, &c, block, b->frames);
	list_fill(b, &c, block, b->frames);
	report(b, name, &c);
	done(b, &c);
}

static void selection(struct bench *b, const char *name, int block, int keep_frames) {
	struct call c = {.kind = 2};
	if (!wanted(b, name))
		return;
	store_make(b, &c, block, b->frames);
	int per_frame = (b->tokens + block - 1) / block, keep = b->frames * per_frame / 10;
	c.select = (struct select_args){CHUNK, keep > 0 ? keep : 1, keep_frames, 1, 2};
	c.list = (struct block_list){b->heads, CHUNK * per_frame, c.select.keep, NULL};
	c.list.index = memory(b,
		(size_t)b->heads * (size_t)(CHUNK * per_frame * c.select.keep) * sizeof(int32_t));
	c.q_mean = filled(b, DTYPE_F32, (int64_t)b->heads * CHUNK * per_frame, b->channels, 1.f);
	report(b, name, &c);
	done(b, &c);
}

static void text(struct bench *b, const char *name) {
	struct call c = {.kind = 3,
		.text = {.scale = 0.088f, .last_repeats = 392},
		.queries = CHUNK * b->tokens};
	if (!wanted(b, name))
		return;
	c.flop = 4. * c.queries * TEXT * b->d;
	report(b, name, &c);
}

static int usage(void) {
	fprintf(stderr, "usage: bench_attention [--backend NAME] [--frames N] [--tokens N] "
			"[--heads N] [--channels N]\n"
			"\t[--density X] [--samples N] [--seconds S] [CASE]\n");
	return 2;
}

static int options(struct bench *b, struct backend_config *config, int argc, char **argv) {
	for (int i = 1; i < argc; i++) {
		if (argv[i][0] != '-') {
			b->filter = argv[i];
			continue;
		}
		const char *name = argv[i] + 2, *value = ++i < argc ? argv[i] : NULL;
		if (!value)
			return -1;
		if (strcmp(name, "backend") == 0)
			config->spec = value;
		else if (strcmp(name, "frames") == 0)
			b->frames = (int)strtol(value, NULL, 10);
		else if (strcmp(name, "tokens") == 0)
			b->tokens = (int)strtol(value, NULL, 10);
		else if (strcmp(name, "heads") == 0)
			b->heads = (int)strtol(value, NULL, 10);
		else if (strcmp(name, "channels") == 0)
			b->channels = (int)strtol(value, NULL, 10);
		else if (strcmp(name, "samples") == 0)
			b->samples = (int)strtol(value, NULL, 10);
		else if (strcmp(name, "density") == 0)
			b->density = strtod(value, NULL);
		else if (strcmp(name, "seconds") == 0)
			b->seconds = strtod(value, NULL);
		else
			return -1;
	}
	return b->frames >= CHUNK && b->tokens > 0 && b->heads > 0 && b->channels > 0 &&
			       b->samples > 0 && b->samples <= SAMPLES_MAX
		       ? 0
		       : -1;
}

int main(int argc, char **argv) {
	struct bench b = {.frames = 21,
		.tokens = 1560,
		.heads = 12,
		.channels = 128,
		.samples = 20,
		.density = 0.15,
		.seconds = 0.005,
		.filter = ""};
	struct backend_config config = {.spec = "cuda"};
	struct error e = {0};
	if (options(&b, &config, argc, argv) < 0)
		return usage();
	b.be = backend_create(&config, &e);
	if (!b.be)
		die("backend", &e);
	b.ops = backend_ops(b.be);
	struct backend_info info = backend_info(b.be);
	b.act = info.activation, b.kv = info.kv;
	b.n = CHUNK * b.tokens, b.d = b.heads * b.channels;
	b.q = filled(&b, b.act, b.n, b.d, 1.f);
	b.y = filled(&b, b.act, b.n, b.d, 0.f);
	b.k = filled(&b, DTYPE_F32, (int64_t)b.frames * b.tokens, b.d, 1.f);
	b.v = filled(&b, DTYPE_F32, (int64_t)b.frames * b.tokens, b.d, 1.f);
	b.text_k = filled(&b, b.act, TEXT, b.d, 1.f);
	b.text_v = filled(&b, b.act, TEXT, b.d, 1.f);
	printf("{\"machine\": \"%s\", \"queries\": %d, \"keys\": %d, \"heads\": %d, \"channels\": "
	       "%d, \"density\": %g,",
		info.name, b.n, b.frames * b.tokens, b.heads, b.channels, b.density);
	dense(&b, "attention_dense", b.frames);
	dense(&b, "attention_chunk", CHUNK);
	sparse(&b, "attention_sparse15", 64);
	sparse(&b, "attention_sparse15_128", 128);
	sparse(&b, "attention_sparse15_16", 16);
	selection(&b, "select", 64, 6);
	selection(&b, "select_128", 128, 6);
	selection(&b, "select_16", 16, 6);
	selection(&b, "select_one_stage", 64, 0);
	text(&b, "sdpa");
	printf("}\n");
	backend_destroy(b.be); /* its memory ends with the process */
	return 0;
}
