/* SPDX-License-Identifier: Apache-2.0 */
/* What a transformer block does beside attention, at Wan 1.3B's shapes, through
 * the op table: one JSON object an op and precision with microseconds a call,
 * TFLOP/s, GB/s (inputs and outputs once) and milliseconds a chunk (30 layers, 5
 * passes); then how far each linear is from f32 with the same random weights
 * (L2 of the difference over L2 of the f32 result).
 *
 *	bench_linear [--backend cuda] [--tokens 4680] [--calls 50] [--precision f32|bf16|fp8]
 *
 * Calls are queued one behind the other and waited for once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/backend.h"
#include "tests/support/compare.h"

#define DIM 1536
#define FFN 8960
#define HEADS 12
#define BLOCK 64
#define FRAMES 3
#define CODES_TO 64.f /* about a tenth of it is used, as in a model */
#define PASSES (30 * 5) /* of a block in a chunk */

enum { QKV, O, IN, OUT, LINEARS };
static const struct {
	const char *name;
	int64_t out, in;
} shapes[LINEARS] = {
	{"qkv", 3 * DIM, DIM}, {"o", DIM, DIM}, {"ffn_in", FFN, DIM}, {"ffn_out", DIM, FFN}};

struct bench {
	struct backend *be;
	const struct ops *ops;
	int64_t n;
	int calls;
	const char *precision;
	enum dtype act, input;
	float *w[LINEARS], *b;
	struct linear *linear[LINEARS];
	struct tensor r, x, y, wide, codes, wide_codes, qkv, q, q_mean, gain, row, gate;
	struct rope rope;
	struct kv_store store;
	struct kv_span slot;
	float *exact[LINEARS]; /* f32 results */
};

static void die(const char *what, const struct error *e) {
	fprintf(stderr, "bench_linear: %s: %s\n", what, e->text);
	exit(1);
}

static double now_us(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* About normal; the same numbers in every run. */
static float *host_random(int64_t n, float scale, uint32_t state) {
	float *x = malloc((size_t)n * sizeof *x);
	for (int64_t i = 0; x && i < n; i++) {
		float sum = 0;
		for (int k = 0; k < 4; k++) {
			state = state * 1664525u + 1013904223u;
			sum += (float)(int32_t)state * 0x1p-31f;
		}
		x[i] = sum * 0.8660254f * scale;
	}
	return x;
}

static struct tensor make(struct bench *b, enum dtype d, int64_t rows, int64_t cols) {
	struct error e = {0};
	struct tensor t = tensor_2d(NULL, d, rows, cols);
	t.data = backend_alloc(b->be, tensor_bytes(&t), &e);
	if (t.data && d == DTYPE_FP8_E4M3) {
		float scale[2] = {CODES_TO / 448, 448 / CODES_TO};
		t.scale = backend_alloc(b->be, sizeof scale, &e);
		t.one_scale = true;
		if (t.scale)
			backend_upload(b->be, t.scale, scale, sizeof scale);
	}
	if (e.code)
		die("memory", &e);
	return t;
}

static struct tensor filled(
	struct bench *b, enum dtype d, int64_t rows, int64_t cols, float scale) {
	struct tensor t = make(b, d, rows, cols), plain = t;
	if (d != DTYPE_F32)
		plain = make(b, DTYPE_F32, rows, cols);
	float *x = host_random(rows * cols, scale, 7);
	backend_upload(b->be, plain.data, x, tensor_bytes(&plain));
	if (d != DTYPE_F32)
		b->ops->convert(b->be, &t, &plain);
	backend_sync(b->be, NULL);
	if (d != DTYPE_F32)
		backend_free(b->be, plain.data);
	free(x);
	return t;
}

static void linears_make(struct bench *b, enum precision p) {
	struct error e = {0};
	for (int i = 0; i < LINEARS; i++) {
		struct tensor w = tensor_2d(b->w[i], DTYPE_F32, shapes[i].out, shapes[i].in),
			      bias = tensor_1d(b->b, DTYPE_F32, shapes[i].out);
		b->linear[i] = b->ops->linear_create(b->be, &w, &bias, p, &e);
		if (!b->linear[i])
			die("linear", &e);
	}
}

static void fill(struct bench *b) {
	struct error e = {0};
	int64_t n = b->n, s = n / FRAMES;
	int c = DIM / HEADS, tp = c / 2 - 2 * (c / 6), blocks = (int)((s + BLOCK - 1) / BLOCK);
	b->r = filled(b, DTYPE_F32, n, DIM, 1);
	b->x = filled(b, b->act, n, DIM, 1);
	b->y = make(b, b->act, n, DIM);
	b->wide = filled(b, b->act, n, FFN, 1);
	b->codes = filled(b, b->input, n, DIM, 1);
	b->wide_codes = filled(b, b->input, n, FFN, 1);
	b->qkv = filled(b, b->act, n, 3 * DIM, 1);
	b->q = make(b, b->act, n, DIM);
	b->q_mean = make(b, DTYPE_F32, HEADS * FRAMES * blocks, c);
	b->gain = filled(b, DTYPE_F32, 1, DIM, 1);
	b->row = filled(b, DTYPE_F32, 1, DIM, 0.5f);
	b->gate = filled(b, DTYPE_F32, 1, DIM, 0.01f);
	struct tensor time = filled(b, DTYPE_F32, FRAMES, tp * 2, 1),
		      space = filled(b, DTYPE_F32, s, (c / 2 - tp) * 2, 1);
	b->rope = (struct rope){tensor_3d(time.data, DTYPE_F32, FRAMES, tp, 2),
		tensor_3d(space.data, DTYPE_F32, s, c / 2 - tp, 2)};
	b->store.shape = (struct kv_shape){HEADS, c, (int)s, BLOCK, FRAMES, b->act};
	b->store.data = backend_alloc(b->be, b->ops->kv_bytes(&b->store.shape), &e);
	b->slot = (struct kv_span){&b->store, 0, FRAMES};
	if (e.code)
		die("memory", &e);
}

/* ---- ops: one call each, what it costs ---- */
struct cost {
	double flop, bytes;
	int calls; /* in a block */
};

static double size(const struct tensor *t) {
	return (double)tensor_bytes(t);
}

static struct cost product(struct bench *b, int i, const struct tensor *x, struct tensor *y,
	enum activation act, int calls) {
	b->ops->linear(b->be, y, x, b->linear[i], act);
	return (struct cost){2. * (double)b->n * (double)(shapes[i].out * shapes[i].in),
		size(x) + size(y), calls};
}
static struct cost run_qkv(struct bench *b) {
	return product(b, QKV, &b->codes, &b->qkv, ACT_NONE, 1);
}
static struct cost run_square(struct bench *b) {
	return product(b, O, &b->codes, &b->y, ACT_NONE, 1);
}
static struct cost run_in(struct bench *b) {
	return product(b, IN, &b->codes, &b->wide, ACT_NONE, 0);
}
static struct cost run_in_gelu(struct bench *b) {
	return product(b, IN, &b->codes, &b->wide_codes, ACT_GELU_TANH, 1);
}
static struct cost run_out(struct bench *b) {
	return product(b, OUT, &b->wide_codes, &b->y, ACT_NONE, 0);
}
static struct cost residual_norm(struct bench *b, int i, const struct tensor *x, int calls) {
	struct norm_args norm = {&b->row, &b->row, 1e-6f};
	struct cost c = {2. * (double)b->n * (double)(shapes[i].out * shapes[i].in),
		size(x) + 2 * size(&b->r) + size(&b->codes), calls};
	b->ops->linear_residual_norm(b->be, &b->codes, &b->r, x, b->linear[i], &b->gate, &norm);
	return c;
}
static struct cost run_o_norm(struct bench *b) {
	return residual_norm(b, O, &b->codes, 2);
}
static struct cost run_out_norm(struct bench *b) {
	return residual_norm(b, OUT, &b->wide_codes, 1);
}
static struct cost run_norm(struct bench *b) {
	b->ops->norm_modulate(b->be, &b->codes, &b->r, &b->row, &b->row, 1e-6f);
	return (struct cost){0, size(&b->r) + size(&b->codes), 0};
}
static struct cost run_rms(struct bench *b) {
	b->ops->rms_norm(b->be, &b->y, &b->y, &b->gain, 1e-6f);
	return (struct cost){0, 2 * size(&b->y), 1};
}
static struct cost run_rope(struct bench *b) {
	b->ops->qk_norm_rope_write(
		b->be, &b->q, &b->q_mean, &b->slot, &b->qkv, &b->gain, &b->gain, &b->rope, 1e-6f);
	return (struct cost){0, 2 * size(&b->qkv), 1};
}
static struct cost run_codes(struct bench *b) {
	b->ops->convert(b->be, &b->codes, &b->x);
	return (struct cost){0, size(&b->x) + size(&b->codes), b->input == b->act ? 0 : 2};
}
static struct cost run_wide_codes(struct bench *b) {
	b->ops->convert(b->be, &b->wide_codes, &b->wide);
	return (struct cost){0, size(&b->wide) + size(&b->wide_codes), 0};
}

static const struct {
	const char *name;
	struct cost (*run)(struct bench *b);
} cases[] = {
	{"qkv", run_qkv},
	{"cross_q", run_square},
	{"o_residual_norm", run_o_norm},
	{"ffn_in", run_in},
	{"ffn_in_gelu", run_in_gelu},
	{"ffn_out", run_out},
	{"ffn_out_residual_norm", run_out_norm},
	{"norm_modulate", run_norm},
	{"rms_norm", run_rms},
	{"qk_norm_rope_write", run_rope},
	{"attention_codes", run_codes},
	{"wide_codes", run_wide_codes},
};

static double time_case(struct bench *b, size_t i) {
	struct error e = {0};
	double best = 1e30;
	struct cost c = cases[i].run(b);
	for (int turn = 0; turn < 3; turn++) {
		if (backend_sync(b->be, &e) < 0)
			die(cases[i].name, &e);
		double start = now_us();
		for (int k = 0; k < b->calls; k++)
			cases[i].run(b);
		backend_sync(b->be, &e);
		double us = (now_us() - start) / b->calls;
		best = us < best ? us : best;
	}
	double chunk = best * c.calls * PASSES / 1e3;
	printf("{\"op\": \"%s\", \"precision\": \"%s\", \"tokens\": %lld, \"us\": %.1f, "
	       "\"tflops\": %.1f, \"gb_s\": %.0f, \"calls\": %d, \"chunk_ms\": %.2f}\n",
		cases[i].name, b->precision, (long long)b->n, best, c.flop / best / 1e6,
		c.bytes / best / 1e3, c.calls, chunk);
	return chunk;
}

/* Each linear's result in this precision against f32's. */
static void agreement(struct bench *b, bool first) {
	for (int i = 0; i < LINEARS; i++) {
		struct tensor y = make(b, DTYPE_F32, b->n, shapes[i].out),
			      x = filled(b, DTYPE_F32, b->n, shapes[i].in, 1), in = x;
		if (b->input != DTYPE_F32) {
			in = make(b, b->input, b->n, shapes[i].in);
			b->ops->convert(b->be, &in, &x);
		}
		b->ops->linear(b->be, &y, &in, b->linear[i], ACT_NONE);
		float *got = malloc(tensor_bytes(&y));
		backend_download(b->be, got, y.data, tensor_bytes(&y));
		if (!first)
			printf("{\"linear\": \"%s\", \"precision\": \"%s\", \"in\": %lld, \"out\": "
			       "%lld, \"l2_error\": %.3e}\n",
				shapes[i].name, b->precision, (long long)shapes[i].in,
				(long long)shapes[i].out,
				compare_l2(got, b->exact[i], tensor_count(&y)));
		if (first)
			b->exact[i] = got;
		else
			free(got);
		backend_free(b->be, y.data);
		backend_free(b->be, x.data);
		if (b->input != DTYPE_F32)
			backend_free(b->be, in.data);
	}
}

static void run_precision(struct bench *b, enum precision p, const char *name, bool timed) {
	bool f32 = p == PRECISION_F32;
	double sum = 0;
	b->precision = name;
	b->act = f32 ? DTYPE_F32 : DTYPE_BF16;
	b->input = p == PRECISION_FP8 ? DTYPE_FP8_E4M3 : b->act;
	linears_make(b, p);
	agreement(b, f32);
	if (timed) {
		fill(b);
		for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
			sum += time_case(b, i);
		printf("{\"precision\": \"%s\", \"chunk_ms_without_attention\": %.2f}\n", name,
			sum);
	}
	for (int i = 0; i < LINEARS; i++)
		b->ops->linear_destroy(b->be, b->linear[i]);
	fflush(stdout);
}

int main(int argc, char **argv) {
	struct bench b = {.n = FRAMES * 1560, .calls = 50};
	struct backend_config config = {.spec = "cuda"};
	struct error e = {0};
	const char *only = NULL;
	for (int i = 1; i + 1 < argc; i += 2) {
		const char *value = argv[i + 1];
		if (strcmp(argv[i], "--backend") == 0)
			config.spec = value;
		else if (strcmp(argv[i], "--tokens") == 0)
			b.n = strtol(value, NULL, 10) / FRAMES * FRAMES;
		else if (strcmp(argv[i], "--calls") == 0)
			b.calls = (int)strtol(value, NULL, 10);
		else if (strcmp(argv[i], "--precision") == 0)
			only = value;
	}
	b.be = backend_create(&config, &e);
	if (!b.be)
		die("backend", &e);
	b.ops = backend_ops(b.be);
	printf("{\"machine\": \"%s\"}\n", backend_info(b.be).name);
	b.b = host_random(FFN, 0.5f, 3);
	for (int i = 0; i < LINEARS; i++)
		b.w[i] = host_random(shapes[i].out * shapes[i].in,
			1 / sqrtf((float)shapes[i].in), 11 + (uint32_t)i);
	run_precision(&b, PRECISION_F32, "f32", only && strcmp(only, "f32") == 0);
	if (strcmp(backend_info(b.be).kind, "cuda") == 0) {
		if (!only || strcmp(only, "bf16") == 0)
			run_precision(&b, PRECISION_BF16, "bf16", true);
		if (!only || strcmp(only, "fp8") == 0)
			run_precision(&b, PRECISION_FP8, "fp8", true);
	}
	for (int i = 0; i < LINEARS; i++) {
		free(b.w[i]);
		free(b.exact[i]);
	}
	free(b.b);
	backend_destroy(b.be);
	return 0;
}
