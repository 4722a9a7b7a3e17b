/* SPDX-License-Identifier: Apache-2.0 */
/* Writes down when each kernel and copy ran on the GPU, of any program, those
 * inside CUDA graphs too: a library that the CUDA driver loads by itself.
 *
 *	cc -shared -fPIC -I CUPTI/include -I /usr/local/cuda/include bench/kernel_times.c \
 *	    -o kernel_times.so CUPTI/lib/libcupti.so.13
 *	CUDA_INJECTION64_PATH=$PWD/kernel_times.so KERNEL_TIMES=rows.tsv PROGRAM
 *
 * A row: begin ns, end ns, stream, name (mangled). bench/kernel_times.py reads them.
 * CUPTI is in the toolkit's extras and in PyPI's nvidia-cuda-cupti. Thread: CUPTI's
 * own and that which calls exit. */
#include <cupti.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define BUFFER_BYTES ((size_t)8 << 20)

#if CUPTI_API_VERSION >= 130000
typedef CUpti_ActivityKernel10 kernel_record;
#else
typedef CUpti_ActivityKernel9 kernel_record;
#endif

/* CUPTI's callbacks carry no context. */
static FILE *rows;

int InitializeInjection(void);

static void CUPTIAPI buffer_give(uint8_t **buffer, size_t *size, size_t *records) {
	*size = BUFFER_BYTES;
	*records = 0;
	*buffer = aligned_alloc(64, BUFFER_BYTES);
}

static void row_write(const CUpti_Activity *a) {
	if (a->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
		const kernel_record *k = (const void *)a;
		fprintf(rows, "%llu\t%llu\t%u\t%s\n", (unsigned long long)k->start,
			(unsigned long long)k->end, k->streamId, k->name);
	} else if (a->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
		const CUpti_ActivityMemcpy6 *m = (const void *)a;
		fprintf(rows, "%llu\t%llu\t%u\tmemcpy %d\n", (unsigned long long)m->start,
			(unsigned long long)m->end, m->streamId, m->copyKind);
	} else if (a->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
		const CUpti_ActivityMemset4 *m = (const void *)a;
		fprintf(rows, "%llu\t%llu\t%u\tmemset\n", (unsigned long long)m->start,
			(unsigned long long)m->end, m->streamId);
	}
}

static void CUPTIAPI buffer_take(
	CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
	(void)context;
	(void)stream;
	(void)size;
	CUpti_Activity *a = NULL;
	while (cuptiActivityGetNextRecord(buffer, valid, &a) == CUPTI_SUCCESS)
		row_write(a);
	free(buffer);
}

static void finish(void) {
	cuptiActivityFlushAll(1);
	fclose(rows);
}

__attribute__((visibility("default"))) int InitializeInjection(void) {
	const char *path = getenv("KERNEL_TIMES");
	rows = fopen(path ? path : "kernel_times.tsv", "w");
	if (!rows)
		return 0;
	if (cuptiActivityRegisterCallbacks(buffer_give, buffer_take) != CUPTI_SUCCESS ||
		cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) != CUPTI_SUCCESS ||
		cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY) != CUPTI_SUCCESS ||
		cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMSET) != CUPTI_SUCCESS) {
		fputs("kernel_times: CUPTI does not start\n", stderr);
		return 0;
	}
	atexit(finish);
	return 1;
}
