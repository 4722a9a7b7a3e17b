/* SPDX-License-Identifier: Apache-2.0 */
/* The table behind conf.h, shared by the files named conf*. Constant. */
#ifndef SERVER_CONF_TABLE_H
#define SERVER_CONF_TABLE_H
#include <stddef.h>
#include "server/conf.h"

enum conf_type { CONF_INT, CONF_BOOL, CONF_STRING };
struct conf_key {
	const char *section, *name;
	enum conf_type type;
	bool reloadable;
	size_t offset; /* into struct conf */
	long min, max; /* CONF_INT */
	const char *preset; /* default, as it would be written */
	const char *choices; /* "a|b|c", or NULL: any text */
	const char *help;
};
extern const struct conf_key conf_keys[];
extern const int conf_key_count;

/* --name with dashes, LIGHTFORCED_SECTION_NAME. */
#define CONF_NAME_BYTES 64
void conf_flag(const struct conf_key *k, char out[CONF_NAME_BYTES]);
void conf_variable(const struct conf_key *k, char out[CONF_NAME_BYTES]);
/* Index of section and name (section NULL: any), -1 when there is none. */
int conf_find(const char *section, const char *name);
/* The name most like the wrong one: a key of `section` (NULL: of any). */
const struct conf_key *conf_nearest(const char *section, const char *name);

/* Keys that were set: where from. One per key, "" for the default. */
#define CONF_ORIGIN_BYTES 300
struct conf_private {
	int argc;
	char **argv;
	char *retired[256]; /* strings that readers may still hold */
	int retired_count;
	char origin[][CONF_ORIGIN_BYTES];
};
conf_int *conf_int_at(const struct conf *c, const struct conf_key *k);
conf_string *conf_string_at(const struct conf *c, const struct conf_key *k);
/* Whether it can be printed as JSON: UTF-8. */
bool conf_is_text(const char *bytes);
/* The value as it would be written; buffer for numbers. */
const char *conf_value(const struct conf *c, const struct conf_key *k, char buffer[16]);
#endif
