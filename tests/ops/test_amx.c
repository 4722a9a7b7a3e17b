/* SPDX-License-Identifier: Apache-2.0 */
/* The AMX attention on any CPU: its tile instructions are played by loops that
 * insist on matching shapes, and its results are compared with those of plain
 * bf16 attention. Says nothing about speed, nor about real tile registers. */
#define CPU_ISA emulated /* names attention16_emulated, before isa.h is read */
#include "tests/ops/ops_test.h"

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu.h"

/* ---- tiles: rows by 64 bytes, as palette 1 has them ---- */

struct tile {
	int rows, bytes;
	uint8_t data[16][64];
};

static _Thread_local struct tile tile[8];
static _Thread_local bool configured;

static void tile_configure(const void *config) {
	const uint8_t *c = config;
	assert_int_equal(c[0], 1);
	for (int i = 0; i < 8; i++) {
		uint16_t bytes;
		memcpy(&bytes, c + 16 + 2 * i, sizeof bytes);
		tile[i] = (struct tile){.rows = c[48 + i], .bytes = bytes};
		assert_true(tile[i].rows <= 16 && tile[i].bytes <= 64 && tile[i].bytes % 4 == 0);
	}
	configured = true;
}

static void tile_load(int t, const void *from, int64_t stride) {
	assert_true(configured && tile[t].rows > 0);
	memset(tile[t].data, 0, sizeof tile[t].data);
	for (int r = 0; r < tile[t].rows; r++)
		memcpy(tile[t].data[r], (const char *)from + r * stride, (size_t)tile[t].bytes);
}

static void tile_store(int t, void *to, int64_t stride) {
	for (int r = 0; r < tile[t].rows; r++)
		memcpy((char *)to + r * stride, tile[t].data[r], (size_t)tile[t].bytes);
}

static float tile_half(const struct tile *t, int row, int index) {
	uint16_t x;
	memcpy(&x, t->data[row] + 2 * index, sizeof x);
	return bf16_value(x);
}

static void tile_multiply(int sum, int a, int b) {
	assert_int_equal(tile[a].bytes / 4, tile[b].rows);
	assert_int_equal(tile[sum].rows, tile[a].rows);
	assert_int_equal(tile[sum].bytes, tile[b].bytes);
	for (int m = 0; m < tile[sum].rows; m++) {
		for (int n = 0; n < tile[sum].bytes / 4; n++) {
			float x;
			memcpy(&x, tile[sum].data[m] + 4 * n, sizeof x);
			for (int k = 0; k < tile[b].rows; k++)
				x += tile_half(&tile[a], m, 2 * k) * tile_half(&tile[b], k, 2 * n) +
				     tile_half(&tile[a], m, 2 * k + 1) *
					     tile_half(&tile[b], k, 2 * n + 1);
			memcpy(tile[sum].data[m] + 4 * n, &x, sizeof x);
		}
	}
}

#define TILES_EMULATED 1
#define _tile_loadconfig tile_configure
#define _tile_zero(t) memset(tile[t].data, 0, sizeof tile[t].data)
#define _tile_loadd tile_load
#define _tile_stored tile_store
#define _tile_dpbf16ps tile_multiply
#define _tile_release() (configured = false)
#include "kernels/cpu/attention16.c"

static struct fixture fx;

struct geometry {
	int heads, c, s, block, frames, current, kept;
};

/* kept 0: dense */
static const struct geometry shapes[] = {
	{1, 32, 16, 16, 1, 1, 0},
	{2, 64, 144, 16, 3, 3, 11},
	{1, 128, 152, 64, 2, 1, 2},
	{2, 32, 200, 192, 2, 1, 0},
	{1, 64, 96, 32, 3, 2, 4},
	{1, 96, 40, 16, 2, 1, 3},
};

static float *attend(const struct attention16 *how, const struct geometry *g,
	const struct tensor *q, const struct kv_span *span) {
	struct tensor y = fixture_tensor(&fx, DTYPE_F32, DIMS(g->current * g->s, g->heads * g->c));
	int blocks = (g->s + g->block - 1) / g->block, rows = g->heads * g->current * blocks;
	int32_t index[1024];
	assert_true(rows * g->kept <= 1024);
	for (int i = 0; i < rows * g->kept; i++) /* ascending, others for each row */
		index[i] = i % g->kept + i / g->kept % (blocks * g->frames - g->kept + 1);
	struct block_list list = {g->heads, g->current * blocks, g->kept, index};
	cpu_of(fx.be)->attention16 = how;
	fx.ops->attention(fx.be, &y, q, span, 1, g->kept ? &list : NULL);
	return fixture_download(&fx, &y);
}

static void tiles_agree_with_plain_pairs(void **state) {
	(void)state;
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		const struct geometry *g = &shapes[i];
		int64_t row = (int64_t)g->heads * g->c, n = g->current * g->s, m = g->frames * g->s;
		float *hq = fixture_host(&fx, n * row, 1.5f, 0),
		      *hk = fixture_host(&fx, m * row, 1, 0);
		float *hv = fixture_host(&fx, m * row, 1, 0.5f);
		struct tensor q = fixture_upload(&fx, hq, DIMS(n, row)),
			      k = fixture_upload(&fx, hk, DIMS(m, row));
		struct tensor v = fixture_upload(&fx, hv, DIMS(m, row));
		struct kv_store store = {
			.shape = {g->heads, g->c, g->s, g->block, g->frames, DTYPE_BF16}};
		store.data = fixture_bytes(&fx, fx.ops->kv_bytes(&store.shape));
		struct kv_span span = {&store, 0, g->frames};
		fx.ops->kv_import(fx.be, &span, &k, &v);
		float *plain = attend(NULL, g, &q, &span),
		      *tiles = attend(&attention16_emulated, g, &q, &span);
		double error = compare_max(tiles, plain, n * row);
		printf("    tiles: %.2g\n", error);
		/* sums in another order now and then round a weight the other way: 2^-8 of
		 * one weight of many; observed: 7e-6 at worst */
		assert_true(error < 1e-3);
		free(plain);
		free(tiles);
		free(hq);
		free(hk);
		free(hv);
		fixture_reset(&fx);
	}
}

int main(void) {
	fx = fixture_create();
	const struct CMUnitTest tests[] = {cmocka_unit_test(tiles_agree_with_plain_pairs)};
	int failed = cmocka_run_group_tests_name("amx", tests, NULL, NULL);
	fixture_destroy(&fx);
	return failed;
}
