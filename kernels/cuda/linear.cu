/* SPDX-License-Identifier: Apache-2.0 */
/* Linear layers through cuBLASLt: f32 (exact, no TF32), bf16, and e4m3 with one
 * scale per weight row and one per activation row. Bias and GELU ride in the
 * library's epilogue where it can; gate + residual is one pass over the result.
 * Algorithms are looked up once per (layer, rows). Bound by the tensor cores. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/common.cuh"

#define ROWS_CACHED 8
#define WORKSPACE_BYTES (32u << 20)

struct plan {
	int64_t rows;
	cudaDataType_t x, y;
	int epilogue;
	bool accumulate;
	cublasLtMatmulAlgo_t algo;
};

struct linear {
	int64_t out, in;
	enum precision precision; /* F32, BF16 or FP8 */
	void *w;                  /* [out, in] */
	float *scale;             /* [out], FP8 */
	float *bias;              /* [out] f32 or NULL */
	void *bias_bf16;          /* the same, for bf16 results */
	struct plan plan[ROWS_CACHED];
	int plans;
};

static enum dtype weight_dtype(enum precision p) {
	return p == PRECISION_F32 ? DTYPE_F32 : p == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_FP8_E4M3;
}

static cudaDataType_t weight_type(enum precision p) {
	return p == PRECISION_F32 ? CUDA_R_32F : p == PRECISION_BF16 ? CUDA_R_16BF : CUDA_R_8F_E4M3;
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
		out.scale = *dst_scale = (float *)cuda_alloc(be, (size_t)rows * 4, e);
	if (room && out.data && (to != DTYPE_FP8_E4M3 || out.scale)) {
		struct tensor in = tensor_2d(room, host->dtype, rows, cols);
		backend_upload(be, room, host->data, tensor_bytes(host));
		if (host->scale) {
			in.scale = (float *)(room + codes);
			backend_upload(be, in.scale, host->scale, (size_t)rows * 4);
		}
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

/* Descriptors of one product: column-major D[out, n] = W^T[out, in] X[in, n]. */
struct product {
	cublasLtMatmulDesc_t desc;
	cublasLtMatrixLayout_t w, x, y;
	cublasStatus_t status;
};

static void product_make(struct product *p, const struct linear *l, int64_t rows, cudaDataType_t x, cudaDataType_t y,
	int epilogue, const float *x_scale) {
	cublasOperation_t turned = CUBLAS_OP_T;
	cublasLtEpilogue_t ep = (cublasLtEpilogue_t)epilogue;
	memset(p, 0, sizeof *p);
	p->status = cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
	cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned);
	cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &ep, sizeof ep);
	if (epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
		const void *bias = y == CUDA_R_32F ? (const void *)l->bias : l->bias_bf16;
		cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
	}
	if (l->precision == PRECISION_FP8) {
		cublasLtMatmulMatrixScale_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
		const float *ws = l->scale;
		cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode);
		cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof mode);
		cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &ws, sizeof ws);
		cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &x_scale, sizeof x_scale);
	}
	cublasLtMatrixLayoutCreate(&p->w, weight_type(l->precision), (uint64_t)l->in, (uint64_t)l->out, l->in);
	cublasLtMatrixLayoutCreate(&p->x, x, (uint64_t)l->in, (uint64_t)rows, l->in);
	cublasLtMatrixLayoutCreate(&p->y, y, (uint64_t)l->out, (uint64_t)rows, l->out);
}

static void product_drop(struct product *p) {
	cublasLtMatrixLayoutDestroy(p->w);
	cublasLtMatrixLayoutDestroy(p->x);
	cublasLtMatrixLayoutDestroy(p->y);
	cublasLtMatmulDescDestroy(p->desc);
}

static const cublasLtMatmulAlgo_t *plan_find(struct backend *be, struct linear *l, const struct product *p,
	int64_t rows, cudaDataType_t x, cudaDataType_t y, int epilogue, bool accumulate) {
	for (int i = 0; i < l->plans; i++) {
		struct plan *c = &l->plan[i];
		if (c->rows == rows && c->x == x && c->y == y && c->epilogue == epilogue && c->accumulate == accumulate)
			return &c->algo;
	}
	cublasLtMatmulPreference_t preference;
	cublasLtMatmulHeuristicResult_t found;
	int n = 0;
	size_t space = WORKSPACE_BYTES;
	cublasLtMatmulPreferenceCreate(&preference);
	cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &space, sizeof space);
	cublasStatus_t r = cublasLtMatmulAlgoGetHeuristic(cuda_of(be)->blas, p->desc, p->w, p->x, p->y, p->y, preference, 1,
		&found, &n);
	cublasLtMatmulPreferenceDestroy(preference);
	if (r != CUBLAS_STATUS_SUCCESS || n == 0) {
		cuda_latch_text(be, -ENOTSUP, "linear", cublasLtGetStatusString(r));
		return nullptr;
	}
	struct plan *c = &l->plan[l->plans < ROWS_CACHED ? l->plans++ : rows % ROWS_CACHED];
	*c = {rows, x, y, epilogue, accumulate, found.algo};
	return &c->algo;
}

/* y = x w^T (+ bias (+ gelu)), or += with accumulate. x already has the weight's type. */
static void multiply(struct backend *be, void *y, cudaDataType_t y_type, const void *x, const float *x_scale,
	const struct linear *l, int64_t rows, int epilogue, bool accumulate) {
	struct cuda_state *cu = cuda_of(be);
	struct product p;
	cudaDataType_t x_type = weight_type(l->precision);
	float alpha = 1.f, beta = accumulate ? 1.f : 0.f;
	product_make(&p, l, rows, x_type, y_type, epilogue, x_scale);
	const cublasLtMatmulAlgo_t *algo =
		plan_find(be, const_cast<struct linear *>(l), &p, rows, x_type, y_type, epilogue, accumulate);
	if (algo) {
		/* The head of the scratch area is the library's; ours begins behind it. */
		cublasStatus_t r = cublasLtMatmul(cu->blas, p.desc, &alpha, l->w, p.w, x, p.x, &beta, y, p.y, y, p.y, algo,
			cu->scratch, WORKSPACE_BYTES, cu->stream);
		if (r != CUBLAS_STATUS_SUCCESS)
			cuda_latch_text(be, -EIO, "linear", cublasLtGetStatusString(r));
	}
	product_drop(&p);
}

/* x in the weight's type: itself, or converted behind the library's workspace. */
static const void *operand(struct backend *be, const struct linear *l, const struct tensor *x, const float **scale,
	size_t *used) {
	enum dtype want = weight_dtype(l->precision);
	*scale = x->scale;
	*used = WORKSPACE_BYTES;
	if (x->dtype == want)
		return x->data;
	int64_t rows = tensor_row_count(x);
	size_t codes = align_up((size_t)(rows * l->in) * dtype_bytes(want)), scales = align_up((size_t)rows * 4);
	char *room = (char *)cuda_scratch(be, WORKSPACE_BYTES + codes + scales, "linear");
	if (!room)
		return nullptr;
	struct tensor t = tensor_2d(room + WORKSPACE_BYTES, want, rows, l->in);
	if (want == DTYPE_FP8_E4M3)
		t.scale = (float *)(room + WORKSPACE_BYTES + codes);
	cuda_convert(be, &t, x);
	*scale = t.scale;
	*used = WORKSPACE_BYTES + codes + scales;
	return t.data;
}

static bool fits(struct backend *be, const char *op, const struct tensor *x, const struct linear *l) {
	if (tensor_cols(x) == l->in)
		return true;
	cuda_latch_text(be, -EINVAL, op, "the rows of x are not as wide as the weight");
	return false;
}

void cuda_linear(struct backend *be, struct tensor *y, const struct tensor *x, const struct linear *l,
	enum activation act) {
	const float *scale;
	size_t used;
	int64_t rows = tensor_row_count(x);
	if (!fits(be, "linear", x, l))
		return;
	const void *in = operand(be, l, x, &scale, &used);
	if (!in)
		return;
	bool fused = act == ACT_GELU_TANH && l->bias && l->precision != PRECISION_FP8;
	int epilogue = fused ? CUBLASLT_EPILOGUE_GELU_BIAS : l->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
	/* f32 products give f32; 8-bit ones take a bf16 bias, so they give bf16. */
	enum dtype gives = l->precision == PRECISION_F32 ? DTYPE_F32 :
		l->precision == PRECISION_FP8 ? DTYPE_BF16 : y->dtype == DTYPE_F32 ? DTYPE_F32 : DTYPE_BF16;
	struct tensor t = *y;
	if (gives != y->dtype) {
		char *room = (char *)cuda_scratch(be, used + (size_t)(rows * l->out) * dtype_bytes(gives), "linear");
		if (!room)
			return;
		t = tensor_2d(room + used, gives, rows, l->out);
	}
	multiply(be, t.data, gives == DTYPE_F32 ? CUDA_R_32F : CUDA_R_16BF, in, scale, l, rows, epilogue, false);
	if (act != ACT_NONE && !fused && gives == y->dtype)
		cuda_activate(be, y, y, act);
	else if (gives != y->dtype) {
		if (act != ACT_NONE && !fused)
			cuda_activate(be, &t, &t, act);
		cuda_convert(be, y, &t);
	}
	launch_check(be, "linear", x);
}

/* r[n,d] += (t[n,d] + bias[d]) * gate[m,d] */
template <typename T>
__global__ void gate_residual_kernel(float *r, const T *t, const float *bias, const float *gate, int64_t n, int d,
	int64_t rows_per_gate) {
	int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
	if (i >= n)
		return;
	int c = (int)(i % d);
	float4 v = load4(t + i), a = load4(r + i), one = make_float4(1.f, 1.f, 1.f, 1.f), zero = make_float4(0.f, 0.f, 0.f, 0.f);
	float4 b = bias ? load4(bias + c) : zero, g = gate ? load4(gate + i / d / rows_per_gate * d + c) : one;
	store4(r + i, make_float4(a.x + (v.x + b.x) * g.x, a.y + (v.y + b.y) * g.y, a.z + (v.z + b.z) * g.z,
				    a.w + (v.w + b.w) * g.w));
}

void cuda_linear_residual(struct backend *be, struct tensor *r, const struct tensor *x, const struct linear *l,
	const struct tensor *gate) {
	const float *scale;
	size_t used;
	int64_t rows = tensor_row_count(x), n = rows * l->out;
	if (!fits(be, "linear_residual", x, l))
		return;
	const void *in = operand(be, l, x, &scale, &used);
	if (!in)
		return;
	if (l->out % 4) {
		cuda_latch_text(be, -EINVAL, "linear_residual", "the output width is no multiple of 4");
		return;
	}
	enum dtype gives = l->precision == PRECISION_F32 ? DTYPE_F32 : DTYPE_BF16;
	char *room = (char *)cuda_scratch(be, used + (size_t)n * dtype_bytes(gives), "linear_residual");
	if (!room)
		return;
	multiply(be, room + used, gives == DTYPE_F32 ? CUDA_R_32F : CUDA_R_16BF, in, scale, l, rows,
		CUBLASLT_EPILOGUE_DEFAULT, false);
	by_dtype(be, gives, "linear_residual", [&](auto t) {
		using T = decltype(t);
		gate_residual_kernel<<<(unsigned)ceil_div(n / 4, 256), 256, 0, cuda_of(be)->stream>>>((float *)r->data,
			(const T *)(room + used), l->bias, gate ? (const float *)gate->data : nullptr, n, (int)l->out,
			gate ? rows / tensor_row_count(gate) : rows);
	});
	launch_check(be, "linear_residual", x);
}

void cuda_linear_residual_norm(struct backend *be, struct tensor *y, struct tensor *r, const struct tensor *x,
	const struct linear *l, const struct tensor *gate, const struct norm_args *norm) {
	cuda_linear_residual(be, r, x, l, gate);
	cuda_norm_modulate(be, y, r, norm->scale, norm->shift, norm->eps);
}
