/* SPDX-License-Identifier: Apache-2.0 */
/* What is done to a prompt before the tokenizer. "wan" follows the cleaning
 * that Wan's encoder was trained with: HTML entities, curly quotes, ligatures,
 * full-width letters, control characters, composed form, white space. The
 * repair of wrongly decoded text (mojibake) is left out. Thread: any. */
#ifndef ENGINE_CLEAN_H
#define ENGINE_CLEAN_H
#include "engine/model.h"
#define CLEAN_BYTES_MAX 65536 /* of a text; longer ones are refused */

/* 0, or -EINVAL and the place of the first byte that is not UTF-8. */
int utf8_check(const char *text, struct error *e);
/* The cleaned text, to be freed; NULL and *e when it is not UTF-8, too long, or memory is out. */
char *clean_text(const char *utf8, enum cleaning how, struct error *e);
#endif
