/* One result for each element: sums and products of two tensors, slopes by channel, tables, and moved bytes. */
#include "vectors.h"

/* `count` results of `compute`, sixteen at a time; the last ones through a copy. */
#define BY_SIXTEEN(count, from, other, to, compute) \
  do { \
    int32_t at_; \
    for (at_ = 0; at_ + 16 <= (count); at_ += 16) \
      compute((from) + at_, (other) + at_, (to) + at_); \
    if (at_ < (count)) { \
      int8_t given_[16] = {0}, beside_[16] = {0}, made_[16]; \
      memcpy(given_, (from) + at_, (size_t)((count) - at_)); \
      memcpy(beside_, (other) + at_, (size_t)((count) - at_)); \
      compute(given_, beside_, made_); \
      memcpy((to) + at_, made_, (size_t)((count) - at_)); \
    } \
  } while (0)

/* Calls `row` with each part of the result and what it is made of: everything at once where the shapes are equal. */
#define OVER_ROWS(pair, from, other, to, compute) \
  do { \
    int32_t i_, j_; \
    int32_t equal_ = (pair).other_rows == (pair).count && (pair).other_outer == (pair).outer; \
    int32_t size_ = equal_ ? (pair).outer * (pair).count * (pair).inner : (pair).inner; \
    for (i_ = 0; i_ < (equal_ ? 1 : (pair).outer); i_++) \
      for (j_ = 0; j_ < (equal_ ? 1 : (pair).count); j_++) { \
        int64_t place_ = ((int64_t)i_ * (pair).count + j_) * (pair).inner; \
        int64_t beside_of_ = ((int64_t)((pair).other_outer > 1 ? i_ : 0) * (pair).other_rows + \
                              ((pair).other_rows > 1 ? j_ : 0)) * (pair).inner; \
        BY_SIXTEEN(size_, (from) + place_, (other) + beside_of_, (to) + place_, compute); \
      } \
  } while (0)

void integers_add(integers_pair pair, float scale, float other_scale, float offset, integers_range range,
                  const int8_t *from, const int8_t *other, int8_t *to) {
  reals first = reals_of(scale), second = reals_of(other_scale), constant = reals_of(offset);
#define SUM(a, b, y) \
  do { \
    quad x_[4], z_[4]; \
    int k_; \
    widened(a, x_), widened(b, z_); \
    for (k_ = 0; k_ < 4; k_++) \
      x_[k_] = rounded(reals_sum(reals_product(reals_from(z_[k_]), second), \
                                 reals_sum(reals_product(reals_from(x_[k_]), first), constant))); \
    bytes_to(y, narrowed(x_, &range)); \
  } while (0)
  OVER_ROWS(pair, from, other, to, SUM);
}

void integers_multiply(integers_pair pair, int32_t zero, int32_t other_zero, float scale, integers_range range,
                       const int8_t *from, const int8_t *other, int8_t *to) {
  reals factor = reals_of(scale);
  quad first = quad_of(-zero), second = quad_of(-other_zero);
#define PRODUCT(a, b, y) \
  do { \
    quad x_[4], z_[4]; \
    int k_; \
    widened(a, x_), widened(b, z_); \
    for (k_ = 0; k_ < 4; k_++) { \
      quad product_ = quad_product(quad_sum(x_[k_], first), quad_sum(z_[k_], second)); \
      x_[k_] = rounded(reals_product(reals_from(product_), factor)); \
    } \
    bytes_to(y, narrowed(x_, &range)); \
  } while (0)
  OVER_ROWS(pair, from, other, to, PRODUCT);
}

void integers_prelu(int32_t rows, int32_t channels, int32_t zero, float positive, integers_range range,
                    const int8_t *from, const float *negative, int8_t *to) {
  int32_t row, first, i;
  for (row = 0; row < rows; row++, from += channels, to += channels)
    for (first = 0; first < channels; first += 16) {
      int32_t count = channels - first < 16 ? channels - first : 16;
      int8_t all[16] = {0};
      float slopes[16] = {0};
      quad x[4];
      memcpy(all, from + first, (size_t)count);
      memcpy(slopes, negative + first, sizeof *negative * (size_t)count);
      widened(all, x);
      for (i = 0; i < 4; i++) {
        reals value = reals_from(quad_sum(x[i], quad_of(-zero)));
        reals slope = reals_where_negative(value, reals_at(slopes + 4 * i), reals_of(positive));
        x[i] = rounded(reals_product(value, slope));
      }
      bytes_to(all, narrowed(x, &range));
      memcpy(to + first, all, (size_t)count);
    }
}

void integers_look_up(int32_t count, const int8_t *from, const int8_t *table, int8_t *to) {
  int32_t i = 0;
#if defined(__aarch64__) && defined(MODEL_NEON)
  const uint8_t *entries = (const uint8_t *)table;
  uint8x16x4_t a = vld1q_u8_x4(entries), b = vld1q_u8_x4(entries + 64);
  uint8x16x4_t c = vld1q_u8_x4(entries + 128), d = vld1q_u8_x4(entries + 192);
  for (; i + 16 <= count; i += 16) {
    uint8x16_t at = veorq_u8(vreinterpretq_u8_s8(vld1q_s8(from + i)), vdupq_n_u8(128));
    uint8x16_t found = vqtbl4q_u8(a, at);
    found = vqtbx4q_u8(found, b, vsubq_u8(at, vdupq_n_u8(64)));
    found = vqtbx4q_u8(found, c, vsubq_u8(at, vdupq_n_u8(128)));
    found = vqtbx4q_u8(found, d, vsubq_u8(at, vdupq_n_u8(192)));
    vst1q_s8(to + i, vreinterpretq_s8_u8(found));
  }
#endif
  for (; i < count; i++)
    to[i] = table[from[i] + 128];
}

void integers_copy_columns(int32_t rows, int32_t width, int32_t stride, int32_t offset, const int8_t *from, int8_t *to) {
  int32_t row;
  for (row = 0; row < rows; row++)
    memcpy(to + (int64_t)row * stride + offset, from + (int64_t)row * width, (size_t)width);
}
