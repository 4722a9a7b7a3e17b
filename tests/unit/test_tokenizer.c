/* SPDX-License-Identifier: Apache-2.0 */
/* Cleaning, UTF-8, token ids. The demo tokenizer's ids are those that its
 * reference rollout records; cleaning follows the behaviour of ftfy and
 * html.unescape on each kind of blemish. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/clean.h"
#include "engine/tokenizer.h"
#include "engine/weights.h"

static void blemishes_are_mended(void **state) {
	(void)state;
	static const struct {
		const char *from, *to;
	} cases[] = {
		{"a red kite", "a red kite"},
		{"", ""},
		{" \t\n a\r\n\r\nb\u2003c\u00a0\u3000d ", "a b c d"},
		{"salt &amp; pepper &lt;3 &quot;x&quot;", "salt & pepper <3 \"x\""},
		{"&amp;eacute;&amp;amp;amp;", "\u00e9&amp;"}, /* twice, not more */
		{"&eacute;t&eacute; &Eacute;&hearts;&thetasym;",
			"\u00e9t\u00e9 \u00c9\u2665\u03d1"},
		{"&#233;&#xE9;&#Xe9 &#8217;&#128;&#0;&#x110000;&#1;",
			"\u00e9\u00e9\u00e9 '\u20ac\ufffd\ufffd"},
		{"&copyright &notit; &ampx &frac12", "\u00a9right \u00acit; &x \u00bd"},
		{"&hearts &unknown; & &; &# &#x; AT&T", "&hearts &unknown; & &; &# &#x; AT&T"},
		{"\u2018a\u2019 \u201cb\u201d \u201ec\u201f \u02bcd", "'a' \"b\" \"c\" 'd"},
		{"\ufb01re \ufb00\ufb03 \u0133s \u01c6", "fire ffffi ijs d\u017e"},
		{"\uff21\uff42\uff13\uff01 \uff71", "Ab3! \u30a2"},
		{"e\u0301 A\u030a", "\u00e9 \u00c5"},
		{"a\x01\x02\x7f\u200b"
		 "b\ufeff\u206a",
			"a\u200b"
			"b"}, /* a zero-width space is kept */
		{"\x1b[31;1mred\x1b[0m \x1b[x", "red"},
		{"\xc2\x93"
		 "quoted\xc2\x94",
			"\"quoted\""},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct error e = {0};
		char *got = clean_text(cases[i].from, CLEANING_WAN, &e);
		assert_non_null(got);
		if (strcmp(got, cases[i].to) != 0)
			fail_msg("case %zu: \"%s\" gave \"%s\", not \"%s\"", i, cases[i].from, got,
				cases[i].to);
		free(got);
		got = clean_text(cases[i].from, CLEANING_NONE, &e);
		assert_string_equal(got, cases[i].from);
		free(got);
	}
}

static void broken_utf8_is_located(void **state) {
	(void)state;
	static const struct {
		const char *text, *says;
	} cases[] = {
		{"abc\xff", "byte 3 (0xff)"}, {"\xc3", "byte 0 (0xc3)"},
		{"ab\xe2\x82", "byte 2 (0xe2)"},
		{"a\xed\xa0\x80", "byte 1 (0xed)"}, /* a surrogate */
		{"a\xc0\xaf", "byte 1 (0xc0)"}, /* overlong */
		{"\xf4\x90\x80\x80", "byte 0 (0xf4)"}, /* beyond U+10FFFF */
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct error e = {0};
		assert_null(clean_text(cases[i].text, i % 2 ? CLEANING_WAN : CLEANING_NONE, &e));
		assert_int_equal(e.code, -EINVAL);
		if (!strstr(e.text, cases[i].says))
			fail_msg("case %zu: %s", i, e.text);
	}
	char *big = malloc(CLEAN_BYTES_MAX + 2);
	memset(big, 'a', CLEAN_BYTES_MAX + 1);
	big[CLEAN_BYTES_MAX + 1] = 0;
	struct error e = {0};
	assert_null(clean_text(big, CLEANING_WAN, &e));
	assert_non_null(strstr(e.text, "longer than 65536 bytes"));
	free(big);
}

static char *tree(const char *path) {
	char *out = NULL;
	assert_true(asprintf(&out, "%s/%s", getenv("LIGHTFORCED_ROOT"), path) > 0);
	return out;
}

static int load_demo(void **state) {
	struct error e = {0};
	char *dir = tree("models/demo");
	*state = model_load(dir, &e);
	free(dir);
	return *state ? 0 : -1;
}

static int free_demo(void **state) {
	model_free(*state);
	return 0;
}

/* prompts: [[chunk, text]]; prompt<chunk>.ids. */
static void demo_ids_are_the_reference(void **state) {
	struct error e = {0};
	char *path = tree("tests/golden/demo_rollout.safetensors");
	struct weights *w = weights_open("", (const char *const *)&path, 1, NULL, &e);
	struct tokenizer *t = tokenizer_create(*state, &e);
	assert_string_equal(e.text, "");
	const json_t *prompts = weights_metadata(w, "prompts");
	assert_true(json_array_size(prompts) >= 1);
	for (size_t i = 0; i < json_array_size(prompts); i++) {
		const json_t *p = json_array_get(prompts, i);
		char name[40];
		snprintf(name, sizeof name, "prompt%d.ids",
			(int)json_integer_value(json_array_get(p, 0)));
		struct tensor want;
		assert_int_equal(weights_find(w, name, &want), 0);
		const char *text = json_string_value(json_array_get(p, 1));
		int32_t ids[4096];
		int n = tokenizer_encode(t, text, ids, &e);
		assert_int_equal(n, tensor_count(&want));
		assert_memory_equal(ids, want.data, (size_t)n * sizeof *ids);
		assert_int_equal(tokenizer_count(t, text, &e), n);
	}
	tokenizer_destroy(t);
	weights_close(w);
	free(path);
}

static void long_and_empty_texts(void **state) {
	const struct model *m = *state;
	struct error e = {0};
	struct tokenizer *t = tokenizer_create(m, &e);
	int32_t ids[4096];
	assert_int_equal(tokenizer_encode(t, "", ids, &e), 1);
	assert_int_equal(ids[0], m->tokenizer.eos_id);
	char text[4000] = "";
	for (int i = 0; i < 300; i++)
		strcat(text, "a red kite ");
	int all = tokenizer_count(t, text, &e);
	assert_true(all > 2 * m->tokenizer.text_len);
	assert_int_equal(tokenizer_encode(t, text, ids, &e), m->tokenizer.text_len);
	assert_int_equal(ids[m->tokenizer.text_len - 1], m->tokenizer.eos_id);
	assert_int_not_equal(ids[m->tokenizer.text_len - 2], m->tokenizer.eos_id);
	assert_string_equal(e.text, "");
	assert_int_equal(tokenizer_count(t, "  ", &e), -EINVAL);
	assert_string_equal(e.text, "the prompt holds no words");
	struct error bad = {0};
	assert_true(tokenizer_count(t, "kite \xff", &bad) < 0);
	assert_non_null(strstr(bad.text, "byte 5"));
	tokenizer_destroy(t);
}

/* Unknown characters in a row are one unknown token. */
static void unknown_characters_merge(void **state) {
	struct error e = {0};
	struct tokenizer *t = tokenizer_create(*state, &e);
	int one = tokenizer_count(t, "kite \u65e5", &e),
	    three = tokenizer_count(t, "kite \u65e5\u672c\u8a9e", &e);
	assert_string_equal(e.text, "");
	assert_int_equal(one, three);
	tokenizer_destroy(t);
}

static void wrong_models_are_refused(void **state) {
	struct model m = *(const struct model *)*state;
	struct error e = {0};
	m.text.vocab = 100;
	assert_null(tokenizer_create(&m, &e));
	assert_non_null(strstr(e.text, "pieces, but text.vocab of the manifest is 100"));
	m = *(const struct model *)*state;
	m.tokenizer.eos_id = 7;
	struct error mark = {0};
	assert_null(tokenizer_create(&m, &mark));
	assert_non_null(strstr(mark.text, "tokenizer.eos_id of the manifest is 7"));
	m = *(const struct model *)*state;
	m.tokenizer.file = (char[]){"manifest.json"};
	struct error other = {0};
	assert_null(tokenizer_create(&m, &other));
	assert_non_null(strstr(other.text, "manifest.json: not a SentencePiece model"));
	m.tokenizer.file = (char[]){"absent.model"};
	struct error absent = {0};
	assert_null(tokenizer_create(&m, &absent));
	assert_non_null(strstr(absent.text, "absent.model"));
}

static void random_models_take_bytes(void **state) {
	(void)state;
	struct error e = {0};
	struct model *m = model_load("random:wan-1.3b,64x32", &e);
	struct tokenizer *t = tokenizer_create(m, &e);
	int32_t ids[512];
	assert_int_equal(tokenizer_encode(t, "\u00e9a", ids, &e), 4);
	assert_memory_equal(ids, ((int32_t[]){3 + 0xc3, 3 + 0xa9, 3 + 'a', 1}), 16);
	assert_int_equal(tokenizer_count(t, " a ", &e), 2);
	tokenizer_destroy(t);
	model_free(m);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blemishes_are_mended),
		cmocka_unit_test(broken_utf8_is_located),
		cmocka_unit_test(demo_ids_are_the_reference),
		cmocka_unit_test(long_and_empty_texts),
		cmocka_unit_test(unknown_characters_merge),
		cmocka_unit_test(wrong_models_are_refused),
		cmocka_unit_test(random_models_take_bytes),
	};
	return cmocka_run_group_tests(tests, load_demo, free_demo);
}
