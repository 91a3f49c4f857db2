// Attention forward with statistics, for Hopper: a block owns 128 queries of a head, each of its two warpgroups 64.
// Both ask for the scores of the next tile before the values of the last one are added up, and exponentiate while the
// matrix unit does that. Tiles of 128 keys and values come by the copy engine; one thread tells it where there is room.
//
// Logits are in base 2. Query i stands at i + N - M; a key's place is told relative to the block's first query.
// Compiled with FLOAT16 (else bfloat16) and CAUSAL.

#include "hopper.cuh"

#define LENGTH 128               // queries of a block, keys of a tile
#define ROWS 64                  // queries of a warpgroup
#define CHUNK (LENGTH * 128)     // bytes of a tile's 64 columns
#define TILE (2 * CHUNK)
#define STAGES 2
#define FETCHER 128              // the thread that talks to the copy engine: of the second warpgroup
#define SLACK 8.0f               // sums are scaled once the maximum is ahead of what they are relative to by 2^8
#define LN_2 0.6931471805599453f
#define MINUS_INFINITY __int_as_float(0xff800000)

struct Shared {
    unsigned char q[TILE], k[STAGES][TILE], v[STAGES][TILE];
    uint2 monomials[8][32];      // of each 16 keys of a tile, what a lane holds of 1, b, b² / 128, b² % 128
    u64 q_there, k_there[STAGES], k_free[STAGES], v_there[STAGES], v_free[STAGES];
};

struct Problem {
    float scale;                 // of logits, in base 2
    float lowest, hidden;        // below any of them; a score that is below that
    int heads, m, n;
};

// Which tiles a block goes through, and where it stands.
struct Place {
    int b, h, row, first, tiles;
};

__device__ __forceinline__ Place place_of(const Problem& of) {
    int blocks = (of.m + LENGTH - 1) / LENGTH;
    int block = blockIdx.x % blocks, head = blockIdx.x / blocks;
    if (CAUSAL) block = blocks - 1 - block;  // the longest first
    Place at;
    at.b = head / of.heads, at.h = head % of.heads, at.row = block * LENGTH, at.first = at.row + of.n - of.m;
    int seen = CAUSAL ? min(of.n, max(at.first + LENGTH, 0)) : of.n;
    at.tiles = (seen + LENGTH - 1) / LENGTH;
    return at;
}

__device__ __forceinline__ void fetch_tile(u32 to, const Map* map, u32 barrier, int row, int head, int batch) {
    expect(barrier, TILE);
    fetch(to, map, barrier, 0, row, head, batch);
    fetch(to + CHUNK, map, barrier, 64, row, head, batch);
}

// Tiles of one head's keys, or of its values, in the shared memory of the block.
struct Tiles {
    const Map* map;
    u32 first, first_there, first_free;
    int head, batch, count;

    __device__ __forceinline__ u32 at(int tile) const { return first + tile % STAGES * TILE; }
    __device__ __forceinline__ u32 there(int tile) const { return first_there + tile % STAGES * 8; }
    __device__ __forceinline__ u32 free(int tile) const { return first_free + tile % STAGES * 8; }

    __device__ __forceinline__ void fetch(int tile) const {
        if (tile < count) fetch_tile(at(tile), map, there(tile), tile * LENGTH, head, batch);
    }

    __device__ __forceinline__ u32 wait_for(int tile) const {
        wait(there(tile), tile / STAGES & 1);
        return at(tile);
    }

    // A warp is done with a tile; one thread waits for the others, and fetches what takes its place.
    __device__ __forceinline__ void done_with(int tile) const {
        if (threadIdx.x % 32 == 0) arrive(free(tile));
        if (threadIdx.x == FETCHER && tile + STAGES < count) {
            wait(free(tile), tile / STAGES & 1);
            fetch(tile + STAGES);
        }
    }
};

// Sums under the distributions of a thread's two rows, relative to 2^level. Those of the first line are of a thread's
// own columns, those of the second of whole rows, in parts that lie in the four threads of a row.
struct Sums {
    float level[2], top[2], mass[2], heat[2], square[2];
    float weight[2], place[2], second[2], span[2];
};

__device__ __forceinline__ void masked(float (&s)[64], const Problem& of, int start, int pos) {
    int key = start + 2 * (threadIdx.x % 4);
#pragma unroll
    for (int i = 0; i < 64; i++) {
        int at = key + i / 4 * 8 + i % 2, row = pos + (i / 2 % 2) * 8;
        if (at >= of.n || (CAUSAL && at > row)) s[i] = of.hidden;
    }
}

// Scores become weights, and enter the sums; tells whether these were scaled, and by what.
__device__ __forceinline__ bool weigh(float (&s)[64], Sums& sums, float scale, float (&shrink)[2]) {
    float most[2][2] = {{s[0], s[1]}, {s[2], s[3]}};
#pragma unroll
    for (int i = 4; i < 64; i++) most[i / 2 % 2][i % 2] = fmaxf(most[i / 2 % 2][i % 2], s[i]);
    bool ahead = false;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sums.top[r] = fmaxf(sums.top[r], most_of_four(fmaxf(most[r][0], most[r][1])) * scale);
        ahead |= sums.top[r] - sums.level[r] > SLACK;
    }
    ahead = __any_sync(~0u, ahead);
    if (ahead) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float by = sums.level[r] - sums.top[r], f = power_of_two(by);
            shrink[r] = f, sums.level[r] = sums.top[r];
            sums.heat[r] = f * (sums.heat[r] + by * sums.mass[r]);
            sums.mass[r] *= f, sums.square[r] *= f * f;
            sums.weight[r] *= f, sums.place[r] *= f, sums.second[r] *= f, sums.span[r] *= f;
        }
    }
#pragma unroll
    for (int i = 0; i < 64; i++) {
        int r = i / 2 % 2;
        float t = fmaf(s[i], scale, -sums.level[r]), p = power_of_two(t);
        sums.mass[r] += p, sums.heat[r] = fmaf(p, t, sums.heat[r]), sums.square[r] = fmaf(p, p, sums.square[r]);
        s[i] = p;
    }
    return ahead;
}

__device__ __forceinline__ void narrowed(const float (&s)[64], u32 (&p)[8][4]) {
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) p[i][j] = pair(s[8 * i + 2 * j], s[8 * i + 2 * j + 1]);
}

// Where the weights of a tile lie: by the matrix unit, but where keys lie on both sides of a query, distances.
__device__ __forceinline__ void locate(
    const Shared& at, const u32 (&p)[8][4], Sums& sums, int start, int pos, int first) {
    float r[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    int lane = threadIdx.x % 32, column = lane % 4;
#pragma unroll
    for (int i = 0; i < 8; i++) small_product(r, p[i], at.monomials[i][lane]);
    float base = start - first;
    int block_pos = pos - lane / 4 - threadIdx.x % 128 / 32 * 16;  // of the warpgroup's first query
    bool before = start + LENGTH - 1 <= block_pos, after = start >= block_pos + ROWS - 1;
    bool across = !CAUSAL && !before && !after;
    float sign = CAUSAL || before ? -1.0f : 1.0f;
#pragma unroll
    for (int row = 0; row < 2; row++) {
        float a = r[2 * row], b = r[2 * row + 1];
        if (column == 0) {
            sums.weight[row] += a;
            sums.place[row] += fmaf(base, a, b);
            sums.second[row] += base * fmaf(base, a, 2.0f * b);
            if (!across) sums.span[row] += sign * fmaf((float)(start - pos - 8 * row), a, b);
        }
        if (column == 1) sums.second[row] += fmaf(128.0f, a, b);
    }
    if (across) {
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int key = start + 16 * i + j / 2 * 8 + 2 * column, query = pos + j % 2 * 8;
                float far = abs(key - query), farther = abs(key + 1 - query);
                sums.span[j % 2] += fmaf(low_of(p[i][j]), far, high_of(p[i][j]) * farther);
            }
    }
}

__device__ __forceinline__ void scores(float (&s)[64], u32 q, u32 k) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
        u32 at = i / 4 * CHUNK + i % 4 * 32;
        product(s, tile_at(q + at, 16), tile_at(k + at, 16), i > 0);
    }
}

__device__ __forceinline__ void gather(float (&out)[64], const u32 (&p)[8][4], u32 v) {
#pragma unroll
    for (int i = 0; i < 8; i++) product(out, p[i], tile_at(v + i * 2048, CHUNK));
}

// Weighted values of one warpgroup's queries, and the sums.
__device__ __forceinline__ void consume(
    const Shared& at, const Tiles& keys, const Tiles& values, const Problem& of, const Place& place, int mine,
    float (&out)[64], Sums& sums, int pos) {
    float s[64], shrink[2];
    u32 p[8][4], q = address_of(at.q) + mine * ROWS * 128;
    int first_of_mine = place.first + mine * ROWS;
    auto edge = [&](int start) { return start + LENGTH > of.n || (CAUSAL && start + LENGTH - 1 > first_of_mine); };

    wait(address_of(&at.q_there), 0);
    u32 k = keys.wait_for(0);
    products_begin();
    scores(s, q, k);
    products_commit();
    products_wait<0>();
    hold(s);
    keys.done_with(0);
    if (edge(0)) masked(s, of, 0, pos);
    weigh(s, sums, of.scale, shrink);
    narrowed(s, p);
    locate(at, p, sums, 0, pos, place.first);

    for (int tile = 1; tile < place.tiles; tile++) {
        k = keys.wait_for(tile);
        u32 v = values.wait_for(tile - 1);
        hold(s);
        hold(out);
        products_begin();
        scores(s, q, k);
        products_commit();
        gather(out, p, v);
        products_commit();
        products_wait<1>();
        hold(s);
        keys.done_with(tile);
        if (edge(tile * LENGTH)) masked(s, of, tile * LENGTH, pos);
        bool scaled = weigh(s, sums, of.scale, shrink);
        products_wait<0>();
        hold(out);
        values.done_with(tile - 1);
        if (scaled) {
#pragma unroll
            for (int i = 0; i < 64; i++) out[i] *= shrink[i / 2 % 2];
        }
        narrowed(s, p);
        locate(at, p, sums, tile * LENGTH, pos, place.first);
    }
    u32 v = values.wait_for(place.tiles - 1);
    hold(out);
    products_begin();
    gather(out, p, v);
    products_commit();
    products_wait<0>();
    hold(out);
}

// Through shared memory, where the warpgroup's queries were.
__device__ __forceinline__ void write(
    Shared& at, const Map* map, const float (&out)[64], const float (&share)[2], const Place& place, int mine) {
    int lane = threadIdx.x % 32, row = mine * ROWS + threadIdx.x % 128 / 32 * 16 + lane % 16;
    u32 q = address_of(at.q);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int column = 2 * i + lane / 16;  // of eight
        u32 to = q + column / 8 * CHUNK + row * 128 + ((column % 8) ^ (row % 8)) * 16;
        const float* x = out + 8 * i;
        store_blocks(to, pair(x[0] * share[0], x[1] * share[0]), pair(x[2] * share[1], x[3] * share[1]),
                     pair(x[4] * share[0], x[5] * share[0]), pair(x[6] * share[1], x[7] * share[1]));
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    meet(1 + mine, 128);
    if (threadIdx.x % 128 == 0) {
        int first = place.row + mine * ROWS;
        put(map, q + mine * ROWS * 128, 0, first, place.h, place.b);
        put(map, q + mine * ROWS * 128 + CHUNK, 64, first, place.h, place.b);
        put_done();
    }
}

// A row's statistics, summed over the rows of a warp: 8 numbers a warp.
__device__ __forceinline__ void tell(const Sums& sums, const float (&total)[2], int row, int m, float* partial) {
    float found[6] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float weight = sum_of_four(sums.weight[r]), span = sum_of_four(sums.span[r]);
        float place = sum_of_four(sums.place[r]), second = sum_of_four(sums.second[r]);
        float heat = sum_of_four(sums.heat[r]), square = sum_of_four(sums.square[r]);
        if (row + 8 * r >= m || total[r] == 0.0f || threadIdx.x % 4 != 0) continue;
        float mean = place / weight, variance = second / weight - mean * mean;
        found[0] += span / weight;
        found[1] += (log2f(total[r]) - heat / total[r]) * LN_2;
        found[2] += variance < 0.0f ? 0.0f : variance;
        found[3] += power_of_two(sums.top[r] - sums.level[r]) / total[r];
        found[4] += total[r] * total[r] / square;
        found[5] += 1.0f;
    }
#pragma unroll
    for (int i = 0; i < 6; i++) {
        float all = sum_of_warp(found[i]);
        if (threadIdx.x % 32 == 0) partial[i] = all;
    }
}

__device__ __forceinline__ u32 monomial_pair(int column, int b) {
    auto of = [&](int b) {
        return column == 0 ? 1.0f : column == 1 ? (float)b : column == 2 ? (float)(b * b / 128)
             : column == 3 ? (float)(b * b % 128) : 0.0f;
    };
    return pair(of(b), of(b + 1));
}

extern "C" __global__ void __launch_bounds__(256, 1) forward(
    const __grid_constant__ Map q, const __grid_constant__ Map k, const __grid_constant__ Map v,
    const __grid_constant__ Map out_map, float* lse, float* partial, double scale, double lowest, int heads,
    int group, int m, int n) {
    extern __shared__ unsigned char raw[];
    Shared& at = *(Shared*)(raw + ((1024 - (address_of(raw) & 1023)) & 1023));
    Problem of = {(float)scale, (float)lowest, 2.0f * (float)lowest / (float)scale, heads, m, n};
    Place place = place_of(of);
    int of_keys = place.h / group, tiles = place.tiles;
    Tiles keys = {
        &k, address_of(at.k), address_of(at.k_there), address_of(at.k_free), of_keys, place.b, tiles};
    Tiles values = {
        &v, address_of(at.v), address_of(at.v_there), address_of(at.v_free), of_keys, place.b, tiles};
    int mine = threadIdx.x / 128, warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == FETCHER) {
        barrier_init(address_of(&at.q_there), 1);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(keys.there(i), 1), barrier_init(keys.free(i), 8);
            barrier_init(values.there(i), 1), barrier_init(values.free(i), 8);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    int i = threadIdx.x / 32, b = 16 * i + lane % 4 * 2;
    at.monomials[i][lane] = make_uint2(monomial_pair(lane / 4, b), monomial_pair(lane / 4, b + 8));
    __syncthreads();
    if (threadIdx.x == FETCHER && place.tiles > 0) {
        fetch_tile(address_of(at.q), &q, address_of(&at.q_there), place.row, place.h, place.b);
        for (int i = 0; i < STAGES; i++) keys.fetch(i), values.fetch(i);
    }
    int offset = mine * ROWS + warp * 16 + lane / 4;
    float out[64];
    Sums sums;
#pragma unroll
    for (int i = 0; i < 64; i++) out[i] = 0.0f;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sums.level[r] = sums.top[r] = of.lowest;
        sums.mass[r] = sums.heat[r] = sums.square[r] = 0.0f;
        sums.weight[r] = sums.place[r] = sums.second[r] = sums.span[r] = 0.0f;
    }
    if (place.tiles > 0) consume(at, keys, values, of, place, mine, out, sums, place.first + offset);
    float total[2], share[2];
    long long head = (long long)place.b * heads + place.h;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        total[r] = sum_of_four(sums.mass[r]);
        share[r] = total[r] == 0.0f ? 0.0f : 1.0f / total[r];
        int row = place.row + offset + 8 * r;
        if (lane % 4 == 0 && row < m)
            lse[head * m + row] = total[r] == 0.0f ? MINUS_INFINITY : (sums.level[r] + log2f(total[r])) * LN_2;
    }
    write(at, &out_map, out, share, place, mine);
    tell(sums, total, place.row + offset, m, partial + ((long long)blockIdx.x * 8 + mine * 4 + warp) * 8);
}

// Means over a head's rows, summed in one order; 0 where none attends to anything.
extern "C" __global__ void __launch_bounds__(256) means(const float* partial, float* stats, int parts, int heads) {
    __shared__ float sums[32][8];
    int column = threadIdx.x % 8, group = threadIdx.x / 8;
    const float* of_head = partial + (long long)blockIdx.x * parts * 8;
    float sum = 0.0f;
    if (column < 6)
        for (int i = group; i < parts; i += 32) sum += of_head[i * 8 + column];
    sums[group][column] = sum;
    __syncthreads();
    if (threadIdx.x >= 5) return;
    float total = 0.0f, rows = 0.0f;
    for (int i = 0; i < 32; i++) total += sums[i][threadIdx.x], rows += sums[i][5];
    stats[(long long)threadIdx.x * heads + blockIdx.x] = rows == 0.0f ? 0.0f : total / rows;
}
