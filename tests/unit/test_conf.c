/* SPDX-License-Identifier: Apache-2.0 */
/* Settings: precedence, every error with its place, reload, what is printed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/conf.h"

static char path[] = "/tmp/lightforced-conf-XXXXXX";

static int open_file(void **state) {
	(void)state;
	int fd = mkstemp(path);
	return fd < 0 ? -1 : close(fd);
}

static int close_file(void **state) {
	(void)state;
	return unlink(path);
}

static void write_bytes(const char *text, size_t size) {
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, size, f), size);
	assert_int_equal(fclose(f), 0);
}

/* Loads `text` as the file with up to three further arguments. */
static int load(struct conf *c, const char *text, const char *a, const char *b, struct error *e) {
	static char name[] = "lightforced", flag[] = "--config";
	static char *argv[6];
	argv[0] = name;
	argv[1] = flag;
	argv[2] = path;
	argv[3] = (char *)(uintptr_t)a;
	argv[4] = (char *)(uintptr_t)b;
	write_bytes(text, strlen(text));
	return conf_load(c, 3 + (a != NULL) + (b != NULL), argv, e);
}

static void refuses(const char *text, const char *a, const char *b, const char *says) {
	struct conf c;
	struct error e = {0};
	assert_int_equal(load(&c, text, a, b, &e), -EINVAL);
	if (!strstr(e.text, says))
		fail_msg("\"%s\" does not say \"%s\"", e.text, says);
}

static void the_nearest_source_wins(void **state) {
	(void)state;
	struct conf c;
	struct error e = {0};
	const char *text = "[video]\nbitrate_kbps = 1000\n[viewers]\nviewers_max = 7 ; a few\n";
	assert_int_equal(load(&c, text, NULL, NULL, &e), 0);
	assert_int_equal(c.bitrate_kbps, 1000);
	assert_int_equal(c.viewers_max, 7);
	assert_int_equal(c.cq_level, 28);
	assert_string_equal(c.listen, "127.0.0.1:8900");
	conf_free(&c);
	setenv("LIGHTFORCED_VIDEO_BITRATE_KBPS", "2000", 1);
	assert_int_equal(load(&c, text, NULL, NULL, &e), 0);
	assert_int_equal(c.bitrate_kbps, 2000);
	conf_free(&c);
	assert_int_equal(load(&c, text, "--bitrate-kbps=3000", "--insecure", &e), 0);
	assert_int_equal(c.bitrate_kbps, 3000);
	assert_true(c.insecure);
	conf_free(&c);
	unsetenv("LIGHTFORCED_VIDEO_BITRATE_KBPS");
}

static void slips_in_the_environment_are_named(void **state) {
	(void)state;
	setenv("LIGHTFORCED_VIDEO_BITRATE_KPBS", "2000", 1);
	refuses("", NULL, NULL,
		"environment LIGHTFORCED_VIDEO_BITRATE_KPBS: no such setting; "
		"did you mean LIGHTFORCED_VIDEO_BITRATE_KBPS?");
	unsetenv("LIGHTFORCED_VIDEO_BITRATE_KPBS");
	struct conf c;
	struct error e = {0};
	setenv("LIGHTFORCED_CPU_ISA", "avx2", 1); /* names no section: not ours */
	assert_int_equal(load(&c, "", NULL, NULL, &e), 0);
	unsetenv("LIGHTFORCED_CPU_ISA");
	conf_free(&c);
}

static void faults_are_named_with_their_place(void **state) {
	(void)state;
	static const struct {
		const char *text, *a, *b, *says;
	} row[] = {
		{"[server]\nlisen = x\n", NULL, NULL,
			":2: [server] lisen: no such setting; did you mean [server] listen?"},
		{"[server]\nviewers_maxx = 1\n", NULL, NULL, "did you mean [viewers] viewers_max?"},
		{"\n[sever]\nlisten = x\n", NULL, NULL,
			":3: no section [sever]; listen stands in [server]"},
		{"listen = x\n", NULL, NULL,
			":1: listen stands before any [section]; listen goes into [server]"},
		{"[server]\nallowed_hosts = a\xff\n", NULL, NULL,
			":2: [server] allowed_hosts: not UTF-8"},
		{"[video]\ncq_level = 28\ncq_level = 29\n", NULL, NULL,
			":3: [video] cq_level: set a second time"},
		{"[video]\ncq_level = 28x\n", NULL, NULL,
			":2: [video] cq_level: '28x' is no number from 4 to 52"},
		{"[video]\ncq_level = 99\n", NULL, NULL, "from 4 to 52"},
		{"[video]\ncq_level =\n", NULL, NULL, "'' is no number"},
		{"[video]\nrate_control = fast\n", NULL, NULL, "'fast' is none of quality|network"},
		{"[video]\nrate_control = quality|network\n", NULL, NULL, "is none of"},
		{"[server]\ninsecure = perhaps\n", NULL, NULL, "neither yes nor no"},
		{"[server]\nwhat\n", NULL, NULL, ":2: neither [section] nor name = value"},
		{"[server\n", NULL, NULL, ":1: neither [section]"},
		{"", "--bogus", "1", "command line: no flag --bogus; did you mean --"},
		{"", "--vewers-max", "1", "did you mean --viewers-max?"},
		{"", "stray", NULL, "'stray' is no flag"},
		{"", "--model", NULL, "--model needs a value"},
		{"", "--cq-level", "x", "command line: [video] cq_level"},
		{"", "--listen", "8900", "is not ADDRESS:PORT"},
		{"", "--listen", "127.0.0.1:99999", "is not ADDRESS:PORT"},
		{"", "--listen", "127.0.0.1:", "is not ADDRESS:PORT"},
		{"", "--listen", "[::1:80", "is not ADDRESS:PORT"},
		{"", "--listen", "::1:80", "is not ADDRESS:PORT"},
		{"[server]\nlisten = 0.0.0.0:80\n", NULL, NULL,
			":2: [server] listen: 0.0.0.0:80 is reachable"},
		{"", "--listen", "[::]:80", "--insecure"},
		{"", "--backend", "gpu", "none of auto, cpu"},
	};
	for (size_t i = 0; i < sizeof row / sizeof row[0]; i++)
		refuses(row[i].text, row[i].a, row[i].b, row[i].says);
}

static void files_that_are_no_text_are_refused(void **state) {
	(void)state;
	struct conf c;
	struct error e = {0};
	static char name[] = "lightforced", flag[] = "--config", absent[] = "/nonexistent/file";
	char *argv[] = {name, flag, absent, NULL};
	assert_int_equal(conf_load(&c, 3, argv, &e), -EINVAL);
	assert_non_null(strstr(e.text, "/nonexistent/file: No such file"));
	argv[2] = path;
	e = (struct error){0};
	write_bytes("[video]\0cq", 10);
	assert_int_equal(conf_load(&c, 3, argv, &e), -EINVAL);
	assert_non_null(strstr(e.text, "NUL byte"));
	static char big[300000];
	memset(big, '#', sizeof big);
	e = (struct error){0};
	write_bytes(big, sizeof big);
	assert_int_equal(conf_load(&c, 3, argv, &e), -EINVAL);
	assert_non_null(strstr(e.text, "larger than"));
	e = (struct error){0};
	write_bytes(big, 250);
	assert_int_equal(conf_load(&c, 3, argv, &e), -EINVAL);
	assert_non_null(strstr(e.text, ":1: the line is 250 bytes long"));
}

static void open_addresses_need_the_word(void **state) {
	(void)state;
	struct conf c;
	struct error e = {0};
	assert_int_equal(
		load(&c, "[server]\ninsecure = yes\nlisten = 0.0.0.0:80\n", NULL, NULL, &e), 0);
	conf_free(&c);
	static const char *const loopback[] = {"localhost:0", "[::1]:8900", "127.9.9.9:1"};
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(load(&c, "", "--listen", loopback[i], &e), 0);
		conf_free(&c);
	}
}

struct notes {
	int count;
	char last[700];
};

static void take_note(void *ctx, const char *line) {
	struct notes *n = ctx;
	n->count++;
	snprintf(n->last, sizeof n->last, "%s", line);
}

static void reload_takes_what_may_change(void **state) {
	(void)state;
	struct conf c;
	struct error e = {0};
	struct notes n = {0};
	assert_int_equal(load(&c, "[video]\nbitrate_kbps = 1000\n", NULL, NULL, &e), 0);
	const char *hosts = c.allowed_hosts;
	const char *text = "[server]\nallowed_hosts = a.example\n[video]\nbitrate_kbps = 1100\n";
	write_bytes(text, strlen(text));
	assert_int_equal(conf_reload(&c, take_note, &n, &e), 0);
	assert_int_equal(n.count, 2);
	assert_int_equal(c.bitrate_kbps, 1100);
	assert_string_equal(c.allowed_hosts, "a.example");
	assert_string_equal(hosts, ""); /* who still reads the old one may */
	text = "[server]\nallowed_hosts = a.example\n[sessions]\nsessions_max = "
	       "9\n[video]\nbitrate_kbps = 1100\n";
	write_bytes(text, strlen(text));
	assert_int_equal(conf_reload(&c, take_note, &n, &e), 0);
	assert_int_equal(n.count, 3);
	assert_non_null(strstr(n.last, "after a restart"));
	assert_int_equal(c.sessions_max, 2);
	write_bytes("[video]\nbitrate = 5\n", 20);
	assert_int_equal(conf_reload(&c, take_note, &n, &e), -EINVAL);
	assert_non_null(strstr(e.text, "did you mean [video] bitrate_kbps?"));
	assert_int_equal(c.bitrate_kbps, 1100);
	conf_free(&c);
}

static void printed_values_name_their_origin(void **state) {
	(void)state;
	struct conf c;
	struct error e = {0};
	assert_int_equal(load(&c, "[video]\ncq_level = 30\n", "--viewers-max", "9", &e), 0);
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	assert_true(conf_print(&c, out));
	fclose(out);
	conf_free(&c);
	json_t *j = json_loads(text, 0, NULL);
	free(text);
	assert_non_null(j);
	int level = 0, viewers = 0, queued = 0, insecure = 1;
	const char *file = "", *line = "", *preset = "";
	assert_int_equal(
		json_unpack(j, "{s:{s:{s:i,s:s},s:{s:i,s:s}},s:{s:{s:i,s:s}},s:{s:{s:b}}}", "video",
			"cq_level", "value", &level, "origin", &file, "frames_queued_max", "value",
			&queued, "origin", &preset, "viewers", "viewers_max", "value", &viewers,
			"origin", &line, "server", "insecure", "value", &insecure),
		0);
	assert_int_equal(level, 30);
	assert_int_equal(viewers, 9);
	assert_false(insecure);
	assert_string_equal(file + strlen(file) - 2, ":2");
	assert_string_equal(line, "command line");
	assert_string_equal(preset, "default");
	json_decref(j);
}

/* The example, with every remark sign before a setting taken away, is a file
 * that loads and changes nothing. */
static void the_example_is_the_default(void **state) {
	(void)state;
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	conf_example(out);
	fclose(out);
	for (char *s = text; (s = strstr(s, "\n#"));) {
		s++;
		if (s[1] != ' ')
			s[0] = ' ';
	}
	struct conf c, d;
	struct error e = {0};
	int rc = load(&c, text, NULL, NULL, &e);
	free(text);
	if (rc != 0)
		fail_msg("%s", e.text);
	assert_int_equal(conf_default(&d, &e), 0);
	assert_int_equal(c.cq_level, d.cq_level);
	assert_int_equal(c.channel_bytes, d.channel_bytes);
	assert_string_equal(c.listen, d.listen);
	conf_free(&c);
	conf_free(&d);
}

static void actions_are_told(void **state) {
	(void)state;
	static const struct {
		const char *flag;
		enum conf_action action;
	} row[] = {{"--check-config", CONF_CHECK}, {"--help", CONF_HELP},
		{"--version", CONF_VERSION}, {"--example-config", CONF_EXAMPLE}};
	for (size_t i = 0; i < 4; i++) {
		struct conf c;
		struct error e = {0};
		assert_int_equal(load(&c, "", row[i].flag, NULL, &e), 0);
		assert_int_equal(c.action, row[i].action);
		conf_free(&c);
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_nearest_source_wins),
		cmocka_unit_test(slips_in_the_environment_are_named),
		cmocka_unit_test(faults_are_named_with_their_place),
		cmocka_unit_test(files_that_are_no_text_are_refused),
		cmocka_unit_test(open_addresses_need_the_word),
		cmocka_unit_test(reload_takes_what_may_change),
		cmocka_unit_test(printed_values_name_their_origin),
		cmocka_unit_test(the_example_is_the_default),
		cmocka_unit_test(actions_are_told),
	};
	return cmocka_run_group_tests(tests, open_file, close_file);
}
