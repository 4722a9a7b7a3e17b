/* SPDX-License-Identifier: Apache-2.0 */
/* See fake_backend.h. Misaligns on purpose: 64 bytes is all that is promised. */
#include "tests/support/fake_backend.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void *backend_alloc(struct backend *be, size_t bytes, struct error *e) {
	char *p = NULL;
	if (bytes > be->limit || posix_memalign((void **)&p, 4096, bytes + 4096) != 0) {
		error_set(e, -ENOMEM, "fake: %zu bytes refused", bytes);
		return NULL;
	}
	memset(p, 0, bytes + 4096);
	be->held++;
	return p + 64;
}

void backend_free(struct backend *be, void *p) {
	if (!p)
		return;
	be->held--;
	free((char *)p - 64);
}

void backend_upload(struct backend *be, void *dst, const void *src, size_t bytes) {
	(void)be;
	memcpy(dst, src, bytes);
}
