/* Convolutions and matrix products: rows of inputs against rows of weights, sixteen products at a time.

   Two products of int8 fit into 16 bits, so pairs are added there before they are widened to 32 (smull, smlal, sadalp
   on ARM without dot products; sdot multiplies and adds sixteen by itself). Four rows of inputs meet four of weights:
   every load is used four times. */
#include "vectors.h"

#if defined(MODEL_NEON)
typedef int8x16_t word;
typedef int32x4_t sums;
INLINE sums nothing(void) { return vdupq_n_s32(0); }
INLINE word word_of_16(const int8_t *from) { return vld1q_s8(from); }
INLINE word word_of_8(const int8_t *from) { return vcombine_s8(vld1_s8(from), vdup_n_s8(0)); }
INLINE sums multiplied_8(sums sum, word a, word b) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(sum, a, b);
#else
  return vpadalq_s16(sum, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
#endif
}
INLINE sums multiplied_16(sums sum, word a, word b, int careful) {
#if defined(__ARM_FEATURE_DOTPROD)
  (void)careful;
  return vdotq_s32(sum, a, b);
#elif defined(__aarch64__)
  int16x8_t products = vmull_s8(vget_low_s8(a), vget_low_s8(b));
  if (careful)
    return vpadalq_s16(vpadalq_s16(sum, products), vmull_high_s8(a, b));
  return vpadalq_s16(sum, vmlal_high_s8(products, a, b));
#else
  int16x8_t products = vmull_s8(vget_low_s8(a), vget_low_s8(b));
  if (careful)
    return vpadalq_s16(vpadalq_s16(sum, products), vmull_s8(vget_high_s8(a), vget_high_s8(b)));
  return vpadalq_s16(sum, vmlal_s8(products, vget_high_s8(a), vget_high_s8(b)));
#endif
}
INLINE quad totals(sums a, sums b, sums c, sums d) {
#if defined(__aarch64__)
  return vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
#else
  int32x2_t ab = vpadd_s32(vpadd_s32(vget_low_s32(a), vget_high_s32(a)), vpadd_s32(vget_low_s32(b), vget_high_s32(b)));
  int32x2_t cd = vpadd_s32(vpadd_s32(vget_low_s32(c), vget_high_s32(c)), vpadd_s32(vget_low_s32(d), vget_high_s32(d)));
  return vcombine_s32(ab, cd);
#endif
}
#elif defined(MODEL_AVX2)
typedef __m256i word;
typedef __m256i sums;
INLINE sums nothing(void) { return _mm256_setzero_si256(); }
INLINE word word_of_16(const int8_t *from) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)from)); }
INLINE word word_of_8(const int8_t *from) { return _mm256_cvtepi8_epi16(_mm_loadl_epi64((const void *)from)); }
INLINE sums multiplied_8(sums sum, word a, word b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
INLINE sums multiplied_16(sums sum, word a, word b, int careful) {
  (void)careful;
  return multiplied_8(sum, a, b);
}
INLINE quad totals(sums a, sums b, sums c, sums d) {
  __m256i four = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
  return _mm_add_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
}
#else
typedef struct { const int8_t *from; int count; } word;
typedef int32_t sums;
INLINE sums nothing(void) { return 0; }
INLINE word word_of_16(const int8_t *from) { word all = {from, 16}; return all; }
INLINE word word_of_8(const int8_t *from) { word all = {from, 8}; return all; }
INLINE sums multiplied_8(sums sum, word a, word b) {
  int i;
  for (i = 0; i < a.count; i++)
    sum += a.from[i] * b.from[i];
  return sum;
}
INLINE sums multiplied_16(sums sum, word a, word b, int careful) {
  (void)careful;
  return multiplied_8(sum, a, b);
}
INLINE quad totals(sums a, sums b, sums c, sums d) {
  int32_t all[4];
  all[0] = a, all[1] = b, all[2] = c, all[3] = d;
  return quad_at(all);
}
#endif

#if defined(__arm__)
enum { TILE = 2 }; /* half as many registers */
#else
enum { TILE = 4 };
#endif

#define SUMS_OF(row) sums row##0 = nothing(), row##1 = nothing(), row##2 = nothing(), row##3 = nothing()
#define ADD(row, multiply, input) \
  row##0 = multiply(row##0, input, w0), row##1 = multiply(row##1, input, w1), \
  row##2 = multiply(row##2, input, w2), row##3 = multiply(row##3, input, w3)
#define BY_16(sum, a, b) multiplied_16(sum, a, b, careful)
#define BY_8(sum, a, b) multiplied_8(sum, a, b)
#define WEIGHTS(size) \
  w0 = word_of_##size(weights), w1 = word_of_##size(weights + size), w2 = word_of_##size(weights + 2 * size), \
  w3 = word_of_##size(weights + 3 * size), weights += 4 * size

/* Each of TILE rows, one after another, against four rows of weights. */
INLINE void products_of_tile(const int8_t *rows, const int8_t *weights, int32_t depth, int careful, quad to[4]) {
  const int8_t *ra = rows, *rb = rows + depth;
  word w0, w1, w2, w3;
  SUMS_OF(a);
  SUMS_OF(b);
#if !defined(__arm__)
  const int8_t *rc = rb + depth, *rd = rc + depth;
  SUMS_OF(c);
  SUMS_OF(d);
#define TILE_STEP(size) \
  WEIGHTS(size); \
  ADD(a, BY_##size, word_of_##size(ra)); \
  ADD(b, BY_##size, word_of_##size(rb)); \
  ADD(c, BY_##size, word_of_##size(rc)); \
  ADD(d, BY_##size, word_of_##size(rd)); \
  ra += size, rb += size, rc += size, rd += size
#else
#define TILE_STEP(size) \
  WEIGHTS(size); \
  ADD(a, BY_##size, word_of_##size(ra)); \
  ADD(b, BY_##size, word_of_##size(rb)); \
  ra += size, rb += size
#endif
  for (; depth >= 16; depth -= 16) {
    TILE_STEP(16);
  }
  if (depth) {
    TILE_STEP(8);
  }
  to[0] = totals(a0, a1, a2, a3);
  to[1] = totals(b0, b1, b2, b3);
#if !defined(__arm__)
  to[2] = totals(c0, c1, c2, c3);
  to[3] = totals(d0, d1, d2, d3);
#else
  to[2] = to[3] = quad_of(0);
#endif
}

INLINE void products_of_row(const int8_t *row, const int8_t *weights, int32_t depth, int careful, quad to[4]) {
  word w0, w1, w2, w3;
  SUMS_OF(a);
  for (; depth >= 16; depth -= 16) {
    WEIGHTS(16);
    ADD(a, BY_16, word_of_16(row));
    row += 16;
  }
  if (depth) {
    WEIGHTS(8);
    ADD(a, BY_8, word_of_8(row));
  }
  to[0] = totals(a0, a1, a2, a3);
  to[1] = to[2] = to[3] = quad_of(0);
}

/* What becomes of the sums of four channels, of which `width` are there. */
typedef struct {
  quad bias;
  reals scale;
  integers_range range;
  int32_t stride, width;
} ending;

INLINE void end_as_integers(const ending *end, const quad sums_of[4], int32_t count, int8_t *to) {
  int8_t all[16];
  quad scaled[4];
  int i;
  scaled[0] = rounded(reals_product(reals_from(quad_sum(sums_of[0], end->bias)), end->scale));
  scaled[1] = rounded(reals_product(reals_from(quad_sum(sums_of[1], end->bias)), end->scale));
  scaled[2] = rounded(reals_product(reals_from(quad_sum(sums_of[2], end->bias)), end->scale));
  scaled[3] = rounded(reals_product(reals_from(quad_sum(sums_of[3], end->bias)), end->scale));
  bytes_to(all, narrowed(scaled, &end->range));
  if (end->width == 4 && count == TILE) {
    for (i = 0; i < TILE; i++, to += end->stride)
      memcpy(to, all + 4 * i, 4);
    return;
  }
  for (i = 0; i < count; i++, to += end->stride)
    memcpy(to, all + 4 * i, (size_t)end->width);
}

INLINE void end_as_floats(const ending *end, const quad sums_of[4], int32_t count, float *to) {
  float all[4];
  int i;
  for (i = 0; i < count; i++, to += end->stride) {
    reals_to(all, reals_product(reals_from(quad_sum(sums_of[i], end->bias)), end->scale));
    memcpy(to, all, sizeof *all * (size_t)end->width);
  }
}

/* `count` rows against the weights of one group. */
INLINE void rows_against_weights(const integers_window *window, const int8_t *rows, int32_t count,
                                 const int8_t *weights, const int32_t *bias, const float *scale, int careful,
                                 int to_floats, void *to) {
  int32_t channels = window->out_channels / window->groups, depth = window->depth, channel, row;
  for (channel = 0; channel < channels; channel += 4) {
    ending end;
    quad sums_of[4];
    const int8_t *from = rows;
    int64_t place = channel;
    end.bias = quad_at(bias + channel), end.scale = reals_at(scale + channel);
    end.range = window->range, end.stride = window->out_channels;
    end.width = channels - channel < 4 ? channels - channel : 4;
    for (row = 0; row + TILE <= count; row += TILE, from += TILE * depth, place += TILE * (int64_t)end.stride) {
      products_of_tile(from, weights, depth, careful, sums_of);
      if (to_floats)
        end_as_floats(&end, sums_of, TILE, (float *)to + place);
      else
        end_as_integers(&end, sums_of, TILE, (int8_t *)to + place);
    }
    for (; row < count; row++, from += depth, place += end.stride) {
      products_of_row(from, weights, depth, careful, sums_of);
      if (to_floats)
        end_as_floats(&end, sums_of, 1, (float *)to + place);
      else
        end_as_integers(&end, sums_of, 1, (int8_t *)to + place);
    }
    weights += 4 * (int64_t)depth;
  }
}

/* The inputs under one place of the window: rows of the kernel, its columns, channels; then zeros up to the depth. */
static void gather(const integers_window *window, const int8_t *from, int32_t pixel, int32_t group, int8_t *to) {
  int32_t plane = window->out_height * window->out_width, within = pixel % plane;
  int32_t channels = window->in_channels / window->groups, y, x;
  int32_t top = within / window->out_width * window->stride_height - window->top;
  int32_t left = within % window->out_width * window->stride_width - window->left;
  int8_t *end = to + window->depth;
  const int8_t *image = from + (int64_t)(pixel / plane) * window->in_height * window->in_width * window->in_channels +
                        group * channels;
  int whole = window->groups == 1 && window->dilation_width == 1 && left >= 0 &&
              left + window->kernel_width <= window->in_width;
  for (y = 0; y < window->kernel_height; y++) {
    int32_t row = top + y * window->dilation_height, column = left;
    const int8_t *line = image + (int64_t)row * window->in_width * window->in_channels;
    int outside = row < 0 || row >= window->in_height;
    if (outside || whole) {
      size_t size = (size_t)window->kernel_width * (size_t)channels;
      if (outside)
        memset(to, window->zero, size);
      else
        memcpy(to, line + (int64_t)left * channels, size);
      to += size;
      continue;
    }
    for (x = 0; x < window->kernel_width; x++, column += window->dilation_width, to += channels)
      if (column < 0 || column >= window->in_width)
        memset(to, window->zero, (size_t)channels);
      else
        memcpy(to, line + (int64_t)column * window->in_channels, (size_t)channels);
  }
  memset(to, 0, (size_t)(end - to));
}

INLINE void convolve(const integers_window *window, const int8_t *from, const int8_t *weights, const int32_t *bias,
                     const float *scale, void *to, int8_t *scratch, int careful, int to_floats) {
  int32_t pixels = window->images * window->out_height * window->out_width, fours, group, first, i;
  int32_t channels = window->out_channels / window->groups;
  fours = (channels + 3) / 4 * 4;
  for (first = 0; first < pixels; first += window->rows) {
    int32_t count = pixels - first < window->rows ? pixels - first : window->rows;
    for (group = 0; group < window->groups; group++) {
      int64_t place = (int64_t)first * window->out_channels + group * channels;
      const int8_t *rows = scratch ? scratch : from + (int64_t)first * window->depth;
      void *begin = to_floats ? (void *)((float *)to + place) : (void *)((int8_t *)to + place);
      for (i = 0; scratch && i < count; i++)
        gather(window, from, first + i, group, scratch + (int64_t)i * window->depth);
      rows_against_weights(window, rows, count, weights + (int64_t)group * fours * window->depth, bias + group * fours,
                           scale + group * fours, careful, to_floats, begin);
    }
  }
}

void integers_convolve(const integers_window *window, const int8_t *from, const int8_t *weights, const int32_t *bias,
                       const float *scale, int8_t *to, int8_t *scratch) {
  if (window->careful)
    convolve(window, from, weights, bias, scale, to, scratch, 1, 0);
  else
    convolve(window, from, weights, bias, scale, to, scratch, 0, 0);
}

void integers_convolve_to_floats(const integers_window *window, const int8_t *from, const int8_t *weights,
                                 const int32_t *bias, const float *scale, float *to, int8_t *scratch) {
  convolve(window, from, weights, bias, scale, to, scratch, 1, 1);
}
