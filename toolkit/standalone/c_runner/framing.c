/* An image in the model's frame: its middle, normalized, in the model's order of axes. Resizing is left to others. */
#include <math.h>
#include <string.h>

#include "preprocessing.h"

typedef struct {
    size_t height, width, channels;
    bool last; /* channels are the last axis */
} Frame;

/* ---- the model's frame, as toolkit/data/frame.py finds it */

static Frame frame_of(const Spec *spec, const Way *way, const char *how) {
    static const char ARRAYS[] = "give arrays: .npz or .npy";
    bool last = spec->rank == 4 && spec->shape[1] != 1 && spec->shape[1] != 3;
    if (spec->rank != 4 || (last && spec->shape[3] != 1 && spec->shape[3] != 3))
        fail(EXIT_INVALID, "the model takes %s, not one image", "%s", spelled_spec(spec), ARRAYS);
    int64_t height = spec->shape[last ? 1 : 2], width = spec->shape[last ? 2 : 3];
    if (way->height &&
        ((height >= 0 && height != (int64_t)way->height) || (width >= 0 && width != (int64_t)way->width)))
        fail(EXIT_INVALID, "size=%zux%zu is not that of the model's input %s", "leave size out", way->height,
             way->width, spelled_spec(spec));
    if (!way->height && (height < 0 || width < 0))
        fail(EXIT_INVALID, "the size of the model's input %s varies", "add size=224 to --preprocess",
             spelled_spec(spec));
    Frame frame = {way->height ? way->height : (size_t)height, way->height ? way->width : (size_t)width,
                   (size_t)spec->shape[last ? 3 : 1], last};
    size_t given = !strcmp(way->color, "auto") ? frame.channels : !strcmp(way->color, "gray") ? 1 : 3;
    int most = way->means > way->stds ? way->means : way->stds;
    if (given != frame.channels || (size_t)most > frame.channels)
        fail(EXIT_INVALID, "%s gives %d channels, the model's input is %s",
             "set color, mean and std for the channels that the model has", how, frame.channels == 1 ? 3 : 1,
             spelled_spec(spec));
    return frame;
}

static void check_type(const Spec *spec, const Way *way, const char *how) {
    static const double LOW[] = {0, -128, 0, -32768, 0, -2147483648.0, 0, -9e18, 0};
    static const double HIGH[] = {0, 127, 255, 32767, 65535, 2147483647.0, 4294967295.0, 9e18, 1.8e19};
    double least = way->mean[0], most = way->mean[0];
    bool fits = spec->type != BOOL && spec->type != UINT32 && spec->type != UINT64;
    if (is_float(spec->type))
        return;
    for (int i = 0; i < way->means; i++) {
        fits = fits && way->mean[i] == nearbyintf(way->mean[i]);
        least = fmin(least, way->mean[i]);
        most = fmax(most, way->mean[i]);
    }
    for (int i = 0; i < way->stds; i++)
        fits = fits && way->std[i] == 1;
    if (!fits || -most < LOW[spec->type] || 255 - least > HIGH[spec->type])
        fail(EXIT_INVALID, "%s does not give the %s of the model's input %s",
             "raw gives 0 to 255, mean=128,std=1 gives -128 to 127", how, TYPE_NAMES[spec->type], spelled_spec(spec));
}

void check_preprocessing(const Spec *spec, const char *how) {
    Way way = read_way(how);
    frame_of(spec, &way, how);
    check_type(spec, &way, how);
}

/* ---- resizing: an image has the size already that it would get */

static size_t half_even(size_t top, size_t bottom) { /* Python's round */
    size_t part = top / bottom, rest = top % bottom;
    return part + (2 * rest > bottom || (2 * rest == bottom && part & 1));
}

/* The size to which an image of another one would be resized. */
static void resized(const Way *way, const Frame *frame, const Image *image, size_t *height, size_t *width) {
    const char *at = way->resize;
    *height = image->height;
    *width = image->width;
    if (!strcmp(at, "none"))
        return;
    if (!strcmp(at, "stretch")) {
        *height = frame->height;
        *width = frame->width;
        return;
    }
    char *part = text("resize=%s", way->resize);
    size_t tall = read_whole(part, &at), wide = tall;
    if (*at == '/') {
        at++;
        size_t bottom = read_whole(part, &at), top = tall;
        tall = half_even(frame->height * top, bottom);
        wide = half_even(frame->width * top, bottom);
        tall += !tall;
        wide += !wide;
    }
    if (*at)
        fail(EXIT_USAGE, "%s of a preprocessing cannot be read", "resize=256 or resize=256/224", part);
    if (tall * image->width >= wide * image->height) {
        *height = tall;
        *width = tall * image->width / image->height;
        *width += !*width;
    } else {
        *width = wide;
        *height = wide * image->height / image->width;
        *height += !*height;
    }
}

/* Where the middle begins, at the place where torchvision cuts: half of what is over, rounded to even. */
static size_t middle(size_t have, size_t want) { return half_even(have - want, 2); }

Tensor prepared(Image image, const char *name, const Spec *spec, const char *how) {
    Way way = read_way(how);
    Frame frame = frame_of(spec, &way, how);
    size_t height, width, top = 0, left = 0;
    resized(&way, &frame, &image, &height, &width);
    if (height != image.height || width != image.width)
        fail(EXIT_INVALID, "the image %s is %zux%zu, and this runner does not resize (%s)",
             "give it resized to %zux%zu, or as .npy", name, image.width, image.height, how, width, height);
    bool cut = way.crop && height >= frame.height && width >= frame.width;
    if (!cut && (height != frame.height || width != frame.width))
        fail(EXIT_INVALID, "the image %s is %zux%zu, the model takes %zux%zu", "give it in that size, or as .npy", name,
             width, height, frame.width, frame.height);
    if (cut) {
        top = middle(height, frame.height);
        left = middle(width, frame.width);
    }
    int64_t first[4] = {1, (int64_t)frame.channels, (int64_t)frame.height, (int64_t)frame.width};
    int64_t last[4] = {1, first[2], first[3], first[1]};
    Tensor made = tensor(spec->name, spec->type, frame.last ? last : first, 4);
    bool turned = !strcmp(way.color, "bgr");
    for (size_t y = 0; y < frame.height; y++)
        for (size_t x = 0; x < frame.width; x++)
            for (size_t c = 0; c < frame.channels; c++) {
                size_t from = turned ? 2 - c : c, pixel = y * frame.width + x;
                float value = image.pixels[((y + top) * width + x + left) * image.channels + from];
                float scaled = (value - way.mean[way.means == 3 ? from : 0]) / way.std[way.stds == 3 ? from : 0];
                set_value(&made, frame.last ? pixel * frame.channels + c : c * frame.height * frame.width + pixel,
                          (double)scaled);
            }
    return made;
}
