/* SPDX-License-Identifier: Apache-2.0 */
/* Packets: one allocation holding the count, the description, the headroom and
 * the bytes. Thread: any; the count is atomic, the rest constant after publish
 * but for the headroom, which belongs to the ws thread. */
#include "server/packet.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct counted {
	struct packet packet; /* first: the public pointer is this one */
	atomic_int references;
	uint8_t bytes[];
};

struct packet *packet_create(enum packet_kind kind, size_t size) {
	struct counted *c = malloc(sizeof *c + PACKET_HEADROOM + size);
	if (!c)
		return NULL;
	c->packet = (struct packet){
		.kind = kind,
		.size = size,
		.data = c->bytes + PACKET_HEADROOM,
	};
	atomic_init(&c->references, 1);
	return &c->packet;
}

struct packet *packet_text(const char *json) {
	size_t size = strlen(json);
	struct packet *p = packet_create(PACKET_TEXT, size);
	if (p)
		memcpy(p->data, json, size);
	return p;
}

struct packet *packet_ref(struct packet *p) {
	atomic_fetch_add_explicit(&((struct counted *)p)->references, 1, memory_order_relaxed);
	return p;
}

void packet_unref(struct packet *p) {
	struct counted *c = (struct counted *)p;
	if (p && atomic_fetch_sub_explicit(&c->references, 1, memory_order_acq_rel) == 1)
		free(c);
}
