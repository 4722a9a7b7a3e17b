/* SPDX-License-Identifier: Apache-2.0 */
/* What a viewer may say: text messages, one JSON object each, by a table of
 * types that also makes /asyncapi.json. Knows sessions, no sockets. Thread: the
 * ws thread; fuzzed. */
#ifndef SERVER_CONTROL_H
#define SERVER_CONTROL_H
#include "server/conf.h"
#include "server/fields.h"
#include "server/limiter.h"
#include "server/packet.h"
#include "server/session.h"
/* One viewer as control.c sees it. Zero it, set session, conf and visible. */
struct control_peer {
	struct session *session; /* borrowed */
	const struct conf *conf; /* borrowed */
	struct bucket messages;
	bool told_limit; /* said rate_limited since the last accepted message */
	bool visible; /* frames wanted */
	bool wants_stats; /* subscribed to viewer.stats */
	uint64_t shown_seq; /* of the last viewer.report */
	int64_t reported_drops;
};
/* Acts on one message; returns what this viewer is to be sent, or NULL. */
struct packet *control_handle(
	struct control_peer *peer, const char *text, size_t size, int64_t now_us);
struct control_type {
	const char *name;
	const struct fields *fields; /* beside type */
	struct packet *(*handler)(struct control_peer *peer, const json_t *message);
	const char *summary;
};
extern const struct control_type control_types[];
extern const size_t control_type_count;
#endif
