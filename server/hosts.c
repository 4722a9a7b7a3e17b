/* SPDX-License-Identifier: Apache-2.0 */
/* See hosts.h. */
#include "server/hosts.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *const loopback_names[] = {"localhost", "127.0.0.1", "::1"};

static bool parse_port(struct slice s, int *port) {
	if (!s.size || s.size > 5)
		return false;
	int n = 0;
	for (size_t i = 0; i < s.size; i++) {
		if (s.at[i] < '0' || s.at[i] > '9')
			return false;
		n = n * 10 + (s.at[i] - '0');
	}
	*port = n;
	return n <= 65535;
}

static bool host_chars(struct slice s, const char *others) {
	for (size_t i = 0; i < s.size; i++) {
		char c = s.at[i];
		bool ok = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
			  (c >= 'A' && c <= 'Z') || (c && strchr(others, c));
		if (!ok)
			return false;
	}
	return s.size > 0 && s.size <= 253;
}

bool hosts_split(struct slice a, struct slice *host, int *port) {
	*port = -1;
	if (!a.size)
		return false;
	struct slice rest;
	if (a.at[0] == '[') {
		const char *close = memchr(a.at, ']', a.size);
		if (!close)
			return false;
		*host = (struct slice){a.at + 1, (size_t)(close - a.at) - 1};
		rest = (struct slice){close + 1, a.size - host->size - 2};
		if (!host_chars(*host, ":."))
			return false;
	} else {
		const char *colon = memchr(a.at, ':', a.size);
		*host = (struct slice){a.at, colon ? (size_t)(colon - a.at) : a.size};
		rest = (struct slice){a.at + host->size, a.size - host->size};
		if (!host_chars(*host, "-._"))
			return false;
	}
	if (!rest.size)
		return true;
	return rest.at[0] == ':' && parse_port((struct slice){rest.at + 1, rest.size - 1}, port);
}

/* Calls for each word of a list separated by commas and blanks. */
static bool list_has(const char *list, struct slice word) {
	while (list && *list) {
		list += strspn(list, ", \t");
		size_t n = strcspn(list, ", \t");
		if (n && n == word.size && !strncasecmp(list, word.at, n))
			return true;
		list += n;
	}
	return false;
}

/* The same IP address, however it is spelled. */
static bool is_address(struct slice host, const struct sockaddr *local) {
	char text[INET6_ADDRSTRLEN];
	if (!local || !slice_copy(host, text, sizeof text))
		return false;
	struct in_addr v4;
	struct in6_addr v6;
	if (local->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)local;
		return inet_pton(AF_INET, text, &v4) == 1 && v4.s_addr == in->sin_addr.s_addr;
	}
	if (local->sa_family != AF_INET6)
		return false;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)local;
	if (inet_pton(AF_INET6, text, &v6) == 1)
		return !memcmp(&v6, &in6->sin6_addr, sizeof v6);
	/* A v4 client of a v6 socket: ::ffff:a.b.c.d. */
	return IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr) && inet_pton(AF_INET, text, &v4) == 1 &&
	       !memcmp(&v4, in6->sin6_addr.s6_addr + 12, sizeof v4);
}

bool hosts_accept(const struct hosts *k, struct slice header, const struct sockaddr *local) {
	struct slice host;
	int port;
	if (!hosts_split(header, &host, &port))
		return false;
	for (size_t i = 0; i < sizeof loopback_names / sizeof *loopback_names; i++)
		if (slice_is_nocase(host, loopback_names[i]))
			return true;
	if (k->listen_host && slice_is_nocase(host, k->listen_host))
		return true;
	return is_address(host, local) || list_has(k->allowed_hosts, host);
}

bool hosts_accept_origin(const struct hosts *k, struct slice origin, struct slice header) {
	if (!origin.at)
		return true;
	if (list_has(k->allowed_origins, origin))
		return true;
	static const struct {
		const char *scheme;
		int port;
	} schemes[] = {{"http://", 80}, {"https://", 443}};
	for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
		size_t n = strlen(schemes[i].scheme);
		if (origin.size <= n || strncasecmp(origin.at, schemes[i].scheme, n) != 0)
			continue;
		struct slice theirs, ours;
		int their_port, our_port;
		if (!hosts_split(
			    (struct slice){origin.at + n, origin.size - n}, &theirs, &their_port) ||
			!hosts_split(header, &ours, &our_port))
			return false;
		their_port = their_port < 0 ? schemes[i].port : their_port;
		our_port = our_port < 0 ? schemes[i].port : our_port;
		return theirs.size == ours.size && !strncasecmp(theirs.at, ours.at, ours.size) &&
		       their_port == our_port;
	}
	return false;
}
