/* SPDX-License-Identifier: Apache-2.0 */
/* The building blocks of the Wan 2.1 VAE, decoder and encoder alike: residual
 * blocks, per-frame attention, spatial and temporal up- and downsampling, as a
 * list walked in order. Widths come from the tensors' shapes, so pruned VAEs
 * are the same code. Thread: the backend's. Source: engine/MODEL.md, "Wan VAE". */
#ifndef ENGINE_WAN_BLOCKS_H
#define ENGINE_WAN_BLOCKS_H
#include "engine/video.h"

/* Statistics of the published VAE's latents, per channel. */
#define WAN_LATENT_CHANNELS 16
extern const float wan_latent_mean[WAN_LATENT_CHANNELS], wan_latent_std[WAN_LATENT_CHANNELS];

enum wan_kind {
	WAN_POINT, /* 1x1x1 convolution */
	WAN_CONV, /* causal 3x3x3 convolution */
	WAN_RESIDUAL,
	WAN_ATTENTION,
	WAN_UP_SPACE,
	WAN_UP, /* twice as wide and high; WAN_UP: and twice the frames */
	WAN_DOWN_SPACE,
	WAN_DOWN, /* half of it */
	WAN_HEAD /* norm, SiLU, causal convolution */
};
/* One module of the network as its files name it. */
struct wan_row {
	const char *name;
	enum wan_kind kind;
	int out; /* channels of the published model, for invented weights */
};
#define WAN_BLOCK_CONVS 4
struct wan_block {
	enum wan_kind kind;
	int in, out, scale; /* scale: input pixels per latent pixel */
	struct tensor gamma[2]; /* [channels] in backend memory; owned by the list */
	struct video_conv conv[WAN_BLOCK_CONVS];
	int memory; /* history of a temporal resampling, -1: none */
};
#define WAN_BLOCKS_MAX 32
struct wan_list {
	int count;
	struct wan_block block[WAN_BLOCKS_MAX];
};
/* in, scale: of the first row. On failure wan_list_finish undoes what was made. */
int wan_list_load(struct wan_list *l, struct video_net *net, struct weights *w,
	const struct wan_row *rows, int count, int in, int scale, struct error *e);
void wan_list_finish(struct wan_list *l, struct video_net *net);
/* x lies in slot *slot; the result replaces it, its slot in *slot. When `last`
 * is not NULL the last block writes there instead. */
void wan_list_run(struct video_run *r, const struct wan_list *l, struct tensor *x, int *slot,
	struct tensor *last);
#endif
