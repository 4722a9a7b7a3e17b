/* SPDX-License-Identifier: Apache-2.0 */
/* A model's description: from a manifest, or one of the random presets. What
 * follows from other fields is derived here, and fields are held against each
 * other, so that no module needs to doubt the geometry. */
#include "engine/model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/manifest.h"
#include "engine/weights.h"

static const char *const precisions[] = {[PRECISION_AUTO] = "auto",
	[PRECISION_F32] = "f32",
	[PRECISION_BF16] = "bf16",
	[PRECISION_FP8] = "fp8",
	[PRECISION_INT8] = "int8"};

const char *precision_name(enum precision p) {
	return precisions[p];
}

int precision_parse(const char *name) {
	for (int i = 0; i <= PRECISION_INT8; i++) {
		if (strcmp(precisions[i], name) == 0)
			return i;
	}
	return -1;
}

/* What a decoder's graph fixes: pictures per latent frame, pixels per row. */
static const struct {
	int stride_t, stride_s;
} decoder_strides[] = {[DECODER_TAEHV] = {4, 8}, [DECODER_WAN_VAE] = {4, 8}};

int model_latent_height(const struct model *m) {
	return m->height / m->stride_s;
}

int model_latent_width(const struct model *m) {
	return m->width / m->stride_s;
}

int model_frame_tokens(const struct model *m) {
	return model_latent_height(m) / m->dit.patch_h * (model_latent_width(m) / m->dit.patch_w);
}

static int multiple_check(const char *field, int value, int of, const char *why, struct error *e) {
	return value % of == 0 ? 0
			       : error_set(e, -EINVAL, "%s: %d must be a multiple of %d (%s)",
					 field, value, of, why);
}

static int sizes_check(const struct model *m, struct error *e) {
	const struct dit_config *d = &m->dit;
	const struct text_config *t = &m->text;
	int rc = multiple_check(
		"video.width", m->width, m->stride_s * d->patch_w, "pixels of a patch", e);
	if (rc == 0)
		rc = multiple_check("video.height", m->height, m->stride_s * d->patch_h,
			"pixels of a patch", e);
	if (rc == 0)
		rc = multiple_check("dit.dim", d->dim, 2 * d->heads, "pairs of a head", e);
	if (rc == 0)
		rc = multiple_check("dit.freq_dim", d->freq_dim, 2, "cosines and sines", e);
	if (rc == 0)
		rc = multiple_check("text.dim_attention", t->dim_attention, t->heads, "heads", e);
	if (rc == 0)
		rc = multiple_check(
			"text.buckets", t->buckets, 4, "two directions, near and far", e);
	if (rc < 0)
		return rc;
	if (t->dim != d->text_dim)
		return error_set(e, -EINVAL, "dit.text_dim: %d differs from text.dim, %d",
			d->text_dim, t->dim);
	if (t->max_distance <= t->buckets / 4)
		return error_set(e, -EINVAL,
			"text.max_distance: %d must be above a quarter of text.buckets, %d",
			t->max_distance, t->buckets);
	if (m->tokenizer.pad_id >= t->vocab || m->tokenizer.eos_id >= t->vocab)
		return error_set(e, -EINVAL,
			"tokenizer.pad_id and eos_id: %d and %d must be below text.vocab, %d",
			m->tokenizer.pad_id, m->tokenizer.eos_id, t->vocab);
	if (m->context_noise >= m->timestep[m->steps - 1])
		return error_set(e, -EINVAL,
			"schedule.context_noise: %g must be below the last step's %g",
			m->context_noise, m->timestep[m->steps - 1]);
	if (m->first_steps > 0 && m->context_noise >= m->first_timestep[m->first_steps - 1])
		return error_set(e, -EINVAL,
			"schedule.context_noise: %g must be below the last first step's %g",
			m->context_noise, m->first_timestep[m->first_steps - 1]);
	return 0;
}

int model_check(const struct model *m, struct error *e) {
	int rc = sizes_check(m, e);
	if (rc < 0)
		return rc;
	const struct cache_config *c = &m->cache;
	const struct sparsity_config *s = &m->sparsity;
	if (c->window_frames < 1)
		return error_set(e, -EINVAL, "cache.window_frames is missing (or window_chunks)");
	if (c->window_frames < c->sink_frames + m->chunk_frames)
		return error_set(e, -EINVAL,
			"cache.window_frames: %d must hold the sink, %d, and the chunk, %d",
			c->window_frames, c->sink_frames, m->chunk_frames);
	if (m->transition_first == TRANSITION_RECACHE && c->recache == RECACHE_NONE)
		return error_set(e, -EINVAL, "transition_first: \"recache\" needs cache.recache");
	if (strcmp(s->policy, "dense") == 0)
		return 0;
	if (s->horizon_frames < 2 * m->chunk_frames)
		return error_set(e, -EINVAL,
			"sparsity.horizon_frames: %d must hold two chunks of %d", s->horizon_frames,
			m->chunk_frames);
	if (s->base < s->target)
		return error_set(e, -EINVAL,
			"sparsity.base: %g must not be below sparsity.target, %g", s->base,
			s->target);
	if (s->keep_frames > 0 && s->keep_sink + s->keep_near > s->keep_frames)
		return error_set(e, -EINVAL,
			"sparsity.keep_frames: %d must hold keep_sink, %d, and keep_near, %d",
			s->keep_frames, s->keep_sink, s->keep_near);
	return 0;
}

/* Derived fields, then the checks. */
static int model_finish(struct model *m, struct error *e) {
	m->stride_t = decoder_strides[m->decoder.type].stride_t;
	m->stride_s = decoder_strides[m->decoder.type].stride_s;
	m->tokenizer.text_len = m->dit.text_len;
	if (!m->suggestions_json &&
		!(m->suggestions_json = strdup("{\"sentences\":[],\"turns\":[],\"slots\":[]}")))
		return error_set(e, -ENOMEM, "out of memory");
	return model_check(m, e);
}

struct model *model_parse(const char *json, size_t bytes, const char *dir, struct error *e) {
	struct model *m = calloc(1, sizeof *m);
	char path[300];
	snprintf(path, sizeof path, "%.280s/manifest.json", dir);
	if (!m || !(m->dir = strdup(dir))) {
		error_set(e, -ENOMEM, "%s: out of memory", path);
	} else if (manifest_parse(m, json, bytes, path, e) == 0) {
		struct error inner = {0};
		if (model_finish(m, &inner) == 0)
			return m;
		error_set(e, inner.code, "%s: %.280s", path, inner.text);
	}
	model_free(m);
	return NULL;
}

static char *file_read(const char *path, size_t *bytes, struct error *e) {
	FILE *f = fopen(path, "re");
	if (!f) {
		error_set(e, -errno, "%s: %s", path, strerror(errno));
		return NULL;
	}
	char *text = malloc(MODEL_MANIFEST_BYTES_MAX + 1);
	*bytes = text ? fread(text, 1, MODEL_MANIFEST_BYTES_MAX + 1, f) : 0;
	bool broken = ferror(f) != 0;
	fclose(f);
	if (text && !broken && *bytes <= MODEL_MANIFEST_BYTES_MAX)
		return text;
	free(text);
	error_set(e, -EINVAL, "%s: cannot be read, or is over %d bytes", path,
		MODEL_MANIFEST_BYTES_MAX);
	return NULL;
}

/* The geometry of published models, whose weights are then invented. */
struct preset {
	const char *name;
	int dim, heads, layers, ffn_dim;
};
static const struct preset presets[] = {
	{"wan-1.3b", 1536, 12, 30, 8960},
	{"wan-14b", 5120, 40, 40, 13824},
};

static void preset_apply(struct model *m, const struct preset *p) {
	m->random = true;
	m->fps_num = 16;
	m->fps_den = 1;
	m->latent_channels = 16;
	m->chunk_frames = 3;
	m->steps = 4;
	m->shift = 5;
	for (int i = 0; i < 4; i++)
		m->timestep[i] = schedule_warp(1000 - 250 * i, m->shift);
	m->dit = (struct dit_config){.dim = p->dim,
		.heads = p->heads,
		.layers = p->layers,
		.ffn_dim = p->ffn_dim,
		.freq_dim = 256,
		.text_dim = 4096,
		.text_len = 512,
		.patch_h = 2,
		.patch_w = 2,
		.eps = 1e-6f,
		.theta = 10000};
	m->text = (struct text_config){.vocab = 256384,
		.dim = 4096,
		.dim_attention = 4096,
		.heads = 64,
		.layers = 24,
		.ffn_dim = 10240,
		.buckets = 32,
		.max_distance = 128,
		.eps = 1e-6f};
	m->tokenizer =
		(struct tokenizer_config){.cleaning = CLEANING_WAN, .pad_id = 0, .eos_id = 1};
	m->decoder = (struct decoder_config){
		.type = DECODER_TAEHV, .warmup_frames = 3, .channels = {256, 128, 64, 64}};
	m->cache = (struct cache_config){.window_frames = 21,
		.sink_frames = 3,
		.rope_sink = ROPE_SINK_RELATIVE,
		.recache = RECACHE_JOINT};
	m->sparsity = (struct sparsity_config){.policy = "hsa",
		.block = 64,
		.target = 0.80,
		.base = 0.90,
		.horizon_frames = 21,
		.keep_frames = 6,
		.keep_sink = 1,
		.keep_near = 2};
	for (int i = PRECISION_F32; i <= PRECISION_INT8; i++)
		m->precision_allowed[i] = true;
}

/* spec: what follows "random:". */
static int random_parse(struct model *m, const char *spec, struct error *e) {
	const struct preset *p = NULL;
	size_t length = strcspn(spec, ",");
	for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
		if (strlen(presets[i].name) == length &&
			strncmp(presets[i].name, spec, length) == 0)
			p = &presets[i];
	}
	if (!p)
		return error_set(
			e, -EINVAL, "model \"random:%.40s\": there are wan-1.3b and wan-14b", spec);
	preset_apply(m, p);
	m->width = 832;
	m->height = 480;
	char rest = 0;
	if (spec[length] && sscanf(spec + length, ",%4dx%4d%c", &m->width, &m->height, &rest) != 2)
		return error_set(e, -EINVAL,
			"model \"random:%.40s\": the size must look like \",832x480\"", spec);
	if (m->width < 16 || m->height < 16 || m->width > 4096 || m->height > 4096)
		return error_set(e, -EINVAL,
			"model \"random:%.40s\": width and height must be from 16 to 4096", spec);
	if (asprintf(&m->name, "random %s", p->name) < 0 || !(m->dir = strdup(""))) {
		m->name = NULL;
		return error_set(e, -ENOMEM, "out of memory");
	}
	return model_finish(m, e);
}

struct model *model_load(const char *spec, struct error *e) {
	static const char random[] = "random:";
	struct model *m = NULL;
	if (strncmp(spec, random, strlen(random)) == 0) {
		m = calloc(1, sizeof *m);
		if (m && random_parse(m, spec + strlen(random), e) == 0)
			return m;
		model_free(m);
		return NULL;
	}
	char *path;
	if (asprintf(&path, "%s/manifest.json", spec) < 0) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	size_t bytes;
	char *json = file_read(path, &bytes, e);
	if (json)
		m = model_parse(json, bytes, spec, e);
	free(json);
	free(path);
	return m;
}

static void files_free(struct model_files *f) {
	for (int i = 0; i < f->count; i++)
		free(f->name[i]);
	free(f->strip);
}

void model_free(struct model *m) {
	if (!m)
		return;
	files_free(&m->dit.files);
	files_free(&m->text.files);
	files_free(&m->decoder.files);
	free(m->tokenizer.file);
	free(m->suggestions_json);
	free(m->name);
	free(m->dir);
	free(m);
}

struct weights *model_weights(const struct model *m, const struct model_files *f, struct error *e) {
	if (!m->random)
		return weights_open(m->dir, (const char *const *)f->name, f->count, f->strip, e);
	struct weights *w = weights_random(1);
	if (!w)
		error_set(e, -ENOMEM, "out of memory for random weights");
	return w;
}
