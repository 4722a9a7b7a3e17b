/* SPDX-License-Identifier: Apache-2.0 */
/* Loading and running the blocks of the Wan VAE. Each kind is a row of a table:
 * how it loads, how it runs. A block reads the image in *x and leaves its
 * result there, moving between the three slots.
 *
 * The first frame of a stream is special where time is resampled: upwards it
 * passes once and is not remembered, downwards it passes and is remembered. */
#include "engine/wan_blocks.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const float wan_latent_mean[WAN_LATENT_CHANNELS] = {-0.7571f, -0.7089f, -0.9113f, 0.1075f, -0.1745f,
	0.9653f, -0.1517f, 1.5508f, 0.4134f, -0.0715f, 0.5517f, -0.3632f, -0.1922f, -0.9497f,
	0.2503f, -0.2921f};
const float wan_latent_std[WAN_LATENT_CHANNELS] = {2.8184f, 1.4541f, 2.3275f, 2.6558f, 1.2196f,
	1.7708f, 2.6052f, 2.0743f, 3.2687f, 2.1526f, 2.8652f, 1.5579f, 1.6382f, 1.1253f, 2.8251f,
	1.9160f};

struct loader {
	struct video_net *net;
	struct weights *w;
	const char *name;
};

static int code_of(const struct error *e) {
	return e && e->code ? e->code : -EINVAL;
}

static int load_gamma(const struct loader *l, struct wan_block *b, int index, const char *suffix,
	int channels, int rank, struct error *e) {
	char field[160];
	snprintf(field, sizeof field, "%s.%s", l->name, suffix);
	float *f = video_weight_f32(l->w, field, rank, (int64_t[]){channels, 1, 1, 1}, e);
	if (!f)
		return code_of(e);
	size_t bytes = (size_t)channels * sizeof *f;
	void *device = backend_alloc(l->net->be, bytes, e);
	if (device) {
		backend_upload(l->net->be, device, f, bytes);
		b->gamma[index] = tensor_1d(device, DTYPE_F32, channels);
	}
	free(f);
	return device ? 0 : code_of(e);
}

static int load_conv(const struct loader *l, struct wan_block *b, int index, const char *suffix,
	struct conv_spec spec, int scale, struct error *e) {
	char name[128];
	snprintf(name, sizeof name, *suffix ? "%s.%s" : "%s%s", l->name, suffix);
	return video_conv_load(l->net, &b->conv[index], l->w, name, &spec, true, scale, e);
}

static int width_of(const struct loader *l, const char *suffix, int dim, int fallback) {
	char name[128];
	snprintf(name, sizeof name, *suffix ? "%s.%s" : "%s%s", l->name, suffix);
	return video_width(l->w, name, dim, fallback);
}

static int load_point(const struct loader *l, struct wan_block *b, struct error *e) {
	b->out = width_of(l, "", 0, b->out);
	return load_conv(l, b, 0, "", video_spec(b->in, b->out, 1, 1, ACT_NONE), b->scale, e);
}

static int load_causal(const struct loader *l, struct wan_block *b, struct error *e) {
	b->out = width_of(l, "", 0, b->out);
	return load_conv(l, b, 0, "", video_spec(b->in, b->out, 3, 3, ACT_NONE), b->scale, e);
}

static int load_residual(const struct loader *l, struct wan_block *b, struct error *e) {
	b->out = width_of(l, "residual.2", 0, b->out);
	int rc = load_gamma(l, b, 0, "residual.0.gamma", b->in, 4, e);
	if (rc == 0)
		rc = load_conv(l, b, 0, "residual.2", video_spec(b->in, b->out, 3, 3, ACT_NONE),
			b->scale, e);
	if (rc == 0)
		rc = load_gamma(l, b, 1, "residual.3.gamma", b->out, 4, e);
	if (rc == 0)
		rc = load_conv(l, b, 1, "residual.6", video_spec(b->out, b->out, 3, 3, ACT_NONE),
			b->scale, e);
	if (rc == 0 && b->in != b->out)
		rc = load_conv(l, b, 2, "shortcut", video_spec(b->in, b->out, 1, 1, ACT_NONE),
			b->scale, e);
	return rc;
}

/* to_qkv in three, so that q, k and v are images of their own. */
static int load_qkv(const struct loader *l, struct wan_block *b, struct error *e) {
	char field[160];
	int64_t c = b->in, rows = 3 * c;
	snprintf(field, sizeof field, "%s.to_qkv.weight", l->name);
	float *w = video_weight_f32(l->w, field, 4, (int64_t[]){rows, c, 1, 1}, e);
	snprintf(field, sizeof field, "%s.to_qkv.bias", l->name);
	float *bias = w ? video_weight_f32(l->w, field, 1, &rows, e) : NULL;
	int rc = bias ? 0 : code_of(e);
	struct conv_spec spec = video_spec(b->in, b->in, 1, 1, ACT_NONE);
	for (int i = 0; rc == 0 && i < 3; i++)
		rc = video_conv_create(
			l->net, &b->conv[i], &spec, w + i * c * c, bias + i * c, 0, b->scale, e);
	free(bias);
	free(w);
	return rc;
}

static int load_attention(const struct loader *l, struct wan_block *b, struct error *e) {
	b->out = b->in;
	int rc = load_gamma(l, b, 0, "norm.gamma", b->in, 3, e);
	if (rc == 0)
		rc = load_qkv(l, b, e);
	if (rc == 0)
		rc = load_conv(
			l, b, 3, "proj", video_spec(b->in, b->in, 1, 1, ACT_NONE), b->scale, e);
	return rc;
}

/* Three taps in time, one in space. */
static struct conv_spec time_spec(int channels) {
	return video_spec(channels, channels, 3, 1, ACT_NONE);
}

static int load_up(const struct loader *l, struct wan_block *b, struct error *e) {
	b->out = width_of(l, "resample.1", 0, b->out);
	struct conv_spec space = video_spec(b->in, b->out, 1, 3, ACT_NONE);
	space.upsample = 2;
	int rc = load_conv(l, b, 0, "resample.1", space, b->scale, e);
	if (rc < 0 || b->kind == WAN_UP_SPACE)
		return rc;
	struct conv_spec time = time_spec(b->in);
	time.phases = 2;
	rc = load_conv(l, b, 1, "time_conv", time, b->scale, e);
	b->memory = b->conv[1].history;
	return rc;
}

static int load_down(const struct loader *l, struct wan_block *b, struct error *e) {
	b->out = width_of(l, "resample.1", 0, b->out);
	struct conv_spec space = video_spec(b->in, b->out, 1, 3, ACT_NONE);
	space.stride = 2;
	space.pad_top = space.pad_left = 0;
	int rc = load_conv(l, b, 0, "resample.1", space, b->scale, e);
	if (rc < 0 || b->kind == WAN_DOWN_SPACE)
		return rc;
	struct conv_spec time = time_spec(b->out);
	time.stride_t = 2;
	rc = load_conv(l, b, 1, "time_conv", time, b->scale / 2, e);
	b->memory = b->conv[1].history;
	return rc;
}

static int load_head(const struct loader *l, struct wan_block *b, struct error *e) {
	b->out = width_of(l, "2", 0, b->out);
	int rc = load_gamma(l, b, 0, "0.gamma", b->in, 4, e);
	if (rc == 0)
		rc = load_conv(
			l, b, 0, "2", video_spec(b->in, b->out, 3, 3, ACT_NONE), b->scale, e);
	return rc;
}

/* Where a block reads and writes. */
struct place {
	struct video_run *r;
	const struct wan_block *b;
	int slot[VIDEO_SLOTS]; /* [0] holds x, the others are free */
	struct tensor *last; /* result goes here when not NULL */
};

/* An image shaped like x but for its channels. */
static struct tensor beside(const struct place *p, int slot, const struct tensor *x, int channels) {
	return video_image(p->r, p->slot[slot], x->dim[0], x->dim[1], x->dim[2], channels);
}

static void norm(const struct place *p, int gamma, struct tensor *y, const struct tensor *x,
	enum activation act) {
	const struct video_net *n = p->r->net;
	if (!p->r->planning)
		n->ops->channel_norm(n->be, y, x, &p->b->gamma[gamma], act);
}

/* Each run function returns the index into slot[] of its result. */
static int run_conv(struct place *p, struct tensor *x) {
	struct tensor y = p->last ? *p->last : beside(p, 1, x, p->b->out);
	video_conv(p->r, &p->b->conv[0], &y, x, NULL);
	*x = y;
	return 1;
}

static int run_residual(struct place *p, struct tensor *x) {
	const struct wan_block *b = p->b;
	struct tensor t = beside(p, 1, x, b->in), y = beside(p, 2, x, b->out);
	norm(p, 0, &t, x, ACT_SILU);
	video_conv(p->r, &b->conv[0], &y, &t, NULL);
	norm(p, 1, &y, &y, ACT_SILU);
	if (!b->conv[2].conv) {
		video_conv(p->r, &b->conv[1], x, &y, x);
		return 0;
	}
	t = beside(p, 1, x, b->out);
	video_conv(p->r, &b->conv[2], &t, x, NULL);
	video_conv(p->r, &b->conv[1], &t, &y, &t);
	*x = t;
	return 1;
}

static int run_attention(struct place *p, struct tensor *x) {
	const struct wan_block *b = p->b;
	const struct video_net *net = p->r->net;
	int64_t f = x->dim[0], n = x->dim[1] * x->dim[2], c = b->in;
	struct tensor y = beside(p, 1, x, b->in), qkv = beside(p, 2, x, 3 * b->in), part[3];
	norm(p, 0, &y, x, ACT_NONE);
	for (int i = 0; i < 3; i++) {
		void *data = qkv.data ? (char *)qkv.data +
						(size_t)(i * f * n * c) * dtype_bytes(qkv.dtype)
				      : NULL;
		part[i] = tensor_4d(data, qkv.dtype, f, x->dim[1], x->dim[2], c);
		video_conv(p->r, &b->conv[i], &part[i], &y, NULL);
	}
	struct sdpa_args args = {.scale = (float)(1 / sqrt((double)c))};
	for (int64_t i = 0; i < f && !p->r->planning; i++) {
		struct tensor row[4], *all[4] = {&y, &part[0], &part[1], &part[2]};
		for (int k = 0; k < 4; k++)
			row[k] = tensor_reshape(tensor_rows(*all[k], i, 1), 2, (int64_t[]){n, c});
		net->ops->sdpa(net->be, &row[0], &row[1], &row[2], &row[3], 1, &args);
	}
	video_conv(p->r, &b->conv[3], x, &y, x);
	return 0;
}

static int run_up(struct place *p, struct tensor *x) {
	const struct wan_block *b = p->b;
	const struct tensor *from = x;
	struct tensor both;
	int result = 1;
	if (b->kind == WAN_UP && p->r->state->latents > 0) {
		both = video_image(p->r, p->slot[1], 2 * x->dim[0], x->dim[1], x->dim[2], b->in);
		video_conv(p->r, &b->conv[1], &both, x, NULL);
		from = &both;
		result = 2;
	}
	struct tensor y = video_image(
		p->r, p->slot[result], from->dim[0], 2 * x->dim[1], 2 * x->dim[2], b->out);
	video_conv(p->r, &b->conv[0], &y, from, NULL);
	*x = y;
	return result;
}

/* Output k reads new frames 2k - 1, 2k, 2k + 1: the history holds the frame
 * before the new ones and the first new one, the convolution starts after it. */
static void halve_time(struct place *p, struct tensor *y, const struct tensor *x) {
	struct video_run *r = p->r;
	if (r->planning)
		return;
	struct tensor first = tensor_rows(*x, 0, 1), rest = tensor_rows(*x, 1, x->dim[0] - 1);
	video_remember(r, p->b->memory, &first);
	video_conv_with(r, &p->b->conv[1], y, &rest, &r->state->history[p->b->memory], NULL);
	video_remember(r, p->b->memory, &rest);
}

static int run_down(struct place *p, struct tensor *x) {
	const struct wan_block *b = p->b;
	struct tensor y =
		video_image(p->r, p->slot[1], x->dim[0], x->dim[1] / 2, x->dim[2] / 2, b->out);
	video_conv(p->r, &b->conv[0], &y, x, NULL);
	*x = y;
	if (b->kind == WAN_DOWN_SPACE)
		return 1;
	if (p->r->state->latents == 0) {
		video_remember(p->r, b->memory, x);
		return 1;
	}
	y = video_image(p->r, p->slot[2], x->dim[0] / 2, x->dim[1], x->dim[2], b->out);
	halve_time(p, &y, x);
	*x = y;
	return 2;
}

static int run_head(struct place *p, struct tensor *x) {
	norm(p, 0, x, x, ACT_SILU);
	return run_conv(p, x);
}

static const struct {
	int (*load)(const struct loader *l, struct wan_block *b, struct error *e);
	int (*run)(struct place *p, struct tensor *x);
	int up, down; /* of the picture's width and height */
} kinds[] = {
	[WAN_POINT] = {load_point, run_conv, 1, 1},
	[WAN_CONV] = {load_causal, run_conv, 1, 1},
	[WAN_RESIDUAL] = {load_residual, run_residual, 1, 1},
	[WAN_ATTENTION] = {load_attention, run_attention, 1, 1},
	[WAN_UP_SPACE] = {load_up, run_up, 2, 1},
	[WAN_UP] = {load_up, run_up, 2, 1},
	[WAN_DOWN_SPACE] = {load_down, run_down, 1, 2},
	[WAN_DOWN] = {load_down, run_down, 1, 2},
	[WAN_HEAD] = {load_head, run_head, 1, 1},
};

int wan_list_load(struct wan_list *l, struct video_net *net, struct weights *w,
	const struct wan_row *rows, int count, int in, int scale, struct error *e) {
	*l = (struct wan_list){0};
	if (count > WAN_BLOCKS_MAX)
		return error_set(e, -E2BIG, "%d modules, at most %d", count, WAN_BLOCKS_MAX);
	for (int i = 0; i < count; i++) {
		struct wan_block *b = &l->block[l->count++];
		struct loader loader = {net, w, rows[i].name};
		*b = (struct wan_block){
			.kind = rows[i].kind,
			.in = in,
			.out = rows[i].out,
			.scale = scale,
			.memory = -1,
		};
		int rc = kinds[b->kind].load(&loader, b, e);
		if (rc < 0)
			return rc;
		in = b->out;
		scale = scale * kinds[b->kind].up / kinds[b->kind].down;
	}
	return 0;
}

void wan_list_finish(struct wan_list *l, struct video_net *net) {
	for (int i = 0; i < l->count; i++) {
		for (int k = 0; k < WAN_BLOCK_CONVS; k++)
			video_conv_destroy(net, &l->block[i].conv[k]);
		for (int k = 0; k < 2; k++)
			backend_free(net->be, l->block[i].gamma[k].data);
	}
	l->count = 0;
}

void wan_list_run(struct video_run *r, const struct wan_list *l, struct tensor *x, int *slot,
	struct tensor *last) {
	for (int i = 0; i < l->count; i++) {
		struct place p = {.r = r, .b = &l->block[i]};
		p.last = i + 1 == l->count ? last : NULL;
		for (int k = 0; k < VIDEO_SLOTS; k++)
			p.slot[k] = (*slot + k) % VIDEO_SLOTS;
		*slot = p.slot[kinds[p.b->kind].run(&p, x)];
	}
}
