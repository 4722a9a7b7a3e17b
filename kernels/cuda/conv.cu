/* SPDX-License-Identifier: Apache-2.0 */
/* Causal convolutions over channels-last images as implicit matrix products:
 * rows are output pixels, columns output channels, the inner dimension runs over
 * taps x input channels and is gathered on the fly, 8 channels (16 bytes) a
 * copy. History frames, zero padding, nearest doubling, temporal phases and
 * strides are all index arithmetic of that gather. bf16: 128 x 64 x 32 tiles, 8
 * warps of 32 x 32, four cp.async stages. f32, or channels that are no multiple
 * of 8: one thread an output, the exact path. Bound by the tensor cores. */
#include <stdlib.h>
#include <vector>

#include "kernels/cuda/attention.cuh"

#define BM 128
#define BN 64
#define BK 32
#define STAGES 4

struct conv {
	struct conv_spec spec;
	bool packed;    /* w is bf16 [phases, out up to 64s, k up to 32s], else f32 as given */
	void *w;
	float *bias;    /* [phases, out] or NULL */
	int k, k_padded, out_padded;
};

/* What both kernels need to know of a call, by value. */
struct conv_geometry {
	int in, out, kt, kh, kw, stride_t, stride, pad_top, pad_left, phases, upsample, act;
	int H, W, OH, OW;    /* stored input, output */
	int64_t pixels;      /* output pixels of one phase: frames * OH * OW */
};

static conv_geometry geometry_of(const struct conv *c, const struct tensor *y, const struct tensor *x) {
	const struct conv_spec *s = &c->spec;
	conv_geometry g{s->in, s->out, s->kt, s->kh, s->kw, s->stride_t, s->stride, s->pad_top, s->pad_left, s->phases,
		s->upsample, (int)s->act, (int)x->dim[1], (int)x->dim[2], (int)y->dim[1], (int)y->dim[2], 0};
	g.pixels = y->dim[0] / s->phases * g.OH * g.OW;
	return g;
}

/* Element offset of input pixel (frame, iy, ix) before doubling, or -1 for
 * padding; *past says it lies in the history. */
__device__ __forceinline__ int64_t input_at(const conv_geometry &g, int t, int iy, int ix, bool has_history, bool *past) {
	*past = t < 0;
	if (iy < 0 || ix < 0 || iy >= g.H * g.upsample || ix >= g.W * g.upsample || (t < 0 && !has_history))
		return -1;
	int frame = t < 0 ? t + g.kt - 1 : t;
	return (((int64_t)frame * g.H + iy / g.upsample) * g.W + ix / g.upsample) * g.in;
}

template <typename X, typename Y>
__global__ void conv_plain_kernel(Y *y, const X *x, const X *history, const float *w, const float *bias, const Y *skip,
	const conv_geometry g) {
	int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	int phase = blockIdx.y;
	if (i >= g.pixels * g.out)
		return;
	int o = (int)(i % g.out), ox = (int)(i / g.out % g.OW), oy = (int)(i / ((int64_t)g.out * g.OW) % g.OH);
	int f = (int)(i / ((int64_t)g.out * g.OW * g.OH));
	const float *row = w + ((int64_t)phase * g.out + o) * g.kt * g.kh * g.kw * g.in;
	float sum = bias ? bias[phase * g.out + o] : 0.f;
	for (int dt = 0; dt < g.kt; dt++) {
		for (int dy = 0; dy < g.kh; dy++) {
			for (int dx = 0; dx < g.kw; dx++) {
				bool past;
				int64_t at = input_at(g, f * g.stride_t - (g.kt - 1) + dt, oy * g.stride + dy - g.pad_top,
					ox * g.stride + dx - g.pad_left, history != nullptr, &past);
				const float *tap = row + ((dt * g.kh + dy) * g.kw + dx) * g.in;
				if (at < 0)
					continue;
				const X *from = (past ? history : x) + at;
				for (int c = 0; c < g.in; c++)
					sum = fmaf(to_float(from[c]), tap[c], sum);
			}
		}
	}
	int64_t out = ((((int64_t)f * g.phases + phase) * g.OH + oy) * g.OW + ox) * g.out + o;
	if (skip)
		sum += to_float(skip[out]);
	y[out] = from_float<Y>(activation_of(sum, g.act));
}

__device__ __forceinline__ int tile_at(int row, int col) {
	return (row * (BK / 8) + (col ^ ((row >> 1) & 3))) * 16;
}

template <typename Y>
__global__ void __launch_bounds__(256) conv_mma_kernel(Y *y, const __nv_bfloat16 *x, const __nv_bfloat16 *history,
	const __nv_bfloat16 *w, const float *bias, const Y *skip, const conv_geometry g, int k, int k_padded, int out_padded) {
	extern __shared__ __align__(128) char shared[];
	char *a = shared, *b = shared + STAGES * BM * BK * 2;
	int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, wm = warp >> 1, wn = warp & 1;
	int64_t first = (int64_t)blockIdx.x * BM;
	int column = blockIdx.y * BN, phase = blockIdx.z, col = threadIdx.x & 3;
	int per_tap = g.in / 8, chunks = k / 8;

	/* The two output pixels whose inputs this thread gathers. */
	int py[2], px[2], pf[2];
	for (int i = 0; i < 2; i++) {
		int64_t p = first + (threadIdx.x >> 2) + i * 64;
		bool ok = p < g.pixels;
		px[i] = (int)(p % g.OW) * g.stride - g.pad_left;
		py[i] = ok ? (int)(p / g.OW % g.OH) * g.stride - g.pad_top : -(1 << 20);
		pf[i] = (int)(p / ((int64_t)g.OW * g.OH)) * g.stride_t - (g.kt - 1);
	}
	const __nv_bfloat16 *weights = w + ((int64_t)phase * out_padded + column + (threadIdx.x >> 2)) * k_padded + col * 8;

	auto load = [&](int stage, int step) {
		int chunk = step * (BK / 8) + col, tap = chunk / per_tap, c = chunk % per_tap * 8;
		int dx = tap % g.kw, dy = tap / g.kw % g.kh, dt = tap / (g.kw * g.kh);
		for (int i = 0; i < 2; i++) {
			bool past = false;
			int64_t at = chunk < chunks ? input_at(g, pf[i] + dt, py[i] + dy, px[i] + dx, history != nullptr, &past) : -1;
			const __nv_bfloat16 *from = past ? history : x;
			copy16(a + stage * BM * BK * 2 + tile_at((threadIdx.x >> 2) + i * 64, col), at < 0 ? x : from + at + c, at >= 0);
		}
		copy16(b + stage * BN * BK * 2 + tile_at(threadIdx.x >> 2, col), weights + (int64_t)step * BK, true);
	};

	int steps = k_padded / BK;
	float acc[2][4][4] = {};
	for (int s = 0; s < STAGES - 1; s++) {
		if (s < steps)
			load(s, s);
		copy_commit();
	}
	for (int s = 0; s < steps; s++) {
		copy_wait<STAGES - 2>();
		__syncthreads();
		if (s + STAGES - 1 < steps)
			load((s + STAGES - 1) % STAGES, s + STAGES - 1);
		copy_commit();
		const char *ta = a + s % STAGES * BM * BK * 2, *tb = b + s % STAGES * BN * BK * 2;
#pragma unroll
		for (int kk = 0; kk < BK / 16; kk++) {
			uint32_t fa[2][4], fb[2][4];
#pragma unroll
			for (int i = 0; i < 2; i++)
				ldmatrix4(fa[i], smem_address(ta + tile_at(wm * 32 + i * 16 + (lane & 15), kk * 2 + (lane >> 4))));
#pragma unroll
			for (int j = 0; j < 2; j++)
				ldmatrix4(fb[j], smem_address(tb + tile_at(wn * 32 + j * 16 + (lane & 7) + ((lane >> 4) << 3),
									    kk * 2 + ((lane >> 3) & 1))));
#pragma unroll
			for (int i = 0; i < 2; i++) {
#pragma unroll
				for (int j = 0; j < 4; j++)
					mma_bf16(acc[i][j], fa[i], fb[j >> 1][(j & 1) * 2], fb[j >> 1][(j & 1) * 2 + 1]);
			}
		}
	}
#pragma unroll
	for (int i = 0; i < 2; i++) {
#pragma unroll
		for (int j = 0; j < 4; j++) {
#pragma unroll
			for (int e = 0; e < 4; e++) {
				int64_t p = first + wm * 32 + i * 16 + (lane >> 2) + (e >> 1) * 8;
				int o = column + wn * 32 + j * 8 + (lane & 3) * 2 + (e & 1);
				if (p >= g.pixels || o >= g.out)
					continue;
				int64_t per = (int64_t)g.OH * g.OW;
				int64_t at = ((p / per * g.phases + phase) * per + p % per) * g.out + o;
				float v = acc[i][j][e] + (bias ? bias[phase * g.out + o] : 0.f);
				if (skip)
					v += to_float(skip[at]);
				y[at] = from_float<Y>(activation_of(v, g.act));
			}
		}
	}
}

struct conv *cuda_conv_create(struct backend *be, const struct conv_spec *spec, const struct tensor *w,
	const struct tensor *b, enum precision p, struct error *e) {
	struct conv *c = (struct conv *)calloc(1, sizeof *c);
	if (!c) {
		error_set(e, -ENOMEM, "no host memory for a convolution");
		return nullptr;
	}
	const float *from = (const float *)w->data;
	int rows = spec->phases * spec->out;
	c->spec = *spec;
	c->k = spec->kt * spec->kh * spec->kw * spec->in;
	c->packed = p != PRECISION_F32 && spec->in % 8 == 0;
	if (c->packed) {
		c->k_padded = (int)ceil_div(c->k, BK) * BK;
		c->out_padded = (int)ceil_div(spec->out, BN) * BN;
		std::vector<__nv_bfloat16> half((size_t)spec->phases * c->out_padded * c->k_padded, __float2bfloat16(0.f));
		for (int r = 0; r < rows; r++) {
			size_t to = ((size_t)(r / spec->out) * c->out_padded + r % spec->out) * c->k_padded;
			for (int i = 0; i < c->k; i++)
				half[to + i] = __float2bfloat16_rn(from[(size_t)r * c->k + i]);
		}
		c->w = cuda_alloc(be, half.size() * 2, e);
		if (c->w)
			backend_upload(be, c->w, half.data(), half.size() * 2);
	} else {
		c->w = cuda_alloc(be, (size_t)rows * c->k * 4, e);
		if (c->w)
			backend_upload(be, c->w, from, (size_t)rows * c->k * 4);
	}
	if (c->w && b) {
		c->bias = (float *)cuda_alloc(be, (size_t)rows * 4, e);
		if (c->bias)
			backend_upload(be, c->bias, b->data, (size_t)rows * 4);
	}
	if (!c->w || (b && !c->bias)) {
		cuda_conv_destroy(be, c);
		return nullptr;
	}
	return c;
}

void cuda_conv_destroy(struct backend *be, struct conv *c) {
	if (!c)
		return;
	backend_free(be, c->w);
	backend_free(be, c->bias);
	free(c);
}

template <typename Y>
static void mma_conv(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *history,
	const struct conv *c, const struct tensor *skip, const conv_geometry &g) {
	constexpr size_t bytes = STAGES * (BM + BN) * BK * 2;
	dim3 grid((unsigned)ceil_div(g.pixels, BM), (unsigned)(c->out_padded / BN), (unsigned)g.phases);
	cudaFuncSetAttribute(conv_mma_kernel<Y>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
	conv_mma_kernel<Y><<<grid, 256, bytes, cuda_of(be)->stream>>>((Y *)y->data, (const __nv_bfloat16 *)x->data,
		history ? (const __nv_bfloat16 *)history->data : nullptr, (const __nv_bfloat16 *)c->w, c->bias,
		skip ? (const Y *)skip->data : nullptr, g, c->k, c->k_padded, c->out_padded);
}

void cuda_conv(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *history,
	const struct conv *c, const struct tensor *skip) {
	conv_geometry g = geometry_of(c, y, x);
	if ((history && history->dtype != x->dtype) || (skip && skip->dtype != y->dtype) ||
		(c->packed && x->dtype != DTYPE_BF16)) {
		cuda_latch_text(be, -EINVAL, "conv", "history must have the dtype of x, skip that of y, and bf16 weights take bf16 images");
		return;
	}
	if (c->packed) {
		by_dtype(be, y->dtype, "conv", [&](auto t) { mma_conv<decltype(t)>(be, y, x, history, c, skip, g); });
	} else {
		dim3 grid((unsigned)ceil_div(g.pixels * g.out, 256), (unsigned)g.phases);
		by_dtype(be, x->dtype, "conv", [&](auto tx) {
			by_dtype(be, y->dtype, "conv", [&](auto ty) {
				using X = decltype(tx);
				using Y = decltype(ty);
				conv_plain_kernel<<<grid, 256, 0, cuda_of(be)->stream>>>((Y *)y->data, (const X *)x->data,
					history ? (const X *)history->data : nullptr, (const float *)c->w, c->bias,
					skip ? (const Y *)skip->data : nullptr, g);
			});
		});
	}
	launch_check(be, "conv", x);
}
