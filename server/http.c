/* SPDX-License-Identifier: Apache-2.0 */
/* See http.h. The only file that knows libmicrohttpd. One request a connection:
 * the library's own parser is lenient (it takes bare LF, folded lines, two
 * lengths), so no head that server/head.c has not passed may reach it. */
#include "server/http.h"
#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include "server/wire.h"

struct http {
	const struct conf *conf;
	struct api *api;
	struct metrics *metrics;
	struct MHD_Daemon *daemon;
};
/* One request in hand. */
struct exchange {
	char *uri; /* as sent, query included */
	char *body;
	size_t body_bytes;
	int64_t begun_us;
	bool begun; /* the head was seen */
};

void http_request_id(char out[REQUEST_ID_BYTES]) {
	static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
	uint8_t bytes[16] = {0};
	if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
		memset(bytes, 0, sizeof bytes);
	memcpy(out, "req_", 4);
	for (size_t i = 0; i < sizeof bytes; i++)
		out[4 + i] = digits[bytes[i] % 32];
	out[20] = 0;
}

static void *begin_exchange(void *ctx, const char *uri, struct MHD_Connection *connection) {
	(void)ctx, (void)connection;
	struct exchange *x = calloc(1, sizeof *x);
	if (x) {
		x->uri = strdup(uri);
		x->begun_us = wire_now_us();
	}
	return x;
}

static void end_exchange(void *ctx, struct MHD_Connection *connection, void **place,
	enum MHD_RequestTerminationCode how) {
	(void)ctx, (void)connection, (void)how;
	struct exchange *x = *place;
	if (!x)
		return;
	free(x->uri);
	free(x->body);
	free(x);
	*place = NULL;
}

/* Paths are compared as they were sent: nothing is decoded. */
static size_t keep_escapes(void *ctx, struct MHD_Connection *connection, char *text) {
	(void)ctx, (void)connection;
	return strlen(text);
}

static void header(struct MHD_Response *r, const char *name, const char *value) {
	if (value && *value)
		MHD_add_response_header(r, name, value);
}

/* The page may load from here alone, and talk to here alone; Safari needs the
 * socket's scheme spelled out. */
static void page_headers(struct MHD_Response *r, const char *host) {
	char policy[900];
	char sockets[600] = "";
	if (host && strlen(host) < 256 && !strpbrk(host, " ;,'\""))
		snprintf(sockets, sizeof sockets, " ws://%s wss://%s", host, host);
	snprintf(policy, sizeof policy,
		"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: "
		"blob:; media-src 'self' blob:; font-src 'self'; worker-src 'self'; manifest-src "
		"'self'; connect-src 'self'%s; base-uri 'none'; form-action 'none'; "
		"frame-ancestors 'none'",
		sockets);
	header(r, "Content-Security-Policy", policy);
	header(r, "Referrer-Policy", "no-referrer");
	header(r, "Cross-Origin-Opener-Policy", "same-origin");
}

static struct MHD_Response *make_response(struct response *res) {
	if (res->fd >= 0) {
		struct MHD_Response *r = MHD_create_response_from_fd64(res->fd_bytes, res->fd);
		if (r)
			res->fd = -1; /* the library closes it */
		return r;
	}
	char *text = res->text;
	size_t size = res->text_bytes;
	if (res->json) {
		text = json_dumps(res->json, JSON_COMPACT);
		size = text ? strlen(text) : 0;
	}
	if (!text)
		return MHD_create_response_from_buffer(
			0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
	struct MHD_Response *r = MHD_create_response_from_buffer(size, text, MHD_RESPMEM_MUST_FREE);
	if (!r || text != res->text)
		return r;
	res->text = NULL;
	return r;
}

static enum MHD_Result send_response(
	struct http *h, struct MHD_Connection *connection, struct response *res) {
	struct MHD_Response *r = make_response(res);
	if (!r)
		return MHD_NO;
	char id[REQUEST_ID_BYTES], retry[16] = "";
	http_request_id(id);
	if (res->retry_after_s > 0)
		snprintf(retry, sizeof retry, "%d", res->retry_after_s);
	header(r, "X-Request-Id", id);
	header(r, "Content-Type", res->status == 304 ? NULL : res->content_type);
	header(r, "X-Content-Type-Options", "nosniff");
	header(r, "Cross-Origin-Resource-Policy", "same-origin");
	header(r, "Cache-Control", res->cacheable ? "no-cache" : "no-store");
	header(r, "Location", res->location);
	header(r, "ETag", res->etag);
	header(r, "Allow", res->allow);
	header(r, "Retry-After", retry);
	header(r, "Connection", "close");
	if (*res->websocket)
		header(r, "Sec-WebSocket-Version", res->websocket);
	if (res->page)
		page_headers(r, MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Host"));
	metrics_add(h->metrics,
		res->status < 400   ? METRIC_HTTP_2XX
		: res->status < 500 ? METRIC_HTTP_4XX
				    : METRIC_HTTP_5XX,
		1);
	enum MHD_Result queued = MHD_queue_response(connection, (unsigned)res->status, r);
	MHD_destroy_response(r);
	return queued;
}

/* Takes up a piece of the body. MHD_NO ends the connection. */
static enum MHD_Result take_body(
	struct http *h, struct exchange *x, const char *data, size_t *size) {
	size_t total = x->body_bytes + *size;
	if (total > (size_t)h->conf->body_bytes_max ||
		wire_now_us() - x->begun_us > h->conf->body_timeout_s * INT64_C(1000000))
		return MHD_NO;
	char *grown = realloc(x->body, total);
	if (!grown)
		return MHD_NO;
	memcpy(grown + x->body_bytes, data, *size);
	x->body = grown;
	x->body_bytes = total;
	*size = 0;
	return MHD_YES;
}

static enum MHD_Result answer(void *ctx, struct MHD_Connection *connection, const char *url,
	const char *method, const char *version, const char *upload, size_t *upload_bytes,
	void **place) {
	(void)url, (void)version;
	struct http *h = ctx;
	struct exchange *x = *place;
	if (!x || !x->uri)
		return MHD_NO;
	if (!x->begun) {
		x->begun = true;
		return MHD_YES;
	}
	if (*upload_bytes)
		return take_body(h, x, upload, upload_bytes);
	char *query = strchr(x->uri, '?');
	if (query)
		*query++ = 0;
	struct request req = {
		.method = method,
		.path = x->uri,
		.query = query,
		.body = x->body,
		.body_bytes = x->body_bytes,
	};
	const struct {
		const char *name, **place;
	} wanted[] = {
		{"Content-Type", &req.content_type},
		{"Accept", &req.accept},
		{"Idempotency-Key", &req.idempotency_key},
		{"If-None-Match", &req.if_none_match},
	};
	for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
		*wanted[i].place =
			MHD_lookup_connection_value(connection, MHD_HEADER_KIND, wanted[i].name);
	struct response res;
	api_dispatch(h->api, &req, &res);
	enum MHD_Result queued = send_response(h, connection, &res);
	response_finish(&res);
	return queued;
}

struct http *http_create(const struct conf *c, struct api *a, struct metrics *m, struct error *e) {
	struct http *h = calloc(1, sizeof *h);
	if (!h) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	h->conf = c;
	h->api = a;
	h->metrics = m;
	h->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_ITC |
					     MHD_USE_NO_LISTEN_SOCKET,
		0, NULL, NULL, answer, h, MHD_OPTION_CONNECTION_LIMIT,
		(unsigned)c->http_connections_max, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
		(unsigned)c->http_connections_per_ip, MHD_OPTION_CONNECTION_TIMEOUT,
		(unsigned)c->http_timeout_s, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)c->head_bytes_max + 16384, MHD_OPTION_URI_LOG_CALLBACK, begin_exchange,
		NULL, MHD_OPTION_NOTIFY_COMPLETED, end_exchange, NULL, MHD_OPTION_UNESCAPE_CALLBACK,
		keep_escapes, NULL, MHD_OPTION_END);
	if (h->daemon)
		return h;
	free(h);
	error_set(e, -EIO, "libmicrohttpd did not start: %s", strerror(errno));
	return NULL;
}

void http_destroy(struct http *h) {
	if (!h)
		return;
	MHD_stop_daemon(h->daemon);
	free(h);
}

void http_adopt(struct http *h, int fd, const struct sockaddr *peer, socklen_t peer_bytes) {
	/* Closes the descriptor itself when it cannot take it. */
	MHD_add_connection(h->daemon, fd, peer, peer_bytes);
}
