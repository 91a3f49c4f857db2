/* The largest and the mean of what a window covers. */
#include "vectors.h"

static int32_t at_least(int32_t value, int32_t least) { return value < least ? least : value; }
static int32_t at_most(int32_t value, int32_t most) { return value > most ? most : value; }

void integers_max_pool(const integers_window *window, const int8_t *from, int8_t *to) {
  int32_t channels = window->in_channels, image, y, x, i, j, c;
  for (image = 0; image < window->images; image++, from += (int64_t)window->in_height * window->in_width * channels)
    for (y = 0; y < window->out_height; y++)
      for (x = 0; x < window->out_width; x++, to += channels) {
        memset(to, -128, (size_t)channels);
        for (i = 0; i < window->kernel_height; i++)
          for (j = 0; j < window->kernel_width; j++) {
            int32_t row = y * window->stride_height - window->top + i * window->dilation_height;
            int32_t column = x * window->stride_width - window->left + j * window->dilation_width;
            const int8_t *place = from + ((int64_t)row * window->in_width + column) * channels;
            if (row < 0 || row >= window->in_height || column < 0 || column >= window->in_width)
              continue;
            for (c = 0; c < channels; c++)
              to[c] = place[c] > to[c] ? place[c] : to[c];
          }
      }
}

/* Sums of channels, less `zeros`, times `scale`. */
static void scaled(const int32_t *sums, int32_t channels, int32_t zeros, float scale, const integers_range *range,
                   int8_t *to) {
  int32_t first, i;
  for (first = 0; first < channels; first += 16) {
    int32_t some[16] = {0}, count = at_most(channels - first, 16);
    int8_t all[16];
    quad ends[4];
    memcpy(some, sums + first, sizeof *sums * (size_t)count);
    for (i = 0; i < 4; i++)
      ends[i] = rounded(reals_product(reals_from(quad_sum(quad_at(some + 4 * i), quad_of(-zeros))), reals_of(scale)));
    bytes_to(all, narrowed(ends, range));
    memcpy(to + first, all, (size_t)count);
  }
}

void integers_average_pool(const integers_window *window, float scale, int32_t counts_padding, const int8_t *from,
                           int8_t *to, int8_t *scratch) {
  int32_t channels = window->in_channels, *sums = (void *)scratch, image, y, x, row, column, c;
  for (image = 0; image < window->images; image++, from += (int64_t)window->in_height * window->in_width * channels)
    for (y = 0; y < window->out_height; y++)
      for (x = 0; x < window->out_width; x++, to += channels) {
        int32_t top = y * window->stride_height - window->top, left = x * window->stride_width - window->left;
        int32_t bottom = at_most(top + window->kernel_height, window->in_height);
        int32_t right = at_most(left + window->kernel_width, window->in_width);
        int32_t first_row = at_least(top, 0), first_column = at_least(left, 0);
        int32_t covered = (bottom - first_row) * (right - first_column);
        int32_t counted = counts_padding ? window->kernel_height * window->kernel_width : covered;
        memset(sums, 0, sizeof *sums * (size_t)channels);
        for (row = first_row; row < bottom; row++)
          for (column = first_column; column < right; column++) {
            const int8_t *place = from + ((int64_t)row * window->in_width + column) * channels;
            for (c = 0; c < channels; c++)
              sums[c] += place[c];
          }
        scaled(sums, channels, covered * window->zero, scale / (float)counted, &window->range, to);
      }
}

void integers_mean(int32_t outer, int32_t count, int32_t inner, int32_t zero, float scale, integers_range range,
                   const int8_t *from, int8_t *to, int8_t *scratch) {
  int32_t *sums = (void *)scratch, i, j, c;
  for (i = 0; i < outer; i++, to += inner) {
    memset(sums, 0, sizeof *sums * (size_t)inner);
    for (j = 0; j < count; j++, from += inner)
      for (c = 0; c < inner; c++)
        sums[c] += from[c];
    scaled(sums, inner, count * zero, scale, &range, to);
  }
}
