/* SPDX-License-Identifier: Apache-2.0 */
/* The table of reference kinds, and the one comparison that all of them use. */
#include "engine/golden.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *prefix; /* of the metadata value "kind" */
	int (*check)(struct golden *g, struct error *e);
} kinds[] = {
	{"umT5 encoder", golden_check_text},
	{"causal DiT", golden_check_dit},
	{"Light Forcing CAG + HSA", golden_check_hsa},
	{"TAEHV decoder", golden_check_taehv},
	{"Wan 2.1 causal 3-D VAE", golden_check_wan_vae},
	{"causal DiT", golden_check_dit},
	{"Light Forcing CAG + HSA", golden_check_hsa},
	{"demo model rollout", golden_check_rollout},
};

static int kind_run(struct golden *g, struct error *e) {
	const char *kind = json_string_value(weights_metadata(g->file, "kind"));
	if (!kind)
		return error_set(
			e, -EINVAL, "%s: no metadata \"kind\": not a reference file", g->path);
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		if (strncmp(kind, kinds[i].prefix, strlen(kinds[i].prefix)) == 0)
			return kinds[i].check(g, e);
	}
	return error_set(
		e, -EINVAL, "%s: kind \"%.80s\" is not one this program knows", g->path, kind);
}

int golden_run(struct golden *g, struct error *e) {
	g->file = weights_open("", &g->path, 1, NULL, e);
	g->weights = g->file ? weights_open("", &g->path, 1, "weights.", e) : NULL;
	int rc = g->weights ? kind_run(g, e) : -EINVAL;
	if (rc < 0 && e && e->code == 0)
		error_set(e, rc, "%s: cannot be opened", g->path);
	weights_close(g->file);
	weights_close(g->weights);
	g->file = g->weights = NULL;
	return rc;
}

/* NaN must not compare as small. */
static double larger(double a, double b) {
	return b > a || isnan(b) ? b : a;
}

static void line_print(
	struct golden *g, const char *name, const char *shape, const char *text, bool ok) {
	char line[SAFETENSORS_NAME_MAX + 200];
	snprintf(line, sizeof line, "%-28s %-26s %s %s", name, shape, text, ok ? "ok" : "FAIL");
	g->line(g->line_ctx, line);
	g->tensors++;
	g->failed += !ok;
}

int golden_compare(struct golden *g, const char *name, const float *got, int64_t count,
	double *relative, struct error *e) {
	struct tensor want;
	if (weights_find(g->file, name, &want) < 0)
		return error_set(e, -ENOENT, "%s: tensor '%s' is missing", g->path, name);
	char shape[96], text[120];
	tensor_describe(&want, shape, sizeof shape);
	if (tensor_count(&want) != count)
		return error_set(e, -EINVAL, "%s: tensor '%s' is %s, the engine gives %lld values",
			g->path, name, shape, (long long)count);
	double difference = 0, reference = 0;
	for (int64_t i = 0; i < count; i++) {
		double w = weights_value(&want, i);
		difference = larger(difference, fabs((double)got[i] - w));
		reference = larger(reference, fabs(w));
	}
	double error = reference > 0 ? difference / reference : difference;
	bool ok = error <= g->tolerance;
	snprintf(text, sizeof text, "abs %.2e rel %.2e (<= %.0e)", difference, error, g->tolerance);
	line_print(g, name, shape, text, ok);
	if (!(error <= g->worst)) {
		g->worst = error;
		snprintf(g->worst_name, sizeof g->worst_name, "%s", name);
	}
	if (relative)
		*relative = error;
	return 0;
}

void golden_report(struct golden *g, const char *name, double value, bool ok) {
	char text[40];
	snprintf(text, sizeof text, "%.6g", value);
	line_print(g, name, "", text, ok);
}

int golden_double(const struct golden *g, const char *key, double min, double max, double *out,
	struct error *e) {
	const json_t *v = weights_metadata(g->file, key);
	double x = json_number_value(v);
	if (!json_is_number(v) || !(x >= min && x <= max))
		return error_set(e, -EINVAL, "%s: metadata \"%s\" must be a number from %g to %g",
			g->path, key, min, max);
	*out = x;
	return 0;
}

int golden_int(
	const struct golden *g, const char *key, int min, int max, int *out, struct error *e) {
	double x = 0;
	int rc = golden_double(g, key, min, max, &x, e);
	if (rc == 0 && x != floor(x))
		rc = error_set(
			e, -EINVAL, "%s: metadata \"%s\" must be a whole number", g->path, key);
	*out = (int)x;
	return rc;
}

float *golden_f32(const struct golden *g, const char *name, struct tensor *shape, struct error *e) {
	struct tensor t;
	if (weights_find(g->file, name, &t) < 0) {
		error_set(e, -ENOENT, "%s: tensor '%s' is missing", g->path, name);
		return NULL;
	}
	float *out = malloc(((size_t)tensor_count(&t) + 1) * sizeof *out);
	if (!out) {
		error_set(e, -ENOMEM, "%s: out of memory for '%s'", g->path, name);
		return NULL;
	}
	weights_to_f32(&t, out);
	if (shape)
		*shape = t;
	return out;
}
