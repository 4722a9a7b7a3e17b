/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the CUDA backend: the device, its stream, scratch memory, the latch;
 * and the ops, one file per family, that backend.cu puts into the table.
 * Thread: the backend's owner. */
#ifndef KERNELS_CUDA_CUDA_H
#define KERNELS_CUDA_CUDA_H
#include <cublasLt.h>
#include <cuda_runtime.h>

#include "kernels/backend.h"

struct cuda_state {
	int device, cc;             /* cc: 89, 90, 120 */
	int processors;             /* multiprocessors */
	cudaStream_t stream;        /* all ops */
	struct blas *blas;          /* blas.cuh; of the root, which lanes share */
	void *scratch;              /* shared by ops in stream order: split results, quantised rows */
	size_t scratch_bytes;
	struct product_set *products; /* product.cu: prepared matrix products */
};
struct cuda_state *cuda_of(struct backend *be);
/* First failure wins; illegal addresses and launch failures are sticky. */
void cuda_latch(struct backend *be, cudaError_t r, const char *op, const struct tensor *t);
void cuda_latch_text(struct backend *be, int code, const char *op, const char *text);
/* bytes of the scratch area, or NULL with a latched failure. */
void *cuda_scratch(struct backend *be, size_t bytes, const char *op);
/* Device memory with accounting, for weights. */
void *cuda_alloc(struct backend *be, size_t bytes, struct error *e);

/* product.cu */
void cuda_products_destroy(struct backend *be);
/* linear.cu */
struct linear *cuda_linear_create(struct backend *be, const struct tensor *w, const struct tensor *b,
	enum precision p, struct error *e);
void cuda_linear_destroy(struct backend *be, struct linear *l);
void cuda_linear(struct backend *be, struct tensor *y, const struct tensor *x, const struct linear *l,
	enum activation act);
void cuda_linear_residual(struct backend *be, struct tensor *r, const struct tensor *x,
	const struct linear *l, const struct tensor *gate);
void cuda_linear_residual_norm(struct backend *be, struct tensor *y, struct tensor *r,
	const struct tensor *x, const struct linear *l, const struct tensor *gate,
	const struct norm_args *norm);
/* norm.cu */
void cuda_norm_modulate(struct backend *be, struct tensor *y, const struct tensor *x,
	const struct tensor *scale, const struct tensor *shift, float eps);
void cuda_rms_norm(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *g,
	float eps);
void cuda_channel_norm(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *g,
	enum activation act);
/* qkv.cu */
void cuda_qk_norm_rope_write(struct backend *be, struct tensor *q, struct tensor *q_mean,
	const struct kv_span *slot, const struct tensor *qkv, const struct tensor *g_q,
	const struct tensor *g_k, const struct rope *rope, float eps);
/* kv.cu */
size_t cuda_kv_bytes(const struct kv_shape *shape);
void cuda_kv_copy(struct backend *be, const struct kv_span *dst, const struct kv_span *src);
void cuda_kv_rotate(struct backend *be, const struct kv_span *span, double delta_frames, double theta);
void cuda_kv_export(struct backend *be, struct tensor *k, struct tensor *v, const struct kv_span *span);
void cuda_kv_import(struct backend *be, const struct kv_span *span, const struct tensor *k,
	const struct tensor *v);
/* attention.cu, sdpa.cu, select.cu */
void cuda_attention(struct backend *be, struct tensor *y, const struct tensor *q,
	const struct kv_span *spans, int n_spans, const struct block_list *list);
void cuda_sdpa(struct backend *be, struct tensor *y, const struct tensor *q, const struct tensor *k,
	const struct tensor *v, int heads, const struct sdpa_args *args);
void cuda_select_blocks(struct backend *be, struct block_list *list, const struct tensor *q_mean,
	const struct kv_span *spans, int n_spans, const struct select_args *args);
/* attention_wide.cu: false, and nothing done, where heads or dtypes are not its own. */
bool cuda_sdpa_wide(struct backend *be, struct tensor *y, const struct tensor *q, const struct tensor *k,
	const struct tensor *v, int heads, const struct sdpa_args *args);
/* pointwise.cu */
void cuda_gated_gelu(struct backend *be, struct tensor *y, const struct tensor *a, const struct tensor *g);
void cuda_gather_rows(struct backend *be, struct tensor *y, const struct tensor *table,
	const struct tensor *ids);
void cuda_activate(struct backend *be, struct tensor *y, const struct tensor *x, enum activation act);
void cuda_add_rows(struct backend *be, struct tensor *y, const struct tensor *a, const struct tensor *b);
void cuda_convert(struct backend *be, struct tensor *y, const struct tensor *x);
void cuda_code_scale(struct backend *be, struct tensor *scale, const struct tensor *x);
/* The same for values of which the largest may be `top` scales. */
void cuda_peak_scale(struct backend *be, float *scale, const struct tensor *x, float top);
/* sampler.cu */
void cuda_patchify(struct backend *be, struct tensor *y, const struct tensor *x, int p, int q);
void cuda_unpatchify(struct backend *be, struct tensor *y, const struct tensor *x, int p, int q);
void cuda_denoise(struct backend *be, struct tensor *x0, struct tensor *next, const struct tensor *x,
	const struct tensor *flow, const struct tensor *noise, const float sigma[2]);
void cuda_noise(struct backend *be, struct tensor *y, uint64_t seed, int64_t chunk, int step);
/* image.cu */
void cuda_latent_to_image(struct backend *be, struct tensor *y, const struct tensor *x,
	const struct tensor *mean, const struct tensor *std, float bound);
void cuda_image_to_latent(struct backend *be, struct tensor *y, const struct tensor *x,
	const struct tensor *mean, const struct tensor *std);
void cuda_rgb_to_i420(struct backend *be, struct tensor *yuv, const struct tensor *rgb, float gain,
	float offset);
/* conv.cu */
struct conv *cuda_conv_create(struct backend *be, const struct conv_spec *spec, const struct tensor *w,
	const struct tensor *b, enum precision p, struct error *e);
void cuda_conv_destroy(struct backend *be, struct conv *c);
void cuda_conv(struct backend *be, struct tensor *y, const struct tensor *x, const struct tensor *history,
	const struct conv *c, const struct tensor *skip);
#endif
