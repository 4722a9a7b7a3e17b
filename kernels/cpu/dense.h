/* SPDX-License-Identifier: Apache-2.0 */
/* The one heavy primitive that linear layers and convolutions are made of: a
 * two-dimensional convolution of one channels-last image, or of a band of rows
 * of it, by one thread. A linear layer is the 1x1 case, its rows the columns of
 * an image of height 1. Two libraries provide it: oneDNN, and plain C for
 * builds without it and for the thread sanitizer.
 *
 * Weights are packed once; what depends on the size of the image is a plan,
 * made by the owner's thread before the pool starts and kept. Thread: create,
 * plan and destroy the owner's; run any worker's, many at once. */
#ifndef KERNELS_CPU_DENSE_H
#define KERNELS_CPU_DENSE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kernels/cpu/isa.h"
#include "kernels/error.h"
#include "kernels/ops.h"

/* Plans kept per weight; the one unused for longest makes room. An op may use
 * at most half of them at once. */
#define DENSE_PLANS_MAX 24

struct dense_shape {
	int in, out, kh, kw, stride_h, stride_w;
};
/* The image at hand and what is done with the result. */
struct dense_window {
	int64_t rows, cols; /* of the input */
	int pad_top, pad_left, pad_bottom, pad_right; /* zeros */
	bool add; /* onto what y holds, before the activation */
	enum activation act;
};
static inline bool dense_window_equal(const struct dense_window *a, const struct dense_window *b) {
	return a->rows == b->rows && a->cols == b->cols && a->pad_top == b->pad_top &&
	       a->pad_left == b->pad_left && a->pad_bottom == b->pad_bottom &&
	       a->pad_right == b->pad_right && a->add == b->add && a->act == b->act;
}
struct dense_context; /* one per backend */
struct dense; /* a packed weight */
struct dense_plan;

struct dense_library {
	const char *name;
	/* Lowers *f to what the library itself is limited to. */
	struct dense_context *(*open)(struct cpu_features *f, int workers, struct error *e);
	void (*close)(struct dense_context *c); /* NULL is fine */
	bool (*has)(const struct dense_context *c, enum precision p);
	/* w [out, kh, kw, in], b [out] or NULL: f32, copied. With INT8 w is int8 and
	 * the result is the bare sum of products. */
	struct dense *(*create)(struct dense_context *c, const struct dense_shape *s, const void *w,
		const float *b, enum precision p, struct error *e);
	void (*destroy)(struct dense *d); /* NULL is fine */
	size_t (*bytes)(const struct dense *d); /* of packed weights */
	/* NULL and *e on failure. Borrowed; valid until the op ends. */
	const struct dense_plan *(*plan)(
		struct dense *d, const struct dense_window *w, struct error *e);
	/* x [rows, cols, in] f32, bf16 or int8 as the weight's precision says;
	 * y [rows', cols', out] f32. 0 or a negative code. */
	int (*run)(const struct dense_plan *p, int worker, const void *x, float *y);
};
/* Best library of this build for the set, or the one LIGHTFORCED_CPU_DENSE names
 * ("onednn", "plain"). NULL and *e when that is unknown or not built in. */
const struct dense_library *dense_library_find(enum cpu_isa isa, struct error *e);
#endif
