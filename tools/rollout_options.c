/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of lightforced-rollout. --at and --mode are for the --prompt
 * that follows them. Thread: the program's only one. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "tools/rollout.h"

#define CHUNKS_LIMIT 1000000

/* How the next --prompt takes hold. */
struct next_cue {
	int64_t chunk;
	int mode;
};

int options_usage(void) {
	fputs("usage: lightforced-rollout --model DIR --prompt TEXT [--at CHUNK [--mode "
	      "switch|recache|cut] --prompt TEXT]...\n"
	      "    [--seed N] [--chunks N] [--sparsity P] [--steps LIST] [--renoise-above T]\n"
	      "    [--backend B] [--precision P] [--threads N] [--out FILE.y4m] [--latents FILE] "
	      "[--compare "
	      "FILE] [--eager] [--one-lane]\n",
		stderr);
	return 2;
}

static bool number_parse(const char *text, int64_t max, int64_t *out) {
	char *end;
	errno = 0;
	long long v = strtoll(text, &end, 10);
	*out = v;
	return errno == 0 && end != text && *end == 0 && v >= 0 && v <= max;
}

int options_cue(struct options *o, int64_t at, enum transition mode, const char *text) {
	if (o->cues == PROMPTS_MAX)
		return -1;
	o->cue[o->cues++] = (struct cue){at, mode, text};
	return 0;
}

/* Options that are kept as they were written. False: it is none of them. */
static bool text_take(struct options *o, int option, const char *text) {
	const struct {
		int option;
		const char **to;
	} texts[] = {{'m', &o->engine.model_dir}, {'S', &o->engine.sparsity},
		{'T', &o->engine.steps}, {'b', &o->engine.backend}, {'P', &o->engine.precision},
		{'o', &o->out}, {'l', &o->latents}, {'C', &o->compare}};
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		if (texts[i].option != option)
			continue;
		*texts[i].to = text;
		return true;
	}
	return false;
}

/* False: unknown, or not a value that it may have. */
static bool option_take(struct options *o, struct next_cue *next, int option, const char *text) {
	int64_t n = 0;
	bool ok;
	switch (option) {
	case 'p':
		return options_cue(o, next->chunk, (enum transition)next->mode, text) == 0;
	case 'a':
		return number_parse(text, CHUNKS_LIMIT, &next->chunk);
	case 'M':
		next->mode = transition_parse(text);
		return next->mode >= 0;
	case 's':
		ok = number_parse(text, INT64_MAX, &n);
		o->seed = (uint64_t)n;
		return ok;
	case 'c':
		return number_parse(text, CHUNKS_LIMIT, &o->chunks) && o->chunks > 0;
	case 't':
		ok = number_parse(text, 1024, &n);
		o->engine.threads = (int)n;
		return ok;
	case 'R':
		ok = number_parse(text, 1000, &n);
		o->renoise_above = (double)n;
		o->engine.renoise_above = &o->renoise_above;
		return ok;
	case 'E':
		o->engine.eager = true;
		return true;
	case 'O':
		o->engine.one_lane = true;
		return true;
	default:
		return text_take(o, option, text);
	}
}

int options_parse(struct options *o, int argc, char **argv) {
	static const struct option names[] = {{"model", required_argument, NULL, 'm'},
		{"prompt", required_argument, NULL, 'p'}, {"at", required_argument, NULL, 'a'},
		{"mode", required_argument, NULL, 'M'}, {"seed", required_argument, NULL, 's'},
		{"chunks", required_argument, NULL, 'c'},
		{"sparsity", required_argument, NULL, 'S'}, {"steps", required_argument, NULL, 'T'},
		{"renoise-above", required_argument, NULL, 'R'},
		{"backend", required_argument, NULL, 'b'},
		{"precision", required_argument, NULL, 'P'},
		{"threads", required_argument, NULL, 't'}, {"out", required_argument, NULL, 'o'},
		{"latents", required_argument, NULL, 'l'},
		{"compare", required_argument, NULL, 'C'}, {"eager", no_argument, NULL, 'E'},
		{"one-lane", no_argument, NULL, 'O'}, {NULL, 0, NULL, 0}};
	struct next_cue next = {0, TRANSITION_SWITCH};
	int c;
	bool ok = true;
	while (ok && (c = getopt_long(argc, argv, "", names, NULL)) != -1)
		ok = option_take(o, &next, c, optarg);
	return ok && optind == argc && o->engine.model_dir && (o->cues || o->compare) ? 0 : -1;
}
