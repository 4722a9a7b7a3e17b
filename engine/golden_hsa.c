/* SPDX-License-Identifier: Apache-2.0 */
/* Reference files of kind "Light Forcing CAG + HSA": the growth of sparsity, the
 * blocks that every query block keeps, and the attention over them. Lists must
 * be equal. Thread: the backend's. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/golden.h"
#include "engine/sparsity.h"

#define NAME_BYTES 128
#define CHUNKS_MAX 4096

struct subject {
	const char *name;
	int heads, head_dim, frame_tokens, chunk_frames, frames, window;
	struct sparsity_config sparsity;
};

static int subject_read(const struct golden *g, json_t *v, struct subject *c, struct error *e) {
	snprintf(c->sparsity.policy, sizeof c->sparsity.policy, "hsa");
	json_error_t je;
	if (json_unpack_ex(v, &je, 0,
		    "{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:F, s:F, s:i, s:i, s:i}", "name",
		    &c->name, "heads", &c->heads, "head_dim", &c->head_dim, "frame_tokens",
		    &c->frame_tokens, "block", &c->sparsity.block, "frames_per_chunk",
		    &c->chunk_frames, "frames", &c->frames, "window", &c->window, "sparsity",
		    &c->sparsity.target, "sparsity_base", &c->sparsity.base, "keep_frames",
		    &c->sparsity.keep_frames, "keep_sink", &c->sparsity.keep_sink, "keep_near",
		    &c->sparsity.keep_near) < 0)
		return error_set(e, -EINVAL, "%s: metadata \"cases\": %.120s", g->path, je.text);
	c->sparsity.horizon_frames = c->frames;
	if (c->heads < 1 || c->head_dim < 1 || c->frame_tokens < 1 || c->sparsity.block < 1 ||
		c->chunk_frames < 1 || c->frames / c->chunk_frames > CHUNKS_MAX)
		return error_set(e, -EINVAL,
			"%s: metadata \"cases\": %.60s has a size out of range", g->path, c->name);
	return 0;
}

static int growth_compare(
	struct golden *g, const struct subject *c, const struct sparsity *s, struct error *e) {
	char name[NAME_BYTES];
	float growth[CHUNKS_MAX];
	int chunks = c->frames / c->chunk_frames;
	for (int i = 0; i < chunks; i++)
		growth[i] = (float)sparsity_of_chunk(s, i);
	snprintf(name, sizeof name, "%s.sparsity", c->name);
	return golden_compare(g, name, growth, chunks, NULL, e);
}

static int blocks_per_frame(const struct subject *c) {
	return (c->frame_tokens + c->sparsity.block - 1) / c->sparsity.block;
}

/* One chunk's inputs, as the file holds them. */
struct inputs {
	struct tensor q, k, v, blocks;
	int visible; /* frames */
	char prefix[NAME_BYTES - 16];
};

static int inputs_find(const struct golden *g, const struct subject *c, int chunk,
	struct inputs *in, struct error *e) {
	snprintf(in->prefix, sizeof in->prefix, "%.64s.chunk%d.", c->name, chunk);
	struct tensor *const to[] = {&in->q, &in->k, &in->v, &in->blocks};
	static const char *const suffix[] = {"q", "k", "v", "blocks"};
	char name[NAME_BYTES];
	for (int i = 0; i < 4; i++) {
		snprintf(name, sizeof name, "%s%s", in->prefix, suffix[i]);
		if (weights_find(g->file, name, to[i]) < 0 || to[i]->rank != 3)
			return error_set(e, -EINVAL, "%s: %s is missing", g->path, name);
	}
	int64_t tokens = c->frame_tokens;
	in->visible = (int)(in->k.dim[0] / tokens);
	if (in->q.dim[0] != c->chunk_frames * tokens || in->k.dim[0] % tokens ||
		in->visible < c->chunk_frames || in->v.dim[0] != in->k.dim[0] ||
		in->q.dim[1] != c->heads || in->k.dim[1] != c->heads || in->v.dim[1] != c->heads ||
		in->q.dim[2] != c->head_dim || in->k.dim[2] != c->head_dim ||
		in->v.dim[2] != c->head_dim || in->q.dtype != DTYPE_F32 ||
		in->k.dtype != DTYPE_F32 || in->v.dtype != DTYPE_F32 ||
		in->blocks.dtype != DTYPE_I32 || in->blocks.dim[0] != c->heads ||
		in->blocks.dim[1] != c->chunk_frames * blocks_per_frame(c))
		return error_set(
			e, -EINVAL, "%s: %s* do not fit the metadata", g->path, in->prefix);
	return 0;
}

/* Device memory of one chunk's check. */
struct bench {
	struct kv_store store[2]; /* the past in one, the chunk in the other */
	struct kv_span span[2];
	int spans;
	struct tensor q, k, v, q_mean, out;
	struct block_list list;
};

static void bench_carve(struct backend *be, const struct subject *c, const struct inputs *in,
	int keep, struct arena *a, struct bench *b) {
	const int64_t *q = in->q.dim, *k = in->k.dim;
	int64_t rows = (int64_t)c->chunk_frames * blocks_per_frame(c);
	b->q = arena_tensor(a, DTYPE_F32, 3, q);
	b->k = arena_tensor(a, DTYPE_F32, 3, k);
	b->v = arena_tensor(a, DTYPE_F32, 3, k);
	b->q_mean = arena_tensor(a, DTYPE_F32, 3, (int64_t[]){c->heads, rows, c->head_dim});
	b->out = arena_2d(a, DTYPE_F32, q[0], q[1] * q[2]);
	b->list = (struct block_list){c->heads, (int)rows, keep,
		arena_bytes(a, (size_t)(c->heads * rows * keep) * sizeof(int32_t))};
	int past = in->visible - c->chunk_frames;
	const int count[2] = {past, c->chunk_frames};
	b->spans = 0;
	for (int i = 0; i < 2; i++) {
		if (count[i] == 0)
			continue;
		struct kv_store *s = &b->store[i];
		s->shape = (struct kv_shape){c->heads, c->head_dim, c->frame_tokens,
			c->sparsity.block, count[i], DTYPE_F32};
		s->data = arena_bytes(a, backend_ops(be)->kv_bytes(&s->shape));
		b->span[b->spans++] = (struct kv_span){s, 0, count[i]};
	}
}

/* Means of query blocks, which the engine has from its norm and rotation op. */
static void query_means(const struct subject *c, const struct tensor *q, float *mean) {
	const float *data = q->data;
	int per = blocks_per_frame(c), rows = c->chunk_frames * per;
	for (int h = 0; h < c->heads; h++) {
		for (int r = 0; r < rows; r++) {
			int first = r / per * c->frame_tokens + r % per * c->sparsity.block;
			int end = first + c->sparsity.block,
			    frame_end = (r / per + 1) * c->frame_tokens;
			end = end < frame_end ? end : frame_end;
			for (int i = 0; i < c->head_dim; i++) {
				double sum = 0;
				for (int t = first; t < end; t++)
					sum += (double)
						data[((int64_t)t * c->heads + h) * c->head_dim + i];
				mean[((int64_t)h * rows + r) * c->head_dim + i] =
					(float)(sum / (end - first));
			}
		}
	}
}

static void bench_fill(struct backend *be, const struct subject *c, const struct inputs *in,
	float *host, struct bench *b) {
	backend_upload(be, b->q.data, in->q.data, tensor_bytes(&b->q));
	backend_upload(be, b->k.data, in->k.data, tensor_bytes(&b->k));
	backend_upload(be, b->v.data, in->v.data, tensor_bytes(&b->v));
	query_means(c, &in->q, host);
	backend_upload(be, b->q_mean.data, host, tensor_bytes(&b->q_mean));
	for (int i = 0, at = 0; i < b->spans; at += b->span[i].count, i++) {
		int64_t tokens = c->frame_tokens;
		struct tensor k = tensor_rows(b->k, at * tokens, b->span[i].count * tokens);
		struct tensor v = tensor_rows(b->v, at * tokens, b->span[i].count * tokens);
		backend_ops(be)->kv_import(be, &b->span[i], &k, &v);
	}
}

static int chunk_compare(struct golden *g, const struct subject *c, const struct inputs *in,
	const struct sparsity_plan *plan, struct bench *b, float *host, struct error *e) {
	const struct ops *ops = backend_ops(g->be);
	bench_fill(g->be, c, in, host, b);
	bool scored = plan->kind == SPARSITY_SCORED;
	if (scored)
		ops->select_blocks(g->be, &b->list, &b->q_mean, b->span, b->spans, &plan->select);
	ops->attention(g->be, &b->out, &b->q, b->span, b->spans, scored ? &b->list : NULL);
	int r = backend_sync(g->be, e);
	if (r < 0)
		return r;
	char name[NAME_BYTES];
	int64_t entries = tensor_count(&in->blocks), wrong = 0;
	int32_t *got = (int32_t *)host;
	if (scored)
		backend_download(g->be, got, b->list.index, (size_t)entries * sizeof *got);
	for (int64_t i = 0; i < entries; i++)
		wrong += (scored ? got[i] : (int32_t)(i % plan->keep)) !=
			 ((const int32_t *)in->blocks.data)[i];
	snprintf(name, sizeof name, "%sblocks", in->prefix);
	golden_report(g, name, (double)wrong, wrong == 0);
	backend_download(g->be, host, b->out.data, tensor_bytes(&b->out));
	snprintf(name, sizeof name, "%sout", in->prefix);
	return golden_compare(g, name, host, tensor_count(&b->out), NULL, e);
}

static int chunk_check(struct golden *g, const struct subject *c, const struct sparsity *s,
	int chunk, struct error *e) {
	struct inputs in;
	int r = inputs_find(g, c, chunk, &in, e);
	if (r < 0)
		return r;
	struct sparsity_plan plan =
		sparsity_plan(s, chunk, in.visible, c->chunk_frames, blocks_per_frame(c));
	if (plan.keep != in.blocks.dim[2]) {
		char name[NAME_BYTES];
		snprintf(name, sizeof name, "%sblocks", in.prefix);
		golden_report(g, name, plan.keep, false);
		return 0;
	}
	struct bench b;
	struct arena *measure = arena_measure(g->be);
	if (!measure)
		return error_set(e, -ENOMEM, "no memory to measure");
	bench_carve(g->be, c, &in, plan.keep, measure, &b);
	size_t bytes = arena_peak(measure);
	arena_destroy(measure);
	struct arena *a = arena_create(g->be, bytes, e);
	float *host = malloc(bytes); /* as large as anything in it */
	if (a && host) {
		bench_carve(g->be, c, &in, plan.keep, a, &b);
		r = chunk_compare(g, c, &in, &plan, &b, host, e);
	} else {
		r = error_set(e, -ENOMEM, "no memory for %s", in.prefix);
	}
	free(host);
	arena_destroy(a);
	return r;
}

static int case_check(struct golden *g, json_t *v, struct error *e) {
	struct subject c = {0};
	int r = subject_read(g, v, &c, e);
	if (r < 0)
		return r;
	struct sparsity *s = sparsity_create(&c.sparsity, c.chunk_frames, c.window, e);
	if (!s)
		return e->code;
	r = growth_compare(g, &c, s, e);
	json_t *chunks = json_object_get(v, "chunks"), *chunk;
	size_t i;
	if (r == 0 && !json_is_array(chunks))
		r = error_set(e, -EINVAL, "%s: metadata \"cases\": chunks must be a list", g->path);
	json_array_foreach(chunks, i, chunk) {
		if (r == 0)
			r = chunk_check(g, &c, s, (int)json_integer_value(chunk), e);
	}
	sparsity_destroy(s);
	return r;
}

int golden_check_hsa(struct golden *g, struct error *e) {
	const json_t *cases = weights_metadata(g->file, "cases");
	if (!json_is_array(cases))
		return error_set(e, -EINVAL, "%s: metadata \"cases\" must be a list", g->path);
	int r = 0;
	for (size_t i = 0; i < json_array_size(cases) && r == 0; i++)
		r = case_check(g, json_array_get(cases, i), e);
	return r;
}
