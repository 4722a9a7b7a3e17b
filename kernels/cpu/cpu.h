/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU backend as its own files see it: the struct behind struct backend,
 * memory with accounting, and the checks ops begin with. Thread: the owner's. */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H
#include <stdbool.h>
#include <stddef.h>
#include "kernels/backend_impl.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/dense.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/pool.h"
#include "kernels/cpu/rows.h"

#define CPU_MARKS 1024 /* times kept */

struct cpu_backend {
	struct backend base; /* first */
	struct pool *pool;
	struct cpu_features features;
	const struct attention16 *attention16; /* for bf16 keys; NULL: the set's plain one */
	size_t allocated; /* bytes held now */
	uint64_t marks, allocations;
	int64_t marked_us[CPU_MARKS]; /* when; by mark mod CPU_MARKS */
	char name[96];
	/* Multiplication, and what happens to rows around it. */
	const struct dense_library *dense;
	struct dense_context *dense_context;
	const struct row_kernels *rows;
	void **scratch; /* [threads], each of scratch_bytes */
	size_t scratch_bytes; /* grows to the most that an op has asked for */
};

struct cpu_backend *cpu_of(struct backend *be);
struct pool *cpu_pool(struct backend *be);

/* 64-byte aligned, zeroed, counted in backend_allocated; NULL and *e. For
 * packed weights and the like; cpu_free(NULL) is fine. */
void *cpu_alloc(struct backend *be, size_t bytes, struct error *e);
void cpu_free(struct backend *be, void *p);
/* Memory that a library holds for us: keeps the count honest. */
void cpu_account(struct backend *be, ptrdiff_t bytes);

/* Turns AUTO into the fastest precision of this CPU; -ENOTSUP and *e for one it
 * has no hardware for. */
int cpu_precision(struct backend *be, enum precision *p, struct error *e);
/* Bytes of its own for every worker, for the length of an op; latches failure. */
bool cpu_scratch_reserve(struct backend *be, size_t bytes);
void *cpu_scratch(const struct cpu_backend *c, int worker);

/* Element type, rows and last dimension of t are these (rows or cols -1: any). */
bool cpu_is(const struct tensor *t, enum dtype d, int64_t rows, int64_t cols);
/* f32 and as many elements as `like`, which is f32 too. */
bool cpu_alike(const struct tensor *t, const struct tensor *like);
/* Latches "OP: what" with the shape of t when !ok; returns ok. */
bool cpu_check(
	struct backend *be, bool ok, const char *op, const char *what, const struct tensor *t);

/* count elements of t from `first` on as f32, row scales applied. */
void cpu_to_f32(float *dst, const struct tensor *t, int64_t first, int64_t count);

/* The rows of the table that are not compiled per instruction set. */
void cpu_linear_fill(struct ops *ops);
void cpu_conv_fill(struct ops *ops);
void cpu_convert_fill(struct ops *ops);
#endif
