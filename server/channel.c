/* SPDX-License-Identifier: Apache-2.0 */
/* See channel.h. */
#include "server/channel.h"
#include <stdlib.h>

/* What a kept message costs beside its bytes; bounds their number, too. */
#define ITEM_BYTES 256

void channel_init(struct channel *c, size_t bytes_max, int64_t keep_us) {
	*c = (struct channel){.bytes_max = bytes_max, .keep_us = keep_us};
}

void channel_finish(struct channel *c) {
	for (int i = 0; i < c->count; i++)
		packet_unref(c->item[(c->first + i) % c->capacity]);
	free(c->item);
	packet_unref(c->config);
	*c = (struct channel){0};
}

static bool grow(struct channel *c) {
	int capacity = c->capacity ? c->capacity * 2 : 64;
	struct packet **item = malloc((size_t)capacity * sizeof *item);
	if (!item)
		return false;
	for (int i = 0; i < c->count; i++)
		item[i] = c->item[(c->first + i) % c->capacity];
	free(c->item);
	c->item = item;
	c->capacity = capacity;
	c->first = 0;
	return true;
}

static void evict(struct channel *c) {
	struct packet *p = c->item[c->first];
	c->first = (c->first + 1) % c->capacity;
	c->count--;
	c->bytes -= p->size + ITEM_BYTES;
	if (c->has_key && c->key == c->base)
		c->has_key = false;
	c->base++;
	if (!p->sticky) {
		packet_unref(p);
		return;
	}
	packet_unref(c->config);
	c->config = p;
}

/* The oldest message may go: it is older than keep_us, counted from the newest
 * frame (so that a pause forgets nothing), and not needed to join. */
static bool outlived(const struct channel *c) {
	if (!c->has_frame || (c->has_key && c->key <= c->base))
		return false;
	return c->last_frame_us - c->item[c->first]->made_us > c->keep_us;
}

bool channel_append(struct channel *c, struct packet *p) {
	if (c->count == c->capacity && !grow(c))
		return false;
	c->item[(c->first + c->count++) % c->capacity] = packet_ref(p);
	c->bytes += p->size + ITEM_BYTES;
	if (p->kind == PACKET_FRAME) {
		c->has_frame = true;
		c->last_seq = p->meta.seq;
		c->last_frame_us = p->made_us;
		if (p->meta.flags & FRAME_KEY) {
			c->has_key = true;
			c->key = channel_end(c) - 1;
		}
	}
	while (c->count && (c->bytes > c->bytes_max || outlived(c)))
		evict(c);
	return true;
}

struct packet *channel_at(const struct channel *c, uint64_t number) {
	if (number < c->base || number >= channel_end(c))
		return NULL;
	return c->item[(c->first + (int)(number - c->base)) % c->capacity];
}

uint64_t channel_end(const struct channel *c) {
	return c->base + (uint64_t)c->count;
}

bool channel_begin(const struct channel *c, const uint64_t *since, uint64_t *begin, bool *resumed) {
	*resumed = false;
	if (since && c->has_frame) {
		/* The frame last seen must still be here: what follows it decodes. */
		for (uint64_t i = channel_end(c); i-- > c->base;) {
			const struct packet *p = channel_at(c, i);
			if (p->kind != PACKET_FRAME || p->meta.seq != *since)
				continue;
			*begin = i + 1;
			*resumed = true;
			return true;
		}
	}
	*begin = c->has_key ? c->key : channel_end(c);
	return c->has_key;
}

struct packet *channel_config(const struct channel *c, uint64_t number) {
	for (uint64_t i = number; i-- > c->base;) {
		struct packet *p = channel_at(c, i);
		if (p && p->sticky)
			return p;
	}
	return c->config;
}
