/* SPDX-License-Identifier: Apache-2.0 */
/* Element types: from any to f32, and from f32 to any, rows of quantised
 * outputs getting their scale (largest magnitude -> largest code). Rounding is
 * to nearest, ties to even. Not on the path of a chunk. Thread: the owner's. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#define FP8_MAX 448.0f
#define CODE_PEAK_MIN 1e-5f /* keeps the inverse of a scale finite */
#define STEP 1024 /* elements converted through the stack at a time */

static float bits_to_float(uint32_t bits) {
	float x;
	memcpy(&x, &bits, sizeof x);
	return x;
}

static uint32_t float_to_bits(float x) {
	uint32_t bits;
	memcpy(&bits, &x, sizeof bits);
	return bits;
}

/* A small float of `exponent` and `mantissa` bits, its largest exponent being
 * infinity and NaN (ieee) or ordinary numbers but for the last one, NaN. */
static float small_to_float(uint32_t code, int exponent, int mantissa, bool ieee) {
	uint32_t e = code >> mantissa & ((1u << exponent) - 1), m = code & ((1u << mantissa) - 1);
	uint32_t top = (1u << exponent) - 1;
	int bias = (1 << (exponent - 1)) - 1;
	float sign = code >> (exponent + mantissa) & 1 ? -1.0f : 1.0f;
	if (ieee && e == top)
		return m ? NAN : sign * INFINITY;
	if (!ieee && e == top && m == (1u << mantissa) - 1)
		return NAN;
	if (e == 0)
		return sign * ldexpf((float)m, 1 - bias - mantissa);
	return sign * ldexpf((float)(m | 1u << mantissa), (int)e - bias - mantissa);
}

/* The other way, |x| already within range for fp8; too large becomes infinity
 * (ieee) or the largest number. */
static uint32_t float_to_small(float x, int exponent, int mantissa, bool ieee) {
	uint32_t sign = (float_to_bits(x) >> 31) << (exponent + mantissa);
	int bias = (1 << (exponent - 1)) - 1;
	uint32_t top = ((1u << exponent) - 1) << mantissa;
	uint32_t largest = ieee ? top : (top | ((1u << mantissa) - 1)) - 1;
	if (isnan(x))
		return sign | (ieee ? top | 1u << (mantissa - 1) : largest + 1);
	if (x == 0)
		return sign;
	int e;
	frexpf(x, &e); /* x = [.5, 1) * 2^e */
	int unit = (e - 1 < 1 - bias ? 1 - bias : e - 1) - mantissa; /* exponent of the last bit */
	if (isinf(x) || e - 1 > bias + 1)
		return sign | (ieee ? top : largest);
	float steps = rintf(ldexpf(fabsf(x), -unit));
	/* Subnormal and normal codes count on from each other. */
	uint32_t base = (uint32_t)(unit + mantissa + bias - 1) << mantissa;
	uint32_t code = base + (uint32_t)steps;
	uint32_t limit = ieee ? top : largest;
	return sign | (code > limit ? limit : code);
}

static float element(const struct tensor *t, int64_t i) {
	switch (t->dtype) {
	case DTYPE_F32: {
		float x;
		memcpy(&x, (const char *)t->data + i * 4, sizeof x);
		return x;
	}
	case DTYPE_F16: {
		uint16_t x;
		memcpy(&x, (const char *)t->data + i * 2, sizeof x);
		return small_to_float(x, 5, 10, true);
	}
	case DTYPE_BF16: {
		uint16_t x;
		memcpy(&x, (const char *)t->data + i * 2, sizeof x);
		return bits_to_float((uint32_t)x << 16);
	}
	case DTYPE_FP8_E4M3:
		return small_to_float(((const uint8_t *)t->data)[i], 4, 3, false);
	case DTYPE_I8:
		return (float)((const int8_t *)t->data)[i];
	case DTYPE_U8:
		return (float)((const uint8_t *)t->data)[i];
	case DTYPE_I32: {
		int32_t x;
		memcpy(&x, (const char *)t->data + i * 4, sizeof x);
		return (float)x;
	}
	case DTYPE_I64: {
		int64_t x;
		memcpy(&x, (const char *)t->data + i * 8, sizeof x);
		return (float)x;
	}
	case DTYPE_COUNT:
		break;
	}
	return NAN;
}

void cpu_to_f32(float *dst, const struct tensor *t, int64_t first, int64_t count) {
	int64_t cols = tensor_cols(t);
	if (t->dtype == DTYPE_F32 && !t->scale) {
		memcpy(dst, (const char *)t->data + first * 4, (size_t)count * 4);
		return;
	}
	for (int64_t i = 0; i < count; i++) {
		float scale = !t->scale ? 1 : t->scale[t->one_scale ? 0 : (first + i) / cols];
		dst[i] = element(t, first + i) * scale;
	}
}

static uint16_t to_bf16(float x) {
	uint32_t bits = float_to_bits(x);
	if (isnan(x))
		return (uint16_t)(bits >> 16 | 0x40);
	return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* x times inverse, clamped to the code's range; integers round to even. */
static void store(struct tensor *t, int64_t i, float x, float inverse) {
	uint16_t half;
	float scaled = x * inverse;
	switch (t->dtype) {
	case DTYPE_F32:
		((float *)t->data)[i] = x;
		break;
	case DTYPE_F16:
		half = (uint16_t)float_to_small(x, 5, 10, true);
		memcpy((char *)t->data + i * 2, &half, sizeof half);
		break;
	case DTYPE_BF16:
		half = to_bf16(x);
		memcpy((char *)t->data + i * 2, &half, sizeof half);
		break;
	case DTYPE_FP8_E4M3:
		((uint8_t *)t->data)[i] = (uint8_t)float_to_small(scaled, 4, 3, false);
		break;
	case DTYPE_I8:
		((int8_t *)t->data)[i] = (int8_t)rintf(fmaxf(-127, fminf(127, scaled)));
		break;
	default:
		break;
	}
}

/* Largest code of a quantised type, 0 for the others. */
static float code_max(enum dtype d) {
	return d == DTYPE_FP8_E4M3 ? FP8_MAX : d == DTYPE_I8 ? 127.0f : 0.0f;
}

static float row_peak(const struct tensor *x, int64_t row, int64_t cols) {
	float buffer[STEP], peak = 0;
	for (int64_t i = 0; i < cols; i += STEP) {
		int64_t n = cols - i < STEP ? cols - i : STEP;
		cpu_to_f32(buffer, x, row * cols + i, n);
		for (int64_t k = 0; k < n; k++)
			peak = fmaxf(peak, fabsf(buffer[k]));
	}
	return peak;
}

struct convert_job {
	struct tensor *y;
	const struct tensor *x;
};

static void convert_rows(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct convert_job *j = ctx;
	int64_t cols = tensor_cols(j->y);
	(void)worker;
	for (int64_t row = begin; row < end; row++) {
		float buffer[STEP], inverse = 1;
		if (j->y->scale && j->y->one_scale) {
			inverse = j->y->scale[1];
		} else if (j->y->scale) {
			float peak = row_peak(j->x, row, cols), top = code_max(j->y->dtype);
			j->y->scale[row] = peak > 0 ? peak / top : 1;
			inverse = peak > 0 ? top / peak : 1;
		}
		for (int64_t i = 0; i < cols; i += STEP) {
			int64_t n = cols - i < STEP ? cols - i : STEP;
			cpu_to_f32(buffer, j->x, row * cols + i, n);
			for (int64_t k = 0; k < n; k++)
				store(j->y, row * cols + i + k, buffer[k], inverse);
		}
	}
}

static void convert(struct backend *be, struct tensor *y, const struct tensor *x) {
	if (!cpu_check(be, tensor_count(y) == tensor_count(x), "convert",
		    "y differs in size from x:", y) ||
		!cpu_check(
			be, y->dtype <= DTYPE_I8, "convert", "y must be a float type or i8:", y) ||
		!cpu_check(be, !x->scale || x->one_scale || tensor_cols(x) == tensor_cols(y), "convert",
			"rows with scales differ:", y))
		return;
	struct convert_job job = {.y = y, .x = x};
	int64_t rows = tensor_row_count(y);
	pool_run(cpu_pool(be), rows, pool_grain(cpu_pool(be), rows, 4), convert_rows, &job);
}

static void code_scale(struct backend *be, struct tensor *scale, const struct tensor *x) {
	if (!cpu_check(be, cpu_is(scale, DTYPE_F32, -1, -1) && tensor_count(scale) == 2, "code_scale",
		    "scale is not two f32:", scale))
		return;
	float peak = 0, *s = scale->data;
	for (int64_t row = 0; row < tensor_row_count(x); row++)
		peak = fmaxf(peak, row_peak(x, row, tensor_cols(x)));
	s[0] = fmaxf(peak, CODE_PEAK_MIN) / FP8_MAX;
	s[1] = 1 / s[0];
}

void cpu_convert_fill(struct ops *ops) {
	ops->code_scale = code_scale;
	ops->convert = convert;
}
