/* SPDX-License-Identifier: Apache-2.0 */
/* Causal convolutions over channels-last images. Frames and bands of rows are
 * spread over the pool; a band is small enough for the second cache, and its
 * time taps, bias, skip and activation are summed there by dense calls.
 *
 * A convolution consists of parts, each a plain two-dimensional one per time
 * tap: one part per output frame of an input frame (phases), or, over a doubled
 * image, one per place in a 2x2 square: reading a nearest-doubled image, taps
 * that fall on the same source pixel are added up at load, so that a 3x3 kernel
 * becomes four 2x2 ones on the small image. Few output channels (RGB) fill a
 * vector badly: then neighbouring pixels are one wider pixel. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/fold.h"

#define PARTS_MAX 4
#define TAPS_MAX 4
#define BANDS_MAX 64
#define BAND_BYTES (192 << 10) /* what a band reads and writes: part of the second cache */

struct part {
	struct dense *tap[TAPS_MAX]; /* oldest first; the last one has the bias */
	struct dense_shape shape;
	int pad_top, pad_left;
};
struct conv {
	struct conv_spec spec;
	enum precision precision;
	int parts;
	struct part part[PARTS_MAX];
	struct part wide; /* of wide_by pixels; taps NULL: there is none */
	int wide_by;
};

/* ---- weights ---- */

/* Packs one part's time taps from w, laid out [out][kt][taps of shape][in]. */
static int part_pack(struct backend *be, struct conv *c, struct part *p, const float *w,
	const float *b, struct error *e) {
	struct cpu_backend *cpu = cpu_of(be);
	const struct dense_shape *s = &p->shape;
	size_t plane = (size_t)(s->kh * s->kw) * (size_t)s->in;
	int kt = c->spec.kt;
	float *one = malloc((size_t)s->out * plane * sizeof *one);
	if (!one)
		return error_set(e, -ENOMEM, "conv: no memory to pack a weight");
	for (int t = 0; t < kt; t++) {
		for (size_t o = 0; o < (size_t)s->out; o++)
			memcpy(one + o * plane, w + (o * (size_t)kt + (size_t)t) * plane,
				plane * sizeof *one);
		p->tap[t] = cpu->dense->create(
			cpu->dense_context, s, one, t + 1 == kt ? b : NULL, c->precision, e);
		if (!p->tap[t])
			break;
		cpu_account(be, (ptrdiff_t)cpu->dense->bytes(p->tap[t]));
	}
	free(one);
	return p->tap[kt - 1] ? 0 : -EIO;
}

/* The part at (odd row, odd column) from w [rows][kt][kh][kw][in]. */
static int part_fold(struct backend *be, struct conv *c, struct part *p, const int odd[2],
	const float *w, const float *b, struct error *e) {
	const struct conv_spec *s = &c->spec;
	int kh, kw;
	int64_t rows = (int64_t)s->phases * s->out * s->kt, in = s->in;
	fold_axis(s->kh, s->pad_top, odd[0], &kh, &p->pad_top);
	fold_axis(s->kw, s->pad_left, odd[1], &kw, &p->pad_left);
	p->shape = (struct dense_shape){s->in, s->phases * s->out, kh, kw, 1, 1};
	float *folded = calloc((size_t)(rows * kh * kw * in), sizeof *folded);
	if (!folded)
		return error_set(e, -ENOMEM, "conv: no memory to fold a weight");
	fold_place(folded, w, rows, s, odd, kh, kw);
	int rc = part_pack(be, c, p, folded, b, e);
	free(folded);
	return rc;
}

/* wide_by neighbouring output pixels as one of wide_by * out channels. */
static int part_widen(
	struct backend *be, struct conv *c, const float *w, const float *b, struct error *e) {
	const struct conv_spec *s = &c->spec;
	struct part *p = &c->wide;
	int by = c->wide_by, kw = s->kw + by - 1;
	int64_t planes = (int64_t)s->kt * s->kh, in = s->in;
	p->pad_top = s->pad_top;
	p->pad_left = s->pad_left;
	p->shape = (struct dense_shape){s->in, s->out * by, s->kh, kw, 1, by};
	float *wide = calloc((size_t)(by * s->out * planes * kw * in), sizeof *wide);
	float *bias = calloc((size_t)(by * s->out), sizeof *bias);
	int rc = wide && bias ? 0 : error_set(e, -ENOMEM, "conv: no memory to widen a weight");
	for (int64_t r = 0; rc == 0 && r < (int64_t)by * s->out * planes; r++) {
		int64_t pixel = r / planes / s->out, row = r % (s->out * planes);
		memcpy(wide + (r * kw + pixel) * in, w + row * s->kw * in,
			(size_t)(s->kw * in) * sizeof *wide);
	}
	for (int i = 0; rc == 0 && b && i < by * s->out; i++)
		bias[i] = b[i % s->out];
	if (rc == 0)
		rc = part_pack(be, c, p, wide, b ? bias : NULL, e);
	free(bias);
	free(wide);
	return rc;
}

static int parts_create(
	struct backend *be, struct conv *c, const float *w, const float *b, struct error *e) {
	const struct conv_spec *s = &c->spec;
	size_t phase = (size_t)s->out * (size_t)(s->kt * s->kh * s->kw) * (size_t)s->in;
	int rc = 0;
	c->parts = s->upsample == 2 ? 4 : s->phases;
	for (int i = 0; rc == 0 && i < c->parts; i++) {
		struct part *p = &c->part[i];
		if (s->upsample == 2) {
			rc = part_fold(be, c, p, (int[]){i / 2, i % 2}, w, b, e);
			continue;
		}
		p->pad_top = s->pad_top;
		p->pad_left = s->pad_left;
		p->shape = (struct dense_shape){s->in, s->out, s->kh, s->kw, s->stride, s->stride};
		rc = part_pack(be, c, p, w + (size_t)i * phase, b ? b + i * s->out : NULL, e);
	}
	/* RGB: twelve of sixteen lanes beat six of eight even where a vector has
	 * eight (34 against 25 GFLOP/s with AVX2). */
	int lanes = cpu_of(be)->features.isa == CPU_ISA_AVX512 || s->out < 4 ? 16 : 8;
	c->wide_by = 1;
	while (s->out * c->wide_by * 2 <= lanes)
		c->wide_by *= 2;
	if (rc == 0 && c->wide_by > 1 && s->phases == 1 && s->upsample == 1 && s->stride == 1)
		rc = part_widen(be, c, w, b, e);
	return rc;
}

static void part_finish(struct backend *be, struct part *p) {
	struct cpu_backend *cpu = cpu_of(be);
	for (int t = 0; t < TAPS_MAX; t++) {
		if (p->tap[t])
			cpu_account(be, -(ptrdiff_t)cpu->dense->bytes(p->tap[t]));
		cpu->dense->destroy(p->tap[t]);
	}
}

static void conv_destroy(struct backend *be, struct conv *c) {
	if (!c)
		return;
	for (int i = 0; i < PARTS_MAX; i++)
		part_finish(be, &c->part[i]);
	part_finish(be, &c->wide);
	free(c);
}

static int spec_check(const struct conv_spec *s, const struct tensor *w, const struct tensor *b,
	struct error *e) {
	int64_t count = (int64_t)s->phases * s->out * s->kt * s->kh * s->kw * s->in;
	bool same =
		s->pad_top + s->pad_bottom == s->kh - 1 && s->pad_left + s->pad_right == s->kw - 1;
	if (s->in < 1 || s->out < 1 || s->kt < 1 || s->kt > TAPS_MAX || s->kh < 1 || s->kw < 1 ||
		s->phases < 1 || s->phases > PARTS_MAX || s->stride < 1 || s->stride > 2 ||
		s->stride_t < 1 || s->upsample < 1 || s->upsample > 2 || s->pad_top < 0 ||
		s->pad_left < 0 || s->pad_bottom < 0 || s->pad_right < 0)
		return error_set(e, -EINVAL,
			"conv: out of range: channels %d -> %d, taps %d x %d x %d (at most %d in "
			"time), %d phases (at most %d), stride %d, %d in time, upsampling %d",
			s->in, s->out, s->kt, s->kh, s->kw, TAPS_MAX, s->phases, PARTS_MAX,
			s->stride, s->stride_t, s->upsample);
	if (s->upsample == 2 && (s->stride != 1 || !same))
		return error_set(e, -EINVAL,
			"conv: over a doubled image stride must be 1 and padding keep the size");
	if (tensor_count(w) != count || (b && tensor_count(b) != (int64_t)s->phases * s->out))
		return error_set(e, -EINVAL, "conv: weight or bias does not fit its spec");
	return 0;
}

static struct conv *conv_create(struct backend *be, const struct conv_spec *spec,
	const struct tensor *w, const struct tensor *b, enum precision p, struct error *e) {
	/* Eight bits are too coarse for pictures: the next finer there is. */
	if (p == PRECISION_INT8)
		p = PRECISION_AUTO;
	if (spec_check(spec, w, b, e) < 0 || cpu_precision(be, &p, e) < 0)
		return NULL;
	struct conv *c = calloc(1, sizeof *c);
	float *wf = malloc((size_t)tensor_count(w) * sizeof *wf);
	float *bf = b ? malloc((size_t)tensor_count(b) * sizeof *bf) : NULL;
	int rc = c && wf && (bf || !b) ? 0 : error_set(e, -ENOMEM, "conv: no memory");
	if (rc == 0) {
		c->spec = *spec;
		c->precision = p;
		cpu_to_f32(wf, w, 0, tensor_count(w));
		if (b)
			cpu_to_f32(bf, b, 0, tensor_count(b));
		rc = parts_create(be, c, wf, bf, e);
	}
	free(bf);
	free(wf);
	if (rc < 0) {
		conv_destroy(be, c);
		return NULL;
	}
	return c;
}

/* ---- running ---- */

/* Rows first .. last-1 of each part's result, and what it reads for them. */
struct band {
	int64_t first, last;
	int64_t top, bottom; /* input rows of all parts */
	struct {
		int64_t top; /* first input row */
		const struct dense_plan *plan[TAPS_MAX][2]; /* writing, adding */
	} part[PARTS_MAX];
};

struct conv_job {
	struct cpu_backend *cpu;
	const struct conv *c;
	float *y;
	const float *x, *history, *skip;
	const struct part *part; /* those used: the parts, or the wide one */
	int parts;
	int64_t h, w, rows, cols; /* input; result of a part in its own pixels */
	int64_t frames; /* of x that give output */
	int64_t bands;
	size_t source_bytes, sums_at; /* scratch: one frame's band; where sums start */
	atomic_int failed;
	struct band band[BANDS_MAX];
};

static int64_t max64(int64_t a, int64_t b) {
	return a > b ? a : b;
}

static int64_t min64(int64_t a, int64_t b) {
	return a < b ? a : b;
}

/* Bands: small enough for the cache, and an even share for every thread. */
static int64_t band_count(const struct conv_job *j) {
	const struct conv_spec *s = &j->c->spec;
	int64_t threads = pool_threads(j->cpu->pool),
		items = j->frames * (s->upsample == 2 ? 1 : j->parts);
	int64_t row = 4 * (j->w * s->in * s->kt * s->stride + j->cols * j->part->shape.out);
	int64_t bands = max64(
		(j->rows * row + BAND_BYTES - 1) / BAND_BYTES, (2 * threads + items - 1) / items);
	while (items * bands % threads)
		bands++;
	return min64(min64(bands, j->rows), BANDS_MAX);
}

/* The plans of tap t of a part: those that some frame will ask for. */
static bool plan_tap(struct conv_job *j, struct band *b, int part, int t, struct dense_window *w,
	struct error *e) {
	const struct conv_spec *s = &j->c->spec;
	bool last = t + 1 == s->kt, apart = s->upsample == 2;
	bool skip = j->skip && !apart;
	/* An earlier tap has written unless its frame is missing. */
	bool first = t == 0 || !j->history;
	w->act = last && !(apart && j->skip) ? s->act : ACT_NONE;
	for (int add = 0; add < 2; add++) {
		if (add ? !(skip || t > 0) : skip || !first)
			continue;
		w->add = add;
		b->part[part].plan[t][add] = j->cpu->dense->plan(j->part[part].tap[t], w, e);
		if (!b->part[part].plan[t][add])
			return false;
	}
	return true;
}

static bool plan_band(struct conv_job *j, int64_t index, struct error *e) {
	struct band *b = &j->band[index];
	b->first = j->rows * index / j->bands;
	b->last = j->rows * (index + 1) / j->bands;
	b->top = j->h;
	b->bottom = 0;
	for (int i = 0; i < j->parts; i++) {
		const struct part *p = &j->part[i];
		const struct dense_shape *s = &p->shape;
		int64_t top = b->first * s->stride_h - p->pad_top;
		int64_t bottom = (b->last - 1) * s->stride_h - p->pad_top + s->kh;
		int64_t right = (j->cols - 1) * s->stride_w - p->pad_left + s->kw;
		struct dense_window w = {.rows = min64(bottom, j->h) - max64(top, 0),
			.cols = j->w,
			.pad_top = (int)max64(-top, 0),
			.pad_left = p->pad_left,
			.pad_bottom = (int)max64(bottom - j->h, 0),
			.pad_right = (int)max64(right - j->w, 0)};
		b->part[i].top = max64(top, 0);
		b->top = min64(b->top, b->part[i].top);
		b->bottom = max64(b->bottom, b->part[i].top + w.rows);
		for (int t = 0; t < j->c->spec.kt; t++) {
			if (!plan_tap(j, b, i, t, &w, e))
				return false;
		}
	}
	return true;
}

/* Input frame f, negative: history; NULL: zeros. */
static const float *frame_at(const struct conv_job *j, int64_t f) {
	int64_t size = j->h * j->w * j->c->spec.in;
	if (f >= 0)
		return j->x + f * size;
	return j->history ? j->history + (f + j->c->spec.kt - 1) * size : NULL;
}

/* The band's rows of every time tap, in the weight's type; NULL: zeros. */
static void gather(const struct conv_job *j, const struct band *b, int64_t frame, char *scratch,
	const char *source[TAPS_MAX]) {
	const struct conv_spec *s = &j->c->spec;
	int64_t at = b->top * j->w * s->in, count = (b->bottom - b->top) * j->w * s->in;
	for (int t = 0; t < s->kt; t++) {
		const float *f = frame_at(j, frame * s->stride_t + t - (s->kt - 1));
		source[t] = f ? (const char *)(f + at) : NULL;
		if (f && j->c->precision == PRECISION_BF16) {
			char *to = scratch + (size_t)t * j->source_bytes;
			j->cpu->rows->to_bf16((uint16_t *)(void *)to, f + at, count);
			source[t] = to;
		}
	}
}

/* Sums a part's taps into y; add: onto what it holds. */
static void sum_taps(struct conv_job *j, const struct band *b, int part, int worker,
	const char *const source[TAPS_MAX], float *y, bool add) {
	const struct conv_spec *s = &j->c->spec;
	int64_t element = j->c->precision == PRECISION_BF16 ? 2 : 4;
	int64_t offset = (b->part[part].top - b->top) * j->w * s->in * element;
	for (int t = 0; t < s->kt; t++) {
		if (!source[t])
			continue;
		int rc = j->cpu->dense->run(
			b->part[part].plan[t][add], worker, source[t] + offset, y);
		if (rc < 0)
			atomic_store(&j->failed, rc);
		add = true;
	}
}

static void run_band(
	struct conv_job *j, const struct band *b, int64_t frame, int part, int worker) {
	const char *source[TAPS_MAX];
	int64_t row = j->cols * j->part->shape.out;
	int64_t at = ((frame * j->parts + part) * j->rows + b->first) * row;
	float *y = j->y + at;
	gather(j, b, frame, cpu_scratch(j->cpu, worker), source);
	if (j->skip && j->skip != j->y)
		memcpy(y, j->skip + at, (size_t)((b->last - b->first) * row) * sizeof *y);
	sum_taps(j, b, part, worker, source, y, j->skip);
}

/* All four places of the 2x2 squares: each part's pixels, apart, then spread. */
static void run_doubled(struct conv_job *j, const struct band *b, int64_t frame, int worker) {
	const struct conv_spec *s = &j->c->spec;
	const char *source[TAPS_MAX];
	char *scratch = cpu_scratch(j->cpu, worker);
	float *sums = (float *)(void *)(scratch + j->sums_at);
	int64_t out = s->out, step = s->phases * out, height = 2 * j->rows, width = 2 * j->cols;
	gather(j, b, frame, scratch, source);
	for (int part = 0; part < 4; part++) {
		sum_taps(j, b, part, worker, source, sums, false);
		for (int64_t phase = 0; phase < s->phases; phase++) {
			for (int64_t r = b->first; r < b->last; r++) {
				int64_t row =
					(frame * s->phases + phase) * height + 2 * r + part / 2;
				int64_t at = (row * width + part % 2) * out;
				j->cpu->rows->spread(j->y + at, 2 * out,
					sums + (r - b->first) * j->cols * step + phase * out, step,
					j->skip ? j->skip + at : NULL, j->cols, out,
					j->skip ? s->act : ACT_NONE);
			}
		}
	}
}

static void bands(void *ctx, int64_t begin, int64_t end, int worker) {
	struct conv_job *j = ctx;
	for (int64_t i = begin; i < end; i++) {
		const struct band *b = &j->band[i % j->bands];
		int64_t item = i / j->bands;
		if (j->c->spec.upsample == 2)
			run_doubled(j, b, item, worker);
		else
			run_band(j, b, item / j->parts, (int)(item % j->parts), worker);
	}
}

static bool conv_fits(struct backend *be, const struct conv_spec *s, const struct tensor *y,
	const struct tensor *x, const struct tensor *history, const struct tensor *skip) {
	int64_t h = x->dim[1], w = x->dim[2];
	int64_t rows = (h * s->upsample + s->pad_top + s->pad_bottom - s->kh) / s->stride + 1;
	int64_t cols = (w * s->upsample + s->pad_left + s->pad_right - s->kw) / s->stride + 1;
	int64_t frames = (x->dim[0] + s->stride_t - 1) / s->stride_t * s->phases;
	return cpu_check(be,
		       x->rank == 4 && cpu_is(x, DTYPE_F32, -1, s->in) && rows > 0 && cols > 0,
		       "conv", "x does not fit:", x) &&
	       cpu_check(be,
		       y->rank == 4 && cpu_is(y, DTYPE_F32, frames * rows * cols, s->out) &&
			       y->dim[1] == rows && y->dim[2] == cols,
		       "conv", "y does not fit:", y) &&
	       cpu_check(be, !skip || cpu_alike(skip, y), "conv", "skip does not fit:", skip) &&
	       cpu_check(be,
		       !history || (history->dtype == DTYPE_F32 &&
					   tensor_count(history) == (s->kt - 1) * h * w * s->in),
		       "conv", "history does not fit:", history);
}

/* Cuts the work and finds the plans. */
static bool conv_plan(struct backend *be, struct conv_job *j, const struct tensor *y) {
	const struct conv *c = j->c;
	struct error e = {0};
	int64_t most = 0, most_rows = 0;
	bool wide = c->wide.tap[0] && y->dim[2] % c->wide_by == 0;
	j->part = wide ? &c->wide : c->part;
	j->parts = wide ? 1 : c->parts;
	j->rows = y->dim[1] / c->spec.upsample;
	j->cols = y->dim[2] / (wide ? c->wide_by : c->spec.upsample);
	j->bands = band_count(j);
	for (int64_t i = 0; i < j->bands; i++) {
		if (!plan_band(j, i, &e)) {
			backend_fail(be, e.code, "%s", e.text);
			return false;
		}
		most = max64(most, j->band[i].bottom - j->band[i].top);
		most_rows = max64(most_rows, j->band[i].last - j->band[i].first);
	}
	size_t sums = c->spec.upsample == 2
			      ? (size_t)(most_rows * j->cols * j->part->shape.out) * sizeof(float)
			      : 0;
	j->source_bytes = ((size_t)(most * j->w * c->spec.in) * sizeof(uint16_t) + 63) / 64 * 64;
	j->sums_at = c->precision == PRECISION_BF16 ? (size_t)c->spec.kt * j->source_bytes : 0;
	return cpu_scratch_reserve(be, j->sums_at + sums);
}

static void conv(struct backend *be, struct tensor *y, const struct tensor *x,
	const struct tensor *history, const struct conv *c, const struct tensor *skip) {
	if (!conv_fits(be, &c->spec, y, x, history, skip) || tensor_count(y) == 0)
		return;
	struct conv_job j = {.cpu = cpu_of(be),
		.c = c,
		.y = y->data,
		.x = x->data,
		.history = history && c->spec.kt > 1 ? history->data : NULL,
		.skip = skip ? skip->data : NULL,
		.h = x->dim[1],
		.w = x->dim[2],
		.frames = y->dim[0] / c->spec.phases};
	if (!conv_plan(be, &j, y))
		return;
	int64_t items = j.frames * (c->spec.upsample == 2 ? 1 : j.parts);
	pool_run(j.cpu->pool, items * j.bands, 1, bands, &j);
	if (j.failed)
		backend_fail(be, j.failed, "conv: %s failed", j.cpu->dense->name);
}

void cpu_conv_fill(struct ops *ops) {
	ops->conv_create = conv_create;
	ops->conv_destroy = conv_destroy;
	ops->conv = conv;
}
