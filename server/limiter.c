/* SPDX-License-Identifier: Apache-2.0 */
/* See limiter.h. */
#include "server/limiter.h"
#include <netinet/in.h>
#include <string.h>

bool bucket_take(struct bucket *b, double per_s, double burst, int64_t now_us) {
	if (!b->at_us)
		b->tokens = burst;
	else if (now_us > b->at_us)
		b->tokens += per_s * (double)(now_us - b->at_us) / 1e6;
	if (b->tokens > burst)
		b->tokens = burst;
	b->at_us = now_us;
	if (b->tokens < 1)
		return false;
	b->tokens -= 1;
	return true;
}

/* Sixteen bytes that stand for the peer; false for loopback and Unix sockets. */
static bool address_of(const struct sockaddr *peer, uint8_t out[16]) {
	memset(out, 0, 16);
	if (peer->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)peer;
		memcpy(out + 12, &in->sin_addr, 4);
		out[10] = out[11] = 0xff;
		return out[12] != 127;
	}
	if (peer->sa_family != AF_INET6)
		return false;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)peer;
	if (IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr))
		return false;
	memcpy(out, &in6->sin6_addr, 16);
	if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
		return out[12] != 127;
	memset(out + 8, 0, 8);
	return true;
}

bool limiter_take(struct limiter *l, const struct sockaddr *peer, double per_s, double burst,
	int64_t now_us) {
	uint8_t address[16];
	if (!address_of(peer, address))
		return true;
	uint32_t hash = 2166136261u;
	for (int i = 0; i < 16; i++)
		hash = (hash ^ address[i]) * 16777619u;
	struct limiter_place *set = l->place[hash % LIMITER_SETS], *oldest = &set[0];
	for (int i = 0; i < LIMITER_WAYS; i++) {
		if (set[i].bucket.at_us && !memcmp(set[i].address, address, 16))
			return bucket_take(&set[i].bucket, per_s, burst, now_us);
		if (set[i].bucket.at_us < oldest->bucket.at_us)
			oldest = &set[i];
	}
	memcpy(oldest->address, address, 16);
	oldest->bucket = (struct bucket){0};
	return bucket_take(&oldest->bucket, per_s, burst, now_us);
}
