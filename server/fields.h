/* SPDX-License-Identifier: Apache-2.0 */
/* JSON from outside: read strictly, then held against a table of fields. The
 * same table describes the object in /openapi.json and /asyncapi.json, so what
 * is documented is what is accepted. Pure; any thread. */
#ifndef SERVER_FIELDS_H
#define SERVER_FIELDS_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "server/problem.h"
#define JSON_DEPTH_MAX 8

enum field_type {
	FIELD_TEXT, /* string of min..max bytes (max 0: no bound here) */
	FIELD_INTEGER, /* min..max */
	FIELD_BOOLEAN,
	FIELD_CHOICE, /* one of choices */
	FIELD_OBJECT, /* of the rows in fields */
	FIELD_LABELS, /* object of strings, at most max of them */
	FIELD_NAME, /* string of at most max bytes, or an integer; given back as it came */
	FIELD_LIST, /* of strings, at most max */
	FIELD_AT, /* "next", {"chunk": N} or {"media_time_us": T} */
	FIELD_REFUSED /* known, but not supported: help says why */
};
struct field {
	const char *name;
	enum field_type type;
	bool required;
	int64_t min, max;
	const char *choices; /* "switch recache cut" */
	const struct fields *fields;
	const char *help; /* one sentence */
};
struct fields {
	const struct field *row;
	size_t count;
};
#define FIELDS(table)                                                                              \
	{ (table), sizeof(table) / sizeof *(table) }
/* Parses size bytes as one JSON object: valid UTF-8, no duplicate keys, no NUL,
 * at most JSON_DEPTH_MAX deep. NULL and *p on failure; new reference. */
json_t *fields_read(const char *text, size_t size, struct problem *p);
/* Object against table: unknown, missing, wrongly typed, out of range or refused
 * fields give -1 and *p. */
int fields_check(const json_t *object, const struct fields *table, struct problem *p);
/* JSON Schema of the table; new reference. */
json_t *fields_schema(const struct fields *table);
/* After fields_check: value of an integer field, or preset when absent. */
int64_t fields_integer(const json_t *object, const char *name, int64_t preset);
const char *fields_text(const json_t *object, const char *name); /* NULL: absent; borrowed */
bool fields_boolean(const json_t *object, const char *name, bool preset);
#endif
