/*
 * The arithmetic of run.py in C: matrix products, attention and feed-forward of one layer.
 *
 * One C11 file, no dependency but the C library and its threads. run.py loads it with ctypes and holds the same
 * functions in NumPy, which say what each of these must compute. One library runs on every processor of its
 * architecture: the vector kernels are compiled once per instruction set and chosen at run time.
 *
 * Reading order
 *   1  what run.py passes in                 Tensor, Layer, Model
 *   2  int8 weights: layout, pack, unpack
 *   3  threads                               parallel()
 *   4  instruction sets: this file includes itself once for each; the second half of the file is the template
 *   5  choosing one at run time
 *   6  matrix products and the two halves of a layer
 *   7  the template: rmsnorm, softmax, swiglu, quantize, float and int8 products, written in vectors of LANES floats
 *
 * Arithmetic: with int8 weights every sum is rounded as in llama2.c's runq.c (in order, no fused multiply-add, e^x as
 * the C library rounds it), since one last bit decides now and then how an activation is rounded to int8, and so the
 * text. The same numbers come out on every processor. Float products alone are summed in vectors, with FMA.
 *
 * Letters: rows = positions computed at once (1 when generating, up to 128 when reading a prompt).
 * Arrays are row-major, written (rows, columns).
 */
#ifndef LANES

#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(_WIN32)
#include <windows.h>
#define EXPORT __declspec(dllexport)
#else
#include <pthread.h>
#include <unistd.h>
#define EXPORT __attribute__((visibility("default")))
#endif
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__) || defined(__FreeBSD__)
#include <sys/auxv.h>
#endif
#endif

/* ---- 1. What run.py passes in ---------------------------------------------------------------------------------- */

typedef struct {
    const void *data;     /* group == 0: float32 (out, in), used in place, at any alignment; else as pack() writes it */
    const float *scales;  /* group > 0: as pack() writes them */
    int32_t out, in, group, pad;
} Tensor;

typedef struct {
    const float *att_norm, *ffn_norm;
    Tensor wq, wk, wv, wo, w1, w2, w3;
    float *keys;    /* (n_kv_heads, ceil(context / 16), head_size, 16): 16 positions side by side, a vector's worth */
    float *values;  /* (n_kv_heads, context, head_size) */
} Layer;

typedef struct {
    void *pool;
    float *scratch;     /* scratch_floats(model) of them */
    const float *rope;  /* (context, head_size / 2, 2): cosine, sine */
    int32_t dim, hidden_dim, n_heads, n_kv_heads, head_size, context, max_rows;
    float eps;
} Model;

enum { ABI = 2, KEYS = 16 }; /* KEYS: positions side by side in the cache of keys */

static int smaller(int a, int b) { return a < b ? a : b; }
static int larger(int a, int b) { return a > b ? a : b; }
static int ceil_div(int a, int b) { return (a + b - 1) / b; }

/* ---- 2. Int8 weights ------------------------------------------------------------------------------------------- */

/* Rows are packed in blocks of 16, columns in fours, so that one 64-byte vector holds 16 rows by 4 columns and a dot
 * product needs no horizontal sum:  data[block][group][four][row][column], as q + 128 (what vpdpbusd multiplies);
 * scales[block][group][row].  Rows and columns that only fill up a block are zero. */
enum { BLOCK = 16, FOUR = 4, BIAS = 128 };

static int fours(const Tensor *w) { return ceil_div(w->group, FOUR); }
static int groups(const Tensor *w) { return ceil_div(w->in, w->group); }
static int padded_in(const Tensor *w) { return groups(w) * fours(w) * FOUR; }

EXPORT int64_t packed_bytes(int32_t out, int32_t in, int32_t group) {
    Tensor w = {.out = out, .in = in, .group = group};
    return (int64_t)ceil_div(out, BLOCK) * BLOCK * padded_in(&w);
}

EXPORT int64_t packed_scales(int32_t out, int32_t in, int32_t group) {
    return (int64_t)ceil_div(out, BLOCK) * BLOCK * ceil_div(in, group);
}

/* Where element (row, column) lies in data, and its scale in scales. */
static int64_t packed_index(const Tensor *w, int row, int column) {
    int in_group = column % w->group;
    int64_t four = (int64_t)(row / BLOCK * groups(w) + column / w->group) * fours(w) + in_group / FOUR;
    return (four * BLOCK + row % BLOCK) * FOUR + in_group % FOUR;
}

static int64_t packed_scale_index(const Tensor *w, int row, int group) {
    return ((int64_t)(row / BLOCK) * groups(w) + group) * BLOCK + row % BLOCK;
}

/* q (out, in) and scales (out, ceil(in / group)) into data and packed. */
EXPORT void pack(const int8_t *q, const float *scales, int32_t out, int32_t in, int32_t group, void *data,
                 float *packed) {
    Tensor w = {.out = out, .in = in, .group = group};
    uint8_t *bytes = data;
    memset(bytes, BIAS, (size_t)packed_bytes(out, in, group));
    memset(packed, 0, (size_t)packed_scales(out, in, group) * sizeof(float));
    for (int row = 0; row < out; row++) {
        for (int g = 0; g < groups(&w); g++) {
            const int8_t *from = q + (int64_t)row * in + (int64_t)g * group;
            uint8_t *to = bytes + packed_index(&w, row, g * group);
            int n = smaller(group, in - g * group);
            int i = 0;
            for (uint32_t four; i + FOUR <= n; i += FOUR) { /* adding 128 to a byte flips its highest bit */
                memcpy(&four, from + i, FOUR);
                four ^= 0x80808080u;
                memcpy(to + i * BLOCK, &four, FOUR);
            }
            for (; i < n; i++) to[i / FOUR * BLOCK * FOUR + i % FOUR] = (uint8_t)(from[i] + BIAS);
            memcpy(packed + packed_scale_index(&w, row, g), scales + (int64_t)row * groups(&w) + g, sizeof(float));
        }
    }
}

/* One row as floats: y (in). The token embedding is read so when it shares the classifier's packed weights. */
EXPORT void unpack_row(const Tensor *w, int32_t row, float *y) {
    const uint8_t *data = w->data;
    for (int i = 0; i < w->in; i++)
        y[i] = (float)(data[packed_index(w, row, i)] - BIAS) * w->scales[packed_scale_index(w, row, i / w->group)];
}

/* ---- 3. Threads ------------------------------------------------------------------------------------------------ */

/* wait_while(word, value) sleeps until *word may differ from value; wake_all(word) ends such sleeps. */
#if defined(__linux__)
static void wait_while(_Atomic uint32_t *word, uint32_t value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}
static void wake_all(_Atomic uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0); }
static void waiting_after_fork(void) {}
#elif defined(_WIN32)
static SRWLOCK waiting_lock = SRWLOCK_INIT;
static CONDITION_VARIABLE waiting = CONDITION_VARIABLE_INIT;
static void wait_while(_Atomic uint32_t *word, uint32_t value) {
    AcquireSRWLockExclusive(&waiting_lock);
    while (atomic_load(word) == value) SleepConditionVariableSRW(&waiting, &waiting_lock, INFINITE, 0);
    ReleaseSRWLockExclusive(&waiting_lock);
}
static void wake_all(_Atomic uint32_t *word) {
    (void)word;
    AcquireSRWLockExclusive(&waiting_lock);
    WakeAllConditionVariable(&waiting);
    ReleaseSRWLockExclusive(&waiting_lock);
}
static void waiting_after_fork(void) {}
#else
static pthread_mutex_t waiting_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t waiting = PTHREAD_COND_INITIALIZER;
static void wait_while(_Atomic uint32_t *word, uint32_t value) {
    pthread_mutex_lock(&waiting_lock);
    while (atomic_load(word) == value) pthread_cond_wait(&waiting, &waiting_lock);
    pthread_mutex_unlock(&waiting_lock);
}
static void wake_all(_Atomic uint32_t *word) {
    (void)word;
    pthread_mutex_lock(&waiting_lock);
    pthread_cond_broadcast(&waiting);
    pthread_mutex_unlock(&waiting_lock);
}
static void waiting_after_fork(void) {
    pthread_mutex_init(&waiting_lock, NULL);
    pthread_cond_init(&waiting, NULL);
}
#endif

#if defined(_WIN32)
typedef HANDLE Thread;
#define THREAD_RESULT DWORD WINAPI
static int thread_start(Thread *t, LPTHREAD_START_ROUTINE main, void *arg) {
    return (*t = CreateThread(NULL, 0, main, arg, 0, NULL)) != NULL;
}
static void thread_join(Thread t) {
    WaitForSingleObject(t, INFINITE);
    CloseHandle(t);
}
static long process_id(void) { return 0; } /* no fork */
static int64_t microseconds(void) {
    LARGE_INTEGER now, second;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&second);
    return (int64_t)((double)now.QuadPart / (double)second.QuadPart * 1e6);
}
#else
typedef pthread_t Thread;
#define THREAD_RESULT void *
static int thread_start(Thread *t, void *(*main)(void *), void *arg) { return pthread_create(t, NULL, main, arg) == 0; }
static void thread_join(Thread t) { pthread_join(t, NULL); }
static long process_id(void) { return (long)getpid(); }
static int64_t microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}
#endif

static void spin_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

enum {
    MAX_THREADS = 256,
    MAX_CHUNKS = 0xffff,
    SPINS = 2000,       /* of 10 to 40 ns: some tens of microseconds, then sleep */
    STALL = 1000,       /* microseconds of waiting from which the caller thinks another thread interrupted */
    PATIENCE = 4000,    /* so many lost by that, more than a quarter of the time, and a thread is left out */
    SHORT_REST = 10000, /* for so many at first */
    LONG_REST = 640000, /* and at most */
};


typedef void Task(void *arg, int chunk, int thread);
typedef struct Pool Pool;
typedef struct {
    _Atomic uint64_t share; /* of the job: its number << 32 | next chunk << 16 | end */
    Pool *pool;
    Thread thread;
    int index, started;
    char line[64]; /* no two of them in one cache line */
} Worker;

/* A job is a number of chunks. Every thread, the caller too, has its share of them and takes it from the front, so that
 * it reads memory in order; who is done takes from the back of the others'. The caller waits for chunks that were
 * taken, never for a thread that has not come. If another program keeps interrupting a thread in the middle of a chunk,
 * all others would wait for it each time: then the pool does with one thread less for a while. */
struct Pool {
    _Atomic uint32_t unfinished; /* chunks not yet done; the caller sleeps on it */
    char line1[60];
    _Atomic uint32_t jobs;       /* how many there were; idle workers sleep on it */
    _Atomic uint32_t resting;    /* so many of the last workers are left out; they sleep on it */
    _Atomic uint32_t sleepers, caller_sleeps, stop, busy;
    char line2[40];
    Task *task;
    void *arg;
    int threads;
    long process;
    int64_t lost, lost_at, rest, rest_until; /* microseconds */
    Worker workers[]; /* the caller is the first */
};

/* Takes the first or the last chunk of a share; -1 if there is none. */
static int take(Worker *from, int last) {
    uint64_t share = atomic_load(&from->share);
    for (;;) {
        int next = (int)(share >> 16 & MAX_CHUNKS), end = (int)(share & MAX_CHUNKS);
        if (next >= end) return -1;
        if (atomic_compare_exchange_weak(&from->share, &share, last ? share - 1 : share + (1 << 16)))
            return last ? end - 1 : next;
    }
}

/* Works until all chunks are taken. The job may be read once a chunk is ours: it cannot end before that is done. */
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

/* Also called in a forked child, where only the calling thread is left. */
static void pool_start(Pool *pool) {
    int threads = pool->threads;
    memset(pool, 0, sizeof(Pool) + (size_t)threads * sizeof(Worker));
    pool->threads = threads;
    pool->process = process_id();
    for (int i = 1; i < threads; i++) {
        Worker *w = &pool->workers[i];
        w->pool = pool;
        w->index = i;
        w->started = thread_start(&w->thread, worker_main, w); /* where not, the others do its share */
    }
}

/* A pool of so many threads, the caller's included; NULL, which computes on the caller alone, without memory. */
EXPORT void *pool_new(int32_t threads) {
    threads = smaller(larger(threads, 1), MAX_THREADS);
    Pool *pool = malloc(sizeof(Pool) + (size_t)threads * sizeof(Worker));
    if (pool == NULL) return NULL;
    pool->threads = threads;
    pool_start(pool);
    return pool;
}

EXPORT void pool_free(void *p) {
    Pool *pool = p;
    if (pool == NULL) return;
    if (pool->process == process_id()) {
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

static int pool_threads(const Pool *pool) { return pool == NULL ? 1 : pool->threads; }

/* How many threads share the next job; ends a rest that is over. */
static int active_threads(Pool *pool) {
    if (atomic_load(&pool->resting) && microseconds() >= pool->rest_until) {
        atomic_fetch_sub(&pool->resting, 1);
        wake_all(&pool->resting);
    }
    return pool->threads - (int)atomic_load(&pool->resting);
}

/* Waits until all chunks are done. If that takes long, and not once, a thread has a rest; a longer one if it was the
 * same lately. */
static void wait_for_others(Pool *pool) {
    uint32_t left;
    for (int i = 0; i < SPINS && atomic_load(&pool->unfinished); i++) spin_pause();
    if (atomic_load(&pool->unfinished) == 0) return;
    int64_t start = microseconds();
    while ((left = atomic_load(&pool->unfinished)) != 0) wait_for_change(&pool->unfinished, left, &pool->caller_sleeps);
    int64_t now = microseconds();
    if (now - start < STALL || pool->threads - (int)atomic_load(&pool->resting) < 2) return;
    pool->lost = now - start + (pool->lost > (now - pool->lost_at) / 4 ? pool->lost - (now - pool->lost_at) / 4 : 0);
    pool->lost_at = now;
    if (pool->lost < PATIENCE) return;
    pool->lost = 0;
    int recently = now < pool->rest_until + 2 * pool->rest;
    pool->rest = !recently ? SHORT_REST : pool->rest < LONG_REST ? 2 * pool->rest : LONG_REST;
    pool->rest_until = now + pool->rest;
    atomic_fetch_add(&pool->resting, 1);
}

/* Runs task(arg, chunk, thread) for every chunk < chunks; returns when all are done. Inline when there is one chunk or
 * one thread, or when another thread is using the pool. */
static void parallel(Pool *pool, Task *task, void *arg, int chunks) {
    if (pool_threads(pool) < 2 || chunks < 2 || chunks > MAX_CHUNKS || atomic_exchange(&pool->busy, 1)) {
        for (int chunk = 0; chunk < chunks; chunk++) task(arg, chunk, 0);
        return;
    }
    int threads = active_threads(pool);
    uint32_t job = atomic_load(&pool->jobs) + 1;
    pool->task = task;
    pool->arg = arg;
    atomic_store(&pool->unfinished, (uint32_t)chunks);
    for (int i = 0; i < threads; i++) {
        uint64_t next = (uint64_t)chunks * i / threads, end = (uint64_t)chunks * (i + 1) / threads;
        atomic_store(&pool->workers[i].share, (uint64_t)job << 32 | next << 16 | end);
    }
    atomic_store(&pool->jobs, job);
    if (threads > 1 && atomic_load(&pool->sleepers)) wake_all(&pool->jobs);
    work(pool, 0);
    wait_for_others(pool);
    atomic_store(&pool->busy, 0);
}

/* Threads do not survive fork: the child starts its own. */
static Pool *usable(void *p) {
    Pool *pool = p;
    if (pool != NULL && pool->threads > 1 && pool->process != process_id()) {
        waiting_after_fork();
        pool_start(pool);
    }
    return pool;
}

/* ---- 4. Instruction sets --------------------------------------------------------------------------------------- */

/* Activations of a product with int8 weights, quantised per group as runq.c does. */
typedef struct {
    int8_t *q;      /* (rows, stride), zero where a group is padded to fours */
    float *scales;  /* (rows, groups) */
    int32_t *start; /* (rows, groups): what the dot product of a group starts from, -128 * sum(q) */
    int stride, groups;
} Activations;

/* Asks for the cache line AHEAD bytes after p, which may be beyond the end. Measured: with one row of activations 33
 * becomes 55 GB/s on a core of Zen 5. */
enum { AHEAD = 8 << 10 };
static inline void prefetch(const void *p) { __builtin_prefetch((const void *)((uintptr_t)p + AHEAD)); }

/* What is compiled once per instruction set. */
typedef struct {
    const char *name;
    void (*rmsnorm)(float *y, const float *x, const float *weight, int n, float eps);
    void (*softmax)(float *x, int n);
    void (*swiglu)(float *a, const float *b, int n);
    void (*quantize)(const float *x, int n, int group, int8_t *q, float *scales, int32_t *start);
    void (*float_product)(const float *w, int out, int in, const float *x, int64_t x_stride, int rows, float *y,
                          int64_t y_stride, int add);
    void (*int8_product)(const Tensor *w, int first, int end, const Activations *x, int rows, float *y,
                         int64_t y_stride, int add);
    void (*score_keys)(const float *q, int queries, const float *keys, int n, int size, float *scores, int64_t stride);
    void (*mix_values)(const float *p, int64_t p_stride, int queries, const float *values, int n, int size, float *y);
} Kernels;

/* The template at the end of this file needs, for each set:
 *   SET, LANES, TARGET      a name, floats in a vector, the compiler's name of the instructions
 *   FLOAT_ROWS              rows of activations in a tile of the float product (by 4 of weights): as registers allow
 *   INT8_BLOCKS, INT8_ROWS  blocks of weights and rows of activations in a tile of the int8 product
 *   OFFSET                  what DOT4 takes a stored weight to exceed the real one by: BIAS or 0
 *   LOAD_PART(p, n)         the first n < LANES floats at p, then zeros
 *   FMA(a, b, c)            a b + c, rounded once where the processor can
 *   SUM4(a, b, c, d)        the sums of four vectors, as a float4
 *   DOT4(sum, w, x)         sum[i] += w[4i] x[0] + .. + w[4i+3] x[3] for bytes, w unsigned, x signed and repeated */
typedef float float4 __attribute__((vector_size(16)));

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(x) JOIN(x, SET)

#define SET portable
#define LANES 4
#define TARGET
#define FLOAT_ROWS 2
#define INT8_BLOCKS 1
#define INT8_ROWS 1
#define OFFSET BIAS
#define FMA(a, b, c) ((a) * (b) + (c))
#define LOAD_PART(p, n) load_some(p, n)
#define SUM4(a, b, c, d) ((float4){sum(a), sum(b), sum(c), sum(d)})
#define BYTE(w, i) ((ivec)((uvec)(w) >> (8 * (i)) & 255))
#define SIGNED_BYTE(x, i) ((ivec)((uvec)(x) << (24 - 8 * (i))) >> 24)
#define DOT(w, x, i) BYTE(w, i) * SIGNED_BYTE(x, i)
#define DOT4(sum, w, x) ((sum) + DOT(w, x, 0) + DOT(w, x, 1) + DOT(w, x, 2) + DOT(w, x, 3))
#include "kernel.c"

#if defined(__x86_64__)
#define X86(instructions) __attribute__((target(instructions)))
#if defined(__clang__) || __GNUC__ >= 11
#define WITH_AVXVNNI
#endif
#if defined(__clang__) && __clang_major__ >= 18 && __clang_major__ <= 21
#define AVX512_BASE "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,evex512" /* these count 512 bits apart */
#else
#define AVX512_BASE "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"
#endif

/* Before AVX-VNNI no product of bytes is safe from overflow: even and odd bytes as 16-bit numbers. */
X86("avx2") static inline __m256i dot4_avx2(__m256i sum, __m256i w, __m256i x) {
    __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)),
                                     _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
    __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(x, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}

X86(AVX512_BASE) static inline __m512i dot4_avx512(__m512i sum, __m512i w, __m512i x) {
    __m512i even = _mm512_madd_epi16(_mm512_and_si512(w, _mm512_set1_epi16(255)),
                                     _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8));
    __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(w, 8), _mm512_srai_epi16(x, 8));
    return _mm512_add_epi32(sum, _mm512_add_epi32(even, odd));
}

X86("avx2") static inline __m256 load_part_avx2(const float *p, int n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane));
}

X86("avx2") static inline float4 sum4_avx2(__m256 a, __m256 b, __m256 c, __m256 d) {
    __m256 v = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return (float4)_mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}

X86(AVX512_BASE) static inline float4 sum4_avx512(__m512 a, __m512 b, __m512 c, __m512 d) {
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512 v = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    __m256 w = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    return (float4)_mm_add_ps(_mm256_castps256_ps128(w), _mm256_extractf128_ps(w, 1));
}

#define SET avx2
#define LANES 8
#define TARGET X86("avx2,fma")
#define FLOAT_ROWS 3
#define INT8_BLOCKS 1
#define INT8_ROWS 2
#define OFFSET BIAS
#define LOAD_PART(p, n) (vec)load_part_avx2(p, n)
#define FMA(a, b, c) (vec)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c))
#define SUM4(a, b, c, d) sum4_avx2((__m256)(a), (__m256)(b), (__m256)(c), (__m256)(d))
#define DOT4(sum, w, x) (ivec)dot4_avx2((__m256i)(sum), (__m256i)(w), (__m256i)(x))
#include "kernel.c"

#if defined(WITH_AVXVNNI)
#define SET avxvnni
#define LANES 8
#define TARGET X86("avx2,fma,avxvnni")
#define FLOAT_ROWS 3
#define INT8_BLOCKS 1
#define INT8_ROWS 2
#define OFFSET BIAS
#define LOAD_PART(p, n) (vec)load_part_avx2(p, n)
#define FMA(a, b, c) (vec)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c))
#define SUM4(a, b, c, d) sum4_avx2((__m256)(a), (__m256)(b), (__m256)(c), (__m256)(d))
#define DOT4(sum, w, x) (ivec)_mm256_dpbusd_avx_epi32((__m256i)(sum), (__m256i)(w), (__m256i)(x))
#include "kernel.c"
#endif

#define SET avx512
#define LANES 16
#define TARGET X86(AVX512_BASE)
#define FLOAT_ROWS 6
#define INT8_BLOCKS 1
#define INT8_ROWS 6
#define OFFSET BIAS
#define LOAD_PART(p, n) (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1), p)
#define FMA(a, b, c) (vec)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c))
#define SUM4(a, b, c, d) sum4_avx512((__m512)(a), (__m512)(b), (__m512)(c), (__m512)(d))
#define DOT4(sum, w, x) (ivec)dot4_avx512((__m512i)(sum), (__m512i)(w), (__m512i)(x))
#include "kernel.c"

#define SET avx512vnni
#define LANES 16
#define TARGET X86(AVX512_BASE ",avx512vnni")
#define FLOAT_ROWS 6
#define INT8_BLOCKS 2
#define INT8_ROWS 6
#define OFFSET BIAS
#define LOAD_PART(p, n) (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1), p)
#define FMA(a, b, c) (vec)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c))
#define SUM4(a, b, c, d) sum4_avx512((__m512)(a), (__m512)(b), (__m512)(c), (__m512)(d))
#define DOT4(sum, w, x) (ivec)_mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(w), (__m512i)(x))
#include "kernel.c"
#endif

#if defined(__aarch64__)
#define DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))

/* NEON multiplies signed by signed: the bias of the weights is flipped away. */
static inline int8x16_t without_bias(uint8x16_t w) { return vreinterpretq_s8_u8(veorq_u8(w, vdupq_n_u8(BIAS))); }

static inline int32x4_t dot4_neon(int32x4_t sum, uint8x16_t w, int8x16_t x) {
    int8x16_t s = without_bias(w);
    int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(s), vget_low_s8(x)));
    int32x4_t high = vpaddlq_s16(vmull_high_s8(s, x));
    return vaddq_s32(sum, vpaddq_s32(low, high));
}

DOTPROD static inline int32x4_t dot4_dotprod(int32x4_t sum, uint8x16_t w, int8x16_t x) {
    return vdotq_s32(sum, without_bias(w), x);
}

static inline float4 sum4_neon(float32x4_t a, float32x4_t b, float32x4_t c, float32x4_t d) {
    return (float4)vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d));
}

#define SET neon
#define LANES 4
#define TARGET
#define FLOAT_ROWS 4
#define INT8_BLOCKS 1
#define INT8_ROWS 2
#define OFFSET 0
#define LOAD_PART(p, n) load_some(p, n)
#define FMA(a, b, c) (vec)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b))
#define SUM4(a, b, c, d) sum4_neon((float32x4_t)(a), (float32x4_t)(b), (float32x4_t)(c), (float32x4_t)(d))
#define DOT4(sum, w, x) (ivec)dot4_neon((int32x4_t)(sum), (uint8x16_t)(w), (int8x16_t)(x))
#include "kernel.c"

#define SET dotprod
#define LANES 4
#define TARGET DOTPROD
#define FLOAT_ROWS 4
#define INT8_BLOCKS 1
#define INT8_ROWS 2
#define OFFSET 0
#define LOAD_PART(p, n) load_some(p, n)
#define FMA(a, b, c) (vec)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b))
#define SUM4(a, b, c, d) sum4_neon((float32x4_t)(a), (float32x4_t)(b), (float32x4_t)(c), (float32x4_t)(d))
#define DOT4(sum, w, x) (ivec)dot4_dotprod((int32x4_t)(sum), (uint8x16_t)(w), (int8x16_t)(x))
#include "kernel.c"
#endif

/* ---- 5. Choosing one at run time ------------------------------------------------------------------------------- */

enum { AVX2 = 1, AVXVNNI = 2, AVX512 = 4, AVX512VNNI = 8, NEON_DOTPROD = 16 };

/* What the processor has, and the system saves. */
#if defined(__x86_64__)
static int features(void) {
    unsigned a, b, c, d, saved, unused, ymm = 0x06, zmm = 0xe6;
    const unsigned avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA)) return 0;
    __asm__ volatile("xgetbv" : "=a"(saved), "=d"(unused) : "c"(0));
    if ((saved & ymm) != ymm || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2)) return 0;
    int found = AVX2;
    if ((saved & zmm) == zmm && (b & avx512) == avx512) found |= c & bit_AVX512VNNI ? AVX512 | AVX512VNNI : AVX512;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1) found |= AVXVNNI;
    return found;
}
#elif defined(__APPLE__) && defined(__aarch64__)
static int features(void) { return NEON_DOTPROD; }
#elif defined(_WIN32) && defined(__aarch64__)
static int features(void) { /* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE */
    return IsProcessorFeaturePresent(43) ? NEON_DOTPROD : 0;
}
#elif defined(__FreeBSD__) && defined(__aarch64__)
static int features(void) {
    unsigned long capabilities = 0;
    elf_aux_info(AT_HWCAP, &capabilities, sizeof capabilities);
    return capabilities >> 20 & 1 ? NEON_DOTPROD : 0;
}
#elif defined(__aarch64__)
static int features(void) { return getauxval(AT_HWCAP) >> 20 & 1 ? NEON_DOTPROD : 0; }
#else
static int features(void) { return 0; }
#endif

/* Best first. */
static const struct {
    int needs;
    const Kernels *kernels;
} sets[] = {
#if defined(__x86_64__)
    {AVX512VNNI, &kernels_avx512vnni},
    {AVX512, &kernels_avx512},
#if defined(WITH_AVXVNNI)
    {AVXVNNI, &kernels_avxvnni},
#endif
    {AVX2, &kernels_avx2},
#elif defined(__aarch64__)
    {NEON_DOTPROD, &kernels_dotprod}, {0, &kernels_neon},
#endif
    {0, &kernels_portable},
};

/* The best set that this processor has, or the one that RUN_ISA names. */
static const Kernels *kernels(void) {
    static _Atomic(const Kernels *) chosen;
    const Kernels *found = atomic_load_explicit(&chosen, memory_order_acquire);
    if (found != NULL) return found;
    const char *wanted = getenv("RUN_ISA");
    int have = features();
    for (int i = (int)(sizeof sets / sizeof sets[0]) - 1; i >= 0; i--) {
        if ((sets[i].needs & have) != sets[i].needs) continue;
        found = sets[i].kernels;
        if (wanted != NULL && strcmp(wanted, found->name) == 0) break;
    }
    atomic_store_explicit(&chosen, found, memory_order_release);
    return found;
}

EXPORT int32_t kernel_abi(void) { return ABI; }
EXPORT const char *kernel_isa(void) { return kernels()->name; }

/* ---- 6. Matrix products, and a layer's two halves -------------------------------------------------------------- */

typedef struct {
    const Tensor *w;
    float *y; /* (rows, y_stride) */
    int64_t y_stride;
    Activations x8; /* the input, when w is int8 */
} Product;

/* Up to three products of one input, their rows shared by all threads in chunks of whole blocks. */
typedef struct Job Job;
struct Job {
    const Kernels *kernels;
    Pool *pool;
    const float *x;    /* (rows, in) */
    const float *norm; /* not NULL: x is first normalised, into normed */
    float *normed, eps;
    Product products[3];
    int count, rows;
    int add;                                                /* y += instead of y = */
    int together;                                           /* a chunk is the same rows of every product */
    int blocks;                                             /* of a chunk */
    void (*finish)(Job *, int product, int first, int end); /* what to do with rows first..end of a product */
    const Model *model;
    const Layer *layer;
    int pos;
};

enum {
    QUERIES = 12,          /* query vectors that share one pass over keys and values */
    CHUNKS_PER_THREAD = 6,
    CHUNK_WORK = 16 << 10, /* multiply-adds worth handing to another thread */
    LONG_CHUNK = 32 << 20, /* multiply-adds: a few tenths of a millisecond, not to be waited for longer */
};

/* Where the parts of the scratch memory begin, and how long it is. */
typedef struct {
    float *normed, *activations[3], *queries, *keys, *values, *mixed, *gate, *up, *heads;
    int64_t per_thread, floats;
} Scratch;

static int64_t aligned(int64_t floats) { return (floats + 15) / 16 * 16; }

/* Numbers, scales and starts of quantised rows: three floats a number if every group is one number. */
static int64_t activation_floats(int64_t rows, int64_t in) { return 3 * aligned(rows * in); }

static Scratch scratch_layout(const Model *m) {
    int64_t rows = m->max_rows, size = m->head_size, q_dim = m->n_heads * size, kv_dim = m->n_kv_heads * size;
    int64_t widest = larger(larger(m->dim, m->hidden_dim), (int)q_dim);
    Scratch s = {.per_thread = aligned(QUERIES * (2 * size + aligned(m->context)))};
    struct {
        float **part;
        int64_t floats;
    } parts[] = {
        {&s.activations[0], activation_floats(rows, widest)},
        {&s.activations[1], activation_floats(rows, m->dim)},
        {&s.activations[2], activation_floats(rows, m->dim)},
        {&s.normed, rows * m->dim},
        {&s.queries, rows * q_dim},
        {&s.keys, rows * kv_dim},
        {&s.values, rows * kv_dim},
        {&s.mixed, rows * q_dim},
        {&s.gate, rows * m->hidden_dim},
        {&s.up, rows * m->hidden_dim},
        {&s.heads, s.per_thread * pool_threads(m->pool)},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        *parts[i].part = m->scratch == NULL ? NULL : m->scratch + s.floats;
        s.floats += aligned(parts[i].floats);
    }
    return s;
}

EXPORT int64_t scratch_floats(const Model *m) { return scratch_layout(m).floats; }

static void prepare_row(void *arg, int row, int thread) {
    Job *job = arg;
    int in = job->products[0].w->in;
    const float *x = job->x + (int64_t)row * in;
    (void)thread;
    if (job->norm != NULL) {
        float *normed = job->normed + (int64_t)row * in;
        job->kernels->rmsnorm(normed, x, job->norm, in, job->eps);
        x = normed;
    }
    for (int i = 0; i < job->count; i++) {
        const Activations *a = &job->products[i].x8;
        int done = a->q == NULL;
        for (int j = 0; j < i; j++) done |= job->products[j].x8.q == a->q;
        if (!done)
            job->kernels->quantize(x, in, job->products[i].w->group, a->q + (int64_t)row * a->stride,
                                   a->scales + (int64_t)row * a->groups, a->start + (int64_t)row * a->groups);
    }
}

/* Normalises and quantises the input, once for each group size among the products. */
static void prepare(Job *job, float *const activations[3]) {
    int needed = job->norm != NULL;
    for (int i = 0; i < job->count; i++) {
        const Tensor *w = job->products[i].w;
        Activations *a = &job->products[i].x8;
        if (w->group == 0) continue;
        needed = 1;
        for (int j = 0; j < i; j++)
            if (job->products[j].w->group == w->group) *a = job->products[j].x8;
        if (a->q != NULL) continue;
        a->groups = groups(w);
        a->stride = padded_in(w);
        a->scales = activations[i];
        a->start = (int32_t *)(a->scales + (int64_t)job->rows * a->groups);
        a->q = (int8_t *)(a->start + (int64_t)job->rows * a->groups);
    }
    if (needed) parallel(job->pool, prepare_row, job, job->rows);
    if (job->norm != NULL) job->x = job->normed;
}

static void multiply_rows(Job *job, int product, int first, int end) {
    const Product *p = &job->products[product];
    const Tensor *w = p->w;
    if (w->group == 0) {
        const char *data = (const char *)w->data + (int64_t)first * w->in * (int64_t)sizeof(float);
        job->kernels->float_product((const float *)data, end - first, w->in, job->x, w->in, job->rows, p->y + first,
                                    p->y_stride, job->add);
    } else {
        job->kernels->int8_product(w, first, end, &p->x8, job->rows, p->y, p->y_stride, job->add);
    }
    if (job->finish != NULL) job->finish(job, product, first, end);
}

static void multiply_chunk(void *arg, int chunk, int thread) {
    Job *job = arg;
    int from = chunk * job->blocks, to = from + job->blocks;
    (void)thread;
    for (int i = 0; i < job->count; i++) {
        int out = job->products[i].w->out, blocks = ceil_div(out, BLOCK);
        int first = larger(from, 0) * BLOCK, end = smaller(smaller(to, blocks) * BLOCK, out);
        if (first < end) multiply_rows(job, i, first, end);
        if (!job->together) from -= blocks, to -= blocks;
    }
}

static void multiply(Job *job) {
    int blocks = 0, side_by_side = job->together ? job->count : 1;
    int64_t block_work = (int64_t)BLOCK * job->products[0].w->in * job->rows * side_by_side;
    for (int i = 0; i < job->count; i++) blocks += ceil_div(job->products[i].w->out, BLOCK);
    blocks /= side_by_side;
    job->blocks = larger(ceil_div(blocks, pool_threads(job->pool) * CHUNKS_PER_THREAD), (int)(CHUNK_WORK / block_work));
    job->blocks = smaller(job->blocks, larger((int)(LONG_CHUNK / block_work), 1));
    if (blocks * block_work < 2 * CHUNK_WORK) job->blocks = blocks;
    parallel(job->pool, multiply_chunk, job, ceil_div(blocks, job->blocks));
}

/* y (rows, out) = x (rows, in) . w^T */
EXPORT void matmul(void *pool, const Tensor *w, const float *x, int32_t rows, float *y, float *scratch) {
    float *activations[3] = {scratch};
    Job job = {.kernels = kernels(), .pool = usable(pool), .x = x, .rows = rows,
               .products = {{.w = w, .y = y, .y_stride = w->out}}, .count = 1};
    prepare(&job, activations);
    multiply(&job);
}

/* logits (rows, vocab_size) = rmsnorm(x) . wcls^T */
EXPORT void classify(const Model *m, const float *final_norm, const Tensor *wcls, const float *x, int32_t rows,
                     float *logits) {
    Scratch s = scratch_layout(m);
    Job job = {.kernels = kernels(), .pool = usable(m->pool), .x = x, .rows = rows,
               .norm = final_norm, .normed = s.normed, .eps = m->eps,
               .products = {{.w = wcls, .y = logits, .y_stride = wcls->out}}, .count = 1};
    prepare(&job, s.activations);
    multiply(&job);
}

/* y, its numbers stride apart, = x with its pairs turned by angles (cosine, sine). */
static void rotate(float *y, int stride, const float *x, const float *angles, int n) {
    for (int i = 0; i < n; i += 2) {
        float a = x[i], b = x[i + 1], cosine = angles[i], sine = angles[i + 1];
        y[i * stride] = a * cosine - b * sine;
        y[(i + 1) * stride] = a * sine + b * cosine;
    }
}

/* Where the key of a position begins; its numbers lie KEYS apart. */
static int64_t key_index(const Model *m, int head, int64_t pos) {
    return (head * (int64_t)ceil_div(m->context, KEYS) + pos / KEYS) * m->head_size * KEYS + pos % KEYS;
}

/* New keys, rotated, and values go to the caches, head by head. */
static void store_in_cache(Job *job, int product, int first, int end) {
    const Model *m = job->model;
    const Product *p = &job->products[product];
    if (product == 0) return;
    for (int row = 0; row < job->rows; row++) {
        int64_t pos = job->pos + row;
        for (int i = first, n; i < end; i += n) {
            int head = i / m->head_size, d = i % m->head_size;
            int64_t at = (head * (int64_t)m->context + pos) * m->head_size + d;
            const float *x = p->y + row * p->y_stride + i;
            n = smaller(m->head_size - d, end - i);
            float *key = job->layer->keys + key_index(m, head, pos) + d * KEYS;
            if (product == 1) rotate(key, KEYS, x, m->rope + pos * m->head_size + d, n);
            else memcpy(job->layer->values + at, x, (size_t)n * sizeof(float));
        }
    }
}

typedef struct {
    const Kernels *kernels;
    const Model *model;
    const Layer *layer;
    Scratch s;
    int rows, pos;
} Attend;

/* Attention of up to QUERIES query vectors of the heads that share one key/value head. */
static void attend(void *arg, int chunk, int thread) {
    const Attend *a = arg;
    const Model *m = a->model;
    const int size = m->head_size, share = m->n_heads / m->n_kv_heads, tiles = ceil_div(a->rows * share, QUERIES);
    const int kv_head = chunk / tiles, from = chunk % tiles * QUERIES, n = smaller(QUERIES, a->rows * share - from);
    const int end = a->pos + (from + n - 1) / share + 1, stride = (int)aligned(end);
    const int64_t cache = (int64_t)kv_head * m->context * size;
    const float *keys = a->layer->keys + key_index(m, kv_head, 0);
    float *q = a->s.heads + thread * a->s.per_thread, *y = q + QUERIES * size, *scores = y + QUERIES * size;

    for (int i = 0; i < n; i++) { /* q = rope(q) */
        int row = (from + i) / share, head = kv_head * share + (from + i) % share;
        const float *x = a->s.queries + ((int64_t)row * m->n_heads + head) * size;
        rotate(q + i * size, 1, x, m->rope + (int64_t)(a->pos + row) * size, size);
    }
    /* scores = softmax(q . keys / sqrt(head_size)) over the positions up to the query's own, y = scores . values */
    a->kernels->score_keys(q, n, keys, end, size, scores, stride);
    for (int i = 0; i < n; i++) {
        int seen = a->pos + (from + i) / share + 1;
        a->kernels->softmax(scores + (int64_t)i * stride, seen);
        memset(scores + (int64_t)i * stride + seen, 0, (size_t)(end - seen) * sizeof(float));
    }
    a->kernels->mix_values(scores, stride, n, a->layer->values + cache, end, size, y);
    for (int i = 0; i < n; i++) {
        int row = (from + i) / share, head = kv_head * share + (from + i) % share;
        memcpy(a->s.mixed + ((int64_t)row * m->n_heads + head) * size, y + i * size, (size_t)size * sizeof(float));
    }
}

/* x (rows, dim) += wo . attend(rope(wq . n), rope(wk . n), wv . n), n = rmsnorm(x); fills the caches from pos on. */
EXPORT void attention(const Model *m, const Layer *layer, float *x, int32_t rows, int32_t pos) {
    Scratch s = scratch_layout(m);
    Pool *pool = usable(m->pool);
    Job project = {.kernels = kernels(), .pool = pool, .x = x, .rows = rows,
                   .norm = layer->att_norm, .normed = s.normed, .eps = m->eps,
                   .products = {{.w = &layer->wq, .y = s.queries, .y_stride = layer->wq.out},
                                {.w = &layer->wk, .y = s.keys, .y_stride = layer->wk.out},
                                {.w = &layer->wv, .y = s.values, .y_stride = layer->wv.out}}, .count = 3,
                   .finish = store_in_cache, .model = m, .layer = layer, .pos = pos};
    prepare(&project, s.activations);
    multiply(&project);

    Attend a = {.kernels = kernels(), .model = m, .layer = layer, .s = s, .rows = rows, .pos = pos};
    int tiles = ceil_div(rows * (m->n_heads / m->n_kv_heads), QUERIES);
    int64_t work = 2LL * rows * (pos + rows) * m->n_heads * m->head_size;
    parallel(work < 2 * CHUNK_WORK ? NULL : pool, attend, &a, m->n_kv_heads * tiles);

    Job output = {.kernels = kernels(), .pool = pool, .x = s.mixed, .rows = rows, .add = 1,
                  .products = {{.w = &layer->wo, .y = x, .y_stride = layer->wo.out}}, .count = 1};
    prepare(&output, s.activations);
    multiply(&output);
}

static void gate(Job *job, int product, int first, int end) {
    const Product *p = job->products;
    if (product == 0) return; /* w1's rows come first, then the same rows of w3 */
    for (int row = 0; row < job->rows; row++) {
        int64_t at = row * p->y_stride + first;
        job->kernels->swiglu(p[0].y + at, p[1].y + at, end - first);
    }
}

/* x (rows, dim) += w2 . (silu(w1 . n) * (w3 . n)), n = rmsnorm(x) */
EXPORT void feed_forward(const Model *m, const Layer *layer, float *x, int32_t rows) {
    Scratch s = scratch_layout(m);
    Pool *pool = usable(m->pool);
    Job hidden = {.kernels = kernels(), .pool = pool, .x = x, .rows = rows,
                  .norm = layer->ffn_norm, .normed = s.normed, .eps = m->eps,
                  .products = {{.w = &layer->w1, .y = s.gate, .y_stride = layer->w1.out},
                               {.w = &layer->w3, .y = s.up, .y_stride = layer->w3.out}}, .count = 2,
                  .together = 1, .finish = gate};
    prepare(&hidden, s.activations);
    multiply(&hidden);

    Job output = {.kernels = kernels(), .pool = pool, .x = s.gate, .rows = rows, .add = 1,
                  .products = {{.w = &layer->w2, .y = x, .y_stride = layer->w2.out}}, .count = 1};
    prepare(&output, s.activations);
    multiply(&output);
}

#else
/* ==== 7. The template: compiled once for each instruction set =================================================== */

#define vec NAME(vec)
#define ivec NAME(ivec)
#define uvec NAME(uvec)
#define bytes NAME(bytes)
#define dvec NAME(dvec)
#define lvec NAME(lvec)
#define load NAME(load)
#define load_some NAME(load_some)
#define load_at_most NAME(load_at_most)
#define store NAME(store)
#define store_at_most NAME(store_at_most)
#define splat NAME(splat)
#define choose NAME(choose)
#define sum NAME(sum)
#define vexp NAME(vexp)
#define dot NAME(dot)
#define float_tile NAME(float_tile)
#define float_rows NAME(float_rows)
#define int8_tile NAME(int8_tile)
#define int8_rows NAME(int8_rows)
#define mix_tile NAME(mix_tile)
#define score_tile NAME(score_tile)
#define mix_strip NAME(mix_strip)
#define FN TARGET static
#define INLINE TARGET static inline __attribute__((always_inline))
#define MAX_ROWS 6                              /* the most that FLOAT_ROWS or INT8_ROWS is */
#define REGISTERS (INT8_BLOCKS * BLOCK / LANES) /* that hold four columns of a tile's weights */

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef int8_t bytes __attribute__((vector_size(LANES)));
typedef double dvec __attribute__((vector_size(8 * LANES)));
typedef int64_t lvec __attribute__((vector_size(8 * LANES)));

/* Memory is read and written at any alignment. */
INLINE vec load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(float *p, vec v) { memcpy(p, &v, sizeof v); }

INLINE vec load_some(const float *p, int n) {
    vec v = {0};
    memcpy(&v, p, (size_t)n * sizeof(float));
    return v;
}

INLINE vec load_at_most(const float *p, int n) { return n >= LANES ? load(p) : LOAD_PART(p, n); }

INLINE void store_at_most(float *p, vec v, int n) {
    if (n >= LANES) store(p, v);
    else memcpy(p, &v, (size_t)n * sizeof(float));
}

INLINE vec splat(float x) { return x - (vec){0}; }

INLINE vec choose(ivec where, vec a, vec b) { return (vec)((where & (ivec)a) | (~where & (ivec)b)); }

INLINE float sum(vec v) {
    float a[LANES];
    store(a, v);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) a[i] += a[i + half];
    return a[0];
}

/* e^x, rounded as glibc's expf does, with its polynomial: x = (k + r) ln 2 / 32 and e^x = 2^(k / 32) (1 + r (..)) in
 * double. 2^(k / 32) is a power of two times the series of a number up to sqrt(2). 0 below -87.3, e^88 above 88; NaN
 * stays NaN. (The same numbers are in embed/engine/exact.py.) */
INLINE vec vexp(vec x) {
    const double round = 6755399441055744.0; /* 1.5 * 2^52: adding it leaves the nearest integer in the low bits */
    ivec tiny = x < -87.3f;
    dvec z = __builtin_convertvector(choose(x > 88.0f, splat(88.0f), choose(tiny, splat(-87.3f), x)), dvec);
    z *= 0x1.71547652b82fep+5; /* 32 / ln 2 */
    dvec k = (z + round) - round, r = z - k;
    dvec rounded = k * (1.0 / 32) + round;
    dvec y = (k * (1.0 / 32) - (rounded - round)) * 0.6931471805599453;
    dvec p = y * (1.0 / 3628800) + 1.0 / 362880;
    p = p * y + 1.0 / 40320;
    p = p * y + 1.0 / 5040;
    p = p * y + 1.0 / 720;
    p = p * y + 1.0 / 120;
    p = p * y + 1.0 / 24;
    p = p * y + 1.0 / 6;
    p = p * y + 0.5;
    p = p * y + 1.0;
    p = p * y + 1.0;
    p *= ((r * 0x1.c6af84b912394p-20 + 0x1.ebfce50fac4f3p-13) * r + 0x1.62e42ff0c52d6p-6) * r + 1.0;
    lvec power = ((lvec)rounded - 0x4338000000000000 + 1023) << 52;
    return (vec)(~tiny & (ivec)__builtin_convertvector(p * (dvec)power, vec));
}

/* y = weight * x / sqrt(mean(x^2) + eps), summed in order */
FN void NAME(rmsnorm)(float *y, const float *x, const float *weight, int n, float eps) {
    float squares = 0;
    for (int i = 0; i < n; i++) squares += x[i] * x[i];
    vec scale = splat(1.0f / __builtin_sqrtf(squares / (float)n + eps));
    for (int i = 0; i < n; i += LANES)
        store_at_most(y + i, load_at_most(weight + i, n - i) * (scale * load_at_most(x + i, n - i)), n - i);
}

/* x = e^(x - max x) / their sum, summed in order */
FN void NAME(softmax)(float *x, int n) {
    int whole = n / LANES * LANES;
    float top = x[0], total = 0;
    vec tops = splat(top);
    for (int i = 0; i < whole; i += LANES) tops = choose(load(x + i) > tops, load(x + i), tops);
    for (int i = 0; i < LANES; i++) top = tops[i] > top ? tops[i] : top;
    for (int i = whole; i < n; i++) top = x[i] > top ? x[i] : top;
    for (int i = 0; i < n; i += LANES) store_at_most(x + i, vexp(load_at_most(x + i, n - i) - top), n - i);
    for (int i = 0; i < n; i++) total += x[i];
    for (int i = 0; i < n; i += LANES) store_at_most(x + i, load_at_most(x + i, n - i) / total, n - i);
}

/* a = silu(a) * b, silu(a) = a * (1 / (1 + e^-a)) */
FN void NAME(swiglu)(float *a, const float *b, int n) {
    for (int i = 0; i < n; i += LANES) {
        vec v = load_at_most(a + i, n - i);
        store_at_most(a + i, v * (1.0f / (1.0f + vexp(-v))) * load_at_most(b + i, n - i), n - i);
    }
}

/* Per group: scale = max|x| / 127, q = x / scale rounded, halves away from zero. A group with NaN or infinity has it
 * as its scale, and so in the result. */
FN void NAME(quantize)(const float *x, int n, int group, int8_t *q, float *scales, int32_t *start) {
    const int padded = ceil_div(group, FOUR) * FOUR;
    for (int g = 0; g < ceil_div(n, group); g++, x += group, q += padded) {
        int size = smaller(group, n - g * group);
        uvec peaks = {0}; /* floats without sign are in the order of their bits, NaN on top */
        for (int i = 0; i < size; i += LANES) {
            uvec v = (uvec)load_at_most(x + i, size - i) & 0x7fffffffu;
            peaks = (uvec)choose((ivec)(v > peaks), (vec)v, (vec)peaks);
        }
        uint32_t peak = 0;
        for (int i = 0; i < LANES; i++) peak = peaks[i] > peak ? peaks[i] : peak;
        memcpy(&scales[g], &peak, sizeof peak);
        scales[g] /= 127.0f;
        start[g] = 0;
        memset(q, 0, (size_t)padded);
        if (!(scales[g] >= FLT_MIN && scales[g] <= FLT_MAX)) continue;
        ivec total = {0};
        for (int i = 0; i < size; i += LANES) {
            vec v = load_at_most(x + i, size - i) / scales[g];
            vec half = (vec)(((uvec)v & 0x80000000u) | (uvec)splat(0.49999997f)); /* the last float below 0.5 */
            ivec whole = __builtin_convertvector(v + half, ivec);
            bytes b = __builtin_convertvector(whole, bytes);
            memcpy(q + i, &b, (size_t)smaller(LANES, size - i));
            total += whole;
        }
        for (int i = 0; i < LANES; i++) start[g] -= OFFSET * total[i];
    }
}

/* The n products of w and x, summed in each lane. Memory is the limit here: the weights are read strictly in order,
 * and asked for AHEAD of their use. */
INLINE vec dot(const float *w, const float *x, int n) {
    vec sums[4] = {{0}};
    int i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        for (int j = 0; j < 4; j++) {
            if (j * LANES % 16 == 0) prefetch(w + i + j * LANES);
            sums[j] += load(w + i + j * LANES) * load(x + i + j * LANES);
        }
    }
    for (; i < n; i += LANES) sums[0] += load_at_most(w + i, n - i) * load_at_most(x + i, n - i);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* y[r][o] (+)= x[r] . w[o] for a tile of rows by outs (1 or 4), over n of the in columns. */
INLINE void float_tile(const int outs, const int rows, const float *w, int in, int n, const float *x, int64_t x_stride,
                       float *y, int64_t y_stride, int add) {
    vec sums[MAX_ROWS][4] = {{{0}}};
    for (int o = 0; o < outs && rows == 1; o++) sums[0][o] = dot(w + (int64_t)o * in, x, n);
    for (int i = 0; i < n && rows > 1; i += LANES) {
        vec b[4];
        for (int o = 0; o < outs; o++) b[o] = load_at_most(w + (int64_t)o * in + i, n - i);
        for (int r = 0; r < rows; r++) {
            vec a = load_at_most(x + r * x_stride + i, n - i);
            for (int o = 0; o < outs; o++) sums[r][o] = FMA(b[o], a, sums[r][o]);
        }
    }
    for (int r = 0; r < rows; r++, y += y_stride) {
        if (outs == 4) {
            float4 four = SUM4(sums[r][0], sums[r][1], sums[r][2], sums[r][3]), before = {0};
            if (add) memcpy(&before, y, sizeof before);
            four += before;
            memcpy(y, &four, sizeof four);
        } else {
            y[0] = (add ? y[0] : 0) + sum(sums[r][0]);
        }
    }
}

INLINE void float_rows(const int rows, const float *w, int out, int in, int n, const float *x, int64_t x_stride,
                       float *y, int64_t y_stride, int add) {
    int o = 0;
    for (; o + 4 <= out; o += 4) float_tile(4, rows, w + (int64_t)o * in, in, n, x, x_stride, y + o, y_stride, add);
    for (; o < out; o++) float_tile(1, rows, w + (int64_t)o * in, in, n, x, x_stride, y + o, y_stride, add);
}

/* y (rows, out) (+)= x (rows, in) . w^T. Many rows are taken in pieces that stay in the caches: PANEL weights in the
 * second level, DEPTH columns of a tile in the first. */
FN void NAME(float_product)(const float *w, int out, int in, const float *x, int64_t x_stride, int rows, float *y,
                            int64_t y_stride, int add) {
    enum { PANEL = 1 << 16, DEPTH = 1024 };
    const int depth = rows == 1 ? in : smaller(in, DEPTH), panel = rows == 1 ? out : larger(PANEL / depth / 4 * 4, 4);
    for (int o = 0; o < out; o += panel) {
        for (int i = 0; i < in; i += depth) {
            const float *wi = w + (int64_t)o * in + i;
            int m = smaller(panel, out - o), n = smaller(depth, in - i), adds = add || i > 0;
            for (int r = 0; r < rows; r += FLOAT_ROWS) {
                const float *xi = x + r * x_stride + i;
                float *yo = y + r * y_stride + o;
                switch (smaller(FLOAT_ROWS, rows - r)) {
                    case 1: float_rows(1, wi, m, in, n, xi, x_stride, yo, y_stride, adds); break;
                    case 2: float_rows(2, wi, m, in, n, xi, x_stride, yo, y_stride, adds); break;
#if FLOAT_ROWS > 2
                    case 3: float_rows(3, wi, m, in, n, xi, x_stride, yo, y_stride, adds); break;
#endif
#if FLOAT_ROWS > 3
                    case 4: float_rows(4, wi, m, in, n, xi, x_stride, yo, y_stride, adds); break;
#endif
#if FLOAT_ROWS > 4
                    case 5: float_rows(5, wi, m, in, n, xi, x_stride, yo, y_stride, adds); break;
                    case 6: float_rows(6, wi, m, in, n, xi, x_stride, yo, y_stride, adds); break;
#endif
                }
            }
        }
    }
}

/* y[r][first..] (+)= x[r] . w[first..] for a tile of rows by blocks of 16; row: the first of the rows. */
INLINE void int8_tile(const int blocks, const int rows, const Tensor *w, int first, const Activations *x, int row,
                      float *y, int64_t y_stride, int add) {
    const int registers = blocks * BLOCK / LANES, per_block = BLOCK / LANES;
    const int n_groups = x->groups, n_fours = fours(w);
    const int64_t block_bytes = (int64_t)BLOCK * x->stride;
    const uint8_t *data = (const uint8_t *)w->data + first / BLOCK * block_bytes;
    const float *scales = w->scales + (int64_t)(first / BLOCK) * n_groups * BLOCK;
    const int8_t *q = x->q + (int64_t)row * x->stride;
    const float *x_scales = x->scales + (int64_t)row * n_groups;
    const int32_t *start = x->start + (int64_t)row * n_groups;
    vec sums[MAX_ROWS][REGISTERS] = {{{0}}};
    for (int g = 0; g < n_groups; g++) {
        ivec dots[MAX_ROWS][REGISTERS];
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < registers; v++) dots[r][v] = (ivec){0} + start[r * n_groups + g];
        for (int f = 0; f < n_fours; f++, data += BLOCK * FOUR, q += FOUR) {
            ivec b[REGISTERS];
            if (rows == 1) prefetch(data);
            for (int v = 0; v < registers; v++)
                memcpy(&b[v], data + v / per_block * block_bytes + v % per_block * LANES * FOUR, sizeof(ivec));
            for (int r = 0; r < rows; r++) {
                int32_t four;
                memcpy(&four, q + (int64_t)r * x->stride, sizeof four);
                ivec a = (ivec){0} + four;
                for (int v = 0; v < registers; v++) dots[r][v] = DOT4(dots[r][v], b[v], a);
            }
        }
        for (int v = 0; v < registers; v++) {
            vec scale = load(scales + ((int64_t)(v / per_block) * n_groups + g) * BLOCK + v % per_block * LANES);
            for (int r = 0; r < rows; r++)
                sums[r][v] += __builtin_convertvector(dots[r][v], vec) * scale * x_scales[r * n_groups + g];
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < registers; v++) {
            int left = w->out - first - v * LANES;
            float *to = y + (row + r) * y_stride + first + v * LANES;
            if (left <= 0) break;
            store_at_most(to, add ? sums[r][v] + load_at_most(to, left) : sums[r][v], left);
        }
    }
}

/* All rows of activations by a few blocks of weights, which stay in the first level of the caches. */
INLINE void int8_rows(const int blocks, const Tensor *w, int first, const Activations *x, int rows, float *y,
                      int64_t y_stride, int add) {
    for (int r = 0; r < rows; r += INT8_ROWS) {
        switch (smaller(INT8_ROWS, rows - r)) {
            case 1: int8_tile(blocks, 1, w, first, x, r, y, y_stride, add); break;
#if INT8_ROWS > 1
            case 2: int8_tile(blocks, 2, w, first, x, r, y, y_stride, add); break;
#endif
#if INT8_ROWS > 2
            case 3: int8_tile(blocks, 3, w, first, x, r, y, y_stride, add); break;
            case 4: int8_tile(blocks, 4, w, first, x, r, y, y_stride, add); break;
            case 5: int8_tile(blocks, 5, w, first, x, r, y, y_stride, add); break;
            case 6: int8_tile(blocks, 6, w, first, x, r, y, y_stride, add); break;
#endif
        }
    }
}

/* y (rows, out) (+)= x (rows, in) . w^T for rows first..end of w; first is a multiple of BLOCK. */
FN void NAME(int8_product)(const Tensor *w, int first, int end, const Activations *x, int rows, float *y,
                           int64_t y_stride, int add) {
    for (; INT8_BLOCKS > 1 && rows > 1 && first + INT8_BLOCKS * BLOCK <= end; first += INT8_BLOCKS * BLOCK)
        int8_rows(INT8_BLOCKS, w, first, x, rows, y, y_stride, add);
    for (; first < end; first += BLOCK) {
        if (rows == 1) int8_tile(1, 1, w, first, x, 0, y, y_stride, add);
        else int8_rows(1, w, first, x, rows, y, y_stride, add);
    }
}

/* scores[q][..] = q . key / sqrt(size) for a tile of queries by blocks of KEYS positions, summed in order */
INLINE void score_tile(const int queries, const int blocks, const float *q, const float *keys, int size, float *scores,
                       int64_t stride) {
    enum { PARTS = KEYS / LANES };
    const vec root = splat(__builtin_sqrtf((float)size));
    vec sums[4][4 * PARTS] = {{{0}}};
    for (int d = 0; d < size; d++, keys += KEYS) {
        for (int v = 0; v < blocks * PARTS; v++) {
            vec b = load(keys + (int64_t)(v / PARTS) * size * KEYS + v % PARTS * LANES);
            for (int i = 0; i < queries; i++) sums[i][v] += q[i * size + d] * b;
        }
    }
    for (int i = 0; i < queries; i++)
        for (int v = 0; v < blocks * PARTS; v++) store(scores + i * stride + v * LANES, sums[i][v] / root);
}

/* scores (queries, stride) of q (queries, size) with the first n keys, and some more up to whole blocks */
FN void NAME(score_keys)(const float *q, int queries, const float *keys, int n, int size, float *scores,
                         int64_t stride) {
    int i = 0, t;
    for (; i + 4 <= queries; i += 4, q += 4 * size, scores += 4 * stride)
        for (t = 0; t < n; t += KEYS) score_tile(4, 1, q, keys + (int64_t)t * size, size, scores + t, stride);
    for (; i < queries; i++, q += size, scores += stride) {
        for (t = 0; LANES == KEYS && t + 4 * KEYS <= n; t += 4 * KEYS)
            score_tile(1, 4, q, keys + (int64_t)t * size, size, scores + t, stride);
        for (; t < n; t += KEYS) score_tile(1, 1, q, keys + (int64_t)t * size, size, scores + t, stride);
    }
}

/* y[q][..] = sum over i < n of p[q][i] * values[i][..] for a tile of queries by vectors, of which left floats count. */
INLINE void mix_tile(const int queries, const int vectors, const float *p, int64_t p_stride, const float *values,
                     int n, int size, float *y, int left) {
    vec sums[4][4] = {{{0}}};
    for (int i = 0; i < n; i++, values += size) {
        for (int v = 0; v < vectors; v++) {
            vec b = load_at_most(values + v * LANES, left - v * LANES);
            for (int q = 0; q < queries; q++) sums[q][v] += p[q * p_stride + i] * b;
        }
    }
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++) store_at_most(y + q * size + v * LANES, sums[q][v], left - v * LANES);
}

INLINE void mix_strip(const int vectors, const float *p, int64_t p_stride, int queries, const float *values, int n,
                      int size, float *y, int left) {
    int q = 0;
    for (; q + 4 <= queries; q += 4)
        mix_tile(4, vectors, p + q * p_stride, p_stride, values, n, size, y + q * size, left);
    for (; q < queries; q++) mix_tile(1, vectors, p + q * p_stride, p_stride, values, n, size, y + q * size, left);
}

/* y (queries, size) = p (queries, n) . values (n, size) */
FN void NAME(mix_values)(const float *p, int64_t p_stride, int queries, const float *values, int n, int size,
                         float *y) {
    int d = 0;
    for (; d + 4 * LANES <= size; d += 4 * LANES)
        mix_strip(4, p, p_stride, queries, values + d, n, size, y + d, 4 * LANES);
    for (; d + 2 * LANES <= size; d += 2 * LANES)
        mix_strip(2, p, p_stride, queries, values + d, n, size, y + d, 2 * LANES);
    for (; d < size; d += LANES) mix_strip(1, p, p_stride, queries, values + d, n, size, y + d, size - d);
}

#define STRING_(x) #x
#define STRING(x) STRING_(x)
static const Kernels NAME(kernels) = {
    STRING(SET),         NAME(rmsnorm),      NAME(softmax),    NAME(swiglu), NAME(quantize),
    NAME(float_product), NAME(int8_product), NAME(score_keys), NAME(mix_values),
};

#undef STRING_
#undef STRING
#undef vec
#undef ivec
#undef uvec
#undef bytes
#undef dvec
#undef lvec
#undef load
#undef load_some
#undef load_at_most
#undef store
#undef store_at_most
#undef splat
#undef choose
#undef sum
#undef vexp
#undef dot
#undef float_tile
#undef float_rows
#undef int8_tile
#undef int8_rows
#undef mix_tile
#undef score_tile
#undef mix_strip
#undef FN
#undef INLINE
#undef MAX_ROWS
#undef REGISTERS
#undef SET
#undef LANES
#undef TARGET
#undef FLOAT_ROWS
#undef INT8_BLOCKS
#undef INT8_ROWS
#undef OFFSET
#undef LOAD_PART
#undef SUM4
#undef FMA
#undef DOT4
#endif
