/* SPDX-License-Identifier: Apache-2.0 */
/* The recent past of one session's stream, in order: what a late joiner or a
 * resuming viewer is sent before live frames. Bounded in bytes and, beyond the
 * last key frame, in time. Pure. Thread: the ws thread. */
#ifndef SERVER_CHANNEL_H
#define SERVER_CHANNEL_H
#include "server/packet.h"
struct channel {
	size_t bytes_max;
	int64_t keep_us;
	struct packet **item; /* ring, one reference each */
	int capacity, first, count;
	size_t bytes;
	uint64_t base; /* number of item[first]; numbers count messages and never restart */
	uint64_t key; /* number of the last key frame */
	bool has_key; /* it is still in the ring */
	bool has_frame;
	uint64_t last_seq; /* when has_frame */
	int64_t last_frame_us;
	struct packet *config; /* newest sticky message that left the ring, or NULL */
};
void channel_init(struct channel *c, size_t bytes_max, int64_t keep_us);
void channel_finish(struct channel *c);
/* Takes a reference of its own. False: no memory, the message is not kept. */
bool channel_append(struct channel *c, struct packet *p);
/* Where to begin for a viewer that is new (since NULL) or has seen up to *since.
 * *begin is the number of the first message to replay, *resumed whether nothing
 * is missed. False: nothing can be replayed, wait for a key frame. */
bool channel_begin(const struct channel *c, const uint64_t *since, uint64_t *begin, bool *resumed);
/* Message by number; NULL beyond either end. Borrowed. */
struct packet *channel_at(const struct channel *c, uint64_t number);
uint64_t channel_end(const struct channel *c); /* one past the last number */
/* The configuration in force before message `number`. Borrowed; NULL: none yet. */
struct packet *channel_config(const struct channel *c, uint64_t number);
#endif
