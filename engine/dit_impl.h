/* SPDX-License-Identifier: Apache-2.0 */
/* What the files dit*.c share: the loaded transformer, a prompt's part of it, a stream's. */
#ifndef ENGINE_DIT_IMPL_H
#define ENGINE_DIT_IMPL_H
#include "engine/dit.h"

#define DIT_TIMESTEPS_MAX (2 * MODEL_STEPS_MAX + 1)

/* Rows of a block's modulation. */
enum {
	MOD_SHIFT_SA,
	MOD_SCALE_SA,
	MOD_GATE_SA,
	MOD_SHIFT_FF,
	MOD_SCALE_FF,
	MOD_GATE_FF,
	MOD_COUNT
};
/* Rows of the head's. */
enum { MOD_HEAD_SHIFT, MOD_HEAD_SCALE, MOD_HEAD_COUNT };

/* Codes of a block, in fp8: what each is bounded by, from the weights. */
enum {
	CODES_SA, /* enters qkv */
	CODES_O,
	CODES_CROSS, /* enters cross_q */
	CODES_FF, /* enters ffn_in */
	CODES_HIDDEN,
	CODES_COUNT
};

#define CODE_SCALE_STRIDE 4 /* scale, inverse, and what keeps the next ones aligned */

struct dit_layer {
	struct linear *qkv, *o; /* self-attention */
	struct linear *cross_q, *cross_k, *cross_v, *cross_o;
	struct linear *ffn_in, *ffn_out;
	struct tensor norm_q, norm_k, cross_norm_q, cross_norm_k; /* [d] */
	struct tensor norm3_scale, norm3_shift; /* [1, d]; scale is weight - 1 */
	/* fp8: largest norm of a weight row and largest bias of v and of ffn_in; the
	 * largest value that norm3 can give. */
	double v_row, v_bias, ffn_row, ffn_bias, norm3_peak;
};

struct dit {
	struct backend *be;
	const struct ops *ops;
	struct dit_config c;
	int channels, height, width; /* of a latent frame */
	int frame_tokens;
	int time_pairs; /* of head_dim / 2 */
	enum precision precision;
	enum dtype act; /* activations */
	enum dtype input; /* activations that enter a block's linear */
	enum dtype kv;
	int text_unit; /* rows of text come in multiples of it */
	int timesteps;
	double timestep[DIT_TIMESTEPS_MAX];
	struct linear *patch, *text_in, *text_out, *head;
	struct tensor modulation; /* [timesteps, layers, MOD_COUNT, d] f32 */
	struct tensor head_modulation; /* [timesteps, MOD_HEAD_COUNT, d] f32 */
	struct tensor code_scale; /* [timesteps, layers, CODES_COUNT, CODE_SCALE_STRIDE] f32; fp8 only */
	struct tensor rope_space; /* [s, head_dim / 2 - time_pairs, 2] f32 */
	struct dit_layer layer[];
};

struct dit_text {
	int rows; /* m */
	int last_repeats; /* for how many the last row stands */
	struct {
		struct tensor k, v; /* [text_len, d]; the first m rows count */
		struct tensor scale; /* [2] f32, of the codes that v can give; fp8 only */
	} layer[];
};

struct dit_stream {
	struct tensor time; /* [pass_frames, time_pairs, 2] f32 */
	struct tensor listed; /* [layers or 1, heads, query blocks, kept] i32, flat */
	int64_t layer_stride; /* in elements; 0 when all layers read one list */
	struct sparsity_plan plan;
	int frames; /* of the pass */
	void *host; /* what is being uploaded: as large as either table */
};

/* dit_text.c: takes from scratch what dit_text_set of the longest prompt does. */
void dit_text_measure(const struct dit *d, struct arena *scratch);

/* dit_codes.c: the largest L2 norm of a row of w and the largest magnitude of b: with
 * them how far a result can lie from zero. Host tensors. */
int dit_row_bound(const struct tensor *w, const struct tensor *b, double *row, double *bias,
	struct error *e);
/* Fills d->code_scale from the bounds of the layers and the host's copy of d->modulation. */
int dit_codes_load(struct dit *d, const float *table, struct error *e);

/* dit_weights.c: fills weights and tables of a dit whose sizes are set. */
int dit_load_weights(struct dit *d, struct weights *w, struct arena *a, struct error *e);
void dit_drop_weights(struct dit *d);
#endif
