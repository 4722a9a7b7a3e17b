/* SPDX-License-Identifier: Apache-2.0 */
/* The worker pool. One 64-bit word says everything: bits 63..32 the job's
 * number, bit 31 whether it is open, the rest how many workers are inside.
 * A worker joins by adding one while the job is open; the owner closes the job
 * when it finds no slice left and waits for the count to fall to zero. Job
 * fields are written only while the word says closed and empty. */
#include "kernels/cpu/pool.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SPIN_NS 40000
#define OPEN ((uint64_t)1 << 31)
#define INSIDE (OPEN - 1)
#define JOB_ONE ((uint64_t)1 << 32)

struct worker {
	struct pool *pool;
	pthread_t thread;
	int index; /* 1 .. threads-1 */
};

struct pool {
	int threads, started;
	_Atomic uint64_t state;
	_Atomic int64_t next; /* first item not yet taken */
	_Atomic int sleepers; /* workers that wait on `wake` or are about to */
	_Atomic bool owner_sleeps, stop;
	pool_fn fn;
	void *ctx;
	int64_t items, grain;
	pthread_mutex_t lock;
	pthread_cond_t wake, done;
	struct worker worker[];
};

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void take_slices(struct pool *p, int worker) {
	for (;;) {
		int64_t begin = atomic_fetch_add_explicit(&p->next, p->grain, memory_order_relaxed);
		if (begin >= p->items)
			return;
		int64_t end = begin + p->grain < p->items ? begin + p->grain : p->items;
		p->fn(p->ctx, begin, end, worker);
	}
}

/* True when a job newer than `seen` is there or the pool ends. */
static bool news(struct pool *p, uint64_t seen) {
	return atomic_load(&p->stop) || atomic_load(&p->state) / JOB_ONE != seen;
}

static void wait_for_news(struct pool *p, uint64_t seen) {
	for (int64_t until = now_ns() + SPIN_NS; now_ns() < until;) {
		for (int i = 0; i < 16; i++) {
			if (news(p, seen))
				return;
			relax();
		}
	}
	pthread_mutex_lock(&p->lock);
	atomic_fetch_add(&p->sleepers, 1);
	while (!news(p, seen))
		pthread_cond_wait(&p->wake, &p->lock);
	atomic_fetch_sub(&p->sleepers, 1);
	pthread_mutex_unlock(&p->lock);
}

/* Joins the open job; false when there is none. *seen becomes its number. */
static bool join_job(struct pool *p, uint64_t *seen) {
	uint64_t s = atomic_load(&p->state);
	do {
		*seen = s / JOB_ONE;
		if (!(s & OPEN))
			return false;
	} while (!atomic_compare_exchange_weak(&p->state, &s, s + 1));
	return true;
}

static void leave_job(struct pool *p) {
	uint64_t s = atomic_fetch_sub(&p->state, 1) - 1;
	if ((s & (OPEN | INSIDE)) == 0 && atomic_load(&p->owner_sleeps)) {
		pthread_mutex_lock(&p->lock);
		pthread_cond_signal(&p->done);
		pthread_mutex_unlock(&p->lock);
	}
}

static void *worker_main(void *arg) {
	struct worker *w = arg;
	struct pool *p = w->pool;
	for (uint64_t seen = 0; !atomic_load(&p->stop);) {
		wait_for_news(p, seen);
		if (!join_job(p, &seen))
			continue;
		take_slices(p, w->index);
		leave_job(p);
	}
	return NULL;
}

static int thread_count(int threads) {
	cpu_set_t set;
	if (threads == 0)
		threads = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
	return threads < POOL_THREADS_MAX ? threads : POOL_THREADS_MAX;
}

/* Signals belong to the main thread: workers are born with all blocked. */
static int start_workers(struct pool *p) {
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int failed = 0;
	for (int i = 1; i < p->threads && !failed; i++) {
		struct worker *w = &p->worker[i];
		*w = (struct worker){.pool = p, .index = i};
		failed = pthread_create(&w->thread, NULL, worker_main, w);
		if (failed)
			break;
		p->started = i;
		char name[24]; /* the kernel takes 15 */
		snprintf(name, sizeof name, "lf-cpu-%d", i);
		pthread_setname_np(w->thread, name);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return failed;
}

struct pool *pool_create(int threads, struct error *e) {
	if (threads < 0) {
		error_set(e, -EINVAL, "threads %d: must be 0 (one per core) or more", threads);
		return NULL;
	}
	threads = thread_count(threads);
	struct pool *p = calloc(1, sizeof *p + (size_t)threads * sizeof *p->worker);
	if (!p) {
		error_set(e, -ENOMEM, "no memory for a pool of %d threads", threads);
		return NULL;
	}
	p->threads = threads;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->wake, NULL);
	pthread_cond_init(&p->done, NULL);
	int failed = start_workers(p);
	if (failed) {
		error_set(e, -failed,
			"can not start thread %d of %d: lower threads or raise the limit on tasks",
			p->started + 1, threads);
		pool_destroy(p);
		return NULL;
	}
	return p;
}

static void wake_workers(struct pool *p) {
	if (atomic_load(&p->sleepers) == 0)
		return;
	pthread_mutex_lock(&p->lock);
	pthread_cond_broadcast(&p->wake);
	pthread_mutex_unlock(&p->lock);
}

void pool_destroy(struct pool *p) {
	if (!p)
		return;
	atomic_store(&p->stop, true);
	pthread_mutex_lock(&p->lock);
	pthread_cond_broadcast(&p->wake);
	pthread_mutex_unlock(&p->lock);
	for (int i = 1; i <= p->started; i++)
		pthread_join(p->worker[i].thread, NULL);
	pthread_cond_destroy(&p->done);
	pthread_cond_destroy(&p->wake);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

int pool_threads(const struct pool *p) {
	return p->threads;
}

static bool empty(struct pool *p) {
	return (atomic_load(&p->state) & INSIDE) == 0;
}

static void wait_until_empty(struct pool *p) {
	for (int64_t until = now_ns() + SPIN_NS; now_ns() < until;) {
		for (int i = 0; i < 16; i++) {
			if (empty(p))
				return;
			relax();
		}
	}
	pthread_mutex_lock(&p->lock);
	atomic_store(&p->owner_sleeps, true);
	while (!empty(p))
		pthread_cond_wait(&p->done, &p->lock);
	atomic_store(&p->owner_sleeps, false);
	pthread_mutex_unlock(&p->lock);
}

void pool_run(struct pool *p, int64_t items, int64_t grain, pool_fn fn, void *ctx) {
	if (items <= 0)
		return;
	if (p->threads == 1 || items <= grain) {
		fn(ctx, 0, items, 0);
		return;
	}
	p->fn = fn;
	p->ctx = ctx;
	p->items = items;
	p->grain = grain > 0 ? grain : 1;
	atomic_store(&p->next, 0);
	atomic_fetch_add(&p->state, JOB_ONE | OPEN);
	wake_workers(p);
	take_slices(p, 0);
	atomic_fetch_sub(&p->state, OPEN);
	if (!empty(p))
		wait_until_empty(p);
}

int64_t pool_grain(const struct pool *p, int64_t items, int64_t least) {
	int64_t grain = (items + 4 * p->threads - 1) / (4 * p->threads);
	return grain > least ? grain : least;
}
