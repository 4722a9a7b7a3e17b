/* SPDX-License-Identifier: Apache-2.0 */
/* Which instruction sets this CPU has and which this build was compiled for. */
#include "kernels/cpu/isa.h"

#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#if HAVE_X86_ISAS
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

extern const struct attention16 attention16_avx512bf16, attention16_amx;
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

/* Limits above the sets that everything is compiled for. */
enum { LIMIT_AVX512 = CPU_ISA_AVX512, LIMIT_AVX512_BF16, LIMIT_AMX };

static const char *const limits[] = {[CPU_ISA_BASELINE] = "baseline",
	[CPU_ISA_AVX2] = "avx2",
	[LIMIT_AVX512] = "avx512",
	[LIMIT_AVX512_BF16] = "avx512bf16",
	[LIMIT_AMX] = "amx"};

static int read_limit(int *limit, struct error *e) {
	const char *name = getenv("LIGHTFORCED_CPU_ISA"); /* NOLINT(concurrency-mt-unsafe) */
	*limit = LIMIT_AMX;
	if (!name || !*name)
		return 0;
	for (int i = 0; i <= LIMIT_AMX; i++) {
		if (strcmp(name, limits[i]) == 0) {
			*limit = i;
			return 0;
		}
	}
	return error_set(e, -EINVAL,
		"LIGHTFORCED_CPU_ISA=%.40s: unknown, use baseline, avx2, avx512, avx512bf16 or amx",
		name);
}

#if HAVE_X86_ISAS
static bool leaf7_bit(unsigned subleaf, int reg, int bit) {
	unsigned r[4];
	if (!__get_cpuid_count(7, subleaf, &r[0], &r[1], &r[2], &r[3]))
		return false;
	return r[reg] >> bit & 1;
}

/* The kernel hands out tile registers only when asked. */
static bool tiles_permitted(void) {
	enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
	return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/* By cpuid, because compilers differ in the names they know. */
static void detect_extras(struct cpu_features *f, int limit) {
	enum { EAX, EBX, ECX, EDX };
	if (f->isa < CPU_ISA_AVX512)
		return;
	f->avx512_vnni = leaf7_bit(0, ECX, 11);
	f->avx_vnni = leaf7_bit(1, EAX, 4);
	f->avx512_bf16 = limit >= LIMIT_AVX512_BF16 && leaf7_bit(1, EAX, 5);
	bool tiles = limit >= LIMIT_AMX && leaf7_bit(0, EDX, 24) && tiles_permitted();
	f->amx_bf16 = tiles && leaf7_bit(0, EDX, 22);
	f->amx_int8 = tiles && leaf7_bit(0, EDX, 25);
}
#else
static void detect_extras(struct cpu_features *f, int limit) {
	(void)f;
	(void)limit;
}
#endif

int cpu_features_detect(struct cpu_features *f, struct error *e) {
	int limit;
	memset(f, 0, sizeof *f);
	int code = read_limit(&limit, e);
	if (code < 0)
		return code;
	for (int i = 0; i <= limit && i < CPU_ISA_COUNT; i++) {
		if (isas[i].has && isas[i].has())
			f->isa = (enum cpu_isa)i;
	}
	detect_extras(f, limit);
	return 0;
}

const struct attention16 *cpu_attention16_find(const struct cpu_features *f) {
#if HAVE_BF16_ISAS
	if (f->amx_bf16 && f->avx512_bf16)
		return &attention16_amx;
	if (f->avx512_bf16)
		return &attention16_avx512bf16;
#endif
	(void)f;
	return NULL;
}

const char *cpu_isa_name(enum cpu_isa isa) {
	return isas[isa].name;
}

void cpu_isa_fill_ops(enum cpu_isa isa, struct ops *ops) {
	isas[isa].fill(ops);
}
