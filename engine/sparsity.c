/* SPDX-License-Identifier: Apache-2.0 */
/* Chunk-Aware Growth in double, and the policies. Scored policies leave the
 * choice to the device; listed ones (window, random) are written here, once a
 * chunk. Thread: see sparsity.h. */
#include "engine/sparsity.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_DEFAULT 64 /* tokens */

struct policy {
	const char *name;
	int kind;
	bool frame_stage; /* first the best frames, then blocks within them */
	bool per_layer; /* listed: every layer has its own list */
	/* Writes the plan->keep blocks of one query block, ascending. */
	void (*list)(const struct sparsity *s, const struct sparsity_plan *plan, int32_t *index,
		uint64_t *random);
};

struct sparsity {
	struct sparsity_config config;
	const struct policy *policy;
	int chunks; /* planned */
	double of_chunk[];
};

/* The sink, then the newest blocks, until the budget is spent. */
static void list_window(const struct sparsity *s, const struct sparsity_plan *plan, int32_t *index,
	uint64_t *random) {
	(void)random;
	int frames = plan->select.current_frames;
	int per_frame = plan->blocks_per_frame, past = plan->blocks - frames * per_frame;
	int sink = s->config.keep_sink * per_frame;
	sink = sink < past ? sink : past;
	sink = sink < plan->keep ? sink : plan->keep;
	for (int i = 0; i < plan->keep; i++)
		index[i] = i < sink ? i : plan->blocks - plan->keep + i;
}

static uint64_t splitmix(uint64_t *state) {
	uint64_t z = (*state += 0x9e3779b97f4a7c15u);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* Each subset of the right size is equally likely (Knuth's algorithm S). */
static void list_random(const struct sparsity *s, const struct sparsity_plan *plan, int32_t *index,
	uint64_t *random) {
	(void)s;
	int left = plan->keep;
	for (int i = 0; i < plan->blocks && left > 0; i++) {
		double u = (double)(splitmix(random) >> 11) * 0x1p-53;
		if (u * (plan->blocks - i) < left) {
			*index++ = i;
			left--;
		}
	}
}

static const struct policy policies[] = {
	{.name = "dense", .kind = SPARSITY_DENSE},
	{.name = "window", .kind = SPARSITY_LISTED, .list = list_window},
	{.name = "topk", .kind = SPARSITY_SCORED},
	{.name = "hsa", .kind = SPARSITY_SCORED, .frame_stage = true},
	{.name = "random", .kind = SPARSITY_LISTED, .per_layer = true, .list = list_random},
};

static const struct policy *policy_find(const char *name, size_t length) {
	for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++) {
		if (strlen(policies[i].name) == length &&
			memcmp(policies[i].name, name, length) == 0)
			return &policies[i];
	}
	return NULL;
}

static int share_parse(const char **at, double *out) {
	char *end;
	double v = strtod(*at, &end);
	if (end == *at || !(v >= 0 && v < 1))
		return -EINVAL;
	*out = v;
	*at = end;
	return 0;
}

int sparsity_parse(const char *spec, struct sparsity_config *c, struct error *e) {
	if (!spec || !*spec || strcmp(spec, "model") == 0)
		return 0;
	size_t n = strcspn(spec, ":");
	const struct policy *p = policy_find(spec, n);
	if (!p)
		return error_set(e, -EINVAL,
			"sparsity \"%.40s\": the policy must be one of model, dense, window, topk, "
			"hsa, random",
			spec);
	snprintf(c->policy, sizeof c->policy, "%s", p->name);
	const char *at = spec + n;
	if (!*at)
		return 0;
	at++;
	int bad = share_parse(&at, &c->target);
	c->base = c->target;
	if (!bad && *at == '/') {
		at++;
		bad = share_parse(&at, &c->base);
	}
	if (bad || *at)
		return error_set(e, -EINVAL,
			"sparsity \"%.40s\": after the colon goes TARGET or TARGET/BASE, each from "
			"0 to below 1",
			spec);
	return 0;
}

/* s_c = base - beta / sqrt(F_c), with beta such that the mean over chunks >= 1,
 * weighted by their visible frames L_c, is the target. F_c is not capped by
 * the window, L_c is. */
static void growth_plan(double *s, int chunks, int f, int window, double target, double base) {
	double visible = 0, weighted = 0;
	for (int c = 1; c < chunks; c++) {
		double frames = (double)(c + 1) * f;
		double l = window < 0 ? frames : fmin(frames, window);
		visible += l;
		weighted += l / sqrt(frames);
	}
	double beta = weighted > 0 ? (base - target) * visible / weighted : 0;
	s[0] = 0;
	for (int c = 1; c < chunks; c++)
		s[c] = fmin(fmax(base - beta / sqrt((double)(c + 1) * f), 0), 1);
}

/* A manifest may leave the section out: what a policy that is asked for then
 * needs, it gets from here. */
static struct sparsity_config with_defaults(
	const struct sparsity_config *c, int chunk_frames, int window_frames) {
	struct sparsity_config d = *c;
	if (d.block == 0)
		d.block = BLOCK_DEFAULT;
	if (d.horizon_frames == 0)
		d.horizon_frames =
			window_frames > 2 * chunk_frames ? window_frames : 2 * chunk_frames;
	return d;
}

struct sparsity *sparsity_create(const struct sparsity_config *config, int chunk_frames,
	int window_frames, struct error *e) {
	const struct sparsity_config with = with_defaults(config, chunk_frames, window_frames);
	const struct sparsity_config *c = &with;
	const struct policy *p = policy_find(c->policy, strlen(c->policy));
	if (!p) {
		error_set(e, -EINVAL, "sparsity.policy \"%.15s\" is not known", c->policy);
		return NULL;
	}
	if (p->kind != SPARSITY_DENSE && c->horizon_frames < 2 * chunk_frames) {
		error_set(e, -EINVAL,
			"sparsity.horizon_frames is %d: it must cover two chunks (%d frames)",
			c->horizon_frames, 2 * chunk_frames);
		return NULL;
	}
	if (p->frame_stage && (c->keep_sink < 0 || c->keep_near < 0 ||
				      c->keep_frames < c->keep_sink + c->keep_near)) {
		error_set(e, -EINVAL,
			"sparsity.keep_frames is %d: it must be at least keep_sink + keep_near "
			"(%d)",
			c->keep_frames, c->keep_sink + c->keep_near);
		return NULL;
	}
	int chunks = p->kind == SPARSITY_DENSE ? 1 : c->horizon_frames / chunk_frames;
	struct sparsity *s = calloc(1, sizeof *s + (size_t)chunks * sizeof s->of_chunk[0]);
	if (!s) {
		error_set(e, -ENOMEM, "no memory for the sparsity plan");
		return NULL;
	}
	s->config = *c;
	s->policy = p;
	s->chunks = chunks;
	growth_plan(s->of_chunk, chunks, chunk_frames, window_frames, c->target, c->base);
	return s;
}

void sparsity_destroy(struct sparsity *s) {
	free(s);
}

double sparsity_of_chunk(const struct sparsity *s, int64_t c) {
	return s->of_chunk[c < s->chunks ? c : s->chunks - 1];
}

/* The 1e-9 keeps (1 - .9) * 250 at 25 in spite of binary fractions. */
int sparsity_keep(double s, int blocks, int eligible) {
	int n = (int)floor((1 - s) * blocks + 1e-9);
	if (n < 1)
		n = 1;
	return n < eligible ? n : eligible;
}

/* Blocks that one of the kept frames holds; all when there is no frame stage. */
static int blocks_eligible(const struct sparsity *s, int past, int current, int blocks_per_frame) {
	if (!s->policy->frame_stage || s->config.keep_frames == 0 || past <= s->config.keep_frames)
		return (past + current) * blocks_per_frame;
	return (s->config.keep_frames + current) * blocks_per_frame;
}

struct sparsity_plan sparsity_plan(const struct sparsity *s, int64_t c, int visible_frames,
	int current_frames, int blocks_per_frame) {
	int past = visible_frames - current_frames, blocks = visible_frames * blocks_per_frame;
	struct sparsity_plan dense = {SPARSITY_DENSE, blocks, blocks_per_frame, blocks, {0}};
	if (s->policy->kind == SPARSITY_DENSE || past <= 0)
		return dense;
	struct sparsity_plan plan = {
		.kind = s->policy->kind, .blocks = blocks, .blocks_per_frame = blocks_per_frame};
	if (s->policy->kind == SPARSITY_LISTED && s->config.target <= 0) {
		/* No budget given: whole frames, sink + near + own. */
		int frames = s->config.keep_sink + s->config.keep_near + current_frames;
		plan.keep = frames < visible_frames ? frames * blocks_per_frame : blocks;
	} else {
		plan.keep = sparsity_keep(sparsity_of_chunk(s, c), blocks,
			blocks_eligible(s, past, current_frames, blocks_per_frame));
	}
	if (plan.keep >= blocks)
		return dense;
	plan.select = (struct select_args){
		.current_frames = current_frames,
		.keep = plan.keep,
		.keep_frames = s->policy->frame_stage ? s->config.keep_frames : 0,
		.keep_sink = s->config.keep_sink,
		.keep_near = s->config.keep_near,
	};
	return plan;
}

int sparsity_block(const struct sparsity *s) {
	return s->config.block;
}

bool sparsity_listed(const struct sparsity *s) {
	return s->policy->kind == SPARSITY_LISTED;
}

bool sparsity_listed_per_layer(const struct sparsity *s) {
	return s->policy->per_layer;
}

void sparsity_fill(const struct sparsity *s, const struct sparsity_plan *plan, int32_t *index,
	int64_t rows, uint64_t seed) {
	for (int64_t row = 0; row < rows; row++)
		s->policy->list(s, plan, index + row * plan->keep, &seed);
}

char *sparsity_describe(const struct sparsity *s, char *buf, size_t size) {
	const struct sparsity_config *c = &s->config;
	if (s->policy->kind == SPARSITY_DENSE)
		snprintf(buf, size, "dense");
	else if (s->policy->kind == SPARSITY_LISTED && c->target <= 0)
		snprintf(buf, size, "%s, %d + %d frames and its own", c->policy, c->keep_sink,
			c->keep_near);
	else
		snprintf(buf, size, "%s %.2f/%.2f of %d frames", c->policy, c->target, c->base,
			c->horizon_frames);
	return buf;
}
