/* SPDX-License-Identifier: Apache-2.0 */
/* What the video decoders and the encoder have in common: causal convolutions
 * that remember the last frames they read, and three scratch images to work
 * in. A pass is written once as ordinary code over struct video_run; it is
 * walked once to learn the sizes of the three images and once to compute.
 * Images are channels-last, [frames, H, W, C], of the backend's activation
 * type. Thread: the backend's. Knows no model. */
#ifndef ENGINE_VIDEO_H
#define ENGINE_VIDEO_H
#include "engine/arena.h"
#include "engine/weights.h"
#define VIDEO_HISTORIES_MAX 64
#define VIDEO_SLOTS 3

/* Shape of one history; scale is in pixels per latent pixel. */
struct video_history {
	int frames, channels, scale;
};
struct video_net {
	struct backend *be;
	const struct ops *ops;
	enum dtype image; /* of intermediate images */
	enum precision precision; /* of convolution weights */
	struct video_history history[VIDEO_HISTORIES_MAX];
	int histories;
};
/* One convolution; history is an index into the state, -1 for none. */
struct video_conv {
	struct conv *conv;
	struct conv_spec spec;
	int history;
};
struct video_state {
	int h, w; /* latent size */
	int64_t latents; /* done since the stream began */
	struct tensor history[VIDEO_HISTORIES_MAX]; /* [frames, h * scale, w * scale, channels] */
};
/* One pass in progress. */
struct video_run {
	const struct video_net *net;
	struct video_state *state;
	bool planning; /* sizes only: no op runs */
	size_t bytes[VIDEO_SLOTS];
	void *data[VIDEO_SLOTS];
};

void video_net_init(struct video_net *net, struct backend *be, enum precision p);
/* w [phases, out, kt, kh, kw, in] f32 on the host, b f32 or NULL. Gives the
 * convolution a history of `keep` frames (0: none) at `scale`. */
int video_conv_create(struct video_net *net, struct video_conv *c, const struct conv_spec *spec,
	const float *w, const float *b, int keep, int scale, struct error *e);
void video_conv_destroy(struct video_net *net, struct video_conv *c);
/* "<name>.weight" [phases * out, in, (kt,) kh, kw] and, with bias, "<name>.bias"
 * as files hold them; sizes from spec. keep is kt - 1. */
int video_conv_load(struct video_net *net, struct video_conv *c, struct weights *w,
	const char *name, const struct conv_spec *spec, bool bias, int scale, struct error *e);
/* Same-size convolution with kt x k x k taps. */
struct conv_spec video_spec(int in, int out, int kt, int k, enum activation act);
/* Dimension `dim` of "<name>.weight", or `fallback` where weights are invented
 * or the tensor is missing (which loading it will then report). */
int video_width(struct weights *w, const char *name, int dim, int fallback);
/* f32 copy of a host tensor on the heap, caller frees; NULL and *e on failure. */
float *video_weight_f32(
	struct weights *w, const char *name, int rank, const int64_t *dim, struct error *e);

/* Histories of one stream, zeroed. Fails when `a` is full. */
int video_state_init(struct video_state *s, const struct video_net *net, int h, int w,
	struct arena *a, struct error *e);
void video_state_restart(struct video_state *s, const struct video_net *net);

/* Plans with `pass`, takes scratch from `a` (nothing more if it only measures),
 * runs `pass`, gives scratch back. ctx is handed through. */
typedef void (*video_pass)(struct video_run *r, void *ctx);
int video_run_pass(const struct video_net *net, struct video_state *s, video_pass pass, void *ctx,
	struct arena *a, struct error *e);
/* An image in one of the slots; data is NULL while planning. */
struct tensor video_image(
	struct video_run *r, int slot, int64_t frames, int64_t h, int64_t w, int64_t channels);
/* y = conv(x); afterwards the last frames of x are its history. skip may be y. */
void video_conv(struct video_run *r, const struct video_conv *c, struct tensor *y,
	const struct tensor *x, const struct tensor *skip);
/* The same with another history than c's own; c's is left alone. */
void video_conv_with(struct video_run *r, const struct video_conv *c, struct tensor *y,
	const struct tensor *x, const struct tensor *history, const struct tensor *skip);
/* The last frames of [history, x] become history number i. */
void video_remember(struct video_run *r, int i, const struct tensor *x);
#endif
