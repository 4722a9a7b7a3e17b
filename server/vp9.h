/* SPDX-License-Identifier: Apache-2.0 */
/* libvpx set up for a live picture: no lag, no lookahead, key frames only when
 * asked, BT.709 limited range written into the stream. One owner thread. */
#ifndef SERVER_VP9_H
#define SERVER_VP9_H
#include "engine/engine.h"
#include "server/packet.h"
struct vp9;
struct vp9_config {
	int width, height, fps_num, fps_den;
	int bitrate_kbps; /* network profile */
	int cq_level; /* quality profile, 0 to 63 */
	int cpu_used, threads; /* threads 0: vp9_threads of this machine */
	bool network; /* an even bit rate instead of even quality */
};
struct vp9 *vp9_create(const struct vp9_config *c, struct error *e); /* NULL and *e on failure */
void vp9_destroy(struct vp9 *v); /* NULL is fine */
/* Threads that a picture of this size is worth on a machine of so many cores: one
 * for each 50 000 pixels, two at least, half the cores at most. Any thread. */
int vp9_threads(int width, int height, int cores);
/* One picture in, one frame packet out (the caller's reference), FRAME_KEY set in
 * its meta when it is one; the rest of meta is the caller's to fill. index: pictures
 * shown before, growing. After a failure the encoder is done for. */
int vp9_encode(struct vp9 *v, const struct frame *f, int64_t index, bool key, struct packet **out,
	struct error *e);
void vp9_set_quality(struct vp9 *v, int cq_level); /* quality profile; from the next frame on */
int vp9_quantizer(const struct vp9 *v); /* of the last frame, 0 to 63 */

/* Keeps the quality profile under a bit rate: coarser by 4 when the last two
 * seconds of media spent more, else finer by 1 down to the wish. Pure. */
struct rate_cap {
	int wish, level, level_max; /* quantisers */
	int64_t cap_kbps;
	struct {
		int64_t bytes, us;
	} chunk[32]; /* ring */
	int first, count;
};
void rate_cap_init(struct rate_cap *r, int cq_level, int64_t cap_kbps);
int rate_cap_chunk(
	struct rate_cap *r, int64_t bytes, int64_t media_us); /* level for the next chunk */
#endif
