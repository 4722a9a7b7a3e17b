/* SPDX-License-Identifier: Apache-2.0 */
/* libmicrohttpd behind server/acceptor.c: carries requests to api_dispatch and
 * answers back. It never listens: every connection is handed to it with a
 * checked head, serves one request and is closed, so that no second request
 * can slip past the check. Thread: its own, inside the library. */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H
#include <sys/socket.h>
#include "server/api.h"
struct http;
struct http *http_create(const struct conf *c, struct api *a, struct metrics *m, struct error *e);
void http_destroy(struct http *h); /* waits for the requests in hand; NULL is fine */
/* Takes the descriptor. Any thread. */
void http_adopt(struct http *h, int fd, const struct sockaddr *peer, socklen_t peer_bytes);
/* A random name for a request or answer: "req_" and 16 characters. */
#define REQUEST_ID_BYTES 24
void http_request_id(char out[REQUEST_ID_BYTES]);
#endif
