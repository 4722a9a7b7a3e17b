/* SPDX-License-Identifier: Apache-2.0 */
/* Choosing a backend by name, its memory, its latched failure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "kernels/backend.h"
#include "kernels/gpu.h"

struct lines {
	char text[4][600];
	int count;
};

static void keep_line(void *ctx, const char *line) {
	struct lines *l = ctx;
	assert_true(l->count < 4);
	snprintf(l->text[l->count++], sizeof l->text[0], "%s", line);
}

static struct backend *create(const char *spec, struct lines *l, struct error *e) {
	*e = (struct error){0};
	return backend_create(
		&(struct backend_config){
			.spec = spec, .threads = 2, .log = l ? keep_line : NULL, .log_ctx = l},
		e);
}

static void bad_names_are_explained(void **state) {
	(void)state;
	static const char *const bad[] = {"gpu", "", "cpu:0", "CPU", "cuda:", "cuda:x", "cuda:64",
		"cuda:1x", "cuda:99999999999999999999", "auto:1", "cpux"};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct error e;
		assert_null(create(bad[i], NULL, &e));
		assert_int_equal(e.code, -22);
		assert_non_null(strstr(e.text, bad[i]));
		assert_non_null(strstr(e.text, "use cpu, cuda"));
	}
}

static void the_isa_limit_is_checked(void **state) {
	(void)state;
	struct error e;
	const char *was = getenv("LIGHTFORCED_CPU_ISA");
	char *kept = was ? strdup(was) : NULL;
	setenv("LIGHTFORCED_CPU_ISA", "sse9", 1);
	assert_null(create("cpu", NULL, &e));
	assert_non_null(strstr(e.text, "LIGHTFORCED_CPU_ISA=sse9"));
	setenv("LIGHTFORCED_CPU_ISA", "baseline", 1);
	struct backend *be = create("cpu", NULL, &e);
	assert_non_null(be);
	assert_non_null(strstr(backend_info(be).name, "2 threads, baseline"));
	backend_destroy(be);
	if (kept)
		setenv("LIGHTFORCED_CPU_ISA", kept, 1);
	else
		unsetenv("LIGHTFORCED_CPU_ISA");
	free(kept);
}

/* Each refusal of a GPU is one line that says which and what to do. */
static void gpus_that_cannot_be_used_are_explained(void **state) {
	(void)state;
	static const struct {
		struct gpu_found found;
		int device;
		const char *which, *fix;
	} bad[] = {
		{{.needs = 13000}, 0, "no NVIDIA driver", "install one for CUDA 13.0"},
		{{.needs = 13000, .driver = 12080, .failure = "insufficient"}, 0,
			"speaks CUDA 12.8", "update the driver"},
		{{.needs = 13000, .driver = 13000, .failure = "busy"}, 0, "(busy)", "nvidia-smi"},
		{{.needs = 13000, .driver = 13010}, 0, "(none found)", "use backend cpu"},
		{{.needs = 13000, .driver = 13010, .count = 1}, 1, "cuda:1 does not exist",
			"is 1 GPU, cuda:0"},
		{{.needs = 13000, .driver = 13010, .count = 2}, 7, "cuda:7 does not exist",
			"are 2 GPUs, cuda:0 and up"},
		{{.needs = 13000,
			 .driver = 13010,
			 .count = 1,
			 .capability = 86,
			 .name = "RTX 3090"},
			0, "RTX 3090 of compute capability 8.6", "8.9 or newer"},
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct error e = {0};
		assert_int_equal(gpu_usable(&bad[i].found, bad[i].device, &e), -19);
		assert_non_null(strstr(e.text, bad[i].which));
		assert_non_null(strstr(e.text, bad[i].fix));
		assert_null(strchr(e.text, '\n'));
	}
	struct gpu_found good = {.needs = 13000, .driver = 13000, .count = 2, .capability = 89};
	assert_int_equal(gpu_usable(&good, 1, NULL), 0);
	good.driver = 14000;
	assert_int_equal(gpu_usable(&good, 0, NULL), 0);
}

/* GPUs are hidden from this process, so it holds everywhere. */
static void without_a_gpu_auto_takes_the_cpu(void **state) {
	(void)state;
	struct error e;
	struct lines l = {.count = 0};
	const char *why = HAVE_CUDA ? "NVIDIA" : "this build has no CUDA";
	assert_null(create("cuda:1", NULL, &e));
	assert_int_equal(e.code, -19);
	assert_non_null(strstr(e.text, why));
	assert_non_null(strstr(e.text, "backend cpu"));
	struct backend *be = create("auto", &l, &e);
	assert_non_null(be);
	assert_string_equal(backend_info(be).kind, "cpu");
	assert_int_equal(l.count, 2);
	assert_non_null(strstr(l.text[0], "backend auto: taking the CPU, because"));
	assert_non_null(strstr(l.text[0], why));
	assert_string_equal(l.text[1], backend_info(be).name);
	backend_destroy(be);
}

static void memory_is_zeroed_aligned_and_counted(void **state) {
	(void)state;
	struct error e;
	struct backend *be = create("cpu", NULL, &e);
	static const size_t sizes[] = {0, 1, 63, 64, 100000, 5 << 20};
	size_t before = backend_allocated(be), sum = 0;
	char *p[6];
	for (int i = 0; i < 6; i++) {
		p[i] = backend_alloc(be, sizes[i], &e);
		assert_non_null(p[i]);
		assert_int_equal((uintptr_t)p[i] % 64, 0);
		for (size_t k = 0; k < sizes[i]; k++)
			assert_int_equal(p[i][k], 0);
		memset(p[i], 1, sizes[i]);
		sum += sizes[i];
	}
	assert_in_range(backend_allocated(be) - before, sum, sum + 6 * 192);
	for (int i = 0; i < 6; i++)
		backend_free(be, p[i]);
	backend_free(be, NULL);
	assert_int_equal(backend_allocated(be), before);
	assert_null(backend_alloc(be, (size_t)1 << 60, &e));
	assert_int_equal(e.code, -12);
	assert_non_null(strstr(e.text, "MiB available"));
	backend_destroy(be);
	backend_destroy(NULL);
}

static void the_first_failure_stays_until_cleared(void **state) {
	(void)state;
	struct error e;
	struct backend *be = create("cpu", NULL, &e);
	float x[6] = {0};
	struct tensor a = tensor_2d(x, DTYPE_F32, 2, 3), b = tensor_2d(x, DTYPE_F32, 1, 3);
	assert_int_equal(backend_error(be, &e), 0);
	backend_ops(be)->activate(be, &b, &a, ACT_RELU);
	backend_ops(be)->rms_norm(be, &a, &a, &a, 1e-6f);
	assert_int_equal(backend_error(be, &e), -22);
	assert_string_equal(e.text, "activate: y is not f32 of x's size: [1, 3] f32");
	struct error again = {0};
	assert_int_equal(backend_wait(be, backend_mark(be), &again), -22);
	assert_int_equal(backend_sync(be, NULL), -22);
	assert_false(backend_sticky(be));
	backend_clear(be);
	assert_int_equal(backend_sync(be, NULL), 0);
	assert_int_equal(backend_reached(be, backend_mark(be)), 1);
	backend_destroy(be);
}

int main(void) {
	setenv("CUDA_VISIBLE_DEVICES", "", 1);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_names_are_explained),
		cmocka_unit_test(the_isa_limit_is_checked),
		cmocka_unit_test(gpus_that_cannot_be_used_are_explained),
		cmocka_unit_test(without_a_gpu_auto_takes_the_cpu),
		cmocka_unit_test(memory_is_zeroed_aligned_and_counted),
		cmocka_unit_test(the_first_failure_stays_until_cleared),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
