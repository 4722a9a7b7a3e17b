/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256, for identifying models; no library is worth linking for it.
 * Thread: a struct sha256 belongs to its caller. Source: FIPS 180-4. */
#ifndef ENGINE_SHA256_H
#define ENGINE_SHA256_H
#include <stddef.h>
#include <stdint.h>
struct sha256 {
	uint32_t state[8];
	uint64_t bytes;
	unsigned char block[64];
};
void sha256_init(struct sha256 *h);
void sha256_add(struct sha256 *h, const void *data, size_t bytes);
void sha256_hex(struct sha256 *h, char hex[65]); /* ends it */
#endif
