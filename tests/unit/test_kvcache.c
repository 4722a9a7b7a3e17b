/* SPDX-License-Identifier: Apache-2.0 */
/* The key cache against a plain model of it: which frames are visible and in
 * which order, for sinks of any length; where a relative sink stands, even
 * after a million frames. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvcache.h"

enum { LAYERS = 2, HEADS = 2, HEAD_DIM = 12, FRAME_TOKENS = 5, BLOCK = 2, TIME_PAIRS = 2 };
#define FRAME_FLOATS (FRAME_TOKENS * HEADS * HEAD_DIM)
#define THETA 10000.0

static struct backend *be;

static int backend_open(void **state) {
	(void)state;
	be = backend_create(&(struct backend_config){.spec = "cpu", .threads = 1}, NULL);
	return be ? 0 : -1;
}

static int backend_close(void **state) {
	(void)state;
	backend_destroy(be);
	return 0;
}

struct fixture {
	struct arena *arena;
	struct kvcache *cache;
};

static struct kvcache_config config(int window, int sink, int chunk, enum rope_sink rope) {
	return (struct kvcache_config){.layers = LAYERS,
		.window_frames = window,
		.sink_frames = sink,
		.chunk_frames = chunk,
		.pass_frames = chunk,
		.rope_sink = rope,
		.theta = THETA,
		.shape = {.heads = HEADS,
			.head_dim = HEAD_DIM,
			.frame_tokens = FRAME_TOKENS,
			.block = BLOCK,
			.dtype = DTYPE_F32}};
}

static struct fixture open_cache(const struct kvcache_config *c) {
	struct error e = {0};
	struct fixture f = {.arena = arena_measure(be)};
	f.cache = kvcache_create(be, c, f.arena, &e);
	assert_non_null(f.cache);
	size_t bytes = arena_peak(f.arena);
	kvcache_destroy(f.cache);
	arena_destroy(f.arena);
	f.arena = arena_create(be, bytes, &e);
	f.cache = kvcache_create(be, c, f.arena, &e);
	assert_non_null(f.cache);
	assert_int_equal(arena_failed(f.arena, &e), 0);
	return f;
}

static void close_cache(struct fixture *f) {
	kvcache_destroy(f->cache);
	arena_destroy(f->arena);
}

/* A key before it is turned: fixed noise that depends on frame, layer and place. */
static float base_key(int64_t frame, int layer, int i) {
	uint64_t z =
		(uint64_t)frame * 0x9e3779b97f4a7c15u + (uint64_t)(layer * 7919 + i) * 0xbf58476du;
	z = (z ^ (z >> 29)) * 0x94d049bb133111ebu;
	return (float)((double)(z >> 40) / (1 << 24) - .5);
}

/* The same key standing at `position`: its first pairs turn with time. */
static double key_at(int64_t frame, int layer, int i, double position) {
	int c = i % HEAD_DIM, pair = c / 2;
	if (pair >= TIME_PAIRS)
		return base_key(frame, layer, i);
	double angle = position * pow(THETA, -(double)pair / TIME_PAIRS);
	double a = base_key(frame, layer, i - c % 2), b = base_key(frame, layer, i - c % 2 + 1);
	return c % 2 ? a * sin(angle) + b * cos(angle) : a * cos(angle) - b * sin(angle);
}

/* What a pass does: keys turned by their absolute frame, values that name it. */
static void write_open_frames(struct kvcache *k, int frames, int salt) {
	float *key = malloc((size_t)frames * FRAME_FLOATS * sizeof *key);
	float *value = malloc((size_t)frames * FRAME_FLOATS * sizeof *value);
	assert_true(key && value);
	for (int l = 0; l < LAYERS; l++) {
		struct kv_span slot = kvcache_slot(k, l);
		assert_int_equal(slot.count, frames);
		for (int f = 0; f < frames; f++) {
			int64_t frame = kvcache_frame(k) + f;
			for (int i = 0; i < FRAME_FLOATS; i++) {
				key[f * FRAME_FLOATS + i] =
					(float)key_at(frame, l, i, (double)frame);
				value[f * FRAME_FLOATS + i] = (float)(frame % 100000 + salt);
			}
		}
		struct tensor kt =
			tensor_3d(key, DTYPE_F32, frames * FRAME_TOKENS, HEADS, HEAD_DIM);
		struct tensor vt =
			tensor_3d(value, DTYPE_F32, frames * FRAME_TOKENS, HEADS, HEAD_DIM);
		backend_ops(be)->kv_import(be, &slot, &kt, &vt);
	}
	free(key);
	free(value);
}

/* Keys and values of the visible frames, in order. */
struct seen {
	int frames, spans;
	float *k, *v;
};

static struct seen look(const struct kvcache *k, int layer) {
	struct kv_span spans[KV_SPANS_MAX];
	struct seen s = {.frames = kvcache_visible_frames(k)};
	s.spans = kvcache_spans(k, layer, spans);
	s.k = malloc((size_t)s.frames * FRAME_FLOATS * sizeof *s.k);
	s.v = malloc((size_t)s.frames * FRAME_FLOATS * sizeof *s.v);
	assert_true(s.k && s.v);
	int at = 0;
	for (int i = 0; i < s.spans; i++) {
		int rows = spans[i].count * FRAME_TOKENS;
		assert_true(spans[i].count > 0);
		assert_true(spans[i].first + spans[i].count <= spans[i].store->shape.frames);
		assert_true(at + spans[i].count <= s.frames);
		struct tensor kt = tensor_3d(
			s.k + (size_t)at * FRAME_FLOATS, DTYPE_F32, rows, HEADS, HEAD_DIM);
		struct tensor vt = tensor_3d(
			s.v + (size_t)at * FRAME_FLOATS, DTYPE_F32, rows, HEADS, HEAD_DIM);
		backend_ops(be)->kv_export(be, &kt, &vt, &spans[i]);
		at += spans[i].count;
	}
	assert_int_equal(at, s.frames);
	return s;
}

static void seen_free(struct seen *s) {
	free(s->k);
	free(s->v);
}

/* Frames that a chunk ending before `end` must see, oldest first. */
static int expected_frames(int window, int sink, int chunk, int64_t end, int64_t *frame) {
	int n = 0;
	int64_t past = end - chunk, held = past < sink ? past : sink;
	for (int64_t f = 0; f < held; f++)
		frame[n++] = f;
	int64_t low = end - (window - sink);
	for (int64_t f = low > held ? low : held; f < end; f++)
		frame[n++] = f;
	return n;
}

static void visible_frames_are_sink_then_newest(void **state) {
	(void)state;
	static const struct {
		int window, sink, chunk;
	} cases[] = {{21, 3, 3}, {9, 3, 3}, {9, 0, 3}, {12, 1, 3}, {11, 4, 3}, {7, 4, 3}, {6, 3, 3},
		{5, 1, 1}, {8, 0, 2}, {16, 5, 4}, {3, 0, 3}};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		const int w = cases[i].window, s = cases[i].sink, c = cases[i].chunk;
		struct kvcache_config conf = config(w, s, c, ROPE_SINK_FIXED);
		struct fixture f = open_cache(&conf);
		int most_spans = 0;
		for (int64_t end = c; end <= 6 * w; end += c) {
			int64_t want[64];
			int n = expected_frames(w, s, c, end, want);
			kvcache_begin(f.cache, c);
			/* Two passes write the same slots: the second one counts. */
			write_open_frames(f.cache, c, 50);
			write_open_frames(f.cache, c, 0);
			assert_int_equal(kvcache_frame(f.cache), end - c);
			assert_int_equal(kvcache_visible_frames(f.cache), n);
			assert_true(n <= w);
			for (int l = 0; l < LAYERS; l++) {
				struct seen seen = look(f.cache, l);
				most_spans = seen.spans > most_spans ? seen.spans : most_spans;
				for (int k = 0; k < n; k++) {
					assert_true(
						seen.v[(size_t)k * FRAME_FLOATS] == (float)want[k]);
					/* A fixed sink keeps the place it was made at. */
					for (int x = 0; x < FRAME_FLOATS; x++)
						assert_true(seen.k[(size_t)k * FRAME_FLOATS + x] ==
							    (float)key_at(want[k], l, x,
								    (double)want[k]));
				}
				seen_free(&seen);
			}
			kvcache_commit(f.cache);
			assert_int_equal(kvcache_next(f.cache), end);
			assert_int_equal(kvcache_sink_held(f.cache), end < s ? end : s);
		}
		/* A ring that is longer than the chunk must have wrapped. */
		if (w - s > c)
			assert_int_equal(most_spans, s ? 3 : 2);
		close_cache(&f);
	}
}

/* Worst distance of the visible keys from where they should stand: `first`
 * frames of the sink right before the oldest of the ring. */
static double stand_error(const struct kvcache *k, int sink, int64_t low) {
	double worst = 0;
	for (int l = 0; l < LAYERS; l++) {
		struct seen s = look(k, l);
		for (int f = 0; f < sink; f++) {
			for (int x = 0; x < FRAME_FLOATS; x++) {
				double want = key_at(f, l, x, (double)(low - sink + f));
				worst = fmax(worst,
					fabs(want - (double)s.k[(size_t)f * FRAME_FLOATS + x]));
			}
		}
		seen_free(&s);
	}
	return worst;
}

static void relative_sink_stays_before_the_window(void **state) {
	(void)state;
	struct kvcache_config conf = config(9, 3, 3, ROPE_SINK_RELATIVE);
	struct fixture f = open_cache(&conf);
	double worst = 0;
	for (int64_t end = 3; end <= 3 * 3000; end += 3) {
		kvcache_begin(f.cache, 3);
		write_open_frames(f.cache, 3, 0);
		int64_t low = end - 6 > 3 ? end - 6 : 3;
		if (end > 3 && (end < 60 || end % 999 == 0))
			worst = fmax(worst, stand_error(f.cache, 3, low));
		kvcache_commit(f.cache);
	}
	/* Keys are below 1, so one rounding of key and one of the turned key: 1.2e-7;
	 * after 3000 slides a chain of turns would stand at 1e-5. Observed 8e-8. */
	assert_true(worst < 2e-7);
	/* A million frames on. */
	kvcache_rewind(f.cache, 999999);
	kvcache_begin(f.cache, 3);
	write_open_frames(f.cache, 3, 0);
	assert_int_equal(kvcache_visible_frames(f.cache), 6);
	assert_true(stand_error(f.cache, 3, 999999) < 2e-7);
	close_cache(&f);
}

static void relative_sink_of_one_frame_closes_the_gap(void **state) {
	(void)state;
	struct kvcache_config conf = config(6, 1, 3, ROPE_SINK_RELATIVE);
	struct fixture f = open_cache(&conf);
	for (int64_t end = 3; end <= 30; end += 3) {
		kvcache_begin(f.cache, 3);
		write_open_frames(f.cache, 3, 0);
		if (end > 3) {
			int64_t low = end - 5 > 1 ? end - 5 : 1;
			assert_true(stand_error(f.cache, 1, low) < 2e-7);
		}
		kvcache_commit(f.cache);
	}
	close_cache(&f);
}

static void restart_forgets_everything(void **state) {
	(void)state;
	struct kvcache_config conf = config(9, 3, 3, ROPE_SINK_RELATIVE);
	struct fixture f = open_cache(&conf);
	for (int i = 0; i < 7; i++) {
		kvcache_begin(f.cache, 3);
		write_open_frames(f.cache, 3, 0);
		kvcache_commit(f.cache);
	}
	kvcache_restart(f.cache);
	assert_int_equal(kvcache_next(f.cache), 0);
	assert_int_equal(kvcache_sink_held(f.cache), 0);
	kvcache_begin(f.cache, 3);
	assert_int_equal(kvcache_visible_frames(f.cache), 3);
	write_open_frames(f.cache, 3, 0);
	kvcache_commit(f.cache);
	kvcache_begin(f.cache, 3);
	write_open_frames(f.cache, 3, 0);
	assert_int_equal(kvcache_visible_frames(f.cache), 6);
	assert_true(stand_error(f.cache, 3, 3) < 2e-7); /* the new sink, not yet turned */
	close_cache(&f);
}

static void rewind_keeps_the_sink_and_hides_the_gap(void **state) {
	(void)state;
	struct kvcache_config conf = config(12, 3, 3, ROPE_SINK_FIXED);
	struct fixture f = open_cache(&conf);
	for (int i = 0; i < 6; i++) {
		kvcache_begin(f.cache, 3);
		write_open_frames(f.cache, 3, 0);
		kvcache_commit(f.cache);
	}
	kvcache_rewind(f.cache, 12);
	static const int visible[] = {6, 9, 12, 12};
	for (int i = 0; i < 4; i++) {
		kvcache_begin(f.cache, 3);
		write_open_frames(f.cache, 3, 0);
		assert_int_equal(kvcache_visible_frames(f.cache), visible[i]);
		struct seen s = look(f.cache, 0);
		assert_true(s.v[0] == 0); /* the sink */
		int64_t low = 12 + 3 * i + 3 - (visible[i] - 3);
		assert_true(s.v[(size_t)3 * FRAME_FLOATS] == (float)low);
		seen_free(&s);
		kvcache_commit(f.cache);
	}
	close_cache(&f);
}

static void a_joint_pass_lies_in_one_run(void **state) {
	(void)state;
	struct kvcache_config conf = config(12, 3, 3, ROPE_SINK_FIXED);
	conf.pass_frames = 12;
	struct fixture f = open_cache(&conf);
	for (int i = 0; i < 7; i++) {
		kvcache_begin(f.cache, 3);
		write_open_frames(f.cache, 3, 0);
		kvcache_commit(f.cache);
	}
	kvcache_rewind(f.cache, 21 - 12);
	kvcache_begin(f.cache, 12);
	write_open_frames(f.cache, 12, 0);
	assert_int_equal(kvcache_visible_frames(f.cache), 12); /* sink + the newest 9 */
	struct seen s = look(f.cache, 0);
	assert_true(s.v[(size_t)2 * FRAME_FLOATS] == 2);
	assert_true(s.v[(size_t)3 * FRAME_FLOATS] == 12);
	seen_free(&s);
	kvcache_commit(f.cache);
	kvcache_begin(f.cache, 3);
	write_open_frames(f.cache, 3, 0);
	s = look(f.cache, 0);
	assert_int_equal(s.frames, 12);
	assert_true(s.v[(size_t)3 * FRAME_FLOATS] == 15);
	assert_true(s.v[(size_t)11 * FRAME_FLOATS] == 23);
	seen_free(&s);
	close_cache(&f);
}

static void windows_that_hold_no_chunk_are_refused(void **state) {
	(void)state;
	struct arena *a = arena_measure(be);
	static const int bad[][3] = {{5, 3, 3}, {3, 3, 3}, {9, -1, 3}, {2, 0, 3}};
	for (int i = 0; i < 4; i++) {
		struct error e = {0};
		struct kvcache_config c = config(bad[i][0], bad[i][1], bad[i][2], ROPE_SINK_FIXED);
		assert_null(kvcache_create(be, &c, a, &e));
		assert_int_equal(e.code, -EINVAL);
		assert_non_null(strstr(e.text, "cache.window_frames"));
	}
	arena_destroy(a);
	kvcache_destroy(NULL);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(visible_frames_are_sink_then_newest),
		cmocka_unit_test(relative_sink_stays_before_the_window),
		cmocka_unit_test(relative_sink_of_one_frame_closes_the_gap),
		cmocka_unit_test(restart_forgets_everything),
		cmocka_unit_test(rewind_keeps_the_sink_and_hides_the_gap),
		cmocka_unit_test(a_joint_pass_lies_in_one_run),
		cmocka_unit_test(windows_that_hold_no_chunk_are_refused),
	};
	return cmocka_run_group_tests(tests, backend_open, backend_close);
}
