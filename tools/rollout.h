/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of lightforced-rollout share; rollout.c says what it is for.
 * Thread: the program's only one. */
#ifndef TOOLS_ROLLOUT_H
#define TOOLS_ROLLOUT_H
#include <stdio.h>
#include "engine/generator.h"

#define PROMPTS_MAX 64

struct cue {
	int64_t chunk;
	enum transition mode;
	const char *text; /* borrowed */
};

struct options {
	struct engine_config engine;
	double renoise_above; /* when given, where engine's points to */
	uint64_t seed;
	int64_t chunks; /* 0: not given */
	const char *out, *latents, *compare;
	int cues;
	struct cue cue[PROMPTS_MAX];
};

/* Zeroed: nothing is compared with. */
struct reference {
	struct engine *engine; /* borrowed */
	struct weights *file;
	struct tensor noise; /* [chunks, steps, f, C, h, w] f32 of the file; data NULL: none */
	struct tensor latents; /* [frames, C, h, w] f32 of the file; data NULL: none */
	struct arena *arena, *scratch;
	struct decoder_state *decoder;
	struct tensor device_latent; /* [1, C, h, w] f32 */
	struct tensor device_rgb; /* [stride_t, H, W, 3] f32 */
	float *rgb, *want; /* host, pictures of one latent frame and of one chunk */
	int64_t want_at; /* value of `want` that the next picture begins with */
	double squared; /* sum of the differences' squares */
	int64_t compared; /* values in it */
};

/* rollout_options.c */
int options_parse(struct options *o, int argc, char **argv); /* -1: wrong usage */
int options_usage(void); /* says how; returns the exit status */
int options_cue(
	struct options *o, int64_t at, enum transition mode, const char *text); /* -1: full */

/* rollout_reference.c */
/* Opens o->compare. Its prompts go into o where that has none, and o->chunks is at
 * most what the file holds. After a failure, too, reference_close. */
int reference_open(struct reference *r, struct options *o, struct engine *en, struct error *e);
void reference_close(struct reference *r); /* before the engine goes */
/* A noise_source: draws what the file has. ctx: the reference. */
int reference_noise(
	void *ctx, struct backend *be, struct tensor *y, int64_t chunk, int step, struct error *e);
/* Decodes the file's chunk, for the pictures that reference_compare is given next;
 * chunks in order. */
int reference_decode(struct reference *r, int64_t chunk, struct error *e);
/* rgb [n, H, W, 3] f32 in backend memory. */
void reference_compare(struct reference *r, const struct tensor *rgb);
double reference_psnr_db(const struct reference *r); /* of all that was compared */

/* rollout_output.c */
FILE *pictures_open(const char *path, const struct model_info *i, struct error *e);
int pictures_write(FILE *out, const struct frame *f, struct error *e);
/* To o->latents: latents [o->chunks * f, C, h, w], and the prompts of o. */
int latents_write(
	const struct options *o, const struct engine *en, const float *latents, struct error *e);
#endif
