/* SPDX-License-Identifier: Apache-2.0 */
/* The struct behind a CUDA backend and behind its lane: what backend.cu (device,
 * streams, marks), memory.cu and replay.cu share. Thread: the owner's. */
#pragma once
#include "kernels/backend_impl.h"
#include "kernels/cuda/common.cuh"

#define MARKS 1024
#define RETIRED_MAX 16
#define SCRATCH_FIRST ((size_t)64 << 20)
#define STAGING_BYTES ((size_t)4 << 20) /* of one half */

struct block; /* memory.cu */
struct recording; /* replay.cu */

/* Pinned memory through which uploads go, so that the host need not wait for
 * the device: one half fills while the copies out of the other one run. */
struct staging {
	char *memory; /* two halves */
	size_t used;  /* of the half in use */
	int half;
	cudaEvent_t left[2]; /* behind the last copy out of each half */
};

struct recorder {
	bool off;
	struct recording *table; /* [RECORDINGS_MAX] */
	struct recording *current; /* being captured; NULL: none */
	bool spoiled; /* something happened that cannot be recorded */
	uint64_t clock;
	struct backend_recordings counts;
};

struct cuda_backend {
	struct backend base;
	struct cuda_state cu;
	struct cuda_backend *lane; /* of the root; NULL: itself */
	char name[112];
	size_t allocated;     /* of the root: device bytes */
	uint64_t allocations; /* of the root */
	struct block *blocks; /* of the root */
	cudaEvent_t event[MARKS];
	uint64_t marks;
	void *retired[RETIRED_MAX]; /* earlier scratch areas: ops in flight and recordings may still use them */
	int retired_count;
	struct staging staging;
	struct recorder recorder;
};

inline struct cuda_backend *inside(struct backend *be) {
	return (struct cuda_backend *)be;
}

inline void check(struct backend *be, cudaError_t r, const char *what) {
	if (r != cudaSuccess)
		cuda_latch(be, r, what, nullptr);
}

/* True, and the recording in progress is given up: such a call has no place in it. */
inline bool spoils(struct backend *be) {
	struct recorder *c = &inside(be)->recorder;
	c->spoiled = c->spoiled || c->current;
	return c->current != nullptr;
}

/* memory.cu: rows of the driver. */
void *gpu_alloc(struct backend *be, size_t bytes, struct error *e);
void *gpu_alloc_pinned(struct backend *be, size_t bytes, struct error *e);
void gpu_free(struct backend *be, void *p);
void gpu_upload(struct backend *be, void *dst, const void *src, size_t bytes);
void gpu_download(struct backend *be, void *dst, const void *src, size_t bytes);
void gpu_download_async(struct backend *be, void *dst, const void *src, size_t bytes);
void gpu_copy(struct backend *be, void *dst, const void *src, size_t bytes);
void gpu_zero(struct backend *be, void *dst, size_t bytes);
int memory_open(struct backend *be, struct error *e);
void memory_close(struct backend *be);

/* replay.cu */
int gpu_replay(struct backend *be, const void *key, size_t bytes);
int gpu_record_end(struct backend *be);
size_t gpu_recording_bytes(const struct backend *be, int keys);
struct backend_recordings gpu_recordings(const struct backend *be);
void replay_forget(struct backend *be); /* drops all recordings of this stream */
