/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon: reads the settings, makes every object and every thread in order,
 * then only waits: for signals, for the GPU thread's end, for the next word to
 * the service manager. The port opens first, then the model loads. Signals are
 * blocked in all threads but this one.
 * Start: settings, log, sessions, stream, API, port, threads. Stop: in reverse,
 * the GPU thread finishing its chunks first. */
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "server/acceptor.h"
#include "server/api.h"
#include "server/encoder.h"
#include "server/gpu.h"
#include "server/http.h"
#include "server/log.h"
#include "server/notify.h"
#include "server/wire.h"
#include "server/ws.h"

enum { ENCODERS_MAX = 64, TURN_MS = 250 };

struct worker {
	pthread_t thread;
	char name[16]; /* pthread_setname_np's limit */
	void (*body)(void *object);
	void *object;
	bool running;
};

struct daemon {
	struct conf conf;
	struct log *log;
	struct metrics metrics;
	struct outlet outlet;
	struct registry *registry;
	struct ws *ws;
	struct api *api;
	struct http *http;
	struct acceptor *acceptor;
	struct encoder *encoder[ENCODERS_MAX];
	int encoders;
	struct gpu *gpu;
	struct worker journal_worker, ws_worker, acceptor_worker, gpu_worker;
	struct worker encoder_worker[ENCODERS_MAX];
	sigset_t signals;
	int64_t told_us, watchdog_us; /* last word; how often one is wanted */
};

/* ---- threads */

static void *worker_main(void *arg) {
	struct worker *w = arg;
	pthread_setname_np(pthread_self(), w->name);
	w->body(w->object);
	return NULL;
}

static int worker_start(
	struct worker *w, const char *name, void (*body)(void *), void *object, struct error *e) {
	snprintf(w->name, sizeof w->name, "%s", name);
	w->body = body;
	w->object = object;
	int rc = pthread_create(&w->thread, NULL, worker_main, w);
	w->running = rc == 0;
	return rc == 0 ? 0 : error_set(e, -rc, "thread %s: %s", name, strerror(rc));
}

static void worker_join(struct worker *w) {
	if (w->running)
		pthread_join(w->thread, NULL);
	w->running = false;
}

static void run_journal(void *r) {
	registry_journal_run(r);
}

static void run_ws(void *w) {
	ws_run(w);
}

static void run_acceptor(void *a) {
	acceptor_run(a);
}

static void run_gpu(void *g) {
	gpu_run(g);
}

static void run_encoder(void *en) {
	encoder_run(en);
}

/* ---- start and stop */

/* Members of /healthz: what threads publish of themselves; nothing is waited for. */
static json_t *health(void *ctx) {
	struct daemon *d = ctx;
	int64_t now = wire_now_us(), step = registry_step_age_us(d->registry);
	json_t *j = json_pack("{s:o, s:{s:I, s:I, s:I}}", "last_step_age_ms",
		step < 0 ? json_null() : json_integer(step / 1000), "thread_age_ms", "gpu",
		(json_int_t)(now - gpu_ticked_us(d->gpu)) / 1000, "ws",
		(json_int_t)(now - ws_ticked_us(d->ws)) / 1000, "http",
		(json_int_t)(now - acceptor_ticked_us(d->acceptor)) / 1000);
	return j;
}

static int make_encoders(struct daemon *d, struct error *e) {
	int wanted = d->conf.sessions_max;
	while (d->encoders < wanted && (d->encoder[d->encoders] = encoder_create(d->registry, e)))
		d->encoders++;
	return d->encoders == wanted ? 0 : e->code;
}

static int make(struct daemon *d, struct error *e) {
	d->registry = registry_create(&d->conf, &d->outlet, d->log, &d->metrics, e);
	if (!d->registry || make_encoders(d, e) != 0)
		return e->code;
	d->gpu = gpu_create(d->registry, d->encoder, d->encoders, e);
	d->ws = d->gpu ? ws_create(&d->conf, &d->metrics, e) : NULL;
	if (!d->ws)
		return e->code;
	ws_registry(d->ws, d->registry);
	d->outlet = (struct outlet){d->ws, ws_publish, ws_finish};
	int back = registry_restore(d->registry);
	if (back > 0)
		log_line(d->log, LOG_LEVEL_INFO, "%d sessions come back from their journals", back);
	struct api_config api = {
		.conf = &d->conf,
		.registry = d->registry,
		.metrics = &d->metrics,
		.health = health,
		.health_ctx = d,
	};
	d->api = api_create(&api, e);
	d->http = d->api ? http_create(&d->conf, d->api, &d->metrics, e) : NULL;
	d->acceptor = d->http ? acceptor_create(&d->conf, d->http, d->ws, &d->metrics, e) : NULL;
	return d->acceptor ? 0 : e->code;
}

static int start(struct daemon *d, struct error *e) {
	const char *state_dir = d->conf.state_dir;
	int rc = state_dir[0]
			 ? worker_start(&d->journal_worker, "journal", run_journal, d->registry, e)
			 : 0;
	for (int i = 0; i < d->encoders && rc == 0; i++) {
		char name[16];
		snprintf(name, sizeof name, "encoder%d", i % ENCODERS_MAX);
		rc = worker_start(&d->encoder_worker[i], name, run_encoder, d->encoder[i], e);
	}
	if (rc == 0)
		rc = worker_start(&d->ws_worker, "ws", run_ws, d->ws, e);
	if (rc == 0)
		rc = worker_start(&d->acceptor_worker, "acceptor", run_acceptor, d->acceptor, e);
	if (rc == 0)
		rc = worker_start(&d->gpu_worker, "gpu", run_gpu, d->gpu, e);
	return rc;
}

/* Every thread that runs is told to end, in the order in which work flows. */
static void stop(struct daemon *d) {
	worker_join(&d->gpu_worker);
	for (int i = 0; i < d->encoders; i++)
		encoder_stop(d->encoder[i]);
	for (int i = 0; i < d->encoders; i++)
		worker_join(&d->encoder_worker[i]);
	registry_journal_stop(d->registry);
	worker_join(&d->journal_worker);
	registry_journal_flush(d->registry); /* last, so that it is the exact place that stays */
	if (d->acceptor_worker.running)
		acceptor_stop(d->acceptor);
	worker_join(&d->acceptor_worker);
	if (d->ws_worker.running)
		ws_stop(d->ws);
	worker_join(&d->ws_worker);
}

static void unmake(struct daemon *d) {
	acceptor_destroy(d->acceptor);
	http_destroy(d->http);
	api_destroy(d->api);
	ws_destroy(d->ws);
	for (int i = 0; i < d->encoders; i++)
		encoder_destroy(d->encoder[i]);
	gpu_destroy(d->gpu); /* after the encoders: they may still hold its pictures */
	registry_destroy(d->registry);
}

/* ---- what main does meanwhile */

static void note_change(void *ctx, const char *line) {
	struct daemon *d = ctx;
	log_line(d->log, LOG_LEVEL_INFO, "reload: %s", line);
}

static void reload(struct daemon *d) {
	struct error e = {0};
	notify_send("RELOADING=1\nMONOTONIC_USEC=%lld", (long long)wire_now_us());
	if (conf_reload(&d->conf, note_change, d, &e) == 0) {
		log_level_set(d->log, (enum log_level)log_level_parse(d->conf.log_level));
		log_line(d->log, LOG_LEVEL_INFO, "settings read again");
	} else {
		log_line(d->log, LOG_LEVEL_ERROR, "settings stay as they were: %s", e.text);
	}
	notify_send("READY=1");
}

/* Name of a thread that has not turned for `most_us`, or NULL. While a model loads
 * the GPU thread is the library's. */
static const char *stuck_thread(struct daemon *d, int64_t most_us) {
	int64_t now = wire_now_us();
	if (registry_engine(d->registry) && now - gpu_ticked_us(d->gpu) > most_us)
		return "gpu";
	if (now - ws_ticked_us(d->ws) > most_us)
		return "ws";
	if (now - acceptor_ticked_us(d->acceptor) > most_us)
		return "acceptor";
	for (int i = 0; i < d->encoders; i++) {
		if (now - encoder_ticked_us(d->encoder[i]) > most_us)
			return d->encoder_worker[i].name;
	}
	return NULL;
}

/* The watchdog is fed only while every thread turns. */
static void tell_manager(struct daemon *d) {
	int64_t now = wire_now_us();
	if (now - d->told_us < (d->watchdog_us ? d->watchdog_us / 3 : 1000000))
		return;
	d->told_us = now;
	struct problem why = {0};
	if (registry_ready(d->registry, &why))
		notify_send("STATUS=%lld sessions, %lld viewers",
			metrics_get(&d->metrics, METRIC_SESSIONS),
			metrics_get(&d->metrics, METRIC_VIEWERS));
	else
		notify_send("STATUS=%.200s", why.detail);
	problem_clear(&why);
	if (d->watchdog_us == 0)
		return;
	const char *stuck = stuck_thread(d, d->watchdog_us / 2);
	if (stuck)
		log_line(d->log, LOG_LEVEL_ERROR, "thread %s has not turned for %lld ms", stuck,
			(long long)d->watchdog_us / 2000);
	else
		notify_send("WATCHDOG=1");
}

/* Until the first SIGTERM or SIGINT, or until the GPU thread ends by itself. */
static void serve(struct daemon *d) {
	const struct timespec turn = {0, TURN_MS * 1000000};
	while (gpu_end(d->gpu) == GPU_RUNS) {
		int signal = sigtimedwait(&d->signals, NULL, &turn);
		if (signal == SIGHUP)
			reload(d);
		else if (signal == SIGTERM || signal == SIGINT)
			return;
		tell_manager(d);
	}
}

/* The chunk in hand takes too long: viewers are sent away and the process ends
 * without it. The journals hold what must survive. */
static void give_up(struct daemon *d) {
	log_line(d->log, LOG_LEVEL_WARN,
		"a chunk takes longer than the %d s for shutdown: ended without it",
		(int)d->conf.shutdown_s);
	ws_stop(d->ws);
	worker_join(&d->ws_worker);
	_exit(EXIT_SUCCESS);
}

/* Lets chunks in hand be finished, for three quarters of the time; the rest is
 * for saying goodbye. A second signal ends the process where it stands. */
static void drain(struct daemon *d) {
	const struct timespec turn = {0, 10 * 1000000};
	int64_t until = wire_now_us() + (int64_t)d->conf.shutdown_s * 750000;
	log_line(d->log, LOG_LEVEL_INFO, "shutting down: chunks in hand are finished first");
	notify_send("STOPPING=1\nSTATUS=finishing the chunks in hand");
	registry_drain(d->registry);
	while (gpu_end(d->gpu) == GPU_RUNS) {
		int signal = sigtimedwait(&d->signals, NULL, &turn);
		if (signal == SIGTERM || signal == SIGINT) {
			log_line(d->log, LOG_LEVEL_WARN, "second signal: ended at once");
			_exit(EXIT_FAILURE);
		}
		if (wire_now_us() > until)
			give_up(d);
	}
}

static int run(struct daemon *d) {
	struct error e = {0};
	if (make(d, &e) != 0 || start(d, &e) != 0) {
		log_line(d->log, LOG_LEVEL_ERROR, "%s", e.text);
		if (d->registry)
			registry_drain(d->registry);
		return conf_is_to_blame(e.code) ? CONF_EXIT_STATUS : EXIT_FAILURE;
	}
	const char *listen = d->conf.listen;
	int host = (int)(strrchr(listen, ':') - listen);
	log_line(d->log, LOG_LEVEL_INFO, "lightforced " VERSION " listens on http://%.*s:%d/", host,
		listen, acceptor_port(d->acceptor));
	d->watchdog_us = notify_watchdog_us();
	notify_send("READY=1\nSTATUS=loading the model");
	serve(d);
	if (gpu_end(d->gpu) == GPU_RUNS)
		drain(d);
	switch (gpu_end(d->gpu)) {
	case GPU_NO_MODEL:
		return gpu_config_at_fault(d->gpu) ? CONF_EXIT_STATUS : EXIT_FAILURE;
	case GPU_BROKEN:
		return EXIT_FAILURE;
	default:
		return EXIT_SUCCESS;
	}
}

static int act(struct daemon *d) {
	switch (d->conf.action) {
	case CONF_CHECK:
		return conf_print(&d->conf, stdout) ? EXIT_SUCCESS : EXIT_FAILURE;
	case CONF_HELP:
		conf_help(stdout);
		return EXIT_SUCCESS;
	case CONF_VERSION:
		puts("lightforced " VERSION);
		return EXIT_SUCCESS;
	case CONF_EXAMPLE:
		conf_example(stdout);
		return EXIT_SUCCESS;
	default:
		break;
	}
	d->log = log_create(STDERR_FILENO);
	if (!d->log)
		return EXIT_FAILURE;
	log_level_set(d->log, (enum log_level)log_level_parse(d->conf.log_level));
	int status = run(d);
	if (d->registry)
		stop(d);
	unmake(d);
	log_line(d->log, LOG_LEVEL_INFO, "ended");
	log_destroy(d->log);
	return status;
}

int main(int argc, char **argv) {
	struct daemon *d = calloc(1, sizeof *d);
	struct error e = {0};
	if (!d)
		return EXIT_FAILURE;
	json_object_seed(0); /* before any thread */
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&d->signals);
	sigaddset(&d->signals, SIGTERM);
	sigaddset(&d->signals, SIGINT);
	sigaddset(&d->signals, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &d->signals, NULL);
	int status = CONF_EXIT_STATUS;
	if (conf_load(&d->conf, argc, argv, &e) == 0)
		status = act(d);
	else
		fprintf(stderr, "lightforced: %s\n", e.text);
	conf_free(&d->conf);
	free(d);
	return status;
}
