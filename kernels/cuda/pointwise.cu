/* SPDX-License-Identifier: Apache-2.0 */
/* Element by element ops and the conversions between dtypes. Bound by memory. */
#include "kernels/cuda/product.cuh"

#define THREADS 256

static unsigned grid_of(int64_t n) {
	return (unsigned)ceil_div(n, THREADS);
}

template <typename Y, typename A, typename G>
__global__ void gated_gelu_kernel(Y *y, const A *a, const G *g, int64_t n) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < n)
		y[i] = from_float<Y>(to_float(a[i]) * gelu_tanh(to_float(g[i])));
}

void cuda_gated_gelu(struct backend *be, struct tensor *y, const struct tensor *a, const struct tensor *g) {
	int64_t n = tensor_count(a);
	if (a->dtype != g->dtype || a->dtype != y->dtype) {
		cuda_latch_text(be, -EINVAL, "gated_gelu", "all three tensors must have one dtype");
		return;
	}
	by_dtype(be, a->dtype, "gated_gelu", [&](auto t) {
		using T = decltype(t);
		gated_gelu_kernel<<<grid_of(n), THREADS, 0, cuda_of(be)->stream>>>((T *)y->data,
			(const T *)a->data, (const T *)g->data, n);
	});
	launch_check(be, "gated_gelu", a);
}

template <typename Y, typename X>
__global__ void gather_kernel(Y *y, const X *table, const int32_t *ids, int64_t n, int64_t d) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < n * d)
		y[i] = from_float<Y>(to_float(table[ids[i / d] * d + i % d]));
}

void cuda_gather_rows(struct backend *be, struct tensor *y, const struct tensor *table, const struct tensor *ids) {
	int64_t n = tensor_count(ids), d = tensor_cols(table);
	by_dtype(be, table->dtype, "gather_rows", [&](auto tx) {
		by_dtype(be, y->dtype, "gather_rows", [&](auto ty) {
			using X = decltype(tx);
			using Y = decltype(ty);
			gather_kernel<<<grid_of(n * d), THREADS, 0, cuda_of(be)->stream>>>((Y *)y->data,
				(const X *)table->data, (const int32_t *)ids->data, n, d);
		});
	});
	launch_check(be, "gather_rows", y);
}

template <typename Y, typename X> __global__ void activate_kernel(Y *y, const X *x, int64_t n, int act) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < n)
		y[i] = from_float<Y>(activation_of(to_float(x[i]), act));
}

void cuda_activate(struct backend *be, struct tensor *y, const struct tensor *x, enum activation act) {
	int64_t n = tensor_count(x);
	by_dtype(be, x->dtype, "activate", [&](auto tx) {
		by_dtype(be, y->dtype, "activate", [&](auto ty) {
			using X = decltype(tx);
			using Y = decltype(ty);
			activate_kernel<<<grid_of(n), THREADS, 0, cuda_of(be)->stream>>>((Y *)y->data,
				(const X *)x->data, n, act);
		});
	});
	launch_check(be, "activate", x);
}

__global__ void add_rows_kernel(float *y, const float *a, const float *b, int64_t n, int64_t period) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < n)
		y[i] = a[i] + b[i % period];
}

void cuda_add_rows(struct backend *be, struct tensor *y, const struct tensor *a, const struct tensor *b) {
	if (a->dtype != DTYPE_F32 || b->dtype != DTYPE_F32 || y->dtype != DTYPE_F32) {
		cuda_latch_text(be, -EINVAL, "add_rows", "f32 only");
		return;
	}
	int64_t n = tensor_count(a);
	add_rows_kernel<<<grid_of(n), THREADS, 0, cuda_of(be)->stream>>>((float *)y->data, (const float *)a->data,
		(const float *)b->data, n, tensor_count(b));
	launch_check(be, "add_rows", a);
}

/* ---- conversions ---- */
template <typename T> __device__ float read_code(const void *p, int64_t i) {
	return to_float(((const T *)p)[i]);
}
/* cols 0: one scale. */
__device__ float read_any(const void *p, int dtype, const float *scale, int64_t i, int64_t cols) {
	float s = scale ? scale[cols ? i / cols : 0] : 1.f;
	switch (dtype) {
	case DTYPE_F32:
		return ((const float *)p)[i];
	case DTYPE_BF16:
		return read_code<__nv_bfloat16>(p, i);
	case DTYPE_F16:
		return read_code<__half>(p, i);
	case DTYPE_FP8_E4M3:
		return float(((const __nv_fp8_e4m3 *)p)[i]) * s;
	case DTYPE_I8:
		return (float)((const int8_t *)p)[i] * s;
	case DTYPE_I32:
		return (float)((const int32_t *)p)[i];
	default:
		return 0.f;
	}
}

template <typename Y>
__global__ void convert_kernel(Y *y, const void *x, int dtype, const float *scale, int64_t n, int64_t cols) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < n)
		y[i] = from_float<Y>(read_any(x, dtype, scale, i, cols));
}

/* One block a row: the largest magnitude becomes the largest code. */
__global__ void quantise_rows_kernel(void *y, int to, float *y_scale, const void *x, int from,
	const float *x_scale, int64_t cols, int64_t x_cols) {
	__shared__ float shared[32];
	int64_t base = (int64_t)blockIdx.x * cols;
	float top = 0.f;
	for (int64_t c = threadIdx.x; c < cols; c += blockDim.x)
		top = fmaxf(top, fabsf(read_any(x, from, x_scale, base + c, x_cols)));
	float limit = to == DTYPE_I8 ? 127.f : 448.f;
	top = fmaxf(block_reduce<join_max>(top, shared), 1e-5f);
	if (threadIdx.x == 0)
		y_scale[blockIdx.x] = top / limit;
	for (int64_t c = threadIdx.x; c < cols; c += blockDim.x) {
		float v = read_any(x, from, x_scale, base + c, x_cols) * (limit / top);
		if (to == DTYPE_I8)
			((int8_t *)y)[base + c] = (int8_t)fminf(fmaxf(rintf(v), -127.f), 127.f);
		else
			((__nv_fp8_e4m3 *)y)[base + c] = __nv_fp8_e4m3(v);
	}
}

/* All with one scale, clipped. */
__global__ void codes_kernel(__nv_fp8_e4m3 *y, const float *y_scale, const void *x, int from, const float *x_scale, int64_t n,
	int64_t x_cols) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < n)
		y[i] = __nv_fp8_e4m3(read_any(x, from, x_scale, i, x_cols) * y_scale[1]);
}

/* Columns that share one of t's scales; 0: all do. */
static int64_t scale_cols(const struct tensor *t) {
	return t->one_scale ? 0 : tensor_cols(t);
}

static void convert_codes(struct backend *be, struct tensor *y, const struct tensor *x) {
	int64_t n = tensor_count(x), cols = tensor_cols(y);
	struct tensor rows = tensor_2d(x->data, x->dtype, n / cols, cols);
	cudaStream_t stream = cuda_of(be)->stream;
	if (!y->one_scale)
		quantise_rows_kernel<<<(unsigned)(n / cols), 128, 0, stream>>>(y->data, y->dtype, y->scale, x->data, x->dtype,
			x->scale, cols, scale_cols(x));
	else if (row_fits(cols) && (x->dtype == DTYPE_F32 || x->dtype == DTYPE_BF16))
		cuda_finish(be, y, &rows, finish{});
	else
		codes_kernel<<<grid_of(n), THREADS, 0, stream>>>((__nv_fp8_e4m3 *)y->data, y->scale, x->data, x->dtype, x->scale,
			n, scale_cols(x));
}

void cuda_convert(struct backend *be, struct tensor *y, const struct tensor *x) {
	int64_t n = tensor_count(x);
	cudaStream_t stream = cuda_of(be)->stream;
	if (y->dtype == DTYPE_FP8_E4M3 || y->dtype == DTYPE_I8) {
		convert_codes(be, y, x);
	} else if (y->dtype == DTYPE_F16) {
		convert_kernel<<<grid_of(n), THREADS, 0, stream>>>((__half *)y->data, x->data, x->dtype, x->scale, n,
			scale_cols(x));
	} else {
		by_dtype(be, y->dtype, "convert", [&](auto t) {
			using T = decltype(t);
			convert_kernel<<<grid_of(n), THREADS, 0, stream>>>((T *)y->data, x->data, x->dtype, x->scale, n,
				scale_cols(x));
		});
	}
	launch_check(be, "convert", x);
}

/* scale[0], zero before, becomes the largest magnitude: bits of floats that are
 * not negative order as integers do, so the order of blocks does not matter. */
__global__ void peak_kernel(float *scale, const void *x, int from, const float *x_scale, int64_t n, int64_t x_cols) {
	__shared__ float shared[32];
	float top = 0.f;
	for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (int64_t)gridDim.x * THREADS)
		top = fmaxf(top, fabsf(read_any(x, from, x_scale, i, x_cols)));
	top = block_reduce<join_max>(top, shared);
	if (threadIdx.x == 0)
		atomicMax((int *)scale, __float_as_int(top));
}
__global__ void scale_kernel(float *scale, float top) {
	scale[0] = fmaxf(scale[0], 1e-5f) / top;
	scale[1] = 1.f / scale[0];
}

void cuda_peak_scale(struct backend *be, float *scale, const struct tensor *x, float top) {
	cudaStream_t stream = cuda_of(be)->stream;
	int64_t n = tensor_count(x), blocks = ceil_div(n, THREADS * 16);
	cudaMemsetAsync(scale, 0, sizeof *scale, stream);
	peak_kernel<<<(unsigned)(blocks < 4096 ? blocks : 4096), THREADS, 0, stream>>>(scale, x->data, x->dtype, x->scale, n,
		scale_cols(x));
	scale_kernel<<<1, 1, 0, stream>>>(scale, top);
	launch_check(be, "code_scale", x);
}

void cuda_code_scale(struct backend *be, struct tensor *scale, const struct tensor *x) {
	cuda_peak_scale(be, (float *)scale->data, x, 448.f);
}
