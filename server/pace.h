/* SPDX-License-Identifier: Apache-2.0 */
/* When a chunk may begin so that making keeps pace with showing: an origin in
 * time and media, moved on when making fell behind by more than can be caught
 * up unseen. Pure. Thread: its owner's. */
#ifndef SERVER_PACE_H
#define SERVER_PACE_H
#include <stdbool.h>
#include <stdint.h>
struct pace {
	bool started;
	int64_t origin_us, origin_index; /* picture origin_index is due at origin_us */
};
/* Earliest begin of a chunk whose first picture is `index`. lead_us: how far
 * ahead of its due time a chunk may begin; frame_num/den: pictures a second;
 * chunk_us: media of a chunk. Starts the clock at the first call. */
int64_t pace_begin_us(struct pace *p, int64_t index, int64_t now_us, int64_t lead_us,
	int64_t chunk_us, int fps_num, int fps_den);
void pace_stop(struct pace *p); /* paused: the next call starts anew */
#endif
