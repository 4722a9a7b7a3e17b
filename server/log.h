/* SPDX-License-Identifier: Apache-2.0 */
/* Lines for the operator, on stderr: under systemd's journal with its <N>
 * priority mark, elsewhere with time and level. One write a line, control
 * characters blanked. Prompts are never logged: log_hash stands for them.
 * Thread: any. */
#ifndef SERVER_LOG_H
#define SERVER_LOG_H
#include "engine/engine.h"
struct log;
struct log *log_create(int fd); /* level info; NULL: no memory. fd stays the caller's */
void log_destroy(struct log *l); /* NULL is fine */
void log_level_set(struct log *l, enum log_level level);
int log_level_parse(const char *name); /* "error", "warn", "info", "debug"; -1: none */
/* A NULL log swallows the line. */
void log_line(struct log *l, enum log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* Fits engine_config.log; ctx: the log. */
void log_engine(void *log, enum log_level level, const char *line);
#define LOG_HASH_BYTES 17
/* Sixteen hex digits that stand for a text. */
void log_hash(char out[LOG_HASH_BYTES], const char *text);
#endif
