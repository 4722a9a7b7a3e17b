/* SPDX-License-Identifier: Apache-2.0 */
/* The TAEHV decoder: two-dimensional convolutions whose MemBlocks see the block
 * input of the previous frame, three levels that each double the picture.
 *
 * Two things are folded at load. A MemBlock's first convolution over
 * [x ; previous x] is a convolution with two time taps. TGrow (1x1) and the
 * convolution after it are linear without bias, hence one convolution with a
 * kernel per output frame. Widths and time strides come from the tensors.
 * Thread: the backend's. Source: engine/MODEL.md, "TAEHV". */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/decoder_impl.h"

#define LEVELS 3
#define BLOCKS 3

struct mem_block {
	struct video_conv conv[3];
};
struct level {
	struct mem_block block[BLOCKS];
	struct video_conv up; /* TGrow and convolution over the doubled picture */
	int channels, scale, phases;
};
struct taehv {
	struct video_conv first, last;
	struct level level[LEVELS];
	int out; /* channels after the last level */
};
/* Indices of the modules in the decoder's sequence, and the widths of the
 * published model for invented weights. */
static const struct {
	int block, grow, conv, channels, phases;
	enum activation act;
} levels[LEVELS] = {
	{3, 7, 8, 256, 1, ACT_NONE},
	{9, 13, 14, 128, 2, ACT_NONE},
	{15, 19, 20, 64, 2, ACT_RELU},
};
#define FIRST "decoder.1"
#define LAST "decoder.22"
#define OUT_CHANNELS 64

/* [c, 2c, 3, 3], x first, to [c, 2, 3, 3, c], oldest first. */
static void arrange_memory(float *to, const float *from, int64_t c) {
	for (int64_t o = 0; o < c; o++) {
		for (int64_t i = 0; i < 2 * c; i++) {
			int64_t time = i < c ? 1 : 0, channel = i < c ? i : i - c;
			for (int64_t t = 0; t < 9; t++)
				to[((o * 2 + time) * 9 + t) * c + channel] =
					from[(o * 2 * c + i) * 9 + t];
		}
	}
}

static int load_memory_conv(struct video_net *net, struct video_conv *c, struct weights *w,
	const char *name, int channels, int scale, struct error *e) {
	char field[96];
	int64_t n = channels;
	snprintf(field, sizeof field, "%s.weight", name);
	float *raw = video_weight_f32(w, field, 4, (int64_t[]){n, 2 * n, 3, 3}, e);
	snprintf(field, sizeof field, "%s.bias", name);
	float *bias = raw ? video_weight_f32(w, field, 1, &n, e) : NULL;
	float *arranged = malloc((size_t)(n * n * 18) * sizeof *arranged);
	int rc = arranged ? 0 : error_set(e, -ENOMEM, "%s: no memory to arrange it", name);
	if (!bias)
		rc = e && e->code ? e->code : -EINVAL;
	if (rc == 0) {
		arrange_memory(arranged, raw, n);
		struct conv_spec spec = video_spec(channels, channels, 2, 3, ACT_RELU);
		rc = video_conv_create(net, c, &spec, arranged, bias, 1, scale, e);
	}
	free(arranged);
	free(bias);
	free(raw);
	return rc;
}

/* w[p][o][tap][i] = sum over m of conv[o][m][tap] * grow[p * in + m][i]. */
static void fold_grow(float *w, const float *grow, const float *conv, int64_t phases, int64_t out,
	int64_t in, double *row) {
	for (int64_t po = 0; po < phases * out; po++) {
		const float *g = grow + (po / out) * in * in, *c = conv + (po % out) * in * 9;
		for (int64_t t = 0; t < 9; t++) {
			for (int64_t i = 0; i < in; i++)
				row[i] = 0;
			for (int64_t m = 0; m < in; m++) {
				for (int64_t i = 0; i < in; i++)
					row[i] += (double)c[m * 9 + t] * (double)g[m * in + i];
			}
			for (int64_t i = 0; i < in; i++)
				w[(po * 9 + t) * in + i] = (float)row[i];
		}
	}
}

static int load_up(struct video_net *net, struct level *l, int index, int out, struct weights *w,
	struct error *e) {
	char field[96];
	int64_t in = l->channels, rows = in * l->phases;
	snprintf(field, sizeof field, "decoder.%d.conv.weight", levels[index].grow);
	float *grow = video_weight_f32(w, field, 4, (int64_t[]){rows, in, 1, 1}, e);
	snprintf(field, sizeof field, "decoder.%d.weight", levels[index].conv);
	float *conv = grow ? video_weight_f32(w, field, 4, (int64_t[]){out, in, 3, 3}, e) : NULL;
	float *folded = malloc((size_t)(rows * out * 9) * sizeof *folded);
	double *row = malloc((size_t)in * sizeof *row);
	int rc = conv ? 0 : (e && e->code ? e->code : -EINVAL);
	if (!folded || !row)
		rc = error_set(e, -ENOMEM, "%s: no memory to fold it", field);
	if (rc == 0) {
		struct conv_spec spec = video_spec(l->channels, out, 1, 3, levels[index].act);
		spec.phases = l->phases;
		spec.upsample = 2;
		fold_grow(folded, grow, conv, l->phases, out, in, row);
		rc = video_conv_create(net, &l->up, &spec, folded, NULL, 0, 2 * l->scale, e);
	}
	free(row);
	free(folded);
	free(conv);
	free(grow);
	return rc;
}

static int load_level(struct decoder *d, struct level *l, int index, int out, struct weights *w,
	struct error *e) {
	char name[64];
	for (int b = 0; b < BLOCKS; b++) {
		struct mem_block *block = &l->block[b];
		int at = levels[index].block + b;
		snprintf(name, sizeof name, "decoder.%d.conv.0", at);
		int rc = load_memory_conv(
			&d->net, &block->conv[0], w, name, l->channels, l->scale, e);
		for (int i = 1; rc == 0 && i < 3; i++) {
			struct conv_spec spec =
				video_spec(l->channels, l->channels, 1, 3, ACT_RELU);
			snprintf(name, sizeof name, "decoder.%d.conv.%d", at, 2 * i);
			rc = video_conv_load(
				&d->net, &block->conv[i], w, name, &spec, true, l->scale, e);
		}
		if (rc < 0)
			return rc;
	}
	return load_up(&d->net, l, index, out, w, e);
}

/* Channels of every level and pictures per latent, from the shapes. */
static void read_widths(struct decoder *d, struct taehv *t, struct weights *w) {
	char name[64];
	d->stride_t = 1;
	for (int i = 0; i < LEVELS; i++) {
		struct level *l = &t->level[i];
		snprintf(name, sizeof name, "decoder.%d.conv.4", levels[i].block);
		l->channels = video_width(w, name, 0, levels[i].channels);
		snprintf(name, sizeof name, "decoder.%d.conv", levels[i].grow);
		int rows = video_width(w, name, 0, levels[i].channels * levels[i].phases);
		/* A count that does not divide is reported when the tensor is loaded. */
		l->phases = rows / l->channels > 0 ? rows / l->channels : 1;
		l->scale = 1 << i;
		d->stride_t *= l->phases;
	}
	snprintf(name, sizeof name, "decoder.%d", levels[LEVELS - 1].conv);
	t->out = video_width(w, name, 0, OUT_CHANNELS);
}

static int load(struct decoder *d, const struct model *m, struct weights *w, struct error *e) {
	struct taehv *t = d->model = calloc(1, sizeof *t);
	if (!t)
		return error_set(e, -ENOMEM, "no memory");
	read_widths(d, t, w);
	if (m->stride_t != d->stride_t || m->stride_s != d->kind->stride_s)
		return error_set(e, -EINVAL,
			"the weights give %d pictures per latent, %d pixels per latent pixel; "
			"the manifest says %d and %d",
			d->stride_t, d->kind->stride_s, m->stride_t, m->stride_s);
	struct conv_spec spec =
		video_spec(d->latent_channels, t->level[0].channels, 1, 3, ACT_RELU);
	int rc = video_conv_load(&d->net, &t->first, w, FIRST, &spec, true, 1, e);
	for (int i = 0; rc == 0 && i < LEVELS; i++) {
		int out = i + 1 < LEVELS ? t->level[i + 1].channels : t->out;
		rc = load_level(d, &t->level[i], i, out, w, e);
	}
	if (rc < 0)
		return rc;
	spec = video_spec(t->out, 3, 1, 3, ACT_NONE);
	return video_conv_load(&d->net, &t->last, w, LAST, &spec, true, 1 << LEVELS, e);
}

static void destroy(struct decoder *d) {
	struct taehv *t = d->model;
	if (!t)
		return;
	for (int i = 0; i < LEVELS; i++) {
		for (int b = 0; b < BLOCKS; b++) {
			for (int k = 0; k < 3; k++)
				video_conv_destroy(&d->net, &t->level[i].block[b].conv[k]);
		}
		video_conv_destroy(&d->net, &t->level[i].up);
	}
	video_conv_destroy(&d->net, &t->first);
	video_conv_destroy(&d->net, &t->last);
	free(t);
}

static int pictures(const struct decoder *d, int64_t done, int frames) {
	(void)done;
	return frames * d->stride_t;
}

static void pass(
	struct video_run *r, const struct decoder *d, struct tensor *x, struct tensor *rgb) {
	const struct taehv *t = d->model;
	int64_t n = x->dim[0], h = x->dim[1], w = x->dim[2];
	int at = 1; /* slot of the running image; the two others are free */
	struct tensor y = video_image(r, at, n, h, w, t->level[0].channels);
	video_conv(r, &t->first, &y, x, NULL);
	for (int i = 0; i < LEVELS; i++) {
		const struct level *l = &t->level[i];
		int a = (at + 1) % VIDEO_SLOTS, b = (at + 2) % VIDEO_SLOTS;
		struct tensor ya = video_image(r, a, n, h, w, l->channels);
		struct tensor yb = video_image(r, b, n, h, w, l->channels);
		for (int k = 0; k < BLOCKS; k++) {
			video_conv(r, &l->block[k].conv[0], &ya, &y, NULL);
			video_conv(r, &l->block[k].conv[1], &yb, &ya, NULL);
			video_conv(r, &l->block[k].conv[2], &y, &yb, &y);
		}
		n *= l->phases;
		h *= 2;
		w *= 2;
		ya = video_image(r, a, n, h, w, l->up.spec.out);
		video_conv(r, &l->up, &ya, &y, NULL);
		y = ya;
		at = a;
	}
	video_conv(r, &t->last, rgb, &y, NULL);
}

const struct decoder_kind decoder_taehv = {
	.name = "TAEHV",
	.gain = 1,
	.offset = 0,
	.stride_s = 1 << LEVELS,
	.bound = 3,
	.pass_pixels = 1 << 24,
	.load = load,
	.destroy = destroy,
	.pictures = pictures,
	.pass = pass,
};
