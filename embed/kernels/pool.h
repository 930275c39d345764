/* A pool of threads: parallel(pool, task, arg, chunks) runs task(arg, chunk, thread) on each.
 *
 * Work stealing. A job is a number of chunks. Every thread, the caller too, has a share of them, a
 *     deque that is two numbers: it takes chunks from the front, so that it reads memory in order;
 *     a thread that is done steals from the back of the others' shares. The caller waits for
 *     chunks that were taken, never for a thread that has not come.
 * Spin, then sleep. A layer is some tens of microseconds, a wake-up about as long: who waits looks
 *     at a word for that long first, and sleeps on it (a futex) only then.
 * Resting an interrupted thread. If another program keeps interrupting a thread in the middle of a
 *     chunk, all others wait for it each time: then the pool does with one thread less for a
 *     while.
 * One job at a time. A second caller finds the pool busy and computes its job alone, inline.
 *
 * Memory order: all atomics are sequentially consistent but the spinning read. That a chunk was
 * taken makes the job's task and arg visible to who took it, as the shares are written last; that
 * unfinished reached 0 makes all results visible to the caller. A sleeper counts itself before the
 * word is compared and a waker changes the word before it reads that count, so one of them sees
 * the other.
 */
#ifndef POOL_H
#define POOL_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"
#include "system.h"

enum {
    MAX_THREADS = 256,
    MAX_CHUNKS = 0xffff, /* 16 bits of a share */
    SPINS = 2000,        /* of spin_pause(): some tens of microseconds, then sleep */
    /* Resting, in microseconds: */
    STALL = 1000,    /* a wait from which the caller thinks that another thread was interrupted */
    PATIENCE = 4000, /* so much lost by that, more than a quarter of the time: a thread rests */
    SHORT_REST = 10000, /* for so long at first */
    LONG_REST = 640000, /* and at most */
};

typedef void Task(void *arg, int chunk, int thread);
typedef struct Pool Pool;

/* The caller writes a share, everyone takes from it. The job's number keeps a thread that is late
 * from taking with what it read of an older job (the ABA problem).
 * False sharing: the padding keeps words of different writers off each other's cache line. */
typedef struct {
    _Atomic uint64_t share; /* of the job: its number << 32 | next chunk << 16 | end */
    Pool *pool;
    Thread thread;
    int index, started;
    char line[64];
} Worker;

struct Pool {
    int threads;
    _Atomic long process;        /* whose threads these are; negative: it is starting them */
    _Atomic uint32_t unfinished; /* chunks not yet done; the caller sleeps on it */
    char line1[60];
    _Atomic uint32_t jobs;    /* how many there were; idle workers sleep on it */
    _Atomic uint32_t resting; /* so many of the last workers are left out; they sleep on it */
    _Atomic uint32_t sleepers, caller_sleeps, stop, busy;
    char line2[40];
    Task *task; /* from here on: written only by the caller that made the pool busy */
    void *arg;
    int64_t lost, lost_at, rest, rest_until; /* microseconds */
    Worker workers[];                        /* the caller is the first */
};

static int pool_threads(const Pool *pool) { return pool == NULL ? 1 : pool->threads; }

/* Takes the first or the last chunk of a share; -1 if there is none. */
static int take(Worker *from, int last) {
    uint64_t share = atomic_load(&from->share);
    for (;;) {
        int next = (int)(share >> 16 & MAX_CHUNKS), end = (int)(share & MAX_CHUNKS);
        if (next >= end) return -1;
        uint64_t rest = last ? share - 1 : share + (1 << 16);
        if (atomic_compare_exchange_weak(&from->share, &share, rest)) return last ? end - 1 : next;
    }
}

/* Works until all chunks are taken: its own share, then what it can steal. The job may be read
 * once a chunk is ours: it cannot end before that is done. */
static void work(Pool *pool, int thread) {
    for (int i = 0; i < pool->threads; i++) {
        Worker *from = &pool->workers[(thread + i) % pool->threads];
        for (int chunk; (chunk = take(from, i > 0)) >= 0;) {
            pool->task(pool->arg, chunk, thread);
            if (atomic_fetch_sub(&pool->unfinished, 1) == 1 && atomic_load(&pool->caller_sleeps))
                wake_all(&pool->unfinished);
        }
    }
}

/* Spins, then sleeps, until *word is no longer value; counts itself in *sleepers meanwhile. */
static void wait_for_change(_Atomic uint32_t *word, uint32_t value, _Atomic uint32_t *sleepers) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != value) return;
        spin_pause();
    }
    atomic_fetch_add(sleepers, 1);
    wait_while(word, value);
    atomic_fetch_sub(sleepers, 1);
}

/* What it waits to change is read before it looks for work: no job is missed in between. */
static THREAD_RESULT worker_main(void *arg) {
    Worker *self = arg;
    Pool *pool = self->pool;
    for (;;) {
        uint32_t seen = atomic_load(&pool->jobs), resting = atomic_load(&pool->resting);
        if (atomic_load(&pool->stop)) return 0;
        if (self->index >= pool->threads - (int)resting) {
            wait_while(&pool->resting, resting);
            continue;
        }
        work(pool, self->index);
        wait_for_change(&pool->jobs, seen, &pool->sleepers);
    }
}

/* ---- starting and ending */

/* Everything but threads and process. A thread that does not start has its share stolen. */
static void pool_start(Pool *pool) {
    size_t size = sizeof(Pool) + (size_t)pool->threads * sizeof(Worker);
    size_t kept = offsetof(Pool, unfinished);
    memset((char *)pool + kept, 0, size - kept);
    for (int i = 1; i < pool->threads; i++) {
        Worker *w = &pool->workers[i];
        w->pool = pool;
        w->index = i;
        w->started = thread_start(&w->thread, worker_main, w);
    }
}

EXPORT void *pool_new(int32_t threads) {
    threads = smaller(larger(threads, 1), MAX_THREADS);
    Pool *pool = malloc(sizeof(Pool) + (size_t)threads * sizeof(Worker));
    if (pool == NULL) return NULL;
    pool->threads = threads;
    atomic_init(&pool->process, process_id());
    pool_start(pool);
    return pool;
}

EXPORT void pool_free(void *p) {
    Pool *pool = p;
    if (pool == NULL) return;
    if (atomic_load(&pool->process) == process_id()) { /* else they stayed in the parent */
        atomic_store(&pool->stop, 1);
        atomic_fetch_add(&pool->jobs, 1);
        atomic_fetch_add(&pool->resting, 1);
        wake_all(&pool->jobs);
        wake_all(&pool->resting);
        for (int i = 1; i < pool->threads; i++)
            if (pool->workers[i].started) thread_join(pool->workers[i].thread);
    }
    free(pool);
}

/* The pool, or NULL where it cannot be used now. Threads do not survive fork: the first caller in a
 * child starts them anew, and another that comes meanwhile computes alone. */
static Pool *usable(void *p) {
    Pool *pool = p;
    long self = process_id();
    if (pool == NULL || pool->threads < 2) return pool;
    long owner = atomic_load(&pool->process);
    if (owner == self) return pool;
    if (owner == -self || !atomic_compare_exchange_strong(&pool->process, &owner, -self))
        return NULL;
    waiting_after_fork();
    pool_start(pool);
    atomic_store(&pool->process, self);
    return pool;
}

/* ---- resting an interrupted thread */

/* How many threads share the next job; ends a rest that is over. */
static int active_threads(Pool *pool) {
    if (atomic_load(&pool->resting) && microseconds() >= pool->rest_until) {
        atomic_fetch_sub(&pool->resting, 1);
        wake_all(&pool->resting);
    }
    return pool->threads - (int)atomic_load(&pool->resting);
}

/* The caller waited that long for a chunk: is it often so, a thread has a rest; a longer one if it
 * was the same lately. What was lost is forgotten with a quarter of the time that passes. */
static void note_stall(Pool *pool, int64_t waited, int64_t now) {
    int64_t forgotten = (now - pool->lost_at) / 4;
    pool->lost = waited + (pool->lost > forgotten ? pool->lost - forgotten : 0);
    pool->lost_at = now;
    if (pool->lost < PATIENCE) return;
    int recently = now < pool->rest_until + 2 * pool->rest;
    pool->lost = 0;
    if (!recently) pool->rest = SHORT_REST;
    else pool->rest = pool->rest < LONG_REST ? 2 * pool->rest : LONG_REST;
    pool->rest_until = now + pool->rest;
    atomic_fetch_add(&pool->resting, 1);
}

/* Waits until all chunks are done. */
static void wait_for_others(Pool *pool) {
    uint32_t left;
    for (int i = 0; i < SPINS && atomic_load(&pool->unfinished); i++) spin_pause();
    if (atomic_load(&pool->unfinished) == 0) return;
    int64_t start = microseconds();
    while ((left = atomic_load(&pool->unfinished)) != 0)
        wait_for_change(&pool->unfinished, left, &pool->caller_sleeps);
    int64_t now = microseconds();
    int others = pool->threads - (int)atomic_load(&pool->resting) - 1;
    if (now - start >= STALL && others > 0) note_stall(pool, now - start, now);
}

/* ---- a job */

static void share_out(Pool *pool, int chunks, int threads, uint32_t job) {
    for (int i = 0; i < threads; i++) {
        uint64_t next = (uint64_t)chunks * i / threads, end = (uint64_t)chunks * (i + 1) / threads;
        atomic_store(&pool->workers[i].share, (uint64_t)job << 32 | next << 16 | end);
    }
}

/* Returns when all chunks are done. Inline, as thread 0, when there is one chunk or one thread, or
 * when another thread is using the pool. */
static void parallel(Pool *pool, Task *task, void *arg, int chunks) {
    int alone = pool_threads(pool) < 2 || chunks < 2 || chunks > MAX_CHUNKS;
    if (alone || atomic_exchange(&pool->busy, 1)) {
        for (int chunk = 0; chunk < chunks; chunk++) task(arg, chunk, 0);
        return;
    }
    int threads = active_threads(pool);
    uint32_t job = atomic_load(&pool->jobs) + 1;
    pool->task = task;
    pool->arg = arg;
    atomic_store(&pool->unfinished, (uint32_t)chunks);
    share_out(pool, chunks, threads, job);
    atomic_store(&pool->jobs, job);
    if (threads > 1 && atomic_load(&pool->sleepers)) wake_all(&pool->jobs);
    work(pool, 0);
    wait_for_others(pool);
    atomic_store(&pool->busy, 0);
}

#endif
