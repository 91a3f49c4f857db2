/* Arrays of numbers, in C order. */
#include <math.h>
#include <string.h>

#include "runner.h"

const char *const TYPE_NAMES[TYPES] = {"bool",   "int8",  "uint8",  "int16",   "uint16",  "int32",
                                       "uint32", "int64", "uint64", "float16", "float32", "float64"};
const size_t TYPE_BYTES[TYPES] = {1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 4, 8};

bool type_named(const char *name, Type *type) {
    for (int i = 0; name && i < TYPES; i++)
        if (!strcmp(name, TYPE_NAMES[i])) {
            *type = (Type)i;
            return true;
        }
    return false;
}

bool is_float(Type type) { return type >= FLOAT16; }

Tensor tensor(const char *name, Type type, const int64_t *shape, size_t rank) {
    Tensor made = {.name = name, .type = type, .rank = rank, .count = 1};
    for (size_t i = 0; i < rank; i++) {
        made.shape[i] = shape[i];
        made.count = times(made.count, (size_t)shape[i]);
    }
    made.values = take(times(made.count, TYPE_BYTES[type]));
    return made;
}

/* ---- half precision. Source: IEEE 754-2019, section 3.4. */

static double of_half(uint16_t half) {
    int exponent = half >> 10 & 31, fraction = half & 1023;
    double size = exponent == 31 ? (fraction ? NAN : INFINITY)
                  : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                 : ldexp(fraction, -24);
    return half >> 15 ? -size : size;
}

static uint16_t to_half(double value) {
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    double size = fabs(value);
    int exponent = 0;
    if (!(size < 65520)) /* beyond the middle between the largest half and the next */
        return sign | (isnan(size) ? 0x7E00 : 0x7C00);
    if (size == 0)
        return sign;
    frexp(size, &exponent);
    int shift = exponent < -13 ? 24 : 11 - exponent; /* eleven digits, fewer where they are below the smallest normal */
    unsigned steps = (unsigned)nearbyint(ldexp(size, shift));
    return sign | (uint16_t)(shift == 24 ? steps : ((unsigned)(exponent + 13) << 10) + steps);
}

double value_at(const Tensor *from, size_t index) {
    switch (from->type) {
    case BOOL:
    case UINT8: return ((const uint8_t *)from->values)[index];
    case INT8: return ((const int8_t *)from->values)[index];
    case INT16: return ((const int16_t *)from->values)[index];
    case UINT16: return ((const uint16_t *)from->values)[index];
    case INT32: return ((const int32_t *)from->values)[index];
    case UINT32: return ((const uint32_t *)from->values)[index];
    case INT64: return (double)((const int64_t *)from->values)[index];
    case UINT64: return (double)((const uint64_t *)from->values)[index];
    case FLOAT16: return of_half(((const uint16_t *)from->values)[index]);
    case FLOAT32: return ((const float *)from->values)[index];
    default: return ((const double *)from->values)[index];
    }
}

void set_value(Tensor *to, size_t index, double value) {
    switch (to->type) {
    case BOOL:
    case UINT8: ((uint8_t *)to->values)[index] = (uint8_t)value; break;
    case INT8: ((int8_t *)to->values)[index] = (int8_t)value; break;
    case INT16: ((int16_t *)to->values)[index] = (int16_t)value; break;
    case UINT16: ((uint16_t *)to->values)[index] = (uint16_t)value; break;
    case INT32: ((int32_t *)to->values)[index] = (int32_t)value; break;
    case UINT32: ((uint32_t *)to->values)[index] = (uint32_t)value; break;
    case INT64: ((int64_t *)to->values)[index] = (int64_t)value; break;
    case UINT64: ((uint64_t *)to->values)[index] = (uint64_t)value; break;
    case FLOAT16: ((uint16_t *)to->values)[index] = to_half(value); break;
    case FLOAT32: ((float *)to->values)[index] = (float)value; break;
    default: ((double *)to->values)[index] = value;
    }
}

char *spelled_shape(const int64_t *shape, size_t rank) {
    char *made = "[";
    for (size_t i = 0; i < rank; i++)
        made = text("%s%s%lld", made, i ? ", " : "", (long long)shape[i]);
    return text("%s]", made);
}
