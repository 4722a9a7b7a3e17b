/* SPDX-License-Identifier: Apache-2.0 */
/* Launches of conv_sm90.cuh: which shape, how many blocks, tensor maps. */
#include "kernels/cuda/conv_sm90.cuh"

struct flow_shape {
	int height, columns, threads, chunk, stages;
	const void *kernel;
};
template <int TH, int BN, int GROUPS, int CK, int STAGES, int BLOCKS, int MORE> static constexpr flow_shape shape_of() {
	return {TH, BN, flow_threads<GROUPS, MORE>(), CK, STAGES,
		(const void *)conv_flow_kernel<TH, BN, GROUPS, CK, STAGES, BLOCKS, MORE>};
}
enum { FLOW_64, FLOW_96, FLOW_128, FLOW_128_FEW, FLOW_192 };
static const flow_shape shapes[] = {
	shape_of<8, 64, 1, 64, 3, 3, 0>(),    /* FLOW_64 */
	shape_of<8, 96, 1, 64, 4, 2, 208>(),  /* FLOW_96 */
	shape_of<8, 128, 1, 64, 4, 2, 208>(), /* FLOW_128 */
	shape_of<8, 128, 2, 64, 4, 1, 0>(),   /* FLOW_128_FEW */
	shape_of<8, 192, 2, 64, 4, 1, 216>(), /* FLOW_192 */
};

static PFN_cuTensorMapEncodeTiled_v12000 encoder(void) {
	static PFN_cuTensorMapEncodeTiled_v12000 found;
	cudaDriverEntryPointQueryResult result;
	void *p = nullptr;
	if (!found && cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000, cudaEnableDefault, &result) == cudaSuccess &&
		result == cudaDriverEntryPointSuccess)
		found = (PFN_cuTensorMapEncodeTiled_v12000)p;
	return found;
}

/* Boxes of one patch from images [frames, H, W, in]. */
static bool map_make(CUtensorMap *map, const struct tensor *x, const conv_grid *g, int chunk) {
	cuuint64_t size[4] = {(cuuint64_t)x->dim[3], (cuuint64_t)x->dim[2], (cuuint64_t)x->dim[1], (cuuint64_t)x->dim[0]};
	cuuint64_t stride[3] = {size[0] * 2, size[0] * size[1] * 2, size[0] * size[1] * size[2] * 2};
	cuuint32_t box[4] = {(cuuint32_t)chunk, (cuuint32_t)g->patch_w, (cuuint32_t)g->patch_h, 1}, every[4] = {1, 1, 1, 1};
	PFN_cuTensorMapEncodeTiled_v12000 encode = encoder();
	return encode && encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, x->data, size, stride, box, every,
				 CU_TENSOR_MAP_INTERLEAVE_NONE, chunk == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
				 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* By measure: SPEED.md. Few tiles: one block a processor, with twice the warps. */
static const flow_shape *shape_for(int columns, int64_t tiles_128, int processors) {
	if (columns == 64)
		return &shapes[FLOW_64];
	if (columns == 128)
		return &shapes[tiles_128 <= processors ? FLOW_128_FEW : FLOW_128];
	if (columns == 96)
		return &shapes[FLOW_96];
	if (columns == 192)
		return &shapes[FLOW_192];
	return nullptr;
}

bool conv_flow(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *history,
	const struct conv_tiles *c, const struct tensor *skip) {
	conv_flow_args f{*c->grid, 0, 0, 0};
	conv_grid *g = &f.grid;
	if (cuda_of(be)->cc != 90 || y->dtype != DTYPE_BF16 || g->out % 8 || g->stride != 1 || g->in % 8)
		return false;
	int64_t halves = y->dim[0] / g->phases * ceil_div(g->rows, 8) * ceil_div(g->cols, TILE_WIDTH) * g->parts * g->column_tiles;
	const flow_shape *s = shape_for(c->columns, halves, cuda_of(be)->processors);
	if (!s || s->chunk != c->chunk)
		return false;
	int taps = g->kh * g->kw;
	g->tiles_y = (int)ceil_div(g->rows, s->height);
	g->patch_h = s->height - 1 + g->kh;
	f.patch_load = g->patch_h * g->patch_w * c->chunk * 2;
	g->patch_bytes = (int)ceil_div(f.patch_load, 1024) * 1024;
	f.patches = taps >= s->stages ? 2 : FLOW_PATCHES_MAX;
	f.tiles = y->dim[0] / g->phases * g->tiles_y * g->tiles_x * g->parts * g->column_tiles;
	size_t bytes = (size_t)f.patches * g->patch_bytes + (size_t)s->stages * s->columns * s->chunk * 2 +
		(2 * FLOW_PATCHES_MAX + 2 * s->stages) * 8;
	if (bytes > (227 << 10) || f.tiles > INT32_MAX || tensor_count(y) > INT32_MAX)
		return false;
	CUtensorMap image, past;
	if (!map_make(&image, x, g, c->chunk) || !map_make(&past, history ? history : x, g, c->chunk))
		return false;
	cudaFuncAttributes a;
	int most = 0;
	if (cudaFuncGetAttributes(&a, s->kernel) != cudaSuccess)
		return false;
	if (a.maxDynamicSharedSizeBytes < (int)bytes)
		cudaFuncSetAttribute(s->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
	cudaOccupancyMaxActiveBlocksPerMultiprocessor(&most, s->kernel, s->threads, bytes);
	if (most < 1)
		return false;
	int64_t room = (int64_t)most * cuda_of(be)->processors;
	const void *add = skip ? skip->data : nullptr;
	int has = history != nullptr;
	void *arguments[] = {(void *)&y->data, (void *)&c->w, (void *)&c->bias, (void *)&add, (void *)&has, &f, &image, &past};
	cudaLaunchKernel(s->kernel, dim3((unsigned)(f.tiles < room ? f.tiles : room)), dim3((unsigned)s->threads), arguments, bytes,
		cuda_of(be)->stream);
	return true;
}
