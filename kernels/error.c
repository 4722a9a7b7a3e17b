/* SPDX-License-Identifier: Apache-2.0 */
/* The shared error vocabulary: first failure wins, one line, no newline. */
#include "kernels/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void one_line(char *s) {
	for (; *s; s++) {
		if ((unsigned char)*s < 0x20)
			*s = ' ';
	}
}

int error_set(struct error *e, int code, const char *format, ...) {
	if (e && e->code == 0) {
		va_list args;
		va_start(args, format);
		vsnprintf(e->text, sizeof e->text, format, args);
		va_end(args);
		one_line(e->text);
		e->code = code;
	}
	return code;
}

void error_prefix(struct error *e, const char *format, ...) {
	if (!e || e->code == 0)
		return;
	char head[sizeof e->text], old[sizeof e->text];
	va_list args;
	va_start(args, format);
	vsnprintf(head, sizeof head, format, args);
	va_end(args);
	memcpy(old, e->text, sizeof old);
	snprintf(e->text, sizeof e->text, "%.200s: %.290s", head, old);
	one_line(e->text);
}
