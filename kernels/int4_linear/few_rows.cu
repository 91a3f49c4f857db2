// x wᵀ for at most 8 TILES_M rows of x and weights of four bits, which are read as they lie.
//
// A warp owns 16 TILES_N outputs and, of K, every so many groups of 128. Of a group a lane loads 16 bytes of each of its
// outputs: twice 16 consecutive k, so that what it needs of x lies in few lines of the cache. The matrix unit adds over k
// in any order, so lanes hand it what they loaded, and x is put in the same order. Warps of a block add up in shared
// memory.
// Compiled with FLOAT16 (else bfloat16), TILES_M, TILES_N, WARPS, BLOCKS (of a multiprocessor), GROUP (a multiple of
// 128), ZEROS, BIAS.

typedef unsigned int u32;

#define OUTS (16 * TILES_N)
#define ROWS (8 * TILES_M)
#if FLOAT16
#define NUMBER "f16"
#define MAGIC 0x64006400u  // two floats that end in a nibble's bits: 1024 and what the nibble says
#define BASE 1024.0f
#define ONES 0x3C003C00u
#else
#define NUMBER "bf16"
#define MAGIC 0x43004300u  // 128 and what the nibble says
#define BASE 128.0f
#define ONES 0x3F803F80u
#endif

__device__ __forceinline__ uint4 halves(const uint2* at) {  // read by nobody else
    uint4 x;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(x.x), "=r"(x.y) : "l"(at));
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(x.z), "=r"(x.w) : "l"(at + 4));
    return x;
}

__device__ __forceinline__ u32 twice(float x) {
    u32 both;
    asm("cvt.rn." NUMBER "x2.f32 %0, %1, %1;" : "=r"(both) : "f"(x));
    return both;
}

__device__ __forceinline__ float as_float(unsigned short x) {
    float y;
    asm("cvt.f32." NUMBER " %0, %1;" : "=f"(y) : "h"(x));
    return y;
}

// Nibbles `i` and `i + 4` of a word, less what `minus` says, exactly.
__device__ __forceinline__ u32 nibbles(u32 word, int i, u32 minus) {
    u32 both, less;
    asm("lop3.b32 %0, %1, 0x000F000F, %2, 0xEA;" : "=r"(both) : "r"(word >> 4 * i), "r"(MAGIC));
    asm("fma.rn." NUMBER "x2 %0, %1, %2, %3;" : "=r"(less) : "r"(both), "r"(ONES), "r"(minus));
    return less;
}

__device__ __forceinline__ void product(float (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32." NUMBER "." NUMBER ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ u32 word_of(const uint4& x, int i) {
    return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

// What a lane needs of one group: of each of its outputs 32 nibbles and a scale, of each of its rows of x 32 elements.
struct Group {
    uint4 words[TILES_N][2], x[TILES_M][4];
    float scale[TILES_N][2];
    unsigned char zero[TILES_N][2];
};

struct Layer {
    const uint4 *x, *weight;
    const float* scale;
    const unsigned char* zero;
    int first, m, n, k;  // the block's first output; rows, outputs, inputs
};

__device__ __forceinline__ void load_x(Group& of, const Layer& layer, int group) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int t = 0; t < TILES_M; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row = 8 * t + lane / 4, at = i / 2 * 8 + lane % 4 * 2 + i % 2;
            of.x[t][i] = make_uint4(0, 0, 0, 0);
            if (row < layer.m) of.x[t][i] = layer.x[(long long)row * (layer.k / 8) + group * 16 + at];
        }
}

__device__ __forceinline__ void load(Group& of, const Layer& layer, int group) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 2 * TILES_N; i++) {
        long long out = min(layer.first + 8 * i + lane / 4, layer.n - 1);
        of.words[i / 2][i % 2] = halves((const uint2*)(layer.weight + out * (layer.k / 32) + group * 4) + lane % 4);
        long long at = out * (layer.k / GROUP) + group / (GROUP / 128);
        of.scale[i / 2][i % 2] = __ldg(layer.scale + at);
        if (ZEROS) of.zero[i / 2][i % 2] = __ldg(layer.zero + at);
    }
    load_x(of, layer, group);
}

__device__ __forceinline__ void add(float (&sums)[TILES_N][TILES_M][4], const Group& of) {
#pragma unroll
    for (int i = 0; i < TILES_N; i++) {
        u32 minus_low = twice(-(BASE + (ZEROS ? (float)of.zero[i][0] : 8.0f)));
        u32 minus_high = twice(-(BASE + (ZEROS ? (float)of.zero[i][1] : 8.0f)));
        float part[TILES_M][4] = {};
#pragma unroll
        for (int step = 0; step < 8; step++) {  // nibbles 0, 4 and 1, 5 of a word, then 2, 6 and 3, 7
            u32 a = word_of(of.words[i][0], step / 2), b = word_of(of.words[i][1], step / 2);
            int even = step % 2 * 2, odd = even + 1;
            u32 a0 = nibbles(a, even, minus_low), a1 = nibbles(b, even, minus_high);
            u32 a2 = nibbles(a, odd, minus_low), a3 = nibbles(b, odd, minus_high);
#pragma unroll
            for (int t = 0; t < TILES_M; t++) {
                const uint4& x = of.x[t][step / 2];
                u32 low = step % 2 ? x.y : x.x, high = step % 2 ? x.w : x.z;
                product(part[t], a0, a1, a2, a3, __byte_perm(low, high, 0x5410), __byte_perm(low, high, 0x7632));
            }
        }
#pragma unroll
        for (int t = 0; t < TILES_M; t++)
#pragma unroll
            for (int j = 0; j < 4; j++) sums[i][t][j] = fmaf(part[t][j], of.scale[i][j / 2], sums[i][t][j]);
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS) few_rows(
    const uint4* x, const uint4* weight, const float* scale, const unsigned char* zero, const unsigned short* bias,
    unsigned short* out, int m, int n, int k) {
    __shared__ float shared[WARPS][ROWS][OUTS];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * OUTS, groups = k / 128;
    Layer layer = {x, weight, scale, zero, first, m, n, k};
    float sums[TILES_N][TILES_M][4] = {};
    Group next;
    if (warp < groups) load(next, layer, warp);
    for (int group = warp; group < groups; group += WARPS) {
        add(sums, next);
        if (group + WARPS < groups) load(next, layer, group + WARPS);
    }
#pragma unroll
    for (int i = 0; i < TILES_N; i++)
#pragma unroll
        for (int t = 0; t < TILES_M; t++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                shared[warp][8 * t + lane % 4 * 2 + j % 2][16 * i + j / 2 * 8 + lane / 4] = sums[i][t][j];
    __syncthreads();
    for (int i = threadIdx.x; i < min(m, ROWS) * OUTS; i += 32 * WARPS) {
        int row = i / OUTS, column = first + i % OUTS;
        if (column >= n) continue;
        float sum = BIAS ? as_float(bias[column]) : 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += shared[w][row][i % OUTS];
        out[(long long)row * n + column] = (unsigned short)twice(sum);
    }
}
