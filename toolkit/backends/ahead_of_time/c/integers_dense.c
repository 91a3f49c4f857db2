/* Convolutions and matrix products: rows of inputs against rows of weights, sixteen products at a time.

   Two products of int8 fit into 16 bits, so pairs are added there before they are widened to 32 (smull, smlal, sadalp
   on ARM without dot products; sdot multiplies and adds sixteen by itself). Four rows of inputs meet four of weights:
   every load is used four times. */
#include "vectors.h"

#if defined(MODEL_NEON)
typedef int8x16_t word;
typedef int32x4_t sums;
static inline sums nothing(void) { return vdupq_n_s32(0); }
static inline word word_of_16(const int8_t *from) { return vld1q_s8(from); }
static inline word word_of_8(const int8_t *from) { return vcombine_s8(vld1_s8(from), vdup_n_s8(0)); }
static inline sums multiplied(sums sum, word a, word b, int careful) {
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
static inline void totals(sums a, sums b, sums c, sums d, int32_t *to) {
#if defined(__aarch64__)
  vst1q_s32(to, vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)));
#else
  int32x2_t ab = vpadd_s32(vpadd_s32(vget_low_s32(a), vget_high_s32(a)), vpadd_s32(vget_low_s32(b), vget_high_s32(b)));
  int32x2_t cd = vpadd_s32(vpadd_s32(vget_low_s32(c), vget_high_s32(c)), vpadd_s32(vget_low_s32(d), vget_high_s32(d)));
  vst1q_s32(to, vcombine_s32(ab, cd));
#endif
}
#elif defined(MODEL_AVX2)
typedef __m256i word;
typedef __m256i sums;
static inline sums nothing(void) { return _mm256_setzero_si256(); }
static inline word word_of_16(const int8_t *from) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)from)); }
static inline word word_of_8(const int8_t *from) { return _mm256_cvtepi8_epi16(_mm_loadl_epi64((const void *)from)); }
static inline sums multiplied(sums sum, word a, word b, int careful) {
  (void)careful;
  return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
static inline void totals(sums a, sums b, sums c, sums d, int32_t *to) {
  __m256i four = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
  _mm_storeu_si128((void *)to, _mm_add_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1)));
}
#else
typedef struct { const int8_t *from; int count; } word;
typedef int32_t sums;
static inline sums nothing(void) { return 0; }
static inline word word_of_16(const int8_t *from) { word all = {from, 16}; return all; }
static inline word word_of_8(const int8_t *from) { word all = {from, 8}; return all; }
static inline sums multiplied(sums sum, word a, word b, int careful) {
  int i;
  (void)careful;
  for (i = 0; i < a.count; i++)
    sum += a.from[i] * b.from[i];
  return sum;
}
static inline void totals(sums a, sums b, sums c, sums d, int32_t *to) { to[0] = a, to[1] = b, to[2] = c, to[3] = d; }
#endif

#if defined(__arm__)
enum { TILE = 2 }; /* half as many registers */
#else
enum { TILE = 4 };
#endif

#define SUMS_OF(row) sums row##0 = nothing(), row##1 = nothing(), row##2 = nothing(), row##3 = nothing()
#define ADD(row, input) \
  row##0 = multiplied(row##0, input, w0, careful), row##1 = multiplied(row##1, input, w1, careful), \
  row##2 = multiplied(row##2, input, w2, careful), row##3 = multiplied(row##3, input, w3, careful)
#define WEIGHTS(size) \
  w0 = word_of_##size(weights), w1 = word_of_##size(weights + size), w2 = word_of_##size(weights + 2 * size), \
  w3 = word_of_##size(weights + 3 * size), weights += 4 * size

/* Each of TILE rows against four rows of weights. */
static inline void products_of_tile(const int8_t *const *rows, const int8_t *weights, int32_t depth, int careful,
                                    int32_t *to) {
  const int8_t *ra = rows[0], *rb = rows[1];
  word w0, w1, w2, w3;
  SUMS_OF(a);
  SUMS_OF(b);
#if !defined(__arm__)
  const int8_t *rc = rows[2], *rd = rows[3];
  SUMS_OF(c);
  SUMS_OF(d);
#define TILE_STEP(size) \
  WEIGHTS(size); \
  ADD(a, word_of_##size(ra)); ADD(b, word_of_##size(rb)); ADD(c, word_of_##size(rc)); ADD(d, word_of_##size(rd)); \
  ra += size, rb += size, rc += size, rd += size
#else
#define TILE_STEP(size) WEIGHTS(size); ADD(a, word_of_##size(ra)); ADD(b, word_of_##size(rb)); ra += size, rb += size
#endif
  for (; depth >= 16; depth -= 16) {
    TILE_STEP(16);
  }
  if (depth) {
    TILE_STEP(8);
  }
  totals(a0, a1, a2, a3, to);
  totals(b0, b1, b2, b3, to + 4);
#if !defined(__arm__)
  totals(c0, c1, c2, c3, to + 8);
  totals(d0, d1, d2, d3, to + 12);
#endif
}

static inline void products_of_row(const int8_t *row, const int8_t *weights, int32_t depth, int careful, int32_t *to) {
  word w0, w1, w2, w3;
  SUMS_OF(a);
  for (; depth >= 16; depth -= 16) {
    WEIGHTS(16);
    ADD(a, word_of_16(row));
    row += 16;
  }
  if (depth) {
    WEIGHTS(8);
    ADD(a, word_of_8(row));
  }
  totals(a0, a1, a2, a3, to);
}

static inline int32_t products(const int8_t *row, int32_t left, const int8_t *weights, int32_t depth, int careful,
                               int32_t *to) {
  const int8_t *rows[4];
  int i;
  if (left < TILE) {
    products_of_row(row, weights, depth, careful, to);
    return 1;
  }
  for (i = 0; i < TILE; i++)
    rows[i] = row + (int64_t)i * depth;
  products_of_tile(rows, weights, depth, careful, to);
  return TILE;
}

/* What becomes of the sums of `count` pixels and four channels, of which `width` are there. */
typedef struct {
  const int32_t *bias;
  const float *scale;
  const integers_range *range;
  int32_t stride, width;
} ending;

static inline void end_as_integers(const ending *end, const int32_t *sums_of, int32_t count, int8_t *to) {
  int8_t all[16];
  quad scaled[4];
  int i;
  for (i = 0; i < 4; i++)
    scaled[i] = i < count ? requantized(quad_at(sums_of + 4 * i), end->bias, end->scale) : quad_of(0);
  bytes_to(all, narrowed(scaled, end->range));
  for (i = 0; i < count; i++)
    if (end->width == 4)
      memcpy(to + (int64_t)i * end->stride, all + 4 * i, 4);
    else
      memcpy(to + (int64_t)i * end->stride, all + 4 * i, (size_t)end->width);
}

static inline void end_as_floats(const ending *end, const int32_t *sums_of, int32_t count, float *to) {
  int i, j;
  for (i = 0; i < count; i++)
    for (j = 0; j < end->width; j++)
      to[(int64_t)i * end->stride + j] = (float)(sums_of[4 * i + j] + end->bias[j]) * end->scale[j];
}

/* `count` rows against the weights of one group. */
static inline void rows_against_weights(const integers_window *window, const int8_t *rows, int32_t count,
                                        const int8_t *weights, const int32_t *bias, const float *scale, int careful,
                                        int8_t *integers, float *floats) {
  int32_t channels = window->out_channels / window->groups, channel, row, done;
  for (channel = 0; channel < channels; channel += 4) {
    ending end = {bias + channel, scale + channel, &window->range, window->out_channels, 4};
    if (channels - channel < 4)
      end.width = channels - channel;
    for (row = 0; row < count; row += done) {
      int32_t sums_of[16];
      int64_t place = (int64_t)row * window->out_channels + channel;
      done = products(rows + (int64_t)row * window->depth, count - row, weights, window->depth, careful, sums_of);
      if (integers)
        end_as_integers(&end, sums_of, done, integers + place);
      else
        end_as_floats(&end, sums_of, done, floats + place);
    }
    weights += 4 * (int64_t)window->depth;
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

static inline void convolve(const integers_window *window, const int8_t *from, const int8_t *weights,
                            const int32_t *bias, const float *scale, int8_t *integers, float *floats, int8_t *scratch,
                            int careful) {
  int32_t pixels = window->images * window->out_height * window->out_width, fours, group, first, i;
  fours = (window->out_channels / window->groups + 3) / 4 * 4;
  for (first = 0; first < pixels; first += window->rows) {
    int32_t count = pixels - first < window->rows ? pixels - first : window->rows;
    for (group = 0; group < window->groups; group++) {
      int64_t place = (int64_t)first * window->out_channels + group * (window->out_channels / window->groups);
      const int8_t *rows = scratch ? scratch : from + (int64_t)first * window->depth;
      for (i = 0; scratch && i < count; i++)
        gather(window, from, first + i, group, scratch + (int64_t)i * window->depth);
      rows_against_weights(window, rows, count, weights + (int64_t)group * fours * window->depth, bias + group * fours,
                           scale + group * fours, careful, integers ? integers + place : 0,
                           floats ? floats + place : 0);
    }
  }
}

void integers_convolve(const integers_window *window, const int8_t *from, const int8_t *weights, const int32_t *bias,
                       const float *scale, int8_t *to, int8_t *scratch) {
  if (window->careful)
    convolve(window, from, weights, bias, scale, to, 0, scratch, 1);
  else
    convolve(window, from, weights, bias, scale, to, 0, scratch, 0);
}

void integers_convolve_to_floats(const integers_window *window, const int8_t *from, const int8_t *weights,
                                 const int32_t *bias, const float *scale, float *to, int8_t *scratch) {
  convolve(window, from, weights, bias, scale, 0, to, scratch, 1);
}
