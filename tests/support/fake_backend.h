/* SPDX-License-Identifier: Apache-2.0 */
/* A backend of nothing but host memory, for tests of code that allocates and
 * uploads and runs no op. Link fake_backend.c before the kernels library. */
#ifndef TESTS_FAKE_BACKEND_H
#define TESTS_FAKE_BACKEND_H
#include <stddef.h>
#include "kernels/backend.h"
struct backend {
	size_t limit; /* largest allocation it grants */
	int held; /* allocations not yet freed */
};
#endif
