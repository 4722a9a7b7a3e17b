/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors files, mapped read-only: an index of every tensor by name, all
 * offsets checked against the file. A weight set may be spread over several
 * files. Nothing is copied until a module asks. Thread: any one at a time.
 * Source: safetensors format 1 (u64 header length, JSON, data); tensor data may
 * be only 2-byte aligned. */
#ifndef ENGINE_WEIGHTS_H
#define ENGINE_WEIGHTS_H
#include <jansson.h>
#include "kernels/backend.h"
#include "engine/arena.h"
#define WEIGHTS_COUNT_MAX 65536 /* tensors of a set */
struct weights;
/* Opens files[0..count), relative to dir unless it is "" or
 * they are absolute. `strip` (may be
 * NULL) is a prefix taken off every name that has it ("model."). Every fault
 * (short file, bad JSON, overlap, offset beyond the end, duplicate name,
 * unknown dtype) is an error naming file and tensor. */
struct weights *weights_open(
	const char *dir, const char *const *files, int count, const char *strip, struct error *e);
/* Random weights instead of files: weights_require invents every tensor asked
 * for: bf16, N(0, 1/sqrt(fan in)) from seed and name; vectors are small, norm
 * gains near 1. Tensors share memory, so a 14 B model fits a small host. */
struct weights *weights_random(uint64_t seed);
void weights_close(struct weights *w); /* NULL is fine */
int weights_count(const struct weights *w);
/* Host view into the map (or, once required, invented), aligned for its dtype;
 * 0, or -ENOENT. FP8 and I8 codes come with one scale a row: from `x.weight_scale`
 * or `x.scale_weight` beside `x.weight`, else ones. */
int weights_find(const struct weights *w, const char *name, struct tensor *host);
const char *weights_name(const struct weights *w, int i);
/* Finds `name` and checks its shape; marks it used. rank 0: any shape. On
 * failure says what is missing or which shape was expected and found. */
int weights_require(struct weights *w, const char *name, int rank, const int64_t *dim,
	struct tensor *host, struct error *e);
/* From now on weights_require tells watch how many bytes it has given out, counted
 * from this call on. NULL: no more. Random weights tell nothing. */
void weights_watch(struct weights *w, void (*watch)(void *ctx, uint64_t bytes), void *ctx);
/* First of the tensors never required, NULL when all were; for the warning. */
const char *weights_unused(const struct weights *w, int *count);
/* Metadata value of the first file that has the key, NULL otherwise. Values are
 * JSON where they parse as JSON, else strings. Borrowed. */
const json_t *weights_metadata(const struct weights *w, const char *key);
/* SHA-256 over names, dtypes, shapes and the first and last 16 KiB of each
 * tensor, hex: it tells one training from another at once, also for big files;
 * it does not prove that every byte is as it was. "" when random. */
void weights_hash(const struct weights *w, char hex[65]);
/* Element i of a host tensor of any dtype as f32, scales applied. */
float weights_value(const struct tensor *host, int64_t i);
/* All of it as f32 into dst (tensor_count floats). */
void weights_to_f32(const struct tensor *host, float *dst);
/* Requires `name`, converts to f32 and uploads it into arena. */
int weights_upload(struct weights *w, const char *name, int rank, const int64_t *dim,
	struct backend *be, struct arena *a, struct tensor *out, struct error *e);
#endif
