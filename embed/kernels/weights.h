/* The types of weights, and how int8 weights lie in memory.
 *
 * float32, F16, BF16
 *           Rows as they are in the file, at any address: nothing is copied.
 * Q4_0 ..   Packed: see blocks.h.
 * int8      Packed, in the order in which a product reads them:
 *
 *     data[block][group][four][row][column]    q + 128, a byte    row < 16, column < 4
 *     scales[block][group][row]                a float
 *
 *     - Rows are in blocks of 16 and columns in fours, so that one 64-byte vector holds 16 rows by
 *       4 columns: every lane sums a row of its own, and a dot product needs no horizontal sum.
 *     - What is stored is q + 128, as the instruction vpdpbusd multiplies unsigned by signed
 *       bytes. A product starts from -128 * sum(x) to make up for it.
 *     - Rows and columns that only fill up a block are q = 0 and add nothing; such rows have a
 *       scale of 0. Each group is filled up to fours; the last one may be shorter than the others.
 *     - A block is one contiguous piece: threads that have different blocks share no memory.
 */
#ifndef WEIGHTS_H
#define WEIGHTS_H

#include <string.h>

#include "kernel.h"

enum { BLOCK = 16, FOUR = 4, BIAS = 128 };

static int fours(const Tensor *w) { return ceil_div(w->group, FOUR); }
static int groups(const Tensor *w) { return ceil_div(w->in, w->group); }
static int padded_in(const Tensor *w) { return groups(w) * fours(w) * FOUR; }

/* ---- float32 */

static int64_t float_bytes(const Tensor *w) {
    return (int64_t)w->out * w->in * (int64_t)sizeof(float);
}

static int64_t no_scales(const Tensor *w) {
    (void)w;
    return 0;
}

static void float_row(const Tensor *w, int row, float *y) {
    size_t bytes = (size_t)w->in * sizeof(float);
    memcpy(y, (const char *)w->data + (size_t)row * bytes, bytes);
}

/* ---- F16 and BF16 */

static int64_t half_bytes(const Tensor *w) {
    return (int64_t)w->out * w->in * (int64_t)sizeof(uint16_t);
}

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* A number in half precision: its exponent is 112 too small for a float, also in a denormal. */
static float half_value(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = (uint32_t)(half & 0x7fff) << 13;
    if (rest >= 0x0f800000u) return from_bits(sign | 0x70000000u | rest); /* infinity, NaN */
    return from_bits(sign | 0x3f800000u) * (from_bits(rest) * 0x1p112f);
}

static uint16_t read_half(const void *p) {
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return half;
}

static void f16_row(const Tensor *w, int row, float *y) {
    const char *data = (const char *)w->data + (int64_t)row * w->in * 2;
    for (int i = 0; i < w->in; i++) y[i] = half_value(read_half(data + 2 * i));
}

static void bf16_row(const Tensor *w, int row, float *y) {
    const char *data = (const char *)w->data + (int64_t)row * w->in * 2;
    for (int i = 0; i < w->in; i++) y[i] = from_bits((uint32_t)read_half(data + 2 * i) << 16);
}

/* ---- int8 */

static int64_t int8_bytes(const Tensor *w) {
    return (int64_t)ceil_div(w->out, BLOCK) * BLOCK * padded_in(w);
}

static int64_t int8_scales(const Tensor *w) {
    return (int64_t)ceil_div(w->out, BLOCK) * BLOCK * groups(w);
}

/* Where element (row, column) lies in data, and its scale in scales. */
static int64_t packed_index(const Tensor *w, int row, int column) {
    int in_group = column % w->group;
    int64_t group = (int64_t)(row / BLOCK) * groups(w) + column / w->group;
    int64_t four = group * fours(w) + in_group / FOUR;
    return (four * BLOCK + row % BLOCK) * FOUR + in_group % FOUR;
}

static int64_t packed_scale_index(const Tensor *w, int row, int group) {
    return ((int64_t)(row / BLOCK) * groups(w) + group) * BLOCK + row % BLOCK;
}

static void int8_row(const Tensor *w, int row, float *y) {
    const uint8_t *data = w->data;
    for (int i = 0; i < w->in; i++) {
        float scale = w->scales[packed_scale_index(w, row, i / w->group)];
        y[i] = (float)(data[packed_index(w, row, i)] - BIAS) * scale;
    }
}

/* n numbers of one row and one group. Adding 128 to a byte flips its highest bit. */
static void pack_group(const int8_t *q, int n, uint8_t *to) {
    int i = 0;
    for (uint32_t four; i + FOUR <= n; i += FOUR) {
        memcpy(&four, q + i, FOUR);
        four ^= 0x80808080u;
        memcpy(to + i * BLOCK, &four, FOUR);
    }
    for (; i < n; i++) to[i / FOUR * BLOCK * FOUR + i % FOUR] = (uint8_t)(q[i] + BIAS);
}

/* q (out, in) and scales (out, ceil(in / group)) into data and packed, all of which is written. */
EXPORT void pack_int8(const int8_t *q, const float *scales, int32_t out, int32_t in, int32_t group,
                      void *data, float *packed) {
    Tensor w = {.out = out, .in = in, .group = group, .type = TYPE_INT8};
    int n_groups = groups(&w);
    memset(data, BIAS, (size_t)int8_bytes(&w));
    memset(packed, 0, (size_t)int8_scales(&w) * sizeof(float));
    for (int row = 0; row < out; row++) {
        for (int g = 0; g < n_groups; g++) {
            const int8_t *from = q + (int64_t)row * in + (int64_t)g * group;
            uint8_t *to = (uint8_t *)data + packed_index(&w, row, g * group);
            pack_group(from, smaller(group, in - g * group), to);
            memcpy(packed + packed_scale_index(&w, row, g), scales + (int64_t)row * n_groups + g,
                   sizeof(float)); /* scales come from a file, at any address */
        }
    }
}

#include "blocks.h"

/* ---- the table */

/* What a product needs of its input beside the floats themselves. */
enum { AS_FLOATS, AS_INT8, AS_BLOCKS };

typedef struct {
    const char *name;
    int activations;                                 /* AS_FLOATS, AS_INT8 or AS_BLOCKS */
    int64_t (*bytes)(const Tensor *w);               /* of data */
    int64_t (*scales)(const Tensor *w);              /* floats of scales */
    void (*row)(const Tensor *w, int row, float *y); /* the plain reference: a row as floats */
} TensorType;

/* The products are in a table of each instruction set: Kernels.products[type]. */
static const TensorType types[TYPES] = {
    [TYPE_FLOAT32] = {"float32", AS_FLOATS, float_bytes, no_scales, float_row},
    [TYPE_INT8] = {"int8", AS_INT8, int8_bytes, int8_scales, int8_row},
    [TYPE_F16] = {"F16", AS_FLOATS, half_bytes, no_scales, f16_row},
    [TYPE_BF16] = {"BF16", AS_FLOATS, half_bytes, no_scales, bf16_row},
#define BLOCK_TYPE(type) [TYPE_##type] = {#type, AS_BLOCKS, block_bytes, no_scales, block_row},
    BLOCK_TYPES(BLOCK_TYPE)
#undef BLOCK_TYPE
};

static const TensorType *type_of(const Tensor *w) { return &types[w->type]; }

EXPORT int32_t tensor_type(const char *name) {
    for (int type = 0; type < TYPES; type++)
        if (strcmp(types[type].name, name) == 0) return type;
    return -1;
}

EXPORT int64_t packed_bytes(int32_t type, int32_t out, int32_t in, int32_t group) {
    Tensor w = {.out = out, .in = in, .group = group, .type = type};
    return type_of(&w)->bytes(&w);
}

EXPORT int64_t packed_scales(int32_t type, int32_t out, int32_t in, int32_t group) {
    Tensor w = {.out = out, .in = in, .group = group, .type = type};
    return type_of(&w)->scales(&w);
}

/* One row as floats, y (in): what tests compare products with. */
EXPORT void unpack_row(const Tensor *w, int32_t row, float *y) { type_of(w)->row(w, row, y); }

#endif
