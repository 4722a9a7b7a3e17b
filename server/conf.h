/* SPDX-License-Identifier: Apache-2.0 */
/* Every setting of the daemon: one table gives section, name, type, bounds,
 * default, command-line flag, environment variable and help of each. Precedence
 * CLI > environment (LIGHTFORCED_SECTION_NAME) > file (INI) > default. Constant
 * after conf_load, except that SIGHUP takes over the keys marked reloadable
 * (conf_reload). Thread: loaded by main, read by all. */
#ifndef SERVER_CONF_H
#define SERVER_CONF_H
#include <stdbool.h>
#include <stdio.h>
#include "kernels/error.h"
struct conf {
	/* server */
	char *listen;             /* "127.0.0.1:8900" */
	char *web_root;           /* folder of the page */
	char *state_dir;          /* journals; "" keeps none */
	char *allowed_hosts;      /* names accepted in Host beside loopback and the listen address */
	char *allowed_origins;    /* origins accepted beside the own */
	bool insecure;            /* listen beyond loopback without keys */
	char *log_level;
	int http_connections_max, http_connections_per_ip, http_timeout_s, head_timeout_s;
	int head_bytes_max, body_bytes_max, body_timeout_s;
	/* model */
	char *model, *backend, *precision, *sparsity;
	int threads, prompts_cached;
	/* sessions */
	int sessions_max;         /* live at once; = KV slots */
	int pending_prompts_max, prompts_kept_max, prompt_bytes_max;
	int unwatched_after_s, unwatched_ttl_s, ended_kept_s, ended_kept_max;
	int lead_ms;              /* how far ahead of real time a chunk may begin */
	int labels_max;
	/* video */
	int bitrate_kbps, cq_level, cpu_used, encoder_threads, keyframe_every_chunks, frames_queued_max;
	char *rate_control;       /* "quality" or "network" */
	/* viewers */
	int viewers_max, viewers_per_session_max, viewer_queue_ms, viewer_queue_bytes, viewer_behind_s;
	int text_bytes_max, messages_per_s, channel_ms, channel_bytes, keyframe_interval_ms;
	int shutdown_s;
};
/* argc/argv as main got them; returns 0, or -EINVAL with "file:line: [section] name: reason". */
int conf_load(struct conf *c, int argc, char **argv, struct error *e);
void conf_free(struct conf *c);
void conf_describe(FILE *out);                        /* annotated example file, from the table */
void conf_print(const struct conf *c, FILE *out);     /* effective values and their origins, JSON */
void conf_help(FILE *out);                            /* flags */
#endif
