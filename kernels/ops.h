/* SPDX-License-Identifier: Apache-2.0 */
/* The op table: what a device can do for a model, one pointer per op. Ops are
 * the fused steps of a transformer block and of a video decoder, so that no
 * backend needs to look across calls. kernels/cpu holds the readable
 * definition of each; kernels/cuda must agree with it.
 *
 * Every op enqueues on the backend's stream and returns at once, allocates
 * nothing that outlives it, copies nothing from or to the host (calls are
 * recorded and replayed, see backend_replay), and latches the first failure in
 * the backend (backend_error). Outputs come first and may not alias inputs unless the
 * comment says so. Thread: the one that owns the backend.
 *
 * Letters: n tokens of this chunk, d model width, h heads, c head width,
 * f latent frames, s tokens of a frame, H W image rows and columns,
 * C channels. Activations are f32 on the CPU and f32 / bf16 / fp8 (with one
 * scale) on a GPU, as their tensor says; the residual stream is always f32. */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H
#include <stdbool.h>
#include <stdint.h>
#include "kernels/error.h"
#include "kernels/tensor.h"
#ifdef __cplusplus
extern "C" {
#endif
struct backend;

enum activation { ACT_NONE, ACT_SILU, ACT_GELU_TANH, ACT_RELU };
/* How a weight is held and multiplied. AUTO: the fastest the device has
 * hardware for among those whose error the manifest allows. */
enum precision { PRECISION_AUTO, PRECISION_F32, PRECISION_BF16, PRECISION_FP8, PRECISION_INT8 };

/* ---- linear ------------------------------------------------------------ */
/* A prepared weight: packed, converted or quantised the way the device likes
 * it. Made at load, owned by the caller, freed by linear_destroy. */
struct linear;
/* y = act(x w^T + b) is what the plain op computes. */

/* ---- convolution ------------------------------------------------------- */
/* Images are channels-last: [frames, H, W, C]. A convolution sees `kt` frames:
 * the output frame t reads inputs t*stride_t - (kt-1) .. t*stride_t (causal),
 * where negative ones come from `history` (oldest first). With phases p > 1
 * each input frame yields p output frames, each by its own kernel
 * (TGrow, time_conv). `upsample` 2 reads a nearest-doubled input. */
struct conv_spec {
	int in, out;           /* channels */
	int kt, kh, kw;        /* taps */
	int stride_t, stride;  /* temporal, spatial (1 or 2) */
	int pad_top, pad_left, pad_bottom, pad_right; /* zeros, after upsampling */
	int phases;            /* output frames per input frame, >= 1 */
	int upsample;          /* 1 or 2 */
	enum activation act;
};
struct conv;

/* ---- keys and values ---------------------------------------------------- */
/* Memory for the keys and values of one layer over `frames` latent frames,
 * opaque in layout: each backend stores them as its attention likes. Beside
 * them lie the means of every key block and of every frame. */
struct kv_shape {
	int heads, head_dim;
	int frame_tokens;  /* s */
	int block;         /* key tokens per block; blocks are frame-aligned, the last of a frame may be short */
	int frames;        /* slots */
	enum dtype dtype;  /* of keys and values */
};
struct kv_store {
	struct kv_shape shape;
	void *data;        /* kv_bytes(shape) bytes of backend memory */
};
/* A run of consecutive slots; several spans, oldest first, are what a chunk
 * sees: sink, ring up to its end, ring from its start. */
struct kv_span {
	const struct kv_store *store;
	int first, count;  /* slots */
};
#define KV_SPANS_MAX 3

/* Which key blocks each query block reads. Key blocks are numbered over the
 * spans in order: block j of visible frame i is i * blocks_per_frame + j. */
struct block_list {
	int heads, query_blocks, kept; /* kept: entries per (head, query block) */
	int32_t *index;                /* backend memory [heads, query_blocks, kept], ascending */
};

/* Rotations of a chunk's tokens, (cos, sin) pairs in f32 computed from double
 * angles. Of the c / 2 channel pairs of a head the first `tp` turn with the
 * frame, the others with the place in the frame. */
struct rope {
	struct tensor time;  /* [f, tp, 2] */
	struct tensor space; /* [s, c / 2 - tp, 2] */
};

struct select_args {
	int current_frames;  /* frames of the chunk in progress: the last ones visible */
	int keep;            /* blocks per query block */
	int keep_frames;     /* past frames kept by the frame stage, sink and near included; 0: one stage */
	int keep_sink, keep_near;
};

/* A layer norm and what modulates it: see norm_modulate. */
struct norm_args {
	const struct tensor *scale, *shift; /* [f, d] */
	float eps;
};

struct sdpa_args {
	float scale;
	/* The last key stands for this many identical ones: + log(count) on its
	 * logit. 0 or 1: an ordinary key. */
	int last_repeats;
	/* bias[heads, 2 * reach + 1], indexed by clamp(j - i, -reach, reach) + reach; NULL: none. */
	const struct tensor *bias;
};

struct ops {
	/* -- linear -- */
	/* w [out, in] and b [out] or NULL: host tensors of any dtype (scales
	 * honoured). NULL and *e on failure. Several w stacked by rows are
	 * given as one contiguous tensor by the caller. */
	struct linear *(*linear_create)(struct backend *be, const struct tensor *w,
		const struct tensor *b, enum precision p, struct error *e);
	void (*linear_destroy)(struct backend *be, struct linear *l);
	/* y[n,out] = act(x[n,in] w^T + b) */
	void (*linear)(struct backend *be, struct tensor *y, const struct tensor *x,
		const struct linear *l, enum activation act);
	/* r[n,out] += (x[n,in] w^T + b) * gate[f,out]; row i uses gate row
	 * i * f / n; gate NULL: 1. r f32. */
	void (*linear_residual)(struct backend *be, struct tensor *r, const struct tensor *x,
		const struct linear *l, const struct tensor *gate);
	/* linear_residual, then norm_modulate of what r has become into
	 * y[n,out]; y may be x. What ends a part of a block begins the next one. */
	void (*linear_residual_norm)(struct backend *be, struct tensor *y, struct tensor *r,
		const struct tensor *x, const struct linear *l, const struct tensor *gate,
		const struct norm_args *norm);

	/* -- transformer block -- */
	/* y[n,d] = layernorm(x) * (1 + scale[f,d]) + shift[f,d]; row i uses
	 * modulation row i * f / n. No affine of its own: norm3 passes w - 1. */
	void (*norm_modulate)(struct backend *be, struct tensor *y, const struct tensor *x,
		const struct tensor *scale, const struct tensor *shift, float eps);
	/* y[n,d] = x / sqrt(mean(x^2) + eps) * g[d]; y may alias x. */
	void (*rms_norm)(struct backend *be, struct tensor *y, const struct tensor *x,
		const struct tensor *g, float eps);
	/* From qkv[n, 3*h*c] (q, k, v side by side): RMS over all h*c channels
	 * with g_q, g_k, then RoPE (interleaved pairs) with the table of the
	 * chunk's frames. Writes q[n,h,c]; keys and values into slots
	 * slot.first .. of slot.store; means of key blocks and key frames
	 * beside them; means of query blocks to q_mean[h, query blocks, c] f32
	 * (NULL: not wanted). Query blocks are cut as key blocks are. */
	void (*qk_norm_rope_write)(struct backend *be, struct tensor *q, struct tensor *q_mean,
		const struct kv_span *slot, const struct tensor *qkv, const struct tensor *g_q,
		const struct tensor *g_k, const struct rope *rope, float eps);
	/* y[n, h*c] = softmax(q k^T / sqrt(c)) v over the spans' keys; list NULL: all. */
	void (*attention)(struct backend *be, struct tensor *y, const struct tensor *q,
		const struct kv_span *spans, int n_spans, const struct block_list *list);
	/* Hierarchical selection (light forcing): fills list->index; list->kept
	 * == args->keep. Scores are mean q . mean k in f32 with f64
	 * accumulation, ties go to the lower index. */
	void (*select_blocks)(struct backend *be, struct block_list *list,
		const struct tensor *q_mean, const struct kv_span *spans, int n_spans,
		const struct select_args *args);
	/* y[n, h*c] from q[n, h*c], k[m, h*c], v[m, h*c]: plain attention for
	 * text (cross, with last_repeats), umT5 (bias) and the VAE's middle block. */
	void (*sdpa)(struct backend *be, struct tensor *y, const struct tensor *q,
		const struct tensor *k, const struct tensor *v, int heads,
		const struct sdpa_args *args);
	/* y[n,d] = a[n,d] * gelu_tanh(g[n,d]); y may alias either. */
	void (*gated_gelu)(struct backend *be, struct tensor *y, const struct tensor *a,
		const struct tensor *g);
	/* y[n,d] = table[ids[n], :]; ids i32 in backend memory, checked by the caller. */
	void (*gather_rows)(struct backend *be, struct tensor *y, const struct tensor *table,
		const struct tensor *ids);
	/* y = act(x), any shape; y may alias x. */
	void (*activate)(struct backend *be, struct tensor *y, const struct tensor *x,
		enum activation act);
	/* y[n,d] = a[n,d] + b[m,d], m divides n, b repeats; y may alias a. */
	void (*add_rows)(struct backend *be, struct tensor *y, const struct tensor *a,
		const struct tensor *b);

	/* -- key and value memory -- */
	size_t (*kv_bytes)(const struct kv_shape *shape);
	/* Copies count slots with their means; stores of equal shape but frames. */
	void (*kv_copy)(struct backend *be, const struct kv_span *dst, const struct kv_span *src);
	/* Turns the keys (and key means) of these slots by delta frames along time:
	 * temporal RoPE pairs only, in place. theta as in the model. */
	void (*kv_rotate)(struct backend *be, const struct kv_span *span, double delta_frames,
		double theta);
	/* Plain f32 copies k[frames*s, h, c] and v for tests and saved states. */
	void (*kv_export)(struct backend *be, struct tensor *k, struct tensor *v,
		const struct kv_span *span);
	/* The other way; recomputes the means. */
	void (*kv_import)(struct backend *be, const struct kv_span *span, const struct tensor *k,
		const struct tensor *v);

	/* -- sampler -- */
	/* y[f*s, C*p*q] (c slowest) from x[f, C, H, W], patches of p x q. */
	void (*patchify)(struct backend *be, struct tensor *y, const struct tensor *x, int p, int q);
	/* y[f, C, H, W] from x[f*s, p*q*C] (c fastest). */
	void (*unpatchify)(struct backend *be, struct tensor *y, const struct tensor *x, int p, int q);
	/* x0 = x - sigma * flow; next = (1 - sigma_next) * x0 + sigma_next * noise
	 * (next NULL on the last step; next may alias x, x0 may alias x). f32. */
	void (*denoise)(struct backend *be, struct tensor *x0, struct tensor *next,
		const struct tensor *x, const struct tensor *flow, const struct tensor *noise,
		const float sigma[2]);
	/* Standard normals from Philox4x32-10, key = seed, counter =
	 * (element / 4, step, chunk low, chunk high); mapping in MODEL.md. f32. */
	void (*noise)(struct backend *be, struct tensor *y, uint64_t seed, int64_t chunk, int step);

	/* -- video decoder -- */
	/* w [phases * out, in * kt' ...] arrives already arranged by the engine as
	 * [phases, out, kt, kh, kw, in] f32 on the host; b [phases, out] or NULL. */
	struct conv *(*conv_create)(struct backend *be, const struct conv_spec *spec,
		const struct tensor *w, const struct tensor *b, enum precision p, struct error *e);
	void (*conv_destroy)(struct backend *be, struct conv *c);
	/* y[f', H', W', out] = act(conv(x[f,H,W,in]) + b + skip), f' = phases *
	 * ceil(f / stride_t), H' = (H * upsample + pads - kh) / stride + 1;
	 * skip NULL or shaped like y (may be y itself). history [k, H, W, in]
	 * holds the k = kt - 1 frames before x (NULL: zeros). */
	void (*conv)(struct backend *be, struct tensor *y, const struct tensor *x,
		const struct tensor *history, const struct conv *c, const struct tensor *skip);
	/* y[.., C] = x / max(|x|_2 over C, 1e-12) * sqrt(C) * g[C], then act; y may alias x. */
	void (*channel_norm)(struct backend *be, struct tensor *y, const struct tensor *x,
		const struct tensor *g, enum activation act);
	/* y[f,H,W,C] = bound * tanh(z / bound) (bound 0: z), z = x[f,C,H,W] * std[C] + mean[C] (NULL: x). */
	void (*latent_to_image)(struct backend *be, struct tensor *y, const struct tensor *x,
		const struct tensor *mean, const struct tensor *std, float bound);
	/* y[f,C,H,W] = (x[f,H,W,0 .. C-1] - mean) / std (NULL: x); x may have
	 * more channels than C, the others are dropped. */
	void (*image_to_latent)(struct backend *be, struct tensor *y, const struct tensor *x,
		const struct tensor *mean, const struct tensor *std);
	/* RGB [f,H,W,3], value * gain + offset in [0,1] after clamping, to I420
	 * BT.709 limited range u8 [f, H*W*3/2], 2x2 box chroma; H, W even. */
	void (*rgb_to_i420)(struct backend *be, struct tensor *yuv, const struct tensor *rgb,
		float gain, float offset);

	/* -- plain -- */
	/* y = x with y's dtype (rows of quantised outputs get their scale, unless y has
	 * one_scale); same count. */
	void (*convert)(struct backend *be, struct tensor *y, const struct tensor *x);
	/* scale[2] f32: the smallest one_scale that clips nothing of x as fp8 codes, and its inverse. */
	void (*code_scale)(struct backend *be, struct tensor *scale, const struct tensor *x);
};
#ifdef __cplusplus
}
#endif
#endif
