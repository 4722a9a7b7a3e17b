/* SPDX-License-Identifier: Apache-2.0 */
/* Dense in plain C, f32 only, compiled per instruction set: four pixels by two
 * vectors of output channels stay in registers while taps and input channels
 * go by. Weights are packed [panel][tap][in][2 vectors], the last panel filled
 * up with zeros. Pixels outside the image are a row of zeros. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/dense.h"
#include "kernels/cpu/simd.h"

#define PIXELS 4
#define VECTORS 2
#define PANEL (VECTORS * VF_LANES)

struct dense_context {
	int workers;
};
struct dense_plan {
	const struct dense *dense;
	struct dense_window window;
	int64_t out_rows, out_cols, used; /* used: when, 0: free */
};
struct dense {
	struct dense_shape shape;
	float *w, *b, *zeros; /* packed; [panels * PANEL]; [in] */
	int64_t panels, clock;
	struct dense_plan plans[DENSE_PLANS_MAX];
};

static struct dense_context *plain_open(struct cpu_features *f, int workers, struct error *e) {
	struct dense_context *c = malloc(sizeof *c);
	if (!c) {
		error_set(e, -ENOMEM, "cpu: no memory");
		return NULL;
	}
	c->workers = workers;
	f->avx512_bf16 = f->avx512_vnni = f->avx_vnni = f->amx_bf16 = f->amx_int8 = false;
	return c;
}

static void plain_close(struct dense_context *c) {
	free(c);
}

static bool plain_has(const struct dense_context *c, enum precision p) {
	(void)c;
	return p == PRECISION_F32;
}

static void plain_destroy(struct dense *d) {
	if (!d)
		return;
	free(d->w);
	free(d->b);
	free(d->zeros);
	free(d);
}

static size_t packed_count(const struct dense *d) {
	const struct dense_shape *s = &d->shape;
	return (size_t)d->panels * (size_t)(s->kh * s->kw) * (size_t)s->in * PANEL;
}

static struct dense *plain_create(struct dense_context *c, const struct dense_shape *s,
	const void *weight, const float *b, enum precision p, struct error *e) {
	struct dense *d = calloc(1, sizeof *d);
	const float *w = weight;
	(void)c;
	if (d) {
		d->shape = *s;
		d->panels = (s->out + PANEL - 1) / PANEL;
		d->w = calloc(packed_count(d), sizeof *d->w);
		d->b = calloc((size_t)d->panels * PANEL, sizeof *d->b);
		d->zeros = calloc((size_t)s->in, sizeof *d->zeros);
	}
	if (!d || !d->w || !d->b || !d->zeros || p != PRECISION_F32) {
		error_set(e, -ENOMEM, "cpu: no memory for a weight of %d x %d", s->out, s->in);
		plain_destroy(d);
		return NULL;
	}
	int64_t taps = (int64_t)s->kh * s->kw, in = s->in;
	for (int64_t o = 0; o < s->out; o++) {
		float *to = d->w + o / PANEL * taps * in * PANEL + o % PANEL;
		for (int64_t i = 0; i < taps * in; i++)
			to[i * PANEL] = w[o * taps * in + i];
	}
	if (b)
		memcpy(d->b, b, (size_t)s->out * sizeof *b);
	return d;
}

static size_t plain_bytes(const struct dense *d) {
	return packed_count(d) * sizeof *d->w;
}

static const struct dense_plan *plain_plan(
	struct dense *d, const struct dense_window *w, struct error *e) {
	const struct dense_shape *s = &d->shape;
	struct dense_plan *oldest = &d->plans[0];
	(void)e;
	d->clock++;
	for (int i = 0; i < DENSE_PLANS_MAX; i++) {
		struct dense_plan *p = &d->plans[i];
		if (p->used && dense_window_equal(&p->window, w)) {
			p->used = d->clock;
			return p;
		}
		if (p->used < oldest->used)
			oldest = p;
	}
	oldest->dense = d;
	oldest->window = *w;
	oldest->used = d->clock;
	oldest->out_rows = (w->rows + w->pad_top + w->pad_bottom - s->kh) / s->stride_h + 1;
	oldest->out_cols = (w->cols + w->pad_left + w->pad_right - s->kw) / s->stride_w + 1;
	return oldest;
}

/* Where tap (ky, kx) of output pixel (row, col) reads. */
static const float *pixel(const struct dense_plan *p, const float *x, int64_t row, int64_t col,
	int64_t ky, int64_t kx) {
	const struct dense_shape *s = &p->dense->shape;
	const struct dense_window *w = &p->window;
	int64_t y = row * s->stride_h + ky - w->pad_top, c = col * s->stride_w + kx - w->pad_left;
	if (y < 0 || c < 0 || y >= w->rows || c >= w->cols)
		return p->dense->zeros;
	return x + (y * w->cols + c) * s->in;
}

/* PIXELS pixels from `col` on (the last ones repeated), one panel. */
static void tile(const struct dense_plan *p, const float *x, int64_t row, int64_t col,
	int64_t panel, vf acc[PIXELS][VECTORS]) {
	const struct dense_shape *s = &p->dense->shape;
	int64_t in = s->in;
	const float *w = p->dense->w + panel * s->kh * s->kw * in * PANEL;
	vf sum[PIXELS][VECTORS] = {{{0}}};
	for (int64_t ky = 0; ky < s->kh; ky++) {
		for (int64_t kx = 0; kx < s->kw; kx++, w += in * PANEL) {
			const float *at[PIXELS];
			for (int64_t k = 0; k < PIXELS; k++)
				at[k] = pixel(p, x, row,
					col + k < p->out_cols ? col + k : p->out_cols - 1, ky, kx);
			for (int64_t i = 0; i < in; i++) {
				vf w0 = vf_load(w + i * PANEL);
				vf w1 = vf_load(w + i * PANEL + VF_LANES);
				for (int k = 0; k < PIXELS; k++) {
					sum[k][0] += at[k][i] * w0;
					sum[k][1] += at[k][i] * w1;
				}
			}
		}
	}
	memcpy(acc, sum, sizeof sum);
}

static void store(const struct dense_plan *p, float *y, vf v, const float *bias, int64_t lanes) {
	const struct dense_window *w = &p->window;
	v += vf_load(bias);
	if (lanes >= VF_LANES) {
		if (w->add)
			v += vf_load(y);
		vf_store(y, vf_activate(v, w->act));
	} else if (lanes > 0) {
		if (w->add)
			v += vf_load_part(y, lanes);
		vf_store_part(y, vf_activate(v, w->act), lanes);
	}
}

static int plain_run(const struct dense_plan *p, int worker, const void *x, float *y) {
	const struct dense *d = p->dense;
	int64_t out = d->shape.out;
	(void)worker;
	for (int64_t row = 0; row < p->out_rows; row++) {
		for (int64_t panel = 0; panel < d->panels; panel++) {
			for (int64_t col = 0; col < p->out_cols; col += PIXELS) {
				vf acc[PIXELS][VECTORS];
				tile(p, x, row, col, panel, acc);
				for (int64_t k = 0; k < PIXELS && col + k < p->out_cols; k++) {
					for (int64_t v = 0; v < VECTORS; v++) {
						int64_t at = panel * PANEL + v * VF_LANES;
						float *to = y +
							    (row * p->out_cols + col + k) * out +
							    at;
						store(p, to, acc[k][v], d->b + at, out - at);
					}
				}
			}
		}
	}
	return 0;
}

extern const struct dense_library CPU_NAME(dense_plain);
const struct dense_library CPU_NAME(dense_plain) = {
	.name = "plain",
	.open = plain_open,
	.close = plain_close,
	.has = plain_has,
	.create = plain_create,
	.destroy = plain_destroy,
	.bytes = plain_bytes,
	.plan = plain_plan,
	.run = plain_run,
};
