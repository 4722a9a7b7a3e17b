/* SPDX-License-Identifier: Apache-2.0 */
/* Pictures to latents with the encoder of the Wan 2.1 VAE, streaming: the
 * first picture gives a latent, then every four give one. Thread: the backend's. */
#ifndef ENGINE_WAN_ENCODER_H
#define ENGINE_WAN_ENCODER_H
#include "engine/arena.h"
#include "engine/model.h"
#include "engine/weights.h"
struct wan_encoder; /* weights */
struct wan_encoder_state; /* histories of one stream */
/* Uses m's latent_channels and its decoder's mean and std. */
struct wan_encoder *wan_encoder_create(struct backend *be, const struct model *m, struct weights *w,
	struct arena *a, enum precision p, struct error *e);
void wan_encoder_destroy(struct wan_encoder *d); /* NULL is fine */
struct wan_encoder_state *wan_encoder_state_create(
	const struct wan_encoder *d, int latent_h, int latent_w, struct arena *a, struct error *e);
void wan_encoder_state_destroy(struct wan_encoder_state *s); /* memory stays with its arena */
/* latent [C, h, w]-shaped frames [k, C, h, w] f32 from rgb [n, H, W, 3] f32 in
 * -1 .. 1; n = 4 k, at the start of a stream 4 k - 3. */
int wan_encoder_encode(const struct wan_encoder *d, struct wan_encoder_state *s,
	struct tensor *latent, const struct tensor *rgb, struct arena *scratch, struct error *e);
#endif
