/* SPDX-License-Identifier: Apache-2.0 */
/* The GPU thread: owns the engine and every generator. Loads the model, then
 * takes turns among the sessions, a chunk each: prompts, pause, pace and reset
 * are looked at between chunks. It sleeps while nothing can be done and never
 * waits for a viewer or an encoder. Thread: as each line says. */
#ifndef SERVER_GPU_H
#define SERVER_GPU_H
#include "server/encoder.h"
struct gpu;
enum gpu_end {
	GPU_RUNS,
	GPU_DRAINED, /* after registry_drain */
	GPU_NO_MODEL, /* it could not be loaded; why was logged */
	GPU_BROKEN /* the device is lost: the process must end */
};
/* encoders: one per session at once; borrowed. Any thread. */
struct gpu *gpu_create(struct registry *r, struct encoder **encoders, int count, struct error *e);
void gpu_destroy(struct gpu *g); /* after gpu_run returned; NULL is fine */
void gpu_run(struct gpu *g); /* body of the thread: load, turns, drain */
enum gpu_end gpu_end(const struct gpu *g); /* any thread */
bool gpu_config_at_fault(
	const struct gpu *g); /* GPU_NO_MODEL: trying again will not help. Any thread */
int64_t gpu_ticked_us(const struct gpu *g); /* any thread */

/* The parts of gpu_run, for tests that bring their own clock. GPU thread. */
int gpu_load(struct gpu *g, struct error *e);
enum { GPU_FOREVER = -1 };
/* One turn. How long nothing can be done unless woken: 0 go on at once,
 * microseconds, or GPU_FOREVER. */
int64_t gpu_turn(struct gpu *g, int64_t now_us);
/* As gpu_turn, but begins no chunk; true when all sessions are put away. */
bool gpu_drain_turn(struct gpu *g, int64_t now_us);
#endif
