/* SPDX-License-Identifier: Apache-2.0 */
/* bfloat16: the upper half of a float. To nearest, ties to even; NaN stays NaN
 * only by luck of its bits, so callers give finite numbers. Thread: any. */
#ifndef KERNELS_CPU_BF16_H
#define KERNELS_CPU_BF16_H
#include <stdint.h>
#include <string.h>

static inline uint16_t bf16_of(float x) {
	uint32_t bits;
	memcpy(&bits, &x, sizeof bits);
	return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float bf16_value(uint16_t x) {
	uint32_t bits = (uint32_t)x << 16;
	float y;
	memcpy(&y, &bits, sizeof y);
	return y;
}
#endif
