/* From the blocks of a GGUF to the order that blocks.h describes, a block of 16 rows at a time.
 *
 * A block's numbers are taken 32 columns at a time, as eight words of four bytes, a number each,
 * and these words are what moves: a few instructions a word, so that the memory sets the pace.
 * How blocks lie in a file is said once more, in NumPy, by embed/engine/blocks.py.
 */
#ifndef PACKING_H
#define PACKING_H

#include "weights.h"

enum { WORDS = COLUMNS / FOUR };

static uint32_t read_word(const uint8_t *p) {
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

/* The same number in each byte. */
ALWAYS uint32_t each(uint32_t byte) { return byte * 0x01010101u; }

/* ---- numbers: from a block, columns 32 * g and on */

typedef void Numbers(const uint8_t *block, int g, uint32_t words[WORDS]);

/* 16 bytes, in which the high bits are the columns from 16 on. */
ALWAYS void nibbles(const uint8_t *q, uint32_t words[WORDS]) {
    for (int i = 0; i < 4; i++) {
        words[i] = read_word(q + 4 * i) & each(15);
        words[4 + i] = read_word(q + 4 * i) >> 4 & each(15);
    }
}

/* Bit i of a word is the fifth of column i: four bits go to the bytes of a word. */
ALWAYS void fifth_bits(uint32_t fifth, uint32_t words[WORDS]) {
    for (int i = 0; i < WORDS; i++)
        words[i] |= ((fifth >> 4 * i & 15) * 0x00204081u & each(1)) << 4;
}

/* The bits of a mask, shift bits up, of 32 bytes; they go to a position in each number. */
ALWAYS void add_bits(const uint8_t *q, int shift, uint32_t mask, int position,
                     uint32_t words[WORDS]) {
    for (int i = 0; i < WORDS; i++)
        words[i] |= (read_word(q + 4 * i) >> shift & each(mask)) << position;
}

ALWAYS void numbers_Q4_0(const uint8_t *block, int g, uint32_t words[WORDS]) {
    (void)g;
    nibbles(block + 2, words);
}

ALWAYS void numbers_Q4_1(const uint8_t *block, int g, uint32_t words[WORDS]) {
    (void)g;
    nibbles(block + 4, words);
}

ALWAYS void numbers_Q5_0(const uint8_t *block, int g, uint32_t words[WORDS]) {
    (void)g;
    nibbles(block + 6, words);
    fifth_bits(read_word(block + 2), words);
}

ALWAYS void numbers_Q5_1(const uint8_t *block, int g, uint32_t words[WORDS]) {
    (void)g;
    nibbles(block + 8, words);
    fifth_bits(read_word(block + 4), words);
}

ALWAYS void numbers_Q8_0(const uint8_t *block, int g, uint32_t words[WORDS]) {
    (void)g;
    for (int i = 0; i < WORDS; i++) words[i] = read_word(block + 2 + 4 * i) ^ each(BIAS);
}

ALWAYS void numbers_Q2_K(const uint8_t *block, int g, uint32_t words[WORDS]) {
    memset(words, 0, WORDS * sizeof *words);
    add_bits(block + 16 + g / 4 * 32, g % 4 * 2, 3, 0, words);
}

ALWAYS void numbers_Q3_K(const uint8_t *block, int g, uint32_t words[WORDS]) {
    memset(words, 0, WORDS * sizeof *words);
    add_bits(block + 32 + g / 4 * 32, g % 4 * 2, 3, 0, words);
    add_bits(block, g, 1, 2, words);
}

ALWAYS void numbers_Q4_K(const uint8_t *block, int g, uint32_t words[WORDS]) {
    memset(words, 0, WORDS * sizeof *words);
    add_bits(block + 16 + g / 2 * 32, g % 2 * 4, 15, 0, words);
}

ALWAYS void numbers_Q5_K(const uint8_t *block, int g, uint32_t words[WORDS]) {
    memset(words, 0, WORDS * sizeof *words);
    add_bits(block + 48 + g / 2 * 32, g % 2 * 4, 15, 0, words);
    add_bits(block + 16, g, 1, 4, words);
}

ALWAYS void numbers_Q6_K(const uint8_t *block, int g, uint32_t words[WORDS]) {
    memset(words, 0, WORDS * sizeof *words);
    add_bits(block + g / 4 * 64 + g % 2 * 32, g % 4 / 2 * 4, 15, 0, words);
    add_bits(block + 128 + g / 4 * 32, g % 4 * 2, 3, 4, words);
}

ALWAYS void numbers_IQ4_NL(const uint8_t *block, int g, uint32_t words[WORDS]) {
    numbers_Q4_0(block, g, words);
}

ALWAYS void numbers_IQ4_XS(const uint8_t *block, int g, uint32_t words[WORDS]) {
    nibbles(block + 8 + 16 * g, words);
}

/* ---- scales of a block */

typedef struct {
    uint16_t halves[2]; /* of scales and of minima */
    int8_t scales[SUPER / 16], minima[SUPER / 16];
} Scales;

typedef void TakeScales(const uint8_t *block, Scales *s);

ALWAYS void take_halves(const uint8_t *scale, const uint8_t *minimum, Scales *s) {
    s->halves[0] = read_half(scale);
    s->halves[1] = read_half(minimum);
}

ALWAYS void scales_Q4_0(const uint8_t *block, Scales *s) { take_halves(block, block, s); }
ALWAYS void scales_Q4_1(const uint8_t *block, Scales *s) { take_halves(block, block + 2, s); }
ALWAYS void scales_Q5_0(const uint8_t *block, Scales *s) { take_halves(block, block, s); }
ALWAYS void scales_Q5_1(const uint8_t *block, Scales *s) { take_halves(block, block + 2, s); }
ALWAYS void scales_Q8_0(const uint8_t *block, Scales *s) { take_halves(block, block, s); }
ALWAYS void scales_IQ4_NL(const uint8_t *block, Scales *s) { take_halves(block, block, s); }

ALWAYS void scales_Q2_K(const uint8_t *block, Scales *s) {
    take_halves(block + 80, block + 82, s);
    for (int i = 0; i < 16; i++) {
        s->scales[i] = (int8_t)(block[i] & 15);
        s->minima[i] = (int8_t)(block[i] >> 4);
    }
}

ALWAYS void scales_Q3_K(const uint8_t *block, Scales *s) {
    const uint8_t *low = block + 96, *high = block + 104;
    take_halves(block + 108, block + 108, s);
    for (int i = 0; i < 16; i++) {
        int four = low[i % 8] >> i / 8 * 4 & 15, two = high[i % 4] >> i / 4 * 2 & 3;
        s->scales[i] = (int8_t)((four | two << 4) - 32);
    }
}

/* Six bits each: those of the first four are low, the others lie in a third row and on top. */
ALWAYS void scales_Q4_K(const uint8_t *block, Scales *s) {
    const uint8_t *low = block + 4, *mid = block + 8, *high = block + 12;
    take_halves(block, block + 2, s);
    for (int i = 0; i < 4; i++) {
        s->scales[i] = (int8_t)(low[i] & 63);
        s->minima[i] = (int8_t)(mid[i] & 63);
        s->scales[4 + i] = (int8_t)((high[i] & 15) | low[i] >> 6 << 4);
        s->minima[4 + i] = (int8_t)(high[i] >> 4 | mid[i] >> 6 << 4);
    }
}

ALWAYS void scales_Q5_K(const uint8_t *block, Scales *s) { scales_Q4_K(block, s); }

ALWAYS void scales_Q6_K(const uint8_t *block, Scales *s) {
    take_halves(block + 208, block + 208, s);
    memcpy(s->scales, block + 192, 16);
}

ALWAYS void scales_IQ4_XS(const uint8_t *block, Scales *s) {
    int high = read_half(block + 2);
    take_halves(block, block, s);
    for (int i = 0; i < 8; i++) {
        int four = block[4 + i / 2] >> i % 2 * 4 & 15, two = high >> 2 * i & 3;
        s->scales[i] = (int8_t)((four | two << 4) - 32);
    }
}

/* ---- into a unit */

/* So many bits of 8 words, from a position on, into a plane of their own. */
ALWAYS void place_plane(const uint32_t words[WORDS], int bits, int position, uint8_t *plane) {
    const int per_byte = 8 / bits;
    for (int i = 0; i < WORDS; i += per_byte, plane += VECTOR) {
        uint32_t together = 0;
        for (int j = 0; j < per_byte; j++)
            together |= (words[i + j] >> position & each((1u << bits) - 1)) << j * bits;
        memcpy(plane, &together, sizeof together);
    }
}

/* planes: of the row's 32 columns. */
ALWAYS void place_numbers(const Format *f, const uint32_t words[WORDS], uint8_t *planes) {
    int position = 0;
    for (int bits = 8; bits > 0; bits /= 2) {
        if (!(f->bits & bits)) continue;
        place_plane(words, bits, position, planes);
        planes += bits * VECTOR;
        position += bits;
    }
}

ALWAYS void place_scales(const Format *f, const Scales *s, uint8_t *unit, int row) {
    uint8_t *scales = unit + halves_bytes(f), *minima = scales + scales_bytes(f);
    memcpy(unit + row * 2, &s->halves[0], 2);
    if (f->minima) memcpy(unit + (BLOCK + row) * 2, &s->halves[1], 2);
    if (f->unit == COLUMNS) return;
    for (int g = 0; g < SUPER / f->group; g++) {
        scales[scale_index(row, g)] = (uint8_t)s->scales[g];
        if (f->minima) minima[scale_index(row, g)] = (uint8_t)s->minima[g];
    }
}

/* ---- a matrix */

typedef struct {
    int type;
    const uint8_t *from; /* (out, in / unit) blocks */
    int out, in;
    uint8_t *data;
    int row_blocks; /* of a chunk */
} Packing;

/* Rows first..end of one block of rows; block: its bytes in the file. */
ALWAYS void pack_rows(const Format *f, int block, Numbers *numbers, TakeScales *take,
                      const Packing *p, int first, int end) {
    const int64_t row_bytes = (int64_t)(p->in / f->unit) * block;
    uint8_t *unit = p->data + first / BLOCK * row_block_bytes(f, p->in);
    if (end - first < BLOCK) memset(unit, 0, (size_t)row_block_bytes(f, p->in));
    for (int column = 0; column < p->in; column += f->unit, unit += unit_bytes(f)) {
        const uint8_t *from = p->from + first * row_bytes + (int64_t)(column / f->unit) * block;
        const int used = halves_bytes(f) + (f->minima ? 2 : 1) * scales_bytes(f);
        memset(unit + used, 0, (size_t)(planes_offset(f) - used));
        for (int row = 0; row < end - first; row++, from += row_bytes) {
            Scales s;
            take(from, &s);
            place_scales(f, &s, unit, row);
            for (int g = 0; g < f->unit / COLUMNS; g++) {
                uint8_t *planes = unit + planes_offset(f) + g * planes_bytes(f);
                uint32_t words[WORDS];
                numbers(from, g, words);
                place_numbers(f, words, planes + row * FOUR);
            }
        }
    }
}

#define PACK_CASE(type, bytes)                                                                 \
    case TYPE_##type:                                                                          \
        pack_rows(&formats[TYPE_##type], bytes, numbers_##type, scales_##type, p, first, end); \
        break

static void pack_row_block(const Packing *p, int first, int end) {
    switch (p->type) {
        PACK_CASE(Q4_0, 18);
        PACK_CASE(Q4_1, 20);
        PACK_CASE(Q5_0, 22);
        PACK_CASE(Q5_1, 24);
        PACK_CASE(Q8_0, 34);
        PACK_CASE(Q2_K, 84);
        PACK_CASE(Q3_K, 110);
        PACK_CASE(Q4_K, 144);
        PACK_CASE(Q5_K, 176);
        PACK_CASE(Q6_K, 210);
        PACK_CASE(IQ4_NL, 18);
        PACK_CASE(IQ4_XS, 136);
    }
}

#undef PACK_CASE

static void pack_chunk(void *arg, int chunk, int thread) {
    const Packing *p = arg;
    int first = chunk * p->row_blocks * BLOCK, end = first + p->row_blocks * BLOCK;
    (void)thread;
    for (; first < smaller(end, p->out); first += BLOCK)
        pack_row_block(p, first, smaller(first + BLOCK, p->out));
}

#endif
