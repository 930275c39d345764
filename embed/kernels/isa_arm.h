/* aarch64: NEON, which every such processor has, and the dot products of ARMv8.2. See isa.h for
 * what the macros mean. */
#include <arm_neon.h>
#if defined(__linux__) || defined(__FreeBSD__)
#include <sys/auxv.h>
#endif
#include "system.h" /* Windows: IsProcessorFeaturePresent() */

/* ---- what the processor has */

enum { NEON_DOTPROD = 1 };

#if defined(__APPLE__)
static int features(void) { return NEON_DOTPROD; } /* since the first M1 */
#elif defined(_WIN32)
static int features(void) { /* 43: PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE */
    return IsProcessorFeaturePresent(43) ? NEON_DOTPROD : 0;
}
#elif defined(__FreeBSD__)
static int features(void) { /* bit 20: HWCAP_ASIMDDP, as on Linux */
    unsigned long capabilities = 0;
    elf_aux_info(AT_HWCAP, &capabilities, sizeof capabilities);
    return capabilities >> 20 & 1 ? NEON_DOTPROD : 0;
}
#else
static int features(void) { return getauxval(AT_HWCAP) >> 20 & 1 ? NEON_DOTPROD : 0; }
#endif

/* ---- pieces of the sets */

#define DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))

/* NEON multiplies signed by signed: the bias of the weights is flipped away, and OFFSET is 0. */
static inline int8x16_t without_bias(uint8x16_t w) {
    return vreinterpretq_s8_u8(veorq_u8(w, vdupq_n_u8(BIAS)));
}

static inline int32x4_t dot4_neon(int32x4_t sum, uint8x16_t w, int8x16_t x) {
    int8x16_t s = without_bias(w);
    int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(s), vget_low_s8(x)));
    int32x4_t high = vpaddlq_s16(vmull_high_s8(s, x));
    return vaddq_s32(sum, vpaddq_s32(low, high));
}

DOTPROD static inline int32x4_t dot4_dotprod(int32x4_t sum, uint8x16_t w, int8x16_t x) {
    return vdotq_s32(sum, without_bias(w), x);
}

/* Bytes below 64 have no bias. */
static inline int32x4_t dot4_small_neon(int32x4_t sum, int8x16_t w, int8x16_t x) {
    int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
    return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
}

DOTPROD static inline int32x4_t dot4_small_dotprod(int32x4_t sum, int8x16_t w, int8x16_t x) {
    return vdotq_s32(sum, w, x);
}

static inline uint8x16_t look_up_neon(uint8x16_t i) { return vqtbl1q_u8(vld1q_u8(nonlinear), i); }

static inline float32x4_t halves_neon(const void *p) {
    uint16_t halves[4];
    memcpy(halves, p, sizeof halves);
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves)));
}

static inline uint32x4_t widen_neon(const void *p) {
    uint16_t numbers[4];
    memcpy(numbers, p, sizeof numbers);
    return vmovl_u16(vld1_u16(numbers));
}

static inline float4 sum4_neon(float32x4_t a, float32x4_t b, float32x4_t c, float32x4_t d) {
    return (float4)vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d));
}

#define FMA_NEON(a, b, c) ((vec)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#define SUM4_NEON(a, b, c, d) \
    sum4_neon((float32x4_t)(a), (float32x4_t)(b), (float32x4_t)(c), (float32x4_t)(d))
#define LOOKUP_NEON(i) ((uvec)look_up_neon((uint8x16_t)(i)))
#define HALVES_NEON(p) ((vec)halves_neon(p))
#define SHORTS_NEON(p) ((uvec)widen_neon(p))

/* ---- the sets */

#define SET   neon
#define LANES 4
#define TARGET
#define FLOAT_ROWS      4
#define INT8_BLOCKS     1
#define INT8_ROWS       2
#define OFFSET          0
#define LOAD_PART(p, n) load_some(p, n)
#define FMA             FMA_NEON
#define SUM4            SUM4_NEON
#define DOT4(sum, w, x) ((ivec)dot4_neon((int32x4_t)(sum), (uint8x16_t)(w), (int8x16_t)(x)))
#define DOT4_SMALL(sum, w, x) \
    ((ivec)dot4_small_neon((int32x4_t)(sum), (int8x16_t)(w), (int8x16_t)(x)))
#define LOOKUP LOOKUP_NEON
#define HALVES HALVES_NEON
#define SHORTS SHORTS_NEON
#include "template.h"

#define SET             dotprod
#define LANES           4
#define TARGET          DOTPROD
#define FLOAT_ROWS      4
#define INT8_BLOCKS     1
#define INT8_ROWS       2
#define OFFSET          0
#define LOAD_PART(p, n) load_some(p, n)
#define FMA             FMA_NEON
#define SUM4            SUM4_NEON
#define DOT4(sum, w, x) ((ivec)dot4_dotprod((int32x4_t)(sum), (uint8x16_t)(w), (int8x16_t)(x)))
#define DOT4_SMALL(sum, w, x) \
    ((ivec)dot4_small_dotprod((int32x4_t)(sum), (int8x16_t)(w), (int8x16_t)(x)))
#define LOOKUP LOOKUP_NEON
#define HALVES HALVES_NEON
#define SHORTS SHORTS_NEON
#include "template.h"

static const Choice choices[] = {
    {NEON_DOTPROD, &kernels_dotprod},
    {0, &kernels_neon},
    {0, &kernels_portable},
};
