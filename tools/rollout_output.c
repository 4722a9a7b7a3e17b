/* SPDX-License-Identifier: Apache-2.0 */
/* What lightforced-rollout writes: pictures as YUV4MPEG2, one after the other,
 * and all latents at the end as safetensors. Thread: the program's only one. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "tools/rollout.h"

FILE *pictures_open(const char *path, const struct model_info *i, struct error *e) {
	FILE *out = fopen(path, "wb");
	if (!out) {
		error_set(e, -errno, "%s: %s", path, strerror(errno));
		return NULL;
	}
	fprintf(out, "YUV4MPEG2 W%d H%d F%d:%d Ip A1:1 C420jpeg XCOLORRANGE=LIMITED\n", i->width,
		i->height, i->fps_num, i->fps_den);
	return out;
}

int pictures_write(FILE *out, const struct frame *f, struct error *e) {
	fputs("FRAME\n", out);
	for (int p = 0; p < 3; p++) {
		int w = p ? f->width / 2 : f->width, h = p ? f->height / 2 : f->height;
		for (int y = 0; y < h; y++)
			fwrite(f->plane[p] + (size_t)y * f->stride[p], 1, (size_t)w, out);
	}
	return ferror(out) ? error_set(e, -EIO, "writing pictures: %s", strerror(errno)) : 0;
}

/* Owned by the caller; NULL: no memory. */
static char *latents_header(const struct options *o, const struct engine *en, size_t bytes) {
	const struct model_info *i = engine_model(en);
	const struct model *m = engine_model_config(en);
	json_t *prompts = json_array();
	for (int c = 0; c < o->cues; c++)
		json_array_append_new(
			prompts, json_pack("[I, s]", (json_int_t)o->cue[c].chunk, o->cue[c].text));
	char *text = json_dumps(prompts, JSON_COMPACT);
	json_t *header = json_pack("{s:{s:s, s:s, s:s, s:s}, s:{s:s, s:[I,I,I,I], s:[I,I]}}",
		"__metadata__", "kind", "rollout latents", "prompts", text, "sparsity", i->sparsity,
		"weights", i->weights_hash, "latents", "dtype", "F32", "shape",
		(json_int_t)(o->chunks * m->chunk_frames), (json_int_t)m->latent_channels,
		(json_int_t)model_latent_height(m), (json_int_t)model_latent_width(m),
		"data_offsets", (json_int_t)0, (json_int_t)bytes);
	char *json = header ? json_dumps(header, JSON_COMPACT) : NULL;
	json_decref(prompts);
	json_decref(header);
	free(text);
	return json;
}

/* safetensors: the length of a JSON header, the header, the data. */
int latents_write(
	const struct options *o, const struct engine *en, const float *latents, struct error *e) {
	const struct model *m = engine_model_config(en);
	size_t bytes = (size_t)(o->chunks * m->chunk_frames * m->latent_channels *
				model_latent_height(m) * model_latent_width(m)) *
		       sizeof *latents;
	char *json = latents_header(o, en, bytes);
	FILE *f = json ? fopen(o->latents, "wb") : NULL;
	bool ok = f != NULL;
	if (f) {
		uint64_t length = strlen(json);
		unsigned char head[8];
		for (int i = 0; i < 8; i++)
			head[i] = (unsigned char)(length >> (8 * i));
		fwrite(head, 1, sizeof head, f);
		fwrite(json, 1, length, f);
		fwrite(latents, 1, bytes, f);
		ok = !ferror(f) && fclose(f) == 0;
	}
	free(json);
	return ok ? 0 : error_set(e, -EIO, "%s: %s", o->latents, strerror(errno));
}
