/* SPDX-License-Identifier: Apache-2.0 */
/* session.h without threads, engine or encoder: remembers what it was asked, so
 * that the API and the control messages are tested alone. Linked instead of the
 * server's own session.c and registry.c. */
#ifndef TESTS_SUPPORT_FAKE_SESSION_H
#define TESTS_SUPPORT_FAKE_SESSION_H
#include "server/session.h"
enum { FAKE_SESSIONS = 2 };
struct session {
	char id[SESSION_ID_BYTES];
	int references;
	bool used, ended;
	char prompt[64]; /* last one set, cut */
	enum transition transition;
	int64_t at_chunk; /* -1: next */
	int prompts, keys, acts, cancels;
	enum session_action action; /* last one */
	bool seeded;
	uint64_t seed;
	struct session_request request; /* strings not kept */
};
struct registry {
	struct session session[FAKE_SESSIONS];
	int made;
	bool loading, draining;
};
/* Also session_find's "gone": an id that begins with "gone". */
#endif
