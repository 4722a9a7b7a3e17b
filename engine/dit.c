/* SPDX-License-Identifier: Apache-2.0 */
/* The transformer's forward pass over the op table. Shapes: n tokens of the
 * pass, s of a frame, d model width, h heads of c channels, m rows of text.
 * Thread: the backend's. */
#include "engine/dit.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/dit_impl.h"

#define TEXT_UNIT 64 /* rows */

/* ---- creation ------------------------------------------------------------- */

static void timestep_add(struct dit *d, double t) {
	for (int i = 0; i < d->timesteps; i++) {
		if (d->timestep[i] == t)
			return;
	}
	d->timestep[d->timesteps++] = t;
}

static int sizes_check(const struct dit *d, struct error *e) {
	const struct dit_config *c = &d->c;
	if (c->dim % c->heads || (c->dim / c->heads) % 2)
		return error_set(e, -EINVAL, "dit.dim is %d: %d heads need an even share of it",
			c->dim, c->heads);
	if (d->height % c->patch_h || d->width % c->patch_w)
		return error_set(e, -EINVAL,
			"height and width: a latent of %dx%d does not divide into patches of %dx%d",
			d->height, d->width, c->patch_h, c->patch_w);
	return 0;
}

/* Keys, values and activations follow the device unless all is to be f32. */
static void dtypes_choose(struct dit *d) {
	struct backend_info info = backend_info(d->be);
	bool f32 = d->precision == PRECISION_F32;
	d->act = f32 ? DTYPE_F32 : info.activation;
	d->kv = f32 ? DTYPE_F32 : info.kv;
	d->input = d->act;
	d->text_unit = strcmp(info.kind, "cuda") == 0 ? TEXT_UNIT : 1;
	if (d->precision == PRECISION_FP8 && strcmp(info.kind, "cuda") == 0)
		d->input = DTYPE_FP8_E4M3;
}

struct dit *dit_create(struct backend *be, const struct model *m, struct weights *w,
	struct arena *a, enum precision p, struct error *e) {
	struct dit *d = calloc(1, sizeof *d + (size_t)m->dit.layers * sizeof d->layer[0]);
	if (!d) {
		error_set(e, -ENOMEM, "no memory for a model of %d layers", m->dit.layers);
		return NULL;
	}
	d->be = be;
	d->ops = backend_ops(be);
	d->c = m->dit;
	d->channels = m->latent_channels;
	d->height = model_latent_height(m);
	d->width = model_latent_width(m);
	d->precision = p;
	dtypes_choose(d);
	for (int i = 0; i < m->steps; i++)
		timestep_add(d, m->timestep[i]);
	for (int i = 0; i < m->first_steps; i++)
		timestep_add(d, m->first_timestep[i]);
	timestep_add(d, m->context_noise);
	int r = sizes_check(d, e);
	if (r == 0) {
		int head_dim = d->c.dim / d->c.heads;
		d->frame_tokens = (d->height / d->c.patch_h) * (d->width / d->c.patch_w);
		d->time_pairs = head_dim / 2 - 2 * (head_dim / 6);
		r = dit_load_weights(d, w, a, e);
	}
	if (r < 0) {
		error_prefix(e, "dit");
		dit_destroy(d);
		return NULL;
	}
	return d;
}

void dit_destroy(struct dit *d) {
	if (!d)
		return;
	dit_drop_weights(d);
	free(d);
}

struct kv_shape dit_kv_shape(const struct dit *d, int block) {
	return (struct kv_shape){
		.heads = d->c.heads,
		.head_dim = d->c.dim / d->c.heads,
		.frame_tokens = d->frame_tokens,
		.block = block,
		.dtype = d->kv,
	};
}

int dit_frame_tokens(const struct dit *d) {
	return d->frame_tokens;
}

/* ---- text ------------------------------------------------------------------ */

struct dit_text {
	int rows; /* m */
	int last_repeats; /* for how many the last row stands */
	struct {
		struct tensor k, v; /* [text_len, d]; the first m rows count */
		struct tensor scale; /* [2] f32, of the codes that v can give; fp8 only */
	} layer[];
};

struct dit_text *dit_text_create(const struct dit *d, struct arena *a, struct error *e) {
	struct dit_text *t = calloc(1, sizeof *t + (size_t)d->c.layers * sizeof t->layer[0]);
	if (!t) {
		error_set(e, -ENOMEM, "no memory for a prompt's keys");
		return NULL;
	}
	for (int l = 0; l < d->c.layers; l++) {
		t->layer[l].k = arena_2d(a, d->act, d->c.text_len, d->c.dim);
		t->layer[l].v = arena_2d(a, d->act, d->c.text_len, d->c.dim);
		if (d->input == DTYPE_FP8_E4M3)
			t->layer[l].scale = arena_tensor(a, DTYPE_F32, 1, (int64_t[]){2});
	}
	return t;
}

void dit_text_destroy(struct dit_text *t) {
	free(t);
}

struct text_work {
	struct tensor padded; /* [m, text_dim] */
	struct tensor hidden; /* [m, d] */
	struct tensor context; /* [m, d] */
};

static struct text_work text_work_carve(const struct dit *d, int rows, struct arena *a) {
	return (struct text_work){
		.padded = arena_2d(a, DTYPE_F32, rows, d->c.text_dim),
		.hidden = arena_2d(a, d->act, rows, d->c.dim),
		.context = arena_2d(a, d->act, rows, d->c.dim),
	};
}

/* Rows that are kept of `rows` and the padding behind them. On a GPU a multiple of
 * what attention reads at once: that costs nothing, and what was recorded under
 * one prompt serves others. */
static int text_rows(const struct dit *d, int rows) {
	int n = (rows / d->text_unit + 1) * d->text_unit;
	return n < d->c.text_len ? n : d->c.text_len;
}

void dit_text_set(const struct dit *d, struct dit_text *t, const struct tensor *context,
	struct arena *scratch) {
	const struct ops *ops = d->ops;
	int rows = (int)context->dim[0], whole = d->c.text_len;
	t->rows = text_rows(d, rows);
	t->last_repeats = whole > rows ? whole - t->rows + 1 : 0;
	size_t mark = arena_mark(scratch);
	struct text_work w = text_work_carve(d, t->rows, scratch);
	backend_zero(d->be, w.padded.data, tensor_bytes(&w.padded));
	struct tensor real = tensor_rows(w.padded, 0, rows);
	ops->convert(d->be, &real, context);
	ops->linear(d->be, &w.hidden, &w.padded, d->text_in, ACT_GELU_TANH);
	ops->linear(d->be, &w.context, &w.hidden, d->text_out, ACT_NONE);
	for (int l = 0; l < d->c.layers; l++) {
		struct tensor k = tensor_rows(t->layer[l].k, 0, t->rows);
		struct tensor v = tensor_rows(t->layer[l].v, 0, t->rows);
		ops->linear(d->be, &k, &w.context, d->layer[l].cross_k, ACT_NONE);
		ops->rms_norm(d->be, &k, &k, &d->layer[l].cross_norm_k, d->c.eps);
		ops->linear(d->be, &v, &w.context, d->layer[l].cross_v, ACT_NONE);
		if (t->layer[l].scale.data)
			ops->code_scale(d->be, &t->layer[l].scale, &v);
	}
	arena_reset(scratch, mark);
}

/* ---- a stream's tables ------------------------------------------------------ */

struct dit_stream {
	struct tensor time; /* [pass_frames, time_pairs, 2] f32 */
	struct tensor listed; /* [layers or 1, heads, query blocks, kept] i32, flat */
	int64_t layer_stride; /* in elements; 0 when all layers read one list */
	struct sparsity_plan plan;
	int frames; /* of the pass */
	void *host; /* what is being uploaded: as large as either table */
};

struct dit_stream *dit_stream_create(const struct dit *d, const struct sparsity *s, int pass_frames,
	int visible_frames, struct arena *a, struct error *e) {
	struct dit_stream *t = calloc(1, sizeof *t);
	int per_frame = (d->frame_tokens + sparsity_block(s) - 1) / sparsity_block(s);
	int64_t lists = !sparsity_listed(s) ? 0 : sparsity_listed_per_layer(s) ? d->c.layers : 1;
	int64_t entries = lists * d->c.heads * pass_frames * per_frame * visible_frames * per_frame;
	if (t) {
		t->time = arena_tensor(a, DTYPE_F32, 3, (int64_t[]){pass_frames, d->time_pairs, 2});
		if (entries)
			t->listed = arena_tensor(a, DTYPE_I32, 1, &entries);
		size_t bytes = tensor_bytes(&t->time), other = (size_t)entries * sizeof(int32_t);
		t->host = malloc(bytes > other ? bytes : other);
	}
	if (!t || !t->host) {
		free(t);
		error_set(e, -ENOMEM, "no memory for a stream's tables");
		return NULL;
	}
	return t;
}

void dit_stream_destroy(struct dit_stream *t) {
	if (t)
		free(t->host);
	free(t);
}

/* Angles in double: exact to f32 for years of frames. */
static void time_table(const struct dit *d, struct dit_stream *t, int64_t first, int frames) {
	float *at = t->host;
	for (int64_t f = first; f < first + frames; f++) {
		for (int p = 0; p < d->time_pairs; p++) {
			double angle = (double)f * pow(d->c.theta, -(double)p / d->time_pairs);
			*at++ = (float)cos(angle);
			*at++ = (float)sin(angle);
		}
	}
	struct tensor rows = tensor_rows(t->time, 0, frames);
	backend_upload(d->be, rows.data, t->host, tensor_bytes(&rows));
}

void dit_stream_begin(const struct dit *d, struct dit_stream *t, const struct sparsity *s,
	const struct kvcache *k, int frames, int64_t c, uint64_t seed) {
	int per_frame = (d->frame_tokens + sparsity_block(s) - 1) / sparsity_block(s);
	t->frames = frames;
	time_table(d, t, kvcache_frame(k), frames);
	t->plan = sparsity_plan(s, c, kvcache_visible_frames(k), frames, per_frame);
	if (t->plan.kind != SPARSITY_LISTED)
		return;
	int64_t rows = (int64_t)d->c.heads * frames * per_frame;
	int64_t layers = sparsity_listed_per_layer(s) ? d->c.layers : 1;
	t->layer_stride = layers > 1 ? rows * t->plan.keep : 0;
	sparsity_fill(s, &t->plan, t->host, layers * rows, seed);
	backend_upload(d->be, t->listed.data, t->host,
		(size_t)(layers * rows * t->plan.keep) * sizeof(int32_t));
}

const struct sparsity_plan *dit_stream_plan(const struct dit_stream *t) {
	return &t->plan;
}

/* ---- forward ---------------------------------------------------------------- */

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
	text_work_carve(d, d->c.text_len, scratch);
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
