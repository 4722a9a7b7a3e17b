/* SPDX-License-Identifier: Apache-2.0 */
/* Rearrangements between planes of latents, tokens and channels-last images.
 * Small tensors, moved once a pass. Compiled per instruction set. */
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

void CPU_NAME(patch_fill)(struct ops *ops);

struct patch_job {
	float *y;
	const float *x, *mean, *std;
	int64_t c, h, w, p, q; /* channels, rows, columns, patch */
	int64_t channels; /* taken of x's */
	float bound;
};

/* One item: one row of patches of one frame. */
static void patchify_items(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct patch_job *j = ctx;
	(void)worker;
	int64_t rows = j->h / j->p, cols = j->w / j->q;
	for (int64_t item = begin; item < end; item++) {
		const float *frame = j->x + item / rows * j->c * j->h * j->w;
		float *y = j->y + item * cols * j->c * j->p * j->q;
		for (int64_t col = 0; col < cols; col++)
			for (int64_t c = 0; c < j->c; c++)
				for (int64_t p = 0; p < j->p; p++)
					for (int64_t q = 0; q < j->q; q++)
						*y++ = frame[(c * j->h + item % rows * j->p + p) *
								     j->w +
							     col * j->q + q];
	}
}

static void unpatchify_items(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct patch_job *j = ctx;
	(void)worker;
	int64_t rows = j->h / j->p, cols = j->w / j->q;
	for (int64_t item = begin; item < end; item++) {
		float *frame = j->y + item / rows * j->c * j->h * j->w;
		const float *x = j->x + item * cols * j->c * j->p * j->q;
		for (int64_t col = 0; col < cols; col++)
			for (int64_t p = 0; p < j->p; p++)
				for (int64_t q = 0; q < j->q; q++)
					for (int64_t c = 0; c < j->c; c++)
						frame[(c * j->h + item % rows * j->p + p) * j->w +
							col * j->q + q] = *x++;
	}
}

/* planes [f, C, H, W], tokens [f * H/p * W/q, C*p*q]; item count, 0 when they do not fit */
static int64_t patch_items(struct backend *be, const char *op, const struct tensor *planes,
	const struct tensor *tokens, int p, int q) {
	bool fits = planes->rank == 4 && planes->dtype == DTYPE_F32 && p > 0 && q > 0 &&
		    planes->dim[2] % p == 0 && planes->dim[3] % q == 0 &&
		    cpu_is(tokens, DTYPE_F32, -1, planes->dim[1] * p * q) &&
		    tensor_count(tokens) == tensor_count(planes);
	return cpu_check(be, fits, op, "tokens and planes do not fit:", tokens)
		       ? planes->dim[0] * (planes->dim[2] / p)
		       : 0;
}

static void patchify(struct backend *be, struct tensor *y, const struct tensor *x, int p, int q) {
	int64_t items = patch_items(be, "patchify", x, y, p, q);
	struct patch_job job = {.y = y->data,
		.x = x->data,
		.c = x->dim[1],
		.h = x->dim[2],
		.w = x->dim[3],
		.p = p,
		.q = q};
	pool_run(cpu_pool(be), items, pool_grain(cpu_pool(be), items, 4), patchify_items, &job);
}

static void unpatchify(struct backend *be, struct tensor *y, const struct tensor *x, int p, int q) {
	int64_t items = patch_items(be, "unpatchify", y, x, p, q);
	struct patch_job job = {.y = y->data,
		.x = x->data,
		.c = y->dim[1],
		.h = y->dim[2],
		.w = y->dim[3],
		.p = p,
		.q = q};
	pool_run(cpu_pool(be), items, pool_grain(cpu_pool(be), items, 4), unpatchify_items, &job);
}

/* One item: one image row. */
static void latent_to_image_items(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct patch_job *j = ctx;
	(void)worker;
	for (int64_t item = begin; item < end; item++) {
		float *y = j->y + item * j->w * j->c;
		for (int64_t c = 0; c < j->c; c++) {
			const float *x =
				j->x + ((item / j->h * j->c + c) * j->h + item % j->h) * j->w;
			float std = j->std ? j->std[c] : 1, mean = j->mean ? j->mean[c] : 0;
			for (int64_t i = 0; i < j->w; i++) {
				float z = x[i] * std + mean;
				y[i * j->c + c] = j->bound > 0 ? j->bound * tanhf(z / j->bound) : z;
			}
		}
	}
}

static bool is_channel_vector(const struct tensor *t, int64_t channels) {
	return !t || (t->dtype == DTYPE_F32 && tensor_count(t) == channels);
}

static void latent_to_image(struct backend *be, struct tensor *y, const struct tensor *x,
	const struct tensor *mean, const struct tensor *std, float bound) {
	if (!cpu_check(be, x->rank == 4 && cpu_alike(y, x) && tensor_cols(y) == x->dim[1],
		    "latent_to_image", "y does not fit:", y) ||
		!cpu_check(be,
			is_channel_vector(mean, x->dim[1]) && is_channel_vector(std, x->dim[1]),
			"latent_to_image", "mean or std does not fit", NULL))
		return;
	struct patch_job job = {.y = y->data,
		.x = x->data,
		.mean = mean ? mean->data : NULL,
		.std = std ? std->data : NULL,
		.c = x->dim[1],
		.h = x->dim[2],
		.w = x->dim[3],
		.bound = bound};
	int64_t items = x->dim[0] * x->dim[2];
	pool_run(cpu_pool(be), items, pool_grain(cpu_pool(be), items, 4), latent_to_image_items,
		&job);
}

static void image_to_latent_items(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct patch_job *j = ctx;
	(void)worker;
	for (int64_t item = begin; item < end; item++) {
		const float *x = j->x + item * j->w * j->c;
		for (int64_t c = 0; c < j->channels; c++) {
			float *y = j->y +
				   ((item / j->h * j->channels + c) * j->h + item % j->h) * j->w;
			float std = j->std ? j->std[c] : 1, mean = j->mean ? j->mean[c] : 0;
			for (int64_t i = 0; i < j->w; i++)
				y[i] = (x[i * j->c + c] - mean) / std;
		}
	}
}

static void image_to_latent(struct backend *be, struct tensor *y, const struct tensor *x,
	const struct tensor *mean, const struct tensor *std) {
	int64_t channels = y->dim[1];
	if (!cpu_check(be,
		    y->rank == 4 && y->dtype == DTYPE_F32 && x->rank == 4 &&
			    cpu_is(x, DTYPE_F32, y->dim[0] * y->dim[2] * y->dim[3], -1),
		    "image_to_latent", "y does not fit:", y) ||
		!cpu_check(be, channels <= tensor_cols(x), "image_to_latent",
			"x has too few channels:", x) ||
		!cpu_check(be,
			is_channel_vector(mean, channels) && is_channel_vector(std, channels),
			"image_to_latent", "mean or std does not fit", NULL))
		return;
	struct patch_job job = {.y = y->data,
		.x = x->data,
		.mean = mean ? mean->data : NULL,
		.std = std ? std->data : NULL,
		.c = tensor_cols(x),
		.h = y->dim[2],
		.w = y->dim[3],
		.channels = channels};
	int64_t items = y->dim[0] * y->dim[2];
	pool_run(cpu_pool(be), items, pool_grain(cpu_pool(be), items, 4), image_to_latent_items,
		&job);
}

void CPU_NAME(patch_fill)(struct ops *ops) {
	ops->patchify = patchify;
	ops->unpatchify = unpatchify;
	ops->latent_to_image = latent_to_image;
	ops->image_to_latent = image_to_latent;
}
