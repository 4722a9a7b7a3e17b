/* SPDX-License-Identifier: Apache-2.0 */
/* One failure, described once, where it happened. Every layer shares this
 * vocabulary. Thread: a struct error belongs to its caller. */
#ifndef KERNELS_ERROR_H
#define KERNELS_ERROR_H
#ifdef __cplusplus
extern "C" {
#endif
struct error {
	int code;       /* 0, or a negative errno value */
	char text[500]; /* one line, no newline, fit for operator and client */
};
/* Fills *e unless it already holds a failure (e may be NULL) and returns code,
 * so that a failing function can end with: return error_set(e, -EINVAL, ...). */
int error_set(struct error *e, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* Prepends "prefix: " to a failure that is being passed up. */
void error_prefix(struct error *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
#ifdef __cplusplus
}
#endif
#endif
