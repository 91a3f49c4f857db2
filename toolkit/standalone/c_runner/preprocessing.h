/* Settings of a preprocessing. */
#ifndef PREPROCESSING_H
#define PREPROCESSING_H

#include "runner.h"

typedef struct {
    const char *resize, *color;
    bool crop;
    size_t height, width; /* stated, or 0 */
    float mean[3], std[3];
    int means, stds; /* one or three */
} Way;

Way read_way(const char *how);
size_t read_whole(const char *part, const char **at); /* from one on; `part` is what messages show */

#endif
