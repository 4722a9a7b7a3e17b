/* SPDX-License-Identifier: Apache-2.0 */
/* SentencePiece behind a C face: load a model, text to ids. Thread: any, once
 * loaded; the model is never written. */
#ifndef ENGINE_SPM_H
#define ENGINE_SPM_H
#include <stddef.h>
#include <stdint.h>
#include "kernels/error.h"
#ifdef __cplusplus
extern "C" {
#endif
struct spm;
struct spm *spm_load(const char *path, struct error *e); /* NULL and *e on failure */
void spm_free(struct spm *s); /* NULL is fine */
int spm_pieces(const struct spm *s);
int spm_eos(const struct spm *s); /* -1: the model has none */
/* Writes the first max ids of the text, returns how many there are in all. No
 * marks are added. Negative and *e on failure. */
int spm_encode(const struct spm *s, const char *utf8, size_t bytes, int32_t *ids, int max,
	struct error *e);
#ifdef __cplusplus
}
#endif
#endif
