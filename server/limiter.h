/* SPDX-License-Identifier: Apache-2.0 */
/* Token buckets: one for a viewer's messages, a table of them for addresses.
 * Time is passed in, so tests need no clock. Thread: the owner's. */
#ifndef SERVER_LIMITER_H
#define SERVER_LIMITER_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
struct bucket {
	double tokens;
	int64_t at_us; /* when tokens was right; 0: full, never used */
};
/* Takes a token; false when there is none. */
bool bucket_take(struct bucket *b, double per_s, double burst, int64_t now_us);
#define LIMITER_WAYS 4
#define LIMITER_SETS 256
/* Addresses hash to a set of four places; the one longest unused gives way. */
struct limiter {
	struct limiter_place {
		uint8_t address[16];
		struct bucket bucket;
	} place[LIMITER_SETS][LIMITER_WAYS];
};
/* Loopback is never limited (a reverse proxy sits there); an IPv6 network
 * counts by its first 64 bits. */
bool limiter_take(
	struct limiter *l, const struct sockaddr *peer, double per_s, double burst, int64_t now_us);
#endif
