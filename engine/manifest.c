/* SPDX-License-Identifier: Apache-2.0 */
/* The manifest's fields as rows of a table: section, key, how to read it, where
 * it goes, its range, its default. Scalars share a few readers; a field with a
 * shape of its own has its own. Format: engine/MODEL.md. */
#include "engine/manifest.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRED NAN /* as a default */
#define NAME_BYTES_MAX 63
#define PATH_BYTES_MAX 255
#define SUGGESTIONS_MAX 64
#define SUGGESTION_BYTES_MAX 1000

/* What is read; counts in chunks wait here until the chunk is known. */
struct manifest {
	struct model *m;
	int window_chunks, sink_chunks, horizon_chunks;
	int statistics; /* lists read: mean, std */
	const char *path;
	struct error *e;
};

struct field {
	const char *section, *key;
	int (*read)(struct manifest *f, const struct field *field, const json_t *v);
	size_t offset; /* of the target in struct model, or in struct manifest */
	double min, max, preset; /* preset NAN: required */
	const char *const *names; /* of an enum */
	bool in_manifest;
};

static void *target(struct manifest *f, const struct field *field) {
	return (char *)(field->in_manifest ? (void *)f : (void *)f->m) + field->offset;
}

static int refuse(const struct manifest *f, const struct field *field, const char *want) {
	return error_set(f->e, -EINVAL, "%s: %s%s%s must be %s", f->path, field->section,
		*field->section ? "." : "", field->key, want);
}

static int refuse_range(const struct manifest *f, const struct field *field, const char *kind) {
	return error_set(f->e, -EINVAL, "%s: %s%s%s must be %s from %g to %g", f->path,
		field->section, *field->section ? "." : "", field->key, kind, field->min,
		field->max);
}

static int read_int(struct manifest *f, const struct field *field, const json_t *v) {
	json_int_t n = json_integer_value(v);
	if (!json_is_integer(v) || (double)n < field->min || (double)n > field->max)
		return refuse_range(f, field, "a whole number");
	*(int *)target(f, field) = (int)n;
	return 0;
}

static int read_double(struct manifest *f, const struct field *field, const json_t *v) {
	double x = json_number_value(v);
	if (!json_is_number(v) || !(x >= field->min && x <= field->max))
		return refuse_range(f, field, "a number");
	*(double *)target(f, field) = x;
	return 0;
}

static int read_float(struct manifest *f, const struct field *field, const json_t *v) {
	double x = json_number_value(v);
	if (!json_is_number(v) || !(x >= field->min && x <= field->max))
		return refuse_range(f, field, "a number");
	*(float *)target(f, field) = (float)x;
	return 0;
}

static int read_enum(struct manifest *f, const struct field *field, const json_t *v) {
	char list[120] = "one of";
	for (int i = 0; field->names[i]; i++) {
		if (json_is_string(v) && strcmp(json_string_value(v), field->names[i]) == 0) {
			*(int *)target(f, field) = i;
			return 0;
		}
		size_t at = strlen(list);
		snprintf(list + at, sizeof list - at, " \"%s\"", field->names[i]);
	}
	return refuse(f, field, list);
}

static int read_string(struct manifest *f, const struct field *field, const json_t *v) {
	if (!json_is_string(v) || json_string_length(v) < 1 ||
		json_string_length(v) > (size_t)field->max)
		return refuse_range(f, field, "a text with a number of bytes");
	char **out = target(f, field);
	*out = strdup(json_string_value(v));
	return *out ? 0 : error_set(f->e, -ENOMEM, "%s: out of memory", f->path);
}

/* The policy's name into its array; sparsity.c knows which there are. */
static int read_policy(struct manifest *f, const struct field *field, const json_t *v) {
	char *out = target(f, field);
	if (!json_is_string(v) || json_string_length(v) < 1 ||
		json_string_length(v) >= sizeof f->m->sparsity.policy)
		return refuse(f, field, "the name of a policy, as \"dense\" or \"hsa\"");
	strcpy(out, json_string_value(v));
	return 0;
}

/* A file inside the model's folder: relative, without "..". */
static bool path_inside(const char *p) {
	size_t n = strlen(p);
	if (n < 1 || n > PATH_BYTES_MAX || *p == '/')
		return false;
	for (const char *part = p; part; part = strchr(part, '/') ? strchr(part, '/') + 1 : NULL) {
		if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == 0))
			return false;
	}
	return true;
}

static int read_files(struct manifest *f, const struct field *field, const json_t *v) {
	struct model_files *out = target(f, field);
	size_t n = json_array_size(v);
	if (!json_is_array(v) || n < 1 || n > MODEL_FILES_MAX)
		return refuse(f, field, "a list of 1 to 64 file names");
	for (size_t i = 0; i < n; i++) {
		const char *name = json_string_value(json_array_get(v, i));
		if (!name || !path_inside(name))
			return refuse(f, field, "a list of file names inside the model's folder");
		out->name[i] = strdup(name);
		if (!out->name[i])
			return error_set(f->e, -ENOMEM, "%s: out of memory", f->path);
		out->count = (int)i + 1;
	}
	return 0;
}

static int read_file(struct manifest *f, const struct field *field, const json_t *v) {
	if (!json_is_string(v) || !path_inside(json_string_value(v)))
		return refuse(f, field, "the name of a file inside the model's folder");
	return read_string(f, field, v);
}

/* 16, or [30000, 1001]. */
static int read_fps(struct manifest *f, const struct field *field, const json_t *v) {
	const json_t *n = json_is_array(v) ? json_array_get(v, 0) : v, *d = json_array_get(v, 1);
	json_int_t num = json_integer_value(n), den = d ? json_integer_value(d) : 1;
	bool shape = json_is_array(v) ? json_array_size(v) == 2 && json_is_integer(d) : true;
	if (!shape || !json_is_integer(n) || num < 1 || den < 1 || num > 1000000 || den > 1000000 ||
		(double)num / (double)den > field->max || (double)num / (double)den < field->min)
		return refuse(
			f, field, "a whole number from 1 to 240, or two: [numerator, denominator]");
	f->m->fps_num = (int)num;
	f->m->fps_den = (int)den;
	return 0;
}

static int steps_read(const struct manifest *f, const struct field *field, const json_t *v,
	int *count, double *timestep) {
	size_t n = json_array_size(v);
	if (!json_is_array(v) || n < 1 || n > MODEL_STEPS_MAX)
		return refuse(f, field, "a list of 1 to 16 numbers");
	for (size_t i = 0; i < n; i++) {
		const json_t *x = json_array_get(v, i);
		timestep[i] = json_number_value(x);
		if (!json_is_number(x) || !(timestep[i] > 0 && timestep[i] <= 1000) ||
			(i > 0 && timestep[i] >= timestep[i - 1]))
			return refuse(f, field, "falling numbers, at most 1000 and above 0");
	}
	*count = (int)n;
	return 0;
}

static int read_steps(struct manifest *f, const struct field *field, const json_t *v) {
	return steps_read(f, field, v, &f->m->steps, f->m->timestep);
}

static int read_first_steps(struct manifest *f, const struct field *field, const json_t *v) {
	return steps_read(f, field, v, &f->m->first_steps, f->m->first_timestep);
}

static int read_patch(struct manifest *f, const struct field *field, const json_t *v) {
	int *out = target(f, field); /* patch_h, patch_w */
	for (size_t i = 0; i < 2; i++) {
		json_int_t n = json_integer_value(json_array_get(v, i));
		if (json_array_size(v) != 2 || n < 1 || n > 16)
			return refuse(f, field, "two whole numbers from 1 to 16: [rows, columns]");
		out[i] = (int)n;
	}
	return 0;
}

static int read_statistics(struct manifest *f, const struct field *field, const json_t *v) {
	float *out = target(f, field);
	size_t n = json_array_size(v);
	if (n < 1 || n > MODEL_LATENT_CHANNELS_MAX || (int)n != f->m->latent_channels)
		return refuse(f, field, "a list of as many numbers as latent.channels says");
	for (size_t i = 0; i < n; i++) {
		const json_t *x = json_array_get(v, i);
		out[i] = (float)json_number_value(x);
		if (!json_is_number(x) ||
			!(json_number_value(x) >= field->min && json_number_value(x) <= field->max))
			return refuse_range(f, field, "a list of numbers");
	}
	f->m->decoder.denormalise = ++f->statistics == 2;
	return 0;
}

static int read_precisions(struct manifest *f, const struct field *field, const json_t *v) {
	for (size_t i = 0; i < json_array_size(v); i++) {
		const char *name = json_string_value(json_array_get(v, i));
		int p = name ? precision_parse(name) : -1;
		if (p <= PRECISION_AUTO)
			return refuse(f, field, "a list of \"f32\", \"bf16\", \"fp8\", \"int8\"");
		f->m->precision_allowed[p] = true;
	}
	return json_array_size(v) > 0 ? 0 : refuse(f, field, "a list of at least one precision");
}

static int read_transition(struct manifest *f, const struct field *field, const json_t *v) {
	int t = json_is_string(v) ? transition_parse(json_string_value(v)) : -1;
	if (t < 0)
		return refuse(f, field, "one of \"switch\", \"recache\", \"cut\"");
	f->m->transition_first = (enum transition)t;
	return 0;
}

static bool is_phrases(const json_t *v) {
	bool ok = json_is_array(v) && json_array_size(v) <= SUGGESTIONS_MAX;
	for (size_t i = 0; ok && i < json_array_size(v); i++) {
		const json_t *s = json_array_get(v, i);
		ok = json_is_string(s) && json_string_length(s) > 0 &&
		     json_string_length(s) <= SUGGESTION_BYTES_MAX;
	}
	return ok;
}

static int read_suggestions(struct manifest *f, const struct field *field, const json_t *v) {
	const json_t *sentences = json_object_get(v, "sentences"),
		     *turns = json_object_get(v, "turns"), *slots = json_object_get(v, "slots");
	bool ok = json_object_size(v) == 3 && is_phrases(sentences) && is_phrases(turns) &&
		  json_is_array(slots) && json_array_size(slots) <= SUGGESTIONS_MAX;
	for (size_t i = 0; ok && i < json_array_size(slots); i++) {
		const json_t *slot = json_array_get(slots, i);
		ok = json_object_size(slot) == 2 && json_is_string(json_object_get(slot, "name")) &&
		     is_phrases(json_object_get(slot, "words"));
	}
	if (!ok)
		return refuse(f, field,
			"{\"sentences\": [text], \"turns\": [text], \"slots\": [{\"name\": text, "
			"\"words\": [text]}]}, "
			"at most 64 of each");
	f->m->suggestions_json = json_dumps(v, JSON_COMPACT | JSON_PRESERVE_ORDER);
	return f->m->suggestions_json ? 0 : error_set(f->e, -ENOMEM, "%s: out of memory", f->path);
}

static int read_format(struct manifest *f, const struct field *field, const json_t *v) {
	return json_is_integer(v) && json_integer_value(v) == 1
		       ? 0
		       : refuse(f, field, "1, the format this build reads");
}

static const char *const cleanings[] = {[CLEANING_NONE] = "none", [CLEANING_WAN] = "wan", NULL};
static const char *const decoders[] = {
	[DECODER_TAEHV] = "taehv", [DECODER_WAN_VAE] = "wan_vae", NULL};
static const char *const rope_sinks[] = {
	[ROPE_SINK_FIXED] = "fixed", [ROPE_SINK_RELATIVE] = "relative", NULL};
static const char *const recaches[] = {[RECACHE_NONE] = "none",
	[RECACHE_SEQUENTIAL] = "sequential",
	[RECACHE_JOINT] = "joint",
	NULL};

#define AT(member) .offset = offsetof(struct model, member)
#define ASIDE(member) .in_manifest = true, .offset = offsetof(struct manifest, member)
/* Order matters where one field needs another: latent.channels before the
 * statistics. A preset of 0 leaves the zeroed field alone. */
static const struct field fields[] = {
	{"", "format", read_format, .preset = REQUIRED},
	{"", "name", read_string, AT(name), 1, NAME_BYTES_MAX, REQUIRED},
	{"video", "width", read_int, AT(width), 16, 4096, REQUIRED},
	{"video", "height", read_int, AT(height), 16, 4096, REQUIRED},
	{"video", "fps", read_fps, .min = 1, .max = 240, .preset = REQUIRED},
	{"latent", "channels", read_int, AT(latent_channels), 1, MODEL_LATENT_CHANNELS_MAX,
		REQUIRED},
	{"latent", "chunk_frames", read_int, AT(chunk_frames), 1, 64, REQUIRED},
	{"schedule", "steps", read_steps, .preset = REQUIRED},
	{"schedule", "first_steps", read_first_steps, .preset = 0},
	{"schedule", "shift", read_double, AT(shift), 0.01, 100, 1},
	{"schedule", "renoise_above", read_double, AT(renoise_above), 0, 1000, 0},
	{"schedule", "context_noise", read_double, AT(context_noise), 0, 1000, 0},
	{"dit", "files", read_files, AT(dit.files), .preset = REQUIRED},
	{"dit", "strip", read_string, AT(dit.files.strip), 1, NAME_BYTES_MAX, 0},
	{"dit", "dim", read_int, AT(dit.dim), 8, 16384, REQUIRED},
	{"dit", "heads", read_int, AT(dit.heads), 1, 256, REQUIRED},
	{"dit", "layers", read_int, AT(dit.layers), 1, 256, REQUIRED},
	{"dit", "ffn_dim", read_int, AT(dit.ffn_dim), 8, 65536, REQUIRED},
	{"dit", "freq_dim", read_int, AT(dit.freq_dim), 2, 4096, 256},
	{"dit", "text_dim", read_int, AT(dit.text_dim), 8, 16384, REQUIRED},
	{"dit", "text_len", read_int, AT(dit.text_len), 2, 4096, REQUIRED},
	{"dit", "patch", read_patch, AT(dit.patch_h), .preset = REQUIRED},
	{"dit", "eps", read_float, AT(dit.eps), 1e-12, 1e-2, 1e-6},
	{"dit", "theta", read_double, AT(dit.theta), 2, 1e9, 10000},
	{"text", "files", read_files, AT(text.files), .preset = REQUIRED},
	{"text", "strip", read_string, AT(text.files.strip), 1, NAME_BYTES_MAX, 0},
	{"text", "vocab", read_int, AT(text.vocab), 4, 1 << 24, REQUIRED},
	{"text", "dim", read_int, AT(text.dim), 8, 16384, REQUIRED},
	{"text", "dim_attention", read_int, AT(text.dim_attention), 8, 16384, REQUIRED},
	{"text", "heads", read_int, AT(text.heads), 1, 256, REQUIRED},
	{"text", "layers", read_int, AT(text.layers), 1, 256, REQUIRED},
	{"text", "ffn_dim", read_int, AT(text.ffn_dim), 8, 65536, REQUIRED},
	{"text", "buckets", read_int, AT(text.buckets), 4, 1024, 32},
	{"text", "max_distance", read_int, AT(text.max_distance), 2, 65536, 128},
	{"text", "eps", read_float, AT(text.eps), 1e-12, 1e-2, 1e-6},
	{"tokenizer", "file", read_file, AT(tokenizer.file), 1, PATH_BYTES_MAX, REQUIRED},
	{"tokenizer", "cleaning", read_enum, AT(tokenizer.cleaning), .preset = REQUIRED,
		.names = cleanings},
	{"tokenizer", "pad_id", read_int, AT(tokenizer.pad_id), 0, 1 << 24, 0},
	{"tokenizer", "eos_id", read_int, AT(tokenizer.eos_id), 0, 1 << 24, 1},
	{"decoder", "type", read_enum, AT(decoder.type), .preset = REQUIRED, .names = decoders},
	{"decoder", "files", read_files, AT(decoder.files), .preset = REQUIRED},
	{"decoder", "strip", read_string, AT(decoder.files.strip), 1, NAME_BYTES_MAX, 0},
	{"decoder", "warmup_frames", read_int, AT(decoder.warmup_frames), 0, 64, 0},
	{"decoder", "mean", read_statistics, AT(decoder.mean), -1000, 1000, 0},
	{"decoder", "std", read_statistics, AT(decoder.std), 1e-3, 1000, 0},
	{"cache", "window_frames", read_int, AT(cache.window_frames), 1, 4096, 0},
	{"cache", "window_chunks", read_int, ASIDE(window_chunks), 1, 4096, 0},
	{"cache", "sink_frames", read_int, AT(cache.sink_frames), 0, 4096, 0},
	{"cache", "sink_chunks", read_int, ASIDE(sink_chunks), 0, 4096, 0},
	{"cache", "rope_sink", read_enum, AT(cache.rope_sink), .preset = REQUIRED,
		.names = rope_sinks},
	{"cache", "recache", read_enum, AT(cache.recache), .preset = 0, .names = recaches},
	{"sparsity", "policy", read_policy, AT(sparsity.policy), .preset = REQUIRED},
	{"sparsity", "block", read_int, AT(sparsity.block), 1, 4096, 64},
	{"sparsity", "target", read_double, AT(sparsity.target), 0, 0.999, 0},
	{"sparsity", "base", read_double, AT(sparsity.base), 0, 0.999, 0},
	{"sparsity", "horizon_frames", read_int, AT(sparsity.horizon_frames), 1, 65536, 0},
	{"sparsity", "horizon_chunks", read_int, ASIDE(horizon_chunks), 1, 4096, 0},
	{"sparsity", "keep_frames", read_int, AT(sparsity.keep_frames), 0, 4096, 0},
	{"sparsity", "keep_sink", read_int, AT(sparsity.keep_sink), 0, 4096, 0},
	{"sparsity", "keep_near", read_int, AT(sparsity.keep_near), 0, 4096, 0},
	{"", "precision", read_precisions, .preset = REQUIRED},
	{"", "transition_first", read_transition, .preset = 0},
	{"", "suggestions", read_suggestions, .preset = 0},
};
#undef AT
#undef ASIDE
#define FIELDS (sizeof fields / sizeof *fields)

/* Every key of an object must be a field of that section; "" is the top, where
 * the names of sections are keys too. */
static int keys_check(const struct manifest *f, const json_t *object, const char *section) {
	const char *key;
	json_t *v;
	json_object_foreach((json_t *)object, key, v) {
		bool known = false, inner = false;
		for (size_t i = 0; i < FIELDS; i++) {
			known |= strcmp(fields[i].section, section) == 0 &&
				 strcmp(fields[i].key, key) == 0;
			inner |= *section == 0 && strcmp(fields[i].section, key) == 0 && *key;
		}
		if (!known && !inner)
			return error_set(f->e, -EINVAL, "%s: %s%s%.60s is not a key of this format",
				f->path, section, *section ? "." : "", key);
		if (inner && !json_is_object(v))
			return error_set(f->e, -EINVAL, "%s: %s must be an object", f->path, key);
		int rc = inner ? keys_check(f, v, key) : 0;
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int preset_apply(struct manifest *f, const struct field *field) {
	if (isnan(field->preset))
		return error_set(f->e, -EINVAL, "%s: %s%s%s is missing", f->path, field->section,
			*field->section ? "." : "", field->key);
	if (field->preset == 0)
		return 0;
	json_t *v = field->read == read_int ? json_integer((json_int_t)field->preset)
					    : json_real(field->preset);
	int rc = field->read(f, field, v);
	json_decref(v);
	return rc;
}

/* The same length in frames and in chunks: one of the two at most. */
static int chunks_to_frames(const struct manifest *f, const char *name, int chunks, int *frames) {
	if (chunks > 0 && *frames > 0)
		return error_set(f->e, -EINVAL,
			"%s: %s_frames and %s_chunks both given: one is enough", f->path, name,
			name);
	if (chunks > 0)
		*frames = chunks * f->m->chunk_frames;
	return 0;
}

static int fields_read(struct manifest *f, const json_t *root) {
	bool sparse = json_object_get(root, "sparsity") != NULL;
	for (size_t i = 0; i < FIELDS; i++) {
		const struct field *field = &fields[i];
		if (!sparse && strcmp(field->section, "sparsity") == 0)
			continue; /* the whole section may be left out: dense */
		const json_t *section =
			*field->section ? json_object_get(root, field->section) : root;
		const json_t *v = json_object_get(section, field->key);
		int rc = v ? field->read(f, field, v) : preset_apply(f, field);
		if (rc < 0)
			return rc;
	}
	if (!sparse)
		strcpy(f->m->sparsity.policy, "dense");
	int rc = chunks_to_frames(f, "cache.window", f->window_chunks, &f->m->cache.window_frames);
	if (rc == 0)
		rc = chunks_to_frames(f, "cache.sink", f->sink_chunks, &f->m->cache.sink_frames);
	if (rc == 0)
		rc = chunks_to_frames(
			f, "sparsity.horizon", f->horizon_chunks, &f->m->sparsity.horizon_frames);
	if (rc == 0 && f->statistics == 1)
		rc = error_set(f->e, -EINVAL,
			"%s: decoder.mean and decoder.std: give both or neither", f->path);
	for (int i = 0; i < f->m->steps; i++)
		f->m->timestep[i] = schedule_warp(f->m->timestep[i], f->m->shift);
	for (int i = 0; i < f->m->first_steps; i++)
		f->m->first_timestep[i] = schedule_warp(f->m->first_timestep[i], f->m->shift);
	return rc;
}

int manifest_parse(
	struct model *m, const char *json, size_t bytes, const char *path, struct error *e) {
	json_error_t je;
	json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &je);
	if (!root)
		return error_set(e, -EINVAL, "%s: line %d, column %d: %.120s", path, je.line,
			je.column, je.text);
	struct manifest f = {.m = m, .path = path, .e = e};
	int rc = json_is_object(root) ? keys_check(&f, root, "")
				      : error_set(e, -EINVAL, "%s: must be a JSON object", path);
	if (rc == 0)
		rc = fields_read(&f, root);
	json_decref(root);
	return rc;
}
