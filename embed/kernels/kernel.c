/* The arithmetic of run.py in C: matrix products, attention and feed-forward of a layer.
 *
 * C11, no dependency but the C library and its threads. This file includes all the others: there
 * is one translation unit and one library. run.py loads it with ctypes and holds the same
 * functions in NumPy, which say what each of these must compute.
 *
 * Reading order: kernel.h (what run.py passes in), weights.h and blocks.h (how weights lie in
 * memory), this file (a layer), template.h, products.h and block_products.h (its arithmetic), isa.h
 * (instruction sets), packing.h (from a file's blocks), pool.h (threads).
 *
 * Letters: rows = positions computed at once (1 when generating, up to max_rows when reading a
 * prompt). Arrays are row-major, written (rows, columns).
 */
#include "kernel.h"
#include "weights.h"
#include "packing.h"
#include "pool.h"
#include "isa.h"

EXPORT int32_t kernel_abi(void) { return ABI; }
EXPORT const char *kernel_isa(void) { return kernels()->name; }

/* ---- where the parts of a cache are */

enum { QUERIES = 12 }; /* query vectors that share one pass over keys and values */

static int64_t key_floats_per_head(const Model *m, int context) {
    return (int64_t)ceil_div(context, KEYS) * KEYS * m->head_size;
}

static int64_t value_floats_per_head(const Model *m, int context) {
    return (int64_t)context * m->head_size;
}

EXPORT int64_t keys_floats(const Model *m, int32_t context) {
    return (int64_t)m->n_layers * m->n_kv_heads * key_floats_per_head(m, context);
}

EXPORT int64_t values_floats(const Model *m, int32_t context) {
    return (int64_t)m->n_layers * m->n_kv_heads * value_floats_per_head(m, context);
}

/* The first key of a head. The key of pos begins pos / KEYS blocks and pos % KEYS floats later,
 * and its numbers lie KEYS apart. */
static float *head_keys(const Model *m, const Layer *layer, const Cache *c, int head) {
    int64_t heads_before = (int64_t)layer->index * m->n_kv_heads + head;
    return c->keys + heads_before * key_floats_per_head(m, c->context);
}

static float *head_values(const Model *m, const Layer *layer, const Cache *c, int head) {
    int64_t heads_before = (int64_t)layer->index * m->n_kv_heads + head;
    return c->values + heads_before * value_floats_per_head(m, c->context);
}

/* The parts of the scratch memory, every one of them on a cache line, and how long it is. A thread
 * writes heads + thread * per_thread, and what its chunk of a product or of a prompt's rows has as
 * its result: no two threads the same. */
typedef struct {
    float *normed, *activations[3], *queries, *keys, *values, *mixed, *gate, *up, *heads;
    int64_t per_thread, floats;
} Scratch;

static int64_t aligned(int64_t floats) { return (floats + 15) / 16 * 16; }

/* Quantised rows with scales and starts: three floats a number if every group is one number. */
static int64_t activation_floats(int64_t rows, int64_t in) { return 3 * aligned(rows * in); }

static Scratch scratch_layout(const Model *m, float *base, int context) {
    int64_t rows = smaller(m->max_rows, context), size = m->head_size;
    int64_t q_dim = m->n_heads * size, kv_dim = m->n_kv_heads * size;
    int64_t widest = larger(larger(m->dim, m->hidden_dim), (int)q_dim);
    Scratch s = {.per_thread = aligned(QUERIES * (2 * size + aligned(context)))};
    struct {
        float **part;
        int64_t floats;
    } parts[] = {
        {&s.activations[0], activation_floats(rows, widest)},
        {&s.activations[1], activation_floats(rows, m->dim)},
        {&s.activations[2], activation_floats(rows, m->dim)},
        {&s.normed, rows * m->dim},
        {&s.queries, rows * q_dim},
        {&s.keys, rows * kv_dim},
        {&s.values, rows * kv_dim},
        {&s.mixed, rows * q_dim},
        {&s.gate, rows * m->hidden_dim},
        {&s.up, rows * m->hidden_dim},
        {&s.heads, s.per_thread * pool_threads(m->pool)},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        *parts[i].part = base == NULL ? NULL : base + s.floats;
        s.floats += aligned(parts[i].floats);
    }
    return s;
}

EXPORT int64_t scratch_floats(const Model *m, int32_t context) {
    return scratch_layout(m, NULL, context).floats;
}

/* ---- products */

enum {
    CHUNKS_PER_THREAD = 6, /* for the stealing: the slowest thread is late by a chunk at most */
    CHUNK_WORK = 16 << 10, /* multiply-adds worth handing to another thread */
    LONG_CHUNK = 32 << 20, /* multiply-adds: tenths of a millisecond, the most to wait for */
};

/* Up to three products of one input, their rows shared by all threads in chunks of whole blocks. */
typedef struct Job Job;
typedef void Finish(const Job *job, int product, int first, int end);
struct Job {
    const Kernels *kernels;
    Pool *pool;
    const float *x;    /* (rows, in) */
    const float *norm; /* not NULL: x is first normalised, into normed */
    float *normed, eps;
    Product products[3];
    int count, rows;
    int together;   /* a chunk is the same rows of every product */
    int blocks;     /* of a chunk */
    Finish *finish; /* not NULL: gets columns first..end of a result, in the thread that made it */
    const Model *model; /* for finish, as all that follows */
    const Layer *layer;
    const Cache *cache;
    int pos;
};

static Job new_job(void *pool, const float *x, int rows) {
    return (Job){.kernels = kernels(), .pool = pool, .x = x, .rows = rows};
}

static void normalise_first(Job *job, const float *norm, float *normed, float eps) {
    job->norm = norm;
    job->normed = normed;
    job->eps = eps;
}

/* One more product: y (rows, out) = or += x . w^T */
static void add_product(Job *job, const Tensor *w, float *y, int add) {
    Product p = {.w = w, .y = y, .y_stride = w->out, .rows = job->rows, .add = add};
    job->products[job->count++] = p;
}

/* The first product that has the same prepared input as this one. */
static int prepared_by(const Job *job, int product) {
    const Tensor *w = job->products[product].w;
    for (int i = 0; i < product; i++) {
        const Tensor *other = job->products[i].w;
        int same = type_of(other)->activations == type_of(w)->activations;
        if (same && other->group == w->group) return i;
    }
    return product;
}

static void prepare_row(void *arg, int row, int thread) {
    const Job *job = arg;
    const int in = job->products[0].w->in;
    const float *x = job->x + (int64_t)row * in;
    (void)thread;
    if (job->norm != NULL) {
        float *normed = job->normed + (int64_t)row * in;
        job->kernels->rmsnorm(normed, x, job->norm, in, job->eps);
        x = normed;
    }
    for (int i = 0; i < job->count; i++) {
        const Tensor *w = job->products[i].w;
        const Activations *a = &job->products[i].x;
        int64_t group = (int64_t)row * a->groups;
        int8_t *q = a->q + (int64_t)row * a->stride;
        if (prepared_by(job, i) != i) continue;
        if (type_of(w)->activations == AS_INT8)
            job->kernels->quantize(x, in, w->group, q, a->scales + group, a->start + group);
        if (type_of(w)->activations == AS_BLOCKS)
            job->kernels->quantize_blocks(x, in, q, a->blocks + group);
    }
}

/* Where the quantised rows of a product with w lie in a part of the scratch memory: what needs the
 * wider alignment first. */
static Activations int8_activations(const Tensor *w, int rows, float *memory) {
    Activations a = {.groups = groups(w), .stride = padded_in(w), .scales = memory};
    a.start = (int32_t *)(a.scales + (int64_t)rows * a.groups);
    a.q = (int8_t *)(a.start + (int64_t)rows * a.groups);
    return a;
}

static Activations block_activations(const Tensor *w, int rows, float *memory) {
    Activations a = {.groups = w->in / COLUMNS, .stride = w->in, .blocks = (Group *)memory};
    a.q = (int8_t *)(a.blocks + (int64_t)rows * a.groups);
    return a;
}

/* Normalises the input and quantises it, once for each group size among the products. */
static void prepare(Job *job, float *const activations[3]) {
    int needed = job->norm != NULL;
    for (int i = 0; i < job->count; i++) {
        Product *p = &job->products[i];
        int by = prepared_by(job, i);
        if (by != i) {
            p->x = job->products[by].x;
        } else if (type_of(p->w)->activations == AS_INT8) {
            p->x = int8_activations(p->w, job->rows, activations[i]);
            needed = 1;
        } else if (type_of(p->w)->activations == AS_BLOCKS) {
            p->x = block_activations(p->w, job->rows, activations[i]);
            needed = 1;
        }
        p->x.floats = job->norm != NULL ? job->normed : job->x;
    }
    if (needed) parallel(job->pool, prepare_row, job, job->rows);
}

/* The chunks go through the first product's blocks, then through the second's; or, together,
 * through the same blocks of all. */
static void multiply_chunk(void *arg, int chunk, int thread) {
    const Job *job = arg;
    int from = chunk * job->blocks, to = from + job->blocks;
    (void)thread;
    for (int i = 0; i < job->count; i++) {
        const Product *p = &job->products[i];
        int out = p->w->out, blocks = ceil_div(out, BLOCK);
        int first = larger(from, 0) * BLOCK, end = smaller(smaller(to, blocks) * BLOCK, out);
        if (first < end) {
            job->kernels->products[p->w->type](p, first, end);
            if (job->finish != NULL) job->finish(job, i, first, end);
        }
        if (job->together) continue;
        from -= blocks;
        to -= blocks;
    }
}

/* How many blocks a chunk has: a share of a thread's, but neither too little nor too much work. */
static int blocks_per_chunk(const Job *job, int blocks, int64_t block_work) {
    int share = ceil_div(blocks, pool_threads(job->pool) * CHUNKS_PER_THREAD);
    int least = (int)(CHUNK_WORK / block_work), most = (int)(LONG_CHUNK / block_work);
    if (blocks * block_work < 2 * CHUNK_WORK) return blocks;
    return smaller(larger(share, least), larger(most, 1));
}

static void multiply(Job *job) {
    int blocks = 0, side_by_side = job->together ? job->count : 1;
    int64_t block_work = (int64_t)BLOCK * job->products[0].w->in * job->rows * side_by_side;
    for (int i = 0; i < job->count; i++) blocks += ceil_div(job->products[i].w->out, BLOCK);
    blocks /= side_by_side;
    job->blocks = blocks_per_chunk(job, blocks, block_work);
    parallel(job->pool, multiply_chunk, job, ceil_div(blocks, job->blocks));
}

/* A matrix of a GGUF's blocks in the kernel's order, by all threads: see packing.h. */
EXPORT void pack_blocks(void *pool, int32_t type, const void *from, int32_t out, int32_t in,
                        void *data) {
    int blocks = ceil_div(out, BLOCK), row_blocks = larger(1, CHUNK_WORK / BLOCK / in);
    Packing p = {type, from, out, in, data, row_blocks};
    parallel(usable(pool), pack_chunk, &p, ceil_div(blocks, row_blocks));
}

/* y (rows, out) = x (rows, in) . w^T */
EXPORT void matmul(void *pool, const Tensor *w, const float *x, int32_t rows, float *y,
                   float *scratch) {
    float *activations[3] = {scratch};
    Job job = new_job(usable(pool), x, rows);
    add_product(&job, w, y, 0);
    prepare(&job, activations);
    multiply(&job);
}

/* logits (rows, vocab_size) = rmsnorm(x) . wcls^T */
EXPORT void classify(const Model *m, const Cache *cache, const float *final_norm,
                     const Tensor *wcls, const float *x, int32_t rows, float *logits) {
    Scratch s = scratch_layout(m, cache->scratch, cache->context);
    Job job = new_job(usable(m->pool), x, rows);
    normalise_first(&job, final_norm, s.normed, m->eps);
    add_product(&job, wcls, logits, 0);
    prepare(&job, s.activations);
    multiply(&job);
}

/* ---- attention */

/* y, its numbers stride apart, = x with its pairs turned by angles (cosine, sine): RoPE. */
static void rotate(float *y, int stride, const float *x, const float *angles, int n) {
    for (int i = 0; i < n; i += 2) {
        float a = x[i], b = x[i + 1], cosine = angles[i], sine = angles[i + 1];
        y[i * stride] = a * cosine - b * sine;
        y[(i + 1) * stride] = a * sine + b * cosine;
    }
}

static void store_key(const Job *job, int head, int d, int n, int64_t pos, const float *x) {
    int size = job->model->head_size;
    float *keys = head_keys(job->model, job->layer, job->cache, head);
    float *block = keys + pos / KEYS * size * KEYS + pos % KEYS;
    rotate(block + d * KEYS, KEYS, x, job->cache->rope + pos * size + d, n);
}

static void store_value(const Job *job, int head, int d, int n, int64_t pos, const float *x) {
    float *values = head_values(job->model, job->layer, job->cache, head);
    memcpy(values + pos * job->model->head_size + d, x, (size_t)n * sizeof(float));
}

/* New keys, rotated, and values go to the cache, head by head. Columns first..end can begin and end
 * within a head, never within a pair of numbers. Queries (product 0) stay where they are. */
static void store_in_cache(const Job *job, int product, int first, int end) {
    const Product *p = &job->products[product];
    const int size = job->model->head_size;
    if (product == 0) return;
    for (int row = 0; row < job->rows; row++) {
        for (int i = first, n; i < end; i += n) {
            const float *x = p->y + row * p->y_stride + i;
            int head = i / size, d = i % size;
            n = smaller(size - d, end - i);
            if (product == 1) store_key(job, head, d, n, job->pos + row, x);
            else store_value(job, head, d, n, job->pos + row, x);
        }
    }
}

typedef struct {
    const Kernels *kernels;
    const Model *model;
    const Layer *layer;
    const Cache *cache;
    Scratch s;
    int rows, pos;
} Attend;

/* The heads that share a key and value head have share * rows queries together: number i is of row
 * i / share and of the i % share-th of the heads. This is where it begins in (rows, n_heads,
 * size). */
static int64_t query_index(const Model *m, int kv_head, int i) {
    int share = m->n_heads / m->n_kv_heads;
    int row = i / share, head = kv_head * share + i % share;
    return ((int64_t)row * m->n_heads + head) * m->head_size;
}

/* scores (n, stride) = softmax(q . keys / sqrt(size)) over the positions up to the query's own,
 * zero from there to end. */
static void attention_weights(const Attend *a, int kv_head, int from, int n, int end,
                              const float *q, float *scores, int64_t stride) {
    const Model *m = a->model;
    const float *keys = head_keys(m, a->layer, a->cache, kv_head);
    a->kernels->score_keys(q, n, keys, end, m->head_size, scores, stride);
    for (int i = 0; i < n; i++, scores += stride) {
        int seen = a->pos + (from + i) / (m->n_heads / m->n_kv_heads) + 1;
        a->kernels->softmax(scores, seen);
        memset(scores + seen, 0, (size_t)(end - seen) * sizeof(float));
    }
}

/* Attention of up to QUERIES query vectors of the heads that share one key/value head. */
static void attend(void *arg, int chunk, int thread) {
    const Attend *a = arg;
    const Model *m = a->model;
    const int size = m->head_size, share = m->n_heads / m->n_kv_heads;
    const int tiles = ceil_div(a->rows * share, QUERIES);
    const int kv_head = chunk / tiles, from = chunk % tiles * QUERIES;
    const int n = smaller(QUERIES, a->rows * share - from);
    const int end = a->pos + (from + n - 1) / share + 1; /* positions that the last one sees */
    const int64_t stride = aligned(end);
    float *q = a->s.heads + thread * a->s.per_thread;
    float *y = q + QUERIES * size, *scores = y + QUERIES * size;

    for (int i = 0; i < n; i++) {
        const float *x = a->s.queries + query_index(m, kv_head, from + i);
        int64_t pos = a->pos + (from + i) / share;
        rotate(q + i * size, 1, x, a->cache->rope + pos * size, size);
    }
    attention_weights(a, kv_head, from, n, end, q, scores, stride);
    const float *values = head_values(m, a->layer, a->cache, kv_head);
    a->kernels->mix_values(scores, stride, n, values, end, size, y);
    for (int i = 0; i < n; i++) {
        float *mixed = a->s.mixed + query_index(m, kv_head, from + i);
        memcpy(mixed, y + i * size, (size_t)size * sizeof(float));
    }
}

/* Queries, keys and values of new positions, the latter two into the cache. */
static void project(const Model *m, const Layer *layer, const Cache *cache, const Scratch *s,
                    Pool *pool, const float *x, int rows, int pos) {
    Job job = new_job(pool, x, rows);
    normalise_first(&job, layer->att_norm, s->normed, m->eps);
    add_product(&job, &layer->wq, s->queries, 0);
    add_product(&job, &layer->wk, s->keys, 0);
    add_product(&job, &layer->wv, s->values, 0);
    job.finish = store_in_cache;
    job.model = m;
    job.layer = layer;
    job.cache = cache;
    job.pos = pos;
    prepare(&job, s->activations);
    multiply(&job);
}

/* x += w . y, the end of either half */
static void add_to(float *x, const Tensor *w, const float *y, int rows, Pool *pool,
                   const Scratch *s) {
    Job job = new_job(pool, y, rows);
    add_product(&job, w, x, 1);
    prepare(&job, s->activations);
    multiply(&job);
}

/* x (rows, dim) += wo . attend(rope(wq . n), rope(wk . n), wv . n), n = rmsnorm(x); fills the cache
 * from pos on. */
EXPORT void attention(const Model *m, const Layer *layer, const Cache *cache, float *x,
                      int32_t rows, int32_t pos) {
    Scratch s = scratch_layout(m, cache->scratch, cache->context);
    Pool *pool = usable(m->pool);
    project(m, layer, cache, &s, pool, x, rows, pos);

    Attend a = {kernels(), m, layer, cache, s, rows, pos};
    int tiles = ceil_div(rows * (m->n_heads / m->n_kv_heads), QUERIES);
    int64_t work = 2LL * rows * (pos + rows) * m->n_heads * m->head_size;
    parallel(work < 2 * CHUNK_WORK ? NULL : pool, attend, &a, m->n_kv_heads * tiles);

    add_to(x, &layer->wo, s.mixed, rows, pool, &s);
}

/* ---- feed-forward */

/* w1's columns come first, then the same of w3 in the same thread. */
static void gate(const Job *job, int product, int first, int end) {
    const Product *w1 = &job->products[0], *w3 = &job->products[1];
    if (product == 0) return;
    for (int row = 0; row < job->rows; row++) {
        int64_t at = row * w1->y_stride + first;
        job->kernels->swiglu(w1->y + at, w3->y + at, end - first);
    }
}

/* x (rows, dim) += w2 . (silu(w1 . n) * (w3 . n)), n = rmsnorm(x) */
EXPORT void feed_forward(const Model *m, const Layer *layer, const Cache *cache, float *x,
                         int32_t rows) {
    Scratch s = scratch_layout(m, cache->scratch, cache->context);
    Pool *pool = usable(m->pool);
    Job hidden = new_job(pool, x, rows);
    normalise_first(&hidden, layer->ffn_norm, s.normed, m->eps);
    add_product(&hidden, &layer->w1, s.gate, 0);
    add_product(&hidden, &layer->w3, s.up, 0);
    hidden.together = 1;
    hidden.finish = gate;
    prepare(&hidden, s.activations);
    multiply(&hidden);

    add_to(x, &layer->w2, s.gate, rows, pool, &s);
}
