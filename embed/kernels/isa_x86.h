/* x86-64: AVX2, AVX-VNNI, AVX-512 and AVX-512 VNNI. See isa.h for what the macros mean. */
#include <cpuid.h>
#include <immintrin.h>

#define X86(instructions) __attribute__((target(instructions)))
#if defined(__clang__) || __GNUC__ >= 11
#define WITH_AVXVNNI
#endif
#if defined(__clang__) && __clang_major__ >= 18 && __clang_major__ <= 21
#define AVX512_BASE \
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,evex512" /* 512 bits count apart */
#else
#define AVX512_BASE "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"
#endif

/* ---- what the processor has, and the system saves */

enum { AVX2 = 1, AVXVNNI = 2, AVX512 = 4, AVX512VNNI = 8 };

/* The registers that the system keeps over a change of threads (XCR0). */
static unsigned saved_registers(void) {
    unsigned saved, unused;
    __asm__ volatile("xgetbv" : "=a"(saved), "=d"(unused) : "c"(0));
    return saved;
}

static int features(void) {
    const unsigned ymm = 0x06, zmm = 0xe6;
    const unsigned avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    unsigned a, b, c, d;
    const unsigned first = bit_OSXSAVE | bit_FMA | bit_F16C;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & first) != first) return 0;
    unsigned saved = saved_registers();
    if ((saved & ymm) != ymm) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2)) return 0;
    int found = AVX2;
    if ((saved & zmm) == zmm && (b & avx512) == avx512) {
        found |= AVX512;
        if (c & bit_AVX512VNNI) found |= AVX512VNNI;
    }
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1) found |= AVXVNNI;
    return found;
}

/* ---- pieces of the sets
 *
 * maddubs: the product of bytes before VNNI, unsigned by signed, saturates at 16 bits. AVX2 makes
 * the weights signed, so OFFSET is 0, and moves their signs to the activations: a pair is at most
 * 2 * 128 * 127. AVX-512 has no such instruction: even and odd bytes are widened to 16 bits and
 * multiplied by vpmaddwd, which sums pairs in 32 bits. */

X86("avx2") static inline __m256i dot4_avx2(__m256i sum, __m256i w, __m256i x) {
    __m256i s = _mm256_xor_si256(w, _mm256_set1_epi8((char)BIAS));
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(s), _mm256_sign_epi8(x, s));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

X86(AVX512_BASE) static inline __m512i dot4_avx512(__m512i sum, __m512i w, __m512i x) {
    __m512i even = _mm512_madd_epi16(_mm512_and_si512(w, _mm512_set1_epi16(255)),
                                     _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8));
    __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(w, 8), _mm512_srai_epi16(x, 8));
    return _mm512_add_epi32(sum, _mm512_add_epi32(even, odd));
}

/* Bytes below 64 are safe from that: a pair is at most 2 * 63 * 127. */
X86("avx2") static inline __m256i dot4_small_avx2(__m256i sum, __m256i w, __m256i x) {
    __m256i pairs = _mm256_maddubs_epi16(w, x);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

X86(AVX512_BASE) static inline __m512i dot4_small_avx512(__m512i sum, __m512i w, __m512i x) {
    __m512i pairs = _mm512_maddubs_epi16(w, x);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

X86("avx2") static inline __m256i look_up_avx2(__m256i i) {
    __m128i table = _mm_loadu_si128((const __m128i *)nonlinear);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), i);
}

X86(AVX512_BASE) static inline __m512i look_up_avx512(__m512i i) {
    __m128i table = _mm_loadu_si128((const __m128i *)nonlinear);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), i);
}

X86("avx2,f16c") static inline __m256 halves_avx2(const void *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}

X86(AVX512_BASE) static inline __m512 halves_avx512(const void *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}

X86("avx2") static inline __m256i widen_avx2(const void *p) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(p));
}

X86(AVX512_BASE) static inline __m512i widen_avx512(const void *p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(p));
}

X86("avx2") static inline __m256 load_part_avx2(const float *p, int n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane));
}

X86("avx2") static inline float4 sum4_avx2(__m256 a, __m256 b, __m256 c, __m256 d) {
    __m256 v = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return (float4)_mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}

X86(AVX512_BASE) static inline float4 sum4_avx512(__m512 a, __m512 b, __m512 c, __m512 d) {
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512 v = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    __m256 w = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    return (float4)_mm_add_ps(_mm256_castps256_ps128(w), _mm256_extractf128_ps(w, 1));
}

/* What the sets of one width share. */
#define LOAD_PART_256(p, n)  ((vec)load_part_avx2(p, n))
#define FMA_256(a, b, c)     ((vec)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define SUM4_256(a, b, c, d) sum4_avx2((__m256)(a), (__m256)(b), (__m256)(c), (__m256)(d))
#define LOOKUP_256(i)        ((uvec)look_up_avx2((__m256i)(i)))
#define HALVES_256(p)        ((vec)halves_avx2(p))
#define SHORTS_256(p)        ((uvec)widen_avx2(p))
#define LOAD_PART_512(p, n)  ((vec)_mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1), p))
#define FMA_512(a, b, c)     ((vec)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define SUM4_512(a, b, c, d) sum4_avx512((__m512)(a), (__m512)(b), (__m512)(c), (__m512)(d))
#define LOOKUP_512(i)        ((uvec)look_up_avx512((__m512i)(i)))
#define HALVES_512(p)        ((vec)halves_avx512(p))
#define SHORTS_512(p)        ((uvec)widen_avx512(p))

/* ---- the sets */

#define SET                   avx2
#define LANES                 8
#define TARGET                X86("avx2,fma,f16c")
#define FLOAT_ROWS            3
#define INT8_BLOCKS           1
#define INT8_ROWS             2
#define OFFSET                0
#define LOAD_PART             LOAD_PART_256
#define FMA                   FMA_256
#define SUM4                  SUM4_256
#define DOT4(sum, w, x)       ((ivec)dot4_avx2((__m256i)(sum), (__m256i)(w), (__m256i)(x)))
#define DOT4_SMALL(sum, w, x) ((ivec)dot4_small_avx2((__m256i)(sum), (__m256i)(w), (__m256i)(x)))
#define LOOKUP                LOOKUP_256
#define HALVES                HALVES_256
#define SHORTS                SHORTS_256
#include "template.h"

#if defined(WITH_AVXVNNI)
#define SET             avxvnni
#define LANES           8
#define TARGET          X86("avx2,fma,f16c,avxvnni")
#define FLOAT_ROWS      3
#define INT8_BLOCKS     1
#define INT8_ROWS       2
#define OFFSET          BIAS
#define LOAD_PART       LOAD_PART_256
#define FMA             FMA_256
#define SUM4            SUM4_256
#define DOT4(sum, w, x) ((ivec)_mm256_dpbusd_avx_epi32((__m256i)(sum), (__m256i)(w), (__m256i)(x)))
#define DOT4_SMALL      DOT4
#define LOOKUP          LOOKUP_256
#define HALVES          HALVES_256
#define SHORTS          SHORTS_256
#include "template.h"
#endif

#define SET                   avx512
#define LANES                 16
#define TARGET                X86(AVX512_BASE)
#define FLOAT_ROWS            6
#define INT8_BLOCKS           1
#define INT8_ROWS             6
#define OFFSET                BIAS
#define LOAD_PART             LOAD_PART_512
#define FMA                   FMA_512
#define SUM4                  SUM4_512
#define DOT4(sum, w, x)       ((ivec)dot4_avx512((__m512i)(sum), (__m512i)(w), (__m512i)(x)))
#define DOT4_SMALL(sum, w, x) ((ivec)dot4_small_avx512((__m512i)(sum), (__m512i)(w), (__m512i)(x)))
#define LOOKUP                LOOKUP_512
#define HALVES                HALVES_512
#define SHORTS                SHORTS_512
#include "template.h"

#define SET             avx512vnni
#define LANES           16
#define TARGET          X86(AVX512_BASE ",avx512vnni")
#define FLOAT_ROWS      6
#define INT8_BLOCKS     2
#define INT8_ROWS       6
#define OFFSET          BIAS
#define LOAD_PART       LOAD_PART_512
#define FMA             FMA_512
#define SUM4            SUM4_512
#define DOT4(sum, w, x) ((ivec)_mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(w), (__m512i)(x)))
#define DOT4_SMALL      DOT4
#define LOOKUP          LOOKUP_512
#define HALVES          HALVES_512
#define SHORTS          SHORTS_512
#include "template.h"

static const Choice choices[] = {
    {AVX512VNNI, &kernels_avx512vnni},
    {AVX512, &kernels_avx512},
#if defined(WITH_AVXVNNI)
    {AVXVNNI, &kernels_avxvnni},
#endif
    {AVX2, &kernels_avx2},
    {0, &kernels_portable},
};
