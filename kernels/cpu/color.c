/* SPDX-License-Identifier: Apache-2.0 */
/* RGB to I420, BT.709 limited range: Y 16..235, Cb and Cr 16..240, chroma the
 * mean of its 2x2 pixels, rounded to nearest. Source: ITU-R BT.709-6, items 3.2
 * to 3.4, 8 bit. Compiled per instruction set. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

void CPU_NAME(color_fill)(struct ops *ops);

#define WEIGHT_R 0.2126f
#define WEIGHT_G 0.7152f
#define WEIGHT_B 0.0722f

struct color_job {
	uint8_t *yuv;
	const float *rgb;
	int64_t h, w;
	float gain, offset;
};

static float clamp01(float x) {
	x = x > 0 ? x : 0; /* NaN becomes 0 */
	return x < 1 ? x : 1;
}

static uint8_t to_code(float x) {
	return (uint8_t)(x + 0.5f);
}

/* Luma of one pixel; adds its colour to sum. */
static uint8_t pixel(const struct color_job *j, const float *p, float sum[3]) {
	float c[3];
	for (int i = 0; i < 3; i++) {
		c[i] = clamp01(p[i] * j->gain + j->offset);
		sum[i] += c[i];
	}
	return to_code(16 + 219 * (WEIGHT_R * c[0] + WEIGHT_G * c[1] + WEIGHT_B * c[2]));
}

/* One item: two rows of pixels. */
static void color_row_pairs(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct color_job *j = ctx;
	(void)worker;
	for (int64_t item = begin; item < end; item++) {
		int64_t frame = item / (j->h / 2), pair = item % (j->h / 2), size = j->h * j->w;
		uint8_t *y = j->yuv + frame * size * 3 / 2 + pair * 2 * j->w;
		uint8_t *u = j->yuv + frame * size * 3 / 2 + size + pair * (j->w / 2);
		uint8_t *v = u + size / 4;
		const float *rgb = j->rgb + (frame * j->h + pair * 2) * j->w * 3;
		for (int64_t x = 0; x < j->w; x += 2) {
			float sum[3] = {0};
			y[x] = pixel(j, rgb + x * 3, sum);
			y[x + 1] = pixel(j, rgb + x * 3 + 3, sum);
			y[j->w + x] = pixel(j, rgb + (j->w + x) * 3, sum);
			y[j->w + x + 1] = pixel(j, rgb + (j->w + x) * 3 + 3, sum);
			float luma = WEIGHT_R * sum[0] + WEIGHT_G * sum[1] + WEIGHT_B * sum[2];
			u[x / 2] =
				to_code(128 + 0.25f * 224 / (2 * (1 - WEIGHT_B)) * (sum[2] - luma));
			v[x / 2] =
				to_code(128 + 0.25f * 224 / (2 * (1 - WEIGHT_R)) * (sum[0] - luma));
		}
	}
}

static void rgb_to_i420(struct backend *be, struct tensor *yuv, const struct tensor *rgb,
	float gain, float offset) {
	int64_t f = rgb->dim[0], h = rgb->dim[1], w = rgb->dim[2];
	if (!cpu_check(be,
		    rgb->rank == 4 && rgb->dtype == DTYPE_F32 && rgb->dim[3] == 3 && h % 2 == 0 &&
			    w % 2 == 0,
		    "rgb_to_i420", "rgb must be f32 [f, H, W, 3] with even H and W:", rgb) ||
		!cpu_check(be, yuv->dtype == DTYPE_U8 && tensor_count(yuv) == f * h * w * 3 / 2,
			"rgb_to_i420", "yuv does not fit:", yuv))
		return;
	struct color_job job = {
		.yuv = yuv->data, .rgb = rgb->data, .h = h, .w = w, .gain = gain, .offset = offset};
	int64_t items = f * (h / 2);
	pool_run(cpu_pool(be), items, pool_grain(cpu_pool(be), items, 4), color_row_pairs, &job);
}

void CPU_NAME(color_fill)(struct ops *ops) {
	ops->rgb_to_i420 = rgb_to_i420;
}
