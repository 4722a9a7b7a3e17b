/* SPDX-License-Identifier: Apache-2.0 */
/* See acceptor.h. Waiting connections sit in an edge-triggered epoll set; each
 * arrival peeks at all that has come so far. A refused one gets its answer, then
 * lingers while what the client still sends is thrown away, since closing with
 * unread bytes would reset the connection and lose the answer. */
#include "server/acceptor.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include "server/admission.h"
#include "server/head.h"
#include "server/limiter.h"
#include "server/listener.h"
#include "server/wire.h"

#define LINGER_US INT64_C(1000000)
#define LINGER_BYTES_MAX (256 * 1024)
#define SWEEP_MS 250
#define EVENTS 64

/* A connection that was not handed over yet. */
struct waiting {
	int fd; /* -1: free place */
	int64_t deadline_us;
	bool lingering; /* answered; only its end is awaited */
	size_t thrown_away; /* bytes, while lingering */
	struct sockaddr_storage peer;
	socklen_t peer_bytes;
};
struct acceptor {
	const struct conf *conf;
	struct http *http;
	struct ws *ws;
	struct metrics *metrics;
	struct listener listener;
	int epoll, wake;
	int spare; /* descriptor given up for a moment when there are none left */
	atomic_bool stopping;
	atomic_llong ticked_us;
	struct limiter limiter;
	char *head; /* conf->head_bytes_max bytes, for peeking */
	int waiting_max;
	struct waiting *waiting;
};

static int watch(struct acceptor *a, int fd, uint32_t events, uint64_t tag) {
	struct epoll_event ev = {.events = events, .data.u64 = tag};
	return epoll_ctl(a->epoll, EPOLL_CTL_ADD, fd, &ev);
}

#define TAG_LISTENER UINT64_MAX
#define TAG_WAKE (UINT64_MAX - 1)

struct acceptor *acceptor_create(
	const struct conf *c, struct http *h, struct ws *w, struct metrics *m, struct error *e) {
	struct acceptor *a = calloc(1, sizeof *a);
	if (!a) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	*a = (struct acceptor){
		.conf = c, .http = h, .ws = w, .metrics = m, .listener.fd = -1, .wake = -1};
	a->waiting_max = c->http_connections_max + 64;
	a->head = malloc((size_t)c->head_bytes_max);
	a->waiting = calloc((size_t)a->waiting_max, sizeof *a->waiting);
	for (int i = 0; a->waiting && i < a->waiting_max; i++)
		a->waiting[i].fd = -1;
	a->epoll = epoll_create1(EPOLL_CLOEXEC);
	a->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	a->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
	atomic_store(&a->ticked_us, wire_now_us());
	bool ready = a->head && a->waiting && a->epoll >= 0 && a->wake >= 0;
	if (!ready)
		error_set(e, -ENOMEM, "acceptor: out of memory or descriptors");
	if (!ready || listener_open(&a->listener, c->listen, e) ||
		watch(a, a->listener.fd, EPOLLIN, TAG_LISTENER) ||
		watch(a, a->wake, EPOLLIN, TAG_WAKE)) {
		error_set(e, -errno, "acceptor: %s", strerror(errno));
		acceptor_destroy(a);
		return NULL;
	}
	return a;
}

static void close_fd(int *fd) {
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void acceptor_destroy(struct acceptor *a) {
	if (!a)
		return;
	for (int i = 0; a->waiting && i < a->waiting_max; i++)
		close_fd(&a->waiting[i].fd);
	close_fd(&a->listener.fd);
	close_fd(&a->epoll);
	close_fd(&a->wake);
	close_fd(&a->spare);
	free(a->waiting);
	free(a->head);
	free(a);
}

int acceptor_port(const struct acceptor *a) {
	return a->listener.port;
}

int64_t acceptor_ticked_us(const struct acceptor *a) {
	return atomic_load(&a->ticked_us);
}

void acceptor_stop(struct acceptor *a) {
	atomic_store(&a->stopping, true);
	if (eventfd_write(a->wake, 1))
		return; /* full: it will wake anyway */
}

static void drop(struct waiting *w) {
	close_fd(&w->fd); /* leaves the epoll set, too */
}

/* Throws away what came in; closes when the client did, or sends too much. */
static void linger(struct acceptor *a, struct waiting *w) {
	for (;;) {
		ssize_t n = recv(w->fd, a->head, (size_t)a->conf->head_bytes_max, 0);
		if (n > 0 && (w->thrown_away += (size_t)n) <= LINGER_BYTES_MAX)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		drop(w);
		return;
	}
}

/* Writes the whole answer (it fits an empty socket buffer) and lingers. */
static void refuse(struct acceptor *a, struct waiting *w, const struct head *h, struct problem *p,
	const char *more_headers) {
	char path[200] = "";
	bool named = h && h->path.at && slice_copy(h->path, path, sizeof path);
	json_t *document = problem_json(p, named ? path : NULL);
	char *body = document ? json_dumps(document, JSON_COMPACT) : NULL;
	char id[REQUEST_ID_BYTES], retry[40] = "", answer[4096];
	http_request_id(id);
	if (p->retry_after_s > 0)
		snprintf(retry, sizeof retry, "Retry-After: %d\r\n", p->retry_after_s);
	int size = snprintf(answer, sizeof answer,
		"HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\nContent-Length: "
		"%zu\r\nX-Request-Id: %s\r\nX-Content-Type-Options: nosniff\r\nCache-Control: "
		"no-store\r\n%s%sConnection: close\r\n\r\n%s",
		problem_status(p->code), problem_name(p->code), body ? strlen(body) : 0, id, retry,
		more_headers, body ? body : "");
	free(body);
	json_decref(document);
	metrics_add(a->metrics, METRIC_HEADS_REFUSED, 1);
	problem_clear(p);
	if (size >= (int)sizeof answer ||
		send(w->fd, answer, (size_t)size, MSG_NOSIGNAL | MSG_DONTWAIT) != size) {
		drop(w);
		return;
	}
	shutdown(w->fd, SHUT_WR);
	w->lingering = true;
	w->deadline_us = wire_now_us() + LINGER_US;
	linger(a, w);
}

static void refuse_fault(
	struct acceptor *a, struct waiting *w, const struct head *h, const struct head_fault *f) {
	struct problem p = {0};
	problem_set(&p, f->code, "", "%s", f->text);
	refuse(a, w, h, &p,
		f->code == PROBLEM_UPGRADE_REQUIRED
			? "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
			: "");
}

static void hand_over(struct acceptor *a, struct waiting *w, const struct stream_request *stream) {
	epoll_ctl(a->epoll, EPOLL_CTL_DEL, w->fd, NULL);
	if (stream)
		ws_adopt(a->ws, w->fd, stream->session, stream->since, stream->has_since);
	else
		http_adopt(a->http, w->fd, (struct sockaddr *)&w->peer, w->peer_bytes);
	w->fd = -1;
}

static void admit(struct acceptor *a, struct waiting *w, const struct head *h) {
	struct sockaddr_storage local;
	socklen_t size = sizeof local;
	bool known = !getsockname(w->fd, (struct sockaddr *)&local, &size);
	struct admission rules = {
		.hosts = {a->listener.host, a->conf->allowed_hosts, a->conf->allowed_origins},
		.local = known ? (struct sockaddr *)&local : NULL,
		.body_bytes_max = a->conf->body_bytes_max,
	};
	struct stream_request stream;
	struct head_fault fault;
	bool streams;
	if (!admission_check(&rules, h, &stream, &streams, &fault))
		refuse_fault(a, w, h, &fault);
	else
		hand_over(a, w, streams ? &stream : NULL);
}

/* gone: the client will send no more. */
static void look(struct acceptor *a, struct waiting *w, bool gone) {
	if (w->lingering) {
		linger(a, w);
		return;
	}
	size_t room = (size_t)a->conf->head_bytes_max;
	ssize_t n = recv(w->fd, a->head, room, MSG_PEEK | MSG_DONTWAIT);
	if (n <= 0) {
		if (n == 0 || errno != EAGAIN)
			drop(w);
		return;
	}
	struct head h;
	struct head_fault fault;
	switch (head_parse(a->head, (size_t)n, &h, &fault)) {
	case HEAD_REFUSED:
		refuse_fault(a, w, &h, &fault);
		return;
	case HEAD_INCOMPLETE:
		if ((size_t)n < room) {
			if (gone)
				drop(w);
			return;
		}
		fault = (struct head_fault){PROBLEM_HEADER_TOO_LARGE,
			"The request head is longer than [server] head_bytes_max allows."};
		refuse_fault(a, w, &h, &fault);
		return;
	case HEAD_COMPLETE:
		break;
	}
	admit(a, w, &h);
}

/* A free place; when all are taken, the one that has waited longest gives way. */
static struct waiting *take_place(struct acceptor *a) {
	struct waiting *oldest = &a->waiting[0];
	for (int i = 0; i < a->waiting_max; i++) {
		if (a->waiting[i].fd < 0)
			return &a->waiting[i];
		if (a->waiting[i].deadline_us < oldest->deadline_us)
			oldest = &a->waiting[i];
	}
	drop(oldest);
	return oldest;
}

static void accept_one(struct acceptor *a, int fd, const struct waiting *from) {
	struct waiting *w = take_place(a);
	*w = *from;
	w->fd = fd;
	w->lingering = false;
	w->thrown_away = 0;
	int64_t now_us = wire_now_us();
	w->deadline_us = now_us + a->conf->head_timeout_s * INT64_C(1000000);
	metrics_add(a->metrics, METRIC_CONNECTIONS, 1);
	if (watch(a, fd, EPOLLIN | EPOLLRDHUP | EPOLLET, (uint64_t)(w - a->waiting))) {
		drop(w);
		return;
	}
	if (limiter_take(&a->limiter, (struct sockaddr *)&w->peer, a->conf->connections_per_s,
		    a->conf->connections_burst, now_us))
		return;
	struct problem p = {0};
	problem_set(&p, PROBLEM_RATE_LIMITED, "",
		"More than %d connections a second came from this address.",
		a->conf->connections_per_s);
	p.retry_after_s = 1;
	refuse(a, w, NULL, &p, "");
}

static void accept_all(struct acceptor *a) {
	for (;;) {
		struct waiting from = {.peer_bytes = sizeof from.peer};
		int fd = accept4(a->listener.fd, (struct sockaddr *)&from.peer, &from.peer_bytes,
			SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			accept_one(a, fd, &from);
			continue;
		}
		if (errno != EMFILE && errno != ENFILE)
			return;
		/* No descriptors left: shed one connection with the spare one, or the
		 * listener would stay readable and this loop would spin. */
		close_fd(&a->spare);
		fd = accept(a->listener.fd, NULL, NULL);
		close_fd(&fd);
		a->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
		return;
	}
}

/* Those out of time: silent ones are closed, others told. */
static void sweep(struct acceptor *a, int64_t now_us) {
	for (int i = 0; i < a->waiting_max; i++) {
		struct waiting *w = &a->waiting[i];
		if (w->fd < 0 || now_us < w->deadline_us)
			continue;
		char byte;
		if (w->lingering || recv(w->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0) {
			drop(w);
			continue;
		}
		struct head_fault late = {PROBLEM_REQUEST_TIMEOUT,
			"The request head did not come in time ([server] head_timeout_s)."};
		refuse_fault(a, w, NULL, &late);
	}
}

void acceptor_run(struct acceptor *a) {
	struct epoll_event ev[EVENTS];
	int64_t swept_us = 0;
	while (!atomic_load(&a->stopping)) {
		int n = epoll_wait(a->epoll, ev, EVENTS, SWEEP_MS);
		for (int i = 0; i < n; i++) {
			uint64_t tag = ev[i].data.u64;
			if (tag == TAG_LISTENER)
				accept_all(a);
			else if (tag < (uint64_t)a->waiting_max && a->waiting[tag].fd >= 0)
				look(a, &a->waiting[tag], (ev[i].events & EPOLLRDHUP) != 0);
		}
		int64_t now_us = wire_now_us();
		atomic_store(&a->ticked_us, now_us);
		if (now_us - swept_us < SWEEP_MS * 1000)
			continue;
		swept_us = now_us;
		sweep(a, now_us);
	}
	close_fd(&a->listener.fd);
	for (int i = 0; i < a->waiting_max; i++)
		drop(&a->waiting[i]);
}
