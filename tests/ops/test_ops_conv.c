/* SPDX-License-Identifier: Apache-2.0 */
/* Convolutions against loops in double that follow the words of ops.h: one tap
 * at a time, histories, phases, strides, doubled images, skips. A sum of k
 * products in f32 rounds by about sqrt(k) * 6e-8 of its terms' size; 5e-6 of
 * the largest output covers k = 2016. Over a doubled image bf16 rounds sums of
 * taps, which the reference cannot follow: 2^-9 per factor, 1e-2 in all. */
#include "tests/ops/ops_test.h"

#include <errno.h>

#define EXACT_LIMIT 5e-6 /* observed: 1.8e-6 at worst */
#define BF16_LIMIT 1e-2 /* observed: 3.2e-3 at worst */

static struct fixture fx;

enum skip { SKIP_NONE, SKIP_OTHER, SKIP_SAME };
struct shape {
	struct conv_spec s;
	int frames, h, w;
	bool bias, history;
	enum skip skip;
};
#define SAME3 .kh = 3, .kw = 3, .pad_top = 1, .pad_left = 1, .pad_bottom = 1, .pad_right = 1
#define POINT .kh = 1, .kw = 1

static const struct shape shapes[] = {
	/* plain images, odd channels and sizes */
	{{.in = 1, .out = 1, .kt = 1, SAME3}, 1, 1, 1, true, false, SKIP_NONE},
	{{.in = 5, .out = 7, .kt = 1, SAME3, .act = ACT_RELU}, 2, 5, 9, false, false, SKIP_NONE},
	{{.in = 24, .out = 24, .kt = 1, SAME3, .act = ACT_RELU}, 1, 18, 32, true, false, SKIP_SAME},
	{{.in = 17, .out = 33, .kt = 1, POINT, .act = ACT_SILU}, 3, 4, 6, true, false, SKIP_OTHER},
	{{.in = 16, .out = 112, .kt = 1, SAME3}, 1, 18, 32, true, false, SKIP_NONE},
	/* few outputs: several pixels as one, and a width that does not allow it */
	{{.in = 16, .out = 3, .kt = 1, SAME3}, 2, 6, 16, true, false, SKIP_NONE},
	{{.in = 16, .out = 3, .kt = 1, SAME3}, 2, 6, 15, true, false, SKIP_NONE},
	{{.in = 8, .out = 3, .kt = 3, SAME3, .act = ACT_RELU}, 2, 6, 8, true, true, SKIP_OTHER},
	/* time taps, with and without a past */
	{{.in = 24, .out = 24, .kt = 2, SAME3, .act = ACT_RELU}, 3, 7, 8, true, true, SKIP_NONE},
	{{.in = 24, .out = 24, .kt = 2, SAME3, .act = ACT_RELU}, 3, 7, 8, true, false, SKIP_SAME},
	{{.in = 16, .out = 8, .kt = 3, SAME3}, 1, 9, 6, true, true, SKIP_OTHER},
	{{.in = 16, .out = 8, .kt = 3, SAME3}, 4, 9, 6, true, false, SKIP_NONE},
	{{.in = 112, .out = 64, .kt = 2, SAME3}, 2, 18, 32, true, true, SKIP_NONE},
	/* two frames out for one in; one out for two in, from an odd number */
	{{.in = 12, .out = 12, .kt = 3, POINT, .phases = 2}, 3, 4, 6, true, true, SKIP_NONE},
	{{.in = 12, .out = 20, .kt = 3, POINT, .stride_t = 2}, 3, 4, 6, true, true, SKIP_NONE},
	{{.in = 12, .out = 20, .kt = 3, POINT, .stride_t = 2}, 4, 4, 6, true, false, SKIP_NONE},
	/* half the size, zeros at right and bottom only */
	{{.in = 9,
		 .out = 9,
		 .kt = 1,
		 .kh = 3,
		 .kw = 3,
		 .stride = 2,
		 .pad_bottom = 1,
		 .pad_right = 1},
		2, 8, 12, true, false, SKIP_NONE},
	{{.in = 9,
		 .out = 9,
		 .kt = 1,
		 .kh = 3,
		 .kw = 3,
		 .stride = 2,
		 .pad_bottom = 1,
		 .pad_right = 1},
		1, 7, 5, true, false, SKIP_NONE},
	/* doubled images */
	{{.in = 24, .out = 16, .kt = 1, SAME3, .upsample = 2, .act = ACT_RELU}, 2, 9, 8, true,
		false, SKIP_NONE},
	{{.in = 10, .out = 6, .kt = 1, SAME3, .upsample = 2, .phases = 2}, 2, 5, 3, true, false,
		SKIP_OTHER},
	{{.in = 64, .out = 24, .kt = 1, SAME3, .upsample = 2, .phases = 2}, 1, 36, 16, false, false,
		SKIP_NONE},
	{{.in = 6, .out = 5, .kt = 2, SAME3, .upsample = 2, .act = ACT_RELU}, 2, 4, 3, true, true,
		SKIP_SAME},
	{{.in = 6, .out = 5, .kt = 1, POINT, .upsample = 2}, 1, 3, 4, true, false, SKIP_NONE},
	{{.in = 4,
		 .out = 4,
		 .kt = 1,
		 .kh = 5,
		 .kw = 5,
		 .pad_top = 2,
		 .pad_left = 2,
		 .pad_bottom = 2,
		 .pad_right = 2,
		 .upsample = 2},
		1, 4, 5, true, false, SKIP_NONE},
};
#define SHAPES (sizeof shapes / sizeof *shapes)

static float rounded(float x, bool bf16) {
	uint32_t u;
	if (!bf16)
		return x;
	memcpy(&u, &x, sizeof u);
	u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u;
	memcpy(&x, &u, sizeof x);
	return x;
}

/* Everything one case needs, on the host. */
struct data {
	struct conv_spec s;
	int64_t frames, h, w, out_frames, rows, cols;
	float *weight, *bias, *x, *history, *skip, *want;
	int64_t skip_count;
};

static struct data data_create(const struct shape *c) {
	struct data d = {.s = c->s, .frames = c->frames, .h = c->h, .w = c->w};
	struct conv_spec *s = &d.s;
	s->stride_t += s->stride_t == 0;
	s->stride += s->stride == 0;
	s->phases += s->phases == 0;
	s->upsample += s->upsample == 0;
	d.out_frames = s->phases * ((d.frames + s->stride_t - 1) / s->stride_t);
	d.rows = (d.h * s->upsample + s->pad_top + s->pad_bottom - s->kh) / s->stride + 1;
	d.cols = (d.w * s->upsample + s->pad_left + s->pad_right - s->kw) / s->stride + 1;
	int64_t taps = (int64_t)s->kt * s->kh * s->kw * s->in;
	d.weight = fixture_host(&fx, s->phases * s->out * taps, 0.2f, 0);
	d.bias = c->bias ? fixture_host(&fx, s->phases * s->out, 1, 0) : NULL;
	d.x = fixture_host(&fx, d.frames * d.h * d.w * s->in, 1, 0.2f);
	d.history =
		c->history ? fixture_host(&fx, (s->kt - 1) * d.h * d.w * s->in, 1, -0.2f) : NULL;
	d.skip_count = d.out_frames * d.rows * d.cols * s->out;
	d.skip = c->skip ? fixture_host(&fx, d.skip_count, 1, 0) : NULL;
	d.want = malloc((size_t)d.skip_count * sizeof *d.want);
	assert_non_null(d.want);
	return d;
}

static void data_destroy(struct data *d) {
	free(d->weight);
	free(d->bias);
	free(d->x);
	free(d->history);
	free(d->skip);
	free(d->want);
}

/* Pixel of the doubled frame f, NULL where there are zeros. */
static const float *source(const struct data *d, int64_t f, int64_t y, int64_t x) {
	int64_t up = d->s.upsample, in = d->s.in, size = d->h * d->w * in;
	if (y < 0 || x < 0 || y >= d->h * up || x >= d->w * up)
		return NULL;
	const float *frame = d->x + f * size;
	if (f < 0)
		frame = d->history ? d->history + (f + d->s.kt - 1) * size : NULL;
	return frame ? frame + (y / up * d->w + x / up) * in : NULL;
}

static double sum_at(
	const struct data *d, int64_t frame, int64_t row, int64_t col, int64_t o, bool bf16) {
	const struct conv_spec *s = &d->s;
	int64_t phase = frame % s->phases, at = frame / s->phases * s->stride_t;
	const float *w = d->weight + (phase * s->out + o) * s->kt * s->kh * s->kw * s->in;
	double sum = d->bias ? (double)d->bias[phase * s->out + o] : 0;
	for (int t = 0; t < s->kt; t++) {
		for (int y = 0; y < s->kh; y++) {
			for (int x = 0; x < s->kw; x++, w += s->in) {
				const float *p = source(d, at + t - (s->kt - 1),
					row * s->stride + y - s->pad_top,
					col * s->stride + x - s->pad_left);
				for (int i = 0; p && i < s->in; i++)
					sum += (double)rounded(p[i], bf16) *
					       (double)rounded(w[i], bf16);
			}
		}
	}
	return sum;
}

static void reference(struct data *d, bool bf16) {
	const struct conv_spec *s = &d->s;
	for (int64_t i = 0; i < d->skip_count; i++) {
		int64_t o = i % s->out, col = i / s->out % d->cols;
		int64_t row = i / s->out / d->cols % d->rows,
			frame = i / s->out / d->cols / d->rows;
		double v = sum_at(d, frame, row, col, o, bf16) + (d->skip ? (double)d->skip[i] : 0);
		if (s->act == ACT_RELU)
			v = v > 0 ? v : 0;
		if (s->act == ACT_SILU)
			v = v / (1 + exp(-v));
		d->want[i] = (float)v;
	}
}

static struct conv *make(const struct data *d, enum precision p, struct error *e) {
	const struct conv_spec *s = &d->s;
	struct tensor w = tensor_make(d->weight, DTYPE_F32, 6,
		(int64_t[]){s->phases, s->out, s->kt, s->kh, s->kw, s->in});
	struct tensor b = tensor_2d(d->bias, DTYPE_F32, s->phases, s->out);
	return fx.ops->conv_create(fx.be, s, &w, d->bias ? &b : NULL, p, e);
}

static void agrees(size_t index, enum precision p) {
	const struct shape *c = &shapes[index];
	struct data d = data_create(c);
	struct error e = {0};
	struct conv *conv = make(&d, p, &e);
	if (!conv) {
		assert_int_equal(p, PRECISION_BF16);
		assert_int_equal(e.code, -ENOTSUP);
		data_destroy(&d);
		return;
	}
	bool bf16 = p == PRECISION_BF16;
	reference(&d, bf16 && d.s.upsample == 1);
	struct tensor x = fixture_upload(&fx, d.x, DIMS(d.frames, d.h, d.w, d.s.in));
	struct tensor y =
		fixture_tensor(&fx, DTYPE_F32, DIMS(d.out_frames, d.rows, d.cols, d.s.out));
	struct tensor h = {0}, skip = {0};
	if (d.history)
		h = fixture_upload(&fx, d.history, DIMS(d.s.kt - 1, d.h, d.w, d.s.in));
	if (d.skip)
		skip = fixture_upload(&fx, d.skip, DIMS(d.out_frames, d.rows, d.cols, d.s.out));
	if (c->skip == SKIP_SAME)
		y = skip;
	fx.ops->conv(fx.be, &y, &x, d.history ? &h : NULL, conv, d.skip ? &skip : NULL);
	char what[64];
	snprintf(what, sizeof what, "conv %d, precision %d", (int)index, (int)p);
	fixture_expect(&fx, what, &y, d.want, bf16 && d.s.upsample == 2 ? BF16_LIMIT : EXACT_LIMIT);
	fx.ops->conv_destroy(fx.be, conv);
	data_destroy(&d);
	fixture_reset(&fx);
}

static void conv_agrees(void **state) {
	(void)state;
	for (size_t i = 0; i < SHAPES; i++)
		agrees(i, PRECISION_F32);
}

static void conv_bf16_agrees(void **state) {
	(void)state;
	for (size_t i = 0; i < SHAPES; i++)
		agrees(i, PRECISION_BF16);
}

/* One convolution over images of many sizes: more plans than are kept. */
static void any_size_of_image(void **state) {
	(void)state;
	struct shape c = {{.in = 4, .out = 8, .kt = 1, SAME3}, 1, 1, 1, true, false, SKIP_NONE};
	struct error e = {0};
	struct data first = data_create(&c);
	struct conv *conv = make(&first, PRECISION_F32, &e);
	assert_non_null(conv);
	for (int i = 0; i < 60; i++) {
		c.h = 1 + i % 15;
		c.w = 1 + i % 7;
		struct data d = data_create(&c);
		memcpy(d.weight, first.weight, sizeof(float) * 4 * 8 * 9);
		memcpy(d.bias, first.bias, sizeof(float) * 8);
		reference(&d, false);
		struct tensor x = fixture_upload(&fx, d.x, DIMS(1, d.h, d.w, 4));
		struct tensor y = fixture_tensor(&fx, DTYPE_F32, DIMS(1, d.h, d.w, 8));
		fx.ops->conv(fx.be, &y, &x, NULL, conv, NULL);
		fixture_expect(&fx, "any size", &y, d.want, EXACT_LIMIT);
		data_destroy(&d);
		fixture_reset(&fx);
	}
	fx.ops->conv_destroy(fx.be, conv);
	data_destroy(&first);
}

static void wrong_specs_are_refused(void **state) {
	(void)state;
	const struct shape bad[] = {
		{{.in = 4, .out = 4, .kt = 9, SAME3}, 1, 4, 4, true, false, SKIP_NONE},
		{{.in = 4, .out = 4, .kt = 1, SAME3, .phases = 9}, 1, 4, 4, true, false, SKIP_NONE},
		{{.in = 4, .out = 4, .kt = 1, SAME3, .stride = 2, .upsample = 2}, 1, 4, 4, true,
			false, SKIP_NONE},
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct error e = {0};
		struct data d = data_create(&bad[i]);
		assert_null(make(&d, PRECISION_F32, &e));
		assert_int_equal(e.code, -EINVAL);
		data_destroy(&d);
	}
	struct error e = {0};
	struct data d = data_create(&shapes[1]);
	struct conv *conv = make(&d, PRECISION_F32, &e);
	assert_non_null(conv);
	struct tensor x = fixture_upload(&fx, d.x, DIMS(d.frames, d.h, d.w, d.s.in));
	struct tensor y = fixture_tensor(&fx, DTYPE_F32, DIMS(d.out_frames, d.rows, d.cols, 6));
	fx.ops->conv(fx.be, &y, &x, NULL, conv, NULL);
	assert_int_equal(backend_error(fx.be, &e), -EINVAL);
	backend_clear(fx.be);
	fx.ops->conv_destroy(fx.be, conv);
	data_destroy(&d);
	fixture_reset(&fx);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(conv_agrees),
		cmocka_unit_test(conv_bf16_agrees),
		cmocka_unit_test(any_size_of_image),
		cmocka_unit_test(wrong_specs_are_refused),
	};
	fx = fixture_create();
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	fixture_destroy(&fx);
	return failed;
}
