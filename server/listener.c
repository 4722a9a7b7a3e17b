/* SPDX-License-Identifier: Apache-2.0 */
/* See listener.h. */
#include "server/listener.h"
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "server/hosts.h"

#define BACKLOG 1024

/* Cuts "ADDR:PORT" into host (no brackets) and port. */
static int split_listen(
	const char *listen, char *host, size_t host_bytes, char port[8], struct error *e) {
	struct slice name;
	int number;
	struct slice whole = {listen, strlen(listen)};
	if (!hosts_split(whole, &name, &number) || number < 0 ||
		!slice_copy(name, host, host_bytes))
		return error_set(e, -EINVAL,
			"[server] listen: \"%s\" is not ADDR:PORT, such as 127.0.0.1:8900 or "
			"[::1]:8900",
			listen);
	snprintf(port, 8, "%d", number);
	return 0;
}

int listener_open(struct listener *l, const char *where, struct error *e) {
	char port[8];
	l->fd = -1;
	if (split_listen(where, l->host, sizeof l->host, port, e))
		return -1;
	struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
	int failed = getaddrinfo(l->host, port, &want, &found);
	if (failed)
		return error_set(
			e, -EINVAL, "[server] listen: %s: %s", where, gai_strerror(failed));
	int one = 1, fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	bool open = fd >= 0 && !bind(fd, found->ai_addr, found->ai_addrlen) && !listen(fd, BACKLOG);
	int why = errno;
	freeaddrinfo(found);
	if (!open && fd >= 0)
		close(fd);
	if (!open)
		return error_set(e, -why, "[server] listen: %s: %s", where, strerror(why));
	l->fd = fd;
	struct sockaddr_storage bound;
	socklen_t size = sizeof bound;
	getsockname(fd, (struct sockaddr *)&bound, &size);
	l->port = ntohs(bound.ss_family == AF_INET6
				? ((struct sockaddr_in6 *)(void *)&bound)->sin6_port
				: ((struct sockaddr_in *)(void *)&bound)->sin_port);
	return 0;
}
