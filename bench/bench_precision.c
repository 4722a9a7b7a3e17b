/* SPDX-License-Identifier: Apache-2.0 */
/* How far reduced precision drifts from f32, layer by layer: one pass of a
 * transformer with random weights of the full size, cut off after 1, 2, 5, ...
 * layers, over the same input, in each precision. Prints a JSON object a depth
 * and precision: L2 of the flow's difference over L2 of the f32 flow.
 *
 *	bench_precision [--backend cuda] [--model random:wan-1.3b,416x240] [--layers 30] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/dit.h"
#include "tests/support/compare.h"

#define TEXT_ROWS 24

struct bench {
	struct backend *be;
	struct model *m;
	struct arena *arena, *scratch;
	struct weights *weights;
	struct dit *dit;
	struct sparsity *sparsity;
	struct kvcache *cache;
	struct dit_text *text;
	struct dit_stream *stream;
	struct tensor context, x, flow;
};

static void drop(struct bench *b) {
	dit_stream_destroy(b->stream);
	dit_text_destroy(b->text);
	kvcache_destroy(b->cache);
	sparsity_destroy(b->sparsity);
	dit_destroy(b->dit);
	weights_close(b->weights);
	arena_destroy(b->scratch);
	arena_destroy(b->arena);
	*b = (struct bench){.be = b->be, .m = b->m};
}

static int build(struct bench *b, enum precision p, struct error *e) {
	const struct model *m = b->m;
	const int chunk = m->chunk_frames, window = m->cache.window_frames;
	b->weights = model_weights(m, &m->dit.files, e);
	b->dit = b->weights ? dit_create(b->be, m, b->weights, b->arena, p, e) : NULL;
	if (!b->dit)
		return e->code;
	const struct kvcache_config cache = {
		.layers = m->dit.layers,
		.window_frames = window,
		.sink_frames = m->cache.sink_frames,
		.chunk_frames = chunk,
		.pass_frames = chunk,
		.rope_sink = ROPE_SINK_FIXED,
		.theta = m->dit.theta,
		.shape = dit_kv_shape(b->dit, m->sparsity.block),
	};
	b->sparsity = sparsity_create(&m->sparsity, chunk, window, e);
	if (!b->sparsity)
		return e->code;
	b->cache = kvcache_create(b->be, &cache, b->arena, e);
	b->text = dit_text_create(b->dit, b->arena, e);
	b->stream = dit_stream_create(b->dit, b->sparsity, chunk, window, b->arena, e);
	if (!b->cache || !b->text || !b->stream)
		return e->code;
	const int64_t latent[4] = {
		chunk, m->latent_channels, model_latent_height(m), model_latent_width(m)};
	b->context = arena_2d(b->arena, DTYPE_F32, TEXT_ROWS, m->dit.text_dim);
	b->x = arena_tensor(b->arena, DTYPE_F32, 4, latent);
	b->flow = arena_tensor(b->arena, DTYPE_F32, 4, latent);
	dit_measure(b->dit, b->sparsity, chunk, window, b->scratch);
	return arena_failed(b->arena, e);
}

/* The first chunk at the model's first timestep; the flow to the host. */
static int pass(struct bench *b, float *flow, struct error *e) {
	const struct ops *ops = backend_ops(b->be);
	struct dit_pass pass = {.x = &b->x,
		.flow = &b->flow,
		.timestep = b->m->timestep[0],
		.text = b->text,
		.stream = b->stream,
		.cache = b->cache};
	ops->noise(b->be, &b->context, 1, 0, 0);
	ops->noise(b->be, &b->x, 2, 0, 0);
	dit_text_set(b->dit, b->text, &b->context, b->scratch);
	kvcache_begin(b->cache, b->m->chunk_frames);
	dit_stream_begin(b->dit, b->stream, b->sparsity, b->cache, b->m->chunk_frames, 0, 0);
	int r = dit_forward(b->dit, &pass, b->scratch, e);
	backend_download(b->be, flow, b->flow.data, tensor_bytes(&b->flow));
	return r < 0 ? r : backend_sync(b->be, e);
}

static int run(struct bench *b, enum precision p, float *flow, struct error *e) {
	b->arena = arena_measure(b->be);
	b->scratch = arena_measure(b->be);
	int r = b->arena && b->scratch ? build(b, p, e) : error_set(e, -1, "no memory");
	size_t bytes = r < 0 ? 0 : arena_peak(b->arena), scratch = r < 0 ? 0 : arena_peak(b->scratch);
	drop(b);
	if (r < 0)
		return r;
	b->arena = arena_create(b->be, bytes, e);
	b->scratch = b->arena ? arena_create(b->be, scratch, e) : NULL;
	r = b->scratch ? build(b, p, e) : e->code;
	if (r == 0)
		r = pass(b, flow, e);
	drop(b);
	return r;
}

static int depth_run(struct bench *b, int layers, float *exact, float *got, struct error *e) {
	int64_t n = (int64_t)b->m->chunk_frames * b->m->latent_channels *
		    model_latent_height(b->m) * model_latent_width(b->m);
	b->m->dit.layers = layers;
	int r = run(b, PRECISION_F32, exact, e);
	for (enum precision p = PRECISION_BF16; p <= PRECISION_FP8 && r == 0; p++) {
		r = run(b, p, got, e);
		if (r == 0)
			printf("{\"layers\": %d, \"precision\": \"%s\", \"l2_error\": %.3e}\n",
				layers, precision_name(p), compare_l2(got, exact, n));
		fflush(stdout);
	}
	return r;
}

int main(int argc, char **argv) {
	static const int depths[] = {1, 2, 5, 10, 20, 30, 40};
	struct backend_config config = {.spec = "cuda"};
	const char *spec = "random:wan-1.3b,416x240";
	struct error e = {0};
	struct bench b = {0};
	int most = 30;
	for (int i = 1; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "--backend") == 0)
			config.spec = argv[i + 1];
		else if (strcmp(argv[i], "--model") == 0)
			spec = argv[i + 1];
		else if (strcmp(argv[i], "--layers") == 0)
			most = (int)strtol(argv[i + 1], NULL, 10);
	}
	b.be = backend_create(&config, &e);
	b.m = b.be ? model_load(spec, &e) : NULL;
	if (!b.m) {
		fprintf(stderr, "bench_precision: %s\n", e.text);
		return 1;
	}
	printf("{\"machine\": \"%s\", \"model\": \"%s\"}\n", backend_info(b.be).name, spec);
	size_t bytes = (size_t)(b.m->chunk_frames * b.m->latent_channels) *
		       (size_t)(model_latent_height(b.m) * model_latent_width(b.m)) * sizeof(float);
	float *exact = malloc(bytes), *got = malloc(bytes);
	int r = exact && got ? 0 : -1;
	snprintf(b.m->sparsity.policy, sizeof b.m->sparsity.policy, "dense");
	for (size_t i = 0; i < sizeof depths / sizeof *depths && r == 0 && depths[i] <= most; i++)
		r = depth_run(&b, depths[i], exact, got, &e);
	if (r < 0)
		fprintf(stderr, "bench_precision: %s\n", e.text);
	free(exact);
	free(got);
	model_free(b.m);
	backend_destroy(b.be);
	return r < 0 ? 1 : 0;
}
