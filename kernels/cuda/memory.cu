/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the CUDA backend: blocks with an account, scratch that grows while
 * the first chunks run and then stays, copies that do not make the host wait.
 * The account belongs to the root, scratch and staging to each stream.
 * Thread: the backend's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/backend.cuh"

/* Blocks are few (arenas, packed weights), so the account is a list. */
struct block {
	void *p;
	size_t bytes;
	bool pinned;
	struct block *next;
};

static void *remember(struct backend *be, void *p, size_t bytes, bool pinned, struct error *e) {
	struct cuda_backend *root = inside(be->root);
	struct block *b = (struct block *)malloc(sizeof *b);
	if (!b) {
		pinned ? cudaFreeHost(p) : cudaFree(p);
		error_set(e, -ENOMEM, "cuda: no host memory");
		return nullptr;
	}
	*b = {p, bytes, pinned, root->blocks};
	root->blocks = b;
	root->allocated += pinned ? 0 : bytes;
	root->allocations++;
	return p;
}

void *gpu_alloc(struct backend *be, size_t bytes, struct error *e) {
	void *p = nullptr;
	size_t free_bytes = 0, total = 0;
	cudaStream_t stream = cuda_of(be)->stream;
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
	/* Waits, since any stream may use it first. */
	if (r == cudaSuccess && (r = cudaMemsetAsync(p, 0, bytes, stream)) == cudaSuccess)
		r = cudaStreamSynchronize(stream);
	if (r != cudaSuccess) {
		error_set(e, -EIO, "cuda: allocating %zu MiB: %s", bytes >> 20, cudaGetErrorString(r));
		return nullptr;
	}
	return remember(be, p, bytes, false, e);
}

void *cuda_alloc(struct backend *be, size_t bytes, struct error *e) {
	return gpu_alloc(be, bytes, e);
}

void *gpu_alloc_pinned(struct backend *be, size_t bytes, struct error *e) {
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

void gpu_free(struct backend *be, void *p) {
	struct cuda_backend *root = inside(be->root);
	for (struct block **at = &root->blocks; *at; at = &(*at)->next) {
		struct block *b = *at;
		if (b->p != p)
			continue;
		/* Recordings hold addresses, and another block may get this one's. */
		replay_forget(&root->base);
		if (root->lane)
			replay_forget(&root->lane->base);
		*at = b->next;
		root->allocated -= b->pinned ? 0 : b->bytes;
		b->pinned ? cudaFreeHost(p) : cudaFree(p);
		free(b);
		return;
	}
}

void *cuda_scratch(struct backend *be, size_t bytes, const char *op) {
	struct cuda_backend *c = inside(be);
	if (bytes <= c->cu.scratch_bytes)
		return c->cu.scratch;
	if (spoils(be))
		return nullptr;
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

/* `bytes` of the staging area; waits only for copies of half an area ago. */
static void *staging_take(struct backend *be, size_t bytes) {
	struct staging *s = &inside(be)->staging;
	if (s->used + bytes > STAGING_BYTES) {
		check(be, cudaEventRecord(s->left[s->half], cuda_of(be)->stream), "upload");
		s->half ^= 1;
		s->used = 0;
		check(be, cudaEventSynchronize(s->left[s->half]), "upload");
	}
	void *p = s->memory + s->half * STAGING_BYTES + s->used;
	s->used += align_up(bytes);
	return p;
}

void gpu_upload(struct backend *be, void *dst, const void *src, size_t bytes) {
	if (spoils(be))
		return;
	/* Larger ones come while loading. From pageable memory the call returns when
	 * the source may be reused. */
	if (bytes <= STAGING_BYTES)
		src = memcpy(staging_take(be, bytes), src, bytes);
	check(be, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, cuda_of(be)->stream), "upload");
}

void gpu_download(struct backend *be, void *dst, const void *src, size_t bytes) {
	gpu_download_async(be, dst, src, bytes);
	if (!inside(be)->recorder.current)
		check(be, cudaStreamSynchronize(cuda_of(be)->stream), "download");
}

void gpu_download_async(struct backend *be, void *dst, const void *src, size_t bytes) {
	if (!spoils(be))
		check(be, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, cuda_of(be)->stream), "download");
}

void gpu_copy(struct backend *be, void *dst, const void *src, size_t bytes) {
	check(be, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, cuda_of(be)->stream), "copy");
}

void gpu_zero(struct backend *be, void *dst, size_t bytes) {
	check(be, cudaMemsetAsync(dst, 0, bytes, cuda_of(be)->stream), "zero");
}

int memory_open(struct backend *be, struct error *e) {
	struct cuda_backend *c = inside(be);
	struct staging *s = &c->staging;
	for (int i = 0; i < 2; i++) {
		cudaError_t r = cudaEventCreateWithFlags(&s->left[i], cudaEventDisableTiming | cudaEventBlockingSync);
		if (r != cudaSuccess)
			return error_set(e, -EIO, "cuda: %s", cudaGetErrorString(r));
	}
	s->memory = (char *)gpu_alloc_pinned(be, 2 * STAGING_BYTES, e);
	c->cu.scratch = s->memory ? gpu_alloc(be, SCRATCH_FIRST, e) : nullptr;
	c->cu.scratch_bytes = SCRATCH_FIRST;
	return c->cu.scratch ? 0 : -ENOMEM;
}

void memory_close(struct backend *be) {
	struct cuda_backend *c = inside(be);
	while (c->blocks)
		gpu_free(be, c->blocks->p);
	for (int i = 0; i < 2; i++) {
		if (c->staging.left[i])
			cudaEventDestroy(c->staging.left[i]);
	}
}
