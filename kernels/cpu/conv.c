/* SPDX-License-Identifier: Apache-2.0 */
/* Convolutions in f32 by plain loops: the definition. Each output pixel walks
 * its taps; weights are [phases, kt, kh, kw, in, out], so that the inner loop
 * runs along output channels. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#define OUT_MAX 4096 /* channels: one pixel is summed on the stack */

struct conv {
	struct conv_spec spec;
	float *w;
	float *b; /* [phases, out], zeros when there is none */
};

static void conv_destroy(struct backend *be, struct conv *c) {
	if (!c)
		return;
	cpu_free(be, c->w);
	cpu_free(be, c->b);
	free(c);
}

static bool spec_fits(const struct conv_spec *s, const struct tensor *w, const struct tensor *b) {
	int64_t count = (int64_t)s->phases * s->out * s->kt * s->kh * s->kw * s->in;
	return s->in > 0 && s->out > 0 && s->out <= OUT_MAX && s->kt > 0 && s->kh > 0 &&
	       s->kw > 0 && s->phases > 0 && (s->stride == 1 || s->stride == 2) &&
	       s->stride_t > 0 && (s->upsample == 1 || s->upsample == 2) &&
	       tensor_count(w) == count && (!b || tensor_count(b) == (int64_t)s->phases * s->out);
}

static struct conv *conv_create(struct backend *be, const struct conv_spec *spec,
	const struct tensor *w, const struct tensor *b, enum precision p, struct error *e) {
	(void)p;
	struct conv *c = calloc(1, sizeof *c);
	if (!c || !spec_fits(spec, w, b)) {
		error_set(e, c ? -EINVAL : -ENOMEM, "conv: weight or bias does not fit its spec");
		free(c);
		return NULL;
	}
	c->spec = *spec;
	int64_t taps = (int64_t)spec->kt * spec->kh * spec->kw, in = spec->in, out = spec->out;
	c->w = cpu_alloc(be, (size_t)(spec->phases * taps * in * out) * sizeof *c->w, e);
	c->b = cpu_alloc(be, (size_t)(spec->phases * out) * sizeof *c->b, e);
	float *row = malloc((size_t)(taps * in) * sizeof *row);
	if (!c->w || !c->b || !row) {
		error_set(e, -ENOMEM, "conv: no memory for a weight");
		free(row);
		conv_destroy(be, c);
		return NULL;
	}
	for (int64_t o = 0; o < spec->phases * out; o++) {
		float *plane = c->w + o / out * taps * in * out;
		cpu_to_f32(row, w, o * taps * in, taps * in);
		for (int64_t i = 0; i < taps * in; i++)
			plane[i * out + o % out] = row[i];
	}
	if (b)
		cpu_to_f32(c->b, b, 0, spec->phases * out);
	free(row);
	return c;
}

struct conv_job {
	float *y;
	const float *x, *history, *skip;
	const struct conv *c;
	int64_t h, w, rows, cols; /* input, output image */
	enum activation act;
};

/* Row y, column x of the upsampled frame f (negative: history); NULL outside. */
static const float *conv_pixel(const struct conv_job *j, int64_t f, int64_t y, int64_t x) {
	const struct conv_spec *s = &j->c->spec;
	if (y < 0 || x < 0 || y >= j->h * s->upsample || x >= j->w * s->upsample)
		return NULL;
	int64_t at = (y / s->upsample * j->w + x / s->upsample) * s->in, size = j->h * j->w * s->in;
	if (f >= 0)
		return j->x + f * size + at;
	return j->history ? j->history + (f + s->kt - 1) * size + at : NULL;
}

static float conv_activate(float x, enum activation act) {
	switch (act) {
	case ACT_NONE:
		break;
	case ACT_SILU:
		return x / (1 + expf(-x));
	case ACT_GELU_TANH:
		return 0.5f * x * (1 + tanhf(0.797884560802865356f * (x + 0.044715f * x * x * x)));
	case ACT_RELU:
		return x > 0 ? x : 0;
	}
	return x;
}

/* One output pixel into acc. */
static void conv_sum(const struct conv_job *j, float *acc, int64_t frame, int64_t row, int64_t col,
	int64_t phase) {
	const struct conv_spec *s = &j->c->spec;
	int64_t in = s->in, out = s->out;
	const float *w = j->c->w + phase * s->kt * s->kh * s->kw * in * out;
	memcpy(acc, j->c->b + phase * out, (size_t)out * sizeof *acc);
	for (int64_t t = 0; t < s->kt; t++) {
		for (int64_t y = 0; y < s->kh; y++) {
			for (int64_t x = 0; x < s->kw; x++, w += in * out) {
				const float *p =
					conv_pixel(j, frame * s->stride_t + t - (s->kt - 1),
						row * s->stride + y - s->pad_top,
						col * s->stride + x - s->pad_left);
				for (int64_t i = 0; p && i < in; i++)
					for (int64_t o = 0; o < out; o++)
						acc[o] += p[i] * w[i * out + o];
			}
		}
	}
}

/* One item: one row of one output frame. */
static void conv_rows(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct conv_job *j = ctx;
	const struct conv_spec *s = &j->c->spec;
	(void)worker;
	for (int64_t item = begin; item < end; item++) {
		int64_t frame = item / j->rows, row = item % j->rows;
		for (int64_t col = 0; col < j->cols; col++) {
			float acc[OUT_MAX];
			conv_sum(j, acc, frame / s->phases, row, col, frame % s->phases);
			int64_t at = (item * j->cols + col) * s->out;
			for (int64_t o = 0; o < s->out; o++)
				j->y[at + o] = conv_activate(
					acc[o] + (j->skip ? j->skip[at + o] : 0), s->act);
		}
	}
}

static void conv(struct backend *be, struct tensor *y, const struct tensor *x,
	const struct tensor *history, const struct conv *c, const struct tensor *skip) {
	const struct conv_spec *s = &c->spec;
	struct conv_job job = {.y = y->data,
		.x = x->data,
		.history = history ? history->data : NULL,
		.skip = skip ? skip->data : NULL,
		.c = c,
		.h = x->dim[1],
		.w = x->dim[2]};
	job.rows = (job.h * s->upsample + s->pad_top + s->pad_bottom - s->kh) / s->stride + 1;
	job.cols = (job.w * s->upsample + s->pad_left + s->pad_right - s->kw) / s->stride + 1;
	int64_t frames = (x->dim[0] + s->stride_t - 1) / s->stride_t * s->phases;
	if (!cpu_check(be, x->rank == 4 && cpu_is(x, DTYPE_F32, -1, s->in), "conv",
		    "x does not fit:", x) ||
		!cpu_check(be, cpu_is(y, DTYPE_F32, frames * job.rows * job.cols, s->out), "conv",
			"y does not fit:", y) ||
		!cpu_check(be, !skip || cpu_alike(skip, y), "conv", "skip does not fit:", skip) ||
		!cpu_check(be,
			!history || tensor_count(history) == (s->kt - 1) * job.h * job.w * s->in,
			"conv", "history does not fit:", history))
		return;
	pool_run(cpu_pool(be), frames * job.rows, 1, conv_rows, &job);
}

void cpu_conv_fill(struct ops *ops) {
	ops->conv_create = conv_create;
	ops->conv_destroy = conv_destroy;
	ops->conv = conv;
}
