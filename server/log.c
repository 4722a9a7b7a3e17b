/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines. Thread: any; the level is atomic and each line is one write. */
#include "server/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 1024 };

struct log {
	int fd;
	bool journal; /* the far end reads <N> */
	atomic_int level;
};

static const struct {
	const char *name;
	int priority; /* syslog(3) */
} levels[] = {
	[LOG_LEVEL_ERROR] = {"error", 3},
	[LOG_LEVEL_WARN] = {"warn", 4},
	[LOG_LEVEL_INFO] = {"info", 6},
	[LOG_LEVEL_DEBUG] = {"debug", 7},
};

/* systemd names the socket it reads as "device:inode" (systemd.exec(5)). */
static bool is_journal(int fd) {
	const char *stream = getenv("JOURNAL_STREAM"); /* before any thread exists */
	struct stat s;
	char mine[64];
	if (!stream || fstat(fd, &s) != 0)
		return false;
	snprintf(mine, sizeof mine, "%ju:%ju", (uintmax_t)s.st_dev, (uintmax_t)s.st_ino);
	return strcmp(mine, stream) == 0;
}

struct log *log_create(int fd) {
	struct log *l = calloc(1, sizeof *l);
	if (!l)
		return NULL;
	l->fd = fd;
	l->journal = is_journal(fd);
	atomic_init(&l->level, LOG_LEVEL_INFO);
	return l;
}

void log_destroy(struct log *l) {
	free(l);
}

void log_level_set(struct log *l, enum log_level level) {
	atomic_store(&l->level, (int)level);
}

int log_level_parse(const char *name) {
	for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
		if (strcmp(name, levels[i].name) == 0)
			return (int)i;
	}
	return -1;
}

static int head(const struct log *l, enum log_level level, char *line, size_t size) {
	if (l->journal)
		return snprintf(line, size, "<%d>", levels[level].priority);
	struct timespec t;
	struct tm utc;
	clock_gettime(CLOCK_REALTIME, &t);
	gmtime_r(&t.tv_sec, &utc);
	size_t n = strftime(line, size, "%Y-%m-%dT%H:%M:%S", &utc);
	return (int)n +
	       snprintf(line + n, size - n, ".%03ldZ %s ", t.tv_nsec / 1000000, levels[level].name);
}

void log_line(struct log *l, enum log_level level, const char *format, ...) {
	if (!l || (int)level > atomic_load_explicit(&l->level, memory_order_relaxed))
		return;
	char line[LINE_BYTES + 1];
	int from = head(l, level, line, LINE_BYTES);
	va_list args;
	va_start(args, format);
	int n = vsnprintf(line + from, LINE_BYTES - (size_t)from, format, args);
	va_end(args);
	size_t end = n < 0 ? (size_t)from : (size_t)(from + n);
	if (end > LINE_BYTES - 1)
		end = LINE_BYTES - 1;
	for (size_t i = (size_t)from; i < end; i++) {
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = ' ';
	}
	line[end] = '\n';
	/* A log that cannot be written must not stop the work. */
	ssize_t written = write(l->fd, line, end + 1);
	(void)written;
}

void log_engine(void *log, enum log_level level, const char *line) {
	log_line(log, level, "engine: %s", line);
}

void log_hash(char out[LOG_HASH_BYTES], const char *text) {
	uint64_t h = 14695981039346656037u; /* FNV-1a */
	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 1099511628211u;
	snprintf(out, LOG_HASH_BYTES, "%016" PRIx64, h);
}
