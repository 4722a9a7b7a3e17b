/* SPDX-License-Identifier: Apache-2.0 */
/* One NVIDIA GPU as a backend: device choice with a plain word when it cannot be
 * had, memory with accounting, marks as events that are slept on, the op table.
 * Scratch memory grows while the first chunks run and then stays. Thread: the
 * one that created it; CUDA is touched from nowhere else. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend_impl.h"
#include "kernels/cuda/common.cuh"
#include "kernels/gpu.h"

#define MARKS 64
#define RETIRED_MAX 16
#define SCRATCH_FIRST ((size_t)64 << 20)

struct cuda_backend {
	struct backend base;
	struct cuda_state cu;
	char name[112];
	size_t allocated;           /* device bytes */
	struct block *blocks;
	cudaEvent_t event[MARKS];
	uint64_t marks;
	void *retired[RETIRED_MAX]; /* earlier scratch areas: ops in flight may still read them */
	int retired_count;
};

static struct cuda_backend *inside(struct backend *be) {
	return (struct cuda_backend *)be;
}

struct cuda_state *cuda_of(struct backend *be) {
	return &inside(be)->cu;
}

static bool sticky(cudaError_t r) {
	switch (r) {
	case cudaErrorIllegalAddress:
	case cudaErrorLaunchFailure:
	case cudaErrorLaunchTimeout:
	case cudaErrorHardwareStackError:
	case cudaErrorIllegalInstruction:
	case cudaErrorMisalignedAddress:
	case cudaErrorInvalidAddressSpace:
	case cudaErrorInvalidPc:
	case cudaErrorAssert:
	case cudaErrorECCUncorrectable:
	case cudaErrorDevicesUnavailable:
		return true;
	default:
		return false;
	}
}

void cuda_latch(struct backend *be, cudaError_t r, const char *op, const struct tensor *t) {
	char shape[96] = "";
	if (t)
		tensor_describe(t, shape, sizeof shape);
	backend_fail(be, r == cudaErrorMemoryAllocation ? -ENOMEM : -EIO, "cuda: %s %s: %s", op, shape, cudaGetErrorString(r));
	if (sticky(r))
		be->sticky = 1;
}

void cuda_latch_text(struct backend *be, int code, const char *op, const char *text) {
	backend_fail(be, code, "cuda: %s: %s", op, text);
}

static void check(struct backend *be, cudaError_t r, const char *what) {
	if (r != cudaSuccess)
		cuda_latch(be, r, what, nullptr);
}

/* ---- memory ---- */
/* Blocks are few (arenas, packed weights), so the account is a list. */
struct block {
	void *p;
	size_t bytes;
	bool pinned;
	struct block *next;
};

static void *remember(struct backend *be, void *p, size_t bytes, bool pinned, struct error *e) {
	struct cuda_backend *c = inside(be);
	struct block *b = (struct block *)malloc(sizeof *b);
	if (!b) {
		pinned ? cudaFreeHost(p) : cudaFree(p);
		error_set(e, -ENOMEM, "cuda: no host memory");
		return nullptr;
	}
	*b = {p, bytes, pinned, c->blocks};
	c->blocks = b;
	c->allocated += pinned ? 0 : bytes;
	return p;
}

static void *gpu_alloc(struct backend *be, size_t bytes, struct error *e) {
	void *p = nullptr;
	size_t free_bytes = 0, total = 0;
	bytes = align_up(bytes ? bytes : 1);
	cudaError_t r = cudaMalloc(&p, bytes);
	if (r == cudaErrorMemoryAllocation) {
		cudaGetLastError(); /* not an op's failure */
		cudaMemGetInfo(&free_bytes, &total);
		error_set(e, -ENOMEM,
			"cuda: %zu MiB wanted, %zu MiB of %zu MiB free, %zu MiB missing: lower the window, the number of "
			"sessions or the precision",
			bytes >> 20, free_bytes >> 20, total >> 20, (bytes - (free_bytes < bytes ? free_bytes : bytes)) >> 20);
		return nullptr;
	}
	if (r == cudaSuccess)
		r = cudaMemsetAsync(p, 0, bytes, inside(be)->cu.stream);
	if (r != cudaSuccess) {
		error_set(e, -EIO, "cuda: allocating %zu MiB: %s", bytes >> 20, cudaGetErrorString(r));
		return nullptr;
	}
	return remember(be, p, bytes, false, e);
}

void *cuda_alloc(struct backend *be, size_t bytes, struct error *e) {
	return gpu_alloc(be, bytes, e);
}

static void *gpu_alloc_pinned(struct backend *be, size_t bytes, struct error *e) {
	void *p = nullptr;
	cudaError_t r = cudaMallocHost(&p, align_up(bytes ? bytes : 1));
	if (r != cudaSuccess) {
		cudaGetLastError();
		error_set(e, -ENOMEM, "cuda: pinning %zu KiB of host memory: %s (raise the locked memory limit)", bytes >> 10,
			cudaGetErrorString(r));
		return nullptr;
	}
	memset(p, 0, bytes);
	return remember(be, p, bytes, true, e);
}

static void gpu_free(struct backend *be, void *p) {
	struct cuda_backend *c = inside(be);
	for (struct block **at = &c->blocks; *at; at = &(*at)->next) {
		struct block *b = *at;
		if (b->p != p)
			continue;
		*at = b->next;
		c->allocated -= b->pinned ? 0 : b->bytes;
		b->pinned ? cudaFreeHost(p) : cudaFree(p);
		free(b);
		return;
	}
}

void *cuda_scratch(struct backend *be, size_t bytes, const char *op) {
	struct cuda_backend *c = inside(be);
	if (bytes <= c->cu.scratch_bytes)
		return c->cu.scratch;
	struct error e = {};
	size_t grown = bytes > 2 * c->cu.scratch_bytes ? bytes : 2 * c->cu.scratch_bytes;
	void *p = c->retired_count < RETIRED_MAX ? gpu_alloc(be, grown, &e) : nullptr;
	if (!p) {
		cuda_latch_text(be, -ENOMEM, op, e.code ? e.text : "scratch memory grew too often");
		return nullptr;
	}
	c->retired[c->retired_count++] = c->cu.scratch;
	c->cu.scratch = p;
	c->cu.scratch_bytes = grown;
	return p;
}

static void gpu_upload(struct backend *be, void *dst, const void *src, size_t bytes) {
	/* From pageable memory the call returns when the source may be reused. */
	check(be, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, cuda_of(be)->stream), "upload");
}

static void gpu_download(struct backend *be, void *dst, const void *src, size_t bytes) {
	check(be, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, cuda_of(be)->stream), "download");
	check(be, cudaStreamSynchronize(cuda_of(be)->stream), "download");
}

static void gpu_download_async(struct backend *be, void *dst, const void *src, size_t bytes) {
	check(be, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, cuda_of(be)->stream), "download");
}

static void gpu_copy(struct backend *be, void *dst, const void *src, size_t bytes) {
	check(be, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, cuda_of(be)->stream), "copy");
}

static void gpu_zero(struct backend *be, void *dst, size_t bytes) {
	check(be, cudaMemsetAsync(dst, 0, bytes, cuda_of(be)->stream), "zero");
}

/* ---- marks ---- */
static uint64_t gpu_mark(struct backend *be) {
	struct cuda_backend *c = inside(be);
	uint64_t mark = ++c->marks;
	check(be, cudaEventRecord(c->event[mark % MARKS], c->cu.stream), "mark");
	return mark;
}

/* A slot may hold a later mark by now; waiting for that one is only safer. */
static int gpu_reached(struct backend *be, uint64_t mark) {
	cudaError_t r = cudaEventQuery(inside(be)->event[mark % MARKS]);
	if (r != cudaSuccess && r != cudaErrorNotReady)
		cuda_latch(be, r, "mark", nullptr);
	return r != cudaErrorNotReady;
}

static int gpu_wait(struct backend *be, uint64_t mark, struct error *e) {
	check(be, cudaEventSynchronize(inside(be)->event[mark % MARKS]), "wait");
	return backend_error(be, e);
}

static int gpu_sync(struct backend *be, struct error *e) {
	check(be, cudaStreamSynchronize(cuda_of(be)->stream), "sync");
	return backend_error(be, e);
}

static struct backend_info gpu_info(const struct backend *be) {
	const struct cuda_backend *c = (const struct cuda_backend *)be;
	struct backend_info info = {};
	size_t total = 0;
	snprintf(info.name, sizeof info.name, "%.95s", c->name);
	snprintf(info.kind, sizeof info.kind, "cuda");
	cudaMemGetInfo(&info.bytes_free, &total);
	info.bytes_total = total;
	info.precision = PRECISION_BF16;
	info.activation = DTYPE_BF16;
	info.kv = DTYPE_BF16;
	return info;
}

static size_t gpu_allocated(const struct backend *be) {
	return ((const struct cuda_backend *)be)->allocated;
}

static void gpu_destroy(struct backend *be) {
	struct cuda_backend *c = inside(be);
	if (c->cu.stream)
		cudaStreamSynchronize(c->cu.stream);
	while (c->blocks)
		gpu_free(be, c->blocks->p);
	for (int i = 0; i < MARKS; i++) {
		if (c->event[i])
			cudaEventDestroy(c->event[i]);
	}
	if (c->cu.blas)
		cublasLtDestroy(c->cu.blas);
	if (c->cu.stream)
		cudaStreamDestroy(c->cu.stream);
	free(c);
}

static const struct backend_driver driver = {gpu_destroy, gpu_info, gpu_alloc, gpu_alloc_pinned, gpu_free, gpu_allocated,
	gpu_upload, gpu_download, gpu_download_async, gpu_copy, gpu_zero, gpu_mark, gpu_reached, gpu_wait, gpu_sync};

static void fill_table(struct ops *o) {
	o->linear_create = cuda_linear_create, o->linear_destroy = cuda_linear_destroy;
	o->linear = cuda_linear, o->linear_residual = cuda_linear_residual;
	o->linear_residual_norm = cuda_linear_residual_norm;
	o->norm_modulate = cuda_norm_modulate, o->rms_norm = cuda_rms_norm;
	o->qk_norm_rope_write = cuda_qk_norm_rope_write;
	o->attention = cuda_attention, o->select_blocks = cuda_select_blocks, o->sdpa = cuda_sdpa;
	o->gated_gelu = cuda_gated_gelu, o->gather_rows = cuda_gather_rows, o->activate = cuda_activate;
	o->add_rows = cuda_add_rows;
	o->kv_bytes = cuda_kv_bytes, o->kv_copy = cuda_kv_copy, o->kv_rotate = cuda_kv_rotate;
	o->kv_export = cuda_kv_export, o->kv_import = cuda_kv_import;
	o->patchify = cuda_patchify, o->unpatchify = cuda_unpatchify;
	o->denoise = cuda_denoise, o->noise = cuda_noise;
	o->conv_create = cuda_conv_create, o->conv_destroy = cuda_conv_destroy, o->conv = cuda_conv;
	o->channel_norm = cuda_channel_norm;
	o->latent_to_image = cuda_latent_to_image, o->image_to_latent = cuda_image_to_latent;
	o->rgb_to_i420 = cuda_rgb_to_i420;
	o->convert = cuda_convert;
}

/* 0, or a negative errno with one line that says which and what to do. */
static int device_pick(struct cuda_backend *c, int device, struct error *e) {
	struct gpu_found f = {};
	cudaRuntimeGetVersion(&f.needs);
	cudaDriverGetVersion(&f.driver);
	cudaError_t r = cudaGetDeviceCount(&f.count);
	f.failure = r == cudaSuccess ? nullptr : cudaGetErrorString(r);
	int code = gpu_usable(&f, device, e);
	if (code < 0)
		return code;
	cudaDeviceProp p;
	if ((r = cudaSetDevice(device)) != cudaSuccess || (r = cudaGetDeviceProperties(&p, device)) != cudaSuccess)
		return error_set(e, -EIO, "cuda:%d: %s", device, cudaGetErrorString(r));
	c->cu.device = device;
	c->cu.cc = f.capability = p.major * 10 + p.minor;
	c->cu.processors = p.multiProcessorCount;
	f.name = p.name;
	snprintf(c->name, sizeof c->name, "%.60s (cc %d.%d)", p.name, p.major, p.minor);
	return gpu_usable(&f, device, e);
}

struct backend *cuda_backend_create(const struct backend_config *config, int device, struct error *e) {
	(void)config;
	struct cuda_backend *c = (struct cuda_backend *)calloc(1, sizeof *c);
	if (!c) {
		error_set(e, -ENOMEM, "cuda: no host memory");
		return nullptr;
	}
	c->base.driver = &driver;
	if (device_pick(c, device, e) < 0) {
		free(c);
		return nullptr;
	}
	cudaError_t r = cudaStreamCreateWithFlags(&c->cu.stream, cudaStreamNonBlocking);
	for (int i = 0; i < MARKS && r == cudaSuccess; i++)
		r = cudaEventCreateWithFlags(&c->event[i], cudaEventDisableTiming | cudaEventBlockingSync);
	if (r != cudaSuccess || cublasLtCreate(&c->cu.blas) != CUBLAS_STATUS_SUCCESS) {
		error_set(e, -EIO, "%s: %s", c->name, r == cudaSuccess ? "cuBLASLt does not start" : cudaGetErrorString(r));
		gpu_destroy(&c->base);
		return nullptr;
	}
	c->cu.scratch = gpu_alloc(&c->base, SCRATCH_FIRST, e);
	if (!c->cu.scratch) {
		gpu_destroy(&c->base);
		return nullptr;
	}
	c->cu.scratch_bytes = SCRATCH_FIRST;
	fill_table(&c->base.ops);
	return &c->base;
}
