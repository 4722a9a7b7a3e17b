/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzed: the text of a manifest. What is accepted must have passed the checks
 * that the engine relies on; what is refused must have a reason. */
#include <stdlib.h>
#include <string.h>

#include "engine/model.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct error e = {0};
	struct model *m = model_parse((const char *)data, size, "fuzz", &e);
	if (m && (model_check(m, &e) < 0 || model_frame_tokens(m) < 1 || m->steps < 1 ||
			 m->cache.window_frames < m->chunk_frames || m->dit.dim % m->dit.heads ||
			 !m->suggestions_json))
		abort();
	if (!m && (e.code == 0 || !strstr(e.text, "fuzz/manifest.json: ")))
		abort();
	model_free(m);
	return 0;
}
