/* SPDX-License-Identifier: Apache-2.0 */
/* Instruction sets. The op files are plain C, compiled once per set; each
 * exported name carries the set's suffix, and this is the one place where a set
 * is chosen. Adding one: a row in isa.c and a row in kernels/meson.build.
 *
 * LIGHTFORCED_CPU_ISA=baseline|avx2|avx512|avx512bf16|amx in the environment
 * limits the choice, for tests and for comparing. Thread: any. */
#ifndef KERNELS_CPU_ISA_H
#define KERNELS_CPU_ISA_H
#include <stdbool.h>
#include "kernels/error.h"
#include "kernels/ops.h"

/* In a file compiled per set: NAME -> NAME_avx2 and so on. */
#ifdef CPU_ISA
#define CPU_JOIN_(name, isa) name##_##isa
#define CPU_JOIN(name, isa) CPU_JOIN_(name, isa)
#define CPU_NAME(name) CPU_JOIN(name, CPU_ISA)
#endif

/* Ascending: a limit allows what is not above it. */
enum cpu_isa { CPU_ISA_BASELINE, CPU_ISA_AVX2, CPU_ISA_AVX512, CPU_ISA_COUNT };

/* What this CPU has, after the limit. */
struct attention16;
struct cpu_features {
	enum cpu_isa isa;
	bool avx512_bf16, avx512_vnni, avx_vnni, amx_bf16, amx_int8;
};
/* 0, or -EINVAL and *e when LIGHTFORCED_CPU_ISA is no known name. */
int cpu_features_detect(struct cpu_features *f, struct error *e);
const char *cpu_isa_name(enum cpu_isa isa); /* as LIGHTFORCED_CPU_ISA spells it */
/* bf16 attention on this CPU's own instructions; NULL when it has none. */
const struct attention16 *cpu_attention16_find(const struct cpu_features *f);
/* Fills every op but linear* and conv*, compiled for this set. */
void cpu_isa_fill_ops(enum cpu_isa isa, struct ops *ops);
#endif
