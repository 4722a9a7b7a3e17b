/* SPDX-License-Identifier: Apache-2.0 */
/* What one kind of video decoder provides to decoder.c: a row of its table.
 * Private to decoder.c, taehv.c and wan_vae.c. Thread: the backend's. */
#ifndef ENGINE_DECODER_IMPL_H
#define ENGINE_DECODER_IMPL_H
#include "engine/decoder.h"
#include "engine/video.h"

struct decoder_kind {
	const char *name;
	float gain, offset; /* raw value to [0, 1] */
	int stride_s; /* pixels per latent pixel */
	float bound; /* latents are bent to bound * tanh(z / bound); 0: not */
	int pass_pixels; /* most pixels of pictures made in one pass on a GPU; one latent at least
			  */
	/* Loads weights into d, whose net is initialised. What it has made by the
	 * time it fails is undone by destroy. */
	int (*load)(struct decoder *d, const struct model *m, struct weights *w, struct error *e);
	void (*destroy)(struct decoder *d);
	/* Pictures that `frames` latents give when `done` came before. */
	int (*pictures)(const struct decoder *d, int64_t done, int frames);
	/* x [n, h, w, C] in slot 0 -> rgb [pictures, H, W, 3] f32. */
	void (*pass)(
		struct video_run *r, const struct decoder *d, struct tensor *x, struct tensor *rgb);
};
extern const struct decoder_kind decoder_taehv, decoder_wan_vae;

struct decoder {
	const struct decoder_kind *kind;
	struct video_net net;
	int latent_channels;
	int stride_t; /* pictures per latent in a running stream */
	int pass_pixels; /* as the kind says, or 0 */
	int warmup_frames; /* pictures dropped at the start of a stream */
	struct tensor mean, std; /* [C] in backend memory; data NULL: latents as they are */
	void *model; /* of the type; owned */
};
#endif
