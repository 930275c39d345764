/* GGUF's blocks in the kernel's order: the same weights, packed once, about as many bits.
 *
 * Rows are in blocks of 16, and the columns of such a block in units of 32, or of 256 for the types
 * that have scales of 8 bits (K types and IQ4_XS). Units follow each other without a gap, the units
 * of one block of rows before those of the next: a product reads memory strictly in order. Nothing
 * in them is an address, so they can be written to a file and used where it is mapped. A unit:
 *
 *     halves[row]                   scale of the unit, a float16
 *     halves[row]                   the same for minima, where the type has them
 *     scales[four][row][group]      only in units of 256: int8, times the unit's scale; of four
 *                                   groups each, so that they are vectors as the numbers are
 *     minima[four][row][group]      only in units of 256, where the type has minima
 *     zeros                         only in units of 256, up to a multiple of 64 bytes
 *     planes[32 columns][plane][vector][row][column]
 *
 *     - A vector is 64 bytes: 16 rows by 4 columns, as in int8. 32 columns are 8 such vectors of
 *       numbers. A number of 5 bits is in two planes: one of 4 bits with two numbers a byte (the
 *       low bits are columns 0-3, the high ones columns 4-7 and so on, 4 vectors) and one of 1 bit
 *       (8 numbers a byte, the lowest is columns 0-3, 1 vector). The planes of a type are the
 *       binary digits of its bits, the widest first, which holds the lowest bits of a number.
 *     - w = scale * (q - zero), or scale * q + minimum (in units of 256: - minimum), or scale *
 *       nonlinear[q].
 *     - Rows that only fill up a block have scales of 0 and add nothing.
 *
 * What a file holds and the bits of a packed weight: Q4_0 4.5, Q4_1 5, Q5_0 5.5, Q5_1 6, Q8_0 8.5,
 * IQ4_NL 4.5: as in the file; Q2_K 3.125 (2.625), Q3_K 3.625 (3.44), Q4_K 4.625 (4.5), Q5_K 5.625
 * (5.5), Q6_K 6.625 (6.56), IQ4_XS 4.375 (4.25).
 */
#ifndef BLOCKS_H
#define BLOCKS_H

/* X(TYPE) for each type of blocks. */
#define BLOCK_TYPES(X) \
    X(Q4_0)            \
    X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) X(IQ4_NL) X(IQ4_XS)

enum { COLUMNS = 32, SUPER = 256, VECTOR = BLOCK * FOUR };

typedef struct {
    int bits;   /* of a number: its binary digits are the planes */
    int group;  /* columns that share a scale: 16 or 32 */
    int unit;   /* COLUMNS or SUPER */
    int zero;   /* the number that stands for zero */
    int minima; /* there are minima instead */
    int table;  /* numbers are indices of nonlinear[] */
} Format;

static const Format formats[TYPES] = {
    [TYPE_Q4_0] = {.bits = 4, .group = 32, .unit = COLUMNS, .zero = 8},
    [TYPE_Q4_1] = {.bits = 4, .group = 32, .unit = COLUMNS, .minima = 1},
    [TYPE_Q5_0] = {.bits = 5, .group = 32, .unit = COLUMNS, .zero = 16},
    [TYPE_Q5_1] = {.bits = 5, .group = 32, .unit = COLUMNS, .minima = 1},
    [TYPE_Q8_0] = {.bits = 8, .group = 32, .unit = COLUMNS, .zero = BIAS},
    [TYPE_Q2_K] = {.bits = 2, .group = 16, .unit = SUPER, .minima = 1},
    [TYPE_Q3_K] = {.bits = 3, .group = 16, .unit = SUPER, .zero = 4},
    [TYPE_Q4_K] = {.bits = 4, .group = 32, .unit = SUPER, .minima = 1},
    [TYPE_Q5_K] = {.bits = 5, .group = 32, .unit = SUPER, .minima = 1},
    [TYPE_Q6_K] = {.bits = 6, .group = 16, .unit = SUPER, .zero = 32},
    [TYPE_IQ4_NL] = {.bits = 4, .group = 32, .unit = COLUMNS, .zero = BIAS, .table = 1},
    [TYPE_IQ4_XS] = {.bits = 4, .group = 32, .unit = SUPER, .zero = BIAS, .table = 1},
};

/* What four bits stand for in IQ4_NL and IQ4_XS, and BIAS more. */
static const uint8_t nonlinear[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                      129, 141, 153, 166, 181, 197, 217, 241};

/* ---- where the parts of a unit are */

#define ALWAYS static inline __attribute__((always_inline))

/* Where the scales of 8 bits begin, and how many bytes those or the minima take. */
ALWAYS int halves_bytes(const Format *f) { return (f->minima ? 2 : 1) * BLOCK * 2; }
ALWAYS int scales_bytes(const Format *f) { return f->unit == SUPER ? SUPER / f->group * BLOCK : 0; }

ALWAYS int planes_offset(const Format *f) {
    int bytes = halves_bytes(f) + (f->minima ? 2 : 1) * scales_bytes(f);
    return f->unit == SUPER ? (bytes + 63) / 64 * 64 : bytes;
}

/* The bytes of 32 columns of planes: as many vectors as a number has bits. */
ALWAYS int planes_bytes(const Format *f) { return f->bits * VECTOR; }
ALWAYS int unit_bytes(const Format *f) {
    return planes_offset(f) + f->unit / COLUMNS * planes_bytes(f);
}

static int64_t row_block_bytes(const Format *f, int in) {
    return (int64_t)(in / f->unit) * unit_bytes(f);
}

static int64_t block_bytes(const Tensor *w) {
    return ceil_div(w->out, BLOCK) * row_block_bytes(&formats[w->type], w->in);
}

/* Where a group's scale is among those of 8 bits. */
ALWAYS int scale_index(int row, int group) {
    return group / FOUR * VECTOR + row * FOUR + group % FOUR;
}

/* ---- the plain reference: one number after the other */

/* A number's part in a plane that holds so many bits of each; i < 32 is its column. */
static int plane_part(const uint8_t *plane, int bits, int row, int i) {
    int per_byte = 8 / bits, four = i / FOUR;
    const uint8_t *vector = plane + four / per_byte * VECTOR;
    return vector[row * FOUR + i % FOUR] >> four % per_byte * bits & ((1 << bits) - 1);
}

static int number_at(const Format *f, const uint8_t *planes, int row, int i) {
    int q = 0, position = 0;
    for (int bits = 8; bits > 0; bits /= 2) {
        if (!(f->bits & bits)) continue;
        q |= plane_part(planes, bits, row, i) << position;
        planes += bits * VECTOR;
        position += bits;
    }
    return f->table ? nonlinear[q] : q;
}

/* The scale of a group of a unit, or its minimum (kind 1). */
static float scale_at(const Format *f, const uint8_t *unit, int kind, int row, int group) {
    float half = half_value(read_half(unit + (kind * BLOCK + row) * 2));
    const uint8_t *eights = unit + halves_bytes(f) + kind * scales_bytes(f);
    if (f->unit == COLUMNS) return half;
    return (kind ? -half : half) * (float)(int8_t)eights[scale_index(row, group)];
}

static void block_row(const Tensor *w, int row, float *y) {
    const Format *f = &formats[w->type];
    const uint8_t *unit = w->data;
    unit += row / BLOCK * row_block_bytes(f, w->in);
    row %= BLOCK;
    for (int column = 0; column < w->in; column += f->unit, unit += unit_bytes(f)) {
        for (int i = 0; i < f->unit; i++) {
            const uint8_t *planes = unit + planes_offset(f) + i / COLUMNS * planes_bytes(f);
            float q = (float)(number_at(f, planes, row, i % COLUMNS) - f->zero);
            float minimum = f->minima ? scale_at(f, unit, 1, row, i / f->group) : 0;
            y[column + i] = scale_at(f, unit, 0, row, i / f->group) * q + minimum;
        }
    }
}

#endif
