/* SPDX-License-Identifier: Apache-2.0 */
/* The only file that knows libvpx. The settings follow libvpx's real-time example
 * (examples/vpx_temporal_svc_encoder.c); each that differs says why.
 * Thread: its owner's. */
#include "server/vp9.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <vpx/vp8cx.h>
#include <vpx/vpx_encoder.h>

struct vp9 {
	vpx_codec_ctx_t codec;
	int width, height, quantizer;
};

enum { THREADS_MAX = 16, MIN_TILE_PIXELS = 256 };

int vp9_threads(int width, int height, int cores) {
	int worth = (width * height + 49999) / 50000, most = cores / 2;
	if (most > THREADS_MAX)
		most = THREADS_MAX;
	if (worth > most)
		worth = most;
	return worth < 2 ? 2 : worth;
}

static int cores_available(void) {
	cpu_set_t set;
	return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

static int fail(struct vp9 *v, const char *what, struct error *e) {
	const char *detail = vpx_codec_error_detail(&v->codec);
	return error_set(e, -EIO, "VP9: %s: %s%s%s", what, vpx_codec_error(&v->codec),
		detail ? ": " : "", detail ? detail : "");
}

static void fill_config(const struct vp9_config *c, vpx_codec_enc_cfg_t *cfg) {
	cfg->g_w = (unsigned)c->width;
	cfg->g_h = (unsigned)c->height;
	cfg->g_timebase.num = c->fps_den;
	cfg->g_timebase.den = c->fps_num;
	cfg->g_threads = (unsigned)c->threads;
	cfg->g_profile = 0;
	cfg->g_lag_in_frames = 0;
	cfg->g_error_resilient = 0; /* TCP loses nothing: it would only cost bits */
	cfg->g_pass = VPX_RC_ONE_PASS;
	cfg->kf_mode = VPX_KF_DISABLED; /* keys come from the caller */
	cfg->rc_dropframe_thresh = 0;
	cfg->rc_resize_allowed = 0;
	cfg->rc_end_usage = c->network ? VPX_CBR : VPX_Q;
	cfg->rc_target_bitrate = (unsigned)c->bitrate_kbps;
	cfg->rc_min_quantizer = c->network ? 2 : 0;
	cfg->rc_max_quantizer = c->network ? 52 : 63;
	cfg->rc_undershoot_pct = cfg->rc_overshoot_pct = 50;
	cfg->rc_buf_sz = 1000;
	cfg->rc_buf_initial_sz = cfg->rc_buf_optimal_sz = 600;
}

/* Largest power of two of tile columns that the width allows, at most the threads. */
static int tile_columns_log2(const struct vp9_config *c) {
	int log2 = 0;
	while ((2 << log2) <= c->threads && (c->width >> (log2 + 1)) >= MIN_TILE_PIXELS)
		log2++;
	return log2;
}

static int set_controls(struct vp9 *v, const struct vp9_config *c, struct error *e) {
	vpx_codec_ctx_t *x = &v->codec;
	int bad = 0;
	bad |= vpx_codec_control(x, VP8E_SET_CPUUSED, c->cpu_used);
	bad |= vpx_codec_control(x, VP9E_SET_ROW_MT, c->threads > 1 ? 1u : 0u);
	bad |= vpx_codec_control(x, VP9E_SET_TILE_COLUMNS, tile_columns_log2(c));
	bad |= vpx_codec_control(x, VP9E_SET_FRAME_PARALLEL_DECODING, 0u);
	bad |= vpx_codec_control(x, VP8E_SET_ENABLEAUTOALTREF, 0u);
	bad |= vpx_codec_control(x, VP9E_SET_AQ_MODE, c->network ? 3u : 0u); /* 3: cyclic refresh */
	bad |= vpx_codec_control(x, VP8E_SET_STATIC_THRESHOLD, 0u);
	bad |= vpx_codec_control(x, VP9E_SET_NOISE_SENSITIVITY, 0u);
	bad |= vpx_codec_control(x, VP9E_SET_TUNE_CONTENT, VP9E_CONTENT_DEFAULT);
	/* Limited BT.709 is what every browser shows right, said or unsaid. */
	bad |= vpx_codec_control(x, VP9E_SET_COLOR_SPACE, VPX_CS_BT_709);
	bad |= vpx_codec_control(x, VP9E_SET_COLOR_RANGE, 0);
	if (c->network)
		bad |= vpx_codec_control(x, VP8E_SET_MAX_INTRA_BITRATE_PCT, 900u);
	else
		bad |= vpx_codec_control(x, VP8E_SET_CQ_LEVEL, (unsigned)c->cq_level);
	return bad ? fail(v, "settings", e) : 0;
}

struct vp9 *vp9_create(const struct vp9_config *wish, struct error *e) {
	struct vp9_config own = *wish;
	const struct vp9_config *c = &own;
	if (own.threads == 0)
		own.threads = vp9_threads(own.width, own.height, cores_available());
	struct vp9 *v = calloc(1, sizeof *v);
	vpx_codec_enc_cfg_t cfg;
	if (!v) {
		error_set(e, -ENOMEM, "no memory for an encoder");
		return NULL;
	}
	v->width = c->width;
	v->height = c->height;
	if (vpx_codec_enc_config_default(vpx_codec_vp9_cx(), &cfg, 0) != VPX_CODEC_OK) {
		error_set(e, -EIO, "VP9: this libvpx cannot encode");
		free(v);
		return NULL;
	}
	fill_config(c, &cfg);
	if (vpx_codec_enc_init(&v->codec, vpx_codec_vp9_cx(), &cfg, 0) != VPX_CODEC_OK) {
		fail(v, "start", e);
		free(v);
		return NULL;
	}
	if (set_controls(v, c, e) == 0)
		return v;
	vp9_destroy(v);
	return NULL;
}

void vp9_destroy(struct vp9 *v) {
	if (!v)
		return;
	vpx_codec_destroy(&v->codec);
	free(v);
}

/* A libvpx picture over our planes; nothing is copied. */
static void wrap(const struct frame *f, vpx_image_t *image) {
	vpx_img_wrap(image, VPX_IMG_FMT_I420, (unsigned)f->width, (unsigned)f->height, 1,
		(unsigned char *)(uintptr_t)f->plane[0]);
	for (int i = 0; i < 3; i++) {
		image->planes[i] = (unsigned char *)(uintptr_t)f->plane[i];
		image->stride[i] = f->stride[i];
	}
	image->cs = VPX_CS_BT_709;
	image->range = VPX_CR_STUDIO_RANGE;
}

int vp9_encode(struct vp9 *v, const struct frame *f, int64_t index, bool key, struct packet **out,
	struct error *e) {
	vpx_image_t image;
	*out = NULL;
	if (f->width != v->width || f->height != v->height)
		return error_set(e, -EINVAL, "VP9: a picture of %dx%d for an encoder of %dx%d",
			f->width, f->height, v->width, v->height);
	wrap(f, &image);
	if (vpx_codec_encode(&v->codec, &image, index, 1, key ? VPX_EFLAG_FORCE_KF : 0,
		    VPX_DL_REALTIME) != VPX_CODEC_OK)
		return fail(v, "encode", e);
	vpx_codec_iter_t at = NULL;
	for (const vpx_codec_cx_pkt_t *p; (p = vpx_codec_get_cx_data(&v->codec, &at));) {
		if (p->kind != VPX_CODEC_CX_FRAME_PKT || *out)
			continue;
		*out = packet_create(PACKET_FRAME, p->data.frame.sz);
		if (!*out)
			return error_set(
				e, -ENOMEM, "no memory for a frame of %zu bytes", p->data.frame.sz);
		memcpy((*out)->data, p->data.frame.buf, p->data.frame.sz);
		(*out)->meta.flags = p->data.frame.flags & VPX_FRAME_IS_KEY ? FRAME_KEY : 0;
	}
	if (!*out)
		return error_set(e, -EIO, "VP9: a picture gave no frame");
	vpx_codec_control(&v->codec, VP8E_GET_LAST_QUANTIZER_64, &v->quantizer);
	return 0;
}

void vp9_set_quality(struct vp9 *v, int cq_level) {
	vpx_codec_control(&v->codec, VP8E_SET_CQ_LEVEL, (unsigned)cq_level);
}

int vp9_quantizer(const struct vp9 *v) {
	return v->quantizer;
}

void rate_cap_init(struct rate_cap *r, int cq_level, int64_t cap_kbps) {
	*r = (struct rate_cap){.wish = cq_level,
		.level = cq_level,
		.level_max = cq_level > 52 ? cq_level : 52,
		.cap_kbps = cap_kbps};
}

int rate_cap_chunk(struct rate_cap *r, int64_t bytes, int64_t media_us) {
	enum { SLOTS = sizeof r->chunk / sizeof r->chunk[0], WINDOW_US = 2000000 };
	if (r->count == SLOTS) {
		r->first = (r->first + 1) % SLOTS;
		r->count--;
	}
	int last = (r->first + r->count++) % SLOTS;
	r->chunk[last].bytes = bytes;
	r->chunk[last].us = media_us;
	int64_t sum_bytes = 0, sum_us = 0;
	for (int i = r->count - 1; i >= 0 && sum_us < WINDOW_US; i--) {
		sum_bytes += r->chunk[(r->first + i) % SLOTS].bytes;
		sum_us += r->chunk[(r->first + i) % SLOTS].us;
	}
	bool over = sum_us > 0 && sum_bytes * 8000 > r->cap_kbps * sum_us;
	r->level += over ? 4 : r->level > r->wish ? -1 : 0;
	if (r->level > r->level_max)
		r->level = r->level_max;
	return r->level;
}
