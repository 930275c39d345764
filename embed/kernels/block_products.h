/* The products of GGUF's blocks, packed as in blocks.h: part of the template, as products.h.
 *
 * One function for each type, all of one text: what a Format says is a constant when it is
 * inlined, so that nothing is left of the planes and scales that a type does not have.
 *
 * Activations are int8 in groups of 32 (Group in isa.h). A group of weights by its activations is
 *
 *     (scale * (sum of q x - zero * sum of x) + minimum * sum of x) * scale of x
 *
 * The sums are whole numbers, exact; all else is rounded once per operation and added group by
 * group, in the same order for one row of activations and for many, and in every instruction set.
 *
 * One row of activations: numbers are unpacked into registers and used once. Many: 16 rows of
 * weights by SLAB columns are unpacked to bytes, and stay in the cache for all rows.
 */

/* What a product starts from: where a type's numbers are biased bytes, DOT4 may undo that. */
INLINE int zero_of(const Format *f) { return f->zero == BIAS ? OFFSET : f->zero; }

/* ---- a vector of numbers */

/* The k-th four columns of 32 in a plane of so many bits, which go to a position. */
INLINE uvec plane(const uint8_t *planes, const int bits, const int position, const int k) {
    const int per_byte = 8 / bits, shift = k % per_byte * bits - position;
    const uint32_t mask = (((1u << bits) - 1) << position) * 0x01010101u;
    uvec v = load_words(planes + k / per_byte * VECTOR);
    return (shift > 0 ? v >> shift : v << -shift) & mask;
}

INLINE uvec quants(const Format *f, const uint8_t *planes, const int k) {
    uvec q = {0};
    if (f->bits & 8) return load_words(planes + k * VECTOR);
    if (f->bits & 4) q = plane(planes, 4, 0, k), planes += 4 * VECTOR;
    if (f->bits & 2) q |= plane(planes, 2, f->bits & 4, k), planes += 2 * VECTOR;
    if (f->bits & 1) q |= plane(planes, 1, f->bits & 6, k);
    return f->table ? LOOKUP(q) : q;
}

/* The scales (kind 0) or minima (1) of a group of a unit, as scale_at(); lane: the first row. */
INLINE vec block_scales(const Format *f, const uint8_t *unit, const int kind, int group,
                        const int lane) {
    vec half = HALVES(unit + (kind * BLOCK + lane) * 2);
    const uint8_t *eights = unit + halves_bytes(f) + kind * scales_bytes(f);
    if (f->unit == COLUMNS) return half;
    ivec fours = (ivec)load_words(eights + scale_index(lane, group / FOUR * FOUR));
    ivec whole = (ivec)((uvec)fours << (24 - group % FOUR * 8)) >> 24;
    return (kind ? -half : half) * __builtin_convertvector(whole, vec);
}

/* Four activations for every row. */
INLINE ivec four_of(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return (ivec){0} + four;
}

#define DOT_OF(wide, sum, w, x) ((wide) ? DOT4(sum, w, x) : DOT4_SMALL(sum, w, x))

/* ---- one row of activations */

/* LANES rows of weights by 32 columns, the g-th of a unit; lane: the first row. */
INLINE vec group_product(const Format *f, const uint8_t *unit, int g, const int lane,
                         const int8_t *x, const Group *group, vec sums) {
    const uint8_t *planes = unit + planes_offset(f) + g * planes_bytes(f) + lane * FOUR;
    const int parts = COLUMNS / f->group, fours = f->group / FOUR;
    for (int part = 0; part < parts; part++) {
        const int32_t x_sum = parts == 1 ? group->total : group->half_sum[part];
        ivec dots = (ivec){0} - zero_of(f) * x_sum;
        for (int k = part * fours; k < (part + 1) * fours; k++)
            dots = DOT_OF(f->zero == BIAS, dots, quants(f, planes, k), four_of(x + k * FOUR));
        vec scale = block_scales(f, unit, 0, g * parts + part, lane);
        vec total = __builtin_convertvector(dots, vec) * scale;
        if (f->minima) total += block_scales(f, unit, 1, g * parts + part, lane) * (float)x_sum;
        sums += total * group->scale;
    }
    return sums;
}

/* Rows first..first + 16 of w by the only row of activations. */
INLINE void block_tile(const Format *f, const Product *p, int first) {
    const int registers = BLOCK / LANES;
    const int groups = f->unit / COLUMNS, share = unit_bytes(f) / groups;
    const uint8_t *unit = p->w->data;
    const int8_t *x = p->x.q;
    const Group *group = p->x.blocks;
    vec sums[REGISTERS] = {{0}};
    unit += first / BLOCK * row_block_bytes(f, p->w->in);
    for (int left = p->w->in; left > 0; left -= f->unit, unit += unit_bytes(f)) {
        for (int g = 0; g < groups; g++, x += COLUMNS, group++) {
            for (int line = 0; line < share; line += 64) prefetch(unit + g * share + line);
            for (int v = 0; v < registers; v++)
                sums[v] = group_product(f, unit, g, v * LANES, x, group, sums[v]);
        }
    }
    int8_store(registers, sums, p->y + first, p->w->out - first, p->add);
}

/* ---- many rows of activations */

/* So many columns of 16 rows, from a unit on. */
INLINE void unpack_slab(const Format *f, const uint8_t *unit, int columns, Slab *s) {
    const int groups = f->unit / COLUMNS, parts = COLUMNS / f->group;
    for (int i = 0; i < columns / COLUMNS; i++) {
        const int g = i % groups;
        const uint8_t *at = unit + i / groups * unit_bytes(f);
        const uint8_t *planes = at + planes_offset(f) + g * planes_bytes(f);
        for (int lane = 0; lane < BLOCK; lane += LANES) {
            for (int k = 0; k < 8; k++) {
                uvec q = quants(f, planes + lane * FOUR, k);
                memcpy(&s->q[i * 8 + k][lane * FOUR], &q, sizeof q);
            }
            for (int part = 0; part < parts; part++) {
                int to = i * parts + part, from = g * parts + part;
                store(&s->scales[to][lane], block_scales(f, at, 0, from, lane));
                if (f->minima) store(&s->minima[to][lane], block_scales(f, at, 1, from, lane));
            }
        }
    }
}

/* sums[r][..] += x[r] . w for a tile of rows, from row on: as group_product(). */
INLINE void slab_tile(const int wide, const int rows, const SlabProduct *p, int row) {
    const int registers = REGISTERS, per_block = BLOCK / LANES;
    const int fours = COLUMNS / FOUR / p->parts;
    const int8_t *x = p->x + row * p->x_stride;
    vec sums[MAX_ROWS][REGISTERS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < registers; v++) sums[r][v] = load(&p->sums[row + r][v * LANES]);
    for (int g = 0; g < p->groups; g++) {
        const Group *group = p->x_groups + row * p->x_groups_stride + g / p->parts;
        float x_sums[MAX_ROWS];
        ivec dots[MAX_ROWS][REGISTERS];
        for (int r = 0; r < rows; r++) {
            const Group *of = group + r * p->x_groups_stride;
            int32_t x_sum = p->parts == 1 ? of->total : of->half_sum[g % 2];
            x_sums[r] = (float)x_sum;
            for (int v = 0; v < registers; v++) dots[r][v] = (ivec){0} - p->zero * x_sum;
        }
        for (int k = g * fours; k < (g + 1) * fours; k++) {
            uvec b[REGISTERS];
            for (int v = 0; v < registers; v++)
                b[v] = load_words(&p->slabs[v / per_block].q[k][v % per_block * LANES * FOUR]);
            for (int r = 0; r < rows; r++) {
                ivec a = four_of(x + r * p->x_stride + k * FOUR);
                for (int v = 0; v < registers; v++) dots[r][v] = DOT_OF(wide, dots[r][v], b[v], a);
            }
        }
        for (int v = 0; v < registers; v++) {
            const Slab *slab = &p->slabs[v / per_block];
            vec scale = load(&slab->scales[g][v % per_block * LANES]), minimum = {0};
            if (p->minima) minimum = load(&slab->minima[g][v % per_block * LANES]);
            for (int r = 0; r < rows; r++) {
                vec total = __builtin_convertvector(dots[r][v], vec) * scale;
                if (p->minima) total += minimum * x_sums[r];
                sums[r][v] += total * group[r * p->x_groups_stride].scale;
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < registers; v++) store(&p->sums[row + r][v * LANES], sums[r][v]);
}

#define SLAB_CASE(rows)                                       \
    case rows:                                                \
        if (rows <= INT8_ROWS) slab_tile(wide, rows, p, row); \
        break

INLINE void slab_rows(const int wide, const SlabProduct *p, int rows) {
    for (int row = 0; row < rows; row += INT8_ROWS) {
        switch (smaller(INT8_ROWS, rows - row)) {
            SLAB_CASE(1);
            SLAB_CASE(2);
            SLAB_CASE(3);
            SLAB_CASE(4);
            SLAB_CASE(5);
            SLAB_CASE(6);
        }
    }
}

/* Biased bytes need another instruction than small ones in some sets. */
FN void NAME(slab_product)(int wide, const SlabProduct *p, int rows) {
    if (wide) slab_rows(1, p, rows);
    else slab_rows(0, p, rows);
}

/* STRIP rows of activations, from row on, by a tile's blocks of rows first..end. There may be one block less
 * than a tile has: then the last one is computed twice, and the second time forgotten. */
FN void NAME(block_strip)(UnpackFunction *unpack, const Product *p, int first, int end, int row) {
    const Format *f = &formats[p->w->type];
    const int in = p->w->in, left = end - first, rows = smaller(STRIP, p->rows - row);
    Slab slabs[INT8_BLOCKS];
    ON_LINE float sums[STRIP][2 * BLOCK];
    SlabProduct s = {.slabs = slabs,
                     .parts = COLUMNS / f->group,
                     .zero = zero_of(f),
                     .minima = f->minima,
                     .x_stride = p->x.stride,
                     .x_groups_stride = p->x.groups,
                     .sums = sums};
    memset(sums, 0, sizeof sums);
    for (int column = 0; column < in; column += SLAB) {
        int columns = smaller(SLAB, in - column);
        for (int b = 0; b < INT8_BLOCKS; b++) {
            int block = first / BLOCK + (b * BLOCK < left ? b : 0);
            const uint8_t *units = (const uint8_t *)p->w->data + block * row_block_bytes(f, in);
            unpack(units + column / f->unit * unit_bytes(f), columns, &slabs[b]);
        }
        s.groups = columns / f->group;
        s.x = p->x.q + row * s.x_stride + column;
        s.x_groups = p->x.blocks + row * s.x_groups_stride + column / COLUMNS;
        NAME(slab_product)(f->zero == BIAS, &s, rows);
    }
    for (int r = 0; r < rows; r++) {
        float *y = p->y + (row + r) * p->y_stride + first;
        for (int i = 0; i < smaller(INT8_BLOCKS * BLOCK, left); i++)
            y[i] = (p->add ? y[i] : 0) + sums[r][i];
    }
}

/* ---- one function a type, and one that unpacks it */

INLINE void block_product(const Format *f, UnpackFunction *unpack, const Product *p, int first,
                          int end) {
    if (p->rows == 1) {
        for (; first < end; first += BLOCK) block_tile(f, p, first);
        return;
    }
    for (; first < end; first += INT8_BLOCKS * BLOCK)
        for (int row = 0; row < p->rows; row += STRIP)
            NAME(block_strip)(unpack, p, first, end, row);
}

#define PRODUCT(type)                                                             \
    FN void NAME(unpack_##type)(const uint8_t *unit, int columns, Slab *s) {      \
        unpack_slab(&formats[TYPE_##type], unit, columns, s);                     \
    }                                                                             \
    FN void NAME(product_##type)(const Product *p, int first, int end) {          \
        block_product(&formats[TYPE_##type], NAME(unpack_##type), p, first, end); \
    }
BLOCK_TYPES(PRODUCT)

#undef PRODUCT
#undef SLAB_CASE
#undef DOT_OF
#undef REGISTERS
