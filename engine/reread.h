/* SPDX-License-Identifier: Apache-2.0 */
/* Rereading the memory under another prompt: the clean latents that the next
 * chunk will see go through the transformer again, so that their keys and
 * values speak of the new words. Sequential: chunk by chunk as when they were
 * made, the sink first. Joint: all in one pass that sees both ways; once the
 * window has slid, the sink keeps what it has (LongLive). Thread: the backend's. */
#ifndef ENGINE_REREAD_H
#define ENGINE_REREAD_H
#include "engine/loaded.h"

/* Frames [first, end) in passes of `step` frames, the sink's chunks before them. */
struct reread {
	int64_t sink_next, sink_end; /* [0, sink_end) of the sink's chunks is left */
	int64_t next, end;
	int step;
};
/* Remembers the latent [f, C, h, w] of the chunk that is about to be committed. */
void reread_keep(struct loaded *l, struct slot *s, const struct tensor *latent);
/* At a chunk boundary with something in the cache. */
void reread_begin(struct reread *r, const struct loaded *l, struct slot *s);
/* One pass; *more: another is needed. */
int reread_step(struct reread *r, struct loaded *l, struct slot *s, bool *more, struct error *e);
#endif
