/* SPDX-License-Identifier: Apache-2.0 */
/* Which library multiplies, and the row kernels that go with it. */
#include "kernels/cpu/dense.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "kernels/cpu/rows.h"

extern const struct dense_library dense_plain_baseline;
extern const struct row_kernels row_kernels_baseline;
#if HAVE_X86_ISAS
extern const struct row_kernels row_kernels_avx2, row_kernels_avx512;
extern const struct dense_library dense_plain_avx2, dense_plain_avx512;
#endif
#if HAVE_ONEDNN
extern const struct dense_library dense_onednn;
#endif

static const struct dense_library *const plain[CPU_ISA_COUNT] = {
	[CPU_ISA_BASELINE] = &dense_plain_baseline,
#if HAVE_X86_ISAS
	[CPU_ISA_AVX2] = &dense_plain_avx2,
	[CPU_ISA_AVX512] = &dense_plain_avx512,
#endif
};

const struct dense_library *dense_library_find(enum cpu_isa isa, struct error *e) {
	const char *want = getenv("LIGHTFORCED_CPU_DENSE"); /* NOLINT(concurrency-mt-unsafe) */
	const struct dense_library *const all[] = {
#if HAVE_ONEDNN
		&dense_onednn,
#endif
		plain[isa],
	};
	if (!want || !*want)
		return all[0];
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		if (strcmp(want, all[i]->name) == 0)
			return all[i];
	}
	error_set(e, -EINVAL, "LIGHTFORCED_CPU_DENSE=%.40s: not in this build, unset it or use %s",
		want, all[0]->name);
	return NULL;
}

const struct row_kernels *row_kernels_find(enum cpu_isa isa) {
	static const struct row_kernels *const rows[CPU_ISA_COUNT] = {
		[CPU_ISA_BASELINE] = &row_kernels_baseline,
#if HAVE_X86_ISAS
		[CPU_ISA_AVX2] = &row_kernels_avx2,
		[CPU_ISA_AVX512] = &row_kernels_avx512,
#endif
	};
	return rows[isa];
}
