/* Convolutions of every channel by itself: sixteen channels at once, two places of the kernel at a time. */
#include "vectors.h"

/* Sums of the sixteen channels that begin at `channel`; `weights` are those of each place, one after another. */
INLINE void sixteen(const int8_t *const *places, int32_t count, const int8_t *weights, int32_t channel, int careful,
                    quad to[4]) {
#if defined(MODEL_NEON)
  int32x4_t s0 = vdupq_n_s32(0), s1 = s0, s2 = s0, s3 = s0;
  int32_t pairs = careful ? 0 : count / 2, i;
#define WIDEN(low, high) \
  s0 = vaddw_s16(s0, vget_low_s16(low)), s1 = vaddw_s16(s1, vget_high_s16(low)), \
  s2 = vaddw_s16(s2, vget_low_s16(high)), s3 = vaddw_s16(s3, vget_high_s16(high))
#pragma GCC unroll 4
  for (i = 0; i < pairs; i++) {
    int8x16_t a = vld1q_s8(places[2 * i] + channel), b = vld1q_s8(places[2 * i + 1] + channel);
    int8x16_t u = vld1q_s8(weights + 32 * i), v = vld1q_s8(weights + 32 * i + 16);
    int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(a), vget_low_s8(u)), vget_low_s8(b), vget_low_s8(v));
    int16x8_t high = vmlal_s8(vmull_s8(vget_high_s8(a), vget_high_s8(u)), vget_high_s8(b), vget_high_s8(v));
    WIDEN(low, high);
  }
  for (i = 2 * pairs; i < count; i++) {
    int8x16_t a = vld1q_s8(places[i] + channel), u = vld1q_s8(weights + 16 * i);
    int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(u)), high = vmull_s8(vget_high_s8(a), vget_high_s8(u));
    WIDEN(low, high);
  }
  to[0] = s0, to[1] = s1, to[2] = s2, to[3] = s3;
#else
  int32_t sums[16] = {0}, i, j;
  (void)careful;
  for (i = 0; i < count; i++, weights += 16) {
    const int8_t *place = places[i] + channel;
    for (j = 0; j < 16; j++)
      sums[j] += place[j] * weights[j];
  }
  for (j = 0; j < 4; j++)
    to[j] = quad_at(sums + 4 * j);
#endif
}

/* Channels that are fewer than sixteen; weights, bias and scale are padded to that. */
static void few(const integers_window *window, const int8_t *const *places, int32_t count, const int8_t *weights,
                const int32_t *bias, const float *scale, int8_t *to) {
  int32_t channels = window->out_channels, sums[16] = {0}, i, j;
  int8_t all[16];
  quad ends[4];
  for (i = 0; i < count; i++)
    for (j = 0; j < channels; j++)
      sums[j] += places[i][j] * weights[16 * i + j];
  for (i = 0; i < 4; i++)
    ends[i] = requantized(quad_at(sums + 4 * i), bias + 4 * i, scale + 4 * i);
  bytes_to(all, narrowed(ends, &window->range));
  memcpy(to, all, (size_t)channels);
}

/* All channels of one pixel. The last sixteen may hold some that were computed before, and none beyond the end. */
INLINE void pixel(const int8_t *const *places, int32_t count, int32_t channels, const int8_t *weights,
                  const int32_t *bias, const float *scale, integers_range range, int careful, int8_t *to) {
  int32_t block;
  for (block = 0; block < channels; block += 16) {
    int32_t channel = block + 16 <= channels ? block : channels - 16;
    quad all[4];
    sixteen(places, count, weights, channel, careful, all);
    all[0] = requantized(all[0], bias + block, scale + block);
    all[1] = requantized(all[1], bias + block + 4, scale + block + 4);
    all[2] = requantized(all[2], bias + block + 8, scale + block + 8);
    all[3] = requantized(all[3], bias + block + 12, scale + block + 12);
    bytes_to(to + channel, narrowed(all, &range));
    weights += 16 * (int64_t)count;
  }
}

enum { NINE = 9 };

/* The same with the nine places of a 3x3 kernel in registers. */
INLINE void pixel_of_nine(const int8_t *const *places, int32_t channels, const int8_t *weights, const int32_t *bias,
                          const float *scale, integers_range range, int careful, int8_t *to) {
  const int8_t *nine[NINE];
  int i;
#pragma GCC unroll 9
  for (i = 0; i < NINE; i++)
    nine[i] = places[i];
  pixel(nine, NINE, channels, weights, bias, scale, range, careful, to);
}

INLINE int inside(int32_t first, int32_t count, int32_t step, int32_t limit) {
  return first >= 0 && first + (count - 1) * step < limit;
}

/* Where each place of the kernel reads, for the pixel at (y, x); `nothing` where that is outside of the image. */
static void point(const integers_window *window, const int8_t *image, int32_t y, int32_t x, const int8_t *nothing,
                  const int8_t **places) {
  int32_t i, j;
  for (i = 0; i < window->kernel_height; i++)
    for (j = 0; j < window->kernel_width; j++) {
      int32_t row = y + i * window->dilation_height, column = x + j * window->dilation_width;
      int there = row >= 0 && row < window->in_height && column >= 0 && column < window->in_width;
      *places++ = there ? image + ((int64_t)row * window->in_width + column) * window->in_channels : nothing;
    }
}

INLINE void convolve(const integers_window *window, const int8_t *from, const int8_t *weights,
                            const int32_t *bias, const float *scale, int careful, int8_t *to, int8_t *scratch) {
  int32_t channels = window->in_channels, count = window->kernel_height * window->kernel_width, image, y, x, i;
  const int8_t **places = (void *)(scratch + (channels + 63) / 64 * 64);
  memset(scratch, window->zero, (size_t)channels);
  for (image = 0; image < window->images; image++, from += (int64_t)window->in_height * window->in_width * channels)
    for (y = 0; y < window->out_height; y++) {
      int32_t top = y * window->stride_height - window->top, left = -window->left;
      int follows = 0;
      int rows_inside = inside(top, window->kernel_height, window->dilation_height, window->in_height);
      for (x = 0; x < window->out_width; x++, left += window->stride_width, to += channels) {
        int within = rows_inside && inside(left, window->kernel_width, window->dilation_width, window->in_width);
        if (within && follows)
          for (i = 0; i < count; i++)
            places[i] += window->stride_width * channels;
        else
          point(window, from, top, left, scratch, places);
        follows = within;
        if (channels < 16)
          few(window, places, count, weights, bias, scale, to);
        else if (count == NINE)
          pixel_of_nine(places, channels, weights, bias, scale, window->range, careful, to);
        else
          pixel(places, count, channels, weights, bias, scale, window->range, careful, to);
      }
    }
}

void integers_convolve_channels(const integers_window *window, const int8_t *from, const int8_t *weights,
                                const int32_t *bias, const float *scale, int8_t *to, int8_t *scratch) {
  if (window->careful)
    convolve(window, from, weights, bias, scale, 1, to, scratch);
  else
    convolve(window, from, weights, bias, scale, 0, to, scratch);
}
