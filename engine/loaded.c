/* SPDX-License-Identifier: Apache-2.0 */
/* The implementation behind engine.h that runs a model. */
#include <errno.h>

#include "engine/impl.h"

static struct engine *loaded_create(const struct engine_config *c, struct error *e) {
	error_set(e, -ENOSYS, "backend %s: this build runs no models",
		c->backend ? c->backend : "auto");
	return NULL;
}

const struct engine_impl engine_impl_model = {
	.create = loaded_create,
};
