/* The template: included once for each instruction set (see isa.h for what is set before), in
 * vectors of LANES floats. It knows no intrinsics: vectors are the compiler's own, and what they
 * cannot say is a macro of the set.
 *
 * What every set keeps: the same numbers come out on every processor. Sums are in order, float by
 * float, or in lanes that each hold a sum of their own, as in llama2.c's runq.c; there is no fused
 * multiply-add (-ffp-contract=off), and e^x is rounded as the C library rounds it. One last bit
 * decides now and then how an activation is rounded to int8, and so the text. Only float products
 * differ between sets: they sum in vectors and use FMA, and nothing is rounded to int8 in between.
 *
 * Memory is read and written at any alignment, and never behind the n numbers that a function is
 * given, but for whole blocks of KEYS positions.
 */
#include "names.h"

#define FN     TARGET static
#define INLINE TARGET static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef int8_t bytes __attribute__((vector_size(LANES)));
typedef uint16_t shorts __attribute__((vector_size(2 * LANES)));
typedef double dvec __attribute__((vector_size(8 * LANES)));
typedef int64_t lvec __attribute__((vector_size(8 * LANES)));

/* ---- vectors */

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

INLINE vec choose(ivec where, vec a, vec b) {
    return (vec)((where & (ivec)a) | (~where & (ivec)b));
}

INLINE uvec load_words(const void *p) {
    uvec v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* LANES numbers of 16 bits. (What SHORTS is elsewhere.) */
INLINE uvec load_shorts(const void *p) {
    shorts v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, uvec);
}

/* LANES numbers of half precision, as half_value() in weights.h. (What HALVES is elsewhere.) */
INLINE vec load_halves(const void *p) {
    uvec bits = SHORTS(p), rest = (bits & 0x7fffu) << 13;
    uvec sign = (bits & 0x8000u) << 16;
    vec x = (vec)rest * 0x1p112f;
    ivec special = (ivec)(rest >= 0x0f800000u);
    return (vec)(sign | (uvec)choose(special, (vec)(rest | 0x70000000u), x));
}

/* nonlinear[i] for bytes i. (What LOOKUP is elsewhere.) */
INLINE uvec find_nonlinear(uvec i) {
    uint8_t all[4 * LANES];
    memcpy(all, &i, sizeof all);
    for (int j = 0; j < 4 * LANES; j++) all[j] = nonlinear[all[j]];
    return load_words(all);
}

/* All lanes x. (x - 0 keeps the sign of a zero, which x + 0 does not.) */
INLINE vec splat(float x) { return x - (vec){0}; }

INLINE float sum(vec v) {
    float a[LANES];
    store(a, v);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) a[i] += a[i + half];
    return a[0];
}

/* e^x, rounded as glibc's expf does, with its polynomial: x = (k + r) ln 2 / 32 and
 * e^x = 2^(k / 32) (1 + r (..)) in double. 2^(k / 32) is a power of two times the series of a
 * number up to sqrt(2). 0 below -87.3, e^88 above 88; NaN stays NaN. (The same numbers are in
 * embed/engine/exact.py.) */
INLINE vec vexp(vec x) {
    const double round =
        6755399441055744.0; /* 1.5 * 2^52: + leaves the nearest integer in low bits */
    ivec tiny = x < -87.3f;
    vec inside = choose(x > 88.0f, splat(88.0f), choose(tiny, splat(-87.3f), x));
    dvec z = __builtin_convertvector(inside, dvec) * 0x1.71547652b82fep+5; /* 32 / ln 2 */
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
    lvec power = ((lvec)rounded - 0x4338000000000000 + 1023) << 52; /* the exponent's place */
    return (vec)(~tiny & (ivec) __builtin_convertvector(p * (dvec)power, vec));
}

/* ---- parts of a layer */

/* y = weight * x / sqrt(mean(x^2) + eps), summed in order */
FN void NAME(rmsnorm)(float *y, const float *x, const float *weight, int n, float eps) {
    float squares = 0;
    for (int i = 0; i < n; i++) squares += x[i] * x[i];
    vec scale = splat(1.0f / __builtin_sqrtf(squares / (float)n + eps));
    for (int i = 0; i < n; i += LANES) {
        vec scaled = scale * load_at_most(x + i, n - i);
        store_at_most(y + i, load_at_most(weight + i, n - i) * scaled, n - i);
    }
}

INLINE float largest(const float *x, int n) {
    int whole = n / LANES * LANES;
    float top = x[0];
    vec tops = splat(top);
    for (int i = 0; i < whole; i += LANES) tops = choose(load(x + i) > tops, load(x + i), tops);
    for (int i = 0; i < LANES; i++) top = tops[i] > top ? tops[i] : top;
    for (int i = whole; i < n; i++) top = x[i] > top ? x[i] : top;
    return top;
}

/* x = e^(x - max x) / their sum, summed in order */
FN void NAME(softmax)(float *x, int n) {
    float top = largest(x, n), total = 0;
    for (int i = 0; i < n; i += LANES)
        store_at_most(x + i, vexp(load_at_most(x + i, n - i) - top), n - i);
    for (int i = 0; i < n; i++) total += x[i];
    for (int i = 0; i < n; i += LANES)
        store_at_most(x + i, load_at_most(x + i, n - i) / total, n - i);
}

/* a = silu(a) * b, silu(a) = a * (1 / (1 + e^-a)) */
FN void NAME(swiglu)(float *a, const float *b, int n) {
    for (int i = 0; i < n; i += LANES) {
        vec v = load_at_most(a + i, n - i);
        vec silu = v * (1.0f / (1.0f + vexp(-v)));
        store_at_most(a + i, silu * load_at_most(b + i, n - i), n - i);
    }
}

/* ---- quantising activations */

/* The largest of n numbers without their signs: such floats are in the order of their bits, with
 * infinity and then NaN on top. */
INLINE float group_peak(const float *x, int n) {
    uvec peaks = {0};
    uint32_t peak = 0;
    float result;
    for (int i = 0; i < n; i += LANES) {
        uvec v = (uvec)load_at_most(x + i, n - i) & 0x7fffffffu;
        peaks = (uvec)choose((ivec)(v > peaks), (vec)v, (vec)peaks);
    }
    for (int i = 0; i < LANES; i++) peak = peaks[i] > peak ? peaks[i] : peak;
    memcpy(&result, &peak, sizeof result);
    return result;
}

/* q = x / scale rounded, halves away from zero: half of x's sign is added, and the fraction cut
 * off. The half is the last float below 0.5, as 0.49999997 + 0.5 would round to 1. Returns the sum
 * of q. */
INLINE int32_t round_group(const float *x, int n, float scale, int8_t *q) {
    ivec totals = {0};
    int32_t total = 0;
    for (int i = 0; i < n; i += LANES) {
        vec v = load_at_most(x + i, n - i) / scale;
        vec half = (vec)(((uvec)v & 0x80000000u) | (uvec)splat(0.49999997f));
        ivec whole = __builtin_convertvector(v + half, ivec);
        bytes b = __builtin_convertvector(whole, bytes);
        memcpy(q + i, &b, (size_t)smaller(LANES, n - i));
        totals += whole;
    }
    for (int i = 0; i < LANES; i++) total += totals[i];
    return total;
}

/* Per group: scale = max|x| / 127. A group with NaN or infinity has it as its scale, and so in the
 * result; one whose scale is zero or denormal is all zeros. Groups are filled up to fours with
 * zeros. */
FN void NAME(quantize)(const float *x, int n, int group, int8_t *q, float *scales, int32_t *start) {
    const int padded = ceil_div(group, FOUR) * FOUR;
    for (int g = 0; g < ceil_div(n, group); g++, x += group, q += padded) {
        int size = smaller(group, n - g * group);
        scales[g] = group_peak(x, size) / 127.0f;
        start[g] = 0;
        memset(q, 0, (size_t)padded);
        if (scales[g] >= FLT_MIN && scales[g] <= FLT_MAX)
            start[g] = -OFFSET * round_group(x, size, scales[g], q);
    }
}

/* The same for groups of 32, with the sums of q. */
FN void NAME(quantize_blocks)(const float *x, int n, int8_t *q, Group *group) {
    enum { HALF = COLUMNS / 2 };
    for (int i = 0; i < n; i += COLUMNS, x += COLUMNS, q += COLUMNS, group++) {
        float scale = group_peak(x, COLUMNS) / 127.0f;
        *group = (Group){.scale = scale};
        memset(q, 0, COLUMNS);
        if (scale < FLT_MIN || !(scale <= FLT_MAX)) continue;
        for (int half = 0; half < 2; half++)
            group->half_sum[half] = round_group(x + half * HALF, HALF, scale, q + half * HALF);
        group->total = group->half_sum[0] + group->half_sum[1];
    }
}

/* ---- attention */

/* scores[q][..] = q . key / sqrt(size) for a tile of queries by blocks of KEYS positions */
INLINE void score_tile(const int queries, const int blocks, const float *q, const float *keys,
                       int size, float *scores, int64_t stride) {
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
        for (int v = 0; v < blocks * PARTS; v++)
            store(scores + i * stride + v * LANES, sums[i][v] / root);
}

/* scores (queries, stride) of q (queries, size) with the first n keys, and some more up to whole
 * blocks: nobody looks at those. */
FN void NAME(score_keys)(const float *q, int queries, const float *keys, int n, int size,
                         float *scores, int64_t stride) {
    int i = 0, t;
    for (; i + 4 <= queries; i += 4, q += 4 * size, scores += 4 * stride)
        for (t = 0; t < n; t += KEYS)
            score_tile(4, 1, q, keys + (int64_t)t * size, size, scores + t, stride);
    for (; i < queries; i++, q += size, scores += stride) {
        for (t = 0; LANES == KEYS && t + 4 * KEYS <= n; t += 4 * KEYS)
            score_tile(1, 4, q, keys + (int64_t)t * size, size, scores + t, stride);
        for (; t < n; t += KEYS)
            score_tile(1, 1, q, keys + (int64_t)t * size, size, scores + t, stride);
    }
}

/* y[q][..] = sum over i < n of p[q][i] * values[i][..] for a tile of queries by vectors, of which
 * left floats count. */
INLINE void mix_tile(const int queries, const int vectors, const float *p, int64_t p_stride,
                     const float *values, int n, int size, float *y, int left) {
    vec sums[4][4] = {{{0}}};
    for (int i = 0; i < n; i++, values += size) {
        for (int v = 0; v < vectors; v++) {
            vec b = load_at_most(values + v * LANES, left - v * LANES);
            for (int q = 0; q < queries; q++) sums[q][v] += p[q * p_stride + i] * b;
        }
    }
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++)
            store_at_most(y + q * size + v * LANES, sums[q][v], left - v * LANES);
}

INLINE void mix_strip(const int vectors, const float *p, int64_t p_stride, int queries,
                      const float *values, int n, int size, float *y, int left) {
    int q = 0;
    for (; q + 4 <= queries; q += 4)
        mix_tile(4, vectors, p + q * p_stride, p_stride, values, n, size, y + q * size, left);
    for (; q < queries; q++)
        mix_tile(1, vectors, p + q * p_stride, p_stride, values, n, size, y + q * size, left);
}

/* y (queries, size) = p (queries, n) . values (n, size) */
FN void NAME(mix_values)(const float *p, int64_t p_stride, int queries, const float *values, int n,
                         int size, float *y) {
    int d = 0;
    for (; d + 4 * LANES <= size; d += 4 * LANES)
        mix_strip(4, p, p_stride, queries, values + d, n, size, y + d, 4 * LANES);
    for (; d + 2 * LANES <= size; d += 2 * LANES)
        mix_strip(2, p, p_stride, queries, values + d, n, size, y + d, 2 * LANES);
    for (; d < size; d += LANES)
        mix_strip(1, p, p_stride, queries, values + d, n, size, y + d, size - d);
}

#include "products.h"
#include "block_products.h"

static const Kernels NAME(kernels) = {
    .name = STRING(SET),
    .rmsnorm = NAME(rmsnorm),
    .softmax = NAME(softmax),
    .swiglu = NAME(swiglu),
    .quantize = NAME(quantize),
    .quantize_blocks = NAME(quantize_blocks),
    .score_keys = NAME(score_keys),
    .mix_values = NAME(mix_values),
    .products = {[TYPE_FLOAT32] = NAME(float_product),
                 [TYPE_INT8] = NAME(int8_product),
                 [TYPE_F16] = NAME(f16_product),
                 [TYPE_BF16] = NAME(bf16_product),
#define PRODUCT(type) [TYPE_##type] = NAME(product_##type),
                 BLOCK_TYPES(PRODUCT)
#undef PRODUCT
    },
};

#undef FN
#undef INLINE
#include "names.h"
