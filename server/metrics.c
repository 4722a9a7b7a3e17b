/* SPDX-License-Identifier: Apache-2.0 */
/* See metrics.h. Rows that share a name must stand together. */
#include "server/metrics.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct row {
	const char *name, *label, *type, *help;
} rows[METRIC_COUNT] = {
	[METRIC_READY] = {"lightforced_ready", "", "gauge", "1 when sessions can be made."},
	[METRIC_SESSIONS] = {"lightforced_sessions", "", "gauge", "Live sessions."},
	[METRIC_VIEWERS] = {"lightforced_viewers", "", "gauge", "Open streams."},
	[METRIC_CHUNKS] = {"lightforced_chunks_total", "", "counter", "Chunks generated."},
	[METRIC_FRAMES_ENCODED] = {"lightforced_frames_encoded_total", "", "counter",
		"Frames encoded."},
	[METRIC_FRAMES_SENT] = {"lightforced_frames_sent_total", "", "counter",
		"Frames handed to sockets."},
	[METRIC_FRAMES_DROPPED] = {"lightforced_frames_dropped_total", "{reason=\"slow\"}",
		"counter", "Frames that slow viewers did not get."},
	[METRIC_SENT_BYTES] = {"lightforced_sent_bytes_total", "", "counter",
		"Bytes of messages handed to sockets."},
	[METRIC_WS_CLOSED_ENDED] = {"lightforced_ws_closed_total", "{reason=\"ended\"}", "counter",
		"Streams closed."},
	[METRIC_WS_CLOSED_DRAINING] = {"lightforced_ws_closed_total", "{reason=\"draining\"}",
		"counter", ""},
	[METRIC_WS_CLOSED_REFUSED] = {"lightforced_ws_closed_total", "{reason=\"refused\"}",
		"counter", ""},
	[METRIC_WS_CLOSED_SLOW] = {"lightforced_ws_closed_total", "{reason=\"slow\"}", "counter",
		""},
	[METRIC_WS_CLOSED_CLIENT] = {"lightforced_ws_closed_total", "{reason=\"client\"}",
		"counter", ""},
	[METRIC_HTTP_2XX] = {"lightforced_http_requests_total", "{class=\"2xx\"}", "counter",
		"Requests answered over HTTP."},
	[METRIC_HTTP_4XX] = {"lightforced_http_requests_total", "{class=\"4xx\"}", "counter", ""},
	[METRIC_HTTP_5XX] = {"lightforced_http_requests_total", "{class=\"5xx\"}", "counter", ""},
	[METRIC_HEADS_REFUSED] = {"lightforced_heads_refused_total", "", "counter",
		"Connections refused by their request head."},
	[METRIC_CONNECTIONS] = {"lightforced_connections_total", "", "counter",
		"Connections accepted."},
};

void metrics_add(struct metrics *m, enum metric which, long long n) {
	if (m)
		atomic_fetch_add_explicit(&m->value[which], n, memory_order_relaxed);
}

void metrics_set(struct metrics *m, enum metric which, long long n) {
	if (m)
		atomic_store_explicit(&m->value[which], n, memory_order_relaxed);
}

long long metrics_get(const struct metrics *m, enum metric which) {
	return m ? atomic_load_explicit(&m->value[which], memory_order_relaxed) : 0;
}

char *metrics_text(const struct metrics *m, size_t *size) {
	char *text = NULL;
	FILE *out = open_memstream(&text, size);
	if (!out)
		return NULL;
	for (int i = 0; i < METRIC_COUNT; i++) {
		const struct row *r = &rows[i];
		if (i == 0 || strcmp(rows[i - 1].name, r->name) != 0)
			fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", r->name, r->help, r->name,
				r->type);
		fprintf(out, "%s%s %lld\n", r->name, r->label, metrics_get(m, (enum metric)i));
	}
	if (fclose(out)) {
		free(text);
		return NULL;
	}
	return text;
}
