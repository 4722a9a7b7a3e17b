/* SPDX-License-Identifier: Apache-2.0 */
/* What follows a product and is not a norm: bias, activation and quantisation in
 * one pass over its rows; gate and sum. Bound by memory. */
#include "kernels/cuda/product.cuh"

template <typename C, typename T, typename Y>
__global__ void __launch_bounds__(C::threads, C::blocks) finish_kernel(Y *y, const float *y_scale, const T *t, finish f,
	int64_t rows, int d) {
	float v[C::V][C::E];
	int64_t row = row_number<C>();
	if (row >= rows)
		return;
	row_load<C>(v, t + row * d, d);
#pragma unroll
	for (int i = 0; i < C::V; i++) {
		if (row_column<C>(i) < d)
			piece_finish<T>(v[i], f, row_column<C>(i));
	}
	row_store<C>(y + row * d, y_scale, v, d);
}

/* Rows of any width. */
template <typename T, typename Y> __global__ void finish_any_kernel(Y *y, const T *t, finish f, int64_t n, int d) {
	int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (i >= n)
		return;
	float v = to_float(t[i]);
	int c = (int)(i % d);
	if (f.bias)
		v += f.bias[c];
	y[i] = from_float<Y>(activate_as<T>(v, f.act));
}

void cuda_finish(struct backend *be, struct tensor *y, const struct tensor *t, finish f) {
	int64_t rows = tensor_row_count(t), d = tensor_cols(t);
	cudaStream_t stream = cuda_of(be)->stream;
	const float *codes;
	if (!scale_of(be, "linear", y, &codes))
		return;
	by_dtype(be, t->dtype, "linear", [&](auto tt) {
		using T = decltype(tt);
		if (row_fits(d) || y->dtype == DTYPE_FP8_E4M3)
			by_output(be, y->dtype, "linear", [&](auto ty) {
				by_cut(be, "linear", rows, d, [&](auto cut, unsigned grid, dim3 threads) {
					using Y = decltype(ty);
					finish_kernel<decltype(cut), T, Y><<<grid, threads, 0, stream>>>((Y *)y->data, codes,
						(const T *)t->data, f, rows, (int)d);
				});
			});
		else
			by_dtype(be, y->dtype, "linear", [&](auto ty) {
				using Y = decltype(ty);
				finish_any_kernel<<<(unsigned)ceil_div(rows * d, 256), 256, 0, stream>>>((Y *)y->data,
					(const T *)t->data, f, rows * d, (int)d);
			});
	});
	launch_check(be, "linear", y);
}

/* r[n,d] += finished t[n,d] * gate[m,d] */
template <typename T>
__global__ void residual_kernel(float *r, const T *t, finish f, const float *gate, int64_t n, int d, int64_t gate_rows) {
	int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
	if (i >= n)
		return;
	int c = (int)(i % d);
	float v[4], a[4], g[4];
	piece_load(v, t + i);
	piece_load(a, r + i);
	piece_finish<T>(v, f, c);
	if (gate)
		piece_load(g, gate + i / d / gate_rows * d + c);
#pragma unroll
	for (int e = 0; e < 4; e++)
		a[e] += gate ? v[e] * g[e] : v[e];
	piece_store(r + i, a);
}

void cuda_residual(struct backend *be, struct tensor *r, const struct tensor *t, finish f, const struct tensor *gate) {
	int64_t rows = tensor_row_count(t), d = tensor_cols(t), n = rows * d;
	if (d % 4) {
		cuda_latch_text(be, -EINVAL, "linear_residual", "the output width is no multiple of 4");
		return;
	}
	by_dtype(be, t->dtype, "linear_residual", [&](auto tt) {
		using T = decltype(tt);
		residual_kernel<<<(unsigned)ceil_div(n / 4, 256), 256, 0, cuda_of(be)->stream>>>((float *)r->data,
			(const T *)t->data, f, gate ? (const float *)gate->data : nullptr, n, (int)d,
			gate ? rows / tensor_row_count(gate) : rows);
	});
	launch_check(be, "linear_residual", r);
}
