/* SPDX-License-Identifier: Apache-2.0 */
/* Philox4x32 with ten rounds: four random words from a counter and a key.
 * Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011),
 * section 3.3 and table 2. Thread: any. */
#ifndef KERNELS_CPU_PHILOX_H
#define KERNELS_CPU_PHILOX_H
#include <stdint.h>

static inline void philox4x32(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]) {
	uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
	uint32_t k0 = key[0], k1 = key[1];
	for (int round = 0; round < 10; round++) {
		uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
		c[0] = (uint32_t)(b >> 32) ^ c[1] ^ k0;
		c[2] = (uint32_t)(a >> 32) ^ c[3] ^ k1;
		c[1] = (uint32_t)b;
		c[3] = (uint32_t)a;
		k0 += 0x9E3779B9u;
		k1 += 0xBB67AE85u;
	}
	for (int i = 0; i < 4; i++)
		out[i] = c[i];
}
#endif
