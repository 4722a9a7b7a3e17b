/* SPDX-License-Identifier: Apache-2.0 */
/* Opens the port that a configuration names. */
#ifndef SERVER_LISTENER_H
#define SERVER_LISTENER_H
#include "kernels/error.h"
struct listener {
	int fd; /* listening, close on exec, does not block; the caller closes it. -1: none */
	int port; /* the one really open */
	char host[256]; /* host part of where it listens, no brackets */
};
/* where: "ADDR:PORT" or "[V6]:PORT"; port 0: any free one. 0, or a negative errno with *e. */
int listener_open(struct listener *l, const char *where, struct error *e);
#endif
