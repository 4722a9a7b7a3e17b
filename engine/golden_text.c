/* SPDX-License-Identifier: Apache-2.0 */
/* The check of reference files of the kind "umT5 encoder": ids and mask
 * [sequences, length], out [sequences, length, dim] whose rows of padding are
 * zero. Each sequence is encoded alone, with its real tokens. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/golden.h"
#include "engine/text.h"

static int config_read(const struct golden *g, struct text_config *c, struct error *e) {
	const struct {
		const char *key;
		int min, max, *out;
	} rows[] = {
		{"vocab", 1, 1 << 24, &c->vocab},
		{"dim", 1, 16384, &c->dim},
		{"dim_attn", 1, 16384, &c->dim_attention},
		{"dim_ffn", 1, 65536, &c->ffn_dim},
		{"num_heads", 1, 256, &c->heads},
		{"num_layers", 1, 256, &c->layers},
		{"num_buckets", 4, 1024, &c->buckets},
		{"max_dist", 2, 65536, &c->max_distance},
	};
	int rc = 0;
	for (size_t i = 0; i < sizeof rows / sizeof *rows && rc == 0; i++)
		rc = golden_int(g, rows[i].key, rows[i].min, rows[i].max, rows[i].out, e);
	double eps = 0;
	if (rc == 0)
		rc = golden_double(g, "eps", 0, 1, &eps, e);
	c->eps = (float)eps;
	return rc;
}

/* One sequence into got [length, dim], padding rows zero. */
static int sequence_encode(struct golden *g, struct text_encoder *t, const struct text_config *c,
	const float *ids, const float *mask, int length, float *got, struct arena *scratch,
	struct error *e) {
	int32_t *real = malloc((size_t)length * sizeof *real);
	if (!real)
		return error_set(e, -ENOMEM, "out of memory");
	int n = 0;
	for (int i = 0; i < length; i++) {
		if (mask[i] != 0)
			real[n++] = (int32_t)ids[i];
	}
	size_t mark = arena_mark(scratch);
	struct tensor out = arena_2d(scratch, DTYPE_F32, n, c->dim);
	memset(got, 0, (size_t)length * (size_t)c->dim * sizeof *got);
	int rc = n > 0 ? text_encode(t, real, n, &out, scratch, e) : 0;
	if (rc == 0 && n > 0)
		backend_download(g->be, got, out.data, tensor_bytes(&out));
	arena_reset(scratch, mark);
	free(real);
	return rc < 0 ? rc : backend_error(g->be, e);
}

static int sequences_check(
	struct golden *g, struct text_encoder *t, const struct text_config *c, struct error *e) {
	struct tensor shape = {0};
	float *ids = golden_f32(g, "ids", &shape, e), *mask = golden_f32(g, "mask", NULL, e),
	      *got = NULL;
	struct arena *scratch = NULL;
	int rc = -EINVAL;
	struct tensor mask_shape;
	if (!ids || !mask ||
		weights_require(g->file, "mask", shape.rank, shape.dim, &mask_shape, e) < 0)
		goto out;
	if (shape.rank != 2 || shape.dim[0] < 1 || shape.dim[1] < 1 || shape.dim[1] > 4096) {
		error_set(e, -EINVAL, "%s: tensor 'ids' must be [sequences, length up to 4096]",
			g->path);
		goto out;
	}
	int count = (int)shape.dim[0], length = (int)shape.dim[1];
	int64_t values = (int64_t)length * c->dim;
	struct arena *measure = arena_measure(g->be);
	arena_2d(measure, DTYPE_F32, length, c->dim);
	text_measure(t, length, measure);
	scratch = arena_create(g->be, arena_peak(measure), e);
	arena_destroy(measure);
	got = malloc((size_t)(count * values) * sizeof *got);
	if (!scratch || !got)
		goto out;
	rc = 0;
	for (int i = 0; i < count && rc == 0; i++)
		rc = sequence_encode(g, t, c, ids + i * length, mask + i * length, length,
			got + i * values, scratch, e);
	if (rc == 0)
		rc = golden_compare(g, "out", got, count * values, NULL, e);
out:
	arena_destroy(scratch);
	free(ids);
	free(mask);
	free(got);
	return rc;
}

int golden_check_text(struct golden *g, struct error *e) {
	struct text_config c = {0};
	int rc = config_read(g, &c, e);
	if (rc < 0)
		return rc;
	struct arena *measure = arena_measure(g->be), *a = NULL;
	struct text_encoder *t = text_create(g->be, &c, g->weights, measure, g->precision, e);
	rc = -EINVAL;
	if (t)
		a = arena_create(g->be, arena_peak(measure), e);
	text_destroy(t);
	t = a ? text_create(g->be, &c, g->weights, a, g->precision, e) : NULL;
	if (t)
		rc = sequences_check(g, t, &c, e);
	text_destroy(t);
	arena_destroy(a);
	arena_destroy(measure);
	return rc;
}
