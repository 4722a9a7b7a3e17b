/* SPDX-License-Identifier: Apache-2.0 */
/* What a hundred viewers of one session cost: starts the daemon on its test
 * picture at 1.5 Mbit/s, watches with one viewer, then with many, all read by
 * this one thread, and prints a result document. Cost is the CPU time of the
 * daemon's threads "ws" and "acceptor" (from /proc) with many viewers minus that
 * with one; lost are gaps in seq after a viewer's first frame.
 *
 *	bench_viewers DAEMON [VIEWERS [SECONDS]] >bench/results/viewers.json */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define VIEWERS_MAX 1000
#define SETTLE_US 3000000 /* after joining, before measuring */
#define INPUT_BYTES (1 << 20)
#define BACKEND "test:width=640,height=360,noise=12"
#define KBPS "1650" /* 1.5 Mbit/s is to be reached on a busy machine, too */

struct viewer {
	int fd;
	bool upgraded, started;
	uint8_t *input; /* INPUT_BYTES */
	size_t size;
	uint64_t last_seq;
	uint64_t frames, lost, bytes, late_us_sum; /* since the measurement began */
	uint64_t late_us_max;
};
struct daemon {
	pid_t pid;
	int port;
	char session[64];
};
struct outcome {
	double cpu_s, span_s, mbit_s;
	uint64_t frames, lost, late_us_mean, late_us_max;
};

static int64_t now_us(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void give_up(struct daemon *d, const char *why) {
	fprintf(stderr, "bench_viewers: %s: %s\n", why, strerror(errno));
	if (d->pid > 0)
		kill(d->pid, SIGKILL);
	exit(EXIT_FAILURE);
}

static uint64_t big_endian(const uint8_t *p, int bytes) {
	uint64_t v = 0;
	while (bytes--)
		v = v << 8 | *p++;
	return v;
}

/* ---- the daemon */

static void start_daemon(struct daemon *d, const char *program) {
	int out[2];
	char line[512];
	if (pipe(out))
		give_up(d, "pipe");
	d->pid = fork();
	if (d->pid == 0) {
		dup2(out[1], STDERR_FILENO);
		close(out[0]);
		execl(program, program, "--listen", "127.0.0.1:0", "--backend", BACKEND,
			"--rate-control", "network", "--bitrate-kbps", KBPS, "--viewers-max",
			"2000", "--viewers-per-session-max", "2000", (char *)NULL);
		_exit(127);
	}
	close(out[1]);
	FILE *log = fdopen(out[0], "r"); /* stays open: the daemon writes to it */
	while (log && fgets(line, sizeof line, log)) {
		const char *found = strstr(line, "listens on http://127.0.0.1:");
		if (found)
			d->port = atoi(found + strlen("listens on http://127.0.0.1:"));
		if (strstr(line, " ready after "))
			return;
	}
	give_up(d, "the daemon did not start");
}

static int dial(struct daemon *d) {
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)d->port)};
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to))
		give_up(d, "connect");
	return fd;
}

/* False while the daemon says that it is not ready. */
static bool create_session(struct daemon *d) {
	static const char body[] = "{\"prompt\":\"a red kite\",\"seed\":1}";
	char text[4096];
	int n = snprintf(text, sizeof text,
		"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
		"application/json\r\nContent-Length: %zu\r\n\r\n%s",
		sizeof body - 1, body);
	int fd = dial(d);
	size_t size = 0;
	ssize_t got = write(fd, text, (size_t)n);
	while ((got = read(fd, text + size, sizeof text - 1 - size)) > 0)
		size += (size_t)got;
	text[size] = 0;
	close(fd);
	const char *id = strstr(text, "\"id\":\"");
	return id && sscanf(id, "\"id\":\"%63[^\"]", d->session) == 1;
}

/* Clock ticks used by the daemon's threads of these names. */
static long thread_ticks(const struct daemon *d) {
	char path[300], line[1024];
	long sum = 0;
	snprintf(path, sizeof path, "/proc/%d/task", (int)d->pid);
	DIR *tasks = opendir(path);
	for (struct dirent *t; tasks && (t = readdir(tasks));) {
		snprintf(path, sizeof path, "/proc/%d/task/%.20s/stat", (int)d->pid, t->d_name);
		FILE *f = fopen(path, "r");
		if (!f)
			continue;
		long user, kernel;
		const char *name = fgets(line, sizeof line, f) ? strchr(line, '(') : NULL;
		const char *rest = name ? strrchr(line, ')') : NULL;
		if (rest && (!strncmp(name, "(ws)", 4) || !strncmp(name, "(acceptor)", 10)) &&
			sscanf(rest, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld", &user,
				&kernel) == 2)
			sum += user + kernel;
		fclose(f);
	}
	if (tasks)
		closedir(tasks);
	return sum;
}

/* ---- viewers */

static void join(struct daemon *d, struct viewer *v) {
	char head[400];
	v->fd = dial(d);
	v->input = malloc(INPUT_BYTES);
	int n = snprintf(head, sizeof head,
		"GET /v1/sessions/%s/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: "
		"websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: "
		"dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: "
		"13\r\nSec-WebSocket-Protocol: lightforced.v1\r\n\r\n",
		d->session);
	if (!v->input || write(v->fd, head, (size_t)n) != n)
		give_up(d, "join");
}

static void count_frame(struct viewer *v, const uint8_t *frame, size_t size) {
	uint64_t seq = big_endian(frame + 8, 8), sent_us = big_endian(frame + 40, 8);
	uint64_t late_us = (uint64_t)now_us() - sent_us;
	if (v->started)
		v->lost += seq - v->last_seq - 1;
	v->started = true;
	v->last_seq = seq;
	v->frames++;
	v->bytes += size;
	v->late_us_sum += late_us;
	if (late_us > v->late_us_max)
		v->late_us_max = late_us;
}

/* A pong with the same bytes, masked with zeros. */
static bool answer_ping(const struct viewer *v, const uint8_t *data, size_t size) {
	uint8_t pong[6 + 125] = {0x8a, (uint8_t)(0x80 | size)};
	if (size > 125)
		return false;
	memcpy(pong + 6, data, size);
	return send(v->fd, pong, 6 + size, MSG_NOSIGNAL) == (ssize_t)(6 + size);
}

/* Takes whole messages out of the input; false: the server closed. */
static bool parse(struct viewer *v) {
	size_t at = 0;
	if (!v->upgraded) {
		uint8_t *end = memmem(v->input, v->size, "\r\n\r\n", 4);
		if (!end)
			return true;
		v->upgraded = true;
		at = (size_t)(end - v->input) + 4;
	}
	while (v->size - at >= 2) {
		const uint8_t *p = v->input + at;
		size_t size = p[1] & 127, head = size == 126 ? 4 : size == 127 ? 10 : 2;
		if (v->size - at < head)
			break;
		if (head > 2)
			size = (size_t)big_endian(p + 2, (int)head - 2);
		if (v->size - at < head + size)
			break;
		if ((p[0] & 15) == 8) {
			fprintf(stderr, "closed: %d\n", (int)big_endian(p + head, 2));
			return false;
		}
		if ((p[0] & 15) == 9 && !answer_ping(v, p + head, size))
			return false;
		if ((p[0] & 15) == 2)
			count_frame(v, p + head, size);
		at += head + size;
	}
	memmove(v->input, v->input + at, v->size - at);
	v->size -= at;
	return true;
}

static void read_all(struct daemon *d, struct viewer *viewers, int epoll, int64_t until_us) {
	struct epoll_event ev[64];
	for (int64_t left; (left = until_us - now_us()) > 0;) {
		int n = epoll_wait(epoll, ev, 64, (int)(left / 1000) + 1);
		for (int i = 0; i < n; i++) {
			struct viewer *v = &viewers[ev[i].data.u32];
			ssize_t got = recv(
				v->fd, v->input + v->size, INPUT_BYTES - v->size, MSG_DONTWAIT);
			if (got > 0)
				v->size += (size_t)got;
			if (got == 0 || (got < 0 && errno != EAGAIN) || !parse(v))
				give_up(d, "a viewer was closed");
		}
	}
}

static struct outcome watch(struct daemon *d, int count, int seconds) {
	struct viewer *viewers = calloc((size_t)count, sizeof *viewers);
	int epoll = epoll_create1(0);
	for (int i = 0; i < count; i++) {
		join(d, &viewers[i]);
		struct epoll_event ev = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
		epoll_ctl(epoll, EPOLL_CTL_ADD, viewers[i].fd, &ev);
	}
	read_all(d, viewers, epoll, now_us() + SETTLE_US);
	for (int i = 0; i < count; i++) {
		struct viewer *v = &viewers[i];
		/* Losses while settling count, too. */
		v->frames = v->bytes = v->late_us_sum = v->late_us_max = 0;
	}
	long ticks = thread_ticks(d);
	int64_t begun_us = now_us();
	read_all(d, viewers, epoll, begun_us + seconds * INT64_C(1000000));
	struct outcome o = {.span_s = (double)(now_us() - begun_us) / 1e6};
	o.cpu_s = (double)(thread_ticks(d) - ticks) / (double)sysconf(_SC_CLK_TCK);
	uint64_t late_us = 0, bytes = 0;
	for (int i = 0; i < count; i++) {
		struct viewer *v = &viewers[i];
		o.frames += v->frames;
		o.lost += v->lost + !v->started;
		late_us += v->late_us_sum;
		bytes += v->bytes;
		if (v->late_us_max > o.late_us_max)
			o.late_us_max = v->late_us_max;
		close(v->fd);
		free(v->input);
	}
	o.late_us_mean = o.frames ? late_us / o.frames : 0;
	o.mbit_s = (double)bytes * 8 / 1e6 / o.span_s / count;
	close(epoll);
	free(viewers);
	return o;
}

/* ---- the result */

static void first_line(const char *command, char *out, int size) {
	FILE *f = popen(command, "r");
	if (!f || !fgets(out, size, f))
		snprintf(out, (size_t)size, "unknown");
	out[strcspn(out, "\n\"\\")] = 0;
	if (f)
		pclose(f);
}

static void print_metric(const char *name, double value, const char *unit, bool last) {
	printf("    \"%s\": {\"value\": %.6g, \"unit\": \"%s\"}%s\n", name, value, unit,
		last ? "" : ",");
}

int main(int argc, char **argv) {
	if (argc < 2) {
		fprintf(stderr, "usage: %s DAEMON [VIEWERS [SECONDS]]\n", argv[0]);
		return 2;
	}
	int count = argc > 2 ? atoi(argv[2]) : 100, seconds = argc > 3 ? atoi(argv[3]) : 60;
	if (count < 1 || count > VIEWERS_MAX || seconds < 1) {
		fprintf(stderr, "%s: 1 to %d viewers, at least 1 second\n", argv[0], VIEWERS_MAX);
		return 2;
	}
	struct daemon d = {0};
	start_daemon(&d, argv[1]);
	for (int tries = 0; !create_session(&d); tries++) {
		if (tries == 100)
			give_up(&d, "no session was made");
		usleep(50000);
	}
	struct outcome one = watch(&d, 1, seconds), many = watch(&d, count, seconds);
	kill(d.pid, SIGTERM);
	waitpid(d.pid, NULL, 0);
	char commit[64], cpu[128], name[64];
	first_line("git rev-parse --short=12 HEAD", commit, sizeof commit);
	first_line("grep -m1 'model name' /proc/cpuinfo | sed 's/.*: //'", cpu, sizeof cpu);
	printf("{\n  \"bench\": \"viewers\",\n  \"commit\": \"%s\",\n", commit);
	printf("  \"machine\": \"%s, %ld cores\",\n", cpu, sysconf(_SC_NPROCESSORS_ONLN));
	printf("  \"command\": \"bench_viewers lightforced %d %d\",\n  \"metrics\": {\n", count,
		seconds);
	snprintf(name, sizeof name, "viewers_%d_lost_frames", count);
	print_metric(name, (double)many.lost, "frames", false);
	snprintf(name, sizeof name, "viewers_%d_core_share", count);
	print_metric(name, many.cpu_s / many.span_s - one.cpu_s / one.span_s, "cores", false);
	print_metric("viewers_1_core_share", one.cpu_s / one.span_s, "cores", false);
	print_metric("stream_mbit_s", many.mbit_s, "Mbit/s", false);
	print_metric("frames_received", (double)many.frames, "frames", false);
	print_metric("travel_ms_mean", (double)many.late_us_mean / 1e3, "ms", false);
	print_metric("travel_ms_max", (double)many.late_us_max / 1e3, "ms", true);
	printf("  }\n}\n");
	return many.lost ? EXIT_FAILURE : EXIT_SUCCESS;
}
