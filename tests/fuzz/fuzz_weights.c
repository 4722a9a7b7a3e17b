/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzed: the bytes of a safetensors file. Whatever is accepted must be
 * readable from end to end: a sanitizer tells when it is not. */
#include <stdlib.h>
#include <string.h>

#include "engine/safetensors.h"
#include "engine/weights.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	uint8_t *copy = malloc(size + 1); /* the exact size on the heap would be 0 for nothing */
	if (!copy)
		return 0;
	memcpy(copy, data, size);
	uint8_t *exact = size ? realloc(copy, size) : copy;
	struct safetensors s;
	struct error e = {0};
	volatile float sum = 0; /* so that the reads are not left out */
	if (safetensors_parse(&s, exact, size, "fuzz", &e) == 0) {
		for (int i = 0; i < s.count; i++) {
			for (int64_t k = 0; k < tensor_count(&s.entry[i].t); k++)
				sum = sum + weights_value(&s.entry[i].t, k);
		}
		safetensors_close(&s);
	} else if (e.code == 0 || !e.text[0]) {
		abort(); /* refused without a reason */
	}
	free(exact);
	return 0;
}
