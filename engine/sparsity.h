/* SPDX-License-Identifier: Apache-2.0 */
/* How much of the past each query block reads, and by which rule. A policy is a
 * row of a table; how many blocks it may keep follows from Chunk-Aware Growth:
 * sparsity grows with the number of visible frames, so that late chunks, which
 * have the most past, drop the most. Sources: Light Forcing (arXiv 2602.04789),
 * sections on CAG and HSA, as its published code has them; engine/MODEL.md.
 * Thread: any; constant after sparsity_create. */
#ifndef ENGINE_SPARSITY_H
#define ENGINE_SPARSITY_H
#include <stddef.h>
#include <stdint.h>
#include "engine/model.h"

struct sparsity;

/* What one chunk does in attention, the same in all its passes and layers. */
struct sparsity_plan {
	enum {
		SPARSITY_DENSE, /* every query reads every visible key */
		SPARSITY_SCORED, /* ops->select_blocks with `select` */
		SPARSITY_LISTED /* lists from sparsity_fill, known before the chunk */
	} kind;
	int blocks; /* visible key blocks */
	int blocks_per_frame;
	int keep; /* of them, per query block; == blocks when dense */
	struct select_args select;
};

/* Reads "model", "dense", or "POLICY[:TARGET[/BASE]]" ("hsa:.85/.95", "topk:.7")
 * over what the manifest says; "model" leaves *c alone. */
int sparsity_parse(const char *spec, struct sparsity_config *c, struct error *e);
/* window_frames < 0: unbounded. Block and horizon of 0 mean 64 tokens and the
 * window. NULL and *e when the numbers do not fit. */
struct sparsity *sparsity_create(
	const struct sparsity_config *c, int chunk_frames, int window_frames, struct error *e);
void sparsity_destroy(struct sparsity *s); /* NULL is fine */
/* Share of blocks that chunk c of a scene drops, c from 0. */
double sparsity_of_chunk(const struct sparsity *s, int64_t c);
/* Blocks kept of `blocks` visible ones at sparsity s: floor((1 - s) * blocks),
 * at least 1, at most `eligible`. */
int sparsity_keep(double s, int blocks, int eligible);
struct sparsity_plan sparsity_plan(const struct sparsity *s, int64_t c, int visible_frames,
	int current_frames, int blocks_per_frame);
int sparsity_block(const struct sparsity *s); /* tokens */
/* True when some plan may be SPARSITY_LISTED, and whether layers differ. */
bool sparsity_listed(const struct sparsity *s);
bool sparsity_listed_per_layer(const struct sparsity *s);
/* Fills index[rows, plan->keep], each row ascending, for a listed plan; a row
 * is one (layer, head, query block). */
void sparsity_fill(const struct sparsity *s, const struct sparsity_plan *plan, int32_t *index,
	int64_t rows, uint64_t seed);
/* "hsa .70/.80 of 21 frames", "dense"; returns buf. */
char *sparsity_describe(const struct sparsity *s, char *buf, size_t size);
#endif
