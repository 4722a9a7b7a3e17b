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
	uint64_t seed;
	int64_t chunks; /* 0: not given */
	const char *out, *latents, *compare;
	int cues;
	struct cue cue[PROMPTS_MAX];
};

/* rollout_options.c */
int options_parse(struct options *o, int argc, char **argv); /* -1: wrong usage */
int options_usage(void); /* says how; returns the exit status */
int options_cue(
	struct options *o, int64_t at, enum transition mode, const char *text); /* -1: full */

/* rollout_output.c */
FILE *pictures_open(const char *path, const struct model_info *i, struct error *e);
int pictures_write(FILE *out, const struct frame *f, struct error *e);
/* To o->latents: latents [o->chunks * f, C, h, w], and the prompts of o. */
int latents_write(
	const struct options *o, const struct engine *en, const float *latents, struct error *e);
#endif
