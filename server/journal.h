/* SPDX-License-Identifier: Apache-2.0 */
/* One small JSON file a session under STATE_DIR/sessions, replaced as a whole
 * (temporary file, fsync, rename, fsync of the folder), so that after a crash
 * each session is there as it was or as it became, never torn. A file that
 * cannot be read is moved aside with one warning and the rest come back. What
 * stands in it is session_json.c's. Thread: any; writes are one at a time. */
#ifndef SERVER_JOURNAL_H
#define SERVER_JOURNAL_H
#include <jansson.h>
#include "server/log.h"
#include "server/session.h"
struct journal;
/* Makes the folders and locks them against a second daemon. */
struct journal *journal_create(const char *state_dir, struct log *log, struct error *e);
void journal_destroy(struct journal *j); /* NULL is fine */
/* Calls take for every journal; a negative answer moves the file aside. Before
 * other threads. */
void journal_load(struct journal *j, int (*take)(void *ctx, const json_t *content, struct error *e),
	void *ctx);
/* Now, on this thread: writes the session, or removes it when it is over.
 * exact: its place as it is, instead of numbers set aside. A failure is logged. */
void journal_write(struct journal *j, struct session *s, bool exact);
/* Soon, on the journal thread. */
void journal_post(struct journal *j, struct session *s);
/* Writes one that was posted; false when none came. The journal thread. */
bool journal_work(struct journal *j, int timeout_ms);
void journal_run(struct journal *j); /* body of the journal thread */
void journal_stop(struct journal *j); /* any thread; what waits is written first */
#endif
