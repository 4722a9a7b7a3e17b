/* SPDX-License-Identifier: Apache-2.0 */
/* Prepared products. A shape is looked up by what it is; when it is new, the
 * library is asked for the most it can fuse (bias, GELU, codes: cards differ), and
 * big shapes try the library's first few kernels on the real
 * operands. Only kernels whose result is bit for bit that of the first one may
 * win, so that measuring changes the speed and nothing else. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/blas.cuh"
#include "kernels/cuda/product.cuh"

#define PRODUCTS 64
#define CANDIDATES 12
#define MEASURE_FROM 4e9 /* flop */
#define MEASURE_ROWS 1024 /* texts come in any length: not worth a wait */
#define MEASURE_RUNS 4

struct product {
	/* What it is. */
	int64_t rows, out, in;
	enum precision precision;
	enum dtype y_dtype;
	bool wants_bias, wants_gelu;
	/* What was prepared. */
	cublasLtMatmulDesc_t desc;
	cublasLtMatrixLayout_t w, x, y, c; /* c: added with weight 0, as bf16 when y is codes */
	cublasLtMatmulAlgo_t algo;
	bool possible, biased, activated; /* the library has a kernel; what that does */
	uint64_t used;
};

struct product_set {
	struct product item[PRODUCTS];
	int count;
	uint64_t clock;
};

static cudaDataType_t operand_type(enum precision p) {
	return p == PRECISION_F32 ? CUDA_R_32F : p == PRECISION_BF16 ? CUDA_R_16BF : CUDA_R_8F_E4M3;
}

static cudaDataType_t result_type(enum dtype d) {
	return d == DTYPE_F32 ? CUDA_R_32F : d == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_8F_E4M3;
}

static void product_drop(const struct blas *b, struct product *p) {
	if (p->desc)
		b->cublasLtMatmulDescDestroy(p->desc);
	for (cublasLtMatrixLayout_t m : {p->w, p->x, p->y, p->c}) {
		if (m)
			b->cublasLtMatrixLayoutDestroy(m);
	}
	p->desc = nullptr;
	p->w = p->x = p->y = p->c = nullptr;
}

void cuda_products_destroy(struct backend *be) {
	struct product_set *s = cuda_of(be)->products;
	for (int i = 0; s && i < s->count; i++)
		product_drop(cuda_of(be)->blas, &s->item[i]);
	free(s);
	cuda_of(be)->products = nullptr;
}

template <typename T>
static void set(const struct blas *b, struct product *p, cublasLtMatmulDescAttributes_t what, T value) {
	b->cublasLtMatmulDescSetAttribute(p->desc, what, &value, sizeof value);
}

/* The pointers of one call. */
static void product_point(const struct blas *b, struct product *p, const struct product_args *a) {
	if (p->biased)
		set(b, p, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
			a->y_dtype == DTYPE_F32 ? (const void *)a->bias : a->bias_bf16);
	if (p->precision == PRECISION_FP8) {
		set(b, p, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, (const void *)a->w_scale);
		set(b, p, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, (const void *)a->x_scale);
	}
	if (p->y_dtype == DTYPE_FP8_E4M3)
		set(b, p, CUBLASLT_MATMUL_DESC_D_SCALE_POINTER, (const void *)(a->y_scale + 1));
}

/* Column-major for the library: D[out, rows] = W^T[out, in] X[in, rows]. */
static int product_describe(struct backend *be, struct product *p, const struct product_args *a,
	cublasLtMatmulHeuristicResult_t *found) {
	const struct blas *b = cuda_of(be)->blas;
	cublasLtMatmulPreference_t preference;
	int n = 0;
	product_drop(b, p);
	b->cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
	set(b, p, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
	set(b, p, CUBLASLT_MATMUL_DESC_EPILOGUE, p->activated ? CUBLASLT_EPILOGUE_GELU_BIAS :
		p->biased ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT);
	if (p->precision == PRECISION_FP8) /* its error is a tenth of what the codes lost */
		set(b, p, CUBLASLT_MATMUL_DESC_FAST_ACCUM, (int8_t)1);
	product_point(b, p, a);
	cudaDataType_t in = operand_type(p->precision), out = result_type(p->y_dtype);
	b->cublasLtMatrixLayoutCreate(&p->w, in, (uint64_t)p->in, (uint64_t)p->out, p->in);
	b->cublasLtMatrixLayoutCreate(&p->x, in, (uint64_t)p->in, (uint64_t)p->rows, p->in);
	b->cublasLtMatrixLayoutCreate(&p->y, out, (uint64_t)p->out, (uint64_t)p->rows, p->out);
	b->cublasLtMatrixLayoutCreate(&p->c, out == CUDA_R_8F_E4M3 ? CUDA_R_16BF : out, (uint64_t)p->out, (uint64_t)p->rows, p->out);
	size_t space = PRODUCT_WORKSPACE;
	b->cublasLtMatmulPreferenceCreate(&preference);
	b->cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &space, sizeof space);
	cublasStatus_t r = b->cublasLtMatmulAlgoGetHeuristic(b->handle, p->desc, p->w, p->x, p->c, p->y, preference,
		CANDIDATES, found, &n);
	b->cublasLtMatmulPreferenceDestroy(preference);
	return r == CUBLAS_STATUS_SUCCESS ? n : 0;
}

static cublasStatus_t product_run(struct backend *be, const struct product *p, const struct product_args *a, void *y,
	const cublasLtMatmulAlgo_t *algo) {
	struct cuda_state *cu = cuda_of(be);
	float alpha = 1.f, beta = 0.f;
	return cu->blas->cublasLtMatmul(cu->blas->handle, p->desc, &alpha, a->w, p->w, a->x, p->x, &beta,
		p->y_dtype == DTYPE_FP8_E4M3 ? a->room : y, p->c, y, p->y, algo,
		cu->scratch, PRODUCT_WORKSPACE, cu->stream);
}

/* ---- measuring ---- */
__global__ void differ_kernel(int *flag, const uint4 *a, const uint4 *b, int64_t n) {
	int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (i >= n)
		return;
	uint4 p = a[i], q = b[i];
	if (p.x != q.x || p.y != q.y || p.z != q.z || p.w != q.w)
		*flag = 1;
}

/* Microseconds of a candidate, or infinity when it fails or its result is not `want`. */
static float candidate_time(struct backend *be, const struct product *p, const struct product_args *a,
	const cublasLtMatmulAlgo_t *algo, char *room, size_t bytes, const void *want, cudaEvent_t event[2]) {
	cudaStream_t stream = cuda_of(be)->stream;
	int *flag = (int *)(room + bytes), differs = 0;
	cudaMemsetAsync(flag, 0, sizeof *flag, stream);
	if (product_run(be, p, a, room, algo) != CUBLAS_STATUS_SUCCESS)
		return INFINITY;
	int64_t n = (int64_t)bytes / 16;
	differ_kernel<<<(unsigned)ceil_div(n, 256), 256, 0, stream>>>(flag, (const uint4 *)room, (const uint4 *)want, n);
	cudaEventRecord(event[0], stream);
	for (int i = 0; i < MEASURE_RUNS; i++)
		product_run(be, p, a, room, algo);
	cudaEventRecord(event[1], stream);
	float ms = INFINITY;
	if (cudaMemcpyAsync(&differs, flag, sizeof differs, cudaMemcpyDeviceToHost, stream) != cudaSuccess ||
		cudaStreamSynchronize(stream) != cudaSuccess || cudaEventElapsedTime(&ms, event[0], event[1]) != cudaSuccess)
		return INFINITY;
	return differs ? INFINITY : ms * 1e3f / MEASURE_RUNS;
}

static int fastest(struct backend *be, const struct product *p, const struct product_args *a,
	const cublasLtMatmulHeuristicResult_t *found, int n) {
	cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
	size_t bytes = (size_t)(a->rows * a->out) * dtype_bytes(a->y_dtype);
	cudaStreamIsCapturing(cuda_of(be)->stream, &capture);
	if (n < 2 || capture != cudaStreamCaptureStatusNone || bytes % 16 || a->rows < MEASURE_ROWS ||
		2. * (double)a->rows * (double)a->out * (double)a->in < MEASURE_FROM)
		return 0;
	struct error e = {};
	cudaEvent_t event[2] = {};
	char *room = (char *)cuda_alloc(be, bytes + 256, &e);
	int best = 0;
	if (room && cudaEventCreate(&event[0]) == cudaSuccess && cudaEventCreate(&event[1]) == cudaSuccess &&
		product_run(be, p, a, a->y, &found[0].algo) == CUBLAS_STATUS_SUCCESS) {
		float least = INFINITY;
		for (int i = 0; i < n; i++) {
			float us = candidate_time(be, p, a, &found[i].algo, room, bytes, a->y, event);
			if (us < least * 0.99f) /* of equals the first */
				best = i, least = us;
		}
	}
	for (cudaEvent_t ev : event) {
		if (ev)
			cudaEventDestroy(ev);
	}
	backend_free(be, room);
	return best;
}

/* ---- finding ---- */
static void product_prepare(struct backend *be, struct product *p, const struct product_args *a) {
	cublasLtMatmulHeuristicResult_t found[CANDIDATES];
	for (int way = 0; way < 3 && !p->possible; way++) {
		p->activated = way < 1 && p->wants_gelu && p->wants_bias;
		p->biased = way < 2 && p->wants_bias;
		bool again = (way == 0 && !p->activated) || (way == 1 && !p->biased); /* the next way is the same */
		bool less = p->biased != p->wants_bias || p->activated != p->wants_gelu;
		if (again || (less && p->y_dtype == DTYPE_FP8_E4M3))
			continue;
		int n = product_describe(be, p, a, found);
		p->possible = n > 0;
		if (n > 0)
			p->algo = found[fastest(be, p, a, found, n)].algo;
	}
}

static struct product *product_find(struct backend *be, const struct product_args *a) {
	struct cuda_state *cu = cuda_of(be);
	if (!cu->products)
		cu->products = (struct product_set *)calloc(1, sizeof *cu->products);
	struct product_set *s = cu->products;
	if (!s)
		return nullptr;
	bool bias = a->bias != nullptr, gelu = a->act == ACT_GELU_TANH;
	struct product *oldest = &s->item[0];
	for (int i = 0; i < s->count; i++) {
		struct product *p = &s->item[i];
		if (p->rows == a->rows && p->out == a->out && p->in == a->in && p->precision == a->precision &&
			p->y_dtype == a->y_dtype && p->wants_bias == bias && p->wants_gelu == gelu) {
			p->used = ++s->clock;
			return p;
		}
		oldest = p->used < oldest->used ? p : oldest;
	}
	struct product *p = s->count < PRODUCTS ? &s->item[s->count++] : oldest;
	product_drop(cu->blas, p);
	*p = {};
	p->rows = a->rows, p->out = a->out, p->in = a->in;
	p->precision = a->precision, p->y_dtype = a->y_dtype;
	p->wants_bias = bias, p->wants_gelu = gelu;
	p->used = ++s->clock;
	product_prepare(be, p, a);
	return p;
}

bool cuda_product(struct backend *be, const struct product_args *a, finish *left) {
	struct product *p = product_find(be, a);
	if (!p || !p->possible)
		return false;
	const struct blas *b = cuda_of(be)->blas;
	product_point(b, p, a);
	cublasStatus_t r = product_run(be, p, a, a->y, &p->algo);
	if (r != CUBLAS_STATUS_SUCCESS)
		cuda_latch_text(be, -EIO, "linear", b->cublasLtGetStatusString(r));
	*left = {p->biased ? nullptr : a->bias, p->activated ? ACT_NONE : a->act};
	return true;
}
