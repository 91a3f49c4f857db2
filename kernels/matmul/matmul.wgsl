// C = A B, batched, float32. A workgroup of 16 x 16 makes a tile of 64 x 64; each invocation makes 4 x 4 of it.
// Tiles of A and B pass through workgroup memory 16 columns at a time; what lies beyond an edge is zero.

struct Sizes { m: u32, n: u32, k: u32, b_is_shared: u32 }

@group(0) @binding(0) var<storage, read> a: array<f32>;         // (batch, m, k)
@group(0) @binding(1) var<storage, read> b: array<f32>;         // (batch, k, n), or (k, n) for all
@group(0) @binding(2) var<storage, read_write> c: array<f32>;   // (batch, m, n)
@group(0) @binding(3) var<uniform> size: Sizes;

const TILE = 64u;
const DEEP = 16u;
const EACH = 4u;

var<workgroup> left: array<array<f32, 64>, 16>;    // [k][row]: a column of A lies side by side
var<workgroup> right: array<array<f32, 64>, 16>;   // [k][column]

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) here: vec3<u32>) {
    let row0 = group.y * TILE;
    let col0 = group.x * TILE;
    let a0 = group.z * size.m * size.k;
    let b0 = select(group.z * size.k * size.n, 0u, size.b_is_shared == 1u);
    let lane = here.y * 16u + here.x;
    var sum: array<vec4<f32>, 4>;

    for (var k0 = 0u; k0 < size.k; k0 += DEEP) {
        for (var i = lane; i < TILE * DEEP; i += 256u) {
            let r = i / DEEP;
            let ka = i % DEEP;
            let is_in = row0 + r < size.m && k0 + ka < size.k;
            left[ka][r] = select(0.0, a[select(0u, a0 + (row0 + r) * size.k + k0 + ka, is_in)], is_in);
            let kb = i / TILE;
            let q = i % TILE;
            let is_b = k0 + kb < size.k && col0 + q < size.n;
            right[kb][q] = select(0.0, b[select(0u, b0 + (k0 + kb) * size.n + col0 + q, is_b)], is_b);
        }
        workgroupBarrier();
        for (var k = 0u; k < DEEP; k++) {
            let at = here.x * EACH;
            let v = vec4<f32>(right[k][at], right[k][at + 1u], right[k][at + 2u], right[k][at + 3u]);
            for (var r = 0u; r < EACH; r++) {
                sum[r] += left[k][here.y * EACH + r] * v;
            }
        }
        workgroupBarrier();
    }
    for (var r = 0u; r < EACH; r++) {
        for (var q = 0u; q < EACH; q++) {
            let row = row0 + here.y * EACH + r;
            let col = col0 + here.x * EACH + q;
            if (row < size.m && col < size.n) {
                c[group.z * size.m * size.n + row * size.n + col] = sum[r][q];
            }
        }
    }
}
