/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's whole public surface; the server includes this and
 * kernels/error.h and nothing else from engine/ or kernels/.
 *
 *	en = engine_create(&config, &e);          // loads the model: minutes for a big one
 *	g = generator_create(en, seed, &e);
 *	generator_prompt(g, &(struct prompt_change){.text = "a red kite", .revision = 1}, &e);
 *	for (;;) {
 *		if (generator_boundary(g)) ...    // between chunks: pace, steer, pause here
 *		generator_step(g, &progress, &e); // one bounded piece of work
 *		if (progress == PROGRESS_FRAMES)
 *			n = generator_frames(g, frames, max);
 *	}
 *
 * On a GPU a step enqueues work and returns; pictures come out when they are
 * done, which may be when the next chunk is already being made.
 *
 * Thread: one thread, the GPU thread, makes every call, except where a line
 * says "any thread". Several generators share one engine and take turns.
 *
 * Behind it stand two implementations: the model (engine/engine.c) and, for
 * backend "test", a moving test picture that needs no model (engine/test.c). */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kernels/error.h"

struct engine;
struct generator;

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* How new words take hold. Names on the wire: "switch", "recache", "cut". */
enum transition {
	TRANSITION_SWITCH,  /* keep the memory, change the words */
	TRANSITION_RECACHE, /* reread the memory under the new words */
	TRANSITION_CUT,     /* forget the picture: a new scene, chunk count goes on */
	TRANSITION_COUNT
};
const char *transition_name(enum transition t); /* any thread */
/* Index by wire name; -1 when there is no such transition. Any thread. */
int transition_parse(const char *name);

/* Strings are borrowed during engine_create only. Zero means "default". */
struct engine_config {
	const char *model_dir;  /* folder with manifest.json, or "random:wan-1.3b[,WxH]" */
	const char *backend;    /* "cpu", "cuda[:N]", "auto", "test[:key=value,...]" */
	const char *precision;  /* "auto", "f32", "bf16", "fp8", "int8" */
	const char *sparsity;   /* "model" (the manifest's), "dense", "window", "hsa", ... */
	const char *steps;      /* "model" (the manifest's) or falling positions, "1000,400" */
	const double *renoise_above; /* timestep, 0 to 1000, instead of the manifest's; NULL: that */
	int threads;            /* CPU workers, 0: one per core */
	int generators_max;     /* KV slots set aside at load; default 1 */
	int prompts_cached;     /* encoded prompts kept; default 16 */
	int frames_max;         /* frames one generator may have outstanding; default 3 chunks */
	size_t memory_max_bytes; /* device memory to use; 0: what is free */
	bool eager;             /* a GPU replays nothing that it recorded, for comparison */
	bool one_lane;          /* a GPU decodes between the passes, not beside them, for comparison */
	/* Called on the thread of engine_create while it works; may be NULL. */
	void (*progress)(void *ctx, const char *stage, uint64_t done_bytes, uint64_t total_bytes);
	void *progress_ctx;
	void (*log)(void *ctx, enum log_level level, const char *line);
	void *log_ctx;
};

/* What the loaded model is and can do. Owned by the engine, constant after
 * engine_create, readable by any thread. */
struct model_info {
	char name[64];
	char backend[112];      /* "cpu: AMD EPYC ..., AVX-512" */
	char precision[8];
	char sparsity[48];      /* "hsa .70/.80 of 21 frames" */
	char weights_hash[65];  /* hex; identifies the weights, "" for test and random */
	int width, height;      /* pixels, even */
	int fps_num, fps_den;
	int chunk_frames;       /* pictures of a steady chunk */
	int first_chunk_frames; /* pictures of the first chunk of a scene */
	int steps;              /* denoising passes of a chunk */
	int prompt_tokens_max;  /* tokens a prompt may have, end mark included */
	int window_frames, sink_frames; /* latent */
	bool transitions[TRANSITION_COUNT];         /* supported */
	enum transition transition_first;           /* the one to offer first */
	double transition_cost_chunks[TRANSITION_COUNT];
	const char *suggestions_json; /* {"sentences":[],"turns":[],"slots":[]}, never NULL */
	/* The memory plan, in bytes of device memory. */
	size_t weights_bytes;
	size_t generator_bytes, kv_bytes, decoder_bytes; /* of one generator; of them, keys and
							    values, and what the decoder remembers */
	size_t scratch_bytes, recordings_bytes, headroom_bytes;
	int generators_max, generators_fit; /* asked for; that there is room for */
	int warm_chunks; /* after so many nothing is set up any more */
};

/* NULL and *e on failure. */
struct engine *engine_create(const struct engine_config *c, struct error *e);
/* After all its generators, and when all pictures are back: their memory may be
 * the device's. NULL is fine. */
void engine_destroy(struct engine *en);
const struct model_info *engine_model(const struct engine *en); /* any thread */
/* Tokens of a prompt, end mark included; negative errno and *e when it is not
 * valid UTF-8 or holds no words. Does not limit them. Any thread. */
int engine_prompt_tokens(const struct engine *en, const char *utf8, struct error *e);
/* True after a failure that no call can heal: the process should end. */
bool engine_broken(const struct engine *en);

/* Pixels of one picture, I420 BT.709 limited range, in host memory of the
 * generator's pool. Given away by generator_frames; whoever holds it calls
 * frame_release, from any thread, also after the generator is gone. */
struct frame {
	const uint8_t *plane[3];
	int stride[3];           /* bytes */
	int width, height;
	int64_t index;           /* pictures since the generator began, never restarts */
	int64_t chunk;           /* restarts with generator_reset only */
	int frame_in_chunk, frames_in_chunk;
	uint32_t revision;       /* of the prompt this chunk was made under */
	bool scene_start;        /* first picture after create, cut or reset */
};
void frame_release(struct frame *f); /* any thread; NULL is fine */

/* One endless video. Holds a KV slot until destroyed. -ENOMEM and the count
 * when generators_max are in use. */
struct generator *generator_create(struct engine *en, uint64_t seed, struct error *e);
void generator_destroy(struct generator *g); /* NULL is fine */

struct prompt_change {
	const char *text;        /* UTF-8, borrowed during the call */
	enum transition transition;
	uint32_t revision;       /* chosen by the caller, stamped on frames */
};
/* Takes effect at the next chunk that begins; a change not yet in effect is
 * replaced. Cheap: encoding happens in generator_step. -EINVAL names the fault. */
int generator_prompt(struct generator *g, const struct prompt_change *p, struct error *e);
/* A new film at the next boundary: memory dropped, chunk count 0, this seed. */
int generator_reset(struct generator *g, uint64_t seed, struct error *e);
/* Starts counting chunks and pictures elsewhere (a session that comes back). Before the first step. */
void generator_resume_at(struct generator *g, int64_t chunk, int64_t index);

enum progress {
	PROGRESS_BUSY,    /* a piece of work was done, more of this chunk follows */
	PROGRESS_FRAMES,  /* pictures wait in generator_frames */
	PROGRESS_BLOCKED  /* nothing done: pictures must be taken or released first */
};
/* True between chunks: the next step begins one. */
bool generator_boundary(const struct generator *g);
/* True while pictures are on their way: their chunk is enqueued, generator_frames
 * has not given them yet. */
bool generator_pending(const struct generator *g);
/* Sleeps until the next pictures of any generator are done; 1 when it slept, 0
 * when none are on their way (or the device has failed, which the next step
 * tells). For a caller that has nothing else to do. */
int engine_await(struct engine *en);
/* Index of the chunk in progress, or of the next one at a boundary. */
int64_t generator_chunk(const struct generator *g);
/* Pictures the chunk in progress (or, at a boundary, the next) will give. */
int generator_chunk_frames(const struct generator *g);
/* Advances by one bounded piece of work: a text encoding, a denoising pass, a
 * decode. Never waits for frames to be released. On a GPU the work is enqueued;
 * when all of a chunk is, the step sleeps until the next pictures or the chunk's
 * latent are done, so that the device never runs dry and yet a prompt has to
 * wait for little more than the chunk in progress. On failure the generator is
 * done for (destroy it); others go on unless engine_broken. */
int generator_step(struct generator *g, enum progress *p, struct error *e);
/* Moves up to max finished pictures to the caller, in order, none past the end
 * of a chunk; returns how many. */
int generator_frames(struct generator *g, struct frame **out, int max);

/* Account of the chunk whose last picture was given out last. */
struct chunk_info {
	int64_t chunk;
	uint32_t revision;
	int frames;
	int64_t condition_us, dit_us, decode_us; /* time spent in each */
	int kept_blocks, visible_blocks;         /* key blocks per query block; equal when dense */
	size_t kv_bytes;
};
struct chunk_info generator_chunk_info(const struct generator *g);
#endif
