/* SPDX-License-Identifier: Apache-2.0 */
/* A set of weights: the tensors of several files under one sorted index. The
 * files are checked in safetensors.c; here names meet: prefixes, duplicates
 * over files, scale planes. Random sets invent what is asked for: see
 * weights_random. Thread: any one at a time. */
#include "engine/weights.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/random_weights.h"
#include "engine/safetensors.h"
#include "engine/sha256.h"

#define HASH_EDGE_BYTES 16384

struct entry {
	const char *name;
	struct tensor t; /* data as in the file */
	void *aligned; /* owned copy when the file's is misaligned, made when asked for */
	float *scale; /* owned, [rows] */
	int file;
	bool used;
};

struct weights {
	struct safetensors *file;
	char **path;
	int files;
	struct entry *entry; /* sorted by name */
	int count;
	struct random_weights *random;
	void (*watch)(void *ctx, uint64_t bytes);
	void *watch_ctx;
	uint64_t watched; /* bytes since weights_watch */
};

static int name_order(const void *a, const void *b) {
	return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static struct entry *entry_find(const struct weights *w, const char *name) {
	return w->count ? bsearch(&(struct entry){.name = name}, w->entry, (size_t)w->count,
				  sizeof *w->entry, name_order)
			: NULL;
}

/* Name of the scale plane that belongs to `name`, in either of two spellings. */
static bool scale_name(const char *name, int spelling, char *out, size_t size) {
	size_t length = strlen(name), tail = strlen(".weight");
	if (length <= tail || strcmp(name + length - tail, ".weight") != 0)
		return false;
	int stem = (int)(length - tail);
	snprintf(out, size, spelling == 0 ? "%.*s.weight_scale" : "%.*s.scale_weight", stem, name);
	return true;
}

/* Scales as one float a row of codes; a single value serves all rows. */
static int scale_attach(struct weights *w, struct entry *q, struct error *e) {
	int64_t rows = tensor_row_count(&q->t);
	q->scale = malloc(((size_t)rows + 1) * sizeof *q->scale);
	if (!q->scale)
		return error_set(e, -ENOMEM, "%s: out of memory for scales", q->name);
	for (int64_t i = 0; i < rows; i++)
		q->scale[i] = 1;
	char name[SAFETENSORS_NAME_MAX + 16], found[96], codes[96];
	struct entry *s = NULL;
	for (int spelling = 0; spelling < 2 && !s; spelling++) {
		if (scale_name(q->name, spelling, name, sizeof name))
			s = entry_find(w, name);
	}
	if (!s)
		return 0;
	int64_t n = tensor_count(&s->t);
	if ((n != 1 && n != rows) ||
		(s->t.dtype != DTYPE_F32 && s->t.dtype != DTYPE_BF16 && s->t.dtype != DTYPE_F16))
		return error_set(e, -EINVAL,
			"%s: '%s' is %s; '%s' %s needs 1 or %lld floats (scales of a row; blocks "
			"are not supported)",
			w->path[s->file], s->name, tensor_describe(&s->t, found, sizeof found),
			q->name, tensor_describe(&q->t, codes, sizeof codes), (long long)rows);
	for (int64_t i = 0; i < rows; i++)
		q->scale[i] = weights_value(&s->t, n == 1 ? 0 : i);
	s->used = true;
	return 0;
}

static int index_merge(struct weights *w, const char *strip, struct error *e) {
	size_t total = 0, prefix = strip ? strlen(strip) : 0;
	for (int f = 0; f < w->files; f++)
		total += (size_t)w->file[f].count;
	if (total > WEIGHTS_COUNT_MAX)
		return error_set(e, -EINVAL, "%s: %zu tensors in all files, at most %d are allowed",
			w->path[0], total, WEIGHTS_COUNT_MAX);
	w->entry = calloc(total + 1, sizeof *w->entry);
	if (!w->entry)
		return error_set(e, -ENOMEM, "out of memory for %zu tensors", total);
	for (int f = 0; f < w->files; f++) {
		for (int i = 0; i < w->file[f].count; i++) {
			const struct safetensors_entry *from = &w->file[f].entry[i];
			bool cut = prefix > 0 && strncmp(from->name, strip, prefix) == 0;
			w->entry[w->count++] = (struct entry){
				.name = from->name + (cut ? prefix : 0), .t = from->t, .file = f};
		}
	}
	qsort(w->entry, (size_t)w->count, sizeof *w->entry, name_order);
	for (int i = 1; i < w->count; i++) {
		if (strcmp(w->entry[i - 1].name, w->entry[i].name) == 0)
			return error_set(e, -EINVAL, "tensor '%s' is both in %s and in %s",
				w->entry[i].name, w->path[w->entry[i - 1].file],
				w->path[w->entry[i].file]);
	}
	int rc = 0;
	for (int i = 0; i < w->count && rc == 0; i++) {
		if (w->entry[i].t.dtype == DTYPE_FP8_E4M3 || w->entry[i].t.dtype == DTYPE_I8)
			rc = scale_attach(w, &w->entry[i], e);
	}
	return rc;
}

struct weights *weights_open(
	const char *dir, const char *const *files, int count, const char *strip, struct error *e) {
	struct weights *w = calloc(1, sizeof *w);
	if (!w || count < 1 || !(w->file = calloc((size_t)count, sizeof *w->file)) ||
		!(w->path = calloc((size_t)count, sizeof *w->path))) {
		error_set(e, count < 1 ? -EINVAL : -ENOMEM,
			count < 1 ? "no weight files named" : "out of memory for weights");
		goto fail;
	}
	for (int i = 0; i < count; i++) {
		bool alone = files[i][0] == '/' || !*dir;
		if (asprintf(&w->path[i], "%s%s%s", alone ? "" : dir, alone ? "" : "/", files[i]) <
			0) {
			w->path[i] = NULL;
			error_set(e, -ENOMEM, "out of memory for a path");
			goto fail;
		}
		w->files = i + 1;
		if (safetensors_open(&w->file[i], w->path[i], e) < 0)
			goto fail;
	}
	if (index_merge(w, strip, e) < 0)
		goto fail;
	return w;
fail:
	weights_close(w);
	return NULL;
}

struct weights *weights_random(uint64_t seed) {
	struct weights *w = calloc(1, sizeof *w);
	if (w && !(w->random = random_weights_create(seed))) {
		free(w);
		return NULL;
	}
	return w;
}

void weights_close(struct weights *w) {
	if (!w)
		return;
	for (int i = 0; i < w->count; i++) {
		free(w->entry[i].aligned);
		free(w->entry[i].scale);
	}
	for (int i = 0; i < w->files; i++) {
		safetensors_close(&w->file[i]);
		free(w->path[i]);
	}
	random_weights_destroy(w->random);
	free(w->entry);
	free(w->file);
	free(w->path);
	free(w);
}

int weights_count(const struct weights *w) {
	return w->count;
}

const char *weights_name(const struct weights *w, int i) {
	return w->entry[i].name;
}

int weights_find(const struct weights *w, const char *name, struct tensor *host) {
	if (w->random)
		return random_weights_find(w->random, name, host);
	struct entry *q = entry_find(w, name);
	if (!q)
		return -ENOENT;
	size_t bytes = tensor_bytes(&q->t);
	if ((uintptr_t)q->t.data % dtype_bytes(q->t.dtype) != 0 && !q->aligned) {
		q->aligned = malloc(bytes + 1);
		if (!q->aligned)
			return -ENOMEM;
		memcpy(q->aligned, q->t.data, bytes);
	}
	*host = q->t;
	host->scale = q->scale;
	if (q->aligned)
		host->data = q->aligned;
	return 0;
}

int weights_require(struct weights *w, const char *name, int rank, const int64_t *dim,
	struct tensor *host, struct error *e) {
	if (w->random)
		return random_weights_require(w->random, name, rank, dim, host, e);
	int rc = weights_find(w, name, host);
	if (rc == -ENOENT)
		return error_set(e, rc, "%s%s: tensor '%s' is missing", w->path[0],
			w->files > 1 ? " and the other files" : "", name);
	if (rc < 0)
		return error_set(e, rc, "tensor '%s': out of memory", name);
	struct entry *q = entry_find(w, name);
	bool same = rank == 0 || rank == host->rank;
	for (int i = 0; i < rank && same; i++)
		same = dim[i] == host->dim[i];
	if (!same) {
		char want[96], have[96];
		struct tensor t = tensor_make(NULL, host->dtype, rank, dim);
		return error_set(e, -EINVAL, "%s: tensor '%s' is %s, the manifest's sizes need %s",
			w->path[q->file], name, tensor_describe(host, have, sizeof have),
			tensor_describe(&t, want, sizeof want));
	}
	q->used = true;
	w->watched += tensor_bytes(host);
	if (w->watch)
		w->watch(w->watch_ctx, w->watched);
	return 0;
}

void weights_watch(struct weights *w, void (*watch)(void *ctx, uint64_t bytes), void *ctx) {
	w->watch = watch;
	w->watch_ctx = ctx;
	w->watched = 0;
}

const char *weights_unused(const struct weights *w, int *count) {
	const char *first = NULL;
	*count = 0;
	for (int i = 0; i < w->count; i++) {
		if (w->entry[i].used)
			continue;
		++*count;
		if (!first)
			first = w->entry[i].name;
	}
	return first;
}

const json_t *weights_metadata(const struct weights *w, const char *key) {
	const json_t *v = NULL;
	for (int i = 0; i < w->files && !v; i++)
		v = json_object_get(w->file[i].metadata, key);
	return v;
}

void weights_hash(const struct weights *w, char hex[65]) {
	hex[0] = 0;
	if (w->random)
		return;
	struct sha256 h;
	sha256_init(&h);
	for (int i = 0; i < w->count; i++) {
		const struct tensor *t = &w->entry[i].t;
		char shape[96];
		size_t bytes = tensor_bytes(t),
		       edge = bytes < HASH_EDGE_BYTES ? bytes : HASH_EDGE_BYTES;
		sha256_add(&h, w->entry[i].name, strlen(w->entry[i].name) + 1);
		tensor_describe(t, shape, sizeof shape);
		sha256_add(&h, shape, strlen(shape) + 1);
		sha256_add(&h, t->data, edge);
		sha256_add(&h, (const char *)t->data + bytes - edge, edge);
	}
	sha256_hex(&h, hex);
}

static float f32_of_bits(uint32_t bits) {
	float f;
	memcpy(&f, &bits, sizeof f);
	return f;
}

static float f32_of_f16(uint16_t h) {
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
	if (exponent == 31)
		return f32_of_bits(sign | 0x7f800000 | mantissa << 13);
	if (exponent > 0)
		return f32_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
	float f = (float)mantissa * 0x1p-24f; /* subnormal */
	return sign ? -f : f;
}

/* E4M3 without infinities: 0x7f and 0xff are NaN, the largest is 448. */
static float f32_of_fp8(uint8_t b) {
	uint32_t sign = (uint32_t)(b & 0x80) << 24, exponent = b >> 3 & 15, mantissa = b & 7;
	if ((b & 0x7f) == 0x7f)
		return f32_of_bits(sign | 0x7fc00000);
	if (exponent > 0)
		return f32_of_bits(sign | (exponent + 120) << 23 | mantissa << 20);
	float f = (float)mantissa * 0x1p-9f;
	return sign ? -f : f;
}

static float code_value(const struct tensor *t, int64_t i) {
	const unsigned char *p = (const unsigned char *)t->data + (size_t)i * dtype_bytes(t->dtype);
	union {
		float f32;
		uint16_t u16;
		int32_t i32;
		int64_t i64;
	} v = {0};
	memcpy(&v, p, dtype_bytes(t->dtype));
	switch (t->dtype) {
	case DTYPE_F32:
		return v.f32;
	case DTYPE_F16:
		return f32_of_f16(v.u16);
	case DTYPE_BF16:
		return f32_of_bits((uint32_t)v.u16 << 16);
	case DTYPE_FP8_E4M3:
		return f32_of_fp8(*p);
	case DTYPE_I8:
		return (float)(int8_t)*p;
	case DTYPE_U8:
		return *p;
	case DTYPE_I32:
		return (float)v.i32;
	case DTYPE_I64:
		return (float)v.i64;
	case DTYPE_COUNT:
		break;
	}
	return 0;
}

float weights_value(const struct tensor *host, int64_t i) {
	float v = code_value(host, i);
	return host->scale ? v * host->scale[i / tensor_cols(host)] : v;
}

void weights_to_f32(const struct tensor *host, float *dst) {
	int64_t n = tensor_count(host);
	if (host->dtype == DTYPE_F32) {
		memcpy(dst, host->data, (size_t)n * sizeof *dst);
		return;
	}
	for (int64_t i = 0; i < n; i++)
		dst[i] = weights_value(host, i);
}

int weights_upload(struct weights *w, const char *name, int rank, const int64_t *dim,
	struct backend *be, struct arena *a, struct tensor *out, struct error *e) {
	struct tensor host;
	int rc = weights_require(w, name, rank, dim, &host, e);
	if (rc < 0)
		return rc;
	*out = arena_tensor(a, DTYPE_F32, host.rank, host.dim);
	if (!out->data)
		return 0; /* measuring, or full: arena_failed tells */
	float *f32 = malloc(tensor_bytes(out) + 1);
	if (!f32)
		return error_set(e, -ENOMEM, "tensor '%s': out of memory for %zu bytes", name,
			tensor_bytes(out));
	weights_to_f32(&host, f32);
	backend_upload(be, out->data, f32, tensor_bytes(out));
	free(f32);
	return 0;
}
