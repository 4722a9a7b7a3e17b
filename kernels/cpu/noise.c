/* SPDX-License-Identifier: Apache-2.0 */
/* Standard normals from a counter: element i of (seed, chunk, step) is the same
 * number whoever computes it, so a restarted or repeated chunk gets its noise
 * back. The mapping, fixed for every backend:
 *
 *	key     = (seed low 32 bits, seed high 32 bits)
 *	counter = (i / 4, step, chunk low 32 bits, chunk high 32 bits)
 *	x0..x3  = Philox4x32-10(counter, key)
 *	u(x)    = (x >> 9) * 2^-23 + 2^-24, exact in f32, in (0, 1)
 *	element 4k     = sqrt(-2 ln u(x0)) cos(2 pi u(x1))
 *	element 4k + 1 = sqrt(-2 ln u(x0)) sin(2 pi u(x1))
 *	element 4k + 2 and 4k + 3 likewise from x2 and x3
 *
 * Integers are exact everywhere; the last bits of ln, sin and cos are the
 * device's. Largest magnitude 5.77. Source: Salmon et al., Parallel random
 * numbers: as easy as 1, 2, 3 (2011). Compiled per instruction set. */
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/philox.h"
#include "kernels/cpu/simd.h"

void CPU_NAME(noise_fill)(struct ops *ops);

struct noise_job {
	float *y;
	int64_t count;
	uint32_t key[2], counter[4];
};

static float unit(uint32_t x) {
	return (float)(x >> 9) * 0x1p-23f + 0x1p-24f;
}

static void normal_pair(float *z, uint32_t a, uint32_t b) {
	float radius = sqrtf(-2 * logf(unit(a))), angle = 6.28318530717958648f * unit(b);
	z[0] = radius * cosf(angle);
	z[1] = radius * sinf(angle);
}

/* One item: four elements. */
static void noise_quads(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct noise_job *j = ctx;
	(void)worker;
	for (int64_t quad = begin; quad < end; quad++) {
		uint32_t counter[4] = {(uint32_t)quad, j->counter[1], j->counter[2], j->counter[3]};
		uint32_t x[4];
		float z[4];
		philox4x32(x, counter, j->key);
		normal_pair(z, x[0], x[1]);
		normal_pair(z + 2, x[2], x[3]);
		for (int64_t i = 4 * quad; i < 4 * quad + 4 && i < j->count; i++)
			j->y[i] = z[i - 4 * quad];
	}
}

static void noise(struct backend *be, struct tensor *y, uint64_t seed, int64_t chunk, int step) {
	if (!cpu_check(be, y->dtype == DTYPE_F32, "noise", "y is not f32:", y))
		return;
	struct noise_job job = {.y = y->data,
		.count = tensor_count(y),
		.key = {(uint32_t)seed, (uint32_t)(seed >> 32)},
		.counter = {0, (uint32_t)step, (uint32_t)chunk, (uint32_t)((uint64_t)chunk >> 32)}};
	int64_t quads = (job.count + 3) / 4;
	pool_run(cpu_pool(be), quads, pool_grain(cpu_pool(be), quads, 256), noise_quads, &job);
}

void CPU_NAME(noise_fill)(struct ops *ops) {
	ops->noise = noise;
}
