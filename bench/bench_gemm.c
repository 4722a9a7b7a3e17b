/* SPDX-License-Identifier: Apache-2.0 */
/* What this CPU can multiply: the best rate of a large linear layer on all
 * threads, for every precision it has. The yardstick for figures of the demo
 * model, taken under the same limits on instruction sets (ONEDNN_MAX_CPU_ISA,
 * LIGHTFORCED_CPU_ISA) and threads. Prints one JSON object of the form that
 * bench/results/ holds; the commit is the caller's to fill in.
 *
 *	bench_gemm [--threads N] [--seconds S] [--commit ID]
 *
 * int8 includes scaling and rounding its input, as a layer does. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/backend.h"

static const struct {
	const char *name;
	enum precision precision;
} precisions[] = {{"f32", PRECISION_F32}, {"bf16", PRECISION_BF16}, {"int8", PRECISION_INT8}};

/* rows, in, out: the best shape differs by precision and cache. */
static const int64_t shapes[][3] = {
	{1728, 256, 1024}, {1728, 1024, 256}, {1024, 1024, 1024}, {2048, 2048, 2048}};

static double now_s(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* GFLOP/s of the fastest of the calls that fit into `seconds`. */
static double rate(struct backend *be, const struct linear *l, const int64_t shape[3],
	double seconds, struct error *e) {
	const struct ops *ops = backend_ops(be);
	struct tensor x = tensor_2d(NULL, DTYPE_F32, shape[0], shape[1]);
	struct tensor y = tensor_2d(NULL, DTYPE_F32, shape[0], shape[2]);
	x.data = backend_alloc(be, tensor_bytes(&x), e);
	y.data = backend_alloc(be, tensor_bytes(&y), e);
	double best = 0;
	if (x.data && y.data) {
		ops->linear(be, &y, &x, l, ACT_NONE);
		for (double end = now_s() + seconds; now_s() < end;) {
			double from = now_s();
			ops->linear(be, &y, &x, l, ACT_NONE);
			double took = now_s() - from;
			double g = 2e-9 * (double)shape[0] * (double)shape[1] * (double)shape[2] /
				   took;
			best = g > best ? g : best;
		}
		backend_sync(be, e);
	}
	backend_free(be, x.data);
	backend_free(be, y.data);
	return best;
}

/* Best over all shapes; 0 when the CPU has no such precision. */
static double peak(struct backend *be, enum precision p, double seconds, struct error *e) {
	double best = 0;
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		struct error none = {0};
		float *w = calloc((size_t)(shapes[i][1] * shapes[i][2]), sizeof *w);
		if (!w) {
			error_set(e, -1, "no memory");
			return 0;
		}
		struct tensor t = tensor_2d(w, DTYPE_F32, shapes[i][2], shapes[i][1]);
		struct linear *l = backend_ops(be)->linear_create(be, &t, NULL, p, &none);
		free(w);
		if (!l)
			return 0;
		double g = rate(be, l, shapes[i], seconds, e);
		best = g > best ? g : best;
		backend_ops(be)->linear_destroy(be, l);
	}
	return best;
}

static void print(struct backend *be, char **argv, const char *commit, const double *peaks) {
	printf("{\"bench\": \"gemm_peak\", \"commit\": \"%s\", \"machine\": \"%s\", \"command\": "
	       "\"",
		commit, backend_info(be).name);
	for (char **a = argv; *a; a++)
		printf("%s%s", a == argv ? "" : " ", *a);
	printf("\", \"metrics\": {");
	const char *comma = "";
	for (size_t i = 0; i < sizeof precisions / sizeof *precisions; i++) {
		if (peaks[i] > 0) {
			printf("%s\"gemm_peak_gflops_%s\": {\"value\": %.1f, \"unit\": "
			       "\"GFLOP/s\"}",
				comma, precisions[i].name, peaks[i]);
			comma = ", ";
		}
	}
	printf("}}\n");
}

int main(int argc, char **argv) {
	static const struct option options[] = {{"threads", required_argument, NULL, 't'},
		{"seconds", required_argument, NULL, 's'}, {"commit", required_argument, NULL, 'c'},
		{0}};
	struct backend_config config = {.spec = "cpu"};
	struct error e = {0};
	double seconds = 0.3, peaks[3];
	const char *commit = "";
	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (c == 't')
			config.threads = atoi(optarg);
		else if (c == 's')
			seconds = atof(optarg);
		else if (c == 'c')
			commit = optarg;
		else
			return 2;
	}
	struct backend *be = backend_create(&config, &e);
	if (!be) {
		fprintf(stderr, "bench_gemm: %s\n", e.text);
		return 1;
	}
	for (size_t i = 0; i < 3; i++)
		peaks[i] = peak(be, precisions[i].precision, seconds, &e);
	if (e.code)
		fprintf(stderr, "bench_gemm: %s\n", e.text);
	else
		print(be, argv, commit, peaks);
	backend_destroy(be);
	return e.code != 0;
}
