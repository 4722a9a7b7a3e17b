/* SPDX-License-Identifier: Apache-2.0 */
/* Why linear layers go through oneDNN: our linear op against OpenBLAS's sgemm,
 * one thread each, at the demo model's shapes. One JSON object a line, best
 * GFLOP/s of each. Built where OpenBLAS is installed.
 *
 *	OPENBLAS_CORETYPE=Haswell ONEDNN_MAX_CPU_ISA=AVX2 bench_blas [SECONDS] */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/backend.h"

/* rows, in, out */
static const int shapes[][3] = {{216, 256, 768}, {216, 256, 256}, {216, 256, 1024},
	{216, 1024, 256}, {216, 256, 64}, {54, 256, 256}, {54, 1024, 256}};

struct job {
	struct backend *be;
	struct linear *l;
	struct tensor x, y;
	float *w; /* [out, in] */
	int rows, in, out;
};

static double now_s(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void run_linear(struct job *j) {
	backend_ops(j->be)->linear(j->be, &j->y, &j->x, j->l, ACT_NONE);
}

static void run_blas(struct job *j) {
	cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, j->rows, j->out, j->in, 1, j->x.data,
		j->in, j->w, j->in, 0, j->y.data, j->out);
}

/* GFLOP/s of the fastest call. */
static double best(struct job *j, void (*run)(struct job *j), double seconds) {
	double fastest = 1e9;
	run(j);
	for (double end = now_s() + seconds; now_s() < end;) {
		double from = now_s();
		run(j);
		double took = now_s() - from;
		fastest = took < fastest ? took : fastest;
	}
	return 2e-9 * j->rows * j->in * j->out / fastest;
}

static int measure(struct backend *be, const int shape[3], double seconds) {
	struct error e = {0};
	struct job j = {.be = be, .rows = shape[0], .in = shape[1], .out = shape[2]};
	j.w = calloc((size_t)j.in * (size_t)j.out, sizeof *j.w);
	struct tensor w = tensor_2d(j.w, DTYPE_F32, j.out, j.in);
	j.x = tensor_2d(NULL, DTYPE_F32, j.rows, j.in);
	j.y = tensor_2d(NULL, DTYPE_F32, j.rows, j.out);
	j.x.data = backend_alloc(be, tensor_bytes(&j.x), &e);
	j.y.data = backend_alloc(be, tensor_bytes(&j.y), &e);
	j.l = j.w ? backend_ops(be)->linear_create(be, &w, NULL, PRECISION_F32, &e) : NULL;
	if (e.code || !j.l) {
		fprintf(stderr, "bench_blas: %s\n", e.code ? e.text : "no memory");
		return 1;
	}
	double ours = best(&j, run_linear, seconds), blas = best(&j, run_blas, seconds);
	printf("{\"rows\": %d, \"in\": %d, \"out\": %d, \"linear\": %.1f, \"openblas\": %.1f}\n",
		j.rows, j.in, j.out, ours, blas);
	backend_ops(be)->linear_destroy(be, j.l);
	backend_free(be, j.x.data);
	backend_free(be, j.y.data);
	free(j.w);
	return 0;
}

int main(int argc, char **argv) {
	struct error e = {0};
	double seconds = argc > 1 ? atof(argv[1]) : 0.2;
	struct backend *be =
		backend_create(&(struct backend_config){.spec = "cpu", .threads = 1}, &e);
	if (!be) {
		fprintf(stderr, "bench_blas: %s\n", e.text);
		return 1;
	}
	openblas_set_num_threads(1);
	printf("{\"machine\": \"%s\"}\n", backend_info(be).name);
	int failed = 0;
	for (size_t i = 0; !failed && i < sizeof shapes / sizeof *shapes; i++)
		failed = measure(be, shapes[i], seconds);
	backend_destroy(be);
	return failed;
}
