/* SPDX-License-Identifier: Apache-2.0 */
/* What gpu.h hides, shared by the files named gpu*. Thread: the GPU thread, but
 * for the atomics. */
#ifndef SERVER_GPU_PARTS_H
#define SERVER_GPU_PARTS_H
#include "server/gpu.h"
#include "server/session_impl.h"

struct gpu {
	struct registry *registry;
	const struct conf *conf;
	struct encoder **encoders; /* borrowed */
	int encoder_count;
	struct engine *engine;
	uint64_t turn;
	bool draining;
	bool config_at_fault;
	atomic_int end;
	atomic_llong ticked_us;
};

/* gpu_tend.c */
/* Looks after one session. True: it can make a step now. *wait_us (GPU_FOREVER:
 * for ever) is brought down to when the clock alone will change something. */
bool gpu_tend(struct gpu *g, struct session *s, int64_t now_us, int64_t *wait_us);

/* gpu_session.c */
/* In the order of what its encoder publishes; at once when it has none. Takes p. */
void gpu_say(struct session *s, struct packet *p);
void gpu_fail(struct session *s, enum problem_code code, const struct error *e);
/* Gives it a generator and an encoder. False: not yet. */
bool gpu_prepare(struct gpu *g, struct session *s);
/* Takes everything back from an ended session (over) or from one that waits in
 * its journal. It leaves the list once its viewers will hear of it. */
void gpu_put_away(struct gpu *g, struct session *s, bool over);

/* gpu_step.c */
/* Makes one step of its generator, or fails it. It must be able to. */
void gpu_step(struct gpu *g, struct session *s, int64_t now_us);
/* Moves finished pictures on, and the end of a chunk behind its last one. */
void gpu_move_frames(struct session *s);
/* True while the engine waits for pictures and none came back. */
bool gpu_is_starving(struct session_gpu *x);
#endif
