/* SPDX-License-Identifier: Apache-2.0 */
/* HTML entities in code points. Thread: any. Source: HTML 4.01, section 24, and
 * the HTML standard's rules for numbers and missing semicolons. */
#ifndef ENGINE_ENTITY_H
#define ENGINE_ENTITY_H
#include <stdint.h>
#define ENTITY_NAME_MAX 8 /* bytes of the longest name */
#define ENTITY_NOTHING (-2) /* a number that stands for no character */
/* Length of the entity that s[0..n) begins with, 0: none. *out: its character
 * or ENTITY_NOTHING. */
int entity_read(const int32_t *s, int n, int32_t *out);
/* 0x80 .. 0x9f as Windows-1252, others as they are. */
int32_t entity_windows_1252(int32_t c);
#endif
