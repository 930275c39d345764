/* Checks the kernel against plain loops in double, without Python: under sanitizers and emulators.
 * Prints the instruction set and the number of checks; exits with 1 at the first wrong number.
 *
 *   cc -g -fsanitize=address,undefined tests/kernels/check_kernels.c -pthread -o check && ./check
 */
#include "../../embed/kernels/kernel.c"

#include <stdio.h>

/* libm is not linked: e^x by halving and squaring, exact enough for a reference. */
static double exp_reference(double x) {
    double sum = 1, term = 1;
    x /= 1024;
    for (int i = 1; i < 12; i++) sum += term *= x / i;
    for (int i = 0; i < 10; i++) sum *= sum;
    return sum;
}

static double sqrt_reference(double x) { return __builtin_sqrt(x); }

static uint32_t seed = 1;
static int below(int n) {
    seed = seed * 1664525u + 1013904223u;
    return (int)((seed >> 8) % (uint32_t)n);
}
static float random_float(void) { return (float)below(1 << 20) / (1 << 19) - 1; }

/* Exactly as long as asked for, so that a sanitizer sees one float too many. */
static float *floats(int64_t n, int random) {
    float *p = malloc((size_t)(n > 0 ? n : 1) * sizeof(float));
    for (int64_t i = 0; i < n; i++) p[i] = random ? random_float() : 0;
    return p;
}

static int checks;
static void expect(double got, double wanted, double tolerance, const char *what) {
    double error = got > wanted ? got - wanted : wanted - got;
    checks++;
    if (error <= tolerance) return;
    printf("%s: %s is %.9g, not %.9g (%d)\n", kernel_isa(), what, got, wanted, checks);
    exit(1);
}

/* A weight matrix with its values as doubles. */
typedef struct {
    Tensor w;
    double *values;
    void *data, *scales;
} Matrix;

/* Random blocks of a GGUF, packed; what they hold is what unpack_row() says: that it is right, and
 * so the packing, is what test_blocks.py finds. Scales that are floats stay small. */
static Matrix block_matrix(void *pool, int type, int out, int in) {
    static const struct {
        int weights, bytes, halves[2];
    } file[TYPES] = {
        [TYPE_F16] = {1, 2, {0}},
        [TYPE_BF16] = {1, 2, {0}},
        [TYPE_Q4_0] = {32, 18, {0}},
        [TYPE_Q4_1] = {32, 20, {0, 2}},
        [TYPE_Q5_0] = {32, 22, {0}},
        [TYPE_Q5_1] = {32, 24, {0, 2}},
        [TYPE_Q8_0] = {32, 34, {0}},
        [TYPE_Q2_K] = {256, 84, {80, 82}},
        [TYPE_Q3_K] = {256, 110, {108, 108}},
        [TYPE_Q4_K] = {256, 144, {0, 2}},
        [TYPE_Q5_K] = {256, 176, {0, 2}},
        [TYPE_Q6_K] = {256, 210, {208, 208}},
        [TYPE_IQ4_NL] = {32, 18, {0}},
        [TYPE_IQ4_XS] = {256, 136, {0}},
    };
    Matrix m = {.w = {.out = out, .in = in, .type = type}};
    int64_t blocks = (int64_t)out * in / file[type].weights, size = file[type].bytes;
    uint8_t *from = malloc((size_t)(blocks * size));
    for (int64_t i = 0; i < blocks * size; i++) from[i] = (uint8_t)below(256);
    for (int64_t i = 0; i < blocks; i++) {
        for (int j = 0; j < 2; j++) {
            uint8_t *high = from + i * size + file[type].halves[j] + 1;
            *high = (uint8_t)((*high & 0x83) | (type == TYPE_BF16 ? 0x3c : 0x04));
        }
    }
    m.values = malloc((size_t)out * (size_t)in * sizeof(double));
    m.data = from;
    if (file[type].weights > 1) {
        m.data = malloc((size_t)packed_bytes(type, out, in, 0));
        pack_blocks(pool, type, from, out, in, m.data);
        free(from);
    }
    m.w.data = m.data;
    float *row = floats(in, 0);
    for (int o = 0; o < out; o++) {
        unpack_row(&m.w, o, row);
        for (int i = 0; i < in; i++) m.values[(int64_t)o * in + i] = row[i];
    }
    free(row);
    return m;
}

static Matrix matrix(int out, int in, int group) {
    Matrix m = {.w = {.out = out, .in = in, .group = group}};
    m.w.type = group ? TYPE_INT8 : TYPE_FLOAT32;
    m.values = malloc((size_t)out * (size_t)in * sizeof(double));
    if (group == 0) {
        float *data = m.data = floats((int64_t)out * in, 1);
        for (int64_t i = 0; i < (int64_t)out * in; i++) m.values[i] = data[i] *= 0.3f;
        m.w.data = data;
        return m;
    }
    int n = ceil_div(in, group);
    int8_t *q = malloc((size_t)out * (size_t)in);
    float *scales = floats((int64_t)out * n, 1);
    for (int64_t i = 0; i < (int64_t)out * n; i++) scales[i] = scales[i] * 0.002f + 0.003f;
    for (int64_t i = 0; i < (int64_t)out * in; i++) {
        q[i] = (int8_t)(below(255) - 127);
        m.values[i] = (double)q[i] * scales[i / in * n + i % in / group];
    }
    m.data = malloc((size_t)packed_bytes(TYPE_INT8, out, in, group));
    m.scales = floats(packed_scales(TYPE_INT8, out, in, group), 0);
    pack_int8(q, scales, out, in, group, m.data, m.scales);
    m.w.data = m.data;
    m.w.scales = m.scales;
    float *row = floats(in, 0);
    for (int o = 0; o < out; o++) {
        unpack_row(&m.w, o, row);
        for (int i = 0; i < in; i++)
            expect(row[i], m.values[(int64_t)o * in + i], 1e-7, "an unpacked weight");
    }
    free(row);
    free(q);
    free(scales);
    return m;
}

static void drop(Matrix *m) {
    free(m->values);
    free(m->data);
    free(m->scales);
}

/* y (out) = w . x, x quantised as runq.c does if w is int8. */
static void product_reference(const Matrix *m, const double *x, double *y) {
    int is_int8 = types[m->w.type].activations != AS_FLOATS;
    int in = m->w.in, group = m->w.group ? m->w.group : is_int8 ? COLUMNS : in;
    double *rounded = malloc((size_t)in * sizeof(double));
    for (int from = 0; from < in; from += group) {
        int end = smaller(from + group, in);
        float peak = 0;
        for (int i = from; i < end; i++)
            peak =
                (float)(x[i] < 0 ? -x[i] : x[i]) > peak ? (float)(x[i] < 0 ? -x[i] : x[i]) : peak;
        float scale = peak / 127.0f;
        for (int i = from; i < end; i++) {
            float v = scale > 0 ? (float)x[i] / scale : 0;
            int whole = (int)v;
            if (v - (float)whole >= 0.5f) whole++;
            else if (v - (float)whole <= -0.5f) whole--;
            rounded[i] = is_int8 ? (double)whole * scale : x[i];
        }
    }
    for (int o = 0; o < m->w.out; o++) {
        y[o] = 0;
        for (int i = 0; i < in; i++) y[o] += m->values[(int64_t)o * in + i] * rounded[i];
    }
    free(rounded);
}

/* The product of rows of activations, and that it is off by no more than tolerance. */
static void check_product(void *pool, Matrix *m, int rows, double tolerance) {
    int in = m->w.in, out = m->w.out;
    float *x = floats((int64_t)rows * in, 1), *y = floats((int64_t)rows * out, 0);
    float *scratch = floats(activation_floats(rows, in), 0);
    double *one = malloc((size_t)in * sizeof(double)),
           *wanted = malloc((size_t)out * sizeof(double));
    matmul(pool, &m->w, x, rows, y, scratch);
    for (int row = 0; row < rows; row++) {
        for (int i = 0; i < in; i++) one[i] = x[row * in + i];
        product_reference(m, one, wanted);
        for (int o = 0; o < out; o++) expect(y[row * out + o], wanted[o], tolerance, "a product");
    }
    drop(m);
    free(x), free(y), free(scratch), free(one), free(wanted);
}

static void check_matmul(void *pool, int out, int in, int group, int rows) {
    Matrix m = matrix(out, in, group);
    check_product(pool, &m, rows, 2e-6 * in + 1e-6);
}

/* Roundings are of float32, of sums that the largest weight bounds. */
static void check_blocks(void *pool, int type, int out, int in, int rows) {
    Matrix m = block_matrix(pool, type, out, in);
    double largest = 0;
    for (int64_t i = 0; i < (int64_t)out * in; i++) {
        double size = m.values[i] < 0 ? -m.values[i] : m.values[i];
        largest = size > largest ? size : largest;
    }
    check_product(pool, &m, rows, 2e-6 * in * largest);
}

/* ---- one layer */

enum { CONTEXT = 23, MATRICES = 7, LAYERS = 3 };

typedef struct {
    Model model;
    Layer layer; /* the second of LAYERS in the caches */
    Cache cache;
    Matrix w[MATRICES]; /* wq wk wv wo w1 w2 w3 */
    double *keys, *values;
} Network;

static void normalise(const Network *n, const float *weight, const double *x, double *y) {
    double squares = 0;
    int dim = n->model.dim;
    for (int i = 0; i < dim; i++) squares += x[i] * x[i];
    for (int i = 0; i < dim; i++)
        y[i] = (float)(weight[i] * x[i] / sqrt_reference(squares / dim + n->model.eps));
}

static void rotate_reference(const Network *n, double *x, int heads, int pos) {
    int size = n->model.head_size;
    for (int i = 0; i < heads * size; i += 2) {
        const float *angle = n->cache.rope + (int64_t)pos * size + i % size;
        double a = x[i], b = x[i + 1];
        x[i] = a * angle[0] - b * angle[1];
        x[i + 1] = a * angle[1] + b * angle[0];
    }
}

static void attention_reference(Network *n, double *x, int pos) {
    const Model *m = &n->model;
    int size = m->head_size, kv_dim = m->n_kv_heads * size, share = m->n_heads / m->n_kv_heads;
    double norm[256], q[256], mixed[256] = {0}, out[256], p[CONTEXT];
    normalise(n, n->layer.att_norm, x, norm);
    product_reference(&n->w[0], norm, q);
    product_reference(&n->w[1], norm, n->keys + (int64_t)pos * kv_dim);
    product_reference(&n->w[2], norm, n->values + (int64_t)pos * kv_dim);
    rotate_reference(n, q, m->n_heads, pos);
    rotate_reference(n, n->keys + (int64_t)pos * kv_dim, m->n_kv_heads, pos);
    for (int head = 0; head < m->n_heads; head++) {
        double total = 0;
        for (int t = 0; t <= pos; t++) {
            double score = 0;
            for (int d = 0; d < size; d++)
                score += q[head * size + d] * n->keys[t * kv_dim + head / share * size + d];
            total += p[t] = exp_reference(score / sqrt_reference(size));
        }
        for (int t = 0; t <= pos; t++)
            for (int d = 0; d < size; d++)
                mixed[head * size + d] +=
                    p[t] / total * n->values[t * kv_dim + head / share * size + d];
    }
    for (int i = 0; i < m->n_heads * size; i++) mixed[i] = (float)mixed[i];
    product_reference(&n->w[3], mixed, out);
    for (int i = 0; i < m->dim; i++) x[i] += out[i];
}

static void feed_forward_reference(Network *n, double *x) {
    double norm[256], a[256], b[256], out[256];
    normalise(n, n->layer.ffn_norm, x, norm);
    product_reference(&n->w[4], norm, a);
    product_reference(&n->w[6], norm, b);
    for (int i = 0; i < n->model.hidden_dim; i++)
        a[i] = (float)(a[i] / (1 + exp_reference(-a[i])) * b[i]);
    product_reference(&n->w[5], a, out);
    for (int i = 0; i < n->model.dim; i++) x[i] += out[i];
}

/* ---- two conversations of one model at once: each the same bits as alone */

typedef struct {
    const Network *n;
    Cache cache;
    int seed;
    float *x; /* (CONTEXT, dim) */
} Talk;

static Talk new_talk(const Network *n, int seed) {
    Talk t = {.n = n, .cache = n->cache, .seed = seed, .x = floats(CONTEXT * n->model.dim, 0)};
    t.cache.keys = floats(keys_floats(&n->model, CONTEXT), 0);
    t.cache.values = floats(values_floats(&n->model, CONTEXT), 0);
    t.cache.scratch = floats(scratch_floats(&n->model, CONTEXT), 0);
    return t;
}

static void drop_talk(Talk *t) {
    free(t->cache.keys), free(t->cache.values), free(t->cache.scratch), free(t->x);
}

static THREAD_RESULT talk(void *arg) {
    Talk *t = arg;
    const Network *n = t->n;
    int dim = n->model.dim;
    for (int i = 0; i < CONTEXT * dim; i++) t->x[i] = (float)((i * 37 + t->seed) % 101 - 50) / 50;
    for (int pos = 0; pos < CONTEXT; pos++) {
        attention(&n->model, &n->layer, &t->cache, t->x + pos * dim, 1, pos);
        feed_forward(&n->model, &n->layer, &t->cache, t->x + pos * dim, 1);
    }
    return 0;
}

static void check_two_at_once(const Network *n) {
    Talk alone[2] = {new_talk(n, 1), new_talk(n, 2)}, both[2] = {new_talk(n, 1), new_talk(n, 2)};
    Thread threads[2];
    for (int i = 0; i < 2; i++) talk(&alone[i]);
    for (int i = 0; i < 2; i++) thread_start(&threads[i], talk, &both[i]);
    for (int i = 0; i < 2; i++) thread_join(threads[i]);
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < CONTEXT * n->model.dim; j++)
            expect(both[i].x[j], alone[i].x[j], 0, "a conversation beside another");
        drop_talk(&alone[i]);
        drop_talk(&both[i]);
    }
}

/* All positions of one layer, at first `rows` at once, then one by one. Quantised numbers may round
 * to the other side of a half, so int8 is compared more loosely. */
static void check_layer(void *pool, int heads, int kv_heads, int size, int hidden, int group,
                        int rows) {
    int dim = heads * size, kv_dim = kv_heads * size;
    int shapes[MATRICES][2] = {{dim, dim},    {kv_dim, dim}, {kv_dim, dim}, {dim, dim},
                               {hidden, dim}, {dim, hidden}, {hidden, dim}};
    Network n = {.model = {.pool = pool,
                           .dim = dim,
                           .hidden_dim = hidden,
                           .n_layers = LAYERS,
                           .n_heads = heads,
                           .n_kv_heads = kv_heads,
                           .head_size = size,
                           .max_rows = rows,
                           .eps = 1e-5f},
                 .layer = {.index = 1},
                 .cache = {.context = CONTEXT}};
    Tensor *tensors[MATRICES] = {&n.layer.wq, &n.layer.wk, &n.layer.wv, &n.layer.wo,
                                 &n.layer.w1, &n.layer.w2, &n.layer.w3};
    for (int i = 0; i < MATRICES; i++) {
        n.w[i] = matrix(shapes[i][0], shapes[i][1],
                        i == 1 && group ? 4 : group); /* wk's groups differ */
        *tensors[i] = n.w[i].w;
    }
    float *att_norm = floats(dim, 1), *ffn_norm = floats(dim, 1), *rope = floats(CONTEXT * size, 1);
    n.layer.att_norm = att_norm, n.layer.ffn_norm = ffn_norm, n.cache.rope = rope;
    n.cache.keys = floats(keys_floats(&n.model, CONTEXT), 0);
    n.cache.values = floats(values_floats(&n.model, CONTEXT), 0);
    n.cache.scratch = floats(scratch_floats(&n.model, CONTEXT), 0);
    n.keys = calloc(CONTEXT * (size_t)kv_dim, sizeof(double));
    n.values = calloc(CONTEXT * (size_t)kv_dim, sizeof(double));
    double tolerance = group ? 0.05 : 1e-4, wanted[256];
    for (int pos = 0; pos < CONTEXT; pos += pos < rows ? rows : 1) {
        int count = pos == 0 ? rows : 1;
        float *x = floats((int64_t)count * dim, 1), *before = floats((int64_t)count * dim, 0);
        memcpy(before, x, (size_t)count * (size_t)dim * sizeof(float));
        attention(&n.model, &n.layer, &n.cache, x, count, pos);
        for (int row = 0; row < count; row++) {
            for (int i = 0; i < dim; i++) wanted[i] = before[row * dim + i];
            attention_reference(&n, wanted, pos + row);
            for (int i = 0; i < dim; i++)
                expect(x[row * dim + i], wanted[i], tolerance, "attention");
        }
        memcpy(before, x, (size_t)count * (size_t)dim * sizeof(float));
        feed_forward(&n.model, &n.layer, &n.cache, x, count);
        for (int row = 0; row < count; row++) {
            for (int i = 0; i < dim; i++) wanted[i] = before[row * dim + i];
            feed_forward_reference(&n, wanted);
            for (int i = 0; i < dim; i++)
                expect(x[row * dim + i], wanted[i], tolerance, "feed_forward");
        }
        free(x), free(before);
    }
    check_two_at_once(&n);
    for (int i = 0; i < MATRICES; i++) drop(&n.w[i]);
    free(att_norm), free(ffn_norm), free(rope), free(n.cache.keys), free(n.cache.values),
        free(n.cache.scratch);
    free(n.keys), free(n.values);
}

int main(void) {
    static const int rows[] = {1, 2, 3, 5, 6, 7, 13, 70}, group[] = {0, 4, 7, 16, 32, 36, 256};
    for (int threads = 1; threads <= 4; threads += 3) {
        void *pool = pool_new(threads);
        for (int g = 0; g < 7; g++) {
            for (int r = 0; r < 8; r++)
                check_matmul(pool, 1 + below(90), (group[g] ? group[g] : 1) * (1 + below(7)),
                             group[g], rows[r]);
            check_matmul(pool, 300, larger(group[g], 1) * ceil_div(1300, larger(group[g], 1)),
                         group[g], 8);
        }
        for (int type = TYPE_F16; type < TYPES; type++) {
            check_blocks(pool, type, 1 + below(40), 256 * (1 + below(3)), rows[below(8)]);
            check_blocks(pool, type, 1 + below(70), 256, 1);
            check_blocks(pool, type, 65, 512, 50);
        }
        for (int g = 0; g < 2; g++) {
            check_layer(pool, 4, 4, 8, 44, g * 4, 1);
            check_layer(pool, 6, 2, 20, 136, g * 8, 5);
            check_layer(pool, 3, 3, 48, 96, g * 32, 13);
        }
        pool_free(pool);
    }
    printf("%s %d ok\n", kernel_isa(), checks);
    return 0;
}
