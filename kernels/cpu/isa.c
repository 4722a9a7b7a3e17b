/* SPDX-License-Identifier: Apache-2.0 */
/* Which instruction sets this CPU has and which this build was compiled for. */
#include "kernels/cpu/isa.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

void cpu_ops_baseline(struct ops *ops);
void cpu_ops_avx2(struct ops *ops);
void cpu_ops_avx512(struct ops *ops);

static bool has_baseline(void) {
	return true;
}

#if HAVE_X86_ISAS
/* Exactly the -m flags of kernels/meson.build. */
static bool has_avx2(void) {
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void) {
	return has_avx2() && __builtin_cpu_supports("avx512f") &&
	       __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
	       __builtin_cpu_supports("avx512vl");
}
#endif

static const struct {
	const char *name;
	bool (*has)(void);
	void (*fill)(struct ops *ops);
} isas[CPU_ISA_COUNT] = {
	[CPU_ISA_BASELINE] = {"baseline", has_baseline, cpu_ops_baseline},
#if HAVE_X86_ISAS
	[CPU_ISA_AVX2] = {"avx2", has_avx2, cpu_ops_avx2},
	[CPU_ISA_AVX512] = {"avx512", has_avx512, cpu_ops_avx512},
#else
	[CPU_ISA_AVX2] = {"avx2", NULL, NULL},
	[CPU_ISA_AVX512] = {"avx512", NULL, NULL},
#endif
};

static int read_limit(enum cpu_isa *limit, struct error *e) {
	const char *name = getenv("LIGHTFORCED_CPU_ISA"); /* NOLINT(concurrency-mt-unsafe) */
	*limit = CPU_ISA_COUNT - 1;
	if (!name || !*name)
		return 0;
	for (int i = 0; i < CPU_ISA_COUNT; i++) {
		if (strcmp(name, isas[i].name) == 0) {
			*limit = (enum cpu_isa)i;
			return 0;
		}
	}
	return error_set(e, -EINVAL,
		"LIGHTFORCED_CPU_ISA=%.40s: unknown, use baseline, avx2 or avx512", name);
}

#if HAVE_X86_ISAS
#include <cpuid.h>

static bool leaf7_bit(unsigned subleaf, int reg, int bit) {
	unsigned r[4];
	if (!__get_cpuid_count(7, subleaf, &r[0], &r[1], &r[2], &r[3]))
		return false;
	return r[reg] >> bit & 1;
}

/* By cpuid, because compilers differ in the names they know. */
static void detect_extras(struct cpu_features *f) {
	enum { EAX, EBX, ECX, EDX };
	bool wide = f->isa >= CPU_ISA_AVX512;
	f->avx512_bf16 = wide && leaf7_bit(1, EAX, 5);
	f->avx512_vnni = wide && leaf7_bit(0, ECX, 11);
	f->avx_vnni = wide && leaf7_bit(1, EAX, 4);
	f->amx_bf16 = wide && leaf7_bit(0, EDX, 24) && leaf7_bit(0, EDX, 22);
	f->amx_int8 = wide && leaf7_bit(0, EDX, 24) && leaf7_bit(0, EDX, 25);
}
#else
static void detect_extras(struct cpu_features *f) {
	(void)f;
}
#endif

int cpu_features_detect(struct cpu_features *f, struct error *e) {
	enum cpu_isa limit;
	memset(f, 0, sizeof *f);
	int code = read_limit(&limit, e);
	if (code < 0)
		return code;
	for (int i = 0; i <= (int)limit; i++) {
		if (isas[i].has && isas[i].has())
			f->isa = (enum cpu_isa)i;
	}
	detect_extras(f);
	return 0;
}

const char *cpu_isa_name(enum cpu_isa isa) {
	return isas[isa].name;
}

void cpu_isa_fill_ops(enum cpu_isa isa, struct ops *ops) {
	isas[isa].fill(ops);
}
