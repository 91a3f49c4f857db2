// C = A B, batched, float32. A workgroup of 16 x 16 makes a tile of 64 x 64; each invocation makes 4 x 4 of it.
// Tiles of A and B pass through workgroup memory 16 columns at a time; what lies beyond an edge is zero.

struct Sizes { m: u32, n: u32, k: u32, b_is_shared: u32 }

@group(0) @binding(0) var<storage, read> a: array<f32>;         // (batch, m, k)
@group(0) @binding(1) var<storage, read> b: array<f32>;         // (batch, k, n), or (k, n) for all
@group(0) @binding(2) var<storage, read_write> c: array<f32>;   // (batch, m, n)
@group(0) @binding(3) var<uniform> size: Sizes;

const TILE = 64u;
const DEEP = 16u;

var<workgroup> left: array<array<vec4<f32>, 17>, 16>;   // [k][row / 4]; one wider, so that few writes share a bank
var<workgroup> right: array<array<vec4<f32>, 16>, 16>;  // [k][column / 4]

fn write(row: u32, column: u32, start: u32, x: vec4<f32>) {
    if (row < size.m) {
        for (var i = 0u; i < 4u; i++) {
            if (column + i < size.n) {
                c[start + row * size.n + column + i] = x[i];
            }
        }
    }
}

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) here: vec3<u32>) {
    let row0 = group.y * TILE;
    let col0 = group.x * TILE;
    let a0 = group.z * size.m * size.k;
    let b0 = select(group.z * size.k * size.n, 0u, size.b_is_shared == 1u);
    let lane = here.y * 16u + here.x;
    var first = vec4<f32>(0.0);                    // by name, not in an array: drivers keep an array that a loop
    var second = vec4<f32>(0.0);                   // indexes outside the registers
    var third = vec4<f32>(0.0);
    var fourth = vec4<f32>(0.0);

    for (var k0 = 0u; k0 < size.k; k0 += DEEP) {
        for (var i = lane; i < TILE * DEEP; i += 256u) {
            let r = i / DEEP;
            let ka = i % DEEP;
            let is_in = row0 + r < size.m && k0 + ka < size.k;
            left[ka][r / 4u][r % 4u] = select(0.0, a[select(0u, a0 + (row0 + r) * size.k + k0 + ka, is_in)], is_in);
            let kb = i / TILE;
            let q = i % TILE;
            let is_b = k0 + kb < size.k && col0 + q < size.n;
            right[kb][q / 4u][q % 4u] = select(0.0, b[select(0u, b0 + (k0 + kb) * size.n + col0 + q, is_b)], is_b);
        }
        workgroupBarrier();
        for (var k = 0u; k < DEEP; k++) {
            let x = left[k][here.y];
            let y = right[k][here.x];
            first += x.x * y;
            second += x.y * y;
            third += x.z * y;
            fourth += x.w * y;
        }
        workgroupBarrier();
    }
    let row = row0 + here.y * 4u;
    let column = col0 + here.x * 4u;
    let start = group.z * size.m * size.n;
    write(row, column, start, first);
    write(row + 1u, column, start, second);
    write(row + 2u, column, start, third);
    write(row + 3u, column, start, fourth);
}
