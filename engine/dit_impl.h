/* SPDX-License-Identifier: Apache-2.0 */
/* What dit.c and dit_weights.c share: the loaded transformer. */
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

struct dit_layer {
	struct linear *qkv, *o; /* self-attention */
	struct linear *cross_q, *cross_k, *cross_v, *cross_o;
	struct linear *ffn_in, *ffn_out;
	struct tensor norm_q, norm_k, cross_norm_q, cross_norm_k; /* [d] */
	struct tensor norm3_scale, norm3_shift; /* [1, d]; scale is weight - 1 */
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
	struct tensor rope_space; /* [s, head_dim / 2 - time_pairs, 2] f32 */
	struct dit_layer layer[];
};

/* Fills weights and tables of a dit whose sizes are set. */
int dit_load_weights(struct dit *d, struct weights *w, struct arena *a, struct error *e);
void dit_drop_weights(struct dit *d);
#endif
