/* SPDX-License-Identifier: Apache-2.0 */
/* Self attention over the cache (dense, or the blocks of a list) and plain
 * attention (text, umT5, the decoder's middle block): picks the core and the key
 * source. bf16 with heads of 64 or 128 channels runs on the tensor cores, bound
 * by them, on Hopper with heads of 128 by a core of its own; everything else takes
 * the plain core. The first `reserved` bytes of the scratch memory are taken. */
#include <math.h>

#include "kernels/cuda/attention_small.cuh"
#include "kernels/cuda/attention_sm90.cuh"

template <int C, class S>
static void mma_launch(struct backend *be, struct tensor *y, const struct tensor *q, const S &source,
	const query_tiles &tiles, int n_tiles, int heads, float scale) {
	size_t bytes = mma_shared_bytes<C>();
	cudaError_t r = cudaFuncSetAttribute(attention_mma_kernel<C, S>, cudaFuncAttributeMaxDynamicSharedMemorySize,
		(int)bytes);
	if (r != cudaSuccess)
		cuda_latch(be, r, "attention", q);
	attention_mma_kernel<C, S><<<dim3((unsigned)n_tiles, (unsigned)heads), 128, bytes, cuda_of(be)->stream>>>(
		(__nv_bfloat16 *)y->data, (const __nv_bfloat16 *)q->data, source, tiles, heads, scale);
}

template <class S>
static void attention_launch(struct backend *be, struct tensor *y, const struct tensor *q, enum dtype keys,
	const S &source, const query_tiles &tiles, int n_tiles, int heads, int c, float scale, size_t reserved = 0) {
	if (y->dtype == DTYPE_FP8_E4M3) { /* a row's scale needs all its heads: a second pass quantises */
		void *room = cuda_scratch(be, (size_t)tensor_count(y) * 2, "attention");
		if (!room)
			return;
		struct tensor whole = tensor_2d(room, DTYPE_BF16, tensor_row_count(y), tensor_cols(y));
		attention_launch(be, &whole, q, keys, source, tiles, n_tiles, heads, c, scale, align_up(tensor_bytes(&whole)));
		cuda_convert(be, y, &whole);
		return;
	}
	bool tensor_cores = q->dtype == DTYPE_BF16 && keys == DTYPE_BF16 && y->dtype == DTYPE_BF16;
	if (tensor_cores && attention_small(be, y, q, source, tiles, heads, scale)) {
		launch_check(be, "attention", q);
		return;
	}
	bool hopper = tensor_cores && c == 128 && attention_sm90_ready(be);
	if (hopper && attention_sm90(be, y, q, source, tiles, n_tiles, heads, scale, reserved)) {
		launch_check(be, "attention", q);
		return;
	}
	if (tensor_cores && c == 128) {
		mma_launch<128>(be, y, q, source, tiles, n_tiles, heads, scale);
	} else if (tensor_cores && c == 64) {
		mma_launch<64>(be, y, q, source, tiles, n_tiles, heads, scale);
	} else if (c > ROWS_C_MAX) {
		cuda_latch_text(be, -EINVAL, "attention", "heads are at most 512 channels wide");
	} else {
		dim3 grid((unsigned)ceil_div(tiles.n, 4), (unsigned)heads);
		by_dtype(be, q->dtype, "attention", [&](auto tx) {
			by_dtype(be, y->dtype, "attention", [&](auto ty) {
				by_dtype(be, keys, "attention", [&](auto tk) {
					using X = decltype(tx);
					using Y = decltype(ty);
					using K = decltype(tk);
					attention_rows_kernel<X, Y, K><<<grid, 128, 0, cuda_of(be)->stream>>>((Y *)y->data,
						(const X *)q->data, source, tiles, tiles.n, heads, c, scale);
				});
			});
		});
	}
	launch_check(be, "attention", q);
}

/* A list whose blocks are whole tiles, or parts of tiles. */
template <bool WHOLE>
static void attention_listed(struct backend *be, struct tensor *y, const struct tensor *q, enum dtype keys,
	const span_list &l, query_tiles tiles, const struct block_list *list, float scale) {
	list_source<WHOLE> source{l, list->index, list->kept, list->query_blocks, WHOLE ? 1 : TILE / l.block,
		WHOLE ? (int)ceil_div(l.block, TILE) : 1};
	tiles.block = l.block;
	tiles.parts = source.parts;
	attention_launch(be, y, q, keys, source, tiles, list->query_blocks * tiles.parts, l.heads, l.c, scale);
}

void cuda_attention(struct backend *be, struct tensor *y, const struct tensor *q, const struct kv_span *spans,
	int n_spans, const struct block_list *list) {
	span_list l = span_list_of(spans, n_spans);
	enum dtype keys = spans[0].store->shape.dtype;
	int n = (int)(tensor_count(q) / (l.heads * l.c));
	float scale = 1.f / sqrtf((float)l.c);
	query_tiles tiles{n, l.s, 0, l.per_frame, 1};
	if (list && l.block > TILE && l.block % TILE)
		cuda_latch_text(be, -EINVAL, "attention", "key blocks above 64 tokens must be multiples of 64 on a GPU");
	else if (list && l.block >= TILE)
		attention_listed<true>(be, y, q, keys, l, tiles, list, scale);
	else if (list)
		attention_listed<false>(be, y, q, keys, l, tiles, list, scale);
	else
		attention_launch(be, y, q, keys, dense_source{l}, tiles, (int)ceil_div(n, TILE), l.heads, l.c, scale);
}

void cuda_sdpa(struct backend *be, struct tensor *y, const struct tensor *q, const struct tensor *k,
	const struct tensor *v, int heads, const struct sdpa_args *args) {
	if (cuda_sdpa_wide(be, y, q, k, v, heads, args))
		return;
	int c = (int)(tensor_cols(q) / heads), n = (int)tensor_row_count(q), m = (int)tensor_row_count(k);
	size_t e = dtype_bytes(k->dtype);
	plain_source source{};
	source.k = (const char *)k->data, source.v = (const char *)v->data;
	source.m = m, source.c = c, source.row_elements = heads * c, source.head_bytes = (int)(c * e);
	source.last = args->last_repeats > 1 ? logf((float)args->last_repeats) : 0.f;
	if (args->bias) {
		source.bias = (const float *)args->bias->data;
		source.reach = (int)(tensor_cols(args->bias) - 1) / 2;
	}
	query_tiles tiles{n, n, 0, 1, 1};
	attention_launch(be, y, q, k->dtype, source, tiles, (int)ceil_div(n, TILE), heads, c, args->scale);
}
