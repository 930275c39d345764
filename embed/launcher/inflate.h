/* Deflate (RFC 1951), for programs built with --small, whose libraries are compressed.

   A decoder of canonical Huffman codes as in Mark Adler's puff.c, with one table in front of it:
   codes of up to FAST bits, nearly all that occur, are decoded by one look-up. It stands here
   so that the launcher needs no library but the C library.

   What stays true: `out` never passes `limit`, nothing before `start` is copied, and codes are
   refused that promise more symbols than fit (over-subscribed). Damaged data ends in damaged(). */

typedef struct {
    const uint8_t *in, *end;
    uint64_t bits; /* read and not yet used; the next bit is the lowest */
    int n_bits;
    uint8_t *start, *out, *limit;
} Stream;

enum { FAST = 10, LONGEST = 15, LITERALS = 288, DISTANCES = 32, END_OF_BLOCK = 256 };

typedef struct {
    uint16_t fast[1 << FAST];    /* symbol << 4 | length of its code; 0: the code is longer */
    uint16_t count[LONGEST + 1]; /* how many codes have each length */
    uint16_t symbols[LITERALS];  /* in the order of their codes */
} Huffman;

static void refill(Stream *s) {
    while (s->n_bits <= 56 && s->in < s->end) {
        s->bits |= (uint64_t)*s->in++ << s->n_bits;
        s->n_bits += 8;
    }
}

static unsigned take(Stream *s, int n) {
    if (s->n_bits < n) refill(s);
    if (s->n_bits < n) damaged();
    unsigned value = s->bits & ((1u << n) - 1);
    s->bits >>= n;
    s->n_bits -= n;
    return value;
}

/* A code is sent with its first bit first, so in the look-up table it stands backwards. */
static unsigned reverse(unsigned code, int length) {
    unsigned reversed = 0;
    for (int bit = 0; bit < length; bit++) reversed |= (code >> bit & 1) << (length - 1 - bit);
    return reversed;
}

/* Enters a short code in every place whose low bits are this code. */
static void enter_fast(Huffman *h, int symbol, unsigned code, int length) {
    if (length > FAST) return;
    for (unsigned at = reverse(code, length); at < 1 << FAST; at += 1 << length)
        h->fast[at] = symbol << 4 | length;
}

/* The lengths of all codes say which they are: shorter ones first, then in order of symbols. */
static void build(Huffman *h, const uint8_t *lengths, int n) {
    uint16_t offset[LONGEST + 2] = {0}, code[LONGEST + 2] = {0};
    memset(h, 0, sizeof *h);
    for (int i = 0; i < n; i++) h->count[lengths[i]]++;
    h->count[0] = 0;
    for (int length = 1; length <= LONGEST; length++) {
        if (code[length] + h->count[length] > 1 << length) damaged(); /* over-subscribed */
        offset[length + 1] = offset[length] + h->count[length];
        code[length + 1] = (code[length] + h->count[length]) << 1;
    }
    for (int i = 0; i < n; i++) {
        int length = lengths[i];
        if (!length) continue;
        h->symbols[offset[length]++] = i;
        enter_fast(h, i, code[length]++, length);
    }
}

/* Codes longer than FAST: bit by bit, counting up from the first code of each length. */
static int decode_slowly(Stream *s, const Huffman *h) {
    int code = 0, first = 0, index = 0;
    for (int length = 1; length <= LONGEST; length++) {
        code |= take(s, 1);
        if (code - h->count[length] < first) return h->symbols[index + code - first];
        index += h->count[length];
        first = (first + h->count[length]) << 1;
        code <<= 1;
    }
    damaged();
    return -1;
}

static int decode(Stream *s, const Huffman *h) {
    if (s->n_bits < LONGEST) refill(s);
    unsigned found = h->fast[s->bits & ((1 << FAST) - 1)];
    if (!found) return decode_slowly(s, h);
    take(s, found & 15);
    return found >> 4;
}

/* The two codes of a block, themselves sent as code lengths in a third code. */
static void read_tables(Stream *s, Huffman *literal, Huffman *distance) {
    static const uint8_t order[] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                    11, 4,  12, 3, 13, 2, 14, 1, 15};
    uint8_t lengths[LITERALS + DISTANCES] = {0};
    int n_literal = take(s, 5) + 257, n_distance = take(s, 5) + 1, n = take(s, 4) + 4;
    if (n_literal > LITERALS) damaged();
    for (int i = 0; i < n; i++) lengths[order[i]] = take(s, 3);
    build(literal, lengths, 19);
    for (int i = 0; i < n_literal + n_distance;) {
        int value = decode(s, literal), repeat = 1;
        if (value == 16) { /* the last length again */
            value = i ? lengths[i - 1] : 0;
            repeat = 3 + take(s, 2);
        } else if (value > 16) { /* a run of zeros */
            repeat = value == 17 ? 3 + take(s, 3) : 11 + take(s, 7);
            value = 0;
        }
        if (repeat > n_literal + n_distance - i) damaged();
        while (repeat--) lengths[i++] = value;
    }
    build(distance, lengths + n_literal, n_distance);
    build(literal, lengths, n_literal);
}

static void fixed_tables(Huffman *literal, Huffman *distance) {
    uint8_t lengths[LITERALS];
    for (int i = 0; i < LITERALS; i++) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    build(literal, lengths, LITERALS);
    memset(lengths, 5, DISTANCES);
    build(distance, lengths, DISTANCES);
}

/* A symbol from 257 on is a length, and a distance follows: copy from what was written. */
static void copy_back(Stream *s, int symbol, const Huffman *distance) {
    static const uint16_t base[] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                    31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint8_t extra[] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                    2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    if (symbol > 285) damaged();
    int length = base[symbol - 257] + take(s, extra[symbol - 257]);
    int code = decode(s, distance), back = code + 1;
    if (code > 29) damaged();
    if (code > 3) /* codes 4 and 5 have 1 extra bit, 6 and 7 have 2, ... */
        back = ((2 + (code & 1)) << (code / 2 - 1)) + 1 + take(s, code / 2 - 1);
    if (back > s->out - s->start || length > s->limit - s->out) damaged();
    for (; length--; s->out++) *s->out = s->out[-back]; /* the ranges may overlap: byte by byte */
}

static void inflate_coded(Stream *s, const Huffman *literal, const Huffman *distance) {
    for (int symbol; (symbol = decode(s, literal)) != END_OF_BLOCK;) {
        if (symbol > END_OF_BLOCK) {
            copy_back(s, symbol, distance);
        } else {
            if (s->out == s->limit) damaged();
            *s->out++ = symbol;
        }
    }
}

static void inflate_stored(Stream *s) {
    take(s, s->n_bits & 7); /* up to the next byte */
    unsigned n = take(s, 16);
    take(s, 16); /* n again, inverted */
    if (n > s->limit - s->out) damaged();
    while (n--) *s->out++ = take(s, 8);
}

/* A zlib stream of `packed` bytes -> exactly `size` bytes. Its checksum is not compared. */
static void inflate(const uint8_t *in, size_t packed, uint8_t *out, size_t size) {
    enum { STORED, FIXED, DYNAMIC, HEADER = 2 };
    Huffman literal, distance;
    if (packed < HEADER) damaged();
    Stream s = {in + HEADER, in + packed, 0, 0, out, out, out + size};
    for (int last = 0; !last;) {
        last = take(&s, 1);
        int type = take(&s, 2);
        if (type == STORED) {
            inflate_stored(&s);
            continue;
        }
        if (type > DYNAMIC) damaged();
        type == DYNAMIC ? read_tables(&s, &literal, &distance) : fixed_tables(&literal, &distance);
        inflate_coded(&s, &literal, &distance);
    }
    if (s.out != s.limit) damaged();
}
