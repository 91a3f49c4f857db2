/* How an image becomes the model's input: the text of `--preprocess`, as toolkit/data/preprocessing.py reads it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "preprocessing.h"

static const struct {
    const char *name;
    Way way;
} PRESETS[] = {
    {"imagenet", {"256/224", "rgb", true, 0, 0, {123.675f, 116.28f, 103.53f}, {58.395f, 57.12f, 57.375f}, 3, 3}},
    {"unit", {"none", "auto", false, 0, 0, {0}, {255}, 1, 1}},
    {"signed", {"none", "auto", false, 0, 0, {127.5f}, {127.5f}, 1, 1}},
    {"raw", {"none", "auto", false, 0, 0, {0}, {1}, 1, 1}},
}; /* as in toolkit/data/preprocessing.py */

static const char EXAMPLE[] = "--preprocess raw, or for instance --preprocess mean=127,std=128";

static _Noreturn void unreadable(const char *part) {
    fail(EXIT_USAGE, "%s of a preprocessing cannot be read", "%s", part, EXAMPLE);
}

static bool one_of(const char *value, const char *known) {
    const char *found = strstr(known, text(" %s ", value));
    return found && !strchr(value, ' ');
}

static int numbers(const char *part, const char *at, float values[3]) {
    for (int count = 1; count <= 3; count++) {
        char *end;
        double value = strtod(at, &end);
        if (end == at || !isfinite(value))
            break;
        values[count - 1] = (float)value;
        if (!*end && count != 2)
            return count;
        if (*end != '/')
            break;
        at = end + 1;
    }
    unreadable(part);
}

size_t read_whole(const char *part, const char **at) {
    char *end;
    long value = strtol(*at, &end, 10);
    if (end == *at || **at < '0' || **at > '9' || value < 1 || value > 1000000)
        unreadable(part);
    *at = end;
    return (size_t)value;
}

static void read_size(Way *way, const char *part, const char *at) {
    way->height = way->width = read_whole(part, &at);
    if (*at == 'x') {
        at++;
        way->width = read_whole(part, &at);
    }
    if (*at)
        unreadable(part);
}

static void read_setting(Way *way, const char *part, const char *equals) {
    const char *value = equals + 1;
    size_t key = (size_t)(equals - part);
    if (key == 6 && !strncmp(part, "resize", key))
        way->resize = value;
    else if (key == 4 && !strncmp(part, "crop", key) && one_of(value, " none center "))
        way->crop = *value == 'c';
    else if (key == 5 && !strncmp(part, "color", key) && one_of(value, " auto rgb bgr gray "))
        way->color = value;
    else if (key == 6 && !strncmp(part, "filter", key) &&
             one_of(value, " bilinear bicubic nearest lanczos box hamming "))
        return; /* of resizing, which is not done */
    else if (key == 4 && !strncmp(part, "size", key))
        read_size(way, part, value);
    else if (key == 4 && !strncmp(part, "mean", key))
        way->means = numbers(part, value, way->mean);
    else if (key == 3 && !strncmp(part, "std", key))
        way->stds = numbers(part, value, way->std);
    else
        unreadable(part);
}

static char *trimmed(char *part) {
    part += strspn(part, " ");
    for (size_t size = strlen(part); size && part[size - 1] == ' ';)
        part[--size] = 0;
    return part;
}

Way read_way(const char *how) {
    Way way = PRESETS[3].way;
    char *rest = copied(how, strlen(how));
    for (bool first = true; rest; first = false) {
        char *part = rest, *comma = strchr(rest, ',');
        rest = comma ? comma + 1 : NULL;
        if (comma)
            *comma = 0;
        part = trimmed(part);
        const char *equals = strchr(part, '=');
        if (equals) {
            read_setting(&way, part, equals);
            continue;
        }
        size_t known = 0;
        while (known < sizeof PRESETS / sizeof *PRESETS && strcmp(part, PRESETS[known].name))
            known++;
        if (!first || known == sizeof PRESETS / sizeof *PRESETS)
            fail(EXIT_USAGE, "unknown preprocessing '%s'", "known: imagenet, raw, signed, unit", part);
        way = PRESETS[known].way;
    }
    for (int i = 0; i < way.stds; i++)
        if (way.std[i] < 1)
            fail(EXIT_USAGE, "std=%g is too small: mean and std are in units of 0 to 255",
                 "multiply numbers that are meant for pixels from 0 to 1 by 255", (double)way.std[i]);
    return way;
}
