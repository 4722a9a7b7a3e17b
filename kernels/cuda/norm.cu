/* SPDX-License-Identifier: Apache-2.0 */
/* Row norms fused with what surrounds them: gate and sum of a product, layer
 * norm, modulation, fp8 quantisation of the row; RMS norm. One block a row
 * (rows.cuh): bound by memory. */
#include "kernels/cuda/rows.cuh"

/* What becomes of a row of the residual stream, by value to kernels. Row i uses
 * gate row i / gate_rows and modulation row i / norm_rows. */
struct norm_row {
	const float *scale, *shift, *gate; /* gate NULL: 1 */
	int64_t norm_rows, gate_rows;
	int d;
	float eps;
};

/* Layer norm about the mean in two passes (x^2 - mean^2 cancels), then modulation. */
template <int V, int E>
__device__ __forceinline__ void row_normalise(float (&v)[V][E], const norm_row &n, int64_t row, float (*shared)[32]) {
	const float *scale = n.scale + row / n.norm_rows * n.d, *shift = n.shift + row / n.norm_rows * n.d;
	float a[E], b[E];
	if (V == 1 && row_column(0, E) < n.d) { /* asked for before the barriers */
		piece_load(a, scale + row_column(0, E));
		piece_load(b, shift + row_column(0, E));
	}
	float mean = row_sum(v, n.d, shared[0], [](float x) { return x; }) / n.d;
	float variance = row_sum(v, n.d, shared[1], [&](float x) { return (x - mean) * (x - mean); }) / n.d;
	float r = rsqrtf(variance + n.eps);
#pragma unroll
	for (int i = 0; i < V; i++) {
		int c = row_column(i, E);
		if (c >= n.d)
			break;
		if (V > 1) {
			piece_load(a, scale + c);
			piece_load(b, shift + c);
		}
#pragma unroll
		for (int e = 0; e < E; e++)
			v[i][e] = (v[i][e] - mean) * r * (1.f + a[e]) + b[e];
	}
}

template <typename C, typename X, typename Y>
__global__ void __launch_bounds__(C::threads) norm_modulate_kernel(Y *y, float *y_scale, const X *x, norm_row n) {
	__shared__ float shared[3][32];
	float v[C::V][C::E];
	int64_t row = blockIdx.x;
	row_load(v, x + row * n.d, n.d);
	row_normalise(v, n, row, shared);
	row_store(y + row * n.d, y_scale, v, n.d, row, shared[2]);
}

/* r += finished t * gate, then its norm to y. */
template <typename C, typename T, typename Y>
__global__ void __launch_bounds__(C::threads) residual_norm_kernel(Y *y, float *y_scale, float *r, const T *t, finish f,
	norm_row n) {
	__shared__ float shared[3][32];
	float v[C::V][C::E];
	int64_t row = blockIdx.x;
	row_load(v, r + row * n.d, n.d);
#pragma unroll
	for (int i = 0; i < C::V; i++) {
		int c = row_column(i, C::E);
		if (c >= n.d)
			break;
		float p[C::E], g[C::E];
		piece_load(p, t + row * n.d + c);
		piece_finish<T>(p, f, row, c);
		if (n.gate)
			piece_load(g, n.gate + row / n.gate_rows * n.d + c);
#pragma unroll
		for (int e = 0; e < C::E; e++)
			v[i][e] += n.gate ? p[e] * g[e] : p[e];
		piece_store(r + row * n.d + c, v[i]);
	}
	row_normalise(v, n, row, shared);
	row_store(y + row * n.d, y_scale, v, n.d, row, shared[2]);
}

static norm_row norm_of(const struct norm_args *a, int64_t rows, int64_t d) {
	norm_row n{};
	n.scale = (const float *)a->scale->data, n.shift = (const float *)a->shift->data;
	n.norm_rows = rows / tensor_row_count(a->scale);
	n.d = (int)d, n.eps = a->eps;
	return n;
}

void cuda_norm_modulate(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *scale,
	const struct tensor *shift, float eps) {
	struct norm_args args = {scale, shift, eps};
	int64_t rows = tensor_row_count(x), d = tensor_cols(x);
	norm_row n = norm_of(&args, rows, d);
	by_dtype(be, x->dtype, "norm_modulate", [&](auto tx) {
		by_output(be, y->dtype, "norm_modulate", [&](auto ty) {
			by_cut(be, "norm_modulate", d, [&](auto cut, unsigned threads) {
				using X = decltype(tx);
				using Y = decltype(ty);
				norm_modulate_kernel<decltype(cut), X, Y><<<(unsigned)rows, threads, 0, cuda_of(be)->stream>>>(
					(Y *)y->data, y->scale, (const X *)x->data, n);
			});
		});
	});
	launch_check(be, "norm_modulate", x);
}

void cuda_residual_norm(struct backend *be, struct tensor *y, struct tensor *r, const struct tensor *t, finish f,
	const struct tensor *gate, const struct norm_args *args) {
	int64_t rows = tensor_row_count(t), d = tensor_cols(t);
	norm_row n = norm_of(args, rows, d);
	n.gate = gate ? (const float *)gate->data : nullptr;
	n.gate_rows = gate ? rows / tensor_row_count(gate) : rows;
	by_dtype(be, t->dtype, "linear_residual_norm", [&](auto tt) {
		by_output(be, y->dtype, "linear_residual_norm", [&](auto ty) {
			by_cut(be, "linear_residual_norm", d, [&](auto cut, unsigned threads) {
				using T = decltype(tt);
				using Y = decltype(ty);
				residual_norm_kernel<decltype(cut), T, Y><<<(unsigned)rows, threads, 0, cuda_of(be)->stream>>>(
					(Y *)y->data, y->scale, (float *)r->data, (const T *)t->data, f, n);
			});
		});
	});
	launch_check(be, "linear_residual_norm", r);
}

template <typename C, typename X, typename Y>
__global__ void __launch_bounds__(C::threads) rms_norm_kernel(Y *y, const X *x, const float *g, int d, float eps) {
	__shared__ float shared[32];
	float v[C::V][C::E];
	int64_t row = blockIdx.x;
	row_load(v, x + row * d, d);
	float r = rsqrtf(row_sum(v, d, shared, [](float a) { return a * a; }) / d + eps);
#pragma unroll
	for (int i = 0; i < C::V; i++) {
		float w[C::E];
		if (row_column(i, C::E) >= d)
			break;
		piece_load(w, g + row_column(i, C::E));
#pragma unroll
		for (int e = 0; e < C::E; e++)
			v[i][e] *= r * w[e];
	}
	row_store(y + row * d, nullptr, v, d, row, shared);
}

void cuda_rms_norm(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *g, float eps) {
	int64_t rows = tensor_row_count(x), d = tensor_cols(x);
	by_dtype(be, x->dtype, "rms_norm", [&](auto tx) {
		by_dtype(be, y->dtype, "rms_norm", [&](auto ty) {
			by_cut(be, "rms_norm", d, [&](auto cut, unsigned threads) {
				using X = decltype(tx);
				using Y = decltype(ty);
				rms_norm_kernel<decltype(cut), X, Y><<<(unsigned)rows, threads, 0, cuda_of(be)->stream>>>((Y *)y->data,
					(const X *)x->data, (const float *)g->data, (int)d, eps);
			});
		});
	});
	launch_check(be, "rms_norm", x);
}
