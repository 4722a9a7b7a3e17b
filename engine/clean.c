/* SPDX-License-Identifier: Apache-2.0 */
/* Prompts made plain, over an array of code points: each pass reads the array
 * and writes one that is not longer, or a copy that may be. Follows ftfy's
 * defaults and Wan's two unescapes; see clean.h for what is left out. utf8proc
 * knows the composed forms. Thread: any. */
#include "engine/clean.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/entity.h"

struct text {
	int32_t *c; /* owned */
	int n;
};

int utf8_check(const char *text, struct error *e) {
	const utf8proc_uint8_t *p = (const utf8proc_uint8_t *)text;
	utf8proc_ssize_t size = (utf8proc_ssize_t)strlen(text), at = 0;
	while (at < size) {
		utf8proc_int32_t c;
		utf8proc_ssize_t n = utf8proc_iterate(p + at, size - at, &c);
		if (n < 1)
			return error_set(e, -EINVAL,
				"the text is not UTF-8: byte %lld (0x%02x) is wrong", (long long)at,
				p[at]);
		at += n;
	}
	return 0;
}

/* Decodes valid UTF-8. */
static int text_decode(struct text *t, const char *utf8, struct error *e) {
	size_t size = strlen(utf8), at = 0;
	t->n = 0;
	t->c = malloc((size + 1) * sizeof *t->c);
	if (!t->c)
		return error_set(e, -ENOMEM, "out of memory for a text of %zu bytes", size);
	while (at < size)
		at += (size_t)utf8proc_iterate((const utf8proc_uint8_t *)utf8 + at,
			(utf8proc_ssize_t)(size - at), &t->c[t->n++]);
	return 0;
}

static char *text_encode_utf8(const struct text *t) {
	utf8proc_uint8_t *out = malloc((size_t)t->n * 4 + 1);
	size_t at = 0;
	for (int i = 0; out && i < t->n; i++)
		at += (size_t)utf8proc_encode_char(t->c[i], out + at);
	if (out)
		out[at] = 0;
	return (char *)out;
}

/* ---- passes ---------------------------------------------------------------- */

static void unescape(struct text *t) {
	int to = 0;
	for (int i = 0; i < t->n;) {
		int32_t c = 0;
		int length = entity_read(t->c + i, t->n - i, &c);
		if (length == 0 || c != ENTITY_NOTHING)
			t->c[to++] = length > 0 ? c : t->c[i];
		i += length > 0 ? length : 1;
	}
	t->n = to;
}

/* Terminal colours: ESC [ digits and semicolons, one letter. 0: none here. */
static int escape_length(const int32_t *c, int n) {
	int at = 2;
	if (n < 3 || c[0] != 0x1b || c[1] != '[')
		return 0;
	while (at < n && ((c[at] >= '0' && c[at] <= '9') || c[at] == ';'))
		at++;
	return at < n && ((c[at] | 0x20) >= 'a' && (c[at] | 0x20) <= 'z') ? at + 1 : 0;
}

/* Ranges of code points without a meaning in running text. */
static const struct {
	int32_t first, last;
} controls[] = {{0, 8}, {0xb, 0xb}, {0xe, 0x1f}, {0x7f, 0x7f}, {0x206a, 0x206f}, {0xfeff, 0xfeff},
	{0xfff9, 0xfffc}};

static void controls_remove(struct text *t) {
	int to = 0;
	for (int i = 0; i < t->n;) {
		int skip = escape_length(t->c + i, t->n - i);
		for (size_t r = 0; skip == 0 && r < sizeof controls / sizeof *controls; r++)
			skip = t->c[i] >= controls[r].first && t->c[i] <= controls[r].last;
		if (skip == 0)
			t->c[to++] = t->c[i++];
		else
			i += skip;
	}
	t->n = to;
}

/* Characters written as up to three plainer ones. */
static const struct {
	int32_t from, to[3];
} plainer[] = {
	{0x2bc, {'\''}},
	{0x2018, {'\''}},
	{0x2019, {'\''}},
	{0x201a, {'\''}},
	{0x201b, {'\''}},
	{0x201c, {'"'}},
	{0x201d, {'"'}},
	{0x201e, {'"'}},
	{0x201f, {'"'}},
	{0x132, {'I', 'J'}},
	{0x133, {'i', 'j'}},
	{0x149, {'\'', 'n'}},
	{0x1c4, {'D', 0x17d}},
	{0x1c5, {'D', 0x17e}},
	{0x1c6, {'d', 0x17e}},
	{0x1c7, {'L', 'J'}},
	{0x1c8, {'L', 'j'}},
	{0x1c9, {'l', 'j'}},
	{0x1ca, {'N', 'J'}},
	{0x1cb, {'N', 'j'}},
	{0x1cc, {'n', 'j'}},
	{0x1f1, {'D', 'Z'}},
	{0x1f2, {'D', 'z'}},
	{0x1f3, {'d', 'z'}},
	{0x3000, {' '}},
	{0xfb00, {'f', 'f'}},
	{0xfb01, {'f', 'i'}},
	{0xfb02, {'f', 'l'}},
	{0xfb03, {'f', 'f', 'i'}},
	{0xfb04, {'f', 'f', 'l'}},
	{0xfb05, {0x17f, 't'}},
	{0xfb06, {'s', 't'}},
};

/* The plain form of c into out[3]; returns how many. */
static int plain_form(int32_t c, int32_t out[3]) {
	c = entity_windows_1252(c);
	for (size_t i = 0; i < sizeof plainer / sizeof *plainer; i++) {
		if (plainer[i].from != c)
			continue;
		int n = 0;
		for (; n < 3 && plainer[i].to[n]; n++)
			out[n] = plainer[i].to[n];
		return n;
	}
	out[0] = c;
	if (c < 0xff01 || c > 0xffef) /* full-width and half-width forms */
		return 1;
	utf8proc_int32_t wide[4];
	int last = 0;
	utf8proc_ssize_t n =
		utf8proc_decompose_char(c, wide, 4, UTF8PROC_COMPAT | UTF8PROC_COMPOSE, &last);
	if (n == 1)
		out[0] = wide[0];
	return 1;
}

static int plain_forms(struct text *t, struct error *e) {
	int32_t *out = malloc(((size_t)t->n * 3 + 1) * sizeof *out);
	if (!out)
		return error_set(e, -ENOMEM, "out of memory for a text");
	int n = 0;
	for (int i = 0; i < t->n; i++)
		n += plain_form(t->c[i], out + n);
	free(t->c);
	*t = (struct text){.c = out, .n = n};
	return 0;
}

/* What \s means in the reference: Unicode's white space and four separators. */
static bool is_space(int32_t c) {
	return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
	       c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
	       c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Runs of white space to one blank; none at the ends. */
static void spaces_collapse(struct text *t) {
	int to = 0;
	for (int i = 0; i < t->n; i++) {
		if (!is_space(t->c[i]))
			t->c[to++] = t->c[i];
		else if (to > 0 && t->c[to - 1] != ' ')
			t->c[to++] = ' ';
	}
	t->n = to > 0 && t->c[to - 1] == ' ' ? to - 1 : to;
}

static char *composed(const struct text *t) {
	char *utf8 = text_encode_utf8(t);
	utf8proc_uint8_t *out = NULL;
	if (utf8)
		utf8proc_map((const utf8proc_uint8_t *)utf8, 0, &out,
			UTF8PROC_NULLTERM | UTF8PROC_STABLE | UTF8PROC_COMPOSE);
	free(utf8);
	return (char *)out;
}

static char *clean_wan(const char *utf8, struct error *e) {
	struct text t = {0};
	char *out = NULL;
	if (text_decode(&t, utf8, e) == 0) {
		unescape(&t);
		unescape(&t);
		if (plain_forms(&t, e) == 0) {
			controls_remove(&t);
			spaces_collapse(&t);
			out = composed(&t);
		}
	}
	free(t.c);
	if (!out)
		error_set(e, -ENOMEM, "out of memory for a text");
	return out;
}

char *clean_text(const char *utf8, enum cleaning how, struct error *e) {
	size_t size = strnlen(utf8, CLEAN_BYTES_MAX + 1);
	if (size > CLEAN_BYTES_MAX) {
		error_set(e, -EINVAL, "the text is longer than %d bytes", CLEAN_BYTES_MAX);
		return NULL;
	}
	if (utf8_check(utf8, e) < 0)
		return NULL;
	if (how == CLEANING_WAN)
		return clean_wan(utf8, e);
	char *copy = strdup(utf8);
	if (!copy)
		error_set(e, -ENOMEM, "out of memory for a text");
	return copy;
}
