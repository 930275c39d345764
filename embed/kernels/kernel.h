/* What run.py passes in, and the functions that it calls. embed/engine/kernel.py declares the same
 * for ctypes; whoever changes one of these changes both and raises ABI.
 *
 * Who may write what: Tensor, Layer and Model are read only, by any number of threads. All that
 * changes is in a Cache, and a Cache is one conversation's: two threads may compute on one Model at
 * the same time if each has a Cache (and x, and logits) of its own.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <stdint.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

enum { ABI = 4 };

/* The types of weights. Names, sizes and preparation are in weights.h and blocks.h, products in
 * products.h and block_products.h. From TYPE_F16 on they have the names of GGUF's types. */
enum {
    TYPE_FLOAT32,
    TYPE_INT8,
    TYPE_F16,
    TYPE_BF16,
    TYPE_Q4_0,
    TYPE_Q4_1,
    TYPE_Q5_0,
    TYPE_Q5_1,
    TYPE_Q8_0,
    TYPE_Q2_K,
    TYPE_Q3_K,
    TYPE_Q4_K,
    TYPE_Q5_K,
    TYPE_Q6_K,
    TYPE_IQ4_NL,
    TYPE_IQ4_XS,
    TYPES
};

/* A matrix (out, in), out being the rows that a product has as its columns. */
typedef struct {
    const void *data;    /* floats: as in the file, in place; else see pack_int8(), pack_blocks() */
    const float *scales; /* TYPE_INT8: see pack_int8() */
    int32_t out, in;
    int32_t group; /* TYPE_INT8: columns that share a scale */
    int32_t type;
} Tensor;

typedef struct {
    const float *att_norm, *ffn_norm; /* (dim) */
    Tensor wq, wk, wv, wo, w1, w2, w3;
    int32_t index; /* which layer of a Cache is this one's */
} Layer;

typedef struct {
    void *pool; /* of pool_new(); NULL computes on the caller alone */
    int32_t dim, hidden_dim, n_layers, n_heads, n_kv_heads, head_size;
    int32_t max_rows; /* the most positions that a call gets at once */
    float eps;
} Model;

/* A conversation. Nothing in it needs to be cleared: what lies behind the last position is never
 * used. Keys, values and scratch memory begin on a cache line (any address is right, but slower).
 *   keys     (n_layers, n_kv_heads, ceil(context / KEYS), head_size, KEYS): keys_floats()
 *   values   (n_layers, n_kv_heads, context, head_size): values_floats()
 *   rope     (context, head_size / 2, 2): cosine and sine, filled up to the last position
 *   scratch  scratch_floats(): holds nothing from one call to the next */
typedef struct {
    float *keys, *values;
    const float *rope;
    float *scratch;
    int32_t context;
} Cache;

enum { KEYS = 16 }; /* positions side by side in keys, so that scores need no horizontal sum */

EXPORT int32_t kernel_abi(void);
EXPORT const char *kernel_isa(void);

/* Threads: a pool of so many, the caller's included; NULL without memory. */
EXPORT void *pool_new(int32_t threads);
EXPORT void pool_free(void *pool);

/* Weights. tensor_type() is the number of "float32", "int8" or "Q4_K", -1 for another name.
 * pack_blocks() takes a matrix of blocks as a GGUF has them; in is a multiple of their size. */
EXPORT int32_t tensor_type(const char *name);
EXPORT int64_t packed_bytes(int32_t type, int32_t out, int32_t in, int32_t group);
EXPORT int64_t packed_scales(int32_t type, int32_t out, int32_t in, int32_t group);
EXPORT void pack_int8(const int8_t *q, const float *scales, int32_t out, int32_t in, int32_t group,
                      void *data, float *packed);
EXPORT void pack_blocks(void *pool, int32_t type, const void *from, int32_t out, int32_t in,
                        void *data);
EXPORT void unpack_row(const Tensor *w, int32_t row, float *y);

/* How many floats the parts of a Cache have. */
EXPORT int64_t keys_floats(const Model *m, int32_t context);
EXPORT int64_t values_floats(const Model *m, int32_t context);
EXPORT int64_t scratch_floats(const Model *m, int32_t context);

/* A forward pass: the two halves of every layer, then classify. rows <= max_rows positions at once,
 * the first of which is pos; x (rows, dim) is changed in place. matmul() is for tests. */
EXPORT void attention(const Model *m, const Layer *layer, const Cache *cache, float *x,
                      int32_t rows, int32_t pos);
EXPORT void feed_forward(const Model *m, const Layer *layer, const Cache *cache, float *x,
                         int32_t rows);
EXPORT void classify(const Model *m, const Cache *cache, const float *final_norm,
                     const Tensor *wcls, const float *x, int32_t rows, float *logits);
EXPORT void matmul(void *pool, const Tensor *w, const float *x, int32_t rows, float *y,
                   float *scratch);

static inline int smaller(int a, int b) { return a < b ? a : b; }
static inline int larger(int a, int b) { return a > b ? a : b; }
static inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

#endif
