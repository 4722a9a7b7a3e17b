/* SPDX-License-Identifier: Apache-2.0 */
/* Linear layers in f32 by plain loops: the definition. Weights are transposed
 * to [in, out] at load, so that the inner loop runs along outputs. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

struct linear {
	int64_t in, out;
	float *w; /* [in, out] */
	float *b; /* [out], zeros when there is none */
};

static void linear_destroy(struct backend *be, struct linear *l) {
	if (!l)
		return;
	cpu_free(be, l->w);
	cpu_free(be, l->b);
	free(l);
}

static struct linear *linear_create(struct backend *be, const struct tensor *w,
	const struct tensor *b, enum precision p, struct error *e) {
	(void)p;
	struct linear *l = calloc(1, sizeof *l);
	if (!l || w->rank != 2 || (b && tensor_count(b) != w->dim[0])) {
		error_set(e, l ? -EINVAL : -ENOMEM,
			"linear: a weight must be [out, in], its bias [out]");
		free(l);
		return NULL;
	}
	l->out = w->dim[0];
	l->in = w->dim[1];
	l->w = cpu_alloc(be, (size_t)(l->in * l->out) * sizeof *l->w, e);
	l->b = cpu_alloc(be, (size_t)l->out * sizeof *l->b, e);
	float *row = malloc((size_t)l->in * sizeof *row);
	if (!l->w || !l->b || !row) {
		error_set(e, -ENOMEM, "linear: no memory for a weight");
		free(row);
		linear_destroy(be, l);
		return NULL;
	}
	for (int64_t o = 0; o < l->out; o++) {
		cpu_to_f32(row, w, o * l->in, l->in);
		for (int64_t i = 0; i < l->in; i++)
			l->w[i * l->out + o] = row[i];
	}
	if (b)
		cpu_to_f32(l->b, b, 0, l->out);
	free(row);
	return l;
}

struct linear_job {
	float *y;
	const float *x, *gate; /* gate [groups, out] or NULL */
	const struct linear *l;
	int64_t n, groups;
	enum activation act;
	bool residual;
};

static float activate(float x, enum activation act) {
	switch (act) {
	case ACT_NONE:
		break;
	case ACT_SILU:
		return x / (1 + expf(-x));
	case ACT_GELU_TANH:
		return 0.5f * x * (1 + tanhf(0.797884560802865356f * (x + 0.044715f * x * x * x)));
	case ACT_RELU:
		return x > 0 ? x : 0;
	}
	return x;
}

#define OUT_STEP 512

static void linear_rows(void *ctx, int64_t begin, int64_t end, int worker) {
	const struct linear_job *j = ctx;
	const struct linear *l = j->l;
	(void)worker;
	for (int64_t r = begin; r < end; r++) {
		const float *x = j->x + r * l->in;
		const float *gate = j->gate ? j->gate + r * j->groups / j->n * l->out : NULL;
		for (int64_t first = 0; first < l->out; first += OUT_STEP) {
			int64_t count = l->out - first < OUT_STEP ? l->out - first : OUT_STEP;
			float acc[OUT_STEP];
			memcpy(acc, l->b + first, (size_t)count * sizeof *acc);
			for (int64_t i = 0; i < l->in; i++) {
				const float *w = l->w + i * l->out + first;
				for (int64_t o = 0; o < count; o++)
					acc[o] += x[i] * w[o];
			}
			float *y = j->y + r * l->out + first;
			for (int64_t o = 0; o < count; o++) {
				if (j->residual)
					y[o] += acc[o] * (gate ? gate[first + o] : 1);
				else
					y[o] = activate(acc[o], j->act);
			}
		}
	}
}

static void run(struct backend *be, const char *op, struct linear_job *job, const struct tensor *y,
	const struct tensor *x, const struct linear *l) {
	job->n = tensor_row_count(x);
	job->l = l;
	if (!cpu_check(be, cpu_is(x, DTYPE_F32, -1, l->in), op, "x does not fit the weight:", x) ||
		!cpu_check(be, cpu_is(y, DTYPE_F32, job->n, l->out), op, "y does not fit:", y) ||
		!cpu_check(
			be, !job->gate || job->n % job->groups == 0, op, "gate does not fit:", y))
		return;
	job->y = y->data;
	job->x = x->data;
	pool_run(cpu_pool(be), job->n, pool_grain(cpu_pool(be), job->n, 1), linear_rows, job);
}

static void linear(struct backend *be, struct tensor *y, const struct tensor *x,
	const struct linear *l, enum activation act) {
	struct linear_job job = {.act = act};
	run(be, "linear", &job, y, x, l);
}

static void linear_residual(struct backend *be, struct tensor *r, const struct tensor *x,
	const struct linear *l, const struct tensor *gate) {
	struct linear_job job = {.residual = true,
		.gate = gate ? gate->data : NULL,
		.groups = gate ? tensor_row_count(gate) : 1};
	run(be, "linear_residual", &job, r, x, l);
}

void cpu_linear_fill(struct ops *ops) {
	ops->linear_create = linear_create;
	ops->linear_destroy = linear_destroy;
	ops->linear = linear;
	ops->linear_residual = linear_residual;
}
