/* SPDX-License-Identifier: Apache-2.0 */
/* Filling struct conf: defaults, then file, environment and command line, each
 * over the last, then what no single key can check. Anything not understood is
 * an error with its place and the nearest name. Thread: main. */
#include "server/conf.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "server/conf_table.h"

enum { FILE_BYTES_MAX = 1 << 18, LINE_BYTES_MAX = 190 }; /* libinih holds 200 */

/* One reading of everything. */
struct reading {
	struct conf *c;
	const char *path, *text; /* of the file; text: what libinih has not taken yet */
	int line;
	bool seen[64 + 1]; /* in the file */
	struct error *e;
};
_Static_assert(sizeof(((struct reading *)0)->seen) > 60, "one per key");

static bool parse_bool(const char *text, int *out) {
	static const char *const names[] = {"no", "yes", "false", "true", "off", "on", "0", "1"};
	for (int i = 0; i < 8; i++) {
		if (strcmp(text, names[i]) == 0) {
			*out = i & 1;
			return true;
		}
	}
	return false;
}

static bool is_choice(const char *choices, const char *text) {
	size_t n = strlen(text);
	for (const char *s = strchr(text, '|') ? NULL : choices; s; s = strchr(s, '|')) {
		s += *s == '|';
		if (n > 0 && strncmp(s, text, n) == 0 && (s[n] == '|' || s[n] == 0))
			return true;
	}
	return false;
}

static int set_string(struct conf *c, const struct conf_key *k, const char *text,
	const char *origin, struct error *e) {
	if (k->choices && !is_choice(k->choices, text))
		return error_set(e, -EINVAL, "%s: [%s] %s: '%s' is none of %s", origin, k->section,
			k->name, text, k->choices);
	if (!conf_is_text(text))
		return error_set(e, -EINVAL, "%s: [%s] %s: not UTF-8", origin, k->section, k->name);
	char *copy = strdup(text);
	if (!copy)
		return error_set(e, -ENOMEM, "no memory for the configuration");
	free(*conf_string_at(c, k));
	*conf_string_at(c, k) = copy;
	return 0;
}

static int set(struct conf *c, int key, const char *text, const char *origin, struct error *e) {
	const struct conf_key *k = &conf_keys[key];
	int v = 0;
	if (k->type == CONF_STRING) {
		int rc = set_string(c, k, text, origin, e);
		if (rc != 0)
			return rc;
	} else if (k->type == CONF_BOOL) {
		if (!parse_bool(text, &v))
			return error_set(e, -EINVAL, "%s: [%s] %s: '%s' is neither yes nor no",
				origin, k->section, k->name, text);
		*conf_int_at(c, k) = v;
	} else {
		char *end;
		errno = 0;
		long number = strtol(text, &end, 10);
		if (end == text || *end || errno || number < k->min || number > k->max)
			return error_set(e, -EINVAL,
				"%s: [%s] %s: '%s' is no number from %ld to %ld", origin,
				k->section, k->name, text, k->min, k->max);
		*conf_int_at(c, k) = (int)number;
	}
	snprintf(c->private->origin[key], CONF_ORIGIN_BYTES, "%s", origin);
	return 0;
}

/* One line for libinih: leading blanks go, so that no line continues another. */
static char *next_line(char *out, int size, void *stream) {
	struct reading *r = stream;
	if (!*r->text)
		return NULL;
	r->line++;
	size_t n = strcspn(r->text, "\n"), lead = strspn(r->text, " \t");
	if (n > LINE_BYTES_MAX || n + 2 > (size_t)size) {
		error_set(r->e, -EINVAL, "%s:%d: the line is %zu bytes long, %d is the limit",
			r->path, r->line, n, LINE_BYTES_MAX);
		return NULL;
	}
	if (lead > n)
		lead = n;
	memcpy(out, r->text + lead, n - lead);
	memcpy(out + (n - lead), "\n", 2);
	r->text += n + (r->text[n] == '\n');
	return out;
}

static int unknown(struct reading *r, const char *origin, const char *section, const char *name) {
	const struct conf_key *near = conf_nearest(section[0] ? section : NULL, name);
	bool known = false;
	if (!section[0])
		return error_set(r->e, -EINVAL,
			"%s: %s stands before any [section]; %s goes into [%s]", origin, name,
			near->name, near->section);
	for (int i = 0; i < conf_key_count; i++)
		known = known || strcmp(conf_keys[i].section, section) == 0;
	if (!known)
		return error_set(r->e, -EINVAL, "%s: no section [%s]; %s stands in [%s]", origin,
			section, near->name, near->section);
	return error_set(r->e, -EINVAL, "%s: [%s] %s: no such setting; did you mean [%s] %s?",
		origin, section, name, near->section, near->name);
}

static int take_line(void *user, const char *section, const char *name, const char *value) {
	struct reading *r = user;
	char origin[CONF_ORIGIN_BYTES];
	snprintf(origin, sizeof origin, "%s:%d", r->path, r->line);
	int key = conf_find(section, name);
	if (key < 0) {
		unknown(r, origin, section, name);
		return 0;
	}
	if (r->seen[key]) {
		error_set(r->e, -EINVAL, "%s: [%s] %s: set a second time", origin, section, name);
		return 0;
	}
	r->seen[key] = true;
	return set(r->c, key, value, origin, r->e) == 0;
}

static int read_text(struct reading *r, const char *text, size_t size) {
	if (strlen(text) != size)
		return error_set(
			r->e, -EINVAL, "%s: holds a NUL byte: not a settings file", r->path);
	r->text = text;
	int bad = ini_parse_stream(next_line, r, take_line, r);
	if (bad != 0)
		error_set(r->e, -EINVAL, "%s:%d: neither [section] nor name = value", r->path, bad);
	return r->e->code;
}

int conf_read_text(
	struct conf *c, const char *name, const char *text, size_t size, struct error *e) {
	return read_text(&(struct reading){.c = c, .path = name, .e = e}, text, size);
}

static int read_file(struct reading *r) {
	FILE *f = fopen(r->path, "re");
	if (!f)
		return error_set(r->e, -errno, "%s: %s", r->path, strerror(errno));
	char *text = malloc(FILE_BYTES_MAX + 1);
	size_t size = text ? fread(text, 1, FILE_BYTES_MAX + 1, f) : 0;
	int rc = text ? 0 : error_set(r->e, -ENOMEM, "no memory for the configuration");
	if (rc == 0 && ferror(f))
		rc = error_set(r->e, -EIO, "%s: cannot be read", r->path);
	if (rc == 0 && size > FILE_BYTES_MAX)
		rc = error_set(r->e, -EINVAL, "%s: larger than %d bytes", r->path, FILE_BYTES_MAX);
	fclose(f);
	if (rc == 0) {
		text[size] = 0;
		rc = read_text(r, text, size);
	}
	free(text);
	return rc;
}

/* A variable that names a section but no setting of it is a slip of the pen. */
static int check_variable(const char *entry, struct error *e) {
	size_t size = strcspn(entry, "=");
	const char *section = NULL, *rest = NULL;
	for (int i = 0; i < conf_key_count; i++) {
		char name[CONF_NAME_BYTES];
		size_t prefix = strlen("LIGHTFORCED_") + strlen(conf_keys[i].section) + 1;
		conf_variable(&conf_keys[i], name);
		if (strlen(name) == size && strncmp(entry, name, size) == 0)
			return 0;
		if (size > prefix && strncmp(entry, name, prefix) == 0) {
			section = conf_keys[i].section;
			rest = entry + prefix;
		}
	}
	if (!section)
		return 0;
	char slip[CONF_NAME_BYTES], meant[CONF_NAME_BYTES];
	snprintf(slip, sizeof slip, "%.*s", (int)strcspn(rest, "="), rest);
	for (char *at = slip; *at; at++)
		*at = (char)tolower((unsigned char)*at);
	conf_variable(conf_nearest(section, slip), meant);
	return error_set(e, -EINVAL, "environment %.*s: no such setting; did you mean %s?",
		(int)(size < CONF_NAME_BYTES ? size : CONF_NAME_BYTES), entry, meant);
}

static int read_environment(struct conf *c, struct error *e) {
	for (char **entry = environ; *entry; entry++) {
		if (check_variable(*entry, e) != 0)
			return e->code;
	}
	for (int i = 0; i < conf_key_count; i++) {
		char name[CONF_NAME_BYTES], origin[CONF_ORIGIN_BYTES];
		conf_variable(&conf_keys[i], name);
		const char *value = getenv(name);
		snprintf(origin, sizeof origin, "environment %s", name);
		if (value && set(c, i, value, origin, e) != 0)
			return e->code;
	}
	return 0;
}

static const struct {
	const char *flag;
	enum conf_action action;
} actions[] = {
	{"--check-config", CONF_CHECK},
	{"--help", CONF_HELP},
	{"--version", CONF_VERSION},
	{"--example-config", CONF_EXAMPLE},
};

/* "--name" of an argument into out, dashes as underscores; what stands behind =. */
static const char *split_flag(const char *arg, char out[CONF_NAME_BYTES]) {
	size_t n = strcspn(arg, "=");
	snprintf(out, CONF_NAME_BYTES, "%.*s", (int)(n < CONF_NAME_BYTES ? n : CONF_NAME_BYTES) - 2,
		arg + 2);
	for (char *s = out; *s; s++)
		*s = *s == '-' ? '_' : *s;
	return arg[n] == '=' ? arg + n + 1 : NULL;
}

/* One argument and perhaps its value; *i moves on. config: where --config goes. */
static int take_argument(
	struct conf *c, int argc, char **argv, int *i, const char **config, struct error *e) {
	const char *arg = argv[*i];
	for (size_t a = 0; a < sizeof actions / sizeof actions[0]; a++) {
		if (strcmp(arg, actions[a].flag) == 0) {
			c->action = actions[a].action;
			return 0;
		}
	}
	if (strncmp(arg, "--", 2) != 0 || !arg[2])
		return error_set(e, -EINVAL, "command line: '%s' is no flag; see --help", arg);
	char name[CONF_NAME_BYTES];
	const char *value = split_flag(arg, name);
	bool is_config = strcmp(name, "config") == 0;
	int key = is_config ? -1 : conf_find(NULL, name);
	if (!is_config && key < 0) {
		char near[CONF_NAME_BYTES];
		conf_flag(conf_nearest(NULL, name), near);
		return error_set(
			e, -EINVAL, "command line: no flag %s; did you mean %s?", arg, near);
	}
	if (!value && key >= 0 && conf_keys[key].type == CONF_BOOL)
		value = "yes";
	if (!value && *i + 1 < argc)
		value = argv[++*i];
	if (!value)
		return error_set(e, -EINVAL, "command line: %s needs a value", arg);
	if (is_config)
		*config = value;
	return is_config || !c->private ? 0 : set(c, key, value, "command line", e);
}

/* Runs over the arguments; before there is c->private only --config counts. */
static int read_arguments(
	struct conf *c, int argc, char **argv, const char **config, struct error *e) {
	for (int i = 1; i < argc; i++) {
		int rc = take_argument(c, argc, argv, &i, config, e);
		if (rc != 0)
			return rc;
	}
	return 0;
}

/* The first of a few places around the program where name exists; "" if none. */
static void find_beside(char *out, size_t size, const char *installed, const char *source) {
	char exe[1024];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
	exe[n > 0 ? n : 0] = 0;
	char *slash = strrchr(exe, '/');
	if (slash)
		*slash = 0;
	snprintf(out, size, "%s/../share/lightforced/%s", exe, installed);
	if (access(out, R_OK) != 0)
		snprintf(out, size, "%s/../../%s", exe, source);
	if (access(out, R_OK) != 0)
		snprintf(out, size, SOURCE_ROOT "/%s", source);
	if (access(out, R_OK) != 0)
		out[0] = 0;
}

static int default_folder(struct conf *c, const char *name, const char *installed,
	const char *source, struct error *e) {
	int key = conf_find(NULL, name);
	if ((*conf_string_at(c, &conf_keys[key]))[0])
		return 0;
	char path[1200];
	find_beside(path, sizeof path, installed, source);
	return path[0] ? set(c, key, path, "found beside the program", e) : 0;
}

static bool is_loopback(const char *host) {
	return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 ||
	       strcmp(host, "localhost") == 0;
}

/* What one key alone cannot tell. */
static int check(const struct conf *c, struct error *e) {
	char host[256], *end;
	const char *listen = c->listen, *colon = strrchr(listen, ':');
	const char *origin = c->private->origin[conf_find("server", "listen")];
	if (!origin[0])
		origin = "default";
	bool v6 = listen[0] == '[';
	size_t n = colon ? (size_t)(colon - listen) : 0;
	long port = colon ? strtol(colon + 1, &end, 10) : -1;
	if (n <= 2 * (size_t)v6 || n >= sizeof host || (v6 && listen[n - 1] != ']') || !colon[1] ||
		*end || port < 0 || port > 65535 || (!v6 && memchr(listen, ':', n)))
		return error_set(e, -EINVAL,
			"%s: [server] listen: '%s' is not ADDRESS:PORT, such as 127.0.0.1:8900 or "
			"[::1]:8900",
			origin, listen);
	snprintf(host, sizeof host, "%.*s", (int)n - 2 * v6, listen + v6);
	if (!c->insecure && !is_loopback(host))
		return error_set(e, -EINVAL,
			"%s: [server] listen: %s is reachable from other machines and nobody would "
			"be asked"
			" for a key; use 127.0.0.1, or add --insecure if that is meant",
			origin, listen);
	static const char *const backends[] = {"auto", "cpu", "cuda", "test"};
	const char *backend = c->backend;
	n = strcspn(backend, ":");
	for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++) {
		if (strlen(backends[i]) == n && strncmp(backend, backends[i], n) == 0)
			return 0;
	}
	origin = c->private->origin[conf_find("engine", "backend")];
	return error_set(e, -EINVAL,
		"%s: [engine] backend: '%s' is none of auto, cpu, cuda[:N], test[:key=value,...]",
		origin[0] ? origin : "default", backend);
}

static int read_defaults(struct conf *c, struct error *e) {
	c->private = calloc(1, sizeof *c->private + (size_t)conf_key_count * CONF_ORIGIN_BYTES);
	if (!c->private)
		return error_set(e, -ENOMEM, "no memory for the configuration");
	for (int i = 0; i < conf_key_count; i++) {
		int rc = set(c, i, conf_keys[i].preset, "", e);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static int read_all(struct conf *c, int argc, char **argv, struct error *e) {
	const char *path = getenv("LIGHTFORCED_CONFIG");
	int rc = read_arguments(c, argc, argv, &path, e);
	if (rc == 0)
		rc = read_defaults(c, e);
	if (rc == 0 && path && path[0])
		rc = read_file(&(struct reading){.c = c, .path = path, .e = e});
	if (rc == 0)
		rc = read_environment(c, e);
	if (rc == 0)
		rc = read_arguments(c, argc, argv, &path, e);
	if (rc == 0)
		rc = default_folder(c, "web_root", "web", "web/static", e);
	if (rc == 0)
		rc = default_folder(c, "model", "models/demo", "models/demo", e);
	return rc == 0 && c->action <= CONF_CHECK ? check(c, e) : rc;
}

int conf_load(struct conf *c, int argc, char **argv, struct error *e) {
	struct error local = {0};
	memset(c, 0, sizeof *c);
	if (read_all(c, argc, argv, &local) != 0) {
		conf_free(c);
		return error_set(e, local.code == -ENOMEM ? -ENOMEM : -EINVAL, "%s", local.text);
	}
	c->private->argc = argc;
	c->private->argv = argv;
	return 0;
}

int conf_default(struct conf *c, struct error *e) {
	memset(c, 0, sizeof *c);
	int rc = read_defaults(c, e);
	if (rc != 0)
		conf_free(c);
	return rc;
}

/* Puts the new value of a string in place; the old one stays readable. */
static bool swap_string(struct conf *c, const struct conf_key *k, conf_string *from) {
	struct conf_private *p = c->private;
	if (p->retired_count == (int)(sizeof p->retired / sizeof p->retired[0]))
		return false;
	char *old = *conf_string_at(c, k);
	*conf_string_at(c, k) = *from;
	*from = NULL;
	p->retired[p->retired_count++] = old;
	return true;
}

static void take_over(struct conf *c, struct conf *fresh, int i, char *line, size_t size) {
	const struct conf_key *k = &conf_keys[i];
	char was[16], now[16];
	const char *to = conf_value(fresh, k, now), *from = conf_value(c, k, was);
	snprintf(line, size, "[%s] %s: %s -> %s%s", k->section, k->name, from, to,
		k->reloadable ? "" : ", after a restart");
	if (!k->reloadable)
		return;
	if (k->type != CONF_STRING)
		*conf_int_at(c, k) = (int)*conf_int_at(fresh, k);
	else if (!swap_string(c, k, conf_string_at(fresh, k)))
		snprintf(line, size, "[%s] %s: changed too often, restart to take over %s",
			k->section, k->name, to);
	memcpy(c->private->origin[i], fresh->private->origin[i], CONF_ORIGIN_BYTES);
}

int conf_reload(
	struct conf *c, void (*note)(void *ctx, const char *line), void *ctx, struct error *e) {
	struct conf fresh;
	int rc = conf_load(&fresh, c->private->argc, c->private->argv, e);
	if (rc != 0)
		return rc;
	for (int i = 0; i < conf_key_count; i++) {
		char was[16], now[16], line[600];
		if (strcmp(conf_value(c, &conf_keys[i], was),
			    conf_value(&fresh, &conf_keys[i], now)) == 0)
			continue;
		take_over(c, &fresh, i, line, sizeof line);
		note(ctx, line);
	}
	conf_free(&fresh);
	return 0;
}

bool conf_is_to_blame(int code) {
	static const int codes[] = {
		EINVAL, ENOENT, ENOTDIR, EACCES, EPERM, EROFS, ENAMETOOLONG, ENOSYS};
	for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
		if (code == -codes[i])
			return true;
	}
	return false;
}

void conf_free(struct conf *c) {
	for (int i = 0; c->private && i < conf_key_count; i++) {
		if (conf_keys[i].type == CONF_STRING)
			free(*conf_string_at(c, &conf_keys[i]));
	}
	for (int i = 0; c->private && i < c->private->retired_count; i++)
		free(c->private->retired[i]);
	free(c->private);
	memset(c, 0, sizeof *c);
}
