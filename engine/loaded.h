/* SPDX-License-Identifier: Apache-2.0 */
/* A model in device memory, and the slots set aside at load in which generators
 * live. Nothing is allocated on the device afterwards. Private to the model
 * implementation: loaded.c makes it, plan.c and slot.c lay out slots, generator*.c
 * runs.
 * Thread: the backend's, save for what is constant. */
#ifndef ENGINE_LOADED_H
#define ENGINE_LOADED_H
#include "engine/decoder.h"
#include "engine/dit.h"
#include "engine/frames.h"
#include "engine/impl.h"
#include "engine/prompts.h"
#include "engine/sampler.h"

#define SLOT_FINISHED 2
#define ARRIVALS_MAX 256

/* The memory of one generator. */
struct slot {
	bool used;
	struct arena *arena;
	struct kvcache *cache;
	struct dit_text *text;
	struct dit_stream *stream;
	struct sampler *sampler;
	struct decoder_state *decoder;
	struct frame_pool *pool;
	/* Clean latents, for rereading the memory under another prompt. */
	struct tensor sink; /* [sink rounded up to chunks, C, h, w] f32 */
	struct tensor recent; /* [window rounded up, C, h, w] f32; frame f in row f mod rows */
	struct tensor reread; /* [pass_frames, C, h, w] f32: those of a recache pass, in order */
	/* Finished latents [f, C, h, w] f32 on their way through the decoder: those of
	 * the chunk before may still be read while the next ones are made. */
	struct tensor finished[SLOT_FINISHED];
	uint64_t
		finished_read[SLOT_FINISHED]; /* mark of the lane behind the last reader; 0: none */
	struct tensor rgb; /* [stride_t, H, W, 3] f32: pictures of one latent frame */
	struct tensor yuv; /* [stride_t, H * W * 3 / 2] u8 */
};

/* Marks of the lane behind pictures that are on their way to the host, of all
 * generators, in order. */
struct arrivals {
	uint64_t mark[ARRIVALS_MAX];
	int first, count;
};

struct loaded {
	struct engine base;
	struct backend *be; /* the transformer's stream */
	struct backend *lane; /* the decoder's; the same where nothing overlaps */
	struct model *m;
	enum precision precision;
	struct weights *dit_weights, *text_weights, *decoder_weights;
	struct arena *arena; /* small weights */
	struct arena *scratch; /* shared by all: one works at a time */
	struct arena *lane_scratch; /* the decoder's; `scratch` when be and lane are one */
	struct arrivals arrivals;
	struct tokenizer *tokenizer;
	struct text_encoder *encoder;
	struct prompts *prompts;
	struct dit *dit;
	struct decoder *decoder;
	struct sparsity *sparsity;
	int pass_frames; /* most latent frames of one pass */
	int frames_max; /* pictures of a slot's pool */
	size_t own_bytes, weights_bytes; /* held by the backend itself; by weights */
	bool broken;
	void (*log)(void *ctx, enum log_level level, const char *line);
	void *log_ctx;
	int slots;
	struct slot *slot;
};

/* Lays a slot out in s->arena, which may be measuring (then no pool is made). */
int slot_build(struct loaded *l, struct slot *s, struct error *e);
void slot_drop(struct slot *s);
/* Carves from `scratch` the most that any step of a generator will on its own stream. */
void slot_measure_scratch(struct loaded *l, struct arena *scratch);
/* As much for the decoder. */
int slot_measure_lane(struct loaded *l, struct slot *s, struct arena *scratch, struct error *e);
/* plan.c: plans the memory of all slots, at most `limit` of the device (0: what is
 * free), says it, and lays them out. -ENOMEM says how much is missing. */
int plan_slots(struct loaded *l, size_t limit, struct error *e);
/* Before weights are read, with parts that were only measured: refuses what cannot
 * fit in the best case. */
int plan_early(struct loaded *l, size_t limit, struct error *e);
/* Pictures are behind this mark of the lane. */
void arrivals_add(struct loaded *l, uint64_t mark);
/* The first mark that is not reached yet, or 0. */
uint64_t arrivals_next(struct loaded *l);
void loaded_log(const struct loaded *l, enum log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Rows of engine_impl_model; see impl.h. */
struct generator *live_create(struct engine *en, uint64_t seed, struct error *e);
void live_destroy(struct generator *g);
int live_prompt(struct generator *g, const struct prompt_change *p, struct error *e);
int live_reset(struct generator *g, uint64_t seed, struct error *e);
void live_resume_at(struct generator *g, int64_t chunk, int64_t index);
bool live_boundary(const struct generator *g);
int64_t live_chunk(const struct generator *g);
int live_chunk_frames(const struct generator *g);
int live_step(struct generator *g, enum progress *p, struct error *e);
int live_frames(struct generator *g, struct frame **out, int max);
struct chunk_info live_chunk_info(const struct generator *g);
bool live_pending(const struct generator *g);
int live_await(struct engine *en);
#endif
