/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder of the Wan 2.1 VAE: the decoder's blocks the other way round.
 * The last convolution gives mean and log-variance; the latent is the mean. */
#include "engine/wan_encoder.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/wan_blocks.h"

static const struct wan_row rows[] = {
	{"encoder.conv1", WAN_CONV, 96},
	{"encoder.downsamples.0", WAN_RESIDUAL, 96},
	{"encoder.downsamples.1", WAN_RESIDUAL, 96},
	{"encoder.downsamples.2", WAN_DOWN_SPACE, 96},
	{"encoder.downsamples.3", WAN_RESIDUAL, 192},
	{"encoder.downsamples.4", WAN_RESIDUAL, 192},
	{"encoder.downsamples.5", WAN_DOWN, 192},
	{"encoder.downsamples.6", WAN_RESIDUAL, 384},
	{"encoder.downsamples.7", WAN_RESIDUAL, 384},
	{"encoder.downsamples.8", WAN_DOWN, 384},
	{"encoder.downsamples.9", WAN_RESIDUAL, 384},
	{"encoder.downsamples.10", WAN_RESIDUAL, 384},
	{"encoder.middle.0", WAN_RESIDUAL, 384},
	{"encoder.middle.1", WAN_ATTENTION, 384},
	{"encoder.middle.2", WAN_RESIDUAL, 384},
	{"encoder.head", WAN_HEAD, 32},
	{"conv1", WAN_POINT, 32},
};
#define STRIDE_T 4
#define STRIDE_S 8

struct wan_encoder {
	struct video_net net;
	struct wan_list list;
	int latent_channels;
	struct tensor mean, std; /* [C] in backend memory; rank 0: none */
};
struct wan_encoder_state {
	struct video_state video;
};

static int statistics_upload(
	struct wan_encoder *d, const struct model *m, struct arena *a, struct error *e) {
	size_t bytes = (size_t)d->latent_channels * sizeof(float);
	if (!m->decoder.denormalise)
		return 0;
	d->mean = arena_tensor(a, DTYPE_F32, 1, (int64_t[]){d->latent_channels});
	d->std = arena_tensor(a, DTYPE_F32, 1, (int64_t[]){d->latent_channels});
	if (arena_failed(a, e) < 0)
		return -ENOMEM;
	if (!arena_measuring(a)) {
		backend_upload(d->net.be, d->mean.data, m->decoder.mean, bytes);
		backend_upload(d->net.be, d->std.data, m->decoder.std, bytes);
	}
	return 0;
}

struct wan_encoder *wan_encoder_create(struct backend *be, const struct model *m, struct weights *w,
	struct arena *a, enum precision p, struct error *e) {
	struct wan_encoder *d = calloc(1, sizeof *d);
	if (!d) {
		error_set(e, -ENOMEM, "Wan VAE encoder: no memory");
		return NULL;
	}
	int count = (int)(sizeof rows / sizeof rows[0]);
	d->latent_channels = m->latent_channels;
	video_net_init(&d->net, be, p);
	int rc = statistics_upload(d, m, a, e);
	if (rc == 0)
		rc = wan_list_load(&d->list, &d->net, w, rows, count, 3, STRIDE_S, e);
	if (rc == 0 && d->list.block[count - 1].out < d->latent_channels)
		rc = error_set(e, -EINVAL, "conv1.weight gives %d channels, want at least %d",
			d->list.block[count - 1].out, d->latent_channels);
	if (rc < 0) {
		error_prefix(e, "Wan VAE encoder");
		wan_encoder_destroy(d);
		return NULL;
	}
	return d;
}

void wan_encoder_destroy(struct wan_encoder *d) {
	if (!d)
		return;
	wan_list_finish(&d->list, &d->net);
	free(d);
}

struct wan_encoder_state *wan_encoder_state_create(
	const struct wan_encoder *d, int latent_h, int latent_w, struct arena *a, struct error *e) {
	struct wan_encoder_state *s = calloc(1, sizeof *s);
	if (!s)
		error_set(e, -ENOMEM, "Wan VAE encoder: no memory");
	else if (video_state_init(&s->video, &d->net, latent_h, latent_w, a, e) == 0)
		return s;
	free(s);
	return NULL;
}

void wan_encoder_state_destroy(struct wan_encoder_state *s) {
	free(s);
}

struct pass {
	const struct wan_encoder *d;
	struct tensor latent, rgb;
};

static void run_pass(struct video_run *r, void *ctx) {
	struct pass *p = ctx;
	const struct wan_encoder *d = p->d;
	const struct ops *ops = d->net.ops;
	int slot = 0;
	struct tensor x = video_image(r, slot, p->rgb.dim[0], p->rgb.dim[1], p->rgb.dim[2], 3);
	if (!r->planning)
		ops->convert(d->net.be, &x, &p->rgb);
	wan_list_run(r, &d->list, &x, &slot, NULL);
	bool statistics = d->mean.rank > 0;
	if (!r->planning)
		ops->image_to_latent(d->net.be, &p->latent, &x, statistics ? &d->mean : NULL,
			statistics ? &d->std : NULL);
}

static int check_shapes(const struct wan_encoder *d, const struct wan_encoder_state *s,
	const struct tensor *latent, const struct tensor *rgb, struct error *e) {
	char got[96];
	int64_t first = s->video.latents == 0 ? STRIDE_T - 1 : 0;
	int64_t h = s->video.h, w = s->video.w;
	if (rgb->rank != 4 || rgb->dtype != DTYPE_F32 || rgb->dim[0] < 1 ||
		(rgb->dim[0] + first) % STRIDE_T || rgb->dim[1] != h * STRIDE_S ||
		rgb->dim[2] != w * STRIDE_S || rgb->dim[3] != 3)
		return error_set(e, -EINVAL,
			"Wan VAE encoder: pictures are %s, want [%s, %d, %d, 3] f32",
			tensor_describe(rgb, got, sizeof got), first ? "4 k - 3" : "4 k",
			(int)(h * STRIDE_S), (int)(w * STRIDE_S));
	if (latent->rank != 4 || latent->dtype != DTYPE_F32 ||
		latent->dim[0] != (rgb->dim[0] + first) / STRIDE_T ||
		latent->dim[1] != d->latent_channels || latent->dim[2] != h || latent->dim[3] != w)
		return error_set(e, -EINVAL, "Wan VAE encoder: latent is %s, want [%d, %d, %d, %d]",
			tensor_describe(latent, got, sizeof got),
			(int)((rgb->dim[0] + first) / STRIDE_T), d->latent_channels, (int)h,
			(int)w);
	return 0;
}

int wan_encoder_encode(const struct wan_encoder *d, struct wan_encoder_state *s,
	struct tensor *latent, const struct tensor *rgb, struct arena *scratch, struct error *e) {
	int rc = check_shapes(d, s, latent, rgb, e);
	if (rc == 0 && arena_measuring(scratch)) {
		struct video_state later = s->video;
		later.latents++;
		struct pass p = {d, *latent, *rgb};
		p.rgb.dim[0] = STRIDE_T;
		return video_run_pass(&d->net, &later, run_pass, &p, scratch, e);
	}
	int64_t from = 0;
	for (int64_t i = 0; rc == 0 && i < latent->dim[0]; i++) {
		int64_t n = s->video.latents == 0 ? 1 : STRIDE_T;
		struct pass p = {d, tensor_rows(*latent, i, 1), tensor_rows(*rgb, from, n)};
		rc = video_run_pass(&d->net, &s->video, run_pass, &p, scratch, e);
		s->video.latents++;
		from += n;
	}
	return rc;
}
