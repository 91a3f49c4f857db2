/* Operators on int8 tensors, channels last, with int32 sums; results are rounded to the nearest, halves to even.

   A tensor q stands for (q - zero) * scale. Where a bias is taken it holds what the zero of the input adds to each
   sum, so that kernels multiply stored integers as they are; padding is that zero, which stands for nothing. */
#ifndef MODEL_INTEGERS_H
#define MODEL_INTEGERS_H

#include <stdint.h>

/* What results become: the integer that stands for nothing, and the limits that they are kept within. */
typedef struct { int32_t zero, low, high; } integers_range;

/* A window that moves over images. `depth` is the length of one row of products, a multiple of 8; `rows` are gathered
   at once. `careful` is set where weights of -128 forbid adding two products in 16 bits. */
typedef struct {
  int32_t images, in_height, in_width, in_channels, out_height, out_width, out_channels;
  int32_t kernel_height, kernel_width, stride_height, stride_width, dilation_height, dilation_width, top, left;
  int32_t groups, depth, rows, careful, zero;
  integers_range range;
} integers_window;

/* Convolutions that sum over channels, and matrix products as those of one point. Weights lie in the order in which
   they are read: by group, four output channels, sixteen products. Arrays by output channel are padded to whole fours
   in each group. Scratch: rows * depth bytes. */
void integers_convolve(const integers_window *window, const int8_t *from, const int8_t *weights, const int32_t *bias,
                       const float *scale, int8_t *to, int8_t *scratch);

/* The same with floats as results. */
void integers_convolve_to_floats(const integers_window *window, const int8_t *from, const int8_t *weights,
                                 const int32_t *bias, const float *scale, float *to, int8_t *scratch);

/* Every channel by itself. Weights, biases and scales lie in blocks of sixteen channels, the weights of one by place of
   the kernel; the last block begins sixteen channels before the end, or is padded. Scratch: a row of channels, then a
   pointer for each place of the kernel. */
void integers_convolve_channels(const integers_window *window, const int8_t *from, const int8_t *weights,
                                const int32_t *bias, const float *scale, int8_t *to, int8_t *scratch);

void integers_max_pool(const integers_window *window, const int8_t *from, int8_t *to);

/* `scale` is that of the input over that of the result; padding counts where `counts_padding`. Scratch: 4 bytes for
   each channel. */
void integers_average_pool(const integers_window *window, float scale, int32_t counts_padding, const int8_t *from,
                           int8_t *to, int8_t *scratch);

/* The mean over the middle axis of (outer, count, inner); `scale` includes the division. Scratch: 4 bytes for each of
   inner. */
void integers_mean(int32_t outer, int32_t count, int32_t inner, int32_t zero, float scale, integers_range range,
                   const int8_t *from, int8_t *to, int8_t *scratch);

/* (outer, count, inner) and, in `other`, the same or (outer or 1, 1, inner), added as a * scale + b * other_scale +
   offset. `other_rows` is count or 1; `other_outer` is outer or 1. */
typedef struct { int32_t outer, count, inner, other_outer, other_rows; } integers_pair;
void integers_add(integers_pair pair, float scale, float other_scale, float offset, integers_range range,
                  const int8_t *from, const int8_t *other, int8_t *to);
void integers_multiply(integers_pair pair, int32_t zero, int32_t other_zero, float scale, integers_range range,
                       const int8_t *from, const int8_t *other, int8_t *to);

/* x * positive, or x * negative[channel] where x is below nothing. */
void integers_prelu(int32_t rows, int32_t channels, int32_t zero, float positive, integers_range range,
                    const int8_t *from, const float *negative, int8_t *to);

/* table[x + 128]. */
void integers_look_up(int32_t count, const int8_t *from, const int8_t *table, int8_t *to);

/* Rows of `width` bytes into columns of a wider matrix. */
void integers_copy_columns(int32_t rows, int32_t width, int32_t stride, int32_t offset, const int8_t *from, int8_t *to);

/* (outer, rows, columns) as (outer, columns, rows). */
void integers_transpose(int32_t outer, int32_t rows, int32_t columns, const int8_t *from, int8_t *to);
void integers_transpose_floats(int32_t outer, int32_t rows, int32_t columns, const float *from, float *to);

/* Floats (outer, rows, columns) to integers (outer, columns, rows); and back. One row: the order stays. */
void integers_quantize(int32_t outer, int32_t rows, int32_t columns, float scale, integers_range range,
                       const float *from, int8_t *to);
void integers_dequantize(int32_t outer, int32_t rows, int32_t columns, float scale, int32_t zero, const int8_t *from,
                         float *to);

#endif
