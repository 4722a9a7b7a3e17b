/* SPDX-License-Identifier: Apache-2.0 */
/* Linear layers against loops in double, at awkward sizes, in every precision
 * that this CPU has. A sum of k products in f32 rounds by about sqrt(k) * 6e-8
 * of its terms' size, activations add a few 1e-7: 5e-6 of the largest output
 * up to k = 1024. With bf16 the reference uses the rounded factors, so the same
 * limit holds. int8 rounds each factor to 1/254 of its row's largest. */
#include "tests/ops/ops_test.h"

#include <errno.h>

#define EXACT_LIMIT 5e-6 /* observed: 1.0e-6 at worst */
#define INT8_LIMIT 2e-2 /* observed: 1.1e-2 at worst */

static struct fixture fx;

/* n, out, in, gate groups */
static const int64_t sizes[][4] = {{1, 1, 1, 1}, {1, 256, 256, 1}, {3, 17, 5, 3}, {15, 768, 256, 1},
	{432, 256, 64, 3}, {433, 33, 65, 1}, {54, 64, 1024, 2}, {7, 1024, 256, 1}, {200, 8, 16, 2}};
#define SIZES (sizeof sizes / sizeof *sizes)

static const enum precision precisions[] = {PRECISION_F32, PRECISION_BF16, PRECISION_INT8};

static double activated(double x, enum activation act) {
	switch (act) {
	case ACT_NONE:
		break;
	case ACT_SILU:
		return x / (1 + exp(-x));
	case ACT_GELU_TANH:
		return 0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
	case ACT_RELU:
		return x > 0 ? x : 0;
	}
	return x;
}

static float rounded(float x, enum precision p) {
	uint32_t u;
	if (p != PRECISION_BF16)
		return x;
	memcpy(&u, &x, sizeof u);
	u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u;
	memcpy(&x, &u, sizeof x);
	return x;
}

/* One layer with its inputs and the products the reference expects. */
struct layer {
	int64_t n, out, in;
	float *x, *w, *b; /* b NULL: none */
	double *y; /* x w^T + b */
	struct linear *l;
};

static struct layer layer_create(
	int64_t n, int64_t out, int64_t in, bool bias, enum precision p, struct error *e) {
	struct layer r = {.n = n, .out = out, .in = in};
	r.x = fixture_host(&fx, n * in, 1, 0.25f);
	r.w = fixture_host(&fx, out * in, 0.5f, 0.1f);
	r.b = bias ? fixture_host(&fx, out, 1, 0) : NULL;
	r.y = malloc((size_t)(n * out) * sizeof *r.y);
	assert_non_null(r.y);
	for (int64_t i = 0; i < n; i++) {
		for (int64_t o = 0; o < out; o++) {
			double sum = r.b ? (double)r.b[o] : 0;
			for (int64_t k = 0; k < in; k++)
				sum += (double)rounded(r.x[i * in + k], p) *
				       (double)rounded(r.w[o * in + k], p);
			r.y[i * out + o] = sum;
		}
	}
	struct tensor w = tensor_2d(r.w, DTYPE_F32, out, in), b = tensor_1d(r.b, DTYPE_F32, out);
	r.l = fx.ops->linear_create(fx.be, &w, bias ? &b : NULL, p, e);
	return r;
}

static void layer_destroy(struct layer *r) {
	fx.ops->linear_destroy(fx.be, r->l);
	free(r->x);
	free(r->w);
	free(r->b);
	free(r->y);
}

/* False, and nothing to free, when this CPU lacks the precision; that it says so. */
static bool layer_make(struct layer *r, const int64_t size[3], bool bias, enum precision p) {
	struct error e = {0};
	*r = layer_create(size[0], size[1], size[2], bias, p, &e);
	if (r->l)
		return true;
	layer_destroy(r);
	assert_int_not_equal(p, PRECISION_F32);
	assert_int_equal(e.code, -ENOTSUP);
	assert_non_null(strstr(e.text, p == PRECISION_BF16 ? "bf16" : "int8"));
	return false;
}

static double limit(enum precision p) {
	return p == PRECISION_INT8 ? INT8_LIMIT : EXACT_LIMIT;
}

static void plain(const int64_t size[3], bool bias, enum precision p, enum activation act) {
	struct layer r;
	char what[80];
	if (!layer_make(&r, size, bias, p))
		return;
	struct tensor x = fixture_upload(&fx, r.x, DIMS(r.n, r.in));
	struct tensor y = fixture_tensor(&fx, DTYPE_F32, DIMS(r.n, r.out));
	float *want = malloc((size_t)(r.n * r.out) * sizeof *want);
	assert_non_null(want);
	for (int64_t i = 0; i < r.n * r.out; i++)
		want[i] = (float)activated(r.y[i], act);
	fx.ops->linear(fx.be, &y, &x, r.l, act);
	snprintf(what, sizeof what, "linear %d x %d x %d precision %d act %d", (int)r.n, (int)r.out,
		(int)r.in, (int)p, (int)act);
	fixture_expect(&fx, what, &y, want, limit(p));
	free(want);
	layer_destroy(&r);
	fixture_reset(&fx);
}

static void linear_agrees(void **state) {
	(void)state;
	for (size_t k = 0; k < 3; k++) {
		for (size_t i = 0; i < SIZES; i++)
			plain(sizes[i], i % 2, precisions[k], (enum activation)(i % 4));
		for (int act = ACT_NONE; act <= ACT_RELU; act++)
			plain((int64_t[]){37, 24, 40}, true, precisions[k], (enum activation)act);
	}
}

static void residual(const int64_t size[4], bool gated, enum precision p) {
	struct layer r;
	char what[80];
	if (!layer_make(&r, size, true, p))
		return;
	int64_t groups = size[3];
	float *before = fixture_host(&fx, r.n * r.out, 1, 0),
	      *want = malloc((size_t)(r.n * r.out) * 4);
	float *gate = fixture_host(&fx, groups * r.out, 1, 0);
	assert_non_null(want);
	for (int64_t i = 0; i < r.n * r.out; i++) {
		int64_t row = i / r.out * groups / r.n, o = i % r.out;
		want[i] = (float)((double)before[i] +
				  r.y[i] * (gated ? (double)gate[row * r.out + o] : 1));
	}
	struct tensor x = fixture_upload(&fx, r.x, DIMS(r.n, r.in));
	struct tensor y = fixture_upload(&fx, before, DIMS(r.n, r.out));
	struct tensor g = fixture_upload(&fx, gate, DIMS(groups, r.out));
	fx.ops->linear_residual(fx.be, &y, &x, r.l, gated ? &g : NULL);
	snprintf(what, sizeof what, "residual %d x %d x %d precision %d gate %d", (int)r.n,
		(int)r.out, (int)r.in, (int)p, gated);
	fixture_expect(&fx, what, &y, want, limit(p));
	free(gate);
	free(want);
	free(before);
	layer_destroy(&r);
	fixture_reset(&fx);
}

static void linear_residual_agrees(void **state) {
	(void)state;
	for (size_t k = 0; k < 3; k++) {
		for (size_t i = 0; i < SIZES; i++) {
			residual(sizes[i], true, precisions[k]);
			residual(sizes[i], false, precisions[k]);
		}
	}
}

/* The sum and its norm, written over x: as the two ops one after the other. */
static void residual_norm(int64_t n, int64_t d, int64_t groups, enum precision p) {
	struct layer r;
	if (!layer_make(&r, (int64_t[]){n, d, d}, true, p))
		return;
	float *before = fixture_host(&fx, n * d, 1, 0);
	float *parts = fixture_host(&fx, 3 * groups * d, 1, 0);
	struct tensor x = fixture_upload(&fx, r.x, DIMS(n, d));
	struct tensor sum = fixture_upload(&fx, before, DIMS(n, d));
	struct tensor other = fixture_upload(&fx, before, DIMS(n, d));
	struct tensor y = fixture_tensor(&fx, DTYPE_F32, DIMS(n, d));
	struct tensor gate = fixture_upload(&fx, parts, DIMS(groups, d));
	struct tensor scale = fixture_upload(&fx, parts + groups * d, DIMS(groups, d));
	struct tensor shift = fixture_upload(&fx, parts + 2 * groups * d, DIMS(groups, d));
	struct norm_args norm = {&scale, &shift, 1e-6f};
	fx.ops->linear_residual(fx.be, &other, &x, r.l, &gate);
	fx.ops->norm_modulate(fx.be, &y, &other, &scale, &shift, norm.eps);
	fx.ops->linear_residual_norm(fx.be, &x, &sum, &x, r.l, &gate, &norm);
	float *want = fixture_download(&fx, &other);
	fixture_expect(&fx, "the sum of linear_residual_norm", &sum, want, 1e-6);
	free(want);
	want = fixture_download(&fx, &y);
	fixture_expect(&fx, "the norm of linear_residual_norm", &x, want, 1e-6);
	free(want);
	free(parts);
	free(before);
	layer_destroy(&r);
	fixture_reset(&fx);
}

static void linear_residual_norm_agrees(void **state) {
	(void)state;
	for (size_t k = 0; k < 3; k++) {
		residual_norm(12, 64, 3, precisions[k]);
		residual_norm(7, 132, 1, precisions[k]);
		residual_norm(1, 8, 1, precisions[k]);
	}
}

/* More different row counts than plans are kept, twice over. */
static void any_number_of_rows(void **state) {
	(void)state;
	struct layer r;
	assert_true(layer_make(&r, (int64_t[]){200, 24, 32}, true, PRECISION_F32));
	struct tensor x = fixture_upload(&fx, r.x, DIMS(r.n, r.in));
	struct tensor y = fixture_tensor(&fx, DTYPE_F32, DIMS(r.n, r.out));
	for (int64_t i = 0; i < 2 * r.n; i++) {
		struct tensor xi = tensor_rows(x, 0, 1 + i % r.n),
			      yi = tensor_rows(y, 0, 1 + i % r.n);
		backend_zero(fx.be, y.data, tensor_bytes(&y));
		fx.ops->linear(fx.be, &yi, &xi, r.l, ACT_NONE);
		float *got = fixture_download(&fx, &y);
		for (int64_t k = 0; k < r.n * r.out; k++) {
			double want = k < tensor_count(&yi) ? r.y[k] : 0;
			assert_true(fabs((double)got[k] - want) < 1e-4);
		}
		free(got);
	}
	layer_destroy(&r);
	fixture_reset(&fx);
}

/* Codes with a scale per row are what they stand for. */
static void quantised_weights_load(void **state) {
	(void)state;
	int8_t codes[3 * 4] = {1, 2, 3, 4, -128, 127, 0, 1, 5, 5, 5, 5};
	float scale[3] = {0.5f, 0.01f, 2}, in[4] = {1, -1, 2, 0.5f}, want[3];
	struct error e = {0};
	struct tensor w = tensor_2d(codes, DTYPE_I8, 3, 4);
	w.scale = scale;
	for (int o = 0; o < 3; o++) {
		want[o] = 0;
		for (int i = 0; i < 4; i++)
			want[o] += (float)codes[o * 4 + i] * scale[o] * in[i];
	}
	struct linear *l = fx.ops->linear_create(fx.be, &w, NULL, PRECISION_F32, &e);
	assert_non_null(l);
	struct tensor x = fixture_upload(&fx, in, DIMS(1, 4));
	struct tensor y = fixture_tensor(&fx, DTYPE_F32, DIMS(1, 3));
	fx.ops->linear(fx.be, &y, &x, l, ACT_NONE);
	fixture_expect(&fx, "int8 codes with scales", &y, want, 1e-6);
	fx.ops->linear_destroy(fx.be, l);
	fixture_reset(&fx);
}

static void wrong_shapes_are_refused(void **state) {
	(void)state;
	float data[64] = {0};
	struct error e = {0};
	struct tensor w = tensor_2d(data, DTYPE_F32, 4, 4), b = tensor_1d(data, DTYPE_F32, 3);
	assert_null(fx.ops->linear_create(fx.be, &w, &b, PRECISION_F32, &e));
	assert_int_equal(e.code, -EINVAL);
	struct error none = {0};
	size_t held = backend_allocated(fx.be);
	struct linear *l = fx.ops->linear_create(fx.be, &w, NULL, PRECISION_F32, &none);
	assert_non_null(l);
	assert_true(backend_allocated(fx.be) > held);
	struct tensor x = fixture_upload(&fx, data, DIMS(2, 5));
	struct tensor y = fixture_tensor(&fx, DTYPE_F32, DIMS(2, 4));
	fx.ops->linear(fx.be, &y, &x, l, ACT_NONE);
	assert_int_equal(backend_error(fx.be, &none), -EINVAL);
	assert_non_null(strstr(none.text, "[2, 5]"));
	backend_clear(fx.be);
	size_t now = backend_allocated(fx.be);
	fx.ops->linear_destroy(fx.be, l);
	assert_true(backend_allocated(fx.be) < now);
	fixture_reset(&fx);
}

/* With either variable at AVX2 nothing finer than f32 is offered. */
static void limits_are_kept(void **state) {
	(void)state;
	const char *ours = getenv("LIGHTFORCED_CPU_ISA"), *theirs = getenv("ONEDNN_MAX_CPU_ISA");
	struct backend_info info = backend_info(fx.be);
	if (strcmp(info.kind, "cpu") != 0 ||
		!((ours && strcmp(ours, "avx2") == 0) || (theirs && strcmp(theirs, "AVX2") == 0)))
		skip();
	struct layer r;
	assert_int_equal(info.precision, PRECISION_F32);
	assert_null(strstr(info.name, "512"));
	assert_false(layer_make(&r, (int64_t[]){4, 4, 4}, true, PRECISION_BF16));
	assert_false(layer_make(&r, (int64_t[]){4, 4, 4}, true, PRECISION_INT8));
	assert_true(layer_make(&r, (int64_t[]){4, 4, 4}, true, PRECISION_AUTO));
	layer_destroy(&r);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(linear_agrees),
		cmocka_unit_test(linear_residual_agrees),
		cmocka_unit_test(linear_residual_norm_agrees),
		cmocka_unit_test(any_number_of_rows),
		cmocka_unit_test(quantised_weights_load),
		cmocka_unit_test(wrong_shapes_are_refused),
		cmocka_unit_test(limits_are_kept),
	};
	fx = fixture_create();
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	fixture_destroy(&fx);
	return failed;
}
