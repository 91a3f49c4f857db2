/* Where integers meet floats, and where channels last meets channels first. */
#include "vectors.h"

#define TRANSPOSED(expression) \
  do { \
    int32_t o_, row, column; \
    for (o_ = 0; o_ < outer; o_++, from += (int64_t)rows * columns, to += (int64_t)rows * columns) \
      for (row = 0; row < rows; row++) \
        for (column = 0; column < columns; column++) \
          to[(int64_t)column * rows + row] = expression; \
  } while (0)

void integers_transpose(int32_t outer, int32_t rows, int32_t columns, const int8_t *from, int8_t *to) {
  TRANSPOSED(from[(int64_t)row * columns + column]);
}

void integers_transpose_floats(int32_t outer, int32_t rows, int32_t columns, const float *from, float *to) {
  TRANSPOSED(from[(int64_t)row * columns + column]);
}

INLINE reals quotients(const float *from, float scale) {
#if defined(MODEL_NEON) && defined(__aarch64__)
  return vdivq_f32(vld1q_f32(from), vdupq_n_f32(scale));
#elif defined(MODEL_AVX2)
  return _mm_div_ps(_mm_loadu_ps(from), _mm_set1_ps(scale));
#else
  float all[4];
  int i;
  for (i = 0; i < 4; i++)
    all[i] = from[i] / scale;
  return reals_at(all);
#endif
}

INLINE bytes sixteen(const float *from, float scale, const integers_range *range) {
  quad all[4];
  int i;
  for (i = 0; i < 4; i++)
    all[i] = rounded(quotients(from + 4 * i, scale));
  return narrowed(all, range);
}

void integers_quantize(int32_t outer, int32_t rows, int32_t columns, float scale, integers_range range,
                       const float *from, int8_t *to) {
  int32_t o, row, column, i;
  for (o = 0; o < outer; o++, to += (int64_t)rows * columns)
    for (row = 0; row < rows; row++)
      for (column = 0; column < columns; column += 16, from += 16) {
        int32_t count = columns - column < 16 ? columns - column : 16;
        float some[16] = {0};
        int8_t made[16];
        if (count < 16)
          memcpy(some, from, sizeof *from * (size_t)count);
        bytes_to(made, sixteen(count < 16 ? some : from, scale, &range));
        if (rows == 1)
          memcpy(to + column, made, (size_t)count);
        else
          for (i = 0; i < count; i++)
            to[(int64_t)(column + i) * rows + row] = made[i];
        if (count < 16)
          from += count - 16;
      }
}

void integers_dequantize(int32_t outer, int32_t rows, int32_t columns, float scale, int32_t zero, const int8_t *from,
                         float *to) {
  TRANSPOSED((float)(from[(int64_t)row * columns + column] - zero) * scale);
}
