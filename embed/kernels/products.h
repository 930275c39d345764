/* The products, one for each type of weights: part of the template, as template.h includes it.
 * Each is a ProductFunction (isa.h): y (rows, out) (+)= x (rows, in) . w^T for rows first..end.
 *
 * Tiles. With one row of activations memory is the limit, and weights are read once, strictly in
 * order. With many, arithmetic is: a tile of some rows of activations by some rows of weights
 * keeps its sums in registers, so that a number that was loaded is used several times. The sizes
 * of a tile are constants for the compiler: functions that take them are inlined, once for each
 * size; the cases that are above a set's FLOAT_ROWS or INT8_ROWS are folded away.
 */

/* ---- floats: float32, and F16 and BF16, which become float32 as they are loaded */

INLINE int float_size(const int type) { return type == TYPE_FLOAT32 ? 4 : 2; }

/* LANES weights of a type. */
INLINE vec load_weights(const int type, const char *w) {
    if (type == TYPE_FLOAT32) return load((const float *)w);
    return type == TYPE_F16 ? HALVES(w) : (vec)(SHORTS(w) << 16);
}

INLINE vec load_weights_at_most(const int type, const char *w, int n) {
    char some[2 * LANES] = {0};
    if (n >= LANES) return load_weights(type, w);
    if (type == TYPE_FLOAT32) return LOAD_PART((const float *)w, n);
    memcpy(some, w, (size_t)n * 2);
    return load_weights(type, some);
}

/* The n products of w and x, summed in each lane. Memory is the limit here: the weights are asked
 * for AHEAD of their use, a cache line at a time. */
INLINE vec dot(const int type, const char *w, const float *x, int n) {
    const int bytes = LANES * float_size(type);
    vec sums[4] = {{0}};
    int i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        for (int j = 0; j < 4; j++, w += bytes) {
            if (j * bytes % 64 == 0) prefetch(w);
            sums[j] += load_weights(type, w) * load(x + i + j * LANES);
        }
    }
    for (; i < n; i += LANES, w += bytes)
        sums[0] += load_weights_at_most(type, w, n - i) * load_at_most(x + i, n - i);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

INLINE void float_store(const int outs, vec sums[4], float *y, int add) {
    if (outs == 4) {
        float4 four = SUM4(sums[0], sums[1], sums[2], sums[3]), before = {0};
        if (add) memcpy(&before, y, sizeof before);
        four += before;
        memcpy(y, &four, sizeof four);
    } else {
        y[0] = (add ? y[0] : 0) + sum(sums[0]);
    }
}

/* One row of activations by rows first..end. */
INLINE void float_row_product(const int type, const Product *p, int first, int end) {
    const int in = p->w->in;
    const int64_t row_bytes = (int64_t)in * float_size(type);
    const char *w = (const char *)p->w->data + first * row_bytes;
    for (int n; first < end; first += n, w += n * row_bytes) {
        vec sums[4];
        n = first + 4 <= end ? 4 : 1;
        for (int o = 0; o < n; o++) sums[o] = dot(type, w + o * row_bytes, p->x.floats, in);
        if (n == 4) float_store(4, sums, p->y + first, p->add);
        else float_store(1, sums, p->y + first, p->add);
    }
}

/* y[r][o] (+)= x[r] . w[o] for a tile of rows by outs (1 or 4), over n of the in columns. */
INLINE void float_tile(const int outs, const int rows, const float *w, int in, int n,
                       const float *x, int64_t x_stride, float *y, int64_t y_stride, int add) {
    vec sums[MAX_ROWS][4] = {{{0}}};
    for (int i = 0; i < n; i += LANES) {
        vec b[4];
        for (int o = 0; o < outs; o++) b[o] = load_at_most(w + (int64_t)o * in + i, n - i);
        for (int r = 0; r < rows; r++) {
            vec a = load_at_most(x + r * x_stride + i, n - i);
            for (int o = 0; o < outs; o++) sums[r][o] = FMA(b[o], a, sums[r][o]);
        }
    }
    for (int r = 0; r < rows; r++) float_store(outs, sums[r], y + r * y_stride, add);
}

/* A tile's rows of activations by all rows of a panel of weights. */
INLINE void float_rows(const int rows, const float *w, int out, int in, int n, const float *x,
                       int64_t x_stride, float *y, int64_t y_stride, int add) {
    int o = 0;
    for (; o + 4 <= out; o += 4)
        float_tile(4, rows, w + (int64_t)o * in, in, n, x, x_stride, y + o, y_stride, add);
    for (; o < out; o++)
        float_tile(1, rows, w + (int64_t)o * in, in, n, x, x_stride, y + o, y_stride, add);
}

#define FLOAT_CASE(rows)                                                                         \
    case rows:                                                                                   \
        if (rows <= FLOAT_ROWS)                                                                  \
            float_rows(rows, w, out, w_stride, n, x, p->w->in, y, p->y_stride, p->add || i > 0); \
        break

/* All rows of activations by rows o..o + out of weights, over columns i..i + n; w: the first of
 * those weights, in rows of w_stride floats. */
FN void NAME(float_panel)(const Product *p, const float *w, int w_stride, int o, int out, int i,
                          int n) {
    for (int row = 0; row < p->rows; row += FLOAT_ROWS) {
        const float *x = p->x.floats + (int64_t)row * p->w->in + i;
        float *y = p->y + row * p->y_stride + o;
        switch (smaller(FLOAT_ROWS, p->rows - row)) {
            FLOAT_CASE(1);
            FLOAT_CASE(2);
            FLOAT_CASE(3);
            FLOAT_CASE(4);
            FLOAT_CASE(5);
            FLOAT_CASE(6);
        }
    }
}

/* Many rows are taken in pieces that stay in the caches: PANEL weights in the second level, DEPTH
 * columns of a tile in the first. One row takes everything in one piece. */
FN void NAME(float_product)(const Product *p, int first, int end) {
    enum { PANEL = 1 << 16, DEPTH = 1024 };
    const int in = p->w->in, depth = smaller(in, DEPTH);
    const int panel = larger(PANEL / depth / 4 * 4, 4);
    const float *w = p->w->data;
    if (p->rows == 1) {
        float_row_product(TYPE_FLOAT32, p, first, end);
        return;
    }
    for (int o = first; o < end; o += panel)
        for (int i = 0; i < in; i += depth)
            NAME(float_panel)(p, w + (int64_t)o * in + i, in, o, smaller(panel, end - o), i,
                              smaller(depth, in - i));
}

/* Four rows at a time become float32 in the first-level cache. */
INLINE void half_product(const int type, const Product *p, int first, int end) {
    enum { ROWS = 4, DEPTH = 1024 };
    const int in = p->w->in;
    float w[ROWS * DEPTH];
    if (p->rows == 1) {
        float_row_product(type, p, first, end);
        return;
    }
    for (int out; first < end; first += out) {
        out = smaller(ROWS, end - first);
        for (int i = 0, n; i < in; i += n) {
            n = smaller(DEPTH, in - i);
            for (int o = 0; o < out; o++) {
                const char *from = (const char *)p->w->data + ((int64_t)(first + o) * in + i) * 2;
                for (int c = 0; c < n; c += LANES)
                    store_at_most(w + o * DEPTH + c,
                                  load_weights_at_most(type, from + 2 * c, n - c), n - c);
            }
            NAME(float_panel)(p, w, DEPTH, first, out, i, n);
        }
    }
}

FN void NAME(f16_product)(const Product *p, int first, int end) {
    half_product(TYPE_F16, p, first, end);
}

FN void NAME(bf16_product)(const Product *p, int first, int end) {
    half_product(TYPE_BF16, p, first, end);
}

/* ---- int8 */

#define REGISTERS (INT8_BLOCKS * BLOCK / LANES) /* that hold four columns of a tile's weights */

/* dots[r][v] += the dot products of one group, whole numbers, exact. */
INLINE void int8_group(const int blocks, const int rows, const uint8_t *data, int64_t block_bytes,
                       int n_fours, const int8_t *q, int64_t q_stride,
                       ivec dots[MAX_ROWS][REGISTERS]) {
    const int registers = blocks * BLOCK / LANES, per_block = BLOCK / LANES;
    for (int f = 0; f < n_fours; f++, data += BLOCK * FOUR, q += FOUR) {
        ivec b[REGISTERS];
        if (rows == 1) prefetch(data);
        for (int v = 0; v < registers; v++) {
            int64_t at = v / per_block * block_bytes + v % per_block * LANES * FOUR;
            memcpy(&b[v], data + at, sizeof(ivec));
        }
        for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, q + r * q_stride, sizeof four);
            ivec a = (ivec){0} + four;
            for (int v = 0; v < registers; v++) dots[r][v] = DOT4(dots[r][v], b[v], a);
        }
    }
}

/* One row of a tile; of the last block, only what is there. */
INLINE void int8_store(const int registers, const vec sums[REGISTERS], float *y, int left,
                       int add) {
    for (int v = 0; v < registers && left > 0; v++, y += LANES, left -= LANES)
        store_at_most(y, add ? sums[v] + load_at_most(y, left) : sums[v], left);
}

/* y[r][first..] (+)= x[r] . w[first..] for a tile of rows, from `row` on, by blocks of 16: the
 * whole numbers of a group times both scales, summed group by group as runq.c does. */
INLINE void int8_tile(const int blocks, const int rows, const Product *p, int first, int row) {
    const int registers = blocks * BLOCK / LANES, per_block = BLOCK / LANES;
    const int n_groups = p->x.groups, n_fours = fours(p->w);
    const int64_t stride = p->x.stride, block_bytes = BLOCK * stride;
    const uint8_t *data = (const uint8_t *)p->w->data + first / BLOCK * block_bytes;
    const float *scales = p->w->scales + (int64_t)(first / BLOCK) * n_groups * BLOCK;
    const int8_t *q = p->x.q + row * stride;
    const float *x_scales = p->x.scales + (int64_t)row * n_groups;
    const int32_t *start = p->x.start + (int64_t)row * n_groups;
    vec sums[MAX_ROWS][REGISTERS] = {{{0}}};
    for (int g = 0; g < n_groups; g++, data += n_fours * BLOCK * FOUR, q += n_fours * FOUR) {
        ivec dots[MAX_ROWS][REGISTERS];
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < registers; v++) dots[r][v] = (ivec){0} + start[r * n_groups + g];
        int8_group(blocks, rows, data, block_bytes, n_fours, q, stride, dots);
        for (int v = 0; v < registers; v++) {
            int64_t at = (int64_t)(v / per_block) * n_groups + g;
            vec scale = load(scales + at * BLOCK + v % per_block * LANES);
            for (int r = 0; r < rows; r++)
                sums[r][v] +=
                    __builtin_convertvector(dots[r][v], vec) * scale * x_scales[r * n_groups + g];
        }
    }
    for (int r = 0; r < rows; r++) {
        float *y = p->y + (row + r) * p->y_stride + first;
        int8_store(registers, sums[r], y, p->w->out - first, p->add);
    }
}

#define INT8_CASE(rows)                                                \
    case rows:                                                         \
        if (rows <= INT8_ROWS) int8_tile(blocks, rows, p, first, row); \
        break

/* All rows of activations by a few blocks of weights, which stay in the first-level cache. */
INLINE void int8_rows(const int blocks, const Product *p, int first) {
    for (int row = 0; row < p->rows; row += INT8_ROWS) {
        switch (smaller(INT8_ROWS, p->rows - row)) {
            INT8_CASE(1);
            INT8_CASE(2);
            INT8_CASE(3);
            INT8_CASE(4);
            INT8_CASE(5);
            INT8_CASE(6);
        }
    }
}

FN void NAME(int8_product)(const Product *p, int first, int end) {
    const int step = INT8_BLOCKS * BLOCK;
    for (; INT8_BLOCKS > 1 && p->rows > 1 && first + step <= end; first += step)
        int8_rows(INT8_BLOCKS, p, first);
    for (; first < end; first += BLOCK) {
        if (p->rows == 1) int8_tile(1, 1, p, first, 0);
        else int8_rows(1, p, first);
    }
}

#undef FLOAT_CASE
#undef INT8_CASE
