/* SPDX-License-Identifier: Apache-2.0 */
/* Names of the prompt transitions, as the wire and the manifest spell them. */
#include <string.h>

#include "engine/engine.h"

static const char *const names[TRANSITION_COUNT] = {
	[TRANSITION_SWITCH] = "switch",
	[TRANSITION_RECACHE] = "recache",
	[TRANSITION_CUT] = "cut",
};

const char *transition_name(enum transition t) {
	return names[t];
}

int transition_parse(const char *name) {
	for (int i = 0; i < TRANSITION_COUNT; i++) {
		if (strcmp(names[i], name) == 0)
			return i;
	}
	return -1;
}
