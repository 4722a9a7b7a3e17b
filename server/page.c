/* SPDX-License-Identifier: Apache-2.0 */
/* Files of the page, from one folder opened at start. A path is accepted by what
 * it may hold (no dot first in a segment, plain characters), opened below that
 * folder only, and never through a symbolic link. Thread: any. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "server/api_parts.h"

static const struct {
	const char *suffix, *type;
} content_types[] = {
	{".html", "text/html; charset=utf-8"},
	{".css", "text/css; charset=utf-8"},
	{".js", "text/javascript; charset=utf-8"},
	{".mjs", "text/javascript; charset=utf-8"},
	{".json", "application/json"},
	{".webmanifest", "application/manifest+json"},
	{".svg", "image/svg+xml"},
	{".png", "image/png"},
	{".webp", "image/webp"},
	{".jpg", "image/jpeg"},
	{".ico", "image/x-icon"},
	{".woff2", "font/woff2"},
	{".txt", "text/plain; charset=utf-8"},
};

static const char *content_type(const char *path) {
	size_t n = strlen(path);
	for (size_t i = 0; i < sizeof content_types / sizeof *content_types; i++) {
		size_t m = strlen(content_types[i].suffix);
		if (n > m && !strcmp(path + n - m, content_types[i].suffix))
			return content_types[i].type;
	}
	return NULL;
}

static bool plain_path(const char *path) {
	bool segment_begins = true;
	for (const char *at = path; *at; at++) {
		char c = *at;
		bool letter = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
			      (c >= 'A' && c <= 'Z') || c == '_' || c == '-';
		bool inner = c == '.' || c == '/';
		if (!letter && (!inner || segment_begins))
			return false;
		segment_begins = c == '/';
	}
	return !segment_begins;
}

/* Opens path below root one segment at a time, following no link. */
static int open_below(int root, const char *path) {
	int at = root;
	for (;;) {
		const char *slash = strchr(path, '/');
		char name[96];
		size_t n = slash ? (size_t)(slash - path) : strlen(path);
		if (n >= sizeof name)
			n = sizeof name - 1;
		memcpy(name, path, n);
		name[n] = 0;
		int flags = slash ? O_PATH | O_DIRECTORY : O_RDONLY | O_NONBLOCK;
		int next = openat(at, name, flags | O_NOFOLLOW | O_CLOEXEC);
		if (at != root)
			close(at);
		if (next < 0 || !slash)
			return next;
		at = next;
		path = slash + 1;
	}
}

static int answer_file(struct call *c, const char *path, struct problem *p) {
	struct response *res = c->res;
	struct stat st;
	const char *type = content_type(path);
	int fd = type && plain_path(path) && c->api->page_root >= 0
			 ? open_below(c->api->page_root, path)
			 : -1;
	if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		if (fd >= 0)
			close(fd);
		return problem_set(p, PROBLEM_NOT_FOUND, "", "There is nothing at this path.");
	}
	snprintf(res->etag, sizeof res->etag, "\"%llx-%llx\"",
		(unsigned long long)st.st_mtim.tv_sec * 1000000000ull +
			(unsigned long long)st.st_mtim.tv_nsec,
		(unsigned long long)st.st_size);
	res->cacheable = true;
	res->page = !strcmp(content_type(path), content_types[0].type);
	if (c->req->if_none_match && strstr(c->req->if_none_match, res->etag)) {
		close(fd);
		res->status = 304;
		return 0;
	}
	res->fd = fd;
	res->fd_bytes = (size_t)st.st_size;
	res->content_type = type;
	return 0;
}

int page_index(struct call *c, struct problem *p) {
	return answer_file(c, "index.html", p);
}

int page_file(struct call *c, struct problem *p) {
	return answer_file(c, c->part, p);
}
