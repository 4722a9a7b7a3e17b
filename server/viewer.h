/* SPDX-License-Identifier: Apache-2.0 */
/* What one viewer still has to be sent: a bounded queue with the policy for the
 * slow. A decoder dies of a delta frame after a gap, so frames are lost only up
 * to the next key frame, all of them, and the viewer is told (viewer.lag).
 * Pure: time is passed in; no socket. Thread: the ws thread. */
#ifndef SERVER_VIEWER_H
#define SERVER_VIEWER_H
#include "server/packet.h"
struct viewer_limits {
	size_t queue_bytes; /* of live frames waiting, and of texts waiting */
	int64_t queue_us; /* longest a live frame may wait */
	int64_t behind_us; /* longest a viewer may stay behind */
};
struct viewer_item {
	struct packet *packet; /* one reference */
	int64_t queued_us;
	bool replayed;
};
struct viewer {
	const struct viewer_limits *limits; /* borrowed */
	const char *session_id; /* borrowed, for viewer.lag */
	struct viewer_item *item; /* ring */
	int capacity, first, count;
	size_t live_bytes, text_bytes; /* waiting */
	bool hidden; /* wants no frames */
	bool wait_key; /* frames are dropped until a key frame comes */
	bool overflow; /* texts piled up, or no memory: to be closed */
	bool started; /* next_seq is known */
	uint64_t next_seq; /* what must follow, unless it is a key frame */
	int64_t behind_since_us; /* 0: keeps up */
	/* What went out: a gap is told (viewer.lag) right before the frame after it. */
	bool sent_known;
	uint64_t sent_seq;
	const char *lag_reason;
	/* For viewer.stats and /metrics. */
	uint64_t sent_frames, sent_bytes, dropped_frames;
};
void viewer_init(struct viewer *v, const struct viewer_limits *limits, const char *session_id);
void viewer_finish(struct viewer *v);
/* The viewer has frame seq: what follows it needs no key frame. */
void viewer_resume(struct viewer *v, uint64_t seq);
/* Queues a message (takes a reference of its own) or drops it by the rules
 * above. True when this viewer now needs a key frame. */
bool viewer_push(struct viewer *v, struct packet *p, bool replayed, int64_t now_us);
/* Next message to write; the reference is the caller's. NULL: none. May be a
 * viewer.lag that was never pushed. */
struct packet *viewer_pop(struct viewer *v, bool *replayed);
void viewer_hide(struct viewer *v); /* drops the frames that wait; not counted as lag */
void viewer_show(struct viewer *v); /* frames from the next key frame on */
/* Behind for longer than allowed. */
bool viewer_is_lost(const struct viewer *v, int64_t now_us);
#endif
