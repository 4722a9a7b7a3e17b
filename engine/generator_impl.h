/* SPDX-License-Identifier: Apache-2.0 */
/* One endless video as a state machine that its caller pulls: what the files of it
 * share. A chunk goes through the stages in order; each call of live_step enqueues
 * one stage's next piece of work and returns. The last latent frame is decoded after
 * the refresh pass, the others before it, so that pictures come out as early as they
 * can and the account of a chunk is complete when its last picture is out.
 *
 * Passes run on the backend's own stream, decoding on its lane, beside the passes
 * that follow. The host is ahead of the device by what is left of a chunk once its
 * latent is done: the refresh pass and decoding. That keeps the device busy
 * while the next chunk is prepared, and a new prompt waits for no more than that.
 *
 * generator.c: its life and what it is asked for. generator_step.c: the stages in
 * order. generator_passes.c, generator_frames.c: what is done in each.
 * Thread: the backend's; frames are released on any. */
#ifndef ENGINE_GENERATOR_IMPL_H
#define ENGINE_GENERATOR_IMPL_H
#include "engine/account.h"
#include "engine/generator.h"
#include "engine/loaded.h"
#include "engine/reread.h"

enum stage {
	STAGE_BOUNDARY, /* between chunks: apply what was asked for */
	STAGE_RECACHE, /* reread the memory under a new prompt, pass by pass */
	STAGE_DENOISE,
	STAGE_DECODE, /* all latent frames but the last */
	STAGE_REFRESH, /* keys and values of the clean latent */
	STAGE_DECODE_LAST,
	STAGE_SETTLE, /* all is enqueued: wait for the latent */
	STAGE_FAILED
};

struct change {
	char *text; /* owned; NULL: no change waits */
	enum transition transition;
	uint32_t revision;
};

/* A picture on its way out of the device. */
struct waiting {
	struct frame *frame;
	uint64_t mark; /* of the lane */
	int account;
};

/* Chunks whose pictures may be outstanding; a caller that leaves more lying loses
 * the oldest account. */
#define ACCOUNTS 8

struct live {
	struct generator base;
	struct loaded *l;
	struct slot *s;
	uint64_t seed;
	enum stage stage;
	int64_t chunk; /* since create or reset */
	int64_t scene_chunk; /* since the scene began */
	int64_t index; /* of the next picture */
	uint32_t revision;
	bool prompted; /* a prompt is in effect */
	bool scene_start; /* the next picture begins a scene */
	struct change change;
	bool reset;
	uint64_t reset_seed;
	struct reread reread;
	int decoded; /* latent frames of this chunk */
	int pictures; /* that this chunk gives */
	int pictures_out; /* of them, handed out */
	uint64_t latent_mark; /* behind the denoising passes of the chunk */
	uint64_t lane_before; /* mark of the lane before its pictures */
	struct account account[ACCOUNTS];
	int now; /* the account of the chunk in progress */
	struct chunk_info done;
	struct error failure;
	struct generator_tap tap;
	int waiting_first, waiting_count;
	struct waiting waiting[]; /* ring of frames_max */
};

static inline struct live *live_of(struct generator *g) {
	return (struct live *)g;
}

/* generator.c */
void live_scene_begin(struct live *g); /* the memory is empty, the next picture the first */

/* generator_passes.c: on the backend's stream. */
/* Applies what was asked for, then begins a chunk, or a reread before it. */
int stage_boundary(struct live *g, struct error *e);
int stage_recache(struct live *g, struct error *e); /* one pass of a reread */
int stage_denoise(struct live *g, struct error *e); /* one step of the sampler */
int stage_refresh(struct live *g, struct error *e);

/* generator_frames.c: on the lane. */
/* One latent frame to pictures. Blocked when the pool has no room for them. */
int stage_decode(struct live *g, bool *blocked, struct error *e);
bool live_frames_ready(const struct live *g); /* live_frames has some to give */
#endif
