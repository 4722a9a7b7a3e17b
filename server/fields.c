/* SPDX-License-Identifier: Apache-2.0 */
/* See fields.h. Depth is counted on the text, before the JSON library recurses. */
#include "server/fields.h"
#include <string.h>

/* Deepest nesting of brackets outside strings; stops counting at limit + 1. */
static int nesting(const char *text, size_t size, int limit) {
	int depth = 0, deepest = 0;
	bool quoted = false;
	for (size_t i = 0; i < size && deepest <= limit; i++) {
		char c = text[i];
		if (quoted) {
			if (c == '\\')
				i++;
			else if (c == '"')
				quoted = false;
		} else if (c == '"') {
			quoted = true;
		} else if (c == '{' || c == '[') {
			if (++depth > deepest)
				deepest = depth;
		} else if (c == '}' || c == ']') {
			depth--;
		}
	}
	return deepest;
}

json_t *fields_read(const char *text, size_t size, struct problem *p) {
	if (nesting(text, size, JSON_DEPTH_MAX) > JSON_DEPTH_MAX) {
		problem_set(p, PROBLEM_INVALID_JSON, "",
			"The JSON is nested deeper than %d levels.", JSON_DEPTH_MAX);
		return NULL;
	}
	json_error_t e;
	json_t *value = json_loadb(text, size, JSON_REJECT_DUPLICATES, &e);
	if (!value) {
		enum json_error_code code = json_error_code(&e);
		bool utf8 = code == json_error_invalid_utf8;
		/* The library quotes the input behind " near "; our answer does not. */
		char *near = strstr(e.text, " near ");
		if (near)
			*near = 0;
		problem_set(p, utf8 ? PROBLEM_INVALID_UTF8 : PROBLEM_INVALID_JSON, "",
			"The text is not valid JSON: %s (line %d, column %d).",
			code == json_error_null_character ? "a string holds NUL"
			: utf8                            ? "it is not UTF-8"
							  : e.text,
			e.line, e.column);
		return NULL;
	}
	if (!json_is_object(value)) {
		json_decref(value);
		problem_set(p, PROBLEM_INVALID_JSON, "", "The JSON must be an object: {...}.");
		return NULL;
	}
	return value;
}

static const struct field *find_row(const struct fields *t, const char *name) {
	for (size_t i = 0; i < t->count; i++)
		if (!strcmp(t->row[i].name, name))
			return &t->row[i];
	return NULL;
}

static bool in_choices(const char *choices, const char *word) {
	size_t n = strlen(word);
	for (const char *at = choices; *at;) {
		size_t size = strcspn(at, " ");
		if (size == n && !memcmp(at, word, n))
			return true;
		at += size + strspn(at + size, " ");
	}
	return false;
}

static int check_text(const struct field *f, const char *path, const json_t *v, struct problem *p) {
	if (!json_is_string(v))
		return problem_set(p, PROBLEM_INVALID_FIELD, path, "%s must be a string.", path);
	int64_t n = (int64_t)json_string_length(v);
	if (f->max && n > f->max)
		return problem_set(p, PROBLEM_INVALID_FIELD, path,
			"%s has %lld bytes; at most %lld are allowed.", path, (long long)n,
			(long long)f->max);
	if (n < f->min)
		return problem_set(p, PROBLEM_INVALID_FIELD, path, "%s must not be empty.", path);
	return 0;
}

static int check_integer(
	const struct field *f, const char *path, const json_t *v, struct problem *p) {
	if (!json_is_integer(v) || json_integer_value(v) < f->min || json_integer_value(v) > f->max)
		return problem_set(p, PROBLEM_INVALID_FIELD, path,
			"%s must be a whole number from %lld to %lld.", path, (long long)f->min,
			(long long)f->max);
	return 0;
}

static int check_labels(
	const struct field *f, const char *path, const json_t *v, struct problem *p) {
	if (!json_is_object(v) || (int64_t)json_object_size(v) > f->max)
		return problem_set(p, PROBLEM_INVALID_FIELD, path,
			"%s must be an object of at most %lld strings.", path, (long long)f->max);
	const char *key;
	json_t *item;
	json_object_foreach((json_t *)(uintptr_t)v, key,
		item) if (!json_is_string(item) || json_string_length(item) > 256 ||
			  strlen(key) > 64) return problem_set(p, PROBLEM_INVALID_FIELD, path,
		"%s takes names of at most 64 bytes and strings of at most 256.", path);
	return 0;
}

static int check_list(const struct field *f, const char *path, const json_t *v, struct problem *p) {
	bool ok = json_is_array(v) && (int64_t)json_array_size(v) <= f->max;
	for (size_t i = 0; ok && i < json_array_size(v); i++)
		ok = json_is_string(json_array_get(v, i));
	return ok ? 0
		  : problem_set(p, PROBLEM_INVALID_FIELD, path,
			    "%s must be a list of at most %lld strings.", path, (long long)f->max);
}

static int check_at(const char *path, const json_t *v, struct problem *p) {
	if (json_is_string(v) && !strcmp(json_string_value(v), "next"))
		return 0;
	const json_t *chunk = json_object_get(v, "chunk"),
		     *time = json_object_get(v, "media_time_us");
	const json_t *one = chunk ? chunk : time;
	if (json_object_size(v) == 1 && json_is_integer(one) && json_integer_value(one) >= 0)
		return 0;
	return problem_set(p, PROBLEM_INVALID_FIELD, path,
		"%s must be \"next\", {\"chunk\": N} or {\"media_time_us\": T}.", path);
}

static int check_object(
	const json_t *object, const struct fields *table, const char *prefix, struct problem *p);

static int check_value(
	const struct field *f, const char *path, const json_t *v, struct problem *p) {
	switch (f->type) {
	case FIELD_TEXT:
		return check_text(f, path, v, p);
	case FIELD_INTEGER:
		return check_integer(f, path, v, p);
	case FIELD_BOOLEAN:
		return json_is_boolean(v) ? 0
					  : problem_set(p, PROBLEM_INVALID_FIELD, path,
						    "%s must be true or false.", path);
	case FIELD_CHOICE:
		if (json_is_string(v) && in_choices(f->choices, json_string_value(v)))
			return 0;
		return problem_set(
			p, PROBLEM_INVALID_FIELD, path, "%s must be one of: %s.", path, f->choices);
	case FIELD_OBJECT:
		if (!json_is_object(v))
			return problem_set(
				p, PROBLEM_INVALID_FIELD, path, "%s must be an object.", path);
		return check_object(v, f->fields, path, p);
	case FIELD_LABELS:
		return check_labels(f, path, v, p);
	case FIELD_NAME:
		if (json_is_integer(v))
			return 0;
		return check_text(f, path, v, p);
	case FIELD_LIST:
		return check_list(f, path, v, p);
	case FIELD_AT:
		return check_at(path, v, p);
	case FIELD_REFUSED:
		break;
	}
	return problem_set(p, PROBLEM_UNSUPPORTED_FIELD, path, "%s", f->help);
}

static void join_path(char *out, size_t size, const char *prefix, const char *name) {
	/* Names come from outside: what does not fit is cut. */
	size_t n = 0;
	if (*prefix) {
		n = strnlen(prefix, size - 2);
		memcpy(out, prefix, n);
		out[n++] = '.';
	}
	size_t more = strnlen(name, size - 1 - n);
	while (more > 0 && more < strlen(name) && ((unsigned char)name[more] & 0xc0) == 0x80)
		more--; /* never in the middle of a character */
	memcpy(out + n, name, more);
	out[n + more] = 0;
}

/* The accepted names, "a, b, c" or "none"; what does not fit is left out. */
static void list_names(char *out, size_t size, const struct fields *table) {
	size_t n = 0;
	snprintf(out, size, "none");
	for (size_t i = 0; i < table->count && n < size; i++)
		if (table->row[i].type != FIELD_REFUSED)
			n += (size_t)snprintf(out + n, size - n, "%s%s", n ? ", " : "", table->row[i].name);
}

static int check_object(
	const json_t *object, const struct fields *table, const char *prefix, struct problem *p) {
	char path[64], names[300];
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)(uintptr_t)object, key, value) {
		const struct field *f = find_row(table, key);
		join_path(path, sizeof path, prefix, key);
		if (!f) {
			list_names(names, sizeof names, table);
			return problem_set(p, PROBLEM_UNSUPPORTED_FIELD, path,
				"There is no field \"%s\" here; known: %s.", path, names);
		}
		if (check_value(f, path, value, p))
			return -1;
	}
	for (size_t i = 0; i < table->count; i++) {
		const struct field *f = &table->row[i];
		if (!f->required || json_object_get(object, f->name))
			continue;
		join_path(path, sizeof path, prefix, f->name);
		return problem_set(p, PROBLEM_MISSING_FIELD, path, "%s is missing.", path);
	}
	return 0;
}

int fields_check(const json_t *object, const struct fields *table, struct problem *p) {
	return check_object(object, table, "", p);
}

static json_t *schema_of(const struct field *f) {
	json_t *s = NULL;
	switch (f->type) {
	case FIELD_TEXT:
		s = json_pack("{s:s}", "type", "string");
		break;
	case FIELD_INTEGER:
		s = json_pack("{s:s, s:I, s:I}", "type", "integer", "minimum", (json_int_t)f->min,
			"maximum", (json_int_t)f->max);
		break;
	case FIELD_BOOLEAN:
		s = json_pack("{s:s}", "type", "boolean");
		break;
	case FIELD_CHOICE:
		s = json_pack("{s:s, s:[]}", "type", "string", "enum");
		for (const char *at = f->choices; *at;) {
			size_t n = strcspn(at, " ");
			json_array_append_new(json_object_get(s, "enum"), json_stringn(at, n));
			at += n + strspn(at + n, " ");
		}
		break;
	case FIELD_OBJECT:
		s = fields_schema(f->fields);
		break;
	case FIELD_LABELS:
		s = json_pack("{s:s, s:I, s:{s:s}}", "type", "object", "maxProperties",
			(json_int_t)f->max, "additionalProperties", "type", "string");
		break;
	case FIELD_NAME:
		s = json_pack("{s:[ss]}", "type", "string", "integer");
		break;
	case FIELD_LIST:
		s = json_pack("{s:s, s:I, s:{s:s}}", "type", "array", "maxItems",
			(json_int_t)f->max, "items", "type", "string");
		break;
	case FIELD_AT:
		s = json_pack("{s:[{s:s}, {s:s, s:{s:{s:s}}}, {s:s, s:{s:{s:s}}}]}", "oneOf",
			"const", "next", "type", "object", "properties", "chunk", "type", "integer",
			"type", "object", "properties", "media_time_us", "type", "integer");
		break;
	case FIELD_REFUSED:
		break;
	}
	if (s && f->help)
		json_object_set_new(s, "description", json_string(f->help));
	return s;
}

json_t *fields_schema(const struct fields *table) {
	json_t *properties = json_object(), *required = json_array();
	for (size_t i = 0; i < table->count; i++) {
		const struct field *f = &table->row[i];
		if (f->type == FIELD_REFUSED)
			continue;
		json_object_set_new(properties, f->name, schema_of(f));
		if (f->required)
			json_array_append_new(required, json_string(f->name));
	}
	json_t *schema = json_pack("{s:s, s:o, s:b}", "type", "object", "properties", properties,
		"additionalProperties", 0);
	if (json_array_size(required))
		json_object_set_new(schema, "required", required);
	else
		json_decref(required);
	return schema;
}

int64_t fields_integer(const json_t *object, const char *name, int64_t preset) {
	const json_t *v = json_object_get(object, name);
	return v ? (int64_t)json_integer_value(v) : preset;
}

const char *fields_text(const json_t *object, const char *name) {
	return json_string_value(json_object_get(object, name));
}

bool fields_boolean(const json_t *object, const char *name, bool preset) {
	const json_t *v = json_object_get(object, name);
	return v ? json_is_true(v) : preset;
}
