/* SPDX-License-Identifier: Apache-2.0 */
/* Dense through oneDNN, 2.x or 3.x: its direct convolution over channels-last
 * images, which also is its fastest matrix product for our sizes (SPEED.md).
 * One call uses one thread: the pool has sliced the work already. oneDNN built
 * with OpenMP takes the calling thread's number of threads, so that is set to
 * one before every call; no team is made and nothing spins.
 *
 * A plan is a primitive with one pair of memory handles per worker, so running
 * allocates nothing. Scratchpads are ours, one per worker. */
#include <dlfcn.h>
#include <errno.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/dense.h"

struct worker {
	dnnl_stream_t stream;
	void *scratch;
};
struct dense_context {
	dnnl_engine_t engine;
	bool bf16, int8;
	void (*set_threads)(int); /* of the OpenMP that oneDNN uses; NULL: it has none */
	size_t scratch_bytes;
	int workers;
	struct worker *worker; /* [workers] */
};
/* A memory descriptor: a value in oneDNN 2, a handle in 3. */
struct md {
	dnnl_memory_desc_t d;
	bool made;
};
struct dense_plan {
	struct dense *dense;
	struct dense_window window;
	int64_t used; /* when; 0: free */
	dnnl_primitive_t primitive;
	dnnl_memory_t weight; /* owned when the plan wants another packing than the others */
	dnnl_memory_t *memory; /* [workers][3]: source, result, scratchpad */
};
struct dense {
	struct dense_context *context;
	struct dense_shape shape;
	dnnl_data_type_t type; /* of source and weights */
	struct md packed;
	dnnl_memory_t weight, bias; /* bias NULL: none */
	float *bias_data;
	/* int8 packings hold sums that cannot be unpacked: the codes as they came. */
	struct md plain;
	dnnl_memory_t codes;
	void *codes_data;
	size_t bytes;
	int64_t clock;
	struct dense_plan plans[DENSE_PLANS_MAX];
};

/* ---- the two versions ---- */

#if DNNL_VERSION_MAJOR >= 3
typedef const_dnnl_memory_desc_t md_ref; /* oneDNN's own type differs by version */
#define MD(m) ((m)->d)

static dnnl_status_t md_init(struct md *m, int rank, const dnnl_dims_t dim, dnnl_data_type_t type,
	dnnl_format_tag_t tag) {
	dnnl_status_t s = dnnl_memory_desc_create_with_tag(&m->d, rank, dim, type, tag);
	m->made = s == dnnl_success;
	return s;
}

static dnnl_status_t md_copy(struct md *m, md_ref from) {
	dnnl_status_t s = dnnl_memory_desc_clone(&m->d, from);
	m->made = s == dnnl_success;
	return s;
}

static void md_finish(struct md *m) {
	if (m->made)
		dnnl_memory_desc_destroy(m->d);
	m->made = false;
}

static dnnl_status_t append_activation(dnnl_post_ops_t ops, dnnl_alg_kind_t kind, float alpha) {
	return dnnl_post_ops_append_eltwise(ops, kind, alpha, 0);
}

static dnnl_status_t append_add(dnnl_post_ops_t ops) {
	return dnnl_post_ops_append_sum(ops, 1, 0, dnnl_f32);
}

static dnnl_status_t convolution(dnnl_primitive_desc_t *pd, dnnl_engine_t engine,
	const struct md *x, const struct md *w, const struct md *b, const struct md *y,
	const dnnl_dims_t strides, const dnnl_dims_t before, const dnnl_dims_t after,
	dnnl_primitive_attr_t attr) {
	const dnnl_dims_t dilates = {0};
	return dnnl_convolution_forward_primitive_desc_create(pd, engine, dnnl_forward_inference,
		dnnl_convolution_direct, x->d, w->d, b ? b->d : NULL, y->d, strides, dilates,
		before, after, attr);
}
#else
typedef const dnnl_memory_desc_t *md_ref; /* oneDNN's own type differs by version */
#define MD(m) (&(m)->d)

static dnnl_status_t md_init(struct md *m, int rank, const dnnl_dims_t dim, dnnl_data_type_t type,
	dnnl_format_tag_t tag) {
	m->made = true;
	return dnnl_memory_desc_init_by_tag(&m->d, rank, dim, type, tag);
}

static dnnl_status_t md_copy(struct md *m, md_ref from) {
	m->made = true;
	m->d = *from;
	return dnnl_success;
}

static void md_finish(struct md *m) {
	m->made = false;
}

static dnnl_status_t append_activation(dnnl_post_ops_t ops, dnnl_alg_kind_t kind, float alpha) {
	return dnnl_post_ops_append_eltwise(ops, 1, kind, alpha, 0);
}

static dnnl_status_t append_add(dnnl_post_ops_t ops) {
	return dnnl_post_ops_append_sum(ops, 1);
}

static dnnl_status_t convolution(dnnl_primitive_desc_t *pd, dnnl_engine_t engine,
	const struct md *x, const struct md *w, const struct md *b, const struct md *y,
	const dnnl_dims_t strides, const dnnl_dims_t before, const dnnl_dims_t after,
	dnnl_primitive_attr_t attr) {
	dnnl_convolution_desc_t d;
	dnnl_status_t s = dnnl_convolution_forward_desc_init(&d, dnnl_forward_inference,
		dnnl_convolution_direct, &x->d, &w->d, b ? &b->d : NULL, &y->d, strides, before,
		after);
	return s == dnnl_success ? dnnl_primitive_desc_create(pd, &d, attr, engine, NULL) : s;
}
#endif

static md_ref query(const_dnnl_primitive_desc_t pd, dnnl_query_t what) {
	return dnnl_primitive_desc_query_md(pd, what, 0);
}

/* ---- context ---- */

/* Before every call that may compute: this thread alone. */
static void alone(const struct dense_context *c) {
	if (c->set_threads)
		c->set_threads(1);
}

static bool isa_has(dnnl_cpu_isa_t have, dnnl_cpu_isa_t want) {
	return ((unsigned)have & (unsigned)want) == (unsigned)want;
}

/* A limit in oneDNN's own variable is oneDNN's, and ours where it is lower;
 * without one, it gets ours. (Setting would overrule the variable, and asking
 * first would make setting impossible. It is refused once a backend has
 * computed in this process: then the first limit stays.) */
static void limit(struct dense_context *c, struct cpu_features *f) {
	static const dnnl_cpu_isa_t most[CPU_ISA_COUNT] = {
		[CPU_ISA_BASELINE] = dnnl_cpu_isa_sse41,
		[CPU_ISA_AVX2] = dnnl_cpu_isa_avx2,
		[CPU_ISA_AVX512] = dnnl_cpu_isa_avx512_core_vnni,
	};
	bool given = getenv("ONEDNN_MAX_CPU_ISA") || /* NOLINT(concurrency-mt-unsafe) */
		     getenv("DNNL_MAX_CPU_ISA"); /* NOLINT(concurrency-mt-unsafe) */
	if (!given && !f->avx512_bf16)
		dnnl_set_max_cpu_isa(most[f->isa]);
	else if (!given && !f->amx_bf16)
		dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx512_core_bf16);
	dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
#if defined(__x86_64__)
	if (!isa_has(isa, dnnl_cpu_isa_avx512_core) && f->isa > CPU_ISA_AVX2)
		f->isa = CPU_ISA_AVX2;
	if (!isa_has(isa, dnnl_cpu_isa_avx2))
		f->isa = CPU_ISA_BASELINE;
#endif
	f->avx512_bf16 = f->avx512_bf16 && isa_has(isa, dnnl_cpu_isa_avx512_core_bf16);
	f->avx512_vnni = f->avx512_vnni && isa_has(isa, dnnl_cpu_isa_avx512_core_vnni);
	f->avx_vnni = f->avx_vnni && isa_has(isa, dnnl_cpu_isa_avx2_vnni);
	f->amx_bf16 = f->amx_bf16 && isa_has(isa, dnnl_cpu_isa_avx512_core_amx);
	f->amx_int8 = f->amx_int8 && isa_has(isa, dnnl_cpu_isa_avx512_core_amx);
	c->bf16 = f->avx512_bf16;
	c->int8 = f->avx512_vnni;
}

static void onednn_close(struct dense_context *c) {
	if (!c)
		return;
	for (int i = 0; c->worker && i < c->workers; i++) {
		if (c->worker[i].stream)
			dnnl_stream_destroy(c->worker[i].stream);
		free(c->worker[i].scratch);
	}
	if (c->engine)
		dnnl_engine_destroy(c->engine);
	free(c->worker);
	free(c);
}

static struct dense_context *onednn_open(struct cpu_features *f, int workers, struct error *e) {
	struct dense_context *c = calloc(1, sizeof *c);
	struct worker *w = calloc((size_t)workers, sizeof *w);
	if (!c || !w) {
		free(c);
		free(w);
		error_set(e, -ENOMEM, "cpu: no memory");
		return NULL;
	}
	c->workers = workers;
	c->worker = w;
	/* POSIX's way to take a function out of a void pointer. */
	*(void **)&c->set_threads = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
	limit(c, f);
	dnnl_status_t s = dnnl_engine_create(&c->engine, dnnl_cpu, 0);
	for (int i = 0; s == dnnl_success && i < workers; i++)
		s = dnnl_stream_create(&w[i].stream, c->engine, dnnl_stream_default_flags);
	if (s != dnnl_success) {
		error_set(e, -EIO, "oneDNN: no CPU engine (status %d)", (int)s);
		onednn_close(c);
		return NULL;
	}
	return c;
}

/* int8 without VNNI saturates in 16 bits: not offered. */
static bool onednn_has(const struct dense_context *c, enum precision p) {
	switch (p) {
	case PRECISION_F32:
		return true;
	case PRECISION_BF16:
		return c->bf16;
	case PRECISION_INT8:
		return c->int8;
	case PRECISION_AUTO:
	case PRECISION_FP8:
		break;
	}
	return false;
}

static bool scratch_reserve(struct dense_context *c, size_t bytes) {
	if (bytes <= c->scratch_bytes)
		return true;
	bytes = (bytes + 4095) / 4096 * 4096;
	for (int i = 0; i < c->workers; i++) {
		void *p = aligned_alloc(4096, bytes);
		if (!p)
			return false;
		free(c->worker[i].scratch);
		c->worker[i].scratch = p;
	}
	c->scratch_bytes = bytes;
	return true;
}

/* ---- plans ---- */

/* oneDNN's handles are not const; it only reads what is given here. */
static void *readable(const void *p) {
	union {
		const void *given;
		void *taken;
	} u = {.given = p};
	return u.taken;
}

static void memory_destroy(dnnl_memory_t m) {
	if (m)
		dnnl_memory_destroy(m);
}

static void plan_finish(struct dense_plan *p) {
	for (int i = 0; p->memory && i < 3 * p->dense->context->workers; i++)
		memory_destroy(p->memory[i]);
	free(p->memory);
	if (p->primitive)
		dnnl_primitive_destroy(p->primitive);
	memory_destroy(p->weight);
	memset(p, 0, sizeof *p);
}

static dnnl_status_t make_attributes(dnnl_primitive_attr_t *attr, const struct dense_window *w) {
	static const struct {
		dnnl_alg_kind_t kind;
		float alpha;
	} activations[] = {
		[ACT_SILU] = {dnnl_eltwise_swish, 1},
		[ACT_GELU_TANH] = {dnnl_eltwise_gelu_tanh, 0},
		[ACT_RELU] = {dnnl_eltwise_relu, 0},
	};
	dnnl_post_ops_t ops = NULL;
	dnnl_status_t s = dnnl_primitive_attr_create(attr);
	if (s == dnnl_success)
		s = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
	if (s == dnnl_success)
		s = dnnl_post_ops_create(&ops);
	if (s == dnnl_success && w->add)
		s = append_add(ops);
	if (s == dnnl_success && w->act != ACT_NONE)
		s = append_activation(ops, activations[w->act].kind, activations[w->act].alpha);
	if (s == dnnl_success)
		s = dnnl_primitive_attr_set_post_ops(*attr, ops);
	if (ops)
		dnnl_post_ops_destroy(ops);
	return s;
}

/* The descriptor of a primitive for this window; weights packed as `packed`
 * says, or as it likes when that is not made yet. */
static dnnl_status_t make_descriptor(dnnl_primitive_desc_t *pd, const struct dense *d,
	const struct dense_window *w, const struct md *packed) {
	const struct dense_shape *s = &d->shape;
	int64_t rows = (w->rows + w->pad_top + w->pad_bottom - s->kh) / s->stride_h + 1;
	int64_t cols = (w->cols + w->pad_left + w->pad_right - s->kw) / s->stride_w + 1;
	struct md x = {0}, y = {0}, b = {0}, any = {0};
	dnnl_primitive_attr_t attr = NULL;
	dnnl_status_t st = make_attributes(&attr, w);
	if (st == dnnl_success)
		st = md_init(&x, 4, (dnnl_dims_t){1, s->in, w->rows, w->cols}, d->type, dnnl_nhwc);
	if (st == dnnl_success)
		st = md_init(&y, 4, (dnnl_dims_t){1, s->out, rows, cols}, dnnl_f32, dnnl_nhwc);
	if (st == dnnl_success)
		st = md_init(&b, 1, (dnnl_dims_t){s->out}, dnnl_f32, dnnl_a);
	if (st == dnnl_success)
		st = md_init(&any, 4, (dnnl_dims_t){s->out, s->in, s->kh, s->kw}, d->type,
			dnnl_format_tag_any);
	if (st == dnnl_success)
		st = convolution(pd, d->context->engine, &x, packed->made ? packed : &any,
			d->bias ? &b : NULL, &y, (dnnl_dims_t){s->stride_h, s->stride_w},
			(dnnl_dims_t){w->pad_top, w->pad_left},
			(dnnl_dims_t){w->pad_bottom, w->pad_right}, attr);
	md_finish(&any);
	md_finish(&b);
	md_finish(&y);
	md_finish(&x);
	if (attr)
		dnnl_primitive_attr_destroy(attr);
	return st;
}

/* *to becomes `from` in another layout or type. */
static dnnl_status_t repack(struct dense_context *c, dnnl_memory_t *to, md_ref to_md,
	dnnl_memory_t from, md_ref from_md) {
	dnnl_primitive_desc_t pd = NULL;
	dnnl_primitive_t p = NULL;
	dnnl_status_t s = dnnl_memory_create(to, to_md, c->engine, DNNL_MEMORY_ALLOCATE);
	if (s == dnnl_success)
		s = dnnl_reorder_primitive_desc_create(
			&pd, from_md, c->engine, to_md, c->engine, NULL);
	if (s == dnnl_success)
		s = dnnl_primitive_create(&p, pd);
	alone(c);
	if (s == dnnl_success)
		s = dnnl_primitive_execute(p, c->worker[0].stream, 2,
			(dnnl_exec_arg_t[]){{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, *to}});
	if (s == dnnl_success)
		s = dnnl_stream_wait(c->worker[0].stream);
	if (p)
		dnnl_primitive_destroy(p);
	if (pd)
		dnnl_primitive_desc_destroy(pd);
	return s;
}

static bool is_reference(const_dnnl_primitive_desc_t pd) {
	const char *name = "";
	dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, (void *)&name);
	return strstr(name, "ref") != NULL;
}

static dnnl_status_t bind_memory(struct dense_plan *p, const_dnnl_primitive_desc_t pd) {
	struct dense_context *c = p->dense->context;
	static const dnnl_query_t what[3] = {
		dnnl_query_src_md, dnnl_query_dst_md, dnnl_query_scratchpad_md};
	if (!scratch_reserve(c, dnnl_memory_desc_get_size(query(pd, what[2]))))
		return dnnl_out_of_memory;
	p->memory = calloc((size_t)c->workers * 3, sizeof *p->memory);
	if (!p->memory)
		return dnnl_out_of_memory;
	for (int i = 0; i < 3 * c->workers; i++) {
		dnnl_status_t s = dnnl_memory_create(
			&p->memory[i], query(pd, what[i % 3]), c->engine, DNNL_MEMORY_NONE);
		if (s != dnnl_success)
			return s;
	}
	return dnnl_success;
}

static dnnl_status_t plan_make(struct dense_plan *p, const struct dense_window *w) {
	struct dense *d = p->dense;
	struct md other = {0};
	dnnl_primitive_desc_t pd = NULL;
	alone(d->context);
	dnnl_status_t s = make_descriptor(&pd, d, w, &d->packed);
	/* A size for which the packing of the others has no fast code gets its own. */
	if (s != dnnl_success || is_reference(pd)) {
		if (s == dnnl_success)
			dnnl_primitive_desc_destroy(pd);
		pd = NULL;
		s = make_descriptor(&pd, d, w, &other);
		if (s == dnnl_success)
			s = repack(d->context, &p->weight, query(pd, dnnl_query_weights_md),
				d->codes ? d->codes : d->weight,
				d->codes ? MD(&d->plain) : MD(&d->packed));
	}
	if (s == dnnl_success)
		s = dnnl_primitive_create(&p->primitive, pd);
	if (s == dnnl_success)
		s = bind_memory(p, pd);
	if (pd)
		dnnl_primitive_desc_destroy(pd);
	return s;
}

static const struct dense_plan *onednn_plan(
	struct dense *d, const struct dense_window *w, struct error *e) {
	struct dense_plan *oldest = &d->plans[0];
	d->clock++;
	for (int i = 0; i < DENSE_PLANS_MAX; i++) {
		struct dense_plan *p = &d->plans[i];
		if (p->used && dense_window_equal(&p->window, w)) {
			p->used = d->clock;
			return p;
		}
		if (p->used < oldest->used)
			oldest = p;
	}
	if (oldest->used)
		plan_finish(oldest);
	oldest->dense = d;
	dnnl_status_t s = plan_make(oldest, w);
	if (s != dnnl_success) {
		plan_finish(oldest);
		error_set(e, -EIO,
			"oneDNN: no convolution %d -> %d, %dx%d, over %lld x %lld (status %d)",
			d->shape.in, d->shape.out, d->shape.kh, d->shape.kw, (long long)w->rows,
			(long long)w->cols, (int)s);
		return NULL;
	}
	oldest->window = *w;
	oldest->used = d->clock;
	return oldest;
}

static int onednn_run(const struct dense_plan *p, int worker, const void *x, float *y) {
	const struct dense *d = p->dense;
	struct dense_context *c = d->context;
	dnnl_memory_t *m = p->memory + 3 * (ptrdiff_t)worker;
	alone(c);
	dnnl_memory_set_data_handle(m[0], readable(x));
	dnnl_memory_set_data_handle(m[1], y);
	dnnl_memory_set_data_handle(m[2], c->worker[worker].scratch);
	dnnl_exec_arg_t args[5] = {
		{DNNL_ARG_SRC, m[0]},
		{DNNL_ARG_DST, m[1]},
		{DNNL_ARG_SCRATCHPAD, m[2]},
		{DNNL_ARG_WEIGHTS, p->weight ? p->weight : d->weight},
		{DNNL_ARG_BIAS, d->bias},
	};
	dnnl_status_t s = dnnl_primitive_execute(
		p->primitive, c->worker[worker].stream, d->bias ? 5 : 4, args);
	return s == dnnl_success ? 0 : -EIO;
}

/* ---- weights ---- */

static void onednn_destroy(struct dense *d) {
	if (!d)
		return;
	for (int i = 0; i < DENSE_PLANS_MAX; i++) {
		if (d->plans[i].used)
			plan_finish(&d->plans[i]);
	}
	memory_destroy(d->weight);
	memory_destroy(d->bias);
	memory_destroy(d->codes);
	md_finish(&d->packed);
	md_finish(&d->plain);
	free(d->bias_data);
	free(d->codes_data);
	free(d);
}

static size_t onednn_bytes(const struct dense *d) {
	return d->bytes;
}

static dnnl_status_t bias_create(struct dense *d, const float *b) {
	struct md md = {0};
	size_t bytes = (size_t)d->shape.out * sizeof *b;
	d->bias_data = malloc(bytes);
	if (!d->bias_data)
		return dnnl_out_of_memory;
	memcpy(d->bias_data, b, bytes);
	dnnl_status_t s = md_init(&md, 1, (dnnl_dims_t){d->shape.out}, dnnl_f32, dnnl_a);
	if (s == dnnl_success)
		s = dnnl_memory_create(&d->bias, MD(&md), d->context->engine, d->bias_data);
	md_finish(&md);
	return s;
}

/* Packs for a middling window; other sizes mostly share the packing. */
static dnnl_status_t weight_create(struct dense *d, void *w, dnnl_data_type_t given) {
	const struct dense_shape *s = &d->shape;
	struct dense_window window = {.rows = s->kh > 1 ? 16 + s->kh : 1,
		.cols = 64 * s->stride_w + s->kw - 1,
		.act = ACT_NONE};
	dnnl_memory_t from = NULL;
	dnnl_primitive_desc_t pd = NULL;
	dnnl_status_t st = make_descriptor(&pd, d, &window, &d->packed);
	if (st == dnnl_success)
		st = md_copy(&d->packed, query(pd, dnnl_query_weights_md));
	if (st == dnnl_success) /* [out, kh, kw, in] */
		st = md_init(
			&d->plain, 4, (dnnl_dims_t){s->out, s->in, s->kh, s->kw}, given, dnnl_acdb);
	if (st == dnnl_success)
		st = dnnl_memory_create(&from, MD(&d->plain), d->context->engine, w);
	if (st == dnnl_success)
		st = repack(d->context, &d->weight, MD(&d->packed), from, MD(&d->plain));
	if (st == dnnl_success)
		d->bytes = dnnl_memory_desc_get_size(MD(&d->packed));
	if (given == dnnl_s8)
		d->codes = from;
	else
		memory_destroy(from);
	if (pd)
		dnnl_primitive_desc_destroy(pd);
	return st;
}

/* Like weight_create, from codes that are copied and kept. */
static dnnl_status_t codes_create(struct dense *d, const void *w) {
	const struct dense_shape *s = &d->shape;
	size_t bytes = (size_t)s->out * (size_t)(s->kh * s->kw) * (size_t)s->in;
	d->codes_data = malloc(bytes);
	if (!d->codes_data)
		return dnnl_out_of_memory;
	memcpy(d->codes_data, w, bytes);
	dnnl_status_t st = weight_create(d, d->codes_data, dnnl_s8);
	d->bytes += bytes;
	return st;
}

static struct dense *onednn_create(struct dense_context *c, const struct dense_shape *s,
	const void *w, const float *b, enum precision p, struct error *e) {
	static const dnnl_data_type_t types[] = {[PRECISION_F32] = dnnl_f32,
		[PRECISION_BF16] = dnnl_bf16,
		[PRECISION_INT8] = dnnl_s8};
	struct dense *d = calloc(1, sizeof *d);
	if (!d) {
		error_set(e, -ENOMEM, "cpu: no memory");
		return NULL;
	}
	d->context = c;
	d->shape = *s;
	d->type = types[p];
	alone(c);
	dnnl_status_t st = b ? bias_create(d, b) : dnnl_success;
	if (st == dnnl_success)
		st = p == PRECISION_INT8 ? codes_create(d, w)
					 : weight_create(d, readable(w), dnnl_f32);
	if (st != dnnl_success) {
		error_set(e, st == dnnl_out_of_memory ? -ENOMEM : -EIO,
			"oneDNN: no convolution %d -> %d, %dx%d (status %d)", s->in, s->out, s->kh,
			s->kw, (int)st);
		onednn_destroy(d);
		return NULL;
	}
	return d;
}

extern const struct dense_library dense_onednn;
const struct dense_library dense_onednn = {
	.name = "onednn",
	.open = onednn_open,
	.close = onednn_close,
	.has = onednn_has,
	.create = onednn_create,
	.destroy = onednn_destroy,
	.bytes = onednn_bytes,
	.plan = onednn_plan,
	.run = onednn_run,
};
