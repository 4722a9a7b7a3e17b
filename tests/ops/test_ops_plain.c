/* SPDX-License-Identifier: Apache-2.0 */
/* Norms, pointwise ops, rearrangements, noise, colour and conversions against
 * loops in double, at awkward sizes (1, odd, 16 k + 1). Tolerances: a sum of d
 * squares in 16 lanes rounds by some d / 16 * 6e-8 at worst and sqrt(d) * 6e-8
 * as it goes, so 2e-6 for norms; 1e-6 for a handful of operations on one
 * element; 0 where elements only move. */
#include "tests/ops/ops_test.h"

#include "kernels/cpu/philox.h"

#define NORM_LIMIT 2e-6 /* observed: 5e-7 at worst */
#define POINT_LIMIT 1e-6 /* observed: 3.3e-7 at worst (noise) */

static struct fixture fx;

static const int64_t sizes[][3] = {{1, 1, 1}, {3, 5, 3}, {6, 17, 2}, {432, 256, 3}, {12, 1537, 4}};
#define SIZES (sizeof sizes / sizeof *sizes)

static double gelu(double x) {
	return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

static double activated(double x, enum activation act) {
	switch (act) {
	case ACT_NONE:
		break;
	case ACT_SILU:
		return x / (1 + exp(-x));
	case ACT_GELU_TANH:
		return gelu(x);
	case ACT_RELU:
		return x > 0 ? x : 0;
	}
	return x;
}

static void norm_modulate_agrees(void **state) {
	(void)state;
	for (size_t i = 0; i < SIZES; i++) {
		int64_t n = sizes[i][0], d = sizes[i][1], f = sizes[i][2];
		float *x = fixture_host(&fx, n * d, 3, 20); /* a mean that would cancel */
		float *scale = fixture_host(&fx, f * d, 1, 0),
		      *shift = fixture_host(&fx, f * d, 1, 0);
		float *want = malloc((size_t)(n * d) * sizeof *want);
		for (int64_t r = 0; r < n; r++) {
			double mean = 0, var = 0;
			for (int64_t k = 0; k < d; k++)
				mean += (double)x[r * d + k] / (double)d;
			for (int64_t k = 0; k < d; k++)
				var += pow((double)x[r * d + k] - mean, 2) / (double)d;
			for (int64_t k = 0; k < d; k++)
				want[r * d + k] =
					(float)(((double)x[r * d + k] - mean) / sqrt(var + 1e-6) *
							(1 + (double)scale[r * f / n * d + k]) +
						(double)shift[r * f / n * d + k]);
		}
		struct tensor tx = fixture_upload(&fx, x, DIMS(n, d)),
			      y = fixture_tensor(&fx, DTYPE_F32, DIMS(n, d));
		struct tensor ts = fixture_upload(&fx, scale, DIMS(f, d)),
			      th = fixture_upload(&fx, shift, DIMS(f, d));
		fx.ops->norm_modulate(fx.be, &y, &tx, &ts, &th, 1e-6f);
		/* the mean of 20 costs 20 / 3 of a bit in x - mean; observed: 6e-7 at worst */
		fixture_expect(&fx, "norm_modulate", &y, want, 4e-6);
		free(x);
		free(scale);
		free(shift);
		free(want);
		fixture_reset(&fx);
	}
}

static void rms_and_channel_norm_agree(void **state) {
	(void)state;
	for (size_t i = 0; i < SIZES; i++) {
		int64_t n = sizes[i][0], d = sizes[i][1];
		float *x = fixture_host(&fx, n * d, 2, 0.5f), *g = fixture_host(&fx, d, 0.5f, 1);
		float *rms = malloc((size_t)(n * d) * sizeof *rms),
		      *channel = malloc((size_t)(n * d) * sizeof *channel);
		memset(x, 0, (size_t)d * sizeof *x); /* a row of zeros stays zeros */
		for (int64_t r = 0; r < n; r++) {
			double square = 0;
			for (int64_t k = 0; k < d; k++)
				square += (double)x[r * d + k] * (double)x[r * d + k];
			for (int64_t k = 0; k < d; k++) {
				double v = (double)x[r * d + k] * (double)g[k];
				rms[r * d + k] = (float)(v / sqrt(square / (double)d + 1e-6));
				channel[r * d + k] = (float)activated(
					v * sqrt((double)d) / fmax(sqrt(square), 1e-12), ACT_SILU);
			}
		}
		struct tensor tx = fixture_upload(&fx, x, DIMS(n, d)),
			      tg = fixture_upload(&fx, g, DIMS(d));
		struct tensor y = fixture_tensor(&fx, DTYPE_F32, DIMS(n, d));
		fx.ops->channel_norm(fx.be, &y, &tx, &tg, ACT_SILU);
		fixture_expect(&fx, "channel_norm, silu", &y, channel, NORM_LIMIT);
		fx.ops->rms_norm(fx.be, &y, &tx, &tg, 1e-6f);
		fixture_expect(&fx, "rms_norm", &y, rms, NORM_LIMIT);
		fx.ops->rms_norm(fx.be, &tx, &tx, &tg, 1e-6f);
		fixture_expect(&fx, "rms_norm in place", &tx, rms, NORM_LIMIT);
		free(x);
		free(g);
		free(rms);
		free(channel);
		fixture_reset(&fx);
	}
}

/* Every activation over a range that reaches where exponentials saturate. */
static void activations_agree(void **state) {
	(void)state;
	enum { N = 10007 };
	float *x = malloc(N * sizeof *x), *want = malloc(N * sizeof *want);
	for (int i = 0; i < N; i++)
		x[i] = (float)(i - N / 2) * 0.04f; /* -200 .. 200 */
	for (int act = ACT_NONE; act <= ACT_RELU; act++) {
		double worst = 0;
		struct tensor tx = fixture_upload(&fx, x, DIMS(N));
		fx.ops->activate(fx.be, &tx, &tx, (enum activation)act);
		float *got = fixture_download(&fx, &tx);
		for (int i = 0; i < N; i++) {
			double w = activated((double)x[i], (enum activation)act);
			/* of the size of x near 0, of the value elsewhere */
			double d = fabs((double)got[i] - w) / fmax(1e-3, fabs(w));
			worst = isfinite(got[i]) && d >= worst ? d
				: isfinite(got[i])             ? worst
							       : INFINITY;
		}
		printf("    activation %d: %.2g\n", act, worst);
		/* the exponential's argument of up to 30 is off by 30 * 6e-8 */
		assert_true(worst < 4e-6); /* observed: 6.4e-7 (gelu), 4.7e-7 (silu) */
		free(got);
	}
	free(x);
	free(want);
	fixture_reset(&fx);
}

static void pointwise_ops_agree(void **state) {
	(void)state;
	for (size_t i = 0; i < SIZES; i++) {
		int64_t n = sizes[i][0], d = sizes[i][1], m = n % 3 == 0 ? 3 : 1, all = n * d;
		float *a = fixture_host(&fx, all, 2, 0), *b = fixture_host(&fx, all, 2, 0);
		float *c = fixture_host(&fx, all, 1, 0), *want = malloc((size_t)all * sizeof *want);
		struct tensor ta = fixture_upload(&fx, a, DIMS(n, d)),
			      tb = fixture_upload(&fx, b, DIMS(n, d));
		struct tensor tc = fixture_upload(&fx, c, DIMS(n, d)),
			      y = fixture_tensor(&fx, DTYPE_F32, DIMS(n, d));
		struct tensor z = fixture_tensor(&fx, DTYPE_F32, DIMS(n, d)),
			      tm = tensor_rows(tb, 0, m);
		for (int64_t k = 0; k < all; k++)
			want[k] = (float)((double)a[k] * gelu((double)b[k]));
		fx.ops->gated_gelu(fx.be, &y, &ta, &tb);
		fixture_expect(&fx, "gated_gelu", &y, want, POINT_LIMIT);
		for (int64_t k = 0; k < all; k++)
			want[k] = a[k] + b[k % (m * d)];
		fx.ops->add_rows(fx.be, &y, &ta, &tm);
		fixture_expect(&fx, "add_rows", &y, want, 0);
		for (int64_t k = 0; k < all; k++)
			want[k] = (float)((double)a[k] - (double)0.9375f * (double)b[k]);
		fx.ops->denoise(fx.be, &y, &z, &ta, &tb, &tc, (float[]){0.9375f, 0.8333333f});
		fixture_expect(&fx, "denoise, x0", &y, want, POINT_LIMIT);
		for (int64_t k = 0; k < all; k++)
			want[k] = (float)((1 - (double)0.8333333f) * (double)want[k] +
					  (double)0.8333333f * (double)c[k]);
		fixture_expect(&fx, "denoise, next", &z, want, POINT_LIMIT);
		fx.ops->denoise(fx.be, &ta, NULL, &ta, &tb, NULL, (float[]){0.625f, 0});
		for (int64_t k = 0; k < all; k++)
			want[k] = (float)((double)a[k] - 0.625 * (double)b[k]);
		fixture_expect(&fx, "denoise, last step in place", &ta, want, POINT_LIMIT);
		free(a);
		free(b);
		free(c);
		free(want);
		fixture_reset(&fx);
	}
}

static void gather_takes_rows_in_order(void **state) {
	(void)state;
	float *table = fixture_host(&fx, 7 * 33, 1, 0), want[5 * 33];
	const int32_t ids[5] = {6, 0, 3, 3, 1};
	for (int i = 0; i < 5 * 33; i++)
		want[i] = table[ids[i / 33] * 33 + i % 33];
	struct tensor t = fixture_upload(&fx, table, DIMS(7, 33)),
		      i = fixture_tensor(&fx, DTYPE_I32, DIMS(5));
	struct tensor y = fixture_tensor(&fx, DTYPE_F32, DIMS(5, 33));
	backend_upload(fx.be, i.data, ids, sizeof ids);
	fx.ops->gather_rows(fx.be, &y, &t, &i);
	fixture_expect(&fx, "gather_rows", &y, want, 0);
	free(table);
	fixture_reset(&fx);
}

/* y[(f, i, j), (c, p, q)] of x[f, c, 2i+p, 3j+q], and back with c fastest */
static void patches_move_elements(void **state) {
	(void)state;
	enum { F = 2, C = 5, H = 4, W = 9, P = 2, Q = 3, ALL = F * C * H * W };
	float *x = fixture_host(&fx, ALL, 1, 0), slow[ALL], fast[ALL];
	int at = 0;
	for (int token = 0; token < F * (H / P) * (W / Q); token++) {
		int f = token / (H / P * (W / Q)), i = token / (W / Q) % (H / P),
		    j = token % (W / Q);
		for (int k = 0; k < C * P * Q; k++, at++) {
			int c = k / (P * Q), p = k / Q % P, q = k % Q;
			float value = x[((f * C + c) * H + P * i + p) * W + Q * j + q];
			slow[at] = value;
			fast[token * C * P * Q + (p * Q + q) * C + c] = value;
		}
	}
	struct tensor tx = fixture_upload(&fx, x, DIMS(F, C, H, W)),
		      ty = fixture_tensor(&fx, DTYPE_F32, DIMS(ALL / 30, 30));
	fx.ops->patchify(fx.be, &ty, &tx, P, Q);
	fixture_expect(&fx, "patchify", &ty, slow, 0);
	struct tensor tf = fixture_upload(&fx, fast, DIMS(ALL / 30, 30)),
		      back = fixture_tensor(&fx, DTYPE_F32, DIMS(F, C, H, W));
	fx.ops->unpatchify(fx.be, &back, &tf, P, Q);
	fixture_expect(&fx, "unpatchify", &back, x, 0);
	free(x);
	fixture_reset(&fx);
}

static void latents_become_images_and_back(void **state) {
	(void)state;
	enum { F = 2, C = 5, H = 3, W = 7, ALL = F * C * H * W };
	float *x = fixture_host(&fx, ALL, 2, 0), *mean = fixture_host(&fx, C, 1, 0),
	      *std = fixture_host(&fx, C, 0.3f, 2);
	float image[ALL], plain[ALL], wide[2 * ALL];
	for (int i = 0; i < ALL; i++) {
		int f = i / (C * H * W), c = i / (H * W) % C, yx = i % (H * W);
		int to = (f * H * W + yx) * C + c;
		double z = (double)x[i] * (double)std[c] + (double)mean[c];
		image[to] = (float)(3 * tanh(z / 3));
		plain[to] = x[i];
		wide[(f * H * W + yx) * 2 * C + c] = (float)z;
		wide[(f * H * W + yx) * 2 * C + C + c] = 99;
	}
	struct tensor tx = fixture_upload(&fx, x, DIMS(F, C, H, W)),
		      ty = fixture_tensor(&fx, DTYPE_F32, DIMS(F, H, W, C));
	struct tensor tm = fixture_upload(&fx, mean, DIMS(C)),
		      ts = fixture_upload(&fx, std, DIMS(C));
	fx.ops->latent_to_image(fx.be, &ty, &tx, &tm, &ts, 3);
	fixture_expect(&fx, "latent_to_image, bounded", &ty, image, POINT_LIMIT);
	fx.ops->latent_to_image(fx.be, &ty, &tx, NULL, NULL, 0);
	fixture_expect(&fx, "latent_to_image, plain", &ty, plain, 0);
	struct tensor tw = fixture_upload(&fx, wide, DIMS(F, H, W, 2 * C)),
		      back = fixture_tensor(&fx, DTYPE_F32, DIMS(F, C, H, W));
	fx.ops->image_to_latent(fx.be, &back, &tw, &tm, &ts);
	fixture_expect(&fx, "image_to_latent", &back, x, POINT_LIMIT);
	free(x);
	free(mean);
	free(std);
	fixture_reset(&fx);
}

/* ---- noise ---- */

/* Known answers of Random123 1.14's kat_vectors. */
static void philox_gives_the_known_answers(void **state) {
	(void)state;
	static const struct {
		uint32_t counter[4], key[2], want[4];
	} known[] = {
		{{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff},
			{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0},
			{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	};
	for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
		uint32_t got[4];
		philox4x32(got, known[i].counter, known[i].key);
		assert_memory_equal(got, known[i].want, sizeof got);
	}
}

static double unit(uint32_t x) {
	return ((double)(x >> 9) + 0.5) / 8388608;
}

/* The mapping, element by element, with a key and a chunk beyond 32 bits. */
static void noise_follows_the_mapping(void **state) {
	(void)state;
	enum { N = 1003 };
	uint64_t seed = 0x123456789abcdefu;
	int64_t chunk = 0x500000007;
	float want[N];
	for (uint32_t i = 0; i < N; i++) {
		uint32_t counter[4] = {i / 4, 3, 7, 5}, key[2] = {0x89abcdef, 0x01234567}, x[4];
		philox4x32(x, counter, key);
		double r = sqrt(-2 * log(unit(x[i % 4 / 2 * 2])));
		double angle = 2 * 3.14159265358979323846 * unit(x[i % 4 / 2 * 2 + 1]);
		want[i] = (float)(r * (i % 2 ? sin(angle) : cos(angle)));
	}
	struct tensor y = fixture_tensor(&fx, DTYPE_F32, DIMS(N));
	fx.ops->noise(fx.be, &y, seed, chunk, 3);
	fixture_expect(&fx, "noise", &y, want, POINT_LIMIT);
	fixture_reset(&fx);
}

/* Mean, variance, third and fourth moment of 2^20 numbers within five standard
 * errors: sqrt(1, 2, 15, 96 / N). */
static void noise_is_normal(void **state) {
	(void)state;
	enum { N = 1 << 20 };
	struct tensor y = fixture_tensor(&fx, DTYPE_F32, DIMS(N));
	fx.ops->noise(fx.be, &y, 42, 0, 0);
	float *x = fixture_download(&fx, &y);
	double m[5] = {0}, lag = 0;
	for (int i = 0; i < N; i++) {
		double v = (double)x[i], p = 1;
		for (int k = 1; k <= 4; k++)
			m[k] += (p *= v) / N;
		lag += i ? v * (double)x[i - 1] / N : 0;
	}
	printf("    moments %.5f %.5f %.5f %.5f, neighbours %.5f\n", m[1], m[2], m[3], m[4], lag);
	double e = 5 / sqrt(N);
	assert_true(fabs(m[1]) < e && fabs(m[2] - 1) < e * sqrt(2) && fabs(lag) < e);
	assert_true(fabs(m[3]) < e * sqrt(15) && fabs(m[4] - 3) < e * sqrt(96));
	free(x);
	fixture_reset(&fx);
}

/* ---- colour ---- */

/* Eight corners of the cube in flat 2x2 images: values of BT.709, 8 bit. */
static void primaries_become_their_codes(void **state) {
	(void)state;
	static const int want[8][3] = {{16, 128, 128}, {32, 240, 118}, {173, 42, 26},
		{188, 154, 16}, {63, 102, 240}, {78, 214, 230}, {219, 16, 138},
		{235, 128, 128}}; /* index: 4 r + 2 g + b */
	for (int i = 0; i < 8; i++) {
		float rgb[2 * 2 * 3];
		uint8_t got[6];
		for (int k = 0; k < 12; k++) /* gain and offset map -1 .. 1; beyond is clamped */
			rgb[k] = i >> (2 - k % 3) & 1 ? 1.5f : -1.0f;
		struct tensor x = fixture_upload(&fx, rgb, DIMS(1, 2, 2, 3)),
			      y = fixture_tensor(&fx, DTYPE_U8, DIMS(1, 6));
		fx.ops->rgb_to_i420(fx.be, &y, &x, 0.5f, 0.5f);
		backend_download(fx.be, got, y.data, sizeof got);
		for (int k = 0; k < 6; k++)
			assert_in_range(got[k] + 1 - want[i][k < 4 ? 0 : k - 3], 0, 2);
		fixture_reset(&fx);
	}
}

static void colour_agrees_on_random_images(void **state) {
	(void)state;
	static const int64_t shape[][3] = {{1, 2, 2}, {2, 4, 6}, {3, 10, 34}, {1, 144, 256}};
	for (size_t s = 0; s < sizeof shape / sizeof *shape; s++) {
		int64_t f = shape[s][0], h = shape[s][1], w = shape[s][2], size = h * w * 3 / 2;
		float *x = fixture_host(&fx, f * h * w * 3, 0.3f, 0.5f);
		struct tensor tx = fixture_upload(&fx, x, DIMS(f, h, w, 3)),
			      ty = fixture_tensor(&fx, DTYPE_U8, DIMS(f, size));
		uint8_t *got = malloc((size_t)(f * size));
		fx.ops->rgb_to_i420(fx.be, &ty, &tx, 1, 0);
		backend_download(fx.be, got, ty.data, (size_t)(f * size));
		for (int64_t i = 0; i < f * h * w; i++) {
			int64_t frame = i / (h * w), row = i / w % h, col = i % w;
			double c[3], sum[3] = {0};
			for (int k = 0; k < 12; k++) { /* the 2x2 cell of this pixel */
				int64_t at = ((frame * h + row / 2 * 2 + k / 6) * w + col / 2 * 2 +
						     k / 3 % 2) *
						     3 +
					     k % 3;
				double v = fmin(1, fmax(0, (double)x[at]));
				sum[k % 3] += v / 4;
				if (at / 3 == i)
					c[k % 3] = v;
			}
			double luma = 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2];
			double mean = 0.2126 * sum[0] + 0.7152 * sum[1] + 0.0722 * sum[2];
			const uint8_t *p = got + frame * size;
			int64_t uv = h * w + row / 2 * (w / 2) + col / 2;
			/* rounded to nearest: half a code, plus f32's own rounding */
			assert_true(fabs(16 + 219 * luma - p[row * w + col]) < 0.501);
			assert_true(fabs(128 + 224 * (sum[2] - mean) / 1.8556 - p[uv]) < 0.501);
			assert_true(fabs(128 + 224 * (sum[0] - mean) / 1.5748 - p[uv + h * w / 4]) <
				    0.501);
		}
		free(got);
		free(x);
		fixture_reset(&fx);
	}
}

/* ---- conversions ---- */

/* Every code of every small type survives the way to f32 and back. */
static void codes_survive_a_round_trip(void **state) {
	(void)state;
	static const enum dtype types[] = {DTYPE_F16, DTYPE_BF16, DTYPE_FP8_E4M3, DTYPE_I8};
	for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
		size_t bytes = dtype_bytes(types[t]);
		int n = bytes == 1 ? 256 : 65536;
		uint16_t *codes = calloc((size_t)n, 2), *back = calloc((size_t)n, 2);
		for (int i = 0; i < n; i++) {
			if (bytes == 1)
				((uint8_t *)codes)[i] = (uint8_t)i;
			else
				codes[i] = (uint16_t)i;
		}
		struct tensor x = fixture_tensor(&fx, types[t], DIMS(n)),
			      y = fixture_tensor(&fx, DTYPE_F32, DIMS(n));
		backend_upload(fx.be, x.data, codes, (size_t)n * bytes);
		fx.ops->convert(fx.be, &y, &x);
		fx.ops->convert(fx.be, &x, &y);
		backend_download(fx.be, back, x.data, (size_t)n * bytes);
		float *value = fixture_download(&fx, &y);
		int finite = 0;
		for (int i = 0; i < n; i++) {
			uint16_t a = bytes == 1 ? ((uint8_t *)codes)[i] : codes[i];
			uint16_t b = bytes == 1 ? ((uint8_t *)back)[i] : back[i];
			finite += isfinite(value[i]) != 0;
			if (!isnan(value[i]) && !(types[t] == DTYPE_I8 && a == 0x80))
				assert_int_equal(a, b);
		}
		/* f16: 2 * 31 * 1024; bf16: 2 * 255 * 128; e4m3: all but two NaNs */
		static const int want[] = {63488, 65280, 254, 256};
		assert_int_equal(finite, want[t]);
		free(codes);
		free(back);
		free(value);
		fixture_reset(&fx);
	}
}

/* Values between two codes: to the nearest, ties to even; too large: inf or the largest. */
static void conversion_rounds_to_nearest(void **state) {
	(void)state;
	static const struct {
		enum dtype d;
		float x, want;
	} cases[] = {
		{DTYPE_F16, 1 + 0x1p-11f, 1},
		{DTYPE_F16, 1 + 0x3p-11f, 1 + 0x1p-9f},
		{DTYPE_F16, 1 + 0x1.1p-11f, 1 + 0x1p-10f},
		{DTYPE_F16, 65520, INFINITY},
		{DTYPE_F16, 65519, 65504},
		{DTYPE_F16, 0x1p-25f, 0},
		{DTYPE_F16, -0x1.8p-24f, -0x1p-23f},
		{DTYPE_F16, -1e30f, -INFINITY},
		{DTYPE_BF16, 1 + 0x1p-8f, 1},
		{DTYPE_BF16, 1 + 0x3p-8f, 1 + 0x1p-6f},
		{DTYPE_FP8_E4M3, 17, 16},
		{DTYPE_FP8_E4M3, 19, 20},
		{DTYPE_FP8_E4M3, 1000, 448},
		{DTYPE_FP8_E4M3, -0x1p-10f, 0},
		{DTYPE_FP8_E4M3, 0x3p-10f, 0x1p-8f},
		{DTYPE_I8, 2.5f, 2},
		{DTYPE_I8, -3.5f, -4},
		{DTYPE_I8, 300, 127},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct tensor x = fixture_upload(&fx, &cases[i].x, DIMS(1)),
			      y = fixture_tensor(&fx, cases[i].d, DIMS(1));
		fx.ops->convert(fx.be, &y, &x);
		fx.ops->convert(fx.be, &x, &y);
		float *got = fixture_download(&fx, &x);
		if (got[0] != cases[i].want)
			fail_msg("%s of %g: %g, not %g", dtype_name(cases[i].d), (double)cases[i].x,
				(double)got[0], (double)cases[i].want);
		free(got);
		fixture_reset(&fx);
	}
}

/* Rows get their own scale: error at most half a step of the row's peak. */
static void quantised_rows_keep_their_scale(void **state) {
	(void)state;
	enum { N = 3, D = 1500 };
	static const float step[2] = {
		0.5f / 127, 1.0f / 28}; /* i8: half a code; e4m3: 2^-4 of the value, at least */
	float *x = fixture_host(&fx, N * D, 1, 0);
	for (int i = 0; i < D; i++) {
		x[D + i] *= 1e6f;
		x[2 * D + i] = 0;
	}
	for (int t = 0; t < 2; t++) {
		struct tensor tx = fixture_upload(&fx, x, DIMS(N, D)),
			      back = fixture_tensor(&fx, DTYPE_F32, DIMS(N, D));
		struct tensor q = fixture_tensor(&fx, t ? DTYPE_FP8_E4M3 : DTYPE_I8, DIMS(N, D));
		q.scale = fixture_bytes(&fx, N * sizeof(float));
		fx.ops->convert(fx.be, &q, &tx);
		fx.ops->convert(fx.be, &back, &q);
		float *got = fixture_download(&fx, &back);
		for (int r = 0; r < 2; r++) {
			double error = compare_max(got + r * D, x + r * D, D);
			printf("    %s row %d: %.2g\n", dtype_name(q.dtype), r, error);
			assert_true(error <= (double)step[t] && error > 1e-4);
		}
		assert_true(compare_abs(got + 2 * D, x + 2 * D, D) == 0);
		free(got);
	}
	free(x);
	fixture_reset(&fx);
}

/* With one scale nothing of what it was made for is clipped, everything else is. */
static void codes_share_a_scale(void **state) {
	(void)state;
	enum { N = 5, D = 260 };
	float *x = fixture_host(&fx, N * D, 3, 0), peak = 0, two[2];
	for (int i = 0; i < N * D; i++)
		peak = fmaxf(peak, fabsf(x[i]));
	struct tensor tx = fixture_upload(&fx, x, DIMS(N, D)),
		      back = fixture_tensor(&fx, DTYPE_F32, DIMS(N, D)),
		      scale = fixture_tensor(&fx, DTYPE_F32, DIMS(2));
	struct tensor q = fixture_tensor(&fx, DTYPE_FP8_E4M3, DIMS(N, D));
	q.scale = scale.data;
	q.one_scale = true;
	fx.ops->code_scale(fx.be, &scale, &tx);
	fx.ops->convert(fx.be, &q, &tx);
	fx.ops->convert(fx.be, &back, &q);
	backend_download(fx.be, two, scale.data, sizeof two);
	assert_true(fabsf(two[0] * 448 / peak - 1) < 1e-6f && fabsf(two[0] * two[1] - 1) < 1e-6f);
	fixture_expect(&fx, "codes of one scale", &back, x, 1.0 / 28);
	struct tensor rows = tensor_rows(q, 2, 1), row = fixture_tensor(&fx, DTYPE_F32, DIMS(1, D));
	fx.ops->convert(fx.be, &row, &rows);
	fixture_expect(&fx, "a row of them", &row, x + 2 * D, 1.0 / 28);
	two[0] /= 2, two[1] *= 2;
	backend_upload(fx.be, scale.data, two, sizeof two);
	fx.ops->convert(fx.be, &q, &tx);
	fx.ops->convert(fx.be, &back, &q);
	float *got = fixture_download(&fx, &back);
	for (int i = 0; i < N * D; i++)
		assert_true(fabsf(got[i]) <= peak / 2 * 1.000001f);
	free(got);
	free(x);
	fixture_reset(&fx);
}

int main(void) {
	fx = fixture_create();
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(norm_modulate_agrees),
		cmocka_unit_test(rms_and_channel_norm_agree),
		cmocka_unit_test(activations_agree),
		cmocka_unit_test(pointwise_ops_agree),
		cmocka_unit_test(gather_takes_rows_in_order),
		cmocka_unit_test(patches_move_elements),
		cmocka_unit_test(latents_become_images_and_back),
		cmocka_unit_test(philox_gives_the_known_answers),
		cmocka_unit_test(noise_follows_the_mapping),
		cmocka_unit_test(noise_is_normal),
		cmocka_unit_test(primaries_become_their_codes),
		cmocka_unit_test(colour_agrees_on_random_images),
		cmocka_unit_test(codes_survive_a_round_trip),
		cmocka_unit_test(conversion_rounds_to_nearest),
		cmocka_unit_test(quantised_rows_keep_their_scale),
		cmocka_unit_test(codes_share_a_scale),
	};
	int failed = cmocka_run_group_tests_name("plain", tests, NULL, NULL);
	fixture_destroy(&fx);
	return failed;
}
