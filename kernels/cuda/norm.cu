/* SPDX-License-Identifier: Apache-2.0 */
/* Row norms fused with what surrounds them: gate and sum of a product, layer
 * norm, modulation, fp8 quantisation of the row; RMS norm. Rows lie in registers
 * (rows.cuh): bound by memory. */
#include "kernels/cuda/rows.cuh"

/* What becomes of a row of the residual stream, by value to kernels. Row i uses
 * gate row i / gate_rows and modulation row i / norm_rows. */
struct norm_row {
	const float *scale, *shift, *gate; /* gate NULL: 1 */
	int rows, norm_rows, gate_rows, d;
	float eps;
};

/* Layer norm about the mean in two passes (x^2 - mean^2 cancels), then modulation. */
template <typename C>
__device__ __forceinline__ void row_normalise(float (&v)[C::V][C::E], const norm_row &n, int64_t row,
	float (*shared)[32]) {
	const float *scale = n.scale + row / n.norm_rows * n.d, *shift = n.shift + row / n.norm_rows * n.d;
	float mean = row_sum<C>(v, n.d, shared[0], [](float x) { return x; }) / n.d;
	float variance = row_sum<C>(v, n.d, shared[1], [&](float x) { return (x - mean) * (x - mean); }) / n.d;
	float r = rsqrtf(variance + n.eps);
#pragma unroll
	for (int i = 0; i < C::V; i++) {
		if (row_column<C>(i) < n.d) {
			float a[C::E], b[C::E];
			piece_load(a, scale + row_column<C>(i));
			piece_load(b, shift + row_column<C>(i));
#pragma unroll
			for (int e = 0; e < C::E; e++)
				v[i][e] = (v[i][e] - mean) * r * (1.f + a[e]) + b[e];
		}
	}
}

template <typename C, typename X, typename Y>
__global__ void __launch_bounds__(C::threads, C::blocks) norm_modulate_kernel(Y *y, const float *y_scale, const X *x,
	norm_row n) {
	__shared__ float shared[2][32];
	float v[C::V][C::E];
	int64_t row = row_number<C>();
	if (row >= n.rows)
		return;
	row_load<C>(v, x + row * n.d, n.d);
	row_normalise<C>(v, n, row, shared);
	row_store<C>(y + row * n.d, y_scale, v, n.d);
}

/* r += finished t * gate, then its norm to y. */
template <typename C, typename T, typename Y>
__global__ void __launch_bounds__(C::threads, C::blocks) residual_norm_kernel(Y *y, const float *y_scale, float *r,
	const T *t, finish f, norm_row n) {
	__shared__ float shared[2][32];
	float v[C::V][C::E];
	int64_t row = row_number<C>();
	if (row >= n.rows)
		return;
	row_load<C>(v, r + row * n.d, n.d);
#pragma unroll
	for (int i = 0; i < C::V; i++) {
		int c = row_column<C>(i);
		if (c < n.d) {
			float p[C::E], g[C::E];
			piece_load(p, t + row * n.d + c);
			piece_finish<T>(p, f, c);
			if (n.gate)
				piece_load(g, n.gate + row / n.gate_rows * n.d + c);
#pragma unroll
			for (int e = 0; e < C::E; e++)
				v[i][e] += n.gate ? p[e] * g[e] : p[e];
		}
	}
	row_store<C>(r + row * n.d, nullptr, v, n.d); /* after all loads: none waits for it */
	row_normalise<C>(v, n, row, shared);
	row_store<C>(y + row * n.d, y_scale, v, n.d);
}

#define STREAM_THREADS 256 /* at most: rows of 2048 */

/* Rows of at most STREAM_THREADS * 8 columns: a block goes from row to row and
 * keeps gate, bias and modulation of its columns in registers; the next row is
 * under way while this one is reduced. SUM: of
 * r += (t + bias) * gate; else of t. */
template <bool SUM, typename T, typename Y>
__global__ void __launch_bounds__(STREAM_THREADS, 3) norm_stream_kernel(Y *y, const float *y_scale, float *r, const T *t,
	const float *bias, norm_row n) {
	__shared__ float shared[2][2][32];
	int c = threadIdx.x * 8;
	bool mine = c < n.d;
	float b[8] = {}, gate[8], scale[8] = {}, shift[8] = {};
	raw_piece<8, float> in{};
	raw_piece<8, T> add{};
	int norm_group = -1, gate_group = -1, row = blockIdx.x;
#pragma unroll
	for (int e = 0; e < 8; e++)
		gate[e] = 1.f;
	if (mine && SUM && bias)
		piece_load(b, bias + c);
	float inverse = sizeof(Y) == 1 ? y_scale[1] : 1.f;
	auto load = [&](int at) {
		if (!mine || at >= n.rows)
			return;
		if (SUM)
			in = raw_load<8>(r + (int64_t)at * n.d + c);
		add = raw_load<8>(t + (int64_t)at * n.d + c);
	};
	load(row);
	for (int turn = 0; row < n.rows; row += gridDim.x, turn ^= 1) {
		if (mine && row / n.norm_rows != norm_group) {
			norm_group = row / n.norm_rows;
			piece_load(scale, n.scale + (int64_t)norm_group * n.d + c);
			piece_load(shift, n.shift + (int64_t)norm_group * n.d + c);
		}
		if (SUM && mine && n.gate && row / n.gate_rows != gate_group) {
			gate_group = row / n.gate_rows;
			piece_load(gate, n.gate + (int64_t)gate_group * n.d + c);
		}
		float v[8], sum = 0.f, squares = 0.f;
#pragma unroll
		for (int e = 0; e < 8; e++) {
			v[e] = SUM ? in.v[e] + (to_float(add.v[e]) + b[e]) * gate[e] : to_float(add.v[e]);
			sum += v[e];
		}
		if (SUM && mine)
			piece_store(r + (int64_t)row * n.d + c, v);
		load(row + gridDim.x);
		float mean = block_reduce<join_sum>(mine ? sum : 0.f, shared[turn][0]) / n.d;
#pragma unroll
		for (int e = 0; e < 8; e++)
			squares += (v[e] - mean) * (v[e] - mean);
		float k = rsqrtf(block_reduce<join_sum>(mine ? squares : 0.f, shared[turn][1]) / n.d + n.eps);
#pragma unroll
		for (int e = 0; e < 8; e++)
			v[e] = (v[e] - mean) * k * (1.f + scale[e]) + shift[e];
		if (mine)
			piece_store(y + (int64_t)row * n.d + c, v, inverse);
	}
}

template <bool SUM, typename T, typename Y>
static void norm_stream(struct backend *be, Y *y, const float *y_scale, float *r, const T *t, const float *bias,
	const norm_row &n) {
	int64_t threads = ceil_div(n.d, 8 * 32) * 32, fit = cuda_of(be)->processors * (3 * STREAM_THREADS / threads);
	norm_stream_kernel<SUM><<<(unsigned)(n.rows < fit ? n.rows : fit), (unsigned)threads, 0, cuda_of(be)->stream>>>(y,
		y_scale, r, t, bias, n);
}

static bool streams(const norm_row &n) {
	return n.d % 8 == 0 && n.d <= 8 * STREAM_THREADS;
}

static norm_row norm_of(const struct norm_args *a, int64_t rows, int64_t d) {
	norm_row n{};
	n.scale = (const float *)a->scale->data, n.shift = (const float *)a->shift->data;
	n.rows = (int)rows, n.norm_rows = (int)(rows / tensor_row_count(a->scale));
	n.d = (int)d, n.eps = a->eps;
	return n;
}

void cuda_norm_modulate(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *scale,
	const struct tensor *shift, float eps) {
	struct norm_args args = {scale, shift, eps};
	int64_t rows = tensor_row_count(x), d = tensor_cols(x);
	norm_row n = norm_of(&args, rows, d);
	const float *codes;
	if (!scale_of(be, "norm_modulate", y, &codes))
		return;
	by_dtype(be, x->dtype, "norm_modulate", [&](auto tx) {
		by_output(be, y->dtype, "norm_modulate", [&](auto ty) {
			using X = decltype(tx);
			using Y = decltype(ty);
			if (streams(n))
				return norm_stream<false>(be, (Y *)y->data, codes, nullptr, (const X *)x->data, nullptr, n);
			by_wide_cut(be, "norm_modulate", rows, d, [&](auto cut, unsigned grid, dim3 threads) {
				norm_modulate_kernel<decltype(cut), X, Y><<<grid, threads, 0, cuda_of(be)->stream>>>(
					(Y *)y->data, codes, (const X *)x->data, n);
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
	n.gate_rows = (int)(gate ? rows / tensor_row_count(gate) : rows);
	const float *codes;
	if (!scale_of(be, "linear_residual_norm", y, &codes))
		return;
	auto launch = [&](auto tt, auto ty) {
		using T = decltype(tt);
		using Y = decltype(ty);
		if (streams(n) && f.act == ACT_NONE)
			return norm_stream<true>(be, (Y *)y->data, codes, (float *)r->data, (const T *)t->data, f.bias, n);
		by_wide_cut(be, "linear_residual_norm", rows, d, [&](auto cut, unsigned grid, dim3 threads) {
			residual_norm_kernel<decltype(cut), T, Y><<<grid, threads, 0, cuda_of(be)->stream>>>((Y *)y->data, codes,
				(float *)r->data, (const T *)t->data, f, n);
		});
	};
	if (t->dtype == DTYPE_F32) /* no f32 layer reads codes */
		by_dtype(be, y->dtype, "linear_residual_norm", [&](auto ty) { launch(float{}, ty); });
	else
		by_output(be, y->dtype, "linear_residual_norm", [&](auto ty) { launch(__nv_bfloat16{}, ty); });
	launch_check(be, "linear_residual_norm", r);
}

template <typename C, typename X, typename Y>
__global__ void __launch_bounds__(C::threads, C::blocks) rms_norm_kernel(Y *y, const X *x, const float *g, int64_t rows,
	int d, float eps) {
	__shared__ float shared[32];
	float v[C::V][C::E];
	int64_t row = row_number<C>();
	if (row >= rows)
		return;
	row_load<C>(v, x + row * d, d);
	float r = rsqrtf(row_sum<C>(v, d, shared, [](float a) { return a * a; }) / d + eps);
#pragma unroll
	for (int i = 0; i < C::V; i++) {
		if (row_column<C>(i) < d) {
			float w[C::E];
			piece_load(w, g + row_column<C>(i));
#pragma unroll
			for (int e = 0; e < C::E; e++)
				v[i][e] *= r * w[e];
		}
	}
	row_store<C>(y + row * d, nullptr, v, d);
}

void cuda_rms_norm(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *g, float eps) {
	int64_t rows = tensor_row_count(x), d = tensor_cols(x);
	by_dtype(be, x->dtype, "rms_norm", [&](auto tx) {
		by_dtype(be, y->dtype, "rms_norm", [&](auto ty) {
			by_cut(be, "rms_norm", rows, d, [&](auto cut, unsigned grid, dim3 threads) {
				using X = decltype(tx);
				using Y = decltype(ty);
				rms_norm_kernel<decltype(cut), X, Y><<<grid, threads, 0, cuda_of(be)->stream>>>((Y *)y->data,
					(const X *)x->data, (const float *)g->data, rows, (int)d, eps);
			});
		});
	});
	launch_check(be, "rms_norm", x);
}
