/* SPDX-License-Identifier: Apache-2.0 */
/* Scales of the codes that enter fp8 layers. They follow from the weights alone, so
 * that no pass looks for the largest value of a tensor, and nothing is ever
 * clipped: a normalised row has an L2 norm of sqrt(d), the modulation stretches it
 * by its largest factor, a weight row turns it into at most the product of the two
 * norms, and attention gives no more than the largest of its values. Such a bound
 * may be a hundred times what a chunk needs; codes are floats of 15 binades, so
 * that costs nothing. Thread: the backend's. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "engine/dit_impl.h"

#define CODE_MAX 448.0 /* of e4m3 */
#define BOUND_MIN 1e-5 /* keeps the inverse of a scale finite */

int dit_row_bound(const struct tensor *w, const struct tensor *b, double *row, double *bias,
	struct error *e) {
	int64_t cols = tensor_cols(w), rows = tensor_count(w) / cols;
	float *f = malloc((size_t)cols * sizeof *f);
	if (!f)
		return error_set(e, -ENOMEM, "no memory for a row of weights");
	*row = *bias = 0;
	for (int64_t r = 0; r < rows; r++) {
		struct tensor one = tensor_rows(*w, r, 1);
		float part[8] = {0};
		weights_to_f32(&one, f);
		for (int64_t i = 0; i < cols; i++)
			part[i % 8] += f[i] * f[i];
		double sum = 0;
		for (int i = 0; i < 8; i++)
			sum += (double)part[i];
		*row = fmax(*row, sqrt(sum));
		*bias = fmax(*bias, fabs((double)weights_value(b, r)));
	}
	free(f);
	return 0;
}

/* What a row of layer norm and this modulation is bounded by: its elements, and its
 * L2 norm. A normalised row has norm sqrt(d). */
static void modulated_bound(const float *scale, const float *shift, int64_t dim, double *peak,
	double *norm) {
	double root = sqrt((double)dim), most = 0, squares = 0;
	*peak = 0;
	for (int64_t i = 0; i < dim; i++) {
		double s = fabs(1 + (double)scale[i]), h = fabs((double)shift[i]);
		*peak = fmax(*peak, root * s + h);
		most = fmax(most, s);
		squares += h * h;
	}
	*norm = root * most + sqrt(squares);
}

int dit_codes_load(struct dit *d, const float *table, struct error *e) {
	const int64_t dim = d->c.dim, layers = d->c.layers;
	size_t bytes = tensor_bytes(&d->code_scale);
	float *host = calloc(1, bytes), *at = host;
	if (!host)
		return error_set(e, -ENOMEM, "no memory for the scales of codes");
	for (int64_t i = 0; i < d->timesteps * layers; i++) {
		const struct dit_layer *l = &d->layer[i % layers];
		const float *row = table + i * MOD_COUNT * dim;
		double bound[CODES_COUNT], norm = 0, any = 0, peak;
		/* Keys and values of all timesteps lie in the cache. */
		for (int t = 0; t < d->timesteps; t++, any = fmax(any, norm)) {
			const float *other = table + (t * layers + i % layers) * MOD_COUNT * dim;
			modulated_bound(other + MOD_SCALE_SA * dim, other + MOD_SHIFT_SA * dim, dim,
				&peak, &norm);
		}
		bound[CODES_O] = any * l->v_row + l->v_bias;
		modulated_bound(row + MOD_SCALE_SA * dim, row + MOD_SHIFT_SA * dim, dim,
			&bound[CODES_SA], &norm);
		modulated_bound(row + MOD_SCALE_FF * dim, row + MOD_SHIFT_FF * dim, dim,
			&bound[CODES_FF], &norm);
		bound[CODES_HIDDEN] = norm * l->ffn_row + l->ffn_bias;
		bound[CODES_CROSS] = l->norm3_peak;
		for (int c = 0; c < CODES_COUNT; c++) {
			double scale = fmax(bound[c], BOUND_MIN) / CODE_MAX;
			at[0] = (float)scale;
			at[1] = (float)(1 / scale);
			at += CODE_SCALE_STRIDE;
		}
	}
	backend_upload(d->be, d->code_scale.data, host, bytes);
	free(host);
	return 0;
}
