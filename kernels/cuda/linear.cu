/* SPDX-License-Identifier: Apache-2.0 */
/* Linear layers: f32 (exact, no TF32), bf16, and e4m3 with one scale a tensor, which
 * is what every card's library takes with bias, GELU and codes in its epilogue
 * (codes are floats: rows up to 2^10 smaller than the largest lose nothing). A
 * product (product.cuh), then at most one pass over its result. Bound by the
 * tensor cores. */
#include <stdlib.h>

#include "kernels/cuda/product.cuh"

struct linear {
	int64_t out, in;
	enum precision precision; /* F32, BF16 or FP8 */
	void *w;                  /* [out, in] */
	float *scale;             /* [2], FP8 */
	float *bias;              /* [out] f32 or NULL */
	void *bias_bf16;          /* the same, for bf16 results */
};

static enum dtype weight_dtype(enum precision p) {
	return p == PRECISION_F32 ? DTYPE_F32 : p == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_FP8_E4M3;
}

void cuda_linear_destroy(struct backend *be, struct linear *l) {
	if (!l)
		return;
	backend_free(be, l->w);
	backend_free(be, l->scale);
	backend_free(be, l->bias);
	backend_free(be, l->bias_bf16);
	free(l);
}

/* y = x, with a scale that suits x. Codes that already share one keep it and their values. */
static void codes_of(struct backend *be, struct tensor *y, const struct tensor *x) {
	bool codes = x->dtype == DTYPE_FP8_E4M3 && x->scale;
	struct tensor scales = tensor_2d(x->scale, DTYPE_F32, 1, x->one_scale ? 1 : tensor_row_count(x));
	y->one_scale = true;
	cuda_peak_scale(be, y->scale, codes ? &scales : x, codes ? 1.f : 448.f);
	cuda_convert(be, y, x);
}

/* Host tensor -> device memory of another dtype: the codes travel as they are and
 * are converted there, so a 14 B model is quantised in seconds. */
static int place(struct backend *be, void **dst, float **dst_scale, enum dtype to, const struct tensor *host,
	struct error *e) {
	int64_t rows = tensor_row_count(host), cols = tensor_cols(host);
	size_t codes = align_up(tensor_bytes(host)), scales = host->scale ? align_up((size_t)rows * 4) : 0;
	char *room = (char *)cuda_alloc(be, codes + scales, e);
	struct tensor out = tensor_2d(cuda_alloc(be, (size_t)(rows * cols) * dtype_bytes(to), e), to, rows, cols);
	*dst = out.data;
	if (to == DTYPE_FP8_E4M3)
		out.scale = *dst_scale = (float *)cuda_alloc(be, 2 * sizeof(float), e);
	if (room && out.data && (to != DTYPE_FP8_E4M3 || out.scale)) {
		struct tensor in = tensor_2d(room, host->dtype, rows, cols);
		backend_upload(be, room, host->data, tensor_bytes(host));
		if (host->scale) {
			in.scale = (float *)(room + codes);
			backend_upload(be, in.scale, host->scale, (size_t)rows * 4);
		}
		if (to == DTYPE_FP8_E4M3)
			codes_of(be, &out, &in);
		else
			cuda_convert(be, &out, &in);
		backend_sync(be, e); /* before the source is given back */
	}
	backend_free(be, room);
	return e && e->code ? e->code : 0;
}

/* Weight and bias in the forms the products need. */
static int linear_fill(struct backend *be, struct linear *l, const struct tensor *w, const struct tensor *b,
	struct error *e) {
	struct tensor matrix = tensor_2d(w->data, w->dtype, l->out, l->in);
	matrix.scale = w->scale;
	int r = place(be, &l->w, &l->scale, weight_dtype(l->precision), &matrix, e);
	if (r < 0 || !b)
		return r;
	struct tensor row = tensor_2d(b->data, b->dtype, 1, l->out);
	row.scale = b->scale;
	r = place(be, (void **)&l->bias, nullptr, DTYPE_F32, &row, e);
	return r < 0 ? r : place(be, &l->bias_bf16, nullptr, DTYPE_BF16, &row, e);
}

struct linear *cuda_linear_create(struct backend *be, const struct tensor *w, const struct tensor *b, enum precision p,
	struct error *e) {
	struct error own = {};
	if (p == PRECISION_INT8) {
		error_set(e, -EINVAL, "precision: int8 is a CPU mode; on a GPU use fp8 or bf16");
		return nullptr;
	}
	struct linear *l = (struct linear *)calloc(1, sizeof *l);
	if (!l) {
		error_set(e, -ENOMEM, "no host memory for a linear layer");
		return nullptr;
	}
	l->in = tensor_cols(w);
	l->out = tensor_count(w) / l->in;
	l->precision = p == PRECISION_AUTO ? PRECISION_BF16 : p;
	/* The library wants 16-byte rows for 8-bit operands. */
	if (l->precision == PRECISION_FP8 && (l->in % 16 || l->out % 16))
		l->precision = PRECISION_BF16;
	if (linear_fill(be, l, w, b, &own) < 0) {
		error_set(e, own.code, "%s", own.text);
		cuda_linear_destroy(be, l);
		return nullptr;
	}
	return l;
}

/* Operands and, behind the library's workspace, `room` for a result apart from y.
 * x goes as it is, or converted. False: latched. */
static bool product_of(struct backend *be, const char *op, struct product_args *a, const struct tensor *x,
	const struct linear *l, enum dtype gives, bool apart) {
	enum dtype want = weight_dtype(l->precision);
	int64_t rows = tensor_row_count(x);
	bool as_is = x->dtype == want && (want != DTYPE_FP8_E4M3 || one_scale(x));
	if (tensor_cols(x) != l->in) {
		cuda_latch_text(be, -EINVAL, op, "the rows of x are not as wide as the weight");
		return false;
	}
	size_t codes = as_is ? 0 : align_up((size_t)(rows * l->in) * dtype_bytes(want)), scale = as_is ? 0 : align_up(8);
	size_t result = apart ? (size_t)(rows * l->out) * dtype_bytes(gives) : 0;
	char *scratch = (char *)cuda_scratch(be, PRODUCT_WORKSPACE + codes + scale + result, op);
	if (!scratch)
		return false;
	scratch += PRODUCT_WORKSPACE;
	struct tensor in = *x;
	if (!as_is) {
		in = tensor_2d(scratch, want, rows, l->in);
		in.scale = want == DTYPE_FP8_E4M3 ? (float *)(scratch + codes) : nullptr;
		if (want == DTYPE_FP8_E4M3)
			codes_of(be, &in, x);
		else
			cuda_convert(be, &in, x);
	}
	*a = {rows, l->out, l->in, l->precision, l->w, in.data, l->scale, in.scale, nullptr, l->bias, l->bias_bf16, ACT_NONE,
		nullptr, scratch + codes + scale, gives};
	return true;
}

static bool product_run(struct backend *be, const char *op, const struct product_args *a, finish *left) {
	if (cuda_product(be, a, left))
		return true;
	cuda_latch_text(be, -ENOTSUP, op, "cuBLASLt has no kernel for this shape and precision");
	return false;
}

void cuda_linear(struct backend *be, struct tensor *y, const struct tensor *x, const struct linear *l,
	enum activation act) {
	struct product_args a;
	finish left;
	/* f32 products give f32; 8-bit ones take a bf16 bias, so they give bf16 or codes. */
	bool fp8 = l->precision == PRECISION_FP8, f32 = l->precision == PRECISION_F32;
	enum dtype gives = f32 ? DTYPE_F32 : fp8 || y->dtype != DTYPE_F32 ? DTYPE_BF16 : DTYPE_F32;
	if (!product_of(be, "linear", &a, x, l, gives, gives != y->dtype))
		return;
	a.act = act;
	if (fp8 && y->dtype == DTYPE_FP8_E4M3 && one_scale(y)) {
		a.y = y->data, a.y_dtype = y->dtype, a.y_scale = y->scale;
		if (cuda_product(be, &a, &left))
			return;
		a.y_dtype = gives;
	}
	struct tensor t = tensor_2d(gives == y->dtype ? y->data : a.room, gives, a.rows, l->out);
	a.y = t.data;
	if (product_run(be, "linear", &a, &left) && (t.data != y->data || left.bias || left.act != ACT_NONE))
		cuda_finish(be, y, &t, left);
}

/* x w^T in scratch memory, as much as the layer's precision is worth. */
static bool product_apart(struct backend *be, const char *op, struct tensor *t, finish *left, const struct tensor *x,
	const struct linear *l) {
	struct product_args a;
	enum dtype gives = l->precision == PRECISION_F32 ? DTYPE_F32 : DTYPE_BF16;
	if (!product_of(be, op, &a, x, l, gives, true))
		return false;
	*t = tensor_2d(a.room, gives, a.rows, l->out);
	a.y = a.room;
	a.bias = nullptr; /* added in f32 with the gate */
	if (!product_run(be, op, &a, left))
		return false;
	left->bias = l->bias;
	return true;
}

void cuda_linear_residual(struct backend *be, struct tensor *r, const struct tensor *x, const struct linear *l,
	const struct tensor *gate) {
	struct tensor t;
	finish left;
	if (product_apart(be, "linear_residual", &t, &left, x, l))
		cuda_residual(be, r, &t, left, gate);
}

void cuda_linear_residual_norm(struct backend *be, struct tensor *y, struct tensor *r, const struct tensor *x,
	const struct linear *l, const struct tensor *gate, const struct norm_args *norm) {
	struct tensor t;
	finish left;
	if (product_apart(be, "linear_residual_norm", &t, &left, x, l))
		cuda_residual_norm(be, y, r, &t, left, gate, norm);
}
