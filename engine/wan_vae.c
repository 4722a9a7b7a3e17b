/* SPDX-License-Identifier: Apache-2.0 */
/* The decoder of the Wan 2.1 VAE and of pruned ones (LightVAE): three levels
 * of residual blocks with causal 3x3x3 convolutions, one latent at a time. The
 * first latent of a stream gives one picture, every other one four.
 * Thread: the backend's. Source: engine/MODEL.md, "Wan VAE". */
#include <errno.h>
#include <stdlib.h>

#include "engine/decoder_impl.h"
#include "engine/wan_blocks.h"

static const struct wan_row rows[] = {
	{"conv2", WAN_POINT, 16},
	{"decoder.conv1", WAN_CONV, 384},
	{"decoder.middle.0", WAN_RESIDUAL, 384},
	{"decoder.middle.1", WAN_ATTENTION, 384},
	{"decoder.middle.2", WAN_RESIDUAL, 384},
	{"decoder.upsamples.0", WAN_RESIDUAL, 384},
	{"decoder.upsamples.1", WAN_RESIDUAL, 384},
	{"decoder.upsamples.2", WAN_RESIDUAL, 384},
	{"decoder.upsamples.3", WAN_UP, 192},
	{"decoder.upsamples.4", WAN_RESIDUAL, 384},
	{"decoder.upsamples.5", WAN_RESIDUAL, 384},
	{"decoder.upsamples.6", WAN_RESIDUAL, 384},
	{"decoder.upsamples.7", WAN_UP, 192},
	{"decoder.upsamples.8", WAN_RESIDUAL, 192},
	{"decoder.upsamples.9", WAN_RESIDUAL, 192},
	{"decoder.upsamples.10", WAN_RESIDUAL, 192},
	{"decoder.upsamples.11", WAN_UP_SPACE, 96},
	{"decoder.upsamples.12", WAN_RESIDUAL, 96},
	{"decoder.upsamples.13", WAN_RESIDUAL, 96},
	{"decoder.upsamples.14", WAN_RESIDUAL, 96},
	{"decoder.head", WAN_HEAD, 3},
};
#define STRIDE_T 4
#define STRIDE_S 8

static int load(struct decoder *d, const struct model *m, struct weights *w, struct error *e) {
	struct wan_list *l = d->model = calloc(1, sizeof *l);
	if (!l)
		return error_set(e, -ENOMEM, "no memory");
	d->stride_t = STRIDE_T;
	if (m->stride_t != STRIDE_T || m->stride_s != STRIDE_S)
		return error_set(e, -EINVAL,
			"it gives %d pictures per latent, %d pixels per latent pixel; the manifest "
			"says %d and %d",
			STRIDE_T, STRIDE_S, m->stride_t, m->stride_s);
	int count = (int)(sizeof rows / sizeof rows[0]);
	int rc = wan_list_load(l, &d->net, w, rows, count, d->latent_channels, 1, e);
	if (rc == 0 && l->block[count - 1].out != 3)
		rc = error_set(e, -EINVAL, "decoder.head.2.weight gives %d channels, want 3",
			l->block[count - 1].out);
	return rc;
}

static void destroy(struct decoder *d) {
	if (d->model)
		wan_list_finish(d->model, &d->net);
	free(d->model);
}

static int pictures(const struct decoder *d, int64_t done, int frames) {
	(void)d;
	return STRIDE_T * frames - (done == 0 && frames > 0 ? STRIDE_T - 1 : 0);
}

static void pass(
	struct video_run *r, const struct decoder *d, struct tensor *x, struct tensor *rgb) {
	int slot = 0;
	wan_list_run(r, d->model, x, &slot, rgb);
}

const struct decoder_kind decoder_wan_vae = {
	.name = "Wan VAE",
	.gain = 0.5f,
	.offset = 0.5f,
	.stride_s = STRIDE_S,
	.bound = 0,
	.pass_pixels = 0,
	.load = load,
	.destroy = destroy,
	.pictures = pictures,
	.pass = pass,
};
