/* SPDX-License-Identifier: Apache-2.0 */
/* One NVIDIA GPU as a backend: device choice with a plain word when it cannot be
 * had, the stream and its lane, marks as events that are slept on, the op table.
 * Thread: the one that created it; CUDA is touched from nowhere else. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/backend.cuh"
#include "kernels/cuda/blas.cuh"
#include "kernels/gpu.h"

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
		be->root->sticky = 1;
}

void cuda_latch_text(struct backend *be, int code, const char *op, const char *text) {
	backend_fail(be, code, "cuda: %s: %s", op, text);
}

/* ---- marks ---- */
static uint64_t gpu_mark(struct backend *be) {
	struct cuda_backend *c = inside(be);
	uint64_t mark = ++c->marks;
	if (!spoils(be))
		check(be, cudaEventRecord(c->event[mark % MARKS], c->cu.stream), "mark");
	return mark;
}

/* A slot may hold a later mark by now; waiting for that one is only safer. */
static int gpu_reached(struct backend *be, uint64_t mark) {
	cudaError_t r = cudaEventQuery(inside(be)->event[mark % MARKS]);
	if (r == cudaErrorNotReady)
		cudaGetLastError(); /* else the next launch would seem to have failed */
	else
		check(be, r, "mark");
	return r != cudaErrorNotReady;
}

static int gpu_wait(struct backend *be, uint64_t mark, struct error *e) {
	check(be, cudaEventSynchronize(inside(be)->event[mark % MARKS]), "wait");
	return backend_error(be, e);
}

static int64_t gpu_elapsed_us(struct backend *be, uint64_t from, uint64_t to) {
	struct cuda_backend *c = inside(be);
	float ms = 0.f;
	if (from + MARKS <= c->marks || to + MARKS <= c->marks)
		return 0;
	cudaError_t r = cudaEventElapsedTime(&ms, c->event[from % MARKS], c->event[to % MARKS]);
	if (r == cudaErrorNotReady)
		cudaGetLastError();
	else
		check(be, r, "elapsed");
	return (int64_t)(ms * 1000.f);
}

static struct backend *gpu_lane(struct backend *be) {
	struct cuda_backend *c = inside(be);
	return c->lane ? &c->lane->base : be;
}

static void gpu_order(struct backend *be, struct backend *after, uint64_t mark) {
	if (be != after && !spoils(be))
		check(be, cudaStreamWaitEvent(cuda_of(be)->stream, inside(after)->event[mark % MARKS], 0), "order");
}

static int gpu_sync(struct backend *be, struct error *e) {
	check(be, cudaStreamSynchronize(cuda_of(be)->stream), "sync");
	if (inside(be)->lane)
		check(be, cudaStreamSynchronize(inside(be)->lane->cu.stream), "sync");
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
	return ((const struct cuda_backend *)be->root)->allocated;
}

static uint64_t gpu_allocations(const struct backend *be) {
	return ((const struct cuda_backend *)be->root)->allocations;
}

static void gpu_destroy(struct backend *be) {
	struct cuda_backend *c = inside(be);
	if (c->lane)
		gpu_destroy(&c->lane->base);
	c->lane = nullptr;
	if (c->cu.stream)
		cudaStreamSynchronize(c->cu.stream);
	replay_forget(be);
	free(c->recorder.table);
	c->recorder.table = nullptr;
	memory_close(be);
	for (int i = 0; i < MARKS; i++) {
		if (c->event[i])
			cudaEventDestroy(c->event[i]);
	}
	cuda_products_destroy(be);
	if (be->root == be)
		blas_close(c->cu.blas);
	if (c->cu.stream)
		cudaStreamDestroy(c->cu.stream);
	free(c);
}

static const struct backend_driver driver = {gpu_destroy, gpu_info, gpu_alloc, gpu_alloc_pinned, gpu_free, gpu_allocated,
	gpu_upload, gpu_download, gpu_download_async, gpu_copy, gpu_zero, gpu_mark, gpu_reached, gpu_wait, gpu_sync,
	gpu_allocations, gpu_elapsed_us, gpu_lane, gpu_order, gpu_replay, gpu_record_end, gpu_recording_bytes, gpu_recordings};

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
	o->convert = cuda_convert, o->code_scale = cuda_code_scale;
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

/* Stream, marks and memory of c, whose device is chosen. Pictures are what a
 * viewer waits for, so the lane's work goes before the next passes. */
static int stream_open(struct cuda_backend *c, bool lane, struct error *e) {
	int low = 0, high = 0;
	cudaError_t r = cudaDeviceGetStreamPriorityRange(&low, &high);
	if (r == cudaSuccess)
		r = cudaStreamCreateWithPriority(&c->cu.stream, cudaStreamNonBlocking, lane ? high : low);
	for (int i = 0; i < MARKS && r == cudaSuccess; i++)
		r = cudaEventCreateWithFlags(&c->event[i], cudaEventBlockingSync);
	if (r != cudaSuccess)
		return error_set(e, -EIO, "%s: %s", c->name, cudaGetErrorString(r));
	fill_table(&c->base.ops);
	return memory_open(&c->base, e);
}

static int lane_open(struct cuda_backend *root, struct error *e) {
	struct cuda_backend *c = (struct cuda_backend *)calloc(1, sizeof *c);
	if (!c)
		return error_set(e, -ENOMEM, "cuda: no host memory");
	root->lane = c;
	c->base.driver = &driver;
	c->base.root = &root->base;
	c->cu.device = root->cu.device;
	c->cu.cc = root->cu.cc;
	c->cu.processors = root->cu.processors;
	c->cu.blas = root->cu.blas;
	c->recorder.off = root->recorder.off;
	memcpy(c->name, root->name, sizeof c->name);
	return stream_open(c, true, e);
}

struct backend *cuda_backend_create(const struct backend_config *config, int device, struct error *e) {
	struct cuda_backend *c = (struct cuda_backend *)calloc(1, sizeof *c);
	if (!c) {
		error_set(e, -ENOMEM, "cuda: no host memory");
		return nullptr;
	}
	c->base.driver = &driver;
	c->base.root = &c->base;
	c->recorder.off = config->eager;
	int r = device_pick(c, device, e);
	if (r == 0 && !(c->cu.blas = blas_open(e)))
		r = -EIO;
	if (r == 0)
		r = stream_open(c, false, e);
	if (r == 0 && !config->one_lane)
		r = lane_open(c, e);
	if (r < 0) {
		gpu_destroy(&c->base);
		return nullptr;
	}
	return &c->base;
}
