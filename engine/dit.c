/* SPDX-License-Identifier: Apache-2.0 */
/* The transformer's forward pass over the op table. Shapes: n tokens of the
 * pass, s of a frame, d model width, h heads of c channels.
 * Thread: the backend's. */
#include "engine/dit.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "engine/dit_impl.h"

/* Buffers of one pass. */
struct work {
	struct tensor patches; /* [n, C * patch] f32: input, then output */
	struct tensor x; /* [n, d] f32, the residual stream */
	struct tensor y; /* [n, d], what enters a linear */
	struct tensor qkv; /* [n, 3 d] */
	struct tensor q; /* [n, d] */
	struct tensor q_mean; /* [h, query blocks, c] f32 */
	struct tensor hidden; /* [n, ffn] */
	int32_t *list; /* [h, query blocks, kept] */
};

static struct work work_carve(
	const struct dit *d, int frames, int query_blocks_per_frame, int keep, struct arena *a) {
	int64_t n = (int64_t)frames * d->frame_tokens, dim = d->c.dim;
	int64_t rows = (int64_t)d->c.heads * frames * query_blocks_per_frame;
	struct work w = {
		.patches = arena_2d(
			a, DTYPE_F32, n, (int64_t)d->channels * d->c.patch_h * d->c.patch_w),
		.x = arena_2d(a, DTYPE_F32, n, dim),
		.y = arena_2d(a, d->input, n, dim),
		.qkv = arena_2d(a, d->act, n, 3 * dim),
		.q = arena_2d(a, d->act, n, dim),
		.q_mean = arena_tensor(a, DTYPE_F32, 3,
			(int64_t[]){d->c.heads, (int64_t)frames * query_blocks_per_frame,
				dim / d->c.heads}),
		.hidden = arena_2d(a, d->input, n, d->c.ffn_dim),
		.list = arena_bytes(a, (size_t)(rows * keep) * sizeof(int32_t)),
	};
	return w;
}

void dit_measure(const struct dit *d, const struct sparsity *s, int pass_frames, int visible_frames,
	struct arena *scratch) {
	int per_frame = (d->frame_tokens + sparsity_block(s) - 1) / sparsity_block(s);
	size_t mark = arena_mark(scratch);
	work_carve(d, pass_frames, per_frame, visible_frames * per_frame, scratch);
	arena_reset(scratch, mark);
	dit_text_measure(d, scratch);
	arena_reset(scratch, mark);
}

static struct tensor modulation_row(const struct dit *d, int timestep, int layer, int row) {
	int64_t dim = d->c.dim;
	int64_t at = (((int64_t)timestep * d->c.layers + layer) * MOD_COUNT + row) * dim;
	return tensor_2d((float *)d->modulation.data + at, DTYPE_F32, 1, dim);
}

/* How a part of a block, or the head, reads the residual stream: what ends the
 * part before it writes w->y (the head: w->q) so. */
struct entry {
	struct tensor shift, scale;
	struct norm_args norm; /* points at them */
};

static const struct norm_args *entry_of(
	const struct dit *d, struct entry *e, struct tensor shift, struct tensor scale) {
	*e = (struct entry){shift, scale, {&e->scale, &e->shift, d->c.eps}};
	return &e->norm;
}

static const struct norm_args *block_entry(
	const struct dit *d, struct entry *e, int timestep, int l, int shift, int scale) {
	return entry_of(
		d, e, modulation_row(d, timestep, l, shift), modulation_row(d, timestep, l, scale));
}

static const struct norm_args *head_entry(const struct dit *d, struct entry *e, int timestep) {
	struct tensor rows = tensor_2d(
		(float *)d->head_modulation.data + (int64_t)timestep * MOD_HEAD_COUNT * d->c.dim,
		DTYPE_F32, MOD_HEAD_COUNT, d->c.dim);
	return entry_of(
		d, e, tensor_rows(rows, MOD_HEAD_SHIFT, 1), tensor_rows(rows, MOD_HEAD_SCALE, 1));
}

/* t with the scale of these codes, if it is codes. */
static struct tensor coded(const struct dit *d, struct tensor t, int timestep, int l, int codes) {
	if (t.dtype != DTYPE_FP8_E4M3)
		return t;
	int64_t at = ((int64_t)timestep * d->c.layers + l) * CODES_COUNT + codes;
	t.scale = (float *)d->code_scale.data + at * CODE_SCALE_STRIDE;
	t.one_scale = true;
	return t;
}

static void self_attention(const struct dit *d, const struct dit_pass *pass, int l, int timestep,
	struct work *w, bool keys_only) {
	const struct ops *ops = d->ops;
	const struct dit_layer *layer = &d->layer[l];
	const struct dit_stream *t = pass->stream;
	struct tensor gate = modulation_row(d, timestep, l, MOD_GATE_SA);
	struct entry cross;
	struct rope rope = {tensor_rows(t->time, 0, t->frames), d->rope_space};
	struct kv_span slot = kvcache_slot(pass->cache, l), spans[KV_SPANS_MAX];
	struct tensor q =
		tensor_3d(w->q.data, w->q.dtype, w->q.dim[0], d->c.heads, d->c.dim / d->c.heads);
	bool scored = t->plan.kind == SPARSITY_SCORED;
	struct tensor in = coded(d, w->y, timestep, l, CODES_SA),
		      out = coded(d, w->y, timestep, l, CODES_O),
		      next = coded(d, w->y, timestep, l, CODES_CROSS);

	ops->linear(d->be, &w->qkv, &in, layer->qkv, ACT_NONE);
	ops->qk_norm_rope_write(d->be, &q, scored && !keys_only ? &w->q_mean : NULL, &slot, &w->qkv,
		&layer->norm_q, &layer->norm_k, &rope, d->c.eps);
	if (keys_only)
		return;
	int n_spans = kvcache_spans(pass->cache, l, spans);
	struct block_list list = {
		.heads = d->c.heads,
		.query_blocks = (int)w->q_mean.dim[1],
		.kept = t->plan.keep,
		.index = scored ? w->list : (int32_t *)t->listed.data + l * t->layer_stride,
	};
	if (scored)
		ops->select_blocks(d->be, &list, &w->q_mean, spans, n_spans, &t->plan.select);
	ops->attention(
		d->be, &out, &q, spans, n_spans, t->plan.kind == SPARSITY_DENSE ? NULL : &list);
	ops->linear_residual_norm(d->be, &next, &w->x, &out, layer->o, &gate,
		entry_of(d, &cross, layer->norm3_shift, layer->norm3_scale));
}

static void cross_attention(
	const struct dit *d, const struct dit_text *text, int l, int timestep, struct work *w) {
	const struct ops *ops = d->ops;
	const struct dit_layer *layer = &d->layer[l];
	struct tensor k = tensor_rows(text->layer[l].k, 0, text->rows);
	struct tensor v = tensor_rows(text->layer[l].v, 0, text->rows);
	const struct sdpa_args args = {
		.scale = 1 / sqrtf((float)d->c.dim / (float)d->c.heads),
		.last_repeats = text->last_repeats,
	};
	struct entry ff;
	struct tensor in = coded(d, w->y, timestep, l, CODES_CROSS), out = w->y,
		      next = coded(d, w->y, timestep, l, CODES_FF);
	if (text->layer[l].scale.data) {
		out.scale = text->layer[l].scale.data;
		out.one_scale = true;
	}
	ops->linear(d->be, &w->q, &in, layer->cross_q, ACT_NONE);
	ops->rms_norm(d->be, &w->q, &w->q, &layer->cross_norm_q, d->c.eps);
	ops->sdpa(d->be, &out, &w->q, &k, &v, d->c.heads, &args);
	ops->linear_residual_norm(d->be, &next, &w->x, &out, layer->cross_o, NULL,
		block_entry(d, &ff, timestep, l, MOD_SHIFT_FF, MOD_SCALE_FF));
}

/* Ends with the way into the next block, or into the head. */
static void feed_forward(const struct dit *d, int l, int timestep, struct work *w) {
	const struct ops *ops = d->ops;
	struct tensor gate = modulation_row(d, timestep, l, MOD_GATE_FF);
	struct entry next;
	bool last = l + 1 == d->c.layers;
	struct tensor in = coded(d, w->y, timestep, l, CODES_FF),
		      hidden = coded(d, w->hidden, timestep, l, CODES_HIDDEN),
		      out = last ? w->q : coded(d, w->y, timestep, l + 1, CODES_SA);
	ops->linear(d->be, &hidden, &in, d->layer[l].ffn_in, ACT_GELU_TANH);
	ops->linear_residual_norm(d->be, &out, &w->x, &hidden, d->layer[l].ffn_out, &gate,
		last ? head_entry(d, &next, timestep)
		     : block_entry(d, &next, timestep, l + 1, MOD_SHIFT_SA, MOD_SCALE_SA));
}

static void forward_enqueue(
	const struct dit *d, const struct dit_pass *pass, int timestep, struct work *w) {
	struct entry first;
	struct tensor y = coded(d, w->y, timestep, 0, CODES_SA);
	d->ops->patchify(d->be, &w->patches, pass->x, d->c.patch_h, d->c.patch_w);
	d->ops->linear(d->be, &w->x, &w->patches, d->patch, ACT_NONE);
	block_entry(d, &first, timestep, 0, MOD_SHIFT_SA, MOD_SCALE_SA);
	d->ops->norm_modulate(d->be, &y, &w->x, &first.scale, &first.shift, d->c.eps);
	for (int l = 0; l < d->c.layers; l++) {
		bool keys_only = !pass->flow && l + 1 == d->c.layers;
		self_attention(d, pass, l, timestep, w, keys_only);
		if (keys_only)
			break;
		cross_attention(d, pass->text, l, timestep, w);
		feed_forward(d, l, timestep, w);
	}
	if (!pass->flow)
		return;
	d->ops->linear(d->be, &w->patches, &w->q, d->head, ACT_NONE);
	d->ops->unpatchify(d->be, pass->flow, &w->patches, d->c.patch_h, d->c.patch_w);
}

/* All that decides what a pass enqueues. Runs of slots are those of every layer;
 * rotations, lists and rows of text lie in memory that stays where it is. */
struct pass_key {
	const void *dit, *x, *flow, *text, *stream, *cache, *scratch;
	int64_t layer_stride;
	int timestep, frames, text_rows, last_repeats;
	int plan_kind, blocks, per_frame, keep;
	struct select_args select;
	int spans, first[KV_SPANS_MAX + 1], count[KV_SPANS_MAX + 1]; /* the last: where keys go */
};

static void key_make(struct pass_key *key, const struct dit *d, const struct dit_pass *pass,
	int timestep, const struct work *w) {
	const struct dit_stream *t = pass->stream;
	struct kv_span span[KV_SPANS_MAX + 1];
	memset(key, 0, sizeof *key); /* padding counts, too */
	key->dit = d;
	key->x = pass->x->data;
	key->flow = pass->flow ? pass->flow->data : NULL;
	key->text = pass->text;
	key->stream = t;
	key->cache = pass->cache;
	key->scratch = w->patches.data;
	key->layer_stride = t->layer_stride;
	key->timestep = timestep;
	key->frames = t->frames;
	key->text_rows = pass->text->rows;
	key->last_repeats = pass->text->last_repeats;
	key->plan_kind = (int)t->plan.kind;
	key->blocks = t->plan.blocks;
	key->per_frame = t->plan.blocks_per_frame;
	key->keep = t->plan.keep;
	key->select = t->plan.select;
	key->spans = kvcache_spans(pass->cache, 0, span);
	span[key->spans] = kvcache_slot(pass->cache, 0);
	for (int i = 0; i <= key->spans; i++) {
		key->first[i] = span[i].first;
		key->count[i] = span[i].count;
	}
}

int dit_forward(
	const struct dit *d, const struct dit_pass *pass, struct arena *scratch, struct error *e) {
	int timestep = 0;
	while (timestep < d->timesteps && d->timestep[timestep] != pass->timestep)
		timestep++;
	if (timestep == d->timesteps)
		return error_set(
			e, -EINVAL, "timestep %g is not one of the model's", pass->timestep);
	const struct dit_stream *t = pass->stream;
	size_t mark = arena_mark(scratch);
	struct work w = work_carve(d, t->frames, t->plan.blocks_per_frame, t->plan.keep, scratch);
	int r = arena_failed(scratch, e);
	if (r == 0) {
		struct pass_key key;
		key_make(&key, d, pass, timestep, &w);
		if (!backend_replay(d->be, &key, sizeof key)) {
			do {
				forward_enqueue(d, pass, timestep, &w);
			} while (backend_record_end(d->be));
		}
	}
	arena_reset(scratch, mark);
	return r;
}
