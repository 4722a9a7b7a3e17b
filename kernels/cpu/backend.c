/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU as a backend: aligned memory, marks that are always reached, because
 * every op is done when it returns. Thread: the owner's; ops spread over a pool. */
#include "kernels/cpu/cpu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define HEADER_BYTES ((size_t)64) /* before each allocation: its size, and alignment */
#define MAP_FROM                                                                                   \
	((size_t)1 << 20) /* bytes; larger ones are mapped: zero pages cost nothing until used */
#define CHECK_FROM ((size_t)64 << 20) /* bytes; larger ones are checked against what is free */

struct cpu_backend *cpu_of(struct backend *be) {
	return (struct cpu_backend *)be;
}

struct pool *cpu_pool(struct backend *be) {
	return cpu_of(be)->pool;
}

void cpu_account(struct backend *be, ptrdiff_t bytes) {
	cpu_of(be)->allocated += (size_t)bytes;
}

/* MemAvailable of /proc/meminfo, else free pages. */
static size_t bytes_available(void) {
	char line[128];
	unsigned long long kib = 0;
	FILE *f = fopen("/proc/meminfo", "re");
	if (f) {
		while (kib == 0 && fgets(line, sizeof line, f)) {
			if (strncmp(line, "MemAvailable:", 13) == 0)
				kib = strtoull(line + 13, NULL, 10);
		}
		fclose(f);
	}
	return kib ? (size_t)kib * 1024
		   : (size_t)sysconf(_SC_AVPHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
}

static void *map_pages(size_t bytes) {
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	madvise(p, bytes, MADV_HUGEPAGE); /* a wish: refused where pages are never huge */
	return p;
}

void *cpu_alloc(struct backend *be, size_t bytes, struct error *e) {
	if (bytes > SIZE_MAX / 2 || (bytes >= CHECK_FROM && bytes > bytes_available())) {
		error_set(e, -ENOMEM,
			"cpu: %zu MiB wanted, %zu MiB available: lower the model or session sizes",
			bytes >> 20, bytes_available() >> 20);
		return NULL;
	}
	size_t whole = (bytes + HEADER_BYTES + 63) / 64 * 64;
	char *p = whole >= MAP_FROM ? map_pages(whole) : aligned_alloc(64, whole);
	if (!p) {
		error_set(e, -ENOMEM, "cpu: no memory for %zu bytes", bytes);
		return NULL;
	}
	if (whole < MAP_FROM)
		memset(p, 0, whole);
	memcpy(p, &whole, sizeof whole);
	cpu_account(be, (ptrdiff_t)whole);
	cpu_of(be)->allocations++;
	return p + HEADER_BYTES;
}

void cpu_free(struct backend *be, void *p) {
	if (!p)
		return;
	char *head = (char *)p - HEADER_BYTES;
	size_t whole;
	memcpy(&whole, head, sizeof whole);
	cpu_account(be, -(ptrdiff_t)whole);
	if (whole >= MAP_FROM)
		munmap(head, whole);
	else
		free(head);
}

bool cpu_is(const struct tensor *t, enum dtype d, int64_t rows, int64_t cols) {
	return t->dtype == d && (rows < 0 || tensor_row_count(t) == rows) &&
	       (cols < 0 || tensor_cols(t) == cols);
}

bool cpu_alike(const struct tensor *t, const struct tensor *like) {
	return t->dtype == DTYPE_F32 && like->dtype == DTYPE_F32 &&
	       tensor_count(t) == tensor_count(like);
}

bool cpu_check(
	struct backend *be, bool ok, const char *op, const char *what, const struct tensor *t) {
	char shape[96] = "";
	if (!ok)
		backend_fail(be, -EINVAL, "%s: %s %s", op, what,
			t ? tensor_describe(t, shape, sizeof shape) : "");
	return ok;
}

bool cpu_scratch_reserve(struct backend *be, size_t bytes) {
	struct cpu_backend *c = cpu_of(be);
	if (bytes <= c->scratch_bytes)
		return true;
	for (int i = 0; i < pool_threads(c->pool); i++) {
		struct error e = {0};
		cpu_free(be, c->scratch[i]);
		c->scratch_bytes = 0;
		c->scratch[i] = cpu_alloc(be, bytes, &e);
		if (!c->scratch[i]) {
			backend_fail(be, e.code, "scratch: %s", e.text);
			return false;
		}
	}
	c->scratch_bytes = bytes;
	return true;
}

void *cpu_scratch(const struct cpu_backend *c, int worker) {
	return c->scratch[worker];
}

int cpu_precision(struct backend *be, enum precision *p, struct error *e) {
	const struct cpu_backend *c = cpu_of(be);
	static const struct {
		const char *name, *needs;
	} known[] = {
		[PRECISION_F32] = {"f32", ""},
		[PRECISION_BF16] = {"bf16", "AVX-512 BF16 or AMX"},
		[PRECISION_FP8] = {"fp8", "a GPU"},
		[PRECISION_INT8] = {"int8", "AVX-512 VNNI or AMX"},
	};
	if (*p == PRECISION_AUTO)
		*p = c->dense->has(c->dense_context, PRECISION_BF16) ? PRECISION_BF16
								     : PRECISION_F32;
	if (c->dense->has(c->dense_context, *p))
		return 0;
	return error_set(e, -ENOTSUP, "precision %s needs %s, this is %s with %s: use f32 or auto",
		known[*p].name, known[*p].needs, c->name, c->dense->name);
}

static void cpu_destroy(struct backend *be) {
	struct cpu_backend *c = cpu_of(be);
	for (int i = 0; c->scratch && i < pool_threads(c->pool); i++)
		cpu_free(be, c->scratch[i]);
	free(c->scratch);
	if (c->dense)
		c->dense->close(c->dense_context);
	pool_destroy(c->pool);
	free(c);
}

static struct backend_info cpu_info(const struct backend *be) {
	const struct cpu_backend *c = (const struct cpu_backend *)be;
	struct backend_info info = {
		.kind = "cpu",
		.bytes_total = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE),
		.bytes_free = bytes_available(),
		.precision = c->dense->has(c->dense_context, PRECISION_BF16) ? PRECISION_BF16
									     : PRECISION_F32,
		.activation = DTYPE_F32,
		.kv = c->attention16 ? DTYPE_BF16 : DTYPE_F32,
	};
	memcpy(info.name, c->name, sizeof info.name);
	return info;
}

static size_t cpu_allocated(const struct backend *be) {
	return ((const struct cpu_backend *)be)->allocated;
}

static void cpu_copy(struct backend *be, void *dst, const void *src, size_t bytes) {
	(void)be;
	memmove(dst, src, bytes);
}

static void cpu_zero(struct backend *be, void *dst, size_t bytes) {
	(void)be;
	memset(dst, 0, bytes);
}

static uint64_t cpu_mark(struct backend *be) {
	struct cpu_backend *c = cpu_of(be);
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	c->marked_us[++c->marks % CPU_MARKS] = (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
	return c->marks;
}

static int64_t cpu_elapsed_us(struct backend *be, uint64_t from, uint64_t to) {
	const struct cpu_backend *c = cpu_of(be);
	bool kept = from + CPU_MARKS > c->marks && to + CPU_MARKS > c->marks;
	return kept ? c->marked_us[to % CPU_MARKS] - c->marked_us[from % CPU_MARKS] : 0;
}

static int cpu_reached(struct backend *be, uint64_t mark) {
	return mark <= cpu_of(be)->marks;
}

static int cpu_wait(struct backend *be, uint64_t mark, struct error *e) {
	(void)mark;
	return backend_error(be, e);
}

static int cpu_sync(struct backend *be, struct error *e) {
	return backend_error(be, e);
}

static uint64_t cpu_allocations(const struct backend *be) {
	return ((const struct cpu_backend *)be)->allocations;
}

/* Every op is done when it returns: there is nothing to overlap or to record. */
static struct backend *cpu_lane(struct backend *be) {
	return be;
}

static void cpu_order(struct backend *be, struct backend *after, uint64_t mark) {
	(void)be;
	(void)after;
	(void)mark;
}

static int cpu_replay(struct backend *be, const void *key, size_t bytes) {
	(void)be;
	(void)key;
	(void)bytes;
	return 0;
}

static int cpu_record_end(struct backend *be) {
	(void)be;
	return 0;
}

static size_t cpu_recording_bytes(const struct backend *be, int keys) {
	(void)be;
	(void)keys;
	return 0;
}

static struct backend_recordings cpu_recordings(const struct backend *be) {
	(void)be;
	return (struct backend_recordings){0};
}

static const struct backend_driver driver = {
	.destroy = cpu_destroy,
	.info = cpu_info,
	.alloc = cpu_alloc,
	.alloc_pinned = cpu_alloc,
	.free = cpu_free,
	.allocated = cpu_allocated,
	.upload = cpu_copy,
	.download = cpu_copy,
	.download_async = cpu_copy,
	.copy = cpu_copy,
	.zero = cpu_zero,
	.mark = cpu_mark,
	.reached = cpu_reached,
	.wait = cpu_wait,
	.sync = cpu_sync,
	.allocations = cpu_allocations,
	.elapsed_us = cpu_elapsed_us,
	.lane = cpu_lane,
	.order = cpu_order,
	.replay = cpu_replay,
	.record_end = cpu_record_end,
	.recording_bytes = cpu_recording_bytes,
	.recordings = cpu_recordings,
};

/* "model name : ..." of /proc/cpuinfo, where there is one. */
static void read_model(char *model, size_t size) {
	char line[256];
	snprintf(model, size, "CPU");
	FILE *f = fopen("/proc/cpuinfo", "re");
	if (!f)
		return;
	while (fgets(line, sizeof line, f)) {
		char *value = strchr(line, ':');
		if (strncmp(line, "model name", 10) != 0 || !value)
			continue;
		value += strspn(value, ": ");
		value[strcspn(value, "\n")] = '\0';
		snprintf(model, size, "%s", value);
		break;
	}
	fclose(f);
}

static const char *isa_title(const struct cpu_features *f) {
	static const char *const title[CPU_ISA_COUNT] = {
		[CPU_ISA_BASELINE] = "baseline",
		[CPU_ISA_AVX2] = "AVX2",
		[CPU_ISA_AVX512] = "AVX-512",
	};
	if (f->amx_bf16)
		return "AVX-512 AMX";
	return f->avx512_bf16 ? "AVX-512 BF16" : title[f->isa];
}

/* The library may know of a lower limit on instruction sets: it goes first. */
static int open_dense(struct cpu_backend *c, struct error *e) {
	int threads = pool_threads(c->pool);
	c->scratch = calloc((size_t)threads, sizeof *c->scratch);
	if (!c->scratch)
		return error_set(e, -ENOMEM, "cpu: no memory");
	c->dense = dense_library_find(c->features.isa, e);
	c->dense_context = c->dense ? c->dense->open(&c->features, threads, e) : NULL;
	if (!c->dense_context)
		return -EIO;
	c->rows = row_kernels_find(c->features.isa);
	return 0;
}

struct backend *cpu_backend_create(
	const struct backend_config *config, int device, struct error *e) {
	(void)device;
	struct cpu_backend *c = calloc(1, sizeof *c);
	if (!c) {
		error_set(e, -ENOMEM, "cpu: no memory");
		return NULL;
	}
	c->base.driver = &driver;
	c->base.root = &c->base;
	if (cpu_features_detect(&c->features, e) < 0 ||
		!(c->pool = pool_create(config->threads, e)) || open_dense(c, e) < 0) {
		cpu_destroy(&c->base);
		return NULL;
	}
	c->attention16 = cpu_attention16_find(&c->features);
	cpu_isa_fill_ops(c->features.isa, &c->base.ops);
	cpu_linear_fill(&c->base.ops);
	cpu_conv_fill(&c->base.ops);
	cpu_convert_fill(&c->base.ops);
	char model[56];
	read_model(model, sizeof model);
	snprintf(c->name, sizeof c->name, "%s, %d threads, %s", model, pool_threads(c->pool),
		isa_title(&c->features));
	return &c->base;
}
