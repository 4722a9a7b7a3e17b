/* SPDX-License-Identifier: Apache-2.0 */
/* Every setting of the daemon: one table (conf_table.c) gives section, name,
 * type, bounds, default and help of each; its flag is --name with dashes, its
 * environment variable LIGHTFORCED_SECTION_NAME. Precedence: command line >
 * environment > file (INI) > default. Constant after conf_load, except that
 * conf_reload takes over the keys marked reloadable: numbers are atomics and a
 * replaced string lives until conf_free, so readers need no lock.
 * Thread: load, reload and free by main; read by all. */
#ifndef SERVER_CONF_H
#define SERVER_CONF_H
#include <stdbool.h>
#include <stdio.h>
#include "kernels/error.h"

#define CONF_EXIT_STATUS 78 /* EX_CONFIG: the service manager must not try again */

typedef _Atomic int conf_int;
typedef char *_Atomic conf_string; /* never NULL after conf_load */

/* What the command line asked for besides settings. */
enum conf_action { CONF_RUN, CONF_CHECK, CONF_HELP, CONF_VERSION, CONF_EXAMPLE };

struct conf_private;
struct conf {
	/* server */
	conf_string listen; /* "127.0.0.1:8900", "[::1]:8900"; port 0: any free one */
	conf_string web_root; /* folder of the page; "" when none was found */
	conf_string state_dir; /* journals; "" keeps none */
	conf_string
		allowed_hosts; /* names accepted in Host beside loopback and the listen address */
	conf_string allowed_origins; /* origins accepted beside the own */
	conf_int insecure; /* listen beyond loopback without keys */
	conf_string log_level;
	conf_int http_connections_max, http_connections_per_ip, http_timeout_s, head_timeout_s;
	conf_int head_bytes_max, body_bytes_max, body_timeout_s;
	conf_int connections_per_s, connections_burst; /* of one address; loopback is free */
	conf_int shutdown_s;
	/* engine */
	conf_string model, backend, precision, sparsity, steps;
	conf_int threads, prompts_cached, vram_budget_mib;
	/* sessions */
	conf_int sessions_max; /* live at once; = KV slots = encoder threads */
	conf_int pending_prompts_max, prompts_kept_max, prompt_bytes_max;
	conf_int unwatched_after_s, unwatched_ttl_s, ended_kept_s, ended_kept_max;
	conf_int lead_ms; /* how far ahead of real time a chunk may begin */
	conf_int labels_max;
	conf_int journal_chunks; /* a restart may skip so many chunk numbers */
	/* video */
	conf_int bitrate_kbps, cq_level, cpu_used, encoder_threads, keyframe_every_chunks;
	conf_int frames_queued_max, keyframe_interval_ms;
	conf_string rate_control; /* "quality" or "network" */
	/* viewers */
	conf_int viewers_max, viewers_per_session_max, viewer_queue_ms, viewer_queue_bytes;
	conf_int viewer_behind_s;
	conf_int text_bytes_max, messages_per_s, channel_ms, channel_bytes;

	enum conf_action action;
	struct conf_private *private; /* origins and replaced strings */
};

/* argc/argv as main got them; they must outlive c. 0, or -EINVAL with
 * "file:line: [section] name: reason". c need not be freed after a failure. */
int conf_load(struct conf *c, int argc, char **argv, struct error *e);
/* Reads everything again and takes over the reloadable keys that changed; tells
 * each change and each change that waits for a restart through note. On failure
 * nothing changes. */
int conf_reload(
	struct conf *c, void (*note)(void *ctx, const char *line), void *ctx, struct error *e);
/* Every default, as if there were neither file, environment nor flags. */
int conf_default(struct conf *c, struct error *e);
/* Takes over the text of a file named `name`; text[size] is 0. */
int conf_read_text(
	struct conf *c, const char *name, const char *text, size_t size, struct error *e);
void conf_free(struct conf *c);
/* Whether an error (-errno) of the start lies in settings, so that trying again cannot help. */
bool conf_is_to_blame(int code);
void conf_example(FILE *out); /* annotated example file, from the table */
/* Effective values and their origins, JSON. False: no memory. */
bool conf_print(const struct conf *c, FILE *out);
void conf_help(FILE *out); /* flags */
#endif
