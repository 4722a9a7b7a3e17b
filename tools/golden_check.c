/* SPDX-License-Identifier: Apache-2.0 */
/* golden_check [--model DIR] [--backend cpu|cuda[:N]] [--precision P] [--tolerance T] FILE...
 *
 * Holds the engine against reference files: one line a tensor, the worst
 * relative error last. Exit status: 0 all within tolerance, 1 some beyond it,
 * 2 a file could not be checked (or wrong usage). */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/golden.h"

static void line_print(void *ctx, const char *text) {
	(void)ctx;
	puts(text);
}

struct options {
	const char *model, *backend;
	enum precision precision;
	double tolerance;
};

static int usage(void) {
	fputs("usage: golden_check [--model DIR] [--backend cpu|cuda[:N]] [--precision "
	      "f32|bf16|fp8|int8]\n"
	      "                    [--tolerance T] FILE...\n",
		stderr);
	return 2;
}

static int options_parse(struct options *o, int argc, char **argv) {
	static const struct option names[] = {{"model", required_argument, NULL, 'm'},
		{"backend", required_argument, NULL, 'b'},
		{"precision", required_argument, NULL, 'p'},
		{"tolerance", required_argument, NULL, 't'}, {NULL, 0, NULL, 0}};
	int c, p;
	char *end;
	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (c) {
		case 'm':
			o->model = optarg;
			break;
		case 'b':
			o->backend = optarg;
			break;
		case 'p':
			p = precision_parse(optarg);
			if (p <= PRECISION_AUTO)
				return -1;
			o->precision = (enum precision)p;
			break;
		case 't':
			o->tolerance = strtod(optarg, &end);
			if (*end || !(o->tolerance > 0))
				return -1;
			break;
		default:
			return -1;
		}
	}
	return optind < argc ? 0 : -1;
}

/* All files on one backend; returns the exit status. */
static int files_check(
	struct backend *be, const struct model *m, const struct options *o, char **file) {
	struct golden worst = {0};
	const char *worst_path = "";
	int failed = 0, tensors = 0, broken = 0;
	for (; *file; file++) {
		struct golden g = {.path = *file,
			.be = be,
			.model = m,
			.precision = o->precision,
			.tolerance = o->tolerance,
			.line = line_print};
		struct error e = {0};
		printf("%s\n", *file);
		if (golden_run(&g, &e) < 0) {
			printf("cannot be checked: %s\n", e.text);
			broken++;
		}
		failed += g.failed;
		tensors += g.tensors;
		if (!(g.worst <= worst.worst)) {
			worst = g;
			worst_path = *file;
		}
	}
	printf("%d tensors, %d failed, %d files not checked; worst relative error %.3e %s %s\n",
		tensors, failed, broken, worst.worst, worst_path, worst.worst_name);
	return broken ? 2 : failed ? 1 : 0;
}

int main(int argc, char **argv) {
	struct options o = {.backend = "cpu", .precision = PRECISION_F32, .tolerance = 1e-4};
	if (options_parse(&o, argc, argv) < 0)
		return usage();
	struct error e = {0};
	struct model *m = o.model ? model_load(o.model, &e) : NULL;
	struct backend *be =
		e.code == 0 ? backend_create(&(struct backend_config){.spec = o.backend}, &e)
			    : NULL;
	int status = 2;
	if (be)
		status = files_check(be, m, &o, argv + optind);
	else
		fprintf(stderr, "golden_check: %s\n", e.text);
	backend_destroy(be);
	model_free(m);
	return status;
}
