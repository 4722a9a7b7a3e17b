/* SPDX-License-Identifier: Apache-2.0 */
/* The table of video decoders and what they share: argument checks, passes of
 * bounded size, the warm-up pictures at the start of a stream. */
#include "engine/decoder.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/decoder_impl.h"

static const struct decoder_kind *const kinds[] = {
	[DECODER_TAEHV] = &decoder_taehv,
	[DECODER_WAN_VAE] = &decoder_wan_vae,
};

struct decoder_state {
	struct video_state video;
	int warmup_left; /* pictures still to be dropped */
	bool keep;
};

static int statistics_upload(
	struct decoder *d, const struct decoder_config *c, struct arena *a, struct error *e) {
	if (!c->denormalise)
		return 0;
	size_t bytes = (size_t)d->latent_channels * sizeof(float);
	d->mean = arena_tensor(a, DTYPE_F32, 1, (int64_t[]){d->latent_channels});
	d->std = arena_tensor(a, DTYPE_F32, 1, (int64_t[]){d->latent_channels});
	if (arena_failed(a, e) < 0)
		return -ENOMEM;
	if (arena_measuring(a))
		return 0;
	backend_upload(d->net.be, d->mean.data, c->mean, bytes);
	backend_upload(d->net.be, d->std.data, c->std, bytes);
	return 0;
}

struct decoder *decoder_create(struct backend *be, const struct model *m, struct weights *w,
	struct arena *a, enum precision p, struct error *e) {
	size_t known = sizeof kinds / sizeof kinds[0];
	if ((size_t)m->decoder.type >= known) {
		error_set(e, -EINVAL, "decoder.type: %d is not known", (int)m->decoder.type);
		return NULL;
	}
	struct decoder *d = calloc(1, sizeof *d);
	if (!d) {
		error_set(e, -ENOMEM, "decoder: no memory");
		return NULL;
	}
	d->kind = kinds[m->decoder.type];
	d->latent_channels = m->latent_channels;
	d->warmup_frames = m->decoder.warmup_frames;
	/* A GPU wants much work at once. A CPU wants images that stay in its cache:
	 * three latents of the demo at once are 8 % slower than one by one. */
	if (strcmp(backend_info(be).kind, "cpu") != 0)
		d->pass_pixels = d->kind->pass_pixels;
	video_net_init(&d->net, be, p);
	if (statistics_upload(d, &m->decoder, a, e) < 0 || d->kind->load(d, m, w, e) < 0) {
		error_prefix(e, "%s decoder", d->kind->name);
		decoder_destroy(d);
		return NULL;
	}
	return d;
}

void decoder_destroy(struct decoder *d) {
	if (!d)
		return;
	d->kind->destroy(d);
	free(d);
}

struct decoder_state *decoder_state_create(
	const struct decoder *d, int latent_h, int latent_w, struct arena *a, struct error *e) {
	struct decoder_state *s = calloc(1, sizeof *s);
	if (!s) {
		error_set(e, -ENOMEM, "decoder: no memory");
		return NULL;
	}
	s->warmup_left = d->warmup_frames;
	if (video_state_init(&s->video, &d->net, latent_h, latent_w, a, e) < 0) {
		free(s);
		return NULL;
	}
	return s;
}

size_t decoder_state_bytes(const struct decoder_state *s) {
	size_t sum = 0;
	for (int i = 0; i < VIDEO_HISTORIES_MAX; i++)
		sum += s->video.history[i].rank ? tensor_bytes(&s->video.history[i]) : 0;
	return sum;
}

void decoder_state_destroy(struct decoder_state *s) {
	free(s);
}

void decoder_restart(const struct decoder *d, struct decoder_state *s) {
	video_state_restart(&s->video, &d->net);
	s->warmup_left = d->warmup_frames;
}

void decoder_keep_warmup(struct decoder_state *s, bool keep) {
	s->keep = keep;
}

struct backend *decoder_backend(const struct decoder *d) {
	return d->net.be;
}

void decoder_range(const struct decoder *d, float *gain, float *offset) {
	*gain = d->kind->gain;
	*offset = d->kind->offset;
}

int decoder_pictures(const struct decoder *d, const struct decoder_state *s, int frames) {
	int n = d->kind->pictures(d, s->video.latents, frames);
	int drop = s->keep ? 0 : s->warmup_left;
	return n > drop ? n - drop : 0;
}

static int check_shapes(const struct decoder *d, const struct decoder_state *s,
	const struct tensor *rgb, const struct tensor *latent, struct error *e) {
	char got[96];
	int64_t h = s->video.h, w = s->video.w, scale = d->kind->stride_s;
	if (latent->rank != 4 || latent->dtype != DTYPE_F32 || latent->dim[0] < 1 ||
		latent->dim[1] != d->latent_channels || latent->dim[2] != h || latent->dim[3] != w)
		return error_set(e, -EINVAL, "%s decoder: latent is %s, want [f, %d, %d, %d] f32",
			d->kind->name, tensor_describe(latent, got, sizeof got), d->latent_channels,
			(int)h, (int)w);
	int64_t rows = latent->dim[0] * d->stride_t;
	if (rgb->rank != 4 || rgb->dtype != DTYPE_F32 || rgb->dim[0] < rows ||
		rgb->dim[1] != h * scale || rgb->dim[2] != w * scale || rgb->dim[3] != 3)
		return error_set(e, -EINVAL,
			"%s decoder: pictures are %s, want [%d or more, %d, %d, 3] f32",
			d->kind->name, tensor_describe(rgb, got, sizeof got), (int)rows,
			(int)(h * scale), (int)(w * scale));
	return 0;
}

struct pass {
	const struct decoder *d;
	struct tensor latent, rgb;
};

static void run_pass(struct video_run *r, void *ctx) {
	struct pass *p = ctx;
	const struct decoder *d = p->d;
	struct tensor x =
		video_image(r, 0, p->latent.dim[0], r->state->h, r->state->w, d->latent_channels);
	bool statistics = d->mean.rank > 0;
	if (!r->planning)
		d->net.ops->latent_to_image(d->net.be, &x, &p->latent, statistics ? &d->mean : NULL,
			statistics ? &d->std : NULL, d->kind->bound);
	d->kind->pass(r, d, &x, &p->rgb);
}

/* Latents that one pass may take. */
static int64_t pass_latents(const struct decoder *d, const struct decoder_state *s) {
	int64_t scale = d->kind->stride_s;
	int64_t pixels = d->stride_t * s->video.h * scale * s->video.w * scale;
	int64_t n = d->pass_pixels / pixels;
	return n > 1 ? n : 1;
}

/* The biggest pass: never the first of a stream. */
static int measure(const struct decoder *d, const struct decoder_state *s, struct pass *p,
	struct arena *scratch, struct error *e) {
	struct video_state later = s->video;
	later.latents++;
	int64_t n = pass_latents(d, s);
	if (p->latent.dim[0] > n)
		p->latent.dim[0] = n;
	p->rgb.dim[0] = p->latent.dim[0] * d->stride_t;
	return video_run_pass(&d->net, &later, run_pass, p, scratch, e);
}

/* All that the work of a pass depends on. */
struct pass_key {
	const void *decoder, *state, *latent, *rgb, *scratch;
	int64_t frames, place; /* of the stream: its first latents are special */
};

/* A pass, or what was recorded of one just like it. */
static int pass_replay(const struct decoder *d, struct decoder_state *s, struct pass *p,
	struct arena *scratch, struct error *e) {
	struct backend *be = d->net.be;
	size_t mark = arena_mark(scratch);
	const struct pass_key key = {d, s, p->latent.data, p->rgb.data, arena_bytes(scratch, 1),
		p->latent.dim[0], s->video.latents < 2 ? s->video.latents : 2};
	arena_reset(scratch, mark);
	if (backend_replay(be, &key, sizeof key))
		return backend_error(be, e);
	int rc;
	do {
		rc = video_run_pass(&d->net, &s->video, run_pass, p, scratch, e);
	} while (backend_record_end(be));
	return rc;
}

/* Moves pictures down over the dropped ones before them. */
static void close_gap(
	const struct decoder *d, struct tensor *rgb, int64_t first, int64_t drop, int64_t end) {
	for (int64_t i = first + drop; i < end; i++) {
		struct tensor to = tensor_rows(*rgb, i - drop, 1), from = tensor_rows(*rgb, i, 1);
		backend_copy(d->net.be, to.data, from.data, tensor_bytes(&to));
	}
}

int decoder_decode(const struct decoder *d, struct decoder_state *s, struct tensor *rgb,
	const struct tensor *latent, struct arena *scratch, struct error *e) {
	if (check_shapes(d, s, rgb, latent, e) < 0)
		return -EINVAL;
	if (arena_measuring(scratch))
		return measure(d, s, &(struct pass){d, *latent, *rgb}, scratch, e);
	int64_t done = 0;
	for (int64_t i = 0, n; i < latent->dim[0]; i += n) {
		n = latent->dim[0] - i;
		if (n > pass_latents(d, s))
			n = pass_latents(d, s);
		/* A stream's first latent may be special: it goes alone. */
		if (s->video.latents == 0)
			n = 1;
		int pictures = d->kind->pictures(d, s->video.latents, (int)n);
		struct pass p = {d, tensor_rows(*latent, i, n), tensor_rows(*rgb, done, pictures)};
		int rc = pass_replay(d, s, &p, scratch, e);
		if (rc < 0)
			return rc;
		s->video.latents += n;
		int drop = s->warmup_left < pictures ? s->warmup_left : pictures;
		s->warmup_left -= drop;
		if (s->keep)
			drop = 0;
		close_gap(d, rgb, done, drop, done + pictures);
		done += pictures - drop;
	}
	return 0;
}
