/* SPDX-License-Identifier: Apache-2.0 */
/* Every op on a device against its CPU definition: the same case runs on both,
 * with the same random numbers, and what it emits is compared. A plain program,
 * so that it runs on a bare GPU machine: one line a case, exit 77 without a GPU.
 *
 *	test_device [cuda[:N] [CASE]]
 *
 * CASE: only cases with this in their name; -CASE: only those without it.
 *
 * Tolerances: f32 sums of up to K terms in another order differ by about
 * sqrt(K) * 2^-24 of the largest term; 2e-5 covers K = 9216 with room. bf16
 * rounds inputs and outputs (2^-9 each): 2e-2 of the largest output. fp8 e4m3
 * rounds both factors (2^-4 each, averaging out over the sum): 6e-2. */
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "tests/ops/device_run.h"
#include "tests/support/compare.h"

/* ---- cases ---- */
static void linear_case(struct run *r, int n, int in, int out, enum activation act, bool bias) {
	struct error e = {0};
	float *w = random_host(r, (int64_t)in * out, 2.f / sqrtf((float)in)),
	      *b = random_host(r, out, 1.f);
	struct tensor wt = tensor_2d(w, DTYPE_F32, out, in), bt = tensor_1d(b, DTYPE_F32, out);
	struct linear *l = r->ops->linear_create(r->be, &wt, bias ? &bt : NULL, r->precision, &e);
	if (!l) {
		fprintf(stderr, "test_device: %s\n", e.text);
		exit(1);
	}
	struct tensor x = IN(r, n, in), y = OUT(r, n, out), res = F32(r, n, out),
		      gate = F32(r, n % 3 ? 1 : 3, out);
	r->ops->linear(r->be, &y, &x, l, act);
	emit(r, &y);
	r->ops->linear_residual(r->be, &res, &x, l, &gate);
	emit(r, &res);
	r->ops->linear_residual(r->be, &res, &x, l, NULL);
	emit(r, &res);
	struct tensor scale = F32(r, n % 3 ? 1 : 3, out), shift = F32(r, n % 3 ? 1 : 3, out);
	struct norm_args norm = {&scale, &shift, 1e-6f};
	r->ops->linear_residual_norm(r->be, &y, &res, &x, l, &gate, &norm);
	emit(r, &res);
	emit(r, &y);
	backend_sync(r->be, NULL);
	r->ops->linear_destroy(r->be, l);
	free(w);
	free(b);
}
static void linear_small(struct run *r) {
	linear_case(r, 6, 64, 48, ACT_NONE, true);
}
static void linear_odd(struct run *r) {
	struct error e = {0};
	float *w = random_host(r, 128 * 42, 0.2f), *b = random_host(r, 42, 1.f);
	struct tensor wt = tensor_2d(w, DTYPE_F32, 42, 128), bt = tensor_1d(b, DTYPE_F32, 42);
	struct linear *l = r->ops->linear_create(r->be, &wt, &bt, r->precision, &e);
	if (!l) {
		fprintf(stderr, "test_device: %s\n", e.text);
		exit(1);
	}
	struct tensor x = IN(r, 7, 128), y = OUT(r, 7, 42), z = F32(r, 7, 42);
	for (int act = ACT_NONE; act <= ACT_RELU; act++) {
		r->ops->linear(r->be, &y, &x, l, (enum activation)act);
		emit(r, &y);
		r->ops->linear(r->be, &z, &x, l, (enum activation)act);
		emit(r, &z);
	}
	backend_sync(r->be, NULL);
	r->ops->linear_destroy(r->be, l);
	free(w);
	free(b);
}
static void linear_gelu(struct run *r) {
	linear_case(r, 432, 256, 1024, ACT_GELU_TANH, true);
}
static void linear_silu_unbiased(struct run *r) {
	linear_case(r, 33, 1024, 256, ACT_SILU, false);
}

/* What enters an fp8 layer: codes that reach to +-bound in that mode, activations
 * in the others. */
static struct tensor codes_make(struct run *r, float bound, int64_t rows, int64_t cols) {
	struct tensor t = make(r, r->precision == PRECISION_FP8 ? DTYPE_FP8_E4M3 : r->act,
		DIMS(rows, cols));
	if (t.dtype == DTYPE_FP8_E4M3) {
		float scale[2] = {bound / 448, 448 / bound};
		t.scale = (float *)hold(r, 16 + sizeof scale) + 4; /* as out of a table */
		t.one_scale = true;
		backend_upload(r->be, t.scale, scale, sizeof scale);
		backend_sync(r->be, NULL);
	}
	return t;
}

static void codes_case(struct run *r, int n, int d, int groups) {
	struct tensor x = F32(r, n, d), y = codes_make(r, 1, n, d), narrow = IN(r, n, d);
	struct tensor scale = F32(r, groups, d), shift = F32(r, groups, d);
	r->ops->convert(r->be, &y, &x);
	emit(r, &y);
	r->ops->convert(r->be, &y, &narrow);
	emit(r, &y);
	y = codes_make(r, 8, n, d);
	r->ops->norm_modulate(r->be, &y, &x, &scale, &shift, 1e-6f);
	emit(r, &y);
	struct tensor two = make(r, DTYPE_F32, DIMS(2));
	r->ops->code_scale(r->be, &two, &x);
	emit(r, &two);
}

/* A part of a block as the transformer runs it: codes in, codes out, in place. */
static void codes_block(struct run *r, int n, int d, int hidden) {
	struct error e = {0};
	float *w = random_host(r, (int64_t)d * hidden, 2.f / sqrtf((float)d)),
	      *b = random_host(r, d + hidden, 1.f);
	struct tensor up = tensor_2d(w, DTYPE_F32, hidden, d),
		      down = tensor_2d(w, DTYPE_F32, d, hidden);
	struct tensor up_b = tensor_1d(b, DTYPE_F32, hidden),
		      down_b = tensor_1d(b + hidden, DTYPE_F32, d);
	struct linear *first = r->ops->linear_create(r->be, &up, &up_b, r->precision, &e);
	struct linear *second = r->ops->linear_create(r->be, &down, &down_b, r->precision, &e);
	if (!first || !second) {
		fprintf(stderr, "test_device: %s\n", e.text);
		exit(1);
	}
	struct tensor x = F32(r, n, d), y = codes_make(r, 16, n, d),
		      wide = codes_make(r, 64, n, hidden), gate = F32(r, 1, d), scale = F32(r, 1, d), shift = F32(r, 1, d);
	struct norm_args norm = {&scale, &shift, 1e-6f};
	r->ops->norm_modulate(r->be, &y, &x, &scale, &shift, 1e-6f);
	for (int i = 0; i < 2; i++) {
		r->ops->linear(r->be, &wide, &y, first, ACT_GELU_TANH);
		emit(r, &wide);
		r->ops->linear_residual_norm(r->be, &y, &x, &wide, second, i ? NULL : &gate, &norm);
		emit(r, &x);
		emit(r, &y);
	}
	backend_sync(r->be, NULL);
	r->ops->linear_destroy(r->be, first);
	r->ops->linear_destroy(r->be, second);
	free(w);
	free(b);
}
static void codes(struct run *r) {
	codes_case(r, 12, 1536, 3);
	codes_case(r, 5, 132, 1);
	codes_case(r, 9, 256, 9);
	codes_case(r, 3, 8960, 1);
	codes_case(r, 2, 5120, 2);
}
static void codes_small(struct run *r) {
	codes_block(r, 33, 256, 1024);
}
static void codes_large(struct run *r) {
	codes_block(r, 96, 1536, 8960);
}

static void norms(struct run *r) {
	struct tensor x = F32(r, 12, 1536), scale = F32(r, 3, 1536), shift = F32(r, 3, 1536),
		      y = OUT(r, 12, 1536);
	r->ops->norm_modulate(r->be, &y, &x, &scale, &shift, 1e-6f);
	emit(r, &y);
	struct tensor a = IN(r, 5, 256), g = F32(r, 256), b = OUT(r, 5, 256);
	r->ops->rms_norm(r->be, &b, &a, &g, 1e-6f);
	emit(r, &b);
	r->ops->rms_norm(r->be, &a, &a, &g, 1e-6f);
	emit(r, &a);
	struct tensor odd = IN(r, 3, 132), wide = IN(r, 3, 5120), g_odd = F32(r, 132),
		      g_wide = F32(r, 5120);
	r->ops->rms_norm(r->be, &odd, &odd, &g_odd, 1e-6f);
	emit(r, &odd);
	r->ops->rms_norm(r->be, &wide, &wide, &g_wide, 1e-6f);
	emit(r, &wide);
}

static void channel_norms(struct run *r) {
	const int64_t widths[] = {96, 192, 384, 24, 64, 40, 12, 8};
	for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
		int64_t w = widths[i];
		struct tensor c = IN(r, 2, 13, 15, w), h = F32(r, w), d = OUT(r, 2, 13, 15, w);
		r->ops->channel_norm(r->be, &d, &c, &h, ACT_SILU);
		emit(r, &d);
		r->ops->channel_norm(r->be, &c, &c, &h, ACT_NONE);
		emit(r, &c);
	}
}

static void pointwise(struct run *r) {
	struct tensor a = IN(r, 7, 129), g = IN(r, 7, 129), y = OUT(r, 7, 129);
	r->ops->gated_gelu(r->be, &y, &a, &g);
	emit(r, &y);
	r->ops->activate(r->be, &y, &a, ACT_SILU);
	emit(r, &y);
	r->ops->activate(r->be, &a, &a, ACT_RELU);
	emit(r, &a);
	struct tensor p = F32(r, 6, 40), q = F32(r, 2, 40);
	r->ops->add_rows(r->be, &p, &p, &q);
	emit(r, &p);
	struct tensor table = IN(r, 11, 64), rows = OUT(r, 4, 64),
		      ids = make(r, DTYPE_I32, DIMS(4));
	backend_upload(r->be, ids.data, (int32_t[]){10, 0, 3, 3}, 16);
	r->ops->gather_rows(r->be, &rows, &table, &ids);
	emit(r, &rows);
}

struct kv_case {
	int heads, c, s, block, slots, first, frames;
};
static struct kv_store kv_make(struct run *r, struct kv_shape shape) {
	return (struct kv_store){.shape = shape, .data = hold(r, r->ops->kv_bytes(&shape))};
}
static struct rope rope_make(struct run *r, int frames, int s, int c) {
	int tp = c / 2 - 2 * (c / 6), sp = c / 2 - tp;
	return (struct rope){.time = F32(r, frames, tp, 2), .space = F32(r, s, sp, 2)};
}
static void emit_kv(struct run *r, const struct kv_span *span) {
	const struct kv_shape *p = &span->store->shape;
	struct tensor k =
		make(r, DTYPE_F32, DIMS(span->count * p->frame_tokens, p->heads, p->head_dim));
	struct tensor v =
		make(r, DTYPE_F32, DIMS(span->count * p->frame_tokens, p->heads, p->head_dim));
	r->ops->kv_export(r->be, &k, &v, span);
	emit(r, &k);
	emit(r, &v);
}

/* Writes 6 frames in two goes, wraps, attends densely and over a selection. */
static void kv_cycle(struct run *r, struct kv_case k, int keep, int keep_frames) {
	int per = (k.s + k.block - 1) / k.block, d = k.heads * k.c, n = k.frames * k.s,
	    blocks = k.frames * per;
	struct kv_shape shape = {k.heads, k.c, k.s, k.block, k.slots, r->act};
	struct kv_shape sink_shape = shape;
	sink_shape.frames = 1;
	struct kv_store ring = kv_make(r, shape), sink = kv_make(r, sink_shape);
	struct rope rope = rope_make(r, k.frames, k.s, k.c);
	struct tensor g_q = F32(r, d), g_k = F32(r, d), q = OUT(r, n, k.heads, k.c);
	struct tensor q_mean = make(r, DTYPE_F32, DIMS(k.heads, blocks, k.c));
	for (int first = 0; first + k.frames <= k.slots; first += k.frames) {
		struct tensor qkv = IN(r, n, 3 * d);
		struct kv_span slot = {&ring, first, k.frames};
		r->ops->qk_norm_rope_write(
			r->be, &q, &q_mean, &slot, &qkv, &g_q, &g_k, &rope, 1e-6f);
		emit(r, &q);
		emit(r, &q_mean);
		emit_kv(r, &slot);
	}
	r->ops->kv_copy(r->be, &(struct kv_span){&sink, 0, 1}, &(struct kv_span){&ring, 1, 1});
	r->ops->kv_rotate(r->be, &(struct kv_span){&sink, 0, 1}, -3.5, 10000.);
	emit_kv(r, &(struct kv_span){&sink, 0, 1});
	/* What is seen: the sink, the ring from `first` to its end, its start. */
	struct kv_span spans[3] = {
		{&sink, 0, 1}, {&ring, k.first, k.slots - k.first}, {&ring, 0, k.first}};
	int n_spans = k.first ? 3 : 2;
	struct tensor y = OUT(r, n, d);
	r->ops->attention(r->be, &y, &q, spans, n_spans, NULL);
	emit(r, &y);
	struct block_list list = {.heads = k.heads, .query_blocks = blocks, .kept = keep};
	int64_t entries = (int64_t)k.heads * blocks * keep;
	list.index = hold(r, (size_t)entries * sizeof *list.index);
	struct select_args args = {.current_frames = k.frames,
		.keep = keep,
		.keep_frames = keep_frames,
		.keep_sink = 1,
		.keep_near = 1};
	r->ops->select_blocks(r->be, &list, &q_mean, spans, n_spans, &args);
	int32_t *index = malloc((size_t)entries * sizeof *index);
	backend_download(r->be, index, list.index, (size_t)entries * sizeof *index);
	/* bf16 means may order near-ties otherwise: only f32 lists must agree. Their
	 * indices count as numbers: one wrong entry is an error of at least 1 / blocks. */
	for (int64_t i = 0; r->lists && i < entries; i++)
		r->emitted[r->emitted_count++] = (float)index[i];
	if (r->lists)
		end_part(r, entries, blocks, keep);
	/* The same list on both sides for the sparse attention: every third block. */
	int all = (1 + k.slots) * per;
	for (int64_t i = 0; i < entries; i++)
		index[i] = (int32_t)((i % keep) * (all / keep) + (i / keep) % (all / keep));
	backend_upload(r->be, list.index, index, (size_t)entries * sizeof *index);
	backend_sync(r->be, NULL);
	free(index);
	r->ops->attention(r->be, &y, &q, spans, n_spans, &list);
	emit(r, &y);
}
static void kv_ragged(struct run *r) {
	kv_cycle(r, (struct kv_case){2, 64, 26, 8, 6, 4, 2}, 5, 3);
}
static void kv_demo(struct run *r) {
	kv_cycle(r, (struct kv_case){4, 64, 144, 16, 9, 3, 3}, 18, 6);
}
static void kv_wide(struct run *r) {
	kv_cycle(r, (struct kv_case){2, 128, 130, 64, 6, 0, 3}, 4, 0);
}
static void kv_narrow(struct run *r) {
	kv_cycle(r, (struct kv_case){3, 16, 24, 8, 6, 2, 2}, 4, 3);
}

/* Frames that leave most of their last tile of keys empty; blocks of 64, 128, 16;
 * a block of one key; a list of everything. */
static void kv_tiles(struct run *r) {
	kv_cycle(r, (struct kv_case){2, 128, 100, 64, 6, 2, 2}, 3, 3);
	kv_cycle(r, (struct kv_case){2, 128, 65, 64, 3, 0, 1}, 1, 0);
}
static void kv_blocks_128(struct run *r) {
	kv_cycle(r, (struct kv_case){2, 128, 280, 128, 6, 4, 2}, 5, 3);
	kv_cycle(r, (struct kv_case){3, 64, 200, 128, 3, 1, 1}, 3, 0);
}
static void kv_blocks_16(struct run *r) {
	kv_cycle(r, (struct kv_case){2, 128, 100, 16, 6, 3, 3}, 9, 3);
}
static void kv_full_list(struct run *r) {
	kv_cycle(r, (struct kv_case){2, 128, 100, 64, 4, 2, 2}, 10, 0);
	kv_cycle(r, (struct kv_case){1, 128, 150, 128, 4, 2, 2}, 10, 0);
}
/* As many keys as a model sees, fewer heads. */
static void kv_long(struct run *r) {
	kv_cycle(r, (struct kv_case){1, 128, 1560, 64, 6, 3, 3}, 25, 3);
}
/* One head of a decoder's middle block. */
static void wide_attention(struct run *r) {
	const int64_t sizes[][3] = {{150, 150, 384}, {64, 97, 384}, {5, 40, 192}, {70, 3, 192}};
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		int64_t n = sizes[i][0], m = sizes[i][1], c = sizes[i][2];
		struct tensor q = IN(r, n, c), k = IN(r, m, c), v = IN(r, m, c), y = OUT(r, n, c);
		struct sdpa_args args = {.scale = 0.25f};
		r->ops->sdpa(r->be, &y, &q, &k, &v, 1, &args);
		emit(r, &y);
	}
}

static void text_attention(struct run *r) {
	struct sdpa_args cross = {.scale = 1.f / 8, .last_repeats = 50};
	struct tensor q = IN(r, 100, 256), k = IN(r, 15, 256), v = IN(r, 15, 256),
		      y = OUT(r, 100, 256);
	r->ops->sdpa(r->be, &y, &q, &k, &v, 4, &cross);
	emit(r, &y);
	struct tensor bias = F32(r, 4, 11);
	struct sdpa_args t5 = {.scale = 1.f, .bias = &bias};
	struct tensor a = IN(r, 15, 256), b = OUT(r, 15, 256);
	r->ops->sdpa(r->be, &b, &a, &k, &v, 4, &t5);
	emit(r, &b);
	struct tensor one = IN(r, 70, 96), out = OUT(r, 70, 96);
	r->ops->sdpa(r->be, &out, &one, &one, &one, 1, &(struct sdpa_args){.scale = 0.1f});
	emit(r, &out);
}

/* Selection among blocks that repeat: scores tie, the lower index wins. */
static void select_ties(struct run *r) {
	struct kv_shape shape = {2, 64, 32, 8, 12, r->act};
	struct kv_store store = kv_make(r, shape);
	struct kv_span span = {&store, 0, 12};
	int64_t n = 12 * 32, d = 2 * 64, entries = 2 * 12 * 9;
	float *host = random_host(r, n * d, 1.f);
	for (int64_t i = 0; i < n; i++)
		memcpy(host + i * d, host + i / 8 % 3 * d, (size_t)d * sizeof *host);
	struct tensor k = make(r, DTYPE_F32, DIMS(n, 2, 64)), q_mean = F32(r, 2, 12, 64);
	backend_upload(r->be, k.data, host, (size_t)(n * d) * sizeof *host);
	r->ops->kv_import(r->be, &span, &k, &k);
	struct block_list list = {.heads = 2, .query_blocks = 12, .kept = 9};
	list.index = hold(r, (size_t)entries * sizeof *list.index);
	for (int keep_frames = 0; keep_frames <= 5; keep_frames += 5) {
		struct select_args args = {3, 9, keep_frames, 1, 1};
		int32_t index[2 * 12 * 9];
		r->ops->select_blocks(r->be, &list, &q_mean, &span, 1, &args);
		backend_download(r->be, index, list.index, sizeof index);
		for (int64_t i = 0; i < entries; i++)
			r->emitted[r->emitted_count++] = (float)index[i];
		end_part(r, entries, 12, 9);
	}
	backend_sync(r->be, NULL);
	free(host);
}

/* Texts of many lengths, with and without repeats, for heads of 128. */
static void text_wide(struct run *r) {
	const int lengths[] = {1, 15, 64, 65, 120, 128, 200, 256, 300};
	for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
		int m = lengths[i];
		struct sdpa_args cross = {.scale = 0.088f, .last_repeats = i % 2 ? 0 : 40};
		struct tensor q = IN(r, 700 + m, 256), k = IN(r, m, 256), v = IN(r, m, 256),
			      y = OUT(r, 700 + m, 256);
		r->ops->sdpa(r->be, &y, &q, &k, &v, 2, &cross);
		emit(r, &y);
	}
}

static void conv_case(
	struct run *r, struct conv_spec s, int f, int h, int w, bool history, bool skip) {
	struct error e = {0};
	int64_t taps = (int64_t)s.kt * s.kh * s.kw * s.in;
	float *weight = random_host(r, s.phases * s.out * taps, 2.f / sqrtf((float)taps));
	float *bias = random_host(r, s.phases * s.out, 1.f);
	struct tensor wt =
		tensor_make(weight, DTYPE_F32, DIMS(s.phases, s.out, s.kt, s.kh, s.kw, s.in));
	struct tensor bt = tensor_2d(bias, DTYPE_F32, s.phases, s.out);
	struct conv *c = r->ops->conv_create(
		r->be, &s, &wt, &bt, r->act == DTYPE_F32 ? PRECISION_F32 : PRECISION_BF16, &e);
	if (!c) {
		fprintf(stderr, "test_device: %s\n", e.text);
		exit(1);
	}
	int oh = (h * s.upsample + s.pad_top + s.pad_bottom - s.kh) / s.stride + 1;
	int ow = (w * s.upsample + s.pad_left + s.pad_right - s.kw) / s.stride + 1,
	    of = s.phases * ((f + s.stride_t - 1) / s.stride_t);
	struct tensor x = IN(r, f, h, w, s.in), past = IN(r, s.kt > 1 ? s.kt - 1 : 1, h, w, s.in);
	struct tensor y = OUT(r, of, oh, ow, s.out), add = IN(r, of, oh, ow, s.out);
	r->ops->conv(r->be, &y, &x, history ? &past : NULL, c, skip ? &add : NULL);
	emit(r, &y);
	backend_sync(r->be, NULL);
	r->ops->conv_destroy(r->be, c);
	free(weight);
	free(bias);
}
/* An odd k x k kernel that keeps the size. */
static struct conv_spec same(
	int in, int out, int kt, int k, int phases, int upsample, enum activation act) {
	return (struct conv_spec){
		in, out, kt, k, k, 1, 1, k / 2, k / 2, k / 2, k / 2, phases, upsample, act};
}
/* Widths, small: those of the decoders' ends, channels that are no multiple of 8. */
static void conv_widths(struct run *r) {
	conv_case(r, same(16, 112, 1, 3, 1, 1, ACT_RELU), 2, 18, 32, false, false);
	conv_case(r, same(32, 64, 1, 1, 2, 1, ACT_NONE), 3, 6, 5, false, false);
	conv_case(r, same(16, 3, 1, 3, 1, 1, ACT_NONE), 1, 8, 8, false, false);
	conv_case(r, same(3, 8, 1, 3, 1, 1, ACT_SILU), 2, 6, 6, false, false);
	conv_case(r, same(48, 12, 1, 3, 1, 1, ACT_NONE), 1, 17, 33, false, true);
	conv_case(r, same(8, 16, 1, 3, 1, 1, ACT_SILU), 1, 5, 7, false, false);
	conv_case(r, same(72, 104, 1, 1, 1, 1, ACT_GELU_TANH), 1, 9, 21, false, true);
}
/* Sizes that fill no tile, several tiles, one pixel. */
static void conv_sizes(struct run *r) {
	conv_case(r, same(64, 64, 1, 3, 1, 1, ACT_RELU), 2, 33, 47, false, true);
	conv_case(r, same(128, 128, 1, 3, 1, 1, ACT_NONE), 1, 16, 48, false, true);
	conv_case(r, same(64, 256, 1, 3, 1, 1, ACT_RELU), 1, 15, 17, false, false);
	conv_case(r, same(96, 96, 1, 3, 1, 1, ACT_NONE), 1, 25, 18, false, true);
	conv_case(r, same(192, 96, 1, 3, 1, 1, ACT_NONE), 1, 10, 9, false, false);
	conv_case(r, same(64, 64, 1, 3, 1, 1, ACT_NONE), 1, 1, 1, false, false);
	conv_case(r, same(64, 64, 1, 5, 1, 1, ACT_NONE), 1, 3, 40, false, false);
	conv_case(r, same(192, 384, 1, 1, 1, 1, ACT_NONE), 2, 12, 13, false, true);
}
static void conv_time(struct run *r) {
	conv_case(r, same(24, 24, 2, 3, 1, 1, ACT_RELU), 4, 9, 13, true, true);
	conv_case(r, same(64, 64, 2, 3, 1, 1, ACT_RELU), 3, 20, 35, true, false);
	conv_case(r, same(128, 72, 2, 3, 1, 1, ACT_RELU), 2, 9, 20, false, false);
	conv_case(r, same(8, 16, 3, 3, 1, 1, ACT_NONE), 4, 5, 7, true, false);
	conv_case(r, same(96, 96, 3, 3, 1, 1, ACT_NONE), 3, 11, 21, true, true);
	conv_case(r, same(96, 3, 3, 3, 1, 1, ACT_NONE), 2, 17, 20, false, false);
	conv_case(r, same(16, 32, 3, 1, 2, 1, ACT_NONE), 3, 4, 6, true, false);
	conv_case(r, same(128, 192, 3, 1, 2, 1, ACT_NONE), 1, 9, 17, true, false);
	struct conv_spec half = same(64, 64, 3, 1, 1, 1, ACT_NONE);
	half.stride_t = 2;
	conv_case(r, half, 4, 9, 10, true, false);
}
static void conv_doubled(struct run *r) {
	conv_case(r, same(64, 24, 1, 3, 1, 2, ACT_NONE), 2, 9, 16, false, false);
	conv_case(r, same(64, 64, 1, 3, 2, 2, ACT_RELU), 2, 17, 19, false, false);
	conv_case(r, same(128, 64, 1, 3, 1, 2, ACT_NONE), 1, 8, 30, false, true);
	conv_case(r, same(192, 96, 1, 3, 1, 2, ACT_NONE), 1, 5, 18, false, false);
	conv_case(r, same(48, 40, 2, 3, 2, 2, ACT_NONE), 2, 6, 5, true, false);
	conv_case(r, same(32, 8, 1, 5, 1, 2, ACT_NONE), 1, 6, 9, false, false);
}
static void conv_strides(struct run *r) {
	struct conv_spec down = same(16, 16, 1, 3, 1, 1, ACT_NONE);
	down.stride = 2;
	down.pad_top = down.pad_left = 0;
	conv_case(r, down, 2, 8, 10, false, false);
	down.in = 96, down.out = 96;
	conv_case(r, down, 1, 34, 70, false, false);
	down.in = 64, down.out = 128;
	conv_case(r, down, 2, 18, 36, false, true);
}

static void latents(struct run *r) {
	struct tensor x = F32(r, 3, 16, 8, 12), tokens = OUT(r, 3 * 24, 64),
		      flow = F32(r, 3 * 24, 64);
	r->ops->patchify(r->be, &tokens, &x, 2, 2);
	emit(r, &tokens);
	struct tensor back = make(r, DTYPE_F32, DIMS(3, 16, 8, 12)),
		      x0 = make(r, DTYPE_F32, DIMS(3, 16, 8, 12));
	struct tensor next = make(r, DTYPE_F32, DIMS(3, 16, 8, 12)), noise = F32(r, 3, 16, 8, 12);
	r->ops->unpatchify(r->be, &back, &flow, 2, 2);
	emit(r, &back);
	r->ops->denoise(r->be, &x0, &next, &x, &back, &noise, (float[]){0.9375f, 0.8333f});
	emit(r, &x0);
	emit(r, &next);
	r->ops->denoise(r->be, &x0, NULL, &x, &back, NULL, (float[]){0.625f, 0.f});
	emit(r, &x0);
	struct tensor z = make(r, DTYPE_F32, DIMS(1003));
	r->ops->noise(r->be, &z, 0x123456789abcdefull, 5000000000, 3);
	emit(r, &z);
	struct tensor mean = F32(r, 16), std = F32(r, 16), image = OUT(r, 3, 8, 12, 16),
		      again = make(r, DTYPE_F32, DIMS(3, 16, 8, 12));
	r->ops->latent_to_image(r->be, &image, &x, &mean, &std, 3.f);
	emit(r, &image);
	r->ops->latent_to_image(r->be, &image, &x, NULL, NULL, 0.f);
	r->ops->image_to_latent(r->be, &again, &image, &mean, &std);
	emit(r, &again);
}

/* Bytes as numbers: one step of 255 is 4e-3 of the peak, allowed for rounding. */
static void color_case(struct run *r, int f, int h, int w) {
	int64_t n = (int64_t)f * h * w * 3 / 2;
	struct tensor rgb = IN(r, f, h, w, 3), yuv = make(r, DTYPE_U8, DIMS(f, n / f));
	uint8_t *bytes = malloc((size_t)n);
	r->ops->rgb_to_i420(r->be, &yuv, &rgb, 0.5f, 0.5f);
	backend_download(r->be, bytes, yuv.data, (size_t)n);
	for (int64_t i = 0; i < n; i++)
		r->emitted[r->emitted_count++] = (float)bytes[i];
	end_part(r, n, f, n / f);
	free(bytes);
}
static void color(struct run *r) {
	color_case(r, 2, 6, 8);
	color_case(r, 3, 4, 14);
	color_case(r, 1, 40, 72);
}

static const struct {
	const char *name;
	void (*run)(struct run *r);
	double f32, bf16, fp8; /* tolerances; 0: the mode is not run */
} cases[] = {
	{"linear 6x64x48", linear_small, 2e-5, 2e-2, 6e-2},
	{"linear 432x256x1024 gelu", linear_gelu, 2e-5, 2e-2, 6e-2},
	{"linear 33x1024x256 silu", linear_silu_unbiased, 2e-5, 2e-2, 6e-2},
	{"linear 7x128x42", linear_odd, 2e-5, 2e-2, 6e-2},
	{"rows as codes", codes, 2e-5, 2e-2, 4e-2},
	{"linear block of codes 33x256x1024", codes_small, 2e-5, 4e-2, 1.5e-1},
	{"linear block of codes 96x1536x8960", codes_large, 2e-5, 4e-2, 1.5e-1},
	{"norms", norms, 2e-5, 2e-2, 0},
	{"channel norms", channel_norms, 2e-5, 2e-2, 0},
	{"pointwise", pointwise, 2e-5, 2e-2, 0},
	{"kv and attention, ragged", kv_ragged, 2e-5, 2e-2, 0},
	{"kv and attention, demo size", kv_demo, 2e-5, 2e-2, 0},
	{"kv and attention, 128 wide", kv_wide, 2e-5, 2e-2, 0},
	{"kv and attention, 16 wide", kv_narrow, 2e-5, 2e-2, 0},
	{"kv and attention, tiles", kv_tiles, 2e-5, 2e-2, 0},
	{"kv and attention, blocks of 128", kv_blocks_128, 2e-5, 2e-2, 0},
	{"kv and attention, blocks of 16", kv_blocks_16, 2e-5, 2e-2, 0},
	{"kv and attention, all listed", kv_full_list, 2e-5, 2e-2, 0},
	{"kv and attention, long", kv_long, 2e-5, 2e-2, 0},
	{"selection, ties", select_ties, 1e-6, 0, 0},
	{"text and plain attention", text_attention, 2e-5, 2e-2, 0},
	{"wide attention", wide_attention, 2e-5, 2e-2, 0},
	{"convolutions: widths", conv_widths, 2e-5, 2e-2, 0},
	{"convolutions: sizes", conv_sizes, 2e-5, 2e-2, 0},
	{"convolutions: time", conv_time, 2e-5, 2e-2, 0},
	{"convolutions: doubled", conv_doubled, 2e-5, 2e-2, 0},
	{"convolutions: strides", conv_strides, 2e-5, 2e-2, 0},
	{"text, 128 wide", text_wide, 2e-5, 2e-2, 0},
	{"latents, sampler, noise", latents, 2e-5, 2e-2, 0},
	{"rgb to i420", color, 5e-3, 1.3e-2, 0},
};

static void run_case(struct run *r, void (*body)(struct run *), struct error *e) {
	r->random = 42;
	r->emitted_count = 0;
	r->parts = 0;
	body(r);
	backend_sync(r->be, e);
	while (r->held_count)
		backend_free(r->be, r->held[--r->held_count]);
}

/* The first places where a part is off: row and column of its last two dimensions. */
static void explain(const struct run *cpu, const struct run *gpu, int i, double tolerance) {
	const struct part *p = &cpu->part[i];
	const float *want = cpu->emitted + p->first, *got = gpu->emitted + p->first;
	double peak = 1e-30;
	int64_t wrong = 0;
	for (int64_t k = 0; k < p->count; k++)
		peak = fabs((double)want[k]) > peak ? fabs((double)want[k]) : peak;
	for (int64_t k = 0; k < p->count; k++) {
		if (fabs((double)got[k] - (double)want[k]) <= tolerance * peak)
			continue;
		if (wrong++ < 6)
			printf("    [%d][%d][%d] %.6g, want %.6g\n", (int)(k / p->cols / p->rows),
				(int)(k / p->cols % p->rows), (int)(k % p->cols), (double)got[k],
				(double)want[k]);
	}
	printf("    %d of %d wrong, tensor %d of %d, peak %.3g\n", (int)wrong, (int)p->count, i + 1,
		cpu->parts, peak);
}

static int check(struct run *cpu, struct run *gpu, size_t i, const char *mode, double tolerance) {
	struct error e = {0};
	run_case(cpu, cases[i].run, &e);
	run_case(gpu, cases[i].run, &e);
	bool alike = !e.code && cpu->parts == gpu->parts && cpu->parts > 0 &&
		     cpu->emitted_count == gpu->emitted_count;
	double worst = alike ? 0 : INFINITY;
	int at = 0;
	for (int p = 0; alike && p < cpu->parts; p++) {
		int64_t first = cpu->part[p].first;
		double far =
			compare_max(gpu->emitted + first, cpu->emitted + first, cpu->part[p].count);
		if (far > worst) {
			worst = far;
			at = p;
		}
	}
	bool ok = worst <= tolerance;
	printf("%-32s %-5s %.3e of %.0e %s%s%s\n", cases[i].name, mode, worst, tolerance,
		ok ? "ok" : "FAIL", e.code ? ": " : "", e.text);
	if (!ok && alike)
		explain(cpu, gpu, at, tolerance);
	fflush(stdout);
	backend_clear(gpu->be);
	return ok ? 0 : 1;
}

static bool wanted(const char *name, const char *filter) {
	return filter[0] == '-' ? !strstr(name, filter + 1) : strstr(name, filter) != NULL;
}

int main(int argc, char **argv) {
	struct error e = {0};
	struct run cpu = {.act = DTYPE_F32, .precision = PRECISION_F32}, gpu = cpu;
	gpu.be = backend_create(&(struct backend_config){.spec = argc > 1 ? argv[1] : "cuda"}, &e);
	if (!gpu.be) {
		printf("skipped: %s\n", e.text);
		return e.code == -ENODEV ? 77 : 1;
	}
	cpu.be = backend_create(&(struct backend_config){.spec = "cpu"}, &e);
	if (!cpu.be) {
		fprintf(stderr, "test_device: %s\n", e.text);
		return 1;
	}
	cpu.ops = backend_ops(cpu.be), gpu.ops = backend_ops(gpu.be);
	cpu.emitted = malloc(EMIT_MAX * sizeof(float)),
	gpu.emitted = malloc(EMIT_MAX * sizeof(float));
	int failed = 0, ran = 0;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		if (argc > 2 && !wanted(cases[i].name, argv[2]))
			continue;
		cpu.lists = gpu.lists = true;
		gpu.act = DTYPE_F32, gpu.precision = PRECISION_F32;
		failed += check(&cpu, &gpu, i, "f32", cases[i].f32);
		cpu.lists = gpu.lists = false;
		gpu.act = DTYPE_BF16, gpu.precision = PRECISION_BF16;
		if (cases[i].bf16 > 0)
			failed += check(&cpu, &gpu, i, "bf16", cases[i].bf16);
		gpu.precision = PRECISION_FP8;
		if (cases[i].fp8 > 0)
			failed += check(&cpu, &gpu, i, "fp8", cases[i].fp8);
		ran++;
	}
	printf("%d cases, %d failed on %s\n", ran, failed, backend_info(gpu.be).name);
	free(cpu.emitted);
	free(gpu.emitted);
	backend_destroy(cpu.be);
	backend_destroy(gpu.be);
	return failed || ran == 0 ? 1 : 0;
}
