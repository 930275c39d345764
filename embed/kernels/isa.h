/* Instruction sets: what is compiled once for each, and which one runs.
 *
 * One library runs on every processor of its architecture. template.h is included once for each
 * set, with the macros below set to what its instructions can do, and leaves a table kernels_SET;
 * the best table that the processor can run is chosen when the first function is called.
 *
 *   SET, LANES, TARGET      a name, floats in a vector, the compiler's name of the instructions
 *   FLOAT_ROWS              rows of activations in a tile of the float product (by 4 of weights):
 *                           as many as registers allow, MAX_ROWS at most
 *   INT8_BLOCKS, INT8_ROWS  blocks of weights and rows of activations in a tile of the int8
 *                           product
 *   OFFSET                  what DOT4 takes a stored weight to exceed the real one by: BIAS or 0
 *   LOAD_PART(p, n)         the first n < LANES floats at p, then zeros; reads nothing behind them
 *   FMA(a, b, c)            a b + c, rounded once where the processor can (float products only:
 *                           all else must be the same numbers everywhere)
 *   SUM4(a, b, c, d)        the sums of four vectors, as a float4
 *   DOT4(sum, w, x)         sum[i] += w[4i] x[0] + .. + w[4i+3] x[3] for bytes, w unsigned, x
 *                           signed and repeated; exact for all bytes
 *   DOT4_SMALL(sum, w, x)   the same for w < 64, which never needs an OFFSET
 *   LOOKUP(i)               nonlinear[i] for bytes i < 16
 *   HALVES(p), SHORTS(p)    LANES numbers of half precision at p as floats, of 16 bits as 32
 */
#ifndef ISA_H
#define ISA_H

#include <float.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "weights.h"

enum { MAX_ROWS = 6 }; /* the most that FLOAT_ROWS or INT8_ROWS is */

/* 32 activations as int8: their scale, their sum, and that of either half. */
typedef struct {
    float scale;
    int32_t total, half_sum[2];
} Group;

/* The input of a product, prepared as its weights need it. A row's numbers are padded as the
 * columns of packed weights are, with zeros. */
typedef struct {
    const float *floats; /* (rows, in): always there */
    int8_t *q;           /* (rows, stride), quantised per group as runq.c does */
    Group *blocks;       /* AS_BLOCKS: (rows, groups) */
    float *scales;       /* AS_INT8: (rows, groups) */
    int32_t *start; /* (rows, groups): what a group's dot product starts from, -OFFSET sum(q) */
    int stride, groups;
} Activations;

/* y (rows, out) = x (rows, in) . w^T, or += where add is set. */
typedef struct {
    const Tensor *w;
    Activations x;
    float *y; /* (rows, y_stride) */
    int64_t y_stride;
    int rows, add;
} Product;

/* Packed weights of 16 rows as a product of many rows wants them: a byte each, scales as floats;
 * on a cache line, as a vector that lies in two is loaded twice. */
#define ON_LINE __attribute__((aligned(64)))
enum { SLAB = 256 }; /* columns: what stays in the first-level cache */
typedef struct {
    ON_LINE uint8_t q[SLAB / FOUR][BLOCK * FOUR];
    float scales[SLAB / 16][BLOCK], minima[SLAB / 16][BLOCK]; /* of each group */
} Slab;

enum { STRIP = 64 }; /* rows of activations that use a slab, so that their sums fit, too */

/* So many columns of 16 rows, from a unit on. */
typedef void UnpackFunction(const uint8_t *unit, int columns, Slab *s);

/* A slab of the blocks of rows of a tile, and the activations for it. */
typedef struct {
    const Slab *slabs;
    int groups, parts, zero, minima; /* parts: groups that share a scale of activations */
    const int8_t *x;
    const Group *x_groups;
    int64_t x_stride, x_groups_stride;
    float (*sums)[2 * BLOCK];
} SlabProduct;

/* Computes columns first..end of y, from rows first..end of w; first is a multiple of BLOCK. */
typedef void ProductFunction(const Product *p, int first, int end);

/* What is compiled once per instruction set. */
typedef struct {
    const char *name;
    void (*rmsnorm)(float *y, const float *x, const float *weight, int n, float eps);
    void (*softmax)(float *x, int n);
    void (*swiglu)(float *a, const float *b, int n);
    void (*quantize)(const float *x, int n, int group, int8_t *q, float *scales, int32_t *start);
    void (*quantize_blocks)(const float *x, int n, int8_t *q, Group *groups);
    void (*score_keys)(const float *q, int queries, const float *keys, int n, int size,
                       float *scores, int64_t stride);
    void (*mix_values)(const float *p, int64_t p_stride, int queries, const float *values, int n,
                       int size, float *y);
    ProductFunction *products[TYPES];
} Kernels;

/* Asks for the cache line AHEAD bytes after p, which may be beyond the end: a prefetch never
 * faults. Measured: with one row of activations 33 becomes 55 GB/s on a core of Zen 5. */
enum { AHEAD = 8 << 10 };
static inline void prefetch(const void *p) {
    __builtin_prefetch((const void *)((uintptr_t)p + AHEAD));
}

typedef float float4 __attribute__((vector_size(16)));

/* ---- portable: vectors of the compiler's own, for processors that no other set fits, and the
 * reference that the others are compared with */

#define SET   portable
#define LANES 4
#define TARGET
#define FLOAT_ROWS        2
#define INT8_BLOCKS       1
#define INT8_ROWS         1
#define OFFSET            BIAS
#define FMA(a, b, c)      ((a) * (b) + (c))
#define LOAD_PART(p, n)   load_some(p, n)
#define SUM4(a, b, c, d)  ((float4){sum(a), sum(b), sum(c), sum(d)})
#define BYTE(w, i)        ((ivec)((uvec)(w) >> (8 * (i)) & 255))
#define SIGNED_BYTE(x, i) ((ivec)((uvec)(x) << (24 - 8 * (i))) >> 24)
#define DOT(w, x, i)      BYTE(w, i) * SIGNED_BYTE(x, i)
#define DOT4(sum, w, x)   ((sum) + DOT(w, x, 0) + DOT(w, x, 1) + DOT(w, x, 2) + DOT(w, x, 3))
#define DOT4_SMALL        DOT4
#define LOOKUP(i)         find_nonlinear(i)
#define HALVES(p)         load_halves(p)
#define SHORTS(p)         load_shorts(p)
#include "template.h"

/* ---- each architecture's own: features(), what the processor has, and choices, best first */

typedef struct {
    int needs; /* bits of features() */
    const Kernels *kernels;
} Choice;

#if defined(__x86_64__)
#include "isa_x86.h"
#elif defined(__aarch64__)
#include "isa_arm.h"
#else
static int features(void) { return 0; }
static const Choice choices[] = {{0, &kernels_portable}};
#endif

/* The best set that this processor has, or the one that RUN_ISA names if it has that. */
static const Kernels *choose_kernels(void) {
    const Kernels *found = NULL;
    const char *wanted = getenv("RUN_ISA");
    int have = features();
    for (int i = (int)(sizeof choices / sizeof choices[0]) - 1; i >= 0; i--) {
        if ((choices[i].needs & have) != choices[i].needs) continue;
        found = choices[i].kernels;
        if (wanted != NULL && strcmp(wanted, found->name) == 0) break;
    }
    return found;
}

/* Chosen once. Two threads that come first at once choose the same. */
static const Kernels *kernels(void) {
    static _Atomic(const Kernels *) chosen;
    const Kernels *found = atomic_load_explicit(&chosen, memory_order_acquire);
    if (found == NULL) {
        found = choose_kernels();
        atomic_store_explicit(&chosen, found, memory_order_release);
    }
    return found;
}

#endif
