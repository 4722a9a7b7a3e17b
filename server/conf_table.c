/* SPDX-License-Identifier: Apache-2.0 */
/* The table of settings and what can be said from it alone: names, nearest
 * names, the example file, the help, the effective values. Thread: any. */
#include "server/conf_table.h"

#include <ctype.h>
#include <jansson.h>
#include <stdint.h>
#include <string.h>

#define INT(section, field, reload, min, max, preset, help)                                        \
	{                                                                                          \
		section, #field, CONF_INT, reload, offsetof(struct conf, field), min, max, preset, \
			NULL, help                                                                 \
	}
#define TEXT(section, field, reload, preset, choices, help)                                        \
	{                                                                                          \
		section, #field, CONF_STRING, reload, offsetof(struct conf, field), 0, 0, preset,  \
			choices, help                                                              \
	}
#define FLAG(section, field, help)                                                                 \
	{ section, #field, CONF_BOOL, false, offsetof(struct conf, field), 0, 1, "no", NULL, help }

const struct conf_key conf_keys[] = {
	TEXT("server", listen, false, "127.0.0.1:8900", NULL,
		"Address and port; [::1]:8900 for IPv6, port 0 for any free one."),
	TEXT("server", web_root, false, "", NULL,
		"Folder of the page. Empty: looked for beside the program."),
	TEXT("server", state_dir, false, "", NULL,
		"Folder for the journals by which sessions survive a crash. Empty: none are kept."),
	TEXT("server", allowed_hosts, true, "", NULL,
		"Names accepted in the Host header beside loopback and the listen address, by "
		"comma."),
	TEXT("server", allowed_origins, true, "", NULL,
		"Origins of pages that may use this daemon beside its own, by comma."),
	FLAG("server", insecure,
		"Allow an address that other machines reach although nobody is asked for a key."),
	TEXT("server", log_level, true, "info", "error|warn|info|debug",
		"Least level that is logged."),
	INT("server", http_connections_max, false, 4, 10000, "256", "HTTP connections at once."),
	INT("server", http_connections_per_ip, false, 1, 10000, "64",
		"HTTP connections at once of one address."),
	INT("server", http_timeout_s, false, 1, 3600, "15", "A silent HTTP connection is closed."),
	INT("server", head_timeout_s, false, 1, 600, "5", "Time for a whole request head."),
	INT("server", head_bytes_max, false, 1024, 65536, "16384", "Bytes of a request head."),
	INT("server", body_bytes_max, true, 1024, 16777216, "65536", "Bytes of a request body."),
	INT("server", body_timeout_s, false, 1, 600, "10", "Time for a whole request body."),
	INT("server", connections_per_s, true, 1, 100000, "50",
		"New connections a second of one address; loopback is not limited."),
	INT("server", connections_burst, true, 1, 100000, "200",
		"New connections of one address at once."),
	INT("server", shutdown_s, true, 1, 600, "20",
		"Time for the chunks in hand after SIGTERM; then the daemon ends anyway."),

	TEXT("engine", model, false, "", NULL,
		"Folder of the model. Empty: the demo model beside the program."),
	TEXT("engine", backend, false, "auto", NULL,
		"cpu, cuda, cuda:N, auto or test[:key=value,...]."),
	TEXT("engine", precision, false, "auto", "auto|f32|bf16|fp8|int8",
		"Arithmetic of the model."),
	TEXT("engine", sparsity, false, "model", NULL,
		"Which past blocks are looked at: model (what its manifest says), dense, window, "
		"hsa."),
	TEXT("engine", steps, false, "model", NULL,
		"Denoising steps: model (what its manifest says) or falling numbers up to 1000, as "
		"1000,400: fewer are faster and softer."),
	INT("engine", threads, false, 0, 1024, "0", "Workers of the CPU backend; 0: one per core."),
	INT("engine", prompts_cached, false, 1, 1024, "16", "Encoded prompts kept for reuse."),
	INT("engine", vram_budget_mib, false, 0, 16777216, "0",
		"Device memory to use, MiB, weights included; 0: what is free."),

	INT("sessions", sessions_max, false, 1, 64, "2",
		"Sessions at once. Each has memory of its own and an encoder thread."),
	INT("sessions", pending_prompts_max, true, 1, 1024, "32",
		"Prompts one session has waiting."),
	INT("sessions", prompts_kept_max, true, 1, 4096, "64",
		"Past prompts one session remembers."),
	INT("sessions", prompt_bytes_max, true, 16, 16384, "4096", "Bytes of a prompt."),
	INT("sessions", unwatched_after_s, true, 1, 86400, "30",
		"A session pauses so long after its last viewer left."),
	INT("sessions", unwatched_ttl_s, true, 1, 2592000, "600", "A session paused so long ends."),
	INT("sessions", ended_kept_s, true, 1, 2592000, "86400",
		"An ended session is answered with 410 so long, then with 404."),
	INT("sessions", ended_kept_max, false, 1, 65536, "4096", "Ended sessions remembered."),
	INT("sessions", lead_ms, true, 0, 10000, "250",
		"How far ahead of real time a chunk may begin: hides chunks that take longer."),
	INT("sessions", labels_max, true, 0, 64, "16", "Labels of a session."),
	INT("sessions", journal_chunks, false, 2, 1000, "8",
		"Chunk numbers set aside by one journal write; a restart after a crash skips at "
		"most these."),

	INT("video", bitrate_kbps, true, 50, 100000, "2500",
		"Most bits a stream spends (quality), or spends always (network), for new "
		"sessions."),
	TEXT("video", rate_control, true, "quality", "quality|network",
		"quality: even pictures up to the bit rate; network: an even bit rate. For new "
		"sessions."),
	INT("video", cq_level, true, 4, 52, "28",
		"Quantiser of the quality profile, lower is finer."),
	INT("video", cpu_used, true, 4, 9, "6", "Speed of the encoder, 9 is fastest."),
	INT("video", encoder_threads, true, 0, 16, "0",
		"Threads of one encoder; 0: by the picture's size and the machine's cores."),
	INT("video", keyframe_every_chunks, true, 1, 1000, "4", "A key frame each so many chunks."),
	INT("video", frames_queued_max, false, 1, 1000, "24",
		"Pictures that wait for the encoder; then generation waits."),
	INT("video", keyframe_interval_ms, true, 100, 60000, "1000",
		"Key frames that viewers ask for are so far apart."),

	INT("viewers", viewers_max, true, 1, 100000, "512", "Viewers of all sessions."),
	INT("viewers", viewers_per_session_max, true, 1, 100000, "256", "Viewers of one session."),
	INT("viewers", viewer_queue_ms, true, 100, 60000, "2000",
		"Media waiting for one viewer; beyond it frames up to the next key are dropped."),
	INT("viewers", viewer_queue_bytes, true, 65536, 67108864, "1000000",
		"Bytes waiting for one viewer; beyond it frames up to the next key are dropped."),
	INT("viewers", viewer_behind_s, true, 1, 600, "10", "A viewer behind so long is closed."),
	INT("viewers", text_bytes_max, false, 1024, 1048576, "65536",
		"Bytes of a client's message."),
	INT("viewers", messages_per_s, true, 1, 10000, "30",
		"Messages a client may send in a second."),
	INT("viewers", channel_ms, true, 1000, 600000, "10000",
		"Media kept for viewers who come back."),
	INT("viewers", channel_bytes, true, 1048576, 1073741824, "16777216",
		"Bytes of media kept for viewers who come back."),
};
const int conf_key_count = sizeof conf_keys / sizeof conf_keys[0];
#undef INT
#undef TEXT
#undef FLAG

void conf_flag(const struct conf_key *k, char out[CONF_NAME_BYTES]) {
	snprintf(out, CONF_NAME_BYTES, "--%s", k->name);
	for (char *s = out; *s; s++)
		*s = *s == '_' ? '-' : *s;
}

void conf_variable(const struct conf_key *k, char out[CONF_NAME_BYTES]) {
	snprintf(out, CONF_NAME_BYTES, "LIGHTFORCED_%s_%s", k->section, k->name);
	for (char *s = out; *s; s++)
		*s = (char)toupper((unsigned char)*s);
}

int conf_find(const char *section, const char *name) {
	for (int i = 0; i < conf_key_count; i++) {
		if ((!section || strcmp(section, conf_keys[i].section) == 0) &&
			strcmp(name, conf_keys[i].name) == 0)
			return i;
	}
	return -1;
}

/* Levenshtein's distance of two short names. */
static int distance(const char *a, const char *b) {
	int row[CONF_NAME_BYTES + 1];
	size_t na = strnlen(a, CONF_NAME_BYTES), nb = strnlen(b, CONF_NAME_BYTES);
	for (size_t j = 0; j <= nb; j++)
		row[j] = (int)j;
	for (size_t i = 1; i <= na; i++) {
		int diagonal = row[0];
		row[0] = (int)i;
		for (size_t j = 1; j <= nb; j++) {
			int change = diagonal + (a[i - 1] != b[j - 1]);
			diagonal = row[j];
			int other = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
			row[j] = change < other ? change : other;
		}
	}
	return row[nb];
}

const struct conf_key *conf_nearest(const char *section, const char *name) {
	const struct conf_key *best = NULL;
	int least = 0;
	for (int i = 0; i < conf_key_count; i++) {
		int d = distance(name, conf_keys[i].name);
		if (section && strcmp(section, conf_keys[i].section) != 0)
			d += 3; /* a key of another section must be a good deal nearer */
		if (!best || d < least) {
			best = &conf_keys[i];
			least = d;
		}
	}
	return best;
}

conf_int *conf_int_at(const struct conf *c, const struct conf_key *k) {
	return (conf_int *)((uintptr_t)c + k->offset);
}

conf_string *conf_string_at(const struct conf *c, const struct conf_key *k) {
	return (conf_string *)((uintptr_t)c + k->offset);
}

bool conf_is_text(const char *bytes) {
	json_t *text = json_string(bytes);
	json_decref(text);
	return text != NULL;
}

const char *conf_value(const struct conf *c, const struct conf_key *k, char buffer[16]) {
	if (k->type == CONF_STRING)
		return *conf_string_at(c, k);
	int v = *conf_int_at(c, k);
	if (k->type == CONF_BOOL)
		return v ? "yes" : "no";
	snprintf(buffer, 16, "%d", v);
	return buffer;
}

static void print_range(FILE *out, const struct conf_key *k) {
	if (k->type == CONF_INT)
		fprintf(out, " %ld to %ld.", k->min, k->max);
	else if (k->type == CONF_BOOL)
		fprintf(out, " yes or no.");
	else if (k->choices)
		fprintf(out, " One of %s.", k->choices);
}

void conf_example(FILE *out) {
	fprintf(out,
		"# lightforced.conf: every setting with its default. Command line and environment\n"
		"# win over this file; see lightforced.conf(5). Check with\n"
		"# lightforced --check-config --config FILE. SIGHUP takes over the keys marked "
		"[reload].\n");
	const char *section = "";
	for (int i = 0; i < conf_key_count; i++) {
		const struct conf_key *k = &conf_keys[i];
		if (strcmp(section, k->section) != 0)
			fprintf(out, "\n[%s]\n", section = k->section);
		fprintf(out, "# %s", k->help);
		print_range(out, k);
		fprintf(out, "%s\n#%s = %s\n", k->reloadable ? " [reload]" : "", k->name,
			k->preset);
	}
}

void conf_help(FILE *out) {
	fprintf(out,
		"usage: lightforced [--config FILE] [--NAME VALUE]...\n\n"
		"  --config FILE       settings (INI); environment LIGHTFORCED_CONFIG\n"
		"  --check-config      print the effective settings as JSON and end\n"
		"  --example-config    print an example file with every setting and end\n"
		"  --help, --version\n\n"
		"Each setting is a flag, an environment variable LIGHTFORCED_SECTION_NAME and a\n"
		"line of the file; the first of these three that is there wins.\n");
	const char *section = "";
	for (int i = 0; i < conf_key_count; i++) {
		const struct conf_key *k = &conf_keys[i];
		if (strcmp(section, k->section) != 0)
			fprintf(out, "\n[%s]\n", section = k->section);
		char flag[CONF_NAME_BYTES];
		conf_flag(k, flag);
		fprintf(out, "  %-26s %s", flag, k->help);
		print_range(out, k);
		fprintf(out, " Default: %s\n", k->preset[0] ? k->preset : "empty");
	}
}

bool conf_print(const struct conf *c, FILE *out) {
	json_t *all = json_object();
	for (int i = 0; i < conf_key_count; i++) {
		const struct conf_key *k = &conf_keys[i];
		char buffer[16];
		const char *text = conf_value(c, k, buffer), *origin = c->private->origin[i];
		json_t *section = json_object_get(all, k->section);
		if (!section) {
			section = json_object();
			json_object_set_new(all, k->section, section);
		}
		json_t *value = k->type == CONF_STRING ? json_string(text)
				: k->type == CONF_BOOL ? json_boolean(*conf_int_at(c, k))
						       : json_integer(*conf_int_at(c, k));
		json_object_set_new(section, k->name,
			json_pack("{s:o, s:s}", "value", value, "origin",
				origin[0] ? origin : "default"));
	}
	bool done = all && json_dumpf(all, out, JSON_INDENT(2)) == 0 && fputc('\n', out) != EOF;
	json_decref(all);
	return done;
}
