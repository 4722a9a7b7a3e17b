/* SPDX-License-Identifier: Apache-2.0 */
/* Holding the engine against reference files: each holds the weights of a small
 * module ("weights.*"), its inputs and the outputs of a reference. The kind of
 * a file is the beginning of its metadata value "kind"; all sizes come from
 * metadata and shapes. A kind is a row of the table in golden.c, its check
 * lives beside the module it checks. Thread: the backend's. */
#ifndef ENGINE_GOLDEN_H
#define ENGINE_GOLDEN_H
#include "engine/model.h"
#include "engine/safetensors.h"
#include "engine/weights.h"

struct golden {
	const char *path;
	struct weights *file; /* every tensor under its name in the file */
	struct weights *weights; /* the same file with "weights." taken off names */
	struct backend *be;
	const struct model *model; /* the one given with --model, or NULL */
	enum precision precision;
	double tolerance; /* of golden_compare */
	void (*line)(void *ctx, const char *text); /* receives the report */
	void *line_ctx;
	/* Written by golden_compare. */
	double worst;
	char worst_name[SAFETENSORS_NAME_MAX + 1];
	int tensors, failed;
};
/* Opens g->path (be, model, precision, tolerance, line are the caller's), runs
 * the check of its kind and closes it. 0, also when tensors failed; negative
 * and *e when the check could not be carried out. */
int golden_run(struct golden *g, struct error *e);
/* Reports one output: L-inf of the difference over L-inf of the reference, the
 * tensor `name` of the file. got: host, count floats. Prints a line, keeps the
 * worst; the error itself is returned in *relative (may be NULL). Fails only
 * when the file has no such tensor or its count differs. */
int golden_compare(struct golden *g, const char *name, const float *got, int64_t count,
	double *relative, struct error *e);
/* As above, where the caller has worked out the error (block lists, PSNR ...). */
void golden_report(struct golden *g, const char *name, double value, bool ok);
/* A number of the metadata, within limits. */
int golden_int(
	const struct golden *g, const char *key, int min, int max, int *out, struct error *e);
int golden_double(const struct golden *g, const char *key, double min, double max, double *out,
	struct error *e);
/* A tensor of the file as f32 in host memory, to be freed by the caller; NULL
 * and *e when it is missing. shape may be NULL. */
float *golden_f32(const struct golden *g, const char *name, struct tensor *shape, struct error *e);

/* Checks. Negative when one could not be carried out; differences are counted
 * in g->failed instead. */
int golden_check_text(struct golden *g, struct error *e); /* "umT5 encoder" */
int golden_check_taehv(struct golden *g, struct error *e); /* "TAEHV decoder" */
int golden_check_wan_vae(struct golden *g, struct error *e); /* "Wan 2.1 causal 3-D VAE" */
int golden_check_dit(struct golden *g, struct error *e); /* "causal DiT" */
int golden_check_hsa(struct golden *g, struct error *e); /* "Light Forcing CAG + HSA" */
int golden_check_rollout(struct golden *g, struct error *e); /* "demo model rollout" */
#endif
