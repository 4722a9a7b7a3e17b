/* SPDX-License-Identifier: Apache-2.0 */
/* Makes a backend by name and forwards the calls of backend.h to it. Holds the
 * latched failure, which every backend has alike. Thread: the owner's. */
#include "kernels/backend.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "kernels/backend_impl.h"

#define DEVICE_MAX 63

#if !HAVE_CUDA
struct backend *cuda_backend_create(const struct backend_config *c, int device, struct error *e) {
	(void)c;
	(void)device;
	error_set(e, -ENODEV,
		"this build has no CUDA: use backend cpu, or install a CUDA toolkit and build with "
		"-Dcuda=enabled");
	return NULL;
}
#endif

static void log_line(const struct backend_config *c, const char *line) {
	if (c->log)
		c->log(c->log_ctx, line);
}

static struct backend *auto_create(const struct backend_config *c, int device, struct error *e) {
	struct error why = {0};
	struct backend *be = cuda_backend_create(c, device, &why);
	if (be)
		return be;
	char line[sizeof why.text + 64];
	snprintf(line, sizeof line, "backend auto: taking the CPU, because %s", why.text);
	log_line(c, line);
	return cpu_backend_create(c, 0, e);
}

static const struct {
	const char *name;
	struct backend *(*create)(const struct backend_config *c, int device, struct error *e);
	int numbered; /* NAME:N is allowed */
} backends[] = {
	{"cpu", cpu_backend_create, 0},
	{"cuda", cuda_backend_create, 1},
	{"auto", auto_create, 0},
};

/* 0 and *device, or -EINVAL: what follows the name is not ":N" in range. */
static int parse_device(const char *rest, int numbered, int *device) {
	*device = 0;
	if (*rest == '\0')
		return 0;
	if (!numbered || *rest != ':' || rest[1] < '0' || rest[1] > '9')
		return -EINVAL;
	char *end;
	long n = strtol(rest + 1, &end, 10);
	if (*end || n > DEVICE_MAX)
		return -EINVAL;
	*device = (int)n;
	return 0;
}

/* A hole in the table would be a crash much later. Ops are plain pointers, so
 * the table is walked as an array of them. */
static int table_complete(const struct ops *ops) {
	typedef void (*op)(void);
	op entry;
	for (size_t i = 0; i < sizeof *ops / sizeof entry; i++) {
		memcpy(&entry, (const char *)ops + i * sizeof entry, sizeof entry);
		if (!entry)
			return 0;
	}
	return 1;
}

struct backend *backend_create(const struct backend_config *c, struct error *e) {
	const char *spec = c->spec ? c->spec : "auto";
	for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
		size_t n = strlen(backends[i].name);
		int device;
		if (strncmp(spec, backends[i].name, n) != 0 ||
			parse_device(spec + n, backends[i].numbered, &device) < 0)
			continue;
		struct backend *be = backends[i].create(c, device, e);
		if (!be)
			return NULL;
		if (!table_complete(&be->ops)) {
			error_set(e, -ENOSYS, "backend \"%s\": its op table has holes", spec);
			backend_destroy(be);
			return NULL;
		}
		struct backend_info info = backend_info(be);
		log_line(c, info.name);
		return be;
	}
	error_set(e, -EINVAL,
		"backend \"%.40s\": unknown, use cpu, cuda, cuda:N (N up to %d) or auto", spec,
		DEVICE_MAX);
	return NULL;
}

void backend_fail(struct backend *be, int code, const char *format, ...) {
	char text[sizeof be->latched.text];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	error_set(&be->root->latched, code, "%s", text);
}

int backend_error(const struct backend *be, struct error *e) {
	const struct error *latched = &be->root->latched;
	return latched->code ? error_set(e, latched->code, "%s", latched->text) : 0;
}

int backend_sticky(const struct backend *be) {
	return be->root->sticky;
}

void backend_clear(struct backend *be) {
	if (!be->root->sticky)
		memset(&be->root->latched, 0, sizeof be->root->latched);
}

const struct ops *backend_ops(const struct backend *be) {
	return &be->ops;
}

void backend_destroy(struct backend *be) {
	if (be)
		be->driver->destroy(be);
}

struct backend_info backend_info(const struct backend *be) {
	return be->driver->info(be);
}

void *backend_alloc(struct backend *be, size_t bytes, struct error *e) {
	return be->driver->alloc(be, bytes, e);
}

void *backend_alloc_pinned(struct backend *be, size_t bytes, struct error *e) {
	return be->driver->alloc_pinned(be, bytes, e);
}

void backend_free(struct backend *be, void *p) {
	if (p)
		be->driver->free(be, p);
}

size_t backend_allocated(const struct backend *be) {
	return be->driver->allocated(be);
}

void backend_upload(struct backend *be, void *dst, const void *src, size_t bytes) {
	be->driver->upload(be, dst, src, bytes);
}

void backend_download(struct backend *be, void *dst, const void *src, size_t bytes) {
	be->driver->download(be, dst, src, bytes);
}

void backend_download_async(struct backend *be, void *dst, const void *src, size_t bytes) {
	be->driver->download_async(be, dst, src, bytes);
}

void backend_copy(struct backend *be, void *dst, const void *src, size_t bytes) {
	be->driver->copy(be, dst, src, bytes);
}

void backend_zero(struct backend *be, void *dst, size_t bytes) {
	be->driver->zero(be, dst, bytes);
}

uint64_t backend_mark(struct backend *be) {
	return be->driver->mark(be);
}

int backend_reached(struct backend *be, uint64_t mark) {
	return be->driver->reached(be, mark);
}

int backend_wait(struct backend *be, uint64_t mark, struct error *e) {
	return be->driver->wait(be, mark, e);
}

int backend_sync(struct backend *be, struct error *e) {
	return be->driver->sync(be, e);
}

uint64_t backend_allocations(const struct backend *be) {
	return be->driver->allocations(be);
}

int64_t backend_elapsed_us(struct backend *be, uint64_t from, uint64_t to) {
	return be->driver->elapsed_us(be, from, to);
}

struct backend *backend_lane(struct backend *be) {
	return be->driver->lane(be);
}

void backend_order(struct backend *be, struct backend *after, uint64_t mark) {
	be->driver->order(be, after, mark);
}

int backend_replay(struct backend *be, const void *key, size_t bytes) {
	return be->driver->replay(be, key, bytes);
}

int backend_record_end(struct backend *be) {
	return be->driver->record_end(be);
}

size_t backend_recording_bytes(const struct backend *be, int keys) {
	return be->driver->recording_bytes(be, keys);
}

struct backend_recordings backend_recordings(const struct backend *be) {
	return be->driver->recordings(be);
}
