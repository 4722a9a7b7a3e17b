/* SPDX-License-Identifier: Apache-2.0 */
/* Which names this daemon answers to, and which pages may talk to it. A page of
 * a stranger that points its own name at our address (DNS rebinding) fails the
 * Host check; one that talks to our address by its right name fails the Origin
 * check. Pure. */
#ifndef SERVER_HOSTS_H
#define SERVER_HOSTS_H
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include "server/head.h"
struct hosts {
	const char *listen_host; /* host part of conf->listen, no brackets; borrowed */
	const char *allowed_hosts; /* names, comma or space separated; borrowed; may be NULL */
	const char *allowed_origins; /* "https://show.example:8443, ..."; may be NULL */
};
/* "HOST:PORT", "[V6]:PORT" or "HOST" cut in two; host loses its brackets. False
 * when malformed. *port is -1 when absent. */
bool hosts_split(struct slice authority, struct slice *host, int *port);
/* True when Host names a loopback name, the listen address, the very address
 * that the connection came in at (local, may be NULL), or an allowed name. */
bool hosts_accept(const struct hosts *k, struct slice host_header, const struct sockaddr *local);
/* True when there is no Origin, when it is that of our own page (same host and
 * port as Host), or when it is allowed. */
bool hosts_accept_origin(const struct hosts *k, struct slice origin, struct slice host_header);
#endif
