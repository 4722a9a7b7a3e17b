/* SPDX-License-Identifier: Apache-2.0 */
/* What a fuzz target is: one function over bytes. Linked with libFuzzer it is
 * searched (meson option fuzz), linked with replay.c it runs over its corpus. */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H
#include <stddef.h>
#include <stdint.h>
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
#endif
