/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors invented on demand, for models without files: load, memory and speed
 * are those of the real geometry, the pictures are noise. Deterministic in seed
 * and name. Tensors of equal fan-in are windows into one pool of numbers, so
 * that the host need not hold them all. Thread: any one at a time. */
#ifndef ENGINE_RANDOM_WEIGHTS_H
#define ENGINE_RANDOM_WEIGHTS_H
#include "kernels/error.h"
#include "kernels/tensor.h"
struct random_weights;
struct random_weights *random_weights_create(uint64_t seed); /* NULL: out of memory */
void random_weights_destroy(struct random_weights *r); /* NULL is fine */
/* -ENOENT unless required before. */
int random_weights_find(const struct random_weights *r, const char *name, struct tensor *host);
/* rank must not be 0: there is no file to take the shape from. */
int random_weights_require(struct random_weights *r, const char *name, int rank, const int64_t *dim,
	struct tensor *host, struct error *e);
#endif
