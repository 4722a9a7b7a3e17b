/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzed: text messages of viewers. Whatever comes, the answer is none or one
 * JSON object with a type. */
#include <stdlib.h>
#include "server/control.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/fake_session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct conf conf = {.messages_per_s = 30};
	struct session session = {.id = "s_1", .used = true};
	struct control_peer peer = {.session = &session, .conf = &conf, .visible = true};
	struct packet *p = control_handle(&peer, (const char *)data, size, 1000000);
	if (p) {
		json_t *answer = json_loadb((const char *)p->data, p->size, 0, NULL);
		if (!json_is_string(json_object_get(answer, "type")))
			abort();
		json_decref(answer);
	}
	packet_unref(p);
	return 0;
}
