/* SPDX-License-Identifier: Apache-2.0 */
/* Parsing and checking of one safetensors file. The header is untrusted: each
 * length is checked before it is used and each product before it is formed. */
#include "engine/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
	const char *name;
	enum dtype dtype;
} dtypes[] = {
	{"F32", DTYPE_F32},
	{"F16", DTYPE_F16},
	{"BF16", DTYPE_BF16},
	{"F8_E4M3", DTYPE_FP8_E4M3},
	{"I8", DTYPE_I8},
	{"U8", DTYPE_U8},
	{"I32", DTYPE_I32},
	{"I64", DTYPE_I64},
};

static int dtype_parse(const char *name, enum dtype *out) {
	for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
		if (strcmp(dtypes[i].name, name) == 0) {
			*out = dtypes[i].dtype;
			return 0;
		}
	}
	return -1;
}

/* Where one entry is being read, for messages. */
struct place {
	const char *path, *name;
	struct error *e;
};

static int shape_parse(
	const json_t *shape, struct tensor *t, size_t *bytes, const struct place *at) {
	size_t rank = json_array_size(shape), n = dtype_bytes(t->dtype);
	if (!json_is_array(shape) || rank > TENSOR_RANK_MAX)
		return error_set(at->e, -EINVAL,
			"%s: tensor '%s': shape must be a list of at most %d numbers", at->path,
			at->name, TENSOR_RANK_MAX);
	int64_t dim[TENSOR_RANK_MAX] = {0};
	for (size_t i = 0; i < rank; i++) {
		const json_t *v = json_array_get(shape, i);
		dim[i] = json_integer_value(v);
		if (!json_is_integer(v) || dim[i] < 0)
			return error_set(at->e, -EINVAL,
				"%s: tensor '%s': shape[%zu] is not a natural number", at->path,
				at->name, i);
		if (__builtin_mul_overflow(n, (size_t)dim[i], &n) || n > INT64_MAX)
			return error_set(at->e, -EINVAL,
				"%s: tensor '%s': shape has too many elements", at->path, at->name);
	}
	*t = tensor_make(NULL, t->dtype, (int)rank, dim);
	*bytes = n;
	return 0;
}

static int offsets_parse(const json_t *offsets, size_t want, size_t data_bytes, size_t *begin,
	const struct place *at) {
	const json_t *a = json_array_get(offsets, 0), *b = json_array_get(offsets, 1);
	if (json_array_size(offsets) != 2 || !json_is_integer(a) || !json_is_integer(b))
		return error_set(at->e, -EINVAL,
			"%s: tensor '%s': data_offsets must be two whole numbers", at->path,
			at->name);
	long long first = json_integer_value(a), end = json_integer_value(b);
	if (first < 0 || end < first)
		return error_set(at->e, -EINVAL,
			"%s: tensor '%s': data_offsets %lld .. %lld are out of order", at->path,
			at->name, first, end);
	if ((unsigned long long)end > data_bytes)
		return error_set(at->e, -EINVAL,
			"%s: tensor '%s' ends at byte %lld of %zu: the file is truncated or not "
			"what its header says",
			at->path, at->name, end, data_bytes);
	if ((unsigned long long)(end - first) != want)
		return error_set(at->e, -EINVAL,
			"%s: tensor '%s': shape and dtype need %zu bytes, data_offsets give %lld",
			at->path, at->name, want, end - first);
	*begin = (size_t)first;
	return 0;
}

static int entry_parse(struct safetensors_entry *out, const json_t *v, const unsigned char *data,
	size_t data_bytes, const struct place *at) {
	size_t length = strlen(at->name);
	if (length == 0 || length > SAFETENSORS_NAME_MAX)
		return error_set(at->e, -EINVAL,
			"%s: tensor name '%.40s' has %zu bytes, 1 to %d are allowed", at->path,
			at->name, length, SAFETENSORS_NAME_MAX);
	const char *dtype = json_string_value(json_object_get(v, "dtype"));
	if (!dtype || json_object_size(v) != 3)
		return error_set(at->e, -EINVAL,
			"%s: tensor '%s' must have dtype, shape and data_offsets, no more",
			at->path, at->name);
	if (dtype_parse(dtype, &out->t.dtype) < 0)
		return error_set(at->e, -EINVAL,
			"%s: tensor '%s': dtype '%.20s' is not one of F32 F16 BF16 F8_E4M3 I8 U8 "
			"I32 I64",
			at->path, at->name, dtype);
	size_t bytes = 0, begin = 0;
	int rc = shape_parse(json_object_get(v, "shape"), &out->t, &bytes, at);
	if (rc == 0)
		rc = offsets_parse(
			json_object_get(v, "data_offsets"), bytes, data_bytes, &begin, at);
	out->name = at->name;
	out->t.data = (void *)(data + begin); /* read-only; tensor views carry no const */
	return rc;
}

static int entry_order(const void *a, const void *b) {
	const struct safetensors_entry *x = a, *y = b;
	if (x->t.data != y->t.data)
		return (uintptr_t)x->t.data < (uintptr_t)y->t.data ? -1 : 1;
	size_t m = tensor_bytes(&x->t), n = tensor_bytes(&y->t); /* empty ones first */
	return m != n ? (m < n ? -1 : 1) : strcmp(x->name, y->name);
}

/* The data must be covered exactly: no overlap, no gap, no rest. */
static int coverage_check(
	const struct safetensors *s, size_t data_first, const char *path, struct error *e) {
	const unsigned char *at = s->bytes + data_first;
	for (int i = 0; i < s->count; i++) {
		const unsigned char *begin = s->entry[i].t.data;
		if (begin < at)
			return error_set(e, -EINVAL, "%s: tensors '%s' and '%s' overlap", path,
				s->entry[i > 0 ? i - 1 : 0].name, s->entry[i].name);
		if (begin > at)
			return error_set(e, -EINVAL,
				"%s: %zu bytes before tensor '%s' belong to no tensor", path,
				(size_t)(begin - at), s->entry[i].name);
		at = begin + tensor_bytes(&s->entry[i].t);
	}
	if (at != s->bytes + s->size)
		return error_set(e, -EINVAL, "%s: the last %zu bytes belong to no tensor", path,
			(size_t)(s->bytes + s->size - at));
	return 0;
}

/* A metadata value is a string that may itself hold JSON: "3", "[1, 2]". */
static int metadata_parse(
	struct safetensors *s, const json_t *m, const char *path, struct error *e) {
	const char *key;
	json_t *v;
	s->metadata = json_object();
	if (m && !json_is_object(m))
		return error_set(e, -EINVAL, "%s: __metadata__ must be an object of strings", path);
	json_object_foreach((json_t *)m, key, v) {
		if (!json_is_string(v))
			return error_set(
				e, -EINVAL, "%s: __metadata__ '%.40s' must be a string", path, key);
		json_t *parsed = json_loads(
			json_string_value(v), JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
		if (json_object_set_new(s->metadata, key,
			    parsed ? parsed : json_string(json_string_value(v))) < 0)
			return error_set(e, -ENOMEM, "%s: out of memory for metadata", path);
	}
	return 0;
}

static int header_load(
	struct safetensors *s, size_t *data_first, const char *path, struct error *e) {
	if (s->size < 8)
		return error_set(e, -EINVAL, "%s: %zu bytes, too short for a safetensors file",
			path, s->size);
	uint64_t length = 0;
	for (int i = 7; i >= 0; i--)
		length = length << 8 | s->bytes[i];
	if (length > SAFETENSORS_HEADER_MAX)
		return error_set(e, -EINVAL,
			"%s: header of %llu bytes, at most %d are allowed: not a safetensors file?",
			path, (unsigned long long)length, SAFETENSORS_HEADER_MAX);
	if (length > s->size - 8)
		return error_set(e, -EINVAL,
			"%s: header of %llu bytes does not fit the file of %zu: truncated?", path,
			(unsigned long long)length, s->size);
	json_error_t je;
	s->header =
		json_loadb((const char *)s->bytes + 8, (size_t)length, JSON_REJECT_DUPLICATES, &je);
	if (!s->header)
		return error_set(e, -EINVAL, "%s: header is not valid JSON: %.120s (byte %d)", path,
			je.text, je.position);
	if (!json_is_object(s->header))
		return error_set(e, -EINVAL, "%s: header is not a JSON object", path);
	*data_first = 8 + (size_t)length;
	return 0;
}

static int index_build(struct safetensors *s, const char *path, struct error *e) {
	size_t data_first = 0;
	int rc = header_load(s, &data_first, path, e);
	if (rc < 0)
		return rc;
	if (json_object_size(s->header) > SAFETENSORS_COUNT_MAX)
		return error_set(e, -EINVAL, "%s: %zu tensors, at most %d are allowed", path,
			json_object_size(s->header), SAFETENSORS_COUNT_MAX);
	s->entry = calloc(json_object_size(s->header) + 1, sizeof *s->entry);
	if (!s->entry)
		return error_set(e, -ENOMEM, "%s: out of memory for the index", path);
	const char *name;
	json_t *v;
	json_object_foreach(s->header, name, v) {
		if (strcmp(name, "__metadata__") == 0)
			continue;
		rc = entry_parse(&s->entry[s->count], v, s->bytes + data_first,
			s->size - data_first, &(struct place){.path = path, .name = name, .e = e});
		if (rc < 0)
			return rc;
		s->count++;
	}
	qsort(s->entry, (size_t)s->count, sizeof *s->entry, entry_order);
	rc = coverage_check(s, data_first, path, e);
	return rc < 0 ? rc : metadata_parse(s, json_object_get(s->header, "__metadata__"), path, e);
}

int safetensors_parse(
	struct safetensors *s, const void *bytes, size_t size, const char *path, struct error *e) {
	*s = (struct safetensors){.bytes = bytes, .size = size};
	int rc = index_build(s, path, e);
	if (rc < 0)
		safetensors_close(s);
	return rc;
}

int safetensors_open(struct safetensors *s, const char *path, struct error *e) {
	*s = (struct safetensors){0};
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return error_set(e, -errno, "%s: %s", path, strerror(errno));
	struct stat st;
	int rc = 0;
	void *map = MAP_FAILED;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		rc = error_set(e, -EINVAL, "%s: not a regular file", path);
	else if (st.st_size < 8) /* an empty file cannot be mapped */
		rc = error_set(e, -EINVAL, "%s: %lld bytes, too short for a safetensors file", path,
			(long long)st.st_size);
	else if ((map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) ==
		 MAP_FAILED)
		rc = error_set(e, -errno, "%s: cannot map: %s", path, strerror(errno));
	close(fd);
	if (rc < 0)
		return rc;
	*s = (struct safetensors){.bytes = map, .size = (size_t)st.st_size, .mapped = 1};
	rc = index_build(s, path, e);
	if (rc < 0)
		safetensors_close(s);
	return rc;
}

void safetensors_close(struct safetensors *s) {
	free(s->entry);
	json_decref(s->header);
	json_decref(s->metadata);
	if (s->mapped)
		munmap((void *)s->bytes, s->size);
	*s = (struct safetensors){0};
}
