/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors files and sets of them: what is read is what was written, and
 * each broken file is refused with the words that tell how it is broken. */
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

#include "engine/safetensors.h"
#include "engine/sha256.h"
#include "engine/weights.h"
#include "tests/support/fake_backend.h"

static char dir[] = "/tmp/test_weights_XXXXXX";

static int make_dir(void **state) {
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
	(void)state;
	return rmdir(dir);
}

/* Writes header and data as a safetensors file under the test folder. */
static void file_write(const char *name, const char *header, const void *data, size_t bytes) {
	char path[128];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *f = fopen(path, "wb");
	assert_non_null(f);
	uint64_t length = strlen(header);
	assert_int_equal(fwrite(&length, 8, 1, f), 1);
	assert_int_equal(fwrite(header, 1, length, f), length);
	assert_int_equal(fwrite(data, 1, bytes, f), bytes);
	assert_int_equal(fclose(f), 0);
}

static void file_remove(const char *name) {
	char path[128];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	assert_int_equal(unlink(path), 0);
}

struct fault {
	const char *header;
	size_t data_bytes;
	const char *says; /* part of the message */
};

static const struct fault faults[] = {
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}", 8,
		"header is not valid JSON"},
	{"[]", 0, "header is not a JSON object"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
	 "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
		8, "duplicate object key"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7,
		"tensor 'a' ends at byte 8 of 7: the file is truncated"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9,
		"the last 1 bytes belong to no tensor"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
		"4 bytes before tensor 'a' belong to no tensor"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
	 "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
		12, "tensors 'a' and 'b' overlap"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8,
		"tensor 'a': shape and dtype need 12 bytes, data_offsets give 8"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8,
		"8 .. 0 are out of order"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8,
		"-8 .. 0 are out of order"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8,
		"data_offsets must be two"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8.0]}}", 8,
		"data_offsets must be two"},
	{"{\"a\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8,
		"dtype 'F64' is not one of F32"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8,
		"shape[0] is not a natural number"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":\"2\",\"data_offsets\":[0,8]}}", 8,
		"shape must be a list of at most 6"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8,
		"shape must be a list of at most 6"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
		"shape has too many elements"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "must have dtype, shape and data_offsets"},
	{"{\"a\":7}", 0, "must have dtype, shape and data_offsets"},
	{"{\"\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0,
		"tensor name '' has 0 bytes"},
	{"{\"__metadata__\":{\"k\":1}}", 0, "__metadata__ 'k' must be a string"},
	{"{\"__metadata__\":[]}", 0, "__metadata__ must be an object of strings"},
};

static void broken_files_say_how(void **state) {
	(void)state;
	const char data[16] = {0};
	for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
		struct error e = {0};
		file_write("broken.safetensors", faults[i].header, data, faults[i].data_bytes);
		assert_null(weights_open(dir, (const char *[]){"broken.safetensors"}, 1, NULL, &e));
		if (!strstr(e.text, faults[i].says) || !strstr(e.text, "broken.safetensors"))
			fail_msg("fault %zu says: %s", i, e.text);
		file_remove("broken.safetensors");
	}
}

static void impossible_lengths_are_refused(void **state) {
	(void)state;
	static const struct {
		const char *bytes;
		size_t size;
		const char *says;
	} cases[] = {
		{"", 0, "0 bytes, too short"},
		{"\1\0\0\0\0\0\0", 7, "7 bytes, too short"},
		{"\3\0\0\0\0\0\0\0{}", 10, "header of 3 bytes does not fit the file of 10"},
		{"\377\377\377\377\377\377\377\377{}", 10, "at most 100000000 are allowed"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct safetensors s;
		struct error e = {0};
		assert_true(safetensors_parse(&s, cases[i].bytes, cases[i].size, "x", &e) < 0);
		assert_non_null(strstr(e.text, cases[i].says));
	}
	struct error e = {0};
	assert_null(weights_open(dir, (const char *[]){"absent.safetensors"}, 1, NULL, &e));
	assert_int_equal(e.code, -ENOENT);
	assert_non_null(strstr(e.text, "absent.safetensors: No such file"));
}

/* One tensor, or one byte of a name, more than allowed. */
static void limits_are_kept(void **state) {
	(void)state;
	size_t size = (size_t)(SAFETENSORS_COUNT_MAX + 1) * 64, at = 8;
	char *file = malloc(size);
	for (int i = 0; i <= SAFETENSORS_COUNT_MAX; i++)
		at += (size_t)snprintf(file + at, size - at,
			"%c\"%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
			i ? ',' : '{', i);
	file[at++] = '}';
	uint64_t length = at - 8;
	memcpy(file, &length, 8);
	struct safetensors s;
	struct error e = {0}, name = {0};
	assert_int_equal(safetensors_parse(&s, file, at, "many", &e), -EINVAL);
	assert_string_equal(e.text, "many: 65537 tensors, at most 65536 are allowed");
	at = 8 + (size_t)sprintf(file + 8,
			 "{\"%0*d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
			 SAFETENSORS_NAME_MAX + 1, 0);
	length = at - 8;
	memcpy(file, &length, 8);
	assert_int_equal(safetensors_parse(&s, file, at, "long", &name), -EINVAL);
	assert_non_null(strstr(name.text, "has 257 bytes, 1 to 256 are allowed"));
	free(file);
}

/* Every dtype, with the values that its conversion could get wrong. */
static void values_of_every_dtype(void **state) {
	(void)state;
	static const char header[] =
		"{\"__metadata__\":{\"n\":\"3\",\"list\":\"[1,2]\",\"raw\":\"plain words\"},"
		"\"f32\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
		"\"f16\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[8,16]},"
		"\"bf16\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[16,20]},"
		"\"q.weight\":{\"dtype\":\"F8_E4M3\",\"shape\":[2,3],\"data_offsets\":[20,26]},"
		"\"q.weight_scale\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[26,34]},"
		"\"p.weight\":{\"dtype\":\"I8\",\"shape\":[2,1],\"data_offsets\":[34,36]},"
		"\"p.scale_weight\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[36,40]},"
		"\"u8\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[40,41]},"
		"\"i32\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[41,45]},"
		"\"i64\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[45,53]}}";
	unsigned char data[53] = {0};
	memcpy(data, (float[]){1.5f, -2}, 8);
	memcpy(data + 8, (uint16_t[]){0x3c00, 0xc000, 0x0001, 0x7bff}, 8);
	memcpy(data + 16, (uint16_t[]){0x3f80, 0xc020}, 4);
	memcpy(data + 20, (uint8_t[]){0x38, 0x7e, 0x01, 0xb8, 0x00, 0x08}, 6);
	memcpy(data + 26, (float[]){2, 4}, 8);
	memcpy(data + 34, (int8_t[]){-127, 3}, 2);
	memcpy(data + 36, (float[]){0.5f}, 4);
	data[40] = 200;
	memcpy(data + 41, (int32_t[]){-70000}, 4);
	memcpy(data + 45, (int64_t[]){-3}, 8);
	file_write("all.safetensors", header, data, sizeof data);
	struct error e = {0};
	struct weights *w = weights_open(dir, (const char *[]){"all.safetensors"}, 1, NULL, &e);
	assert_non_null(w);
	static const struct {
		const char *name;
		int count;
		float value[6];
	} want[] = {
		{"f32", 2, {1.5f, -2}},
		{"f16", 4, {1, -2, 0x1p-24f, 65504}},
		{"bf16", 2, {1, -2.5f}},
		{"q.weight", 6, {2, 896, 0x1p-8f, -4, 0, 0x1p-4f}},
		{"p.weight", 2, {-63.5f, 1.5f}},
		{"u8", 1, {200}},
		{"i32", 1, {-70000}},
		{"i64", 1, {-3}},
	};
	for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
		struct tensor t;
		float got[6] = {0};
		assert_int_equal(weights_require(w, want[i].name, 0, NULL, &t, &e), 0);
		assert_int_equal(tensor_count(&t), want[i].count);
		assert_int_equal((uintptr_t)t.data % dtype_bytes(t.dtype),
			0); /* i32, i64 lie at odd offsets */
		weights_to_f32(&t, got);
		assert_memory_equal(got, want[i].value, (size_t)want[i].count * sizeof *got);
		assert_true(weights_value(&t, 0) == want[i].value[0]);
	}
	assert_int_equal(json_integer_value(weights_metadata(w, "n")), 3);
	assert_int_equal(json_array_size(weights_metadata(w, "list")), 2);
	assert_string_equal(json_string_value(weights_metadata(w, "raw")), "plain words");
	assert_null(weights_metadata(w, "absent"));
	int unused = -1;
	assert_null(weights_unused(w, &unused));
	assert_int_equal(unused, 0); /* scales count as used with their codes */
	weights_close(w);
	file_remove("all.safetensors");
}

static const char one_a[] =
	"{\"model.a\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]}}";
static const char one_b[] = "{\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
static const char again_a[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";

static void sets_of_files(void **state) {
	(void)state;
	file_write("1", one_a, (float[]){1, 2}, 8);
	file_write("2", one_b, (float[]){3, 4}, 8);
	file_write("3", again_a, (float[]){5, 6}, 8);
	struct error e = {0};
	struct weights *w = weights_open(dir, (const char *[]){"1", "2"}, 2, "model.", &e);
	assert_non_null(w);
	assert_int_equal(weights_count(w), 2);
	assert_string_equal(weights_name(w, 0), "a");
	struct tensor t;
	int unused = 0;
	assert_int_equal(weights_find(w, "b", &t), 0);
	assert_true(weights_value(&t, 1) == 4);
	assert_string_equal(weights_unused(w, &unused), "a");
	assert_int_equal(unused, 2); /* finding is not requiring */
	assert_int_equal(weights_require(w, "a", 2, (int64_t[]){2, 1}, &t, &e), 0);
	assert_string_equal(weights_unused(w, &unused), "b");
	assert_int_equal(weights_require(w, "a", 1, (int64_t[]){2}, &t, &e), -EINVAL);
	assert_non_null(
		strstr(e.text, "tensor 'a' is [2, 1] f32, the manifest's sizes need [2] f32"));
	struct error missing = {0};
	assert_int_equal(weights_require(w, "c", 0, NULL, &t, &missing), -ENOENT);
	assert_non_null(strstr(missing.text, "1 and the other files: tensor 'c' is missing"));
	weights_close(w);
	struct error twice = {0};
	assert_null(weights_open(dir, (const char *[]){"1", "3"}, 2, "model.", &twice));
	assert_non_null(strstr(twice.text, "tensor 'a' is both in"));
	for (const char *name = "123"; *name; name++)
		file_remove((char[]){*name, 0});
}

static void wrong_scales_are_refused(void **state) {
	(void)state;
	file_write("s",
		"{\"x.weight\":{\"dtype\":\"I8\",\"shape\":[3,2],\"data_offsets\":[0,6]},"
		"\"x.weight_scale\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[6,14]}}",
		(char[14]){0}, 14);
	struct error e = {0};
	assert_null(weights_open(dir, (const char *[]){"s"}, 1, NULL, &e));
	assert_non_null(strstr(
		e.text, "'x.weight_scale' is [2] f32; 'x.weight' [3, 2] i8 needs 1 or 3 floats"));
	file_remove("s");
}

/* FIPS 180-4's own examples, of one block and of two. */
static void sha256_gives_the_published_digests(void **state) {
	(void)state;
	static const struct {
		const char *text, *hex;
	} cases[] = {
		{"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
		{"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
			"248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct sha256 h;
		char hex[65];
		sha256_init(&h);
		for (const char *p = cases[i].text; *p; p++)
			sha256_add(&h, p, 1);
		sha256_hex(&h, hex);
		assert_string_equal(hex, cases[i].hex);
	}
}

/* Any change of data, name or shape changes the hash; the file split does not. */
static void hash_identifies_the_tensors(void **state) {
	(void)state;
	char hex[3][65];
	static const char *const headers[] = {one_b, one_b, again_a};
	for (int i = 0; i < 3; i++) {
		file_write("h", headers[i], (float[]){3, i == 1 ? 5 : 4}, 8);
		struct weights *w = weights_open(dir, (const char *[]){"h"}, 1, NULL, NULL);
		weights_hash(w, hex[i]);
		weights_close(w);
	}
	file_remove("h");
	assert_int_equal(strlen(hex[0]), 64);
	assert_string_not_equal(hex[0], hex[1]);
	assert_string_not_equal(hex[0], hex[2]);
}

static void upload_converts_and_measures(void **state) {
	(void)state;
	struct backend be = {.limit = 1 << 20};
	file_write("u", "{\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]}}",
		(uint16_t[]){0x3f80, 0x4000}, 4);
	struct weights *w = weights_open(dir, (const char *[]){"u"}, 1, NULL, NULL);
	struct arena *a = arena_create(&be, 1024, NULL), *m = arena_measure(&be);
	struct tensor t;
	assert_int_equal(weights_upload(w, "a", 1, (int64_t[]){2}, &be, m, &t, NULL), 0);
	assert_int_equal(arena_peak(m), 256);
	assert_int_equal(weights_upload(w, "a", 1, (int64_t[]){2}, &be, a, &t, NULL), 0);
	assert_int_equal(t.dtype, DTYPE_F32);
	assert_true(((float *)t.data)[1] == 2);
	arena_destroy(a);
	arena_destroy(m);
	weights_close(w);
	file_remove("u");
}

static double deviation(const struct tensor *t, double about) {
	double sum = 0;
	int64_t n = tensor_count(t);
	for (int64_t i = 0; i < n; i++) {
		double v = weights_value(t, i) - about;
		sum += v * v;
	}
	return sqrt(sum / (double)n);
}

static void random_tensors_have_their_spread(void **state) {
	(void)state;
	struct weights *w = weights_random(7), *same = weights_random(7),
		       *other = weights_random(8);
	struct tensor a, b, c, g, v;
	struct error e = {0};
	const int64_t square[] = {128, 256};
	assert_int_equal(weights_find(w, "x.weight", &a), -ENOENT);
	assert_int_equal(weights_require(w, "x.weight", 2, square, &a, &e), 0);
	assert_int_equal(weights_require(w, "y.weight", 2, square, &b, &e), 0);
	assert_int_equal(weights_require(w, "norm1.weight", 1, (int64_t[]){256}, &g, &e), 0);
	assert_int_equal(weights_require(w, "x.bias", 1, (int64_t[]){256}, &v, &e), 0);
	/* 32768 draws: the deviation's own error is 1/sqrt(65536) = .4 %; seen .2 % */
	assert_true(fabs(deviation(&a, 0) * 16 - 1) < 0.03);
	assert_true(fabs(deviation(&g, 1) - 0.1) < 0.02); /* 256 draws: 4.4 %; seen 6 % */
	assert_true(deviation(&v, 0) < 0.03 && deviation(&v, 0) > 0.01);
	assert_memory_not_equal(a.data, b.data, 64);
	assert_int_equal(weights_require(same, "x.weight", 2, square, &c, &e), 0);
	assert_memory_equal(a.data, c.data, tensor_bytes(&a));
	assert_int_equal(weights_require(other, "x.weight", 2, square, &c, &e), 0);
	assert_memory_not_equal(a.data, c.data, 64);
	assert_int_equal(weights_require(w, "z", 0, NULL, &c, &e), -EINVAL);
	weights_close(w);
	weights_close(same);
	weights_close(other);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(broken_files_say_how),
		cmocka_unit_test(impossible_lengths_are_refused),
		cmocka_unit_test(limits_are_kept),
		cmocka_unit_test(values_of_every_dtype),
		cmocka_unit_test(sets_of_files),
		cmocka_unit_test(wrong_scales_are_refused),
		cmocka_unit_test(sha256_gives_the_published_digests),
		cmocka_unit_test(hash_identifies_the_tensors),
		cmocka_unit_test(upload_converts_and_measures),
		cmocka_unit_test(random_tensors_have_their_spread),
	};
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
