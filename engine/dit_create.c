/* SPDX-License-Identifier: Apache-2.0 */
/* What a transformer is before its weights: sizes, types, timesteps.
 * Thread: the backend's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/dit_impl.h"

#define TEXT_UNIT 64 /* rows */

static void timestep_add(struct dit *d, double t) {
	for (int i = 0; i < d->timesteps; i++) {
		if (d->timestep[i] == t)
			return;
	}
	d->timestep[d->timesteps++] = t;
}

static int sizes_check(const struct dit *d, struct error *e) {
	const struct dit_config *c = &d->c;
	if (c->dim % c->heads || (c->dim / c->heads) % 2)
		return error_set(e, -EINVAL, "dit.dim is %d: %d heads need an even share of it",
			c->dim, c->heads);
	if (d->height % c->patch_h || d->width % c->patch_w)
		return error_set(e, -EINVAL,
			"height and width: a latent of %dx%d does not divide into patches of %dx%d",
			d->height, d->width, c->patch_h, c->patch_w);
	return 0;
}

/* Keys, values and activations follow the device unless all is to be f32. */
static void dtypes_choose(struct dit *d) {
	struct backend_info info = backend_info(d->be);
	bool f32 = d->precision == PRECISION_F32;
	d->act = f32 ? DTYPE_F32 : info.activation;
	d->kv = f32 ? DTYPE_F32 : info.kv;
	d->input = d->act;
	d->text_unit = strcmp(info.kind, "cuda") == 0 ? TEXT_UNIT : 1;
	if (d->precision == PRECISION_FP8 && strcmp(info.kind, "cuda") == 0)
		d->input = DTYPE_FP8_E4M3;
}

struct dit *dit_create(struct backend *be, const struct model *m, struct weights *w,
	struct arena *a, enum precision p, struct error *e) {
	struct dit *d = calloc(1, sizeof *d + (size_t)m->dit.layers * sizeof d->layer[0]);
	if (!d) {
		error_set(e, -ENOMEM, "no memory for a model of %d layers", m->dit.layers);
		return NULL;
	}
	d->be = be;
	d->ops = backend_ops(be);
	d->c = m->dit;
	d->channels = m->latent_channels;
	d->height = model_latent_height(m);
	d->width = model_latent_width(m);
	d->precision = p;
	dtypes_choose(d);
	for (int i = 0; i < m->steps; i++)
		timestep_add(d, m->timestep[i]);
	for (int i = 0; i < m->first_steps; i++)
		timestep_add(d, m->first_timestep[i]);
	timestep_add(d, m->context_noise);
	int r = sizes_check(d, e);
	if (r == 0) {
		int head_dim = d->c.dim / d->c.heads;
		d->frame_tokens = (d->height / d->c.patch_h) * (d->width / d->c.patch_w);
		d->time_pairs = head_dim / 2 - 2 * (head_dim / 6);
		r = dit_load_weights(d, w, a, e);
	}
	if (r < 0) {
		error_prefix(e, "dit");
		dit_destroy(d);
		return NULL;
	}
	return d;
}

void dit_destroy(struct dit *d) {
	if (!d)
		return;
	dit_drop_weights(d);
	free(d);
}

struct kv_shape dit_kv_shape(const struct dit *d, int block) {
	return (struct kv_shape){
		.heads = d->c.heads,
		.head_dim = d->c.dim / d->c.heads,
		.frame_tokens = d->frame_tokens,
		.block = block,
		.dtype = d->kv,
	};
}

int dit_frame_tokens(const struct dit *d) {
	return d->frame_tokens;
}
