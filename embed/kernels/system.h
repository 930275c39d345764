/* What the pool asks of the operating system: sleeping on a word, threads, a clock. All that
 * differs between systems is here; what differs between processors is in isa.h.
 *
 *   wait_while(word, value)   sleeps until *word may differ from value: it can wake for no reason,
 *                             so callers look again
 *   wake_all(word)            ends such sleeps, also of other words where the system has no futex
 *
 * The word is compared and the sleep begun in one step, so a change and a wake_all() between the
 * two are not missed.
 */
#ifndef SYSTEM_H
#define SYSTEM_H

#include <stdatomic.h>
#include <stdint.h>

#if defined(_WIN32)
#include <windows.h>
#else
#include <pthread.h>
#include <time.h>
#include <unistd.h>
#endif
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

/* ---- sleeping: a futex on Linux, elsewhere one lock and one condition for all words */

#if defined(__linux__)
static void wait_while(_Atomic uint32_t *word, uint32_t value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}
static void wake_all(_Atomic uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}
static void waiting_after_fork(void) {}
#elif defined(_WIN32)
static SRWLOCK waiting_lock = SRWLOCK_INIT;
static CONDITION_VARIABLE waiting = CONDITION_VARIABLE_INIT;
static void wait_while(_Atomic uint32_t *word, uint32_t value) {
    AcquireSRWLockExclusive(&waiting_lock);
    while (atomic_load(word) == value)
        SleepConditionVariableSRW(&waiting, &waiting_lock, INFINITE, 0);
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
static void waiting_after_fork(void) { /* another thread may have held the lock at the fork */
    pthread_mutex_init(&waiting_lock, NULL);
    pthread_cond_init(&waiting, NULL);
}
#endif

/* ---- threads, and a clock in microseconds */

#if defined(_WIN32)
typedef HANDLE Thread;
#define THREAD_RESULT DWORD WINAPI
static int thread_start(Thread *t, LPTHREAD_START_ROUTINE main, void *arg) {
    *t = CreateThread(NULL, 0, main, arg, 0, NULL);
    return *t != NULL;
}
static void thread_join(Thread t) {
    WaitForSingleObject(t, INFINITE);
    CloseHandle(t);
}
static long process_id(void) { return 1; } /* there is no fork */
static int64_t microseconds(void) {
    LARGE_INTEGER now, second;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&second);
    return (int64_t)((double)now.QuadPart / (double)second.QuadPart * 1e6);
}
#else
typedef pthread_t Thread;
#define THREAD_RESULT void *
static int thread_start(Thread *t, void *(*main)(void *), void *arg) {
    return pthread_create(t, NULL, main, arg) == 0;
}
static void thread_join(Thread t) { pthread_join(t, NULL); }
static long process_id(void) { return (long)getpid(); }
static int64_t microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}
#endif

/* Tells the processor that this is a spinning loop: 10 to 40 ns. */
static void spin_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

#endif
