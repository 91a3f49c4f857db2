/* Sixteen bytes, four int32 and four floats at once: NEON of 64 and 32 bits, AVX2, or plain C with the same answers.

   Rounding is to the nearest integer, halves to even; narrowing saturates. */
#ifndef MODEL_VECTORS_H
#define MODEL_VECTORS_H

#include <stdint.h>
#include <string.h>

#include "integers.h"

/* Sums stay in registers only where everything around them is known. */
#define INLINE static inline __attribute__((always_inline))

#if defined(__ARM_NEON) && !defined(MODEL_PLAIN)
#define MODEL_NEON
#include <arm_neon.h>

typedef int32x4_t quad;
typedef float32x4_t reals;
typedef int8x16_t bytes;

INLINE quad quad_at(const int32_t *from) { return vld1q_s32(from); }
INLINE quad quad_of(int32_t value) { return vdupq_n_s32(value); }
INLINE quad quad_sum(quad a, quad b) { return vaddq_s32(a, b); }
INLINE quad quad_product(quad a, quad b) { return vmulq_s32(a, b); }
INLINE reals reals_at(const float *from) { return vld1q_f32(from); }
INLINE void reals_to(float *to, reals from) { vst1q_f32(to, from); }
INLINE reals reals_of(float value) { return vdupq_n_f32(value); }
INLINE reals reals_from(quad a) { return vcvtq_f32_s32(a); }
INLINE reals reals_sum(reals a, reals b) { return vaddq_f32(a, b); }
INLINE reals reals_product(reals a, reals b) { return vmulq_f32(a, b); }
INLINE reals reals_where_negative(reals sign, reals negative, reals other) {
  return vbslq_f32(vcltq_f32(sign, vdupq_n_f32(0)), negative, other);
}

INLINE quad rounded(reals a) {
#if defined(__aarch64__)
  return vcvtnq_s32_f32(a);
#else
  const float32x4_t most = vdupq_n_f32(2097152), shift = vdupq_n_f32(12582912); /* 1.5 * 2^23: halves go to even */
  float32x4_t within = vminq_f32(vmaxq_f32(a, vnegq_f32(most)), most);
  return vsubq_s32(vreinterpretq_s32_f32(vaddq_f32(within, shift)), vreinterpretq_s32_f32(shift));
#endif
}

INLINE void widened(const int8_t *from, quad to[4]) {
  int8x16_t all = vld1q_s8(from);
  int16x8_t low = vmovl_s8(vget_low_s8(all)), high = vmovl_s8(vget_high_s8(all));
  to[0] = vmovl_s16(vget_low_s16(low)), to[1] = vmovl_s16(vget_high_s16(low));
  to[2] = vmovl_s16(vget_low_s16(high)), to[3] = vmovl_s16(vget_high_s16(high));
}

INLINE bytes narrowed(const quad from[4], const integers_range *range) {
  int16x8_t zero = vdupq_n_s16((int16_t)range->zero);
  int16x8_t low = vqaddq_s16(vcombine_s16(vqmovn_s32(from[0]), vqmovn_s32(from[1])), zero);
  int16x8_t high = vqaddq_s16(vcombine_s16(vqmovn_s32(from[2]), vqmovn_s32(from[3])), zero);
  int8x16_t all = vcombine_s8(vqmovn_s16(low), vqmovn_s16(high));
  return vminq_s8(vmaxq_s8(all, vdupq_n_s8((int8_t)range->low)), vdupq_n_s8((int8_t)range->high));
}

INLINE void bytes_to(int8_t *to, bytes from) { vst1q_s8(to, from); }

#elif defined(__AVX2__) && !defined(MODEL_PLAIN)
#define MODEL_AVX2
#include <immintrin.h>

typedef __m128i quad;
typedef __m128 reals;
typedef __m128i bytes;

INLINE quad quad_at(const int32_t *from) { return _mm_loadu_si128((const void *)from); }
INLINE quad quad_of(int32_t value) { return _mm_set1_epi32(value); }
INLINE quad quad_sum(quad a, quad b) { return _mm_add_epi32(a, b); }
INLINE quad quad_product(quad a, quad b) { return _mm_mullo_epi32(a, b); }
INLINE reals reals_at(const float *from) { return _mm_loadu_ps(from); }
INLINE void reals_to(float *to, reals from) { _mm_storeu_ps(to, from); }
INLINE reals reals_of(float value) { return _mm_set1_ps(value); }
INLINE reals reals_from(quad a) { return _mm_cvtepi32_ps(a); }
INLINE reals reals_sum(reals a, reals b) { return _mm_add_ps(a, b); }
INLINE reals reals_product(reals a, reals b) { return _mm_mul_ps(a, b); }
INLINE reals reals_where_negative(reals sign, reals negative, reals other) {
  return _mm_blendv_ps(other, negative, _mm_cmplt_ps(sign, _mm_setzero_ps()));
}

INLINE quad rounded(reals a) {
  const __m128 most = _mm_set1_ps(2097152);
  return _mm_cvtps_epi32(_mm_min_ps(_mm_max_ps(a, _mm_sub_ps(_mm_setzero_ps(), most)), most));
}

INLINE void widened(const int8_t *from, quad to[4]) {
  __m128i all = _mm_loadu_si128((const void *)from);
  to[0] = _mm_cvtepi8_epi32(all), to[1] = _mm_cvtepi8_epi32(_mm_srli_si128(all, 4));
  to[2] = _mm_cvtepi8_epi32(_mm_srli_si128(all, 8)), to[3] = _mm_cvtepi8_epi32(_mm_srli_si128(all, 12));
}

INLINE bytes narrowed(const quad from[4], const integers_range *range) {
  __m128i zero = _mm_set1_epi16((int16_t)range->zero);
  __m128i low = _mm_adds_epi16(_mm_packs_epi32(from[0], from[1]), zero);
  __m128i high = _mm_adds_epi16(_mm_packs_epi32(from[2], from[3]), zero);
  __m128i all = _mm_packs_epi16(low, high);
  return _mm_min_epi8(_mm_max_epi8(all, _mm_set1_epi8((int8_t)range->low)), _mm_set1_epi8((int8_t)range->high));
}

INLINE void bytes_to(int8_t *to, bytes from) { _mm_storeu_si128((void *)to, from); }

#else

typedef struct { int32_t at[4]; } quad;
typedef struct { float at[4]; } reals;
typedef struct { int8_t at[16]; } bytes;

#define EACH(type, expression) type all; int i; for (i = 0; i < 4; i++) all.at[i] = expression; return all
INLINE quad quad_at(const int32_t *from) { EACH(quad, from[i]); }
INLINE quad quad_of(int32_t value) { EACH(quad, value); }
INLINE quad quad_sum(quad a, quad b) { EACH(quad, a.at[i] + b.at[i]); }
INLINE quad quad_product(quad a, quad b) { EACH(quad, a.at[i] * b.at[i]); }
INLINE reals reals_at(const float *from) { EACH(reals, from[i]); }
INLINE void reals_to(float *to, reals from) { memcpy(to, from.at, sizeof from.at); }
INLINE reals reals_of(float value) { EACH(reals, value); }
INLINE reals reals_from(quad a) { EACH(reals, (float)a.at[i]); }
INLINE reals reals_sum(reals a, reals b) { EACH(reals, a.at[i] + b.at[i]); }
INLINE reals reals_product(reals a, reals b) { EACH(reals, a.at[i] * b.at[i]); }
INLINE reals reals_where_negative(reals sign, reals negative, reals other) {
  EACH(reals, sign.at[i] < 0 ? negative.at[i] : other.at[i]);
}

INLINE int32_t nearest(float value) {
  const float most = 2097152, shift = 12582912; /* 1.5 * 2^23: halves go to even */
  float within = value < -most ? -most : value > most ? most : value;
  volatile float shifted = within + shift; /* in one precision, whatever the processor computes in */
  return (int32_t)(shifted - shift);
}
INLINE quad rounded(reals a) { EACH(quad, nearest(a.at[i])); }
#undef EACH

INLINE void widened(const int8_t *from, quad to[4]) {
  int i;
  for (i = 0; i < 16; i++)
    to[i / 4].at[i % 4] = from[i];
}

INLINE bytes narrowed(const quad from[4], const integers_range *range) {
  bytes all;
  int i;
  for (i = 0; i < 16; i++) {
    int32_t value = from[i / 4].at[i % 4] + range->zero;
    all.at[i] = (int8_t)(value < range->low ? range->low : value > range->high ? range->high : value);
  }
  return all;
}

INLINE void bytes_to(int8_t *to, bytes from) { memcpy(to, from.at, 16); }

#endif

/* Sums of products as integers of the result's scale. */
INLINE quad requantized(quad sum, const int32_t *bias, const float *scale) {
  return rounded(reals_product(reals_from(quad_sum(sum, quad_at(bias))), reals_at(scale)));
}

#endif
