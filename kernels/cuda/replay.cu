/* SPDX-License-Identifier: Apache-2.0 */
/* Recordings as CUDA graphs: a table searched from end to end (a lookup costs
 * microseconds and replaces hundreds of launches). A key that is new is only
 * remembered; when it comes again its work is captured from the stream,
 * instantiated and launched. What cannot be captured (scratch that must grow, an
 * upload) ends the attempt without effect, and the key stays plain for good.
 * Thread: the backend's. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/backend.cuh"

/* Six ring phases of five passes and a window that fills are about 70 for a
 * session: room for seven sessions before the oldest make way. */
#define RECORDINGS_MAX 512
/* A pass of 30 layers is about 500 kernels, whose nodes take about 1 KiB each. */
#define RECORDING_BYTES ((size_t)1 << 20)

struct recording {
	uint64_t used; /* 0: a free row */
	cudaGraphExec_t graph;
	bool plain; /* never to be recorded */
	size_t bytes;
	unsigned char key[BACKEND_KEY_MAX];
};

static void row_clear(struct recorder *c, struct recording *r) {
	if (r->graph) {
		cudaGraphExecDestroy(r->graph);
		c->counts.held--;
	}
	memset(r, 0, sizeof *r);
}

void replay_forget(struct backend *be) {
	struct recorder *c = &inside(be)->recorder;
	for (int i = 0; c->clock > 0 && i < RECORDINGS_MAX; i++)
		row_clear(c, &c->table[i]);
	c->clock = 0;
}

/* The key's row, or NULL after a new one was made for it. */
static struct recording *row_find(struct recorder *c, const void *key, size_t bytes) {
	struct recording *oldest = &c->table[0];
	for (int i = 0; i < RECORDINGS_MAX; i++) {
		struct recording *r = &c->table[i];
		if (r->used && r->bytes == bytes && memcmp(r->key, key, bytes) == 0) {
			r->used = ++c->clock;
			return r;
		}
		oldest = r->used < oldest->used ? r : oldest;
	}
	row_clear(c, oldest);
	oldest->used = ++c->clock;
	oldest->bytes = bytes;
	memcpy(oldest->key, key, bytes);
	return nullptr;
}

int gpu_replay(struct backend *be, const void *key, size_t bytes) {
	struct recorder *c = &inside(be)->recorder;
	cudaStream_t stream = cuda_of(be)->stream;
	if (c->off || bytes > BACKEND_KEY_MAX || be->root->latched.code)
		return 0;
	if (!c->table && !(c->table = (struct recording *)calloc(RECORDINGS_MAX, sizeof *c->table)))
		return 0;
	struct recording *r = row_find(c, key, bytes);
	if (!r || r->plain)
		return 0;
	if (r->graph) {
		check(be, cudaGraphLaunch(r->graph, stream), "replay");
		c->counts.replayed++;
		return 1;
	}
	if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess)
		c->current = r;
	c->spoiled = false;
	return 0;
}

int gpu_record_end(struct backend *be) {
	struct recorder *c = &inside(be)->recorder;
	struct recording *r = c->current;
	if (!r)
		return 0;
	c->current = nullptr;
	cudaGraph_t graph = nullptr;
	cudaError_t rc = cudaStreamEndCapture(cuda_of(be)->stream, &graph);
	bool good = rc == cudaSuccess && graph && !c->spoiled && !be->root->latched.code;
	if (good)
		good = cudaGraphInstantiate(&r->graph, graph, 0) == cudaSuccess;
	if (graph)
		cudaGraphDestroy(graph);
	if (good) {
		c->counts.held++;
		c->counts.recorded++;
		check(be, cudaGraphLaunch(r->graph, cuda_of(be)->stream), "replay");
		return 0;
	}
	/* A genuine failure will show again when the work runs plainly. */
	cudaGetLastError();
	backend_clear(be);
	r->graph = nullptr;
	r->plain = true;
	c->counts.refused++;
	return 1;
}

size_t gpu_recording_bytes(const struct backend *be, int keys) {
	const struct cuda_backend *c = (const struct cuda_backend *)be;
	return c->recorder.off ? 0 : (size_t)(keys < RECORDINGS_MAX ? keys : RECORDINGS_MAX) * RECORDING_BYTES;
}

struct backend_recordings gpu_recordings(const struct backend *be) {
	struct backend_recordings sum = ((const struct cuda_backend *)be)->recorder.counts;
	const struct cuda_backend *lane = ((const struct cuda_backend *)be)->lane;
	if (lane) {
		sum.held += lane->recorder.counts.held;
		sum.recorded += lane->recorder.counts.recorded;
		sum.replayed += lane->recorder.counts.replayed;
		sum.refused += lane->recorder.counts.refused;
	}
	return sum;
}
