/* SPDX-License-Identifier: Apache-2.0 */
/* Model folders with one fault each: loading the engine must say which file,
 * tensor or field is wrong. The folder holds links to the demo's files, so the
 * faults are the only difference. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"

#define MANIFEST_BYTES 65536

static char dir[] = "/tmp/test_badmodel_XXXXXX";

static char *path_in(const char *folder, const char *name) {
	char *p = NULL;
	assert_true(asprintf(&p, "%s/%s", folder, name) > 0);
	return p;
}

static char *demo_path(const char *name) {
	char *folder = path_in(getenv("LIGHTFORCED_ROOT"), "models/demo");
	char *p = path_in(folder, name);
	free(folder);
	return p;
}

static int make_dir(void **state) {
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static void dir_clear(void) {
	DIR *d = opendir(dir);
	for (struct dirent *f; (f = readdir(d));) {
		char *p = path_in(dir, f->d_name);
		if (f->d_name[0] != '.')
			unlink(p);
		free(p);
	}
	closedir(d);
}

static int remove_dir(void **state) {
	(void)state;
	dir_clear();
	return rmdir(dir);
}

static char *file_text(const char *path, size_t *bytes) {
	FILE *f = fopen(path, "rb");
	assert_non_null(f);
	char *text = calloc(1, MANIFEST_BYTES);
	*bytes = fread(text, 1, MANIFEST_BYTES - 1, f);
	fclose(f);
	return text;
}

static void file_write(const char *name, const char *data, size_t bytes) {
	char *p = path_in(dir, name);
	unlink(p);
	FILE *f = fopen(p, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, bytes, f), bytes);
	fclose(f);
	free(p);
}

/* Links every file of the demo model. */
static void dir_fill(void) {
	char *demo = demo_path("");
	DIR *d = opendir(demo);
	assert_non_null(d);
	for (struct dirent *f; (f = readdir(d));) {
		char *from = path_in(demo, f->d_name), *to = path_in(dir, f->d_name);
		if (f->d_name[0] != '.')
			assert_int_equal(symlink(from, to), 0);
		free(from);
		free(to);
	}
	closedir(d);
	free(demo);
}

/* The manifest with the first number after `key` replaced. */
static void manifest_set(const char *key, const char *value) {
	size_t bytes;
	char *path = demo_path("manifest.json"), *text = file_text(path, &bytes), *out = NULL;
	char *at = strstr(text, key);
	assert_non_null(at);
	at += strlen(key);
	size_t old = strcspn(at, ",}\n");
	assert_true(asprintf(&out, "%.*s%s%s", (int)(at - text), text, value, at + old) > 0);
	file_write("manifest.json", out, strlen(out));
	free(out);
	free(text);
	free(path);
}

/* The first 1000 bytes of one of the demo's files. */
static void file_truncate(const char *name) {
	size_t bytes;
	char *path = demo_path(name), *data = file_text(path, &bytes);
	file_write(name, data, 1000);
	free(data);
	free(path);
}

static void load_says(const char *says) {
	struct error e = {0};
	struct engine *en = engine_create(
		&(struct engine_config){.model_dir = dir, .backend = "cpu", .threads = 1}, &e);
	if (en || e.code == 0 || !strstr(e.text, says))
		fail_msg("\"%s\" expected, said: \"%s\"", says, en ? "loaded" : e.text);
}

static void wrong_manifests_are_refused(void **state) {
	(void)state;
	static const struct {
		const char *key, *value, *says;
	} cases[] = {
		{"\"layers\": ", "99", "tensor 'blocks."},
		{"\"ffn_dim\": ", "1040", "the manifest's sizes need ["},
		{"\"vocab\": ", "999999", "tensor 'token_embedding.weight' is ["},
		{"\"vocab\": ", "7", "pieces, but text.vocab of the manifest is 7"},
		{"\"heads\": ", "3", "manifest.json: dit.dim: "},
		{"\"policy\": ", "\"guess\"", "sparsity.policy \"guess\" is not known"},
		{"\"window_chunks\": ", "1", "manifest.json: cache.window_frames: "},
		{"\"channels\": ", "15", "tensor '"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		dir_clear();
		dir_fill();
		manifest_set(cases[i].key, cases[i].value);
		load_says(cases[i].says);
	}
}

static void broken_files_are_refused(void **state) {
	(void)state;
	static const char *const parts[] = {"decoder.safetensors", "t5_base.safetensors"};
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
		char *path = demo_path(parts[i]);
		bool there = access(path, R_OK) == 0;
		free(path);
		if (!there)
			continue; /* another model with other file names */
		char says[100];
		dir_clear();
		dir_fill();
		file_truncate(parts[i]);
		snprintf(says, sizeof says, "%s: header of ", parts[i]);
		load_says(says);
		path = path_in(dir, parts[i]);
		unlink(path);
		free(path);
		snprintf(says, sizeof says, "%s: No such file", parts[i]);
		load_says(says);
	}
	dir_clear();
	load_says("manifest.json: No such file");
	file_write("manifest.json", "{", 1);
	load_says("manifest.json: line 1");
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_manifests_are_refused),
		cmocka_unit_test(broken_files_are_refused),
	};
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
