/* SPDX-License-Identifier: Apache-2.0 */
/* A backend whose work is late, as a GPU's is, made of two CPU backends: the
 * stream and its lane. Ops run when they are enqueued, but a mark is reached
 * only once somebody has slept on it, on a later one of its lane, or on one that
 * was ordered behind it, and pictures reach the host no earlier than the mark
 * behind their download. Link with -Wl,--wrap=cpu_backend_create. */
#ifndef TESTS_SLOW_BACKEND_H
#define TESTS_SLOW_BACKEND_H
#include "kernels/backend.h"
/* The device is lost: this latches a failure that nothing heals. */
void slow_backend_break(struct backend *be);
/* Times that somebody slept so far. */
int slow_backend_waits(void);
#endif
