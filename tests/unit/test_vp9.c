/* SPDX-License-Identifier: Apache-2.0 */
/* What the encoder makes is decoded again by libvpx: pictures, colours, keys,
 * failures; and the bit rate cap. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <string.h>
#include <vpx/vp8dx.h>
#include <vpx/vpx_decoder.h>

#include "engine/engine.h"
#include "server/vp9.h"

enum { WIDTH = 256, HEIGHT = 144, FRAMES = 24 };

static const struct vp9_config quality = {
	.width = WIDTH,
	.height = HEIGHT,
	.fps_num = 16,
	.fps_den = 1,
	.bitrate_kbps = 1500,
	.cq_level = 28,
	.cpu_used = 6,
	.threads = 0,
};

/* Decoded pictures are compared plane by plane with the source. */
static double psnr(const struct frame *f, const vpx_image_t *d, int plane) {
	int w = plane ? f->width / 2 : f->width, h = plane ? f->height / 2 : f->height;
	double sum = 0;
	for (int y = 0; y < h; y++) {
		for (int x = 0; x < w; x++) {
			int e = f->plane[plane][y * f->stride[plane] + x] -
				d->planes[plane][y * d->stride[plane] + x];
			sum += e * e;
		}
	}
	return sum == 0 ? 99 : 10 * log10(255.0 * 255.0 * w * h / sum);
}

static const vpx_image_t *decode(vpx_codec_ctx_t *d, const struct packet *p) {
	vpx_codec_iter_t at = NULL;
	assert_int_equal(vpx_codec_decode(d, p->data, (unsigned)p->size, NULL, 0), VPX_CODEC_OK);
	return vpx_codec_get_frame(d, &at);
}

/* Two chunks of the test engine through encoder and decoder; the least PSNR. */
static void run(const struct vp9_config *c, double least[3], size_t *bytes) {
	struct error e = {0};
	struct engine *en =
		engine_create(&(struct engine_config){.backend = "test:chunk_ms=0"}, &e);
	struct generator *g = generator_create(en, 3, &e);
	generator_prompt(g, &(struct prompt_change){.text = "a red kite", .revision = 1}, &e);
	struct vp9 *v = vp9_create(c, &e);
	vpx_codec_ctx_t d;
	assert_int_equal(vpx_codec_dec_init(&d, vpx_codec_vp9_dx(), NULL, 0), VPX_CODEC_OK);
	least[0] = least[1] = least[2] = 100;
	*bytes = 0;
	for (int made = 0; made < FRAMES;) {
		enum progress progress;
		struct frame *f;
		assert_int_equal(generator_step(g, &progress, &e), 0);
		for (; generator_frames(g, &f, 1) == 1; made++) {
			struct packet *p;
			assert_int_equal(vp9_encode(v, f, f->index, made == 12, &p, &e), 0);
			/* The first is a key by nature, the thirteenth by wish, no other. */
			assert_int_equal(p->meta.flags, made == 0 || made == 12 ? FRAME_KEY : 0);
			const vpx_image_t *image = decode(&d, p);
			assert_non_null(image);
			assert_int_equal(image->d_w, WIDTH);
			assert_int_equal(image->cs, VPX_CS_BT_709);
			assert_int_equal(image->range, VPX_CR_STUDIO_RANGE);
			for (int i = 0; i < 3; i++)
				least[i] = fmin(least[i], psnr(f, image, i));
			*bytes += p->size;
			packet_unref(p);
			frame_release(f);
		}
	}
	vpx_codec_destroy(&d);
	vp9_destroy(v);
	generator_destroy(g);
	engine_destroy(en);
}

static void pictures_and_colours_survive(void **state) {
	(void)state;
	double q28[3], q50[3], network[3];
	size_t bytes28, bytes50, bytes;
	struct vp9_config c = quality;
	run(&c, q28, &bytes28);
	print_message("cq 28: %.1f %.1f %.1f dB, %zu bytes\n", q28[0], q28[1], q28[2], bytes28);
	/* Observed 47.8, 58.1, 57.5 dB with libvpx 1.12; a wrong colour matrix or a
	 * swapped plane costs 20 dB and more. */
	assert_true(q28[0] > 44);
	assert_true(q28[1] > 50 && q28[2] > 50);
	c.cq_level = 50;
	run(&c, q50, &bytes50);
	print_message("cq 50: %.1f %.1f %.1f dB, %zu bytes\n", q50[0], q50[1], q50[2], bytes50);
	assert_true(q50[0] < q28[0]);
	assert_true(bytes50 < bytes28);
	c.network = true;
	run(&c, network, &bytes);
	print_message("network: %.1f %.1f %.1f dB, %zu bytes\n", network[0], network[1], network[2],
		bytes);
	assert_true(network[0] > 30 && network[1] > 34);
}

static void a_wrong_size_is_an_error(void **state) {
	(void)state;
	struct error e = {0};
	struct vp9 *v = vp9_create(&quality, &e);
	assert_non_null(v);
	static uint8_t pixels[64 * 64];
	struct frame f = {.plane = {pixels, pixels, pixels},
		.stride = {64, 32, 32},
		.width = 64,
		.height = 64};
	struct packet *p;
	assert_int_equal(vp9_encode(v, &f, 0, true, &p, &e), -EINVAL);
	assert_null(p);
	assert_non_null(strstr(e.text, "64x64"));
	vp9_destroy(v);
	vp9_destroy(NULL);
	struct vp9_config bad = quality;
	bad.width = 0;
	e = (struct error){0};
	assert_null(vp9_create(&bad, &e));
	assert_int_equal(e.code, -EIO);
}

static void the_cap_coarsens_and_recovers(void **state) {
	(void)state;
	enum { CHUNK_US = 750000, KBPS = 1000 };
	const int64_t fits = (int64_t)KBPS * CHUNK_US / 8000 * 9 / 10, much = fits * 3;
	struct rate_cap r;
	rate_cap_init(&r, 28, KBPS);
	assert_int_equal(rate_cap_chunk(&r, fits, CHUNK_US), 28);
	assert_int_equal(rate_cap_chunk(&r, much, CHUNK_US), 32);
	for (int i = 0; i < 20; i++)
		rate_cap_chunk(&r, much, CHUNK_US);
	assert_int_equal(r.level, 52);
	/* Three chunks make two seconds: after them the burst is forgotten. */
	for (int i = 0; i < 3; i++)
		rate_cap_chunk(&r, fits, CHUNK_US);
	assert_int_equal(rate_cap_chunk(&r, fits, CHUNK_US), 50);
	for (int i = 0; i < 60; i++)
		rate_cap_chunk(&r, fits, CHUNK_US);
	assert_int_equal(r.level, 28);
}

static void threads_follow_size_and_cores(void **state) {
	(void)state;
	assert_int_equal(vp9_threads(256, 144, 2), 2);
	assert_int_equal(vp9_threads(256, 144, 64), 2);
	assert_int_equal(vp9_threads(832, 480, 1), 2);
	assert_int_equal(vp9_threads(832, 480, 8), 4);
	assert_int_equal(vp9_threads(832, 480, 16), 8);
	assert_int_equal(vp9_threads(4096, 4096, 128), 16);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pictures_and_colours_survive),
		cmocka_unit_test(a_wrong_size_is_an_error),
		cmocka_unit_test(threads_follow_size_and_cores),
		cmocka_unit_test(the_cap_coarsens_and_recovers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
