/* SPDX-License-Identifier: Apache-2.0 */
/* manifest.json into struct model: types, ranges and unknown keys, by one table
 * of fields. How fields depend on each other is model.c's matter. Thread: any. */
#ifndef ENGINE_MANIFEST_H
#define ENGINE_MANIFEST_H
#include "engine/model.h"
/* Fills *m, which the caller has zeroed and frees with model_free whatever
 * happens. path is for messages, which name "section.key". */
int manifest_parse(
	struct model *m, const char *json, size_t bytes, const char *path, struct error *e);
#endif
