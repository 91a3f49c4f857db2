// Diagonal of the resolvent of tridiagonal matrices, and its gradient; README.md derives what is computed here.
//
// A thread owns a chunk of SITES neighbouring sites and keeps them in registers; CHUNKS threads make a segment of a row,
// ROWS rows make a block. A chunk acts on what enters it by its four continuants, a normalised 2x2 map that serves both
// directions. Rows longer than a segment take three launches: `compose`, `carry`, and `diagonal` with what enters; the
// gradient two more. From the left a chunk hands on the self-energy itself, from the right it hands on 1 / (d - self-energy)
// of its first site, which the receiver multiplies by the link that it owns.
//
// Set by the compiler's options: REAL (float, double), SITES, CHUNKS, ROWS, LINKS (0: one coupling for all, 1: an array),
// FULL (1: n is a multiple of the segment and LINKS is 0, so that nothing is masked), OF_LINKS, OF_ENERGY (gradients).

typedef REAL real;
struct __align__(2 * sizeof(real)) complex_t { real re, im; };
struct minors_t { complex_t all, but_first, but_last, inner; };  // leading minors of a chunk, to a common factor
struct affine_t { complex_t scale, total; };                     // x -> scale x + total

#define THREADS (CHUNKS * ROWS)
#define SEGMENT (CHUNKS * SITES)
#define PITCH (SITES + 1)  // of a thread's sites in shared memory: no two threads of a warp meet in a bank
#define GROUP (CHUNKS < 8 ? CHUNKS : 8)  // chunks that are joined before what enters is handed on
#define SLOT(chunk) ((chunk) + (chunk) / GROUP)  // of a chunk's map in shared memory, apart for the banks' sake
#define STEPS (sizeof(real) == 4 ? 4 : 16)  // between two normalisations: |d| < 1e9 cannot overflow

struct chain_t {
    const real *v, *links; const complex_t* energies;
    int links_stride, energies_stride; real coupling, re, im;
    int batch, n, segments;
};
// As the host passes it: pointers, int and double. Without energies their stride is negative.
#define CHAIN                                                                                                  \
    const real *v, const real *links, const complex_t *energies, int links_stride, int energies_stride,        \
        double coupling, double re, double im, int batch, int n, int segments
#define THE_CHAIN                                                                                              \
    { v, links, energies, links_stride, energies_stride, (real)coupling, (real)re, (real)im, batch, n, segments }

__device__ __forceinline__ complex_t make(real re, real im) { complex_t c; c.re = re; c.im = im; return c; }
__device__ __forceinline__ complex_t operator+(complex_t a, complex_t b) { return make(a.re + b.re, a.im + b.im); }
__device__ __forceinline__ complex_t operator-(complex_t a, complex_t b) { return make(a.re - b.re, a.im - b.im); }
__device__ __forceinline__ complex_t operator*(real a, complex_t b) { return make(a * b.re, a * b.im); }
__device__ __forceinline__ complex_t operator*(complex_t a, complex_t b) {
    return make(a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re);
}
__device__ __forceinline__ complex_t conjugate(complex_t a) { return make(a.re, -a.im); }
__device__ __forceinline__ float over_one(float x) {
#ifdef HOST
    return 1.0f / x;
#else
    float y; asm("rcp.approx.f32 %0, %1;" : "=f"(y) : "f"(x)); return y;  // within one ulp, keeps subnormals
#endif
}
__device__ __forceinline__ double over_one(double x) { return 1.0 / x; }
__device__ __forceinline__ complex_t inverse(complex_t a) {
    real s = over_one(a.re * a.re + a.im * a.im);
    return make(a.re * s, -a.im * s);
}
__device__ __forceinline__ real larger(real a, complex_t b) {
    real x = b.re < 0 ? -b.re : b.re, y = b.im < 0 ? -b.im : b.im;
    x = x > y ? x : y;
    return a > x ? a : x;
}
__device__ __forceinline__ minors_t normalised(minors_t m) {
    real s = over_one(larger(larger(larger(larger(0, m.all), m.but_first), m.but_last), m.inner));
    m.all = s * m.all; m.but_first = s * m.but_first; m.but_last = s * m.but_last; m.inner = s * m.inner;
    return m;
}
__device__ __forceinline__ minors_t joined(minors_t a, real link, minors_t b) {
    minors_t m;
    m.all = a.all * b.all - link * (a.but_last * b.but_first);
    m.but_first = a.but_first * b.all - link * (a.inner * b.but_first);
    m.but_last = a.all * b.but_last - link * (a.but_last * b.inner);
    m.inner = a.but_first * b.but_last - link * (a.inner * b.inner);
    return normalised(m);
}
__device__ __forceinline__ complex_t through(minors_t m, real link, complex_t x, bool leftward) {
    complex_t sigma = leftward ? link * x : x;
    complex_t near = leftward ? m.but_first : m.but_last, far = leftward ? m.but_last : m.but_first;
    complex_t y = (near - sigma * m.inner) * inverse(m.all - sigma * far);
    return leftward ? y : link * y;
}
struct affines_t { affine_t by[2]; };  // of the chunk: rightward, leftward
__device__ __forceinline__ affine_t after(affine_t last, affine_t first) {
    affine_t a;
    a.total = last.scale * first.total + last.total; a.scale = last.scale * first.scale;
    return a;
}
__device__ __forceinline__ affines_t joined(affines_t a, real, affines_t b) {
    affines_t ab;
    ab.by[0] = after(b.by[0], a.by[0]); ab.by[1] = after(a.by[1], b.by[1]);
    return ab;
}
__device__ __forceinline__ complex_t through(const affines_t& m, real, complex_t x, bool leftward) {
    affine_t a = leftward ? m.by[1] : m.by[0];
    return a.scale * x + a.total;
}

struct place_t { int segment, row_of_block, chunk; long long row; bool inside; };

__device__ __forceinline__ place_t place(const chain_t& c) {
    place_t p;
    p.segment = blockIdx.x % c.segments;
    p.row_of_block = threadIdx.x / CHUNKS;
    p.chunk = threadIdx.x % CHUNKS;
    p.row = (long long)(blockIdx.x / c.segments) * ROWS + p.row_of_block;
    p.inside = p.row < c.batch;
    return p;
}
// Where what belongs to a segment lies, by direction.
__device__ __forceinline__ long long at(const place_t& p, const chain_t& c, int direction) {
    return ((long long)direction * c.batch + p.row) * c.segments + p.segment;
}

// What a thread knows of its chunk: v - Re z of each site, its link to the right, and Im z.
struct sites_t { real x[SITES], im, coupling; int last;
#if LINKS
    real link[SITES];
#endif
};
__device__ __forceinline__ real link(const sites_t& s, int k) {
#if LINKS
    return s.link[k];
#elif FULL
    return s.coupling;
#else
    return k < s.last ? s.coupling : 0;
#endif
}
__device__ __forceinline__ complex_t site(const sites_t& s, int k) { return make(s.x[k], -s.im); }

struct shared_t {
    complex_t stage[THREADS * PITCH];  // behind a thread's sites: what enters its chunk from the left
    complex_t from_the_right[THREADS], entering_group[2][THREADS / GROUP];  // by direction: 0 rightward, 1 leftward
    union { minors_t minors; affines_t sums; } maps[THREADS + THREADS / GROUP], group[THREADS / GROUP];
    real link[THREADS];
};

__device__ __forceinline__ complex_t& entering_chunk(shared_t& shared, int leftward, int thread) {
    return leftward ? shared.from_the_right[thread] : shared.stage[thread * PITCH + SITES];
}

// Between a segment of each row of the block, in memory, and `stage`, where each thread finds its sites in order.
template <class T>
__device__ void fetch(T* stage, const T* from, long long stride, int length, const chain_t& c) {
    int first = (blockIdx.x % c.segments) * SEGMENT;
    long long row = (long long)(blockIdx.x / c.segments) * ROWS;
#pragma unroll
    for (int k = 0; k < SITES; k++) {
        int e = k * THREADS + threadIdx.x, i = e % SEGMENT, r = e / SEGMENT;
        T value = T();
        if (row + r < c.batch && (FULL || first + i < length)) value = from[(row + r) * stride + first + i];
        stage[e / SITES * PITCH + e % SITES] = value;
    }
}
template <class Store>
__device__ __forceinline__ void put(const shared_t& shared, const chain_t& c, Store store) {
    int first = (blockIdx.x % c.segments) * SEGMENT;
    long long row = (long long)(blockIdx.x / c.segments) * ROWS;
#pragma unroll
    for (int k = 0; k < SITES; k++) {
        int e = k * THREADS + threadIdx.x, i = e % SEGMENT, r = e / SEGMENT;
        if (row + r < c.batch && (FULL || first + i < c.n))
            store((row + r) * c.n + first + i, shared.stage[e / SITES * PITCH + e % SITES]);
    }
}
__device__ __forceinline__ sites_t sites_of(shared_t& shared, const chain_t& c, const place_t& p) {
    real* stage = (real*)shared.stage;
    sites_t s;
    complex_t z = make(c.re, c.im);
    if (c.energies_stride >= 0 && p.inside) z = c.energies[p.row * c.energies_stride];
    const real zero = 0;
    s.im = z.im > 0 ? z.im : zero / zero;  // NaN: the resolvent may not exist there
    s.coupling = c.coupling;
    s.last = c.n - 1 - p.segment * SEGMENT - p.chunk * SITES;  // this site of the chunk would be the last of the row
#if LINKS
    fetch(stage, c.links, c.links_stride, c.n - 1, c);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < SITES; k++) s.link[k] = stage[threadIdx.x * PITCH + k];
    __syncthreads();
#endif
    fetch(stage, c.v, c.n, c.n, c);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < SITES; k++) s.x[k] = stage[threadIdx.x * PITCH + k] - z.re;
    __syncthreads();
    return s;
}
__device__ __forceinline__ minors_t minors_of(const sites_t& s) {
    minors_t m;
    m.all = site(s, 0); m.but_first = m.but_last = make(1, 0); m.inner = make(0, 0);
#pragma unroll
    for (int k = 1; k < SITES; k++) {
        complex_t d = site(s, k);
        real w = link(s, k - 1);
        complex_t all = d * m.all - w * m.but_last, but_first = d * m.but_first - w * m.inner;
        m.but_last = m.all; m.inner = m.but_first; m.all = all; m.but_first = but_first;
        if (k % STEPS == 0) m = normalised(m);
    }
    return normalised(m);
}


// What enters each chunk, from what enters the segment: groups of chunks are joined, what enters goes from group to group,
// then inside all groups at once.
template <class Map>
__device__ __forceinline__ void hand_on(shared_t& shared, const place_t& p, const chain_t& c, const complex_t* entering) {
    const int groups = CHUNKS / GROUP;
    int row = p.row_of_block * CHUNKS;
    auto map = [&](int chunk) -> Map& { return (Map&)shared.maps[SLOT(row + chunk)]; };
    auto group = [&](int g) -> Map& { return (Map&)shared.group[row / GROUP + g]; };
    __syncthreads();
    if (p.chunk < groups) {
        int first = p.chunk * GROUP;
        Map m = map(first);
        for (int k = first + 1; k < first + GROUP; k++) m = joined(m, shared.link[row + k - 1], map(k));
        group(p.chunk) = m;
    }
    __syncthreads();
    for (int leftward = p.chunk; leftward < 2; leftward += CHUNKS) {
        complex_t x = c.segments > 1 && p.inside ? entering[at(p, c, leftward)] : make(0, 0);
        for (int i = 0; i < groups; i++) {
            int g = leftward ? groups - 1 - i : i;
            shared.entering_group[leftward][row / GROUP + g] = x;
            x = through(group(g), shared.link[row + g * GROUP + GROUP - 1], x, leftward);
        }
    }
    __syncthreads();
    for (int t = p.chunk; t < 2 * groups; t += CHUNKS) {
        int leftward = t / groups, g = t % groups;
        complex_t x = shared.entering_group[leftward][row / GROUP + g];
        for (int i = 0; i < GROUP; i++) {
            int k = g * GROUP + (leftward ? GROUP - 1 - i : i);
            entering_chunk(shared, leftward, row + k) = x;
            x = through(map(k), shared.link[row + k], x, leftward);
        }
    }
    __syncthreads();
}
// From the left a self-energy enters, from the right the neighbour's 1 / (d - self-energy).
__device__ __forceinline__ void exchange(
    shared_t& shared, const sites_t& s, const place_t& p, const chain_t& c, const complex_t* entering
) {
    shared.maps[SLOT(threadIdx.x)].minors = minors_of(s);
    shared.link[threadIdx.x] = link(s, SITES - 1);
    hand_on<minors_t>(shared, p, c, entering);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) diagonal(CHAIN, const complex_t* entering, complex_t* out) {
    __shared__ shared_t shared;
    chain_t c = THE_CHAIN;
    place_t p = place(c);
    sites_t s = sites_of(shared, c, p);
    exchange(shared, s, p, c, entering);
    complex_t above[SITES], sigma = entering_chunk(shared, 0, threadIdx.x), below = entering_chunk(shared, 1, threadIdx.x);
#pragma unroll
    for (int k = 0; k < SITES; k++) {
        above[k] = site(s, k) - sigma;
        if (k + 1 < SITES) sigma = link(s, k) * inverse(above[k]);
    }
#pragma unroll
    for (int k = SITES - 1; k >= 0; k--) {
        sigma = link(s, k) * below;
        shared.stage[threadIdx.x * PITCH + k] = inverse(above[k] - sigma);
        if (k) below = inverse(site(s, k) - sigma);
    }
    __syncthreads();
    put(shared, c, [&](long long to, complex_t value) { out[to] = value; });
}

// In the first chunk of each row of the block: the map of the segment.
template <class Map>
__device__ __forceinline__ Map joined_all(shared_t& shared, const place_t& p, Map m) {
    auto map = [&](int thread) -> Map& { return (Map&)shared.maps[SLOT(thread)]; };
    map(threadIdx.x) = m;
    for (int step = 1; step < CHUNKS; step *= 2) {
        __syncthreads();
        if (p.chunk % (2 * step) == 0) {
            m = joined(m, shared.link[threadIdx.x + step - 1], map(threadIdx.x + step));
            map(threadIdx.x) = m;
        }
    }
    return m;
}

// Long rows: the minors of each segment, and its link to the next.
extern "C" __global__ void __launch_bounds__(THREADS) compose(CHAIN, minors_t* maps, real* last) {
    __shared__ shared_t shared;
    chain_t c = THE_CHAIN;
    place_t p = place(c);
    sites_t s = sites_of(shared, c, p);
    minors_t m = minors_of(s);
    shared.link[threadIdx.x] = link(s, SITES - 1);
    m = joined_all(shared, p, m);
    if (p.chunk == 0 && p.inside) maps[at(p, c, 0)] = m;
    if (p.chunk == CHUNKS - 1 && p.inside) last[at(p, c, 0)] = link(s, SITES - 1);
}

// Long rows: what enters each segment; a block takes one direction of one row, and fetches TILE segments at a time.
#define TILE 64
extern "C" __global__ void __launch_bounds__(TILE)
carry(const minors_t* maps, const real* last, complex_t* entering, int batch, int segments) {
    __shared__ minors_t map[TILE];
    __shared__ real link[TILE];
    bool leftward = blockIdx.x % 2;
    long long row = (long long)(blockIdx.x / 2) * segments;
    complex_t* out = entering + (leftward ? (long long)batch * segments : 0) + row;
    complex_t x = make(0, 0);
    for (int first = 0; first < segments; first += TILE) {
        int k = first + threadIdx.x;
        if (k < segments) {
            map[threadIdx.x] = maps[row + (leftward ? segments - 1 - k : k)];
            link[threadIdx.x] = last[row + (leftward ? segments - 1 - k : k)];
        }
        __syncthreads();
        if (threadIdx.x == 0)
            for (int i = 0; i < TILE && first + i < segments; i++) {
                out[leftward ? segments - 1 - first - i : first + i] = x;
                x = through(map[i], link[i], x, leftward);
            }
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(TILE)
carry_sums(const affine_t* totals, complex_t* entering, int batch, int segments) {
    __shared__ affine_t map[TILE];
    bool leftward = blockIdx.x % 2;
    long long row = (leftward ? (long long)batch * segments : 0) + (long long)(blockIdx.x / 2) * segments;
    complex_t x = make(0, 0);
    for (int first = 0; first < segments; first += TILE) {
        int k = first + threadIdx.x;
        if (k < segments) map[threadIdx.x] = totals[row + (leftward ? segments - 1 - k : k)];
        __syncthreads();
        if (threadIdx.x == 0)
            for (int i = 0; i < TILE && first + i < segments; i++) {
                entering[row + (leftward ? segments - 1 - first - i : first + i)] = x;
                x = map[i].scale * x + map[i].total;
            }
        __syncthreads();
    }
}

// What a chunk makes of the sums that enter it. Leaves the gradient of its sites where it found it: in `stage`.
__device__ __forceinline__ void affine_of(
    shared_t& shared, const sites_t& s, const chain_t& c, const complex_t* grad, complex_t sigma, complex_t below
) {
    fetch(shared.stage, grad, c.n, c.n, c);
    __syncthreads();
    complex_t* own = shared.stage + threadIdx.x * PITCH;
    affine_t right, left;
    right.scale = left.scale = make(1, 0);
    right.total = left.total = make(0, 0);
#pragma unroll
    for (int k = 0; k < SITES; k++) {
        complex_t rho = inverse(site(s, k) - sigma);
        sigma = link(s, k) * rho;
        complex_t f = sigma * rho;
        right.total = f * (right.total + conjugate(own[k]));
        right.scale = f * right.scale;
    }
#pragma unroll
    for (int k = SITES - 1; k >= 0; k--) {
        below = inverse(site(s, k) - link(s, k) * below);
        complex_t f = below * below;
        left.total = f * (link(s, k) * left.total + conjugate(own[k]));
        left.scale = f * (link(s, k) * left.scale);
    }
    shared.maps[SLOT(threadIdx.x)].sums.by[0] = right;
    shared.maps[SLOT(threadIdx.x)].sums.by[1] = left;
}

// Long rows: what each segment makes of the sums that enter it.
extern "C" __global__ void __launch_bounds__(THREADS)
totals(CHAIN, const complex_t* grad, const complex_t* entering, affine_t* out) {
    __shared__ shared_t shared;
    chain_t c = THE_CHAIN;
    place_t p = place(c);
    sites_t s = sites_of(shared, c, p);
    exchange(shared, s, p, c, entering);
    affine_of(shared, s, c, grad, entering_chunk(shared, 0, threadIdx.x), entering_chunk(shared, 1, threadIdx.x));
    affines_t m = joined_all(shared, p, shared.maps[SLOT(threadIdx.x)].sums);
    if (p.chunk == 0 && p.inside) {
        out[at(p, c, 0)] = m.by[0];
        out[at(p, c, 1)] = m.by[1];
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
gradient(
    CHAIN, const complex_t* grad, const complex_t* entering, const complex_t* sums,
    real* of_v, real* of_links, complex_t* of_energy
) {
    __shared__ shared_t shared;
    chain_t c = THE_CHAIN;
    place_t p = place(c);
    sites_t s = sites_of(shared, c, p);
    exchange(shared, s, p, c, entering);
    complex_t sigma = entering_chunk(shared, 0, threadIdx.x), below = entering_chunk(shared, 1, threadIdx.x);
    affine_of(shared, s, c, grad, sigma, below);
    hand_on<affines_t>(shared, p, c, sums);
    complex_t* own = shared.stage + threadIdx.x * PITCH;
    complex_t from_left = entering_chunk(shared, 0, threadIdx.x), from_right = entering_chunk(shared, 1, threadIdx.x);
    complex_t above[SITES], sum[SITES], energy = make(0, 0);
#pragma unroll
    for (int k = 0; k < SITES; k++) {
        above[k] = site(s, k) - sigma;
        sum[k] = from_left + conjugate(own[k]);
        complex_t rho = inverse(above[k]);
        sigma = link(s, k) * rho;
        from_left = (sigma * rho) * sum[k];
    }
#pragma unroll
    for (int k = SITES - 1; k >= 0; k--) {
        complex_t right = link(s, k) * from_right, here = site(s, k) - link(s, k) * below;
        complex_t g = inverse(above[k] - link(s, k) * below), gg = g * g;
        complex_t q = gg * (sum[k] + right), grad_k = conjugate(own[k]);
        own[k].re = -q.re;
#if OF_LINKS
        own[k].im = (gg * (sum[k] * below + from_right * above[k])).re;
#endif
#if OF_ENERGY
        if (k <= s.last) energy = energy + q;
#endif
        below = inverse(here);
        from_right = (below * below) * (right + grad_k);
    }
    __syncthreads();
    put(shared, c, [&](long long to, complex_t value) { of_v[to] = value.re; });
#if OF_LINKS
    put(shared, c, [&](long long to, complex_t value) { of_links[to] = value.im; });  // (batch, n): the last is of no link
#endif
#if OF_ENERGY
    shared.from_the_right[threadIdx.x] = energy;
    for (int step = 1; step < CHUNKS; step *= 2) {
        __syncthreads();
        if (p.chunk % (2 * step) == 0) shared.from_the_right[threadIdx.x] = shared.from_the_right[threadIdx.x] + shared.from_the_right[threadIdx.x + step];
    }
    if (p.chunk == 0 && p.inside) of_energy[at(p, c, 0)] = conjugate(shared.from_the_right[threadIdx.x]);
#endif
}
