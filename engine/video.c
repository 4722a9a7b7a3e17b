/* SPDX-License-Identifier: Apache-2.0 */
/* Causal convolutions with memory and the two-walk scratch planning. */
#include "engine/video.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void video_net_init(struct video_net *net, struct backend *be, enum precision p) {
	*net = (struct video_net){.be = be, .ops = backend_ops(be), .precision = p};
	/* Eight bits are too coarse for pictures between convolutions. */
	bool f32 = p == PRECISION_F32 || backend_info(be).activation == DTYPE_F32;
	net->image = f32 ? DTYPE_F32 : DTYPE_BF16;
}

int video_conv_create(struct video_net *net, struct video_conv *c, const struct conv_spec *spec,
	const float *w, const float *b, int keep, int scale, struct error *e) {
	*c = (struct video_conv){.spec = *spec, .history = -1};
	if (keep > 0) {
		if (net->histories == VIDEO_HISTORIES_MAX)
			return error_set(e, -E2BIG, "decoder: more than %d causal convolutions",
				VIDEO_HISTORIES_MAX);
		net->history[net->histories] = (struct video_history){keep, spec->in, scale};
		c->history = net->histories++;
	}
	struct tensor wt = tensor_make((void *)w, DTYPE_F32, 6,
		(int64_t[]){spec->phases, spec->out, spec->kt, spec->kh, spec->kw, spec->in});
	struct tensor bt = tensor_2d((void *)b, DTYPE_F32, spec->phases, spec->out);
	c->conv = net->ops->conv_create(net->be, spec, &wt, b ? &bt : NULL, net->precision, e);
	return c->conv ? 0 : (e && e->code ? e->code : -EINVAL);
}

void video_conv_destroy(struct video_net *net, struct video_conv *c) {
	if (c->conv)
		net->ops->conv_destroy(net->be, c->conv);
	c->conv = NULL;
}

float *video_weight_f32(
	struct weights *w, const char *name, int rank, const int64_t *dim, struct error *e) {
	struct tensor host;
	if (weights_require(w, name, rank, dim, &host, e) < 0)
		return NULL;
	float *f = malloc((size_t)tensor_count(&host) * sizeof *f);
	if (f)
		weights_to_f32(&host, f);
	else
		error_set(e, -ENOMEM, "%s: no memory to convert it", name);
	return f;
}

/* [phases * out, in, taps] as files hold it to [phases * out, taps, in]. */
static float *channels_last(const float *w, int64_t rows, int64_t in, int64_t taps) {
	float *r = malloc((size_t)(rows * in * taps) * sizeof *r);
	if (!r)
		return NULL;
	for (int64_t o = 0; o < rows; o++) {
		for (int64_t i = 0; i < in; i++) {
			for (int64_t t = 0; t < taps; t++)
				r[(o * taps + t) * in + i] = w[(o * in + i) * taps + t];
		}
	}
	return r;
}

int video_conv_load(struct video_net *net, struct video_conv *c, struct weights *w,
	const char *name, const struct conv_spec *spec, bool bias, int scale, struct error *e) {
	char field[160];
	int64_t rows = (int64_t)spec->phases * spec->out;
	int64_t dim[5] = {rows, spec->in, spec->kt, spec->kh, spec->kw};
	int rank = 5;
	*c = (struct video_conv){.history = -1};
	snprintf(field, sizeof field, "%s.weight", name);
	/* Convolutions of single frames are stored with or without the time tap. */
	struct tensor found;
	if (spec->kt == 1 && (weights_find(w, field, &found) < 0 || found.rank == 4)) {
		dim[2] = spec->kh;
		dim[3] = spec->kw;
		rank = 4;
	}
	float *raw = video_weight_f32(w, field, rank, dim, e);
	if (!raw)
		return e && e->code ? e->code : -EINVAL;
	float *b = NULL;
	int64_t taps = (int64_t)spec->kt * spec->kh * spec->kw;
	float *arranged = channels_last(raw, rows, spec->in, taps);
	int rc = arranged ? 0 : error_set(e, -ENOMEM, "%s: no memory to arrange it", field);
	if (rc == 0 && bias) {
		snprintf(field, sizeof field, "%s.bias", name);
		b = video_weight_f32(w, field, 1, &rows, e);
		rc = b ? 0 : (e && e->code ? e->code : -EINVAL);
	}
	if (rc == 0)
		rc = video_conv_create(net, c, spec, arranged, b, spec->kt - 1, scale, e);
	free(b);
	free(arranged);
	free(raw);
	return rc;
}

struct conv_spec video_spec(int in, int out, int kt, int k, enum activation act) {
	return (struct conv_spec){
		.in = in,
		.out = out,
		.kt = kt,
		.kh = k,
		.kw = k,
		.stride_t = 1,
		.stride = 1,
		.pad_top = k / 2,
		.pad_left = k / 2,
		.pad_bottom = k / 2,
		.pad_right = k / 2,
		.phases = 1,
		.upsample = 1,
		.act = act,
	};
}

int video_width(struct weights *w, const char *name, int dim, int fallback) {
	char field[160];
	struct tensor t;
	snprintf(field, sizeof field, "%s.weight", name);
	if (weights_find(w, field, &t) < 0 || dim >= t.rank || t.dim[dim] < 1 || t.dim[dim] > 65536)
		return fallback;
	return (int)t.dim[dim];
}

int video_state_init(struct video_state *s, const struct video_net *net, int h, int w,
	struct arena *a, struct error *e) {
	*s = (struct video_state){.h = h, .w = w};
	if (h < 1 || w < 1)
		return error_set(
			e, -EINVAL, "decoder: latent of %d x %d, want at least 1 x 1", h, w);
	for (int i = 0; i < net->histories; i++) {
		const struct video_history *d = &net->history[i];
		s->history[i] = arena_tensor(a, net->image, 4,
			(int64_t[]){d->frames, (int64_t)h * d->scale, (int64_t)w * d->scale,
				d->channels});
	}
	if (arena_failed(a, e) < 0)
		return -ENOMEM;
	if (!arena_measuring(a))
		video_state_restart(s, net);
	return 0;
}

void video_state_restart(struct video_state *s, const struct video_net *net) {
	s->latents = 0;
	for (int i = 0; i < net->histories; i++)
		backend_zero(net->be, s->history[i].data, tensor_bytes(&s->history[i]));
}

int video_run_pass(const struct video_net *net, struct video_state *s, video_pass pass, void *ctx,
	struct arena *a, struct error *e) {
	struct video_run r = {.net = net, .state = s, .planning = true};
	size_t mark = arena_mark(a);
	pass(&r, ctx);
	for (int i = 0; i < VIDEO_SLOTS; i++)
		r.data[i] = r.bytes[i] ? arena_bytes(a, r.bytes[i]) : NULL;
	int rc = arena_failed(a, e);
	if (rc == 0 && !arena_measuring(a)) {
		r.planning = false;
		pass(&r, ctx);
		rc = backend_error(net->be, e);
	}
	arena_reset(a, mark);
	return rc;
}

struct tensor video_image(
	struct video_run *r, int slot, int64_t frames, int64_t h, int64_t w, int64_t channels) {
	struct tensor t = tensor_4d(r->data[slot], r->net->image, frames, h, w, channels);
	if (tensor_bytes(&t) > r->bytes[slot])
		r->bytes[slot] = tensor_bytes(&t);
	return t;
}

void video_remember(struct video_run *r, int i, const struct tensor *x) {
	if (r->planning || i < 0)
		return;
	struct tensor *h = &r->state->history[i];
	int64_t keep = h->dim[0], have = x->dim[0] < keep ? x->dim[0] : keep;
	/* Frame by frame, so that old frames move down without overlapping. */
	for (int64_t k = 0; k < keep; k++) {
		struct tensor to = tensor_rows(*h, k, 1);
		struct tensor from = k + have < keep ? tensor_rows(*h, k + have, 1)
						     : tensor_rows(*x, x->dim[0] - keep + k, 1);
		backend_copy(r->net->be, to.data, from.data, tensor_bytes(&to));
	}
}

void video_conv_with(struct video_run *r, const struct video_conv *c, struct tensor *y,
	const struct tensor *x, const struct tensor *history, const struct tensor *skip) {
	if (!r->planning)
		r->net->ops->conv(r->net->be, y, x, history, c->conv, skip);
}

void video_conv(struct video_run *r, const struct video_conv *c, struct tensor *y,
	const struct tensor *x, const struct tensor *skip) {
	bool has = c->history >= 0;
	video_conv_with(r, c, y, x, has ? &r->state->history[c->history] : NULL, skip);
	video_remember(r, c->history, x);
}
