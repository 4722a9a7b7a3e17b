/* SPDX-License-Identifier: Apache-2.0 */
/* Journals on disk. One mutex keeps writes apart, so the newest snapshot is
 * always the last one written. Thread: any. */
#include "server/journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/queue.h"
#include "server/session_impl.h"

enum { FILE_BYTES_MAX = 1 << 20, POSTED_MAX = 4 * SESSIONS_LISTED_MAX, NAME_BYTES = 64 };

struct journal {
	struct log *log;
	char path[1024]; /* of the folder, for messages */
	int dir, lock_file;
	pthread_mutex_t writing;
	bool failing; /* the last write failed: said once */
	struct queue *posted; /* sessions, one reference each */
};

static void drop_session(void *s) {
	session_unref(s);
}

/* The folder, and those above it that are not there yet. Below 1000 bytes. */
static int make_folders(const char *path) {
	char part[1000];
	snprintf(part, sizeof part, "%s", path);
	for (char *s = part + 1; *s; s++) {
		if (*s != '/')
			continue;
		*s = 0;
		if (mkdir(part, 0755) != 0 && errno != EEXIST && access(part, X_OK) != 0)
			return -1;
		*s = '/';
	}
	return mkdir(part, 0700) == 0 || errno == EEXIST ? 0 : -1;
}

static int open_folder(struct journal *j, const char *state_dir, struct error *e) {
	if (make_folders(state_dir) != 0)
		return error_set(
			e, -errno, "[server] state_dir: %s: %s", state_dir, strerror(errno));
	snprintf(j->path, sizeof j->path, "%s/lock", state_dir);
	j->lock_file = open(j->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (j->lock_file < 0)
		return error_set(e, -errno, "[server] state_dir: %s: %s", j->path, strerror(errno));
	if (flock(j->lock_file, LOCK_EX | LOCK_NB) != 0)
		return error_set(e, -errno,
			"[server] state_dir: %s is in use by another lightforced; give each its "
			"own",
			state_dir);
	snprintf(j->path, sizeof j->path, "%s/sessions", state_dir);
	if (mkdir(j->path, 0700) != 0 && errno != EEXIST)
		return error_set(e, -errno, "[server] state_dir: %s: %s", j->path, strerror(errno));
	j->dir = open(j->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (j->dir < 0)
		return error_set(e, -errno, "[server] state_dir: %s: %s", j->path, strerror(errno));
	return 0;
}

struct journal *journal_create(const char *state_dir, struct log *log, struct error *e) {
	struct journal *j = calloc(1, sizeof *j);
	struct queue *posted = queue_create(POSTED_MAX, drop_session);
	if (!j || !posted) {
		free(j);
		queue_destroy(posted);
		error_set(e, -ENOMEM, "no memory for the journal");
		return NULL;
	}
	j->log = log;
	j->posted = posted;
	j->dir = j->lock_file = -1;
	pthread_mutex_init(&j->writing, NULL);
	if (strlen(state_dir) > 900)
		error_set(e, -ENAMETOOLONG, "[server] state_dir: longer than 900 bytes");
	else if (open_folder(j, state_dir, e) == 0)
		return j;
	journal_destroy(j);
	return NULL;
}

void journal_destroy(struct journal *j) {
	if (!j)
		return;
	queue_destroy(j->posted);
	if (j->dir >= 0)
		close(j->dir);
	if (j->lock_file >= 0)
		close(j->lock_file);
	pthread_mutex_destroy(&j->writing);
	free(j);
}

static bool has_ending(const char *name, const char *ending) {
	size_t n = strlen(name), k = strlen(ending);
	return n > k && n < NAME_BYTES && strcmp(name + n - k, ending) == 0;
}

static json_t *read_json(struct journal *j, const char *name, struct error *e) {
	/* Without waiting: a pipe with this name would hold up the start for ever. */
	int fd = openat(j->dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat what;
	bool regular = fd >= 0 && fstat(fd, &what) == 0 && S_ISREG(what.st_mode);
	char *text = malloc(FILE_BYTES_MAX + 1);
	ssize_t size = 0, n = fd >= 0 && text ? 1 : -1;
	while (regular && n > 0 && size <= FILE_BYTES_MAX) {
		n = read(fd, text + size, (size_t)(FILE_BYTES_MAX + 1 - size));
		size += n > 0 ? n : 0;
	}
	json_t *content = NULL;
	json_error_t why;
	if (n < 0)
		error_set(e, -EIO, "%s", strerror(errno));
	else if (!regular)
		error_set(e, -EINVAL, "not a regular file");
	else if (size > FILE_BYTES_MAX)
		error_set(e, -EFBIG, "larger than %d bytes", FILE_BYTES_MAX);
	else if (!(content = json_loadb(text, (size_t)size, JSON_REJECT_DUPLICATES, &why)))
		error_set(e, -EINVAL, "line %d: %s", why.line, why.text);
	free(text);
	if (fd >= 0)
		close(fd);
	return content;
}

/* The file must be named after the session in it. */
static int check_name(const char *name, const json_t *content, struct error *e) {
	const char *id = json_string_value(json_object_get(content, "id"));
	size_t n = strlen(name) - strlen(".json");
	if (!id || strlen(id) != n || strncmp(id, name, n) != 0)
		return error_set(e, -EINVAL, "the id in it is not that of its name");
	return 0;
}

static void load_one(struct journal *j, const char *name,
	int (*take)(void *ctx, const json_t *content, struct error *e), void *ctx) {
	struct error e = {0};
	json_t *content = read_json(j, name, &e);
	if (content && check_name(name, content, &e) == 0)
		take(ctx, content, &e);
	json_decref(content);
	if (e.code == 0)
		return;
	char aside[NAME_BYTES + 8];
	snprintf(aside, sizeof aside, "%s.bad", name);
	int rc = renameat(j->dir, name, j->dir, aside);
	log_line(j->log, LOG_LEVEL_WARN, "journal %s/%s cannot be used (%s); %s %s", j->path, name,
		e.text, rc == 0 ? "moved aside as" : "and cannot be moved to", aside);
}

static int by_name(const void *a, const void *b) {
	return strcmp(*(char *const *)a, *(char *const *)b);
}

void journal_load(struct journal *j, int (*take)(void *ctx, const json_t *content, struct error *e),
	void *ctx) {
	int fd = dup(j->dir);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	char *names[SESSIONS_LISTED_MAX];
	int n = 0;
	if (!d) {
		log_line(j->log, LOG_LEVEL_WARN, "journals in %s cannot be read: %s", j->path,
			strerror(errno));
		if (fd >= 0)
			close(fd);
		return;
	}
	for (struct dirent *it; (it = readdir(d));) {
		if (has_ending(it->d_name, ".tmp"))
			unlinkat(j->dir, it->d_name, 0);
		else if (has_ending(it->d_name, ".json") && n < SESSIONS_LISTED_MAX &&
			 (names[n] = strdup(it->d_name)))
			n++;
	}
	closedir(d);
	qsort(names, (size_t)n, sizeof names[0], by_name);
	for (int i = 0; i < n; i++) {
		load_one(j, names[i], take, ctx);
		free(names[i]);
	}
}

static int write_all(int fd, const char *text, size_t size) {
	while (size > 0) {
		ssize_t n = write(fd, text, size);
		if (n < 0 && errno != EINTR)
			return -errno;
		text += n > 0 ? n : 0;
		size -= n > 0 ? (size_t)n : 0;
	}
	return fsync(fd) == 0 ? 0 : -errno;
}

static int replace_file(struct journal *j, const char *id, const char *text) {
	char name[NAME_BYTES], temporary[NAME_BYTES];
	snprintf(name, sizeof name, "%s.json", id);
	snprintf(temporary, sizeof temporary, "%s.tmp", id);
	int fd = openat(
		j->dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	int rc = write_all(fd, text, strlen(text));
	if (close(fd) != 0 && rc == 0)
		rc = -errno;
	if (rc == 0 && renameat(j->dir, temporary, j->dir, name) != 0)
		rc = -errno;
	if (rc != 0)
		unlinkat(j->dir, temporary, 0); /* a full disk needs the room */
	else if (fsync(j->dir) != 0)
		rc = -errno;
	return rc;
}

static int remove_file(struct journal *j, const char *id) {
	char name[NAME_BYTES];
	snprintf(name, sizeof name, "%s.json", id);
	if (unlinkat(j->dir, name, 0) != 0)
		return errno == ENOENT ? 0 : -errno;
	return fsync(j->dir) == 0 ? 0 : -errno;
}

void journal_write(struct journal *j, struct session *s, bool exact) {
	pthread_mutex_lock(&j->writing);
	struct journal_place place = {0};
	json_t *content = session_json_journal(s, exact, &place);
	char *text = content ? json_dumps(content, JSON_COMPACT) : NULL;
	json_decref(content);
	int rc = text                                ? replace_file(j, session_id(s), text)
		 : session_is_over(session_state(s)) ? remove_file(j, session_id(s))
						     : -ENOMEM;
	if (rc != 0 && !j->failing)
		log_line(j->log, LOG_LEVEL_ERROR,
			"journal %s/%s.json cannot be written: %s; a crash would lose it", j->path,
			session_id(s), strerror(-rc));
	j->failing = rc != 0;
	if (text)
		session_saved(s, &place); /* a disk that fails must not stop the film */
	pthread_mutex_unlock(&j->writing);
	free(text);
}

void journal_post(struct journal *j, struct session *s) {
	if (atomic_exchange(&s->journal_waits, true))
		return;
	if (!queue_push(j->posted, session_ref(s))) {
		atomic_store(&s->journal_waits, false);
		session_unref(s);
	}
}

bool journal_work(struct journal *j, int timeout_ms) {
	struct session *s = queue_pop(j->posted, timeout_ms);
	if (!s)
		return false;
	atomic_store(&s->journal_waits, false);
	journal_write(j, s, false);
	session_unref(s);
	return true;
}

void journal_run(struct journal *j) {
	while (journal_work(j, -1))
		;
}

void journal_stop(struct journal *j) {
	queue_close(j->posted);
}
