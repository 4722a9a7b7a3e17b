/* SPDX-License-Identifier: Apache-2.0 */
/* Counters and gauges of the whole daemon, published as Prometheus text at
 * /metrics. One table names them; small fixed label sets, never a session id.
 * Thread: any (atomics). */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H
#include <stdatomic.h>
#include <stddef.h>
enum metric {
	METRIC_READY, /* gauge, 0 or 1 */
	METRIC_SESSIONS, /* gauge */
	METRIC_VIEWERS, /* gauge */
	METRIC_CHUNKS,
	METRIC_FRAMES_ENCODED,
	METRIC_FRAMES_SENT,
	METRIC_FRAMES_DROPPED,
	METRIC_SENT_BYTES,
	METRIC_WS_CLOSED_ENDED, /* 1000 */
	METRIC_WS_CLOSED_DRAINING, /* 1001 */
	METRIC_WS_CLOSED_REFUSED, /* 1003, 1008, 1009, 4401, 4404, 4410 */
	METRIC_WS_CLOSED_SLOW, /* 1013 */
	METRIC_WS_CLOSED_CLIENT, /* the other side left */
	METRIC_HTTP_2XX,
	METRIC_HTTP_4XX,
	METRIC_HTTP_5XX,
	METRIC_HEADS_REFUSED, /* before any library saw the request */
	METRIC_CONNECTIONS,
	METRIC_COUNT
};
struct metrics {
	atomic_llong value[METRIC_COUNT];
};
void metrics_add(struct metrics *m, enum metric which, long long n); /* m may be NULL */
void metrics_set(struct metrics *m, enum metric which, long long n); /* m may be NULL */
long long metrics_get(const struct metrics *m, enum metric which);
/* The exposition format; malloc'd, owned by the caller. NULL: no memory. */
char *metrics_text(const struct metrics *m, size_t *size);
#endif
