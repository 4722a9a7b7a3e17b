/* SPDX-License-Identifier: Apache-2.0 */
/* Causal convolutions over channels-last images. bf16 with channels in eights:
 * tiles on the tensor cores (conv.cuh), the tile shape chosen by the channels when
 * the weight is packed: conv_sm90.cu on Hopper, mma.sync elsewhere. f32, or other channels: one thread an output, the exact
 * path. Bound by the tensor cores; the widest pictures by memory. */
#include <stdlib.h>
#include <vector>

#include "kernels/cuda/conv_few.cuh"
#include "kernels/fold.h"

/* One compiled tile shape. */
struct tile_kind {
	int height, columns, chunk, threads, stages, pitch;
	bool few; /* conv_few.cuh: taps are columns */
	const void *bf16, *f32; /* kernels by output type */
};
template <int TH, int BN, int WM, int WN, int CK, int BLOCKS> static constexpr tile_kind kind_of() {
	return {TH, BN, CK, WM * WN * 32, conv_stages<CK>(), conv_pitch<BN>(), false,
		(const void *)conv_patch_kernel<TH, BN, WM, WN, CK, BLOCKS, __nv_bfloat16>,
		(const void *)conv_patch_kernel<TH, BN, WM, WN, CK, BLOCKS, float>};
}

template <int CK> static constexpr tile_kind few_of() {
	return {FEW_HEIGHT, FEW_COLUMNS, CK, FEW_THREADS, 1, 0, true, (const void *)conv_few_kernel<CK, __nv_bfloat16>,
		(const void *)conv_few_kernel<CK, float>};
}

struct conv {
	struct conv_spec spec;
	const tile_kind *kind; /* NULL: the exact path */
	void *w;               /* kind: bf16 [parts, column tiles, kt, chunks, taps, columns, chunk] in the order of steps; else f32 as given */
	float *bias;           /* [phases, out] or NULL */
	conv_grid grid;        /* but for the sizes of a call */
	size_t shared_bytes;
};

/* What the exact kernel needs to know of a call, by value. */
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

/* ---- weights ---- */

enum { WIDE, WIDE_96, NARROW, FEW, FEW_DEEP, HOPPER_64, HOPPER_96, HOPPER_128, HOPPER_192 };
static const tile_kind kinds[] = {
	kind_of<16, 64, 4, 2, 32, 2>(), /* WIDE */
	kind_of<8, 96, 2, 2, 32, 3>(),  /* WIDE_96 */
	kind_of<16, 32, 8, 1, 32, 2>(), /* NARROW */
	few_of<32>(),                   /* FEW */
	few_of<64>(),                   /* FEW_DEEP */
	kind_of<16, 64, 4, 2, 64, 2>(), /* HOPPER_64 */
	kind_of<8, 96, 2, 2, 64, 2>(),  /* HOPPER_96 */
	kind_of<8, 128, 2, 4, 64, 2>(), /* HOPPER_128 */
	kind_of<8, 192, 2, 4, 64, 1>(), /* HOPPER_192 */
};

/* By measure: SPEED.md. On Hopper what conv_sm90.cu wants to have packed. */
static const tile_kind *kind_for(const struct conv_spec *s, int cc) {
	int columns = s->phases * s->out, per_pixel = s->kh * s->kw * s->out;
	int patch = (FEW_HEIGHT - 1 + s->kh) * (TILE_WIDTH - 1 + s->kw);
	if (s->stride > 1)
		return &kinds[WIDE_96]; /* the patch is four times as big */
	if (s->upsample == 1 && s->phases == 1 && per_pixel < FEW_PITCH && patch <= FEW_PIXELS)
		return &kinds[s->in == 64 && s->kt == 1 ? FEW_DEEP : FEW];
	if (columns <= 32)
		return &kinds[NARROW];
	bool by_96 = columns % 96 == 0 && columns % 64 != 0;
	if (cc != 90 || s->out % 8)
		return &kinds[by_96 ? WIDE_96 : WIDE];
	if (by_96)
		return &kinds[HOPPER_96];
	if (columns % 192 == 0)
		return &kinds[HOPPER_192];
	return &kinds[columns % 128 == 0 && columns > 128 ? HOPPER_128 : HOPPER_64];
}

/* Everything of the grid that the spec and the tile shape say, and shared memory. */
static void grid_fill(struct conv *c) {
	const struct conv_spec *s = &c->spec;
	conv_grid *g = &c->grid;
	*g = {};
	g->in = s->in, g->out = s->out, g->kt = s->kt;
	g->stride_t = s->stride_t, g->stride = s->stride;
	g->phases = s->phases, g->columns = s->phases * s->out, g->up = s->upsample, g->relu = s->act == ACT_RELU;
	for (int axis = 0; axis < 2; axis++) {
		int taps = axis ? s->kw : s->kh, pad = axis ? s->pad_left : s->pad_top, most = 0;
		for (int odd = 0; odd < 2; odd++) {
			int count = taps;
			g->before[axis][odd] = pad;
			if (s->upsample == 2)
				fold_axis(taps, pad, odd, &count, &g->before[axis][odd]);
			most = count > most ? count : most;
		}
		(axis ? g->kw : g->kh) = most;
	}
	const tile_kind *k = c->kind;
	int taps = g->kh * g->kw;
	g->column_tiles = (int)ceil_div(g->columns, k->columns);
	g->parts = s->upsample * s->upsample;
	g->chunks = (int)ceil_div(s->in, k->chunk);
	g->patch_h = (k->height - 1) * s->stride + g->kh;
	g->patch_w = (TILE_WIDTH - 1) * s->stride + g->kw;
	g->patch_bytes = (int)ceil_div(g->patch_h * g->patch_w * k->chunk * 2, 128) * 128;
	g->lead = (int)ceil_div(k->stages - 1, taps);
	c->shared_bytes = (size_t)k->stages * k->columns * k->chunk * 2 + (size_t)(g->lead + 1) * g->patch_bytes;
	if (k->few) { /* two in turn, or the only one; then a float for each tap of each pixel */
		g->lead = s->kt * g->chunks > 1;
		c->shared_bytes = (size_t)(g->lead + 1) * (g->patch_bytes + k->columns * k->chunk * 2);
		size_t parts = (size_t)(g->patch_h * g->patch_w) * FEW_PITCH * sizeof(float);
		c->shared_bytes = c->shared_bytes < parts ? parts : c->shared_bytes;
		return;
	}
	size_t finished = (size_t)k->height * TILE_WIDTH * k->pitch;
	if (c->shared_bytes < finished)
		c->shared_bytes = finished;
}

/* The order of steps, swizzled: see conv.cuh. w [phases, out, kt, kh, kw, in]. */
static std::vector<__nv_bfloat16> pack(const struct conv *c, const float *w) {
	const conv_grid *g = &c->grid;
	const tile_kind *k = c->kind;
	size_t taps = (size_t)g->kh * g->kw, steps = k->few ? 1 : taps, row = g->kt * taps * g->in, block = (size_t)k->columns * k->chunk;
	std::vector<__nv_bfloat16> packed(g->parts * g->column_tiles * g->kt * g->chunks * steps * block, __float2bfloat16(0.f));
	std::vector<float> folded;
	for (int part = 0; part < g->parts; part++) {
		const float *from = w;
		if (g->parts > 1) {
			int odd[2] = {part / 2, part % 2};
			folded.assign(g->columns * row, 0.f);
			fold_place(folded.data(), w, (int64_t)g->columns * g->kt, &c->spec, odd, g->kh, g->kw);
			from = folded.data();
		}
		for (size_t i = 0; i < g->columns * row; i++) {
			size_t o = i / row, dt = i / (taps * g->in) % g->kt, tap = i / g->in % taps, in = i % g->in;
			if (k->few) {
				o = tap * g->out + o;
				tap = 0;
			}
			size_t tile = (size_t)part * g->column_tiles + o / k->columns;
			size_t step = ((tile * g->kt + dt) * g->chunks + in / k->chunk) * steps + tap;
			int r = (int)(o % k->columns), vec = (int)(in % k->chunk / 8);
			size_t at = (size_t)(k->chunk == 64 ? pixel_at<64>(r, vec) : pixel_at<32>(r, vec)) / 2 + in % 8;
			packed[step * block + at] = __float2bfloat16_rn(from[i]);
		}
	}
	return packed;
}

static void *upload(struct backend *be, const void *from, size_t bytes, struct error *e) {
	void *to = cuda_alloc(be, bytes, e);
	if (to)
		backend_upload(be, to, from, bytes);
	return to;
}

/* Lets both kernels of the tile shape use the shared memory that the grid needs. */
static bool allow_shared(struct conv *c, struct error *e) {
	const void *kernel[] = {c->kind->bf16, c->kind->f32};
	for (const void *k : kernel) {
		cudaFuncAttributes a;
		cudaError_t r = cudaFuncGetAttributes(&a, k);
		if (r == cudaSuccess && a.maxDynamicSharedSizeBytes < (int)c->shared_bytes)
			r = cudaFuncSetAttribute(k, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)c->shared_bytes);
		if (r != cudaSuccess) {
			error_set(e, -EIO, "a convolution wants %zu KiB of shared memory: %s", c->shared_bytes >> 10, cudaGetErrorString(r));
			return false;
		}
	}
	return true;
}

struct conv *cuda_conv_create(struct backend *be, const struct conv_spec *spec, const struct tensor *w,
	const struct tensor *b, enum precision p, struct error *e) {
	struct conv *c = (struct conv *)calloc(1, sizeof *c);
	if (!c) {
		error_set(e, -ENOMEM, "no host memory for a convolution");
		return nullptr;
	}
	size_t rows = (size_t)spec->phases * spec->out;
	c->spec = *spec;
	if (p != PRECISION_F32 && spec->in % 8 == 0) {
		c->kind = kind_for(spec, cuda_of(be)->cc);
		grid_fill(c);
		if (allow_shared(c, e)) {
			std::vector<__nv_bfloat16> packed = pack(c, (const float *)w->data);
			c->w = upload(be, packed.data(), packed.size() * 2, e);
		}
	} else {
		c->w = upload(be, w->data, rows * spec->kt * spec->kh * spec->kw * spec->in * 4, e);
	}
	if (c->w && b)
		c->bias = (float *)upload(be, b->data, rows * 4, e);
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

/* ---- running ---- */

static void run_tiles(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *history,
	const struct conv *c, const struct tensor *skip) {
	conv_grid g = c->grid;
	g.H = (int)x->dim[1];
	g.W = (int)x->dim[2];
	g.rows = (int)y->dim[1] / g.up;
	g.cols = (int)y->dim[2] / g.up;
	g.tiles_y = (int)ceil_div(g.rows, c->kind->height);
	g.tiles_x = (int)ceil_div(g.cols, TILE_WIDTH);
	int64_t blocks = y->dim[0] / g.phases * g.tiles_y * g.tiles_x * g.parts * g.column_tiles;
	conv_tiles whole{&g, c->kind->columns, c->kind->chunk, c->w, c->bias};
	bool done = !c->kind->few && conv_flow(be, y, x, history, &whole, skip);
	const void *past = history ? history->data : nullptr, *add = skip ? skip->data : nullptr;
	void *arguments[] = {(void *)&y->data, (void *)&x->data, (void *)&past, (void *)&c->w, (void *)&c->bias, (void *)&add,
		(void *)&g};
	if (!done)
		cudaLaunchKernel(y->dtype == DTYPE_F32 ? c->kind->f32 : c->kind->bf16, dim3((unsigned)blocks),
			dim3((unsigned)c->kind->threads), arguments, c->shared_bytes, cuda_of(be)->stream);
	/* Neither decoder has these after a convolution: not worth a place in the tile. */
	if (c->spec.act == ACT_SILU || c->spec.act == ACT_GELU_TANH)
		cuda_activate(be, y, y, c->spec.act);
}

void cuda_conv(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *history,
	const struct conv *c, const struct tensor *skip) {
	if ((history && history->dtype != x->dtype) || (skip && skip->dtype != y->dtype) ||
		(c->kind && (x->dtype != DTYPE_BF16 || (y->dtype != DTYPE_BF16 && y->dtype != DTYPE_F32)))) {
		cuda_latch_text(be, -EINVAL, "conv", "history must have the dtype of x, skip that of y, and bf16 weights take bf16 images");
		return;
	}
	if (c->kind) {
		run_tiles(be, y, x, history, c, skip);
	} else {
		conv_geometry g = geometry_of(c, y, x);
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
