/* SPDX-License-Identifier: Apache-2.0 */
/* What a backend promises beside its ops: a lane in order with the stream,
 * uploads whose source may be reused, recordings that do what the code did and
 * are given up where they must be, times between marks, an account of
 * allocations. A plain program, one line a case, exit 77 without the device.
 *
 *	test_lane [cpu|cuda[:N]] */
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"

#define ROWS 64
#define COLS 4096
#define ROUNDS 400

static struct backend *be, *lane;
static const struct ops *ops;
static int failures;

static void tell(const char *name, bool ok) {
	printf("%-60s %s\n", name, ok ? "ok" : "FAILED");
	failures += !ok;
}

static struct tensor make(int64_t rows, int64_t cols) {
	struct error e = {0};
	struct tensor t = tensor_2d(NULL, DTYPE_F32, rows, cols);
	t.data = backend_alloc(be, tensor_bytes(&t), &e);
	if (!t.data) {
		fprintf(stderr, "test_lane: %s\n", e.text);
		exit(1);
	}
	return t;
}

static float *host(size_t count) {
	struct error e = {0};
	float *p = backend_alloc_pinned(be, count * sizeof *p, &e);
	if (!p) {
		fprintf(stderr, "test_lane: %s\n", e.text);
		exit(1);
	}
	return p;
}

static bool all_are(const float *f, int64_t n, float want) {
	for (int64_t i = 0; i < n; i++) {
		if (f[i] != want)
			return false;
	}
	return true;
}

/* The same few bytes of host memory, written over after every call. */
static void uploads_are_taken_at_once(void) {
	const int count = ROUNDS * 4;
	struct tensor t = make(count, COLS);
	float *row = malloc(COLS * sizeof *row), *back = malloc(tensor_bytes(&t));
	for (int i = 0; i < count; i++) {
		for (int c = 0; c < COLS; c++)
			row[c] = (float)i;
		backend_upload(be, (float *)t.data + (int64_t)i * COLS, row, COLS * sizeof *row);
	}
	backend_download(be, back, t.data, tensor_bytes(&t));
	bool ok = true;
	for (int i = 0; i < count; i++)
		ok = ok && all_are(back + (int64_t)i * COLS, COLS, (float)i);
	tell("uploads: the source may be reused at once", ok);
	backend_free(be, t.data);
	free(row);
	free(back);
}

/* Main counts up, the lane copies out in between; each waits for the other. */
static void lanes_keep_order(void) {
	struct tensor x = make(ROWS, COLS), one = make(1, COLS),
		      copy[2] = {make(ROWS, COLS), make(ROWS, COLS)};
	float *ones = malloc(COLS * sizeof *ones), *out = host((size_t)ROUNDS * COLS);
	uint64_t read[2] = {0, 0};
	for (int c = 0; c < COLS; c++)
		ones[c] = 1;
	backend_upload(be, one.data, ones, COLS * sizeof *ones);
	for (int i = 0; i < ROUNDS; i++) {
		struct tensor *to = &copy[i & 1];
		for (int k = 0; k < 4; k++)
			ops->add_rows(be, &x, &x, &one);
		if (read[i & 1])
			backend_order(be, lane, read[i & 1]);
		backend_copy(be, to->data, x.data, tensor_bytes(&x));
		backend_order(lane, be, backend_mark(be));
		backend_ops(lane)->activate(lane, to, to, ACT_RELU);
		backend_download_async(lane, out + (int64_t)i * COLS,
			(float *)to->data + (ROWS - 1) * COLS, COLS * sizeof(float));
		read[i & 1] = backend_mark(lane);
	}
	struct error e = {0};
	bool ok = backend_wait(lane, read[(ROUNDS - 1) & 1], &e) == 0;
	for (int i = 0; i < ROUNDS; i++)
		ok = ok && all_are(out + (int64_t)i * COLS, COLS, 4 * (float)(i + 1));
	tell("lane: each reads what was ordered before it", ok);
	backend_sync(be, NULL);
	backend_free(be, x.data);
	backend_free(be, one.data);
	backend_free(be, copy[0].data);
	backend_free(be, copy[1].data);
	backend_free(be, out);
	free(ones);
}

struct key {
	const void *x;
	int64_t times;
};

static int enqueue(
	struct backend *on, struct tensor *x, const struct tensor *one, int times, bool upload) {
	const struct key key = {x->data, times + 1000 * upload};
	int ran = 0;
	if (backend_replay(on, &key, sizeof key))
		return 0;
	do {
		ran++;
		for (int k = 0; k < times; k++)
			backend_ops(on)->add_rows(on, x, x, one);
		if (upload)
			backend_upload(on, (void *)one->data, (float[]){1}, sizeof(float));
	} while (backend_record_end(on));
	return ran;
}

static void recordings_do_what_the_code_did(struct backend *on, const char *title) {
	struct tensor x = make(ROWS, COLS), one = make(1, COLS);
	float *ones = malloc(COLS * sizeof *ones), *back = malloc(tensor_bytes(&x));
	for (int c = 0; c < COLS; c++)
		ones[c] = 1;
	backend_upload(on, one.data, ones, COLS * sizeof *ones);
	int ran = 0, want = 0;
	for (int i = 0; i < 10; i++) {
		ran += enqueue(on, &x, &one, 3, false) + enqueue(on, &x, &one, 5, false);
		want += 8;
	}
	backend_download(on, back, x.data, tensor_bytes(&x));
	bool gpu = strcmp(backend_info(be).kind, "cuda") == 0;
	bool ok = all_are(back, ROWS * COLS, (float)want) && ran == (gpu ? 4 : 20);
	for (int i = 0; i < 4; i++) {
		enqueue(on, &x, &one, 2, true);
		want += 2;
	}
	backend_download(on, back, x.data, tensor_bytes(&x));
	struct error e = {0};
	ok = ok && all_are(back, ROWS * COLS, (float)want) && backend_error(be, &e) == 0;
	struct backend_recordings made = backend_recordings(be);
	ok = ok && (!gpu || (made.held == 2 && made.refused > 0));
	tell(title, ok);
	printf("  ran %d of 20 times; held %d, recorded %lld, replayed %lld, refused %lld; %s\n",
		ran, made.held, (long long)made.recorded, (long long)made.replayed,
		(long long)made.refused, e.text);
	backend_free(be, x.data);
	tell("recordings: forgotten when memory is freed", backend_recordings(be).held == 0);
	backend_free(be, one.data);
	free(ones);
	free(back);
}

static void marks_have_times(void) {
	struct tensor x = make(1024, COLS), one = make(1, COLS);
	uint64_t from = backend_mark(be);
	for (int i = 0; i < 200; i++)
		ops->add_rows(be, &x, &x, &one);
	uint64_t to = backend_mark(be);
	struct error e = {0};
	bool ok = backend_wait(be, to, &e) == 0 && backend_reached(be, from) &&
		  backend_reached(be, to);
	int64_t us = backend_elapsed_us(be, from, to);
	/* 200 times 16 MiB read and written: not under a millisecond anywhere. */
	ok = ok && us > 1000 && us < 60000000;
	for (int i = 0; i < 2000; i++)
		backend_mark(be);
	ok = ok && backend_sync(be, &e) == 0 && backend_elapsed_us(be, from, to) == 0;
	tell("marks: times between them, for the last thousand", ok);
	printf("  %lld us\n", (long long)us);
	backend_free(be, x.data);
	backend_free(be, one.data);
}

static void allocations_are_counted(void) {
	uint64_t before = backend_allocations(be);
	size_t held = backend_allocated(be);
	struct tensor x = make(4, COLS);
	float *p = host(16);
	bool ok = backend_allocations(be) == before + 2 && backend_allocated(lane) > held;
	backend_free(be, p);
	backend_free(lane, x.data);
	tell("allocations: counted, one account", ok && backend_allocated(be) == held);
}

int main(int argc, char **argv) {
	struct error e = {0};
	const struct backend_config c = {.spec = argc > 1 ? argv[1] : "cuda", .threads = 1};
	be = backend_create(&c, &e);
	if (!be) {
		printf("test_lane: skipped, %s\n", e.text);
		return 77;
	}
	lane = backend_lane(be);
	ops = backend_ops(be);
	uploads_are_taken_at_once();
	lanes_keep_order();
	recordings_do_what_the_code_did(be, "recordings: on the stream");
	recordings_do_what_the_code_did(lane, "recordings: on the lane");
	marks_have_times();
	allocations_are_counted();
	tell("no failure is left", backend_sync(be, &e) == 0);
	if (e.code)
		printf("  %s\n", e.text);
	backend_destroy(be);
	printf("test_lane: %d failed\n", failures);
	return failures ? 1 : 0;
}
