/* SPDX-License-Identifier: Apache-2.0 */
/* Invented tensors: a table of 4096 bf16 normal quantiles, scaled by the fan-in
 * and drawn by a 64-bit generator; after PERIOD values the numbers repeat, which
 * lets the billion embeddings of a large vocabulary be copied, not drawn. */
#include "engine/random_weights.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define QUANTILES 4096
#define POOL_SLACK 4096 /* elements by which windows of one pool may differ */
#define PERIOD 1000003 /* elements; a prime, so that no two rows are alike */
#define NAME_MAX_BYTES 256
#define TENSORS_MAX 65536

enum family { FAMILY_MATRIX, FAMILY_VECTOR, FAMILY_GAIN };

struct pool {
	enum family family;
	int64_t fan_in, count;
	uint16_t *data; /* owned, bf16 */
};
struct invented {
	char *name;
	struct tensor t;
};
struct random_weights {
	uint64_t seed;
	float quantile[QUANTILES];
	struct pool *pool;
	struct invented *tensor;
	int pools, tensors;
};

static uint64_t mix(uint64_t x) { /* splitmix64 */
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static uint64_t name_hash(const char *name, uint64_t h) {
	for (; *name; name++)
		h = mix(h ^ (unsigned char)*name);
	return h;
}

/* Inverse of the normal distribution by bisection: exact enough, run once. */
static float normal_quantile(double p) {
	double low = -8, high = 8;
	for (int i = 0; i < 60; i++) {
		double mid = (low + high) / 2;
		if (0.5 * erfc(-mid / sqrt(2)) < p)
			low = mid;
		else
			high = mid;
	}
	return (float)low;
}

static uint16_t bf16_of(float f) {
	uint32_t bits;
	memcpy(&bits, &f, sizeof bits);
	return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

struct random_weights *random_weights_create(uint64_t seed) {
	struct random_weights *r = calloc(1, sizeof *r);
	if (!r)
		return NULL;
	r->seed = seed;
	for (int i = 0; i < QUANTILES; i++)
		r->quantile[i] = normal_quantile((i + 0.5) / QUANTILES);
	return r;
}

void random_weights_destroy(struct random_weights *r) {
	if (!r)
		return;
	for (int i = 0; i < r->pools; i++)
		free(r->pool[i].data);
	for (int i = 0; i < r->tensors; i++)
		free(r->tensor[i].name);
	free(r->pool);
	free(r->tensor);
	free(r);
}

int random_weights_find(const struct random_weights *r, const char *name, struct tensor *host) {
	for (int i = 0; i < r->tensors; i++) {
		if (strcmp(r->tensor[i].name, name) == 0) {
			*host = r->tensor[i].t;
			return 0;
		}
	}
	return -ENOENT;
}

static bool ends_with(const char *s, const char *tail) {
	size_t n = strlen(s), m = strlen(tail);
	return n >= m && strcmp(s + n - m, tail) == 0;
}

/* Gains are what norms multiply with: around 1, or the signal would die. */
static enum family family_of(const char *name, int64_t rows) {
	if (ends_with(name, "gamma") ||
		(rows == 1 && strstr(name, "norm") && ends_with(name, "weight")))
		return FAMILY_GAIN;
	return rows == 1 ? FAMILY_VECTOR : FAMILY_MATRIX;
}

static void pool_fill(const struct random_weights *r, struct pool *p) {
	uint16_t table[QUANTILES];
	for (int i = 0; i < QUANTILES; i++) {
		float q = r->quantile[i];
		table[i] = bf16_of(p->family == FAMILY_GAIN     ? 1 + 0.1f * q
				   : p->family == FAMILY_VECTOR ? 0.02f * q
								: q / sqrtf((float)p->fan_in));
	}
	uint64_t x = mix(r->seed ^ mix((uint64_t)p->fan_in * 4 + p->family)) | 1;
	int64_t drawn = p->count < PERIOD ? p->count : PERIOD;
	for (int64_t i = 0; i < drawn; i++) {
		if (i % 4 == 0) { /* xorshift64*, four 12-bit draws from its high bits */
			x ^= x >> 12;
			x ^= x << 25;
			x ^= x >> 27;
		}
		p->data[i] =
			table[x * 0x2545f4914f6cdd1du >> (16 + 12 * (i % 4)) & (QUANTILES - 1)];
	}
	for (int64_t i = drawn; i < p->count; i += PERIOD) {
		int64_t n = p->count - i < PERIOD ? p->count - i : PERIOD;
		memcpy(p->data + i, p->data, (size_t)n * sizeof *p->data);
	}
}

static struct pool *pool_get(
	struct random_weights *r, enum family family, int64_t fan_in, int64_t count) {
	for (int i = 0; i < r->pools; i++) {
		struct pool *p = &r->pool[i];
		if (p->family == family && (family != FAMILY_MATRIX || p->fan_in == fan_in) &&
			p->count >= count)
			return p;
	}
	struct pool *grown = realloc(r->pool, ((size_t)r->pools + 1) * sizeof *grown);
	if (!grown)
		return NULL;
	r->pool = grown;
	struct pool *p = &r->pool[r->pools];
	*p = (struct pool){.family = family, .fan_in = fan_in, .count = count};
	p->data = malloc((size_t)count * sizeof *p->data);
	if (!p->data)
		return NULL;
	pool_fill(r, p);
	r->pools++;
	return p;
}

int random_weights_require(struct random_weights *r, const char *name, int rank, const int64_t *dim,
	struct tensor *host, struct error *e) {
	if (random_weights_find(r, name, host) == 0)
		return 0;
	if (rank == 0)
		return error_set(
			e, -EINVAL, "tensor '%s': a random model cannot tell its shape", name);
	if (r->tensors == TENSORS_MAX || strlen(name) > NAME_MAX_BYTES)
		return error_set(e, -EINVAL,
			"tensor '%.60s': more than %d tensors or a name over %d bytes", name,
			TENSORS_MAX, NAME_MAX_BYTES);
	struct tensor t = tensor_make(NULL, DTYPE_BF16, rank, dim);
	int64_t count = tensor_count(&t), rows = rank > 1 ? dim[0] : 1,
		fan_in = count / (rows > 0 ? rows : 1);
	struct pool *p = pool_get(r, family_of(name, rows), fan_in, count + POOL_SLACK);
	struct invented *grown =
		p ? realloc(r->tensor, ((size_t)r->tensors + 1) * sizeof *grown) : NULL;
	if (!grown)
		return error_set(e, -ENOMEM, "tensor '%s': out of memory for %lld elements", name,
			(long long)count);
	r->tensor = grown;
	t.data = p->data + name_hash(name, r->seed) % POOL_SLACK;
	char *copy = strdup(name);
	if (!copy)
		return error_set(e, -ENOMEM, "tensor '%s': out of memory", name);
	r->tensor[r->tensors++] = (struct invented){.name = copy, .t = t};
	*host = t;
	return 0;
}
