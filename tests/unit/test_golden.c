/* SPDX-License-Identifier: Apache-2.0 */
/* The judge judged: a reference file that was tampered with must be found
 * wrong, one that cannot be checked must say why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/golden.h"

#define FILE_BYTES_MAX (1 << 20)

static char path[] = "/tmp/test_golden_XXXXXX";

struct file {
	char *bytes;
	size_t size;
};

static int set_up(void **state) {
	(void)state;
	int fd = mkstemp(path);
	return fd < 0 ? -1 : close(fd);
}

static int tear_down(void **state) {
	(void)state;
	return unlink(path);
}

static struct file umt5_read(void) {
	char from[300];
	snprintf(from, sizeof from, "%s/tests/golden/umt5.safetensors", getenv("LIGHTFORCED_ROOT"));
	FILE *f = fopen(from, "rb");
	assert_non_null(f);
	struct file out = {.bytes = malloc(FILE_BYTES_MAX)};
	out.size = fread(out.bytes, 1, FILE_BYTES_MAX, f);
	fclose(f);
	return out;
}

/* Same-length change of the header. */
static void header_change(struct file *f, const char *from, const char *to) {
	assert_int_equal(strlen(from), strlen(to));
	char *at = memmem(f->bytes, f->size, from, strlen(from));
	assert_non_null(at);
	memcpy(at, to, strlen(to));
}

static void line_ignore(void *ctx, const char *text) {
	(void)text;
	++*(int *)ctx;
}

/* Writes the file, frees it, runs the check. */
static int run(struct file f, struct golden *g, struct error *e) {
	int lines = 0;
	FILE *out = fopen(path, "wb");
	assert_int_equal(fwrite(f.bytes, 1, f.size, out), f.size);
	fclose(out);
	free(f.bytes);
	struct backend *be =
		backend_create(&(struct backend_config){.spec = "cpu", .threads = 1}, e);
	assert_non_null(be);
	*g = (struct golden){.path = path,
		.be = be,
		.precision = PRECISION_F32,
		.tolerance = 1e-4,
		.line = line_ignore,
		.line_ctx = &lines};
	int rc = golden_run(g, e);
	assert_int_equal(lines, g->tensors);
	backend_destroy(be);
	return rc;
}

static void whole_file_passes(void **state) {
	(void)state;
	struct golden g;
	struct error e = {0};
	assert_int_equal(run(umt5_read(), &g, &e), 0);
	assert_int_equal(g.tensors, 1);
	assert_int_equal(g.failed, 0);
	assert_true(g.worst > 0 && g.worst < 1e-5); /* seen 3.3e-6 */
	assert_string_equal(g.worst_name, "out");
}

/* `out` is the file's last tensor. */
static void changed_output_fails(void **state) {
	(void)state;
	const float wrong[] = {3, NAN, INFINITY};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		struct file f = umt5_read();
		struct golden g;
		struct error e = {0};
		memcpy(f.bytes + f.size - sizeof *wrong, &wrong[i], sizeof *wrong);
		assert_int_equal(run(f, &g, &e), 0);
		assert_int_equal(g.failed, 1);
		assert_false(g.worst <= 1e-2);
	}
}

static void changed_header_says_why(void **state) {
	(void)state;
	static const struct {
		const char *from, *to, *says;
	} cases[] = {
		{"umT5 encoder", "umT6 encoder", "kind \"umT6 encoder"},
		{"\"kind\"", "\"kinb\"", "no metadata \"kind\""},
		{"\"vocab\"", "\"vocaB\"", "metadata \"vocab\" must be a number"},
		{"\"dim\": \"64\"", "\"dim\": \"-4\"", "metadata \"dim\" must be a number from"},
		{"\"dim\": \"64\"", "\"dim\": \"65\"", "the manifest's sizes need ["},
		{"\"mask\"", "\"mark\"", "tensor 'mask' is missing"},
		{"weights.norm.weight", "weights.born.weight", "tensor 'norm.weight' is missing"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct file f = umt5_read();
		struct golden g;
		struct error e = {0};
		if (!memmem(f.bytes, f.size, cases[i].from, strlen(cases[i].from)))
			fail_msg("case %zu: the file has no %s", i, cases[i].from);
		header_change(&f, cases[i].from, cases[i].to);
		if (run(f, &g, &e) >= 0 || !strstr(e.text, cases[i].says))
			fail_msg("case %zu said: %s", i, e.text);
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole_file_passes),
		cmocka_unit_test(changed_output_fails),
		cmocka_unit_test(changed_header_says_why),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
