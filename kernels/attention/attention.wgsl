// Softmax attention with a running maximum, float32, head dims up to 128: no M x N matrix is ever written.
// A workgroup answers 16 queries of one head. 16 invocations share a query: each scores one key of a tile of 16, then
// sums every 16th feature of the answer. Causal: the last query sees the last key.

struct Sizes { queries: u32, keys: u32, features: u32, is_causal: u32, scale: f32 }

@group(0) @binding(0) var<storage, read> q: array<f32>;          // (heads, queries, features)
@group(0) @binding(1) var<storage, read> k: array<f32>;          // (heads, keys, features)
@group(0) @binding(2) var<storage, read> v: array<f32>;          // (heads, keys, features)
@group(0) @binding(3) var<storage, read_write> out: array<f32>;  // (heads, queries, features)
@group(0) @binding(4) var<uniform> size: Sizes;

const WIDE = 16u;
const MOST = 128u;
const EACH = 8u;                                   // features of the answer that an invocation sums: MOST / WIDE
const LOW = -3.0e38;

var<workgroup> query: array<array<f32, 128>, 16>;  // 8 KiB; two more make 24 of the 32 KiB that every device has
var<workgroup> tile: array<array<f32, 128>, 16>;   // keys, then values
var<workgroup> score: array<array<f32, 16>, 16>;   // [query][key]

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) here: vec3<u32>) {
    let lane = here.x;
    let row = here.y;
    let d = size.features;
    let q0 = group.x * WIDE;
    let head = group.y;
    let query0 = head * size.queries * d;
    let key0 = head * size.keys * d;
    let offset = i32(size.keys) - i32(size.queries);
    let at = i32(q0 + row);

    for (var f = lane; f < d; f += WIDE) {
        let is_in = q0 + row < size.queries;
        query[row][f] = select(0.0, q[select(0u, query0 + (q0 + row) * d + f, is_in)], is_in);
    }
    var top = LOW;
    var total = 0.0;
    var sum: array<f32, 8>;
    var last = size.keys;                          // keys that any query of this group sees; the same for all of it
    if (size.is_causal == 1u) {
        last = u32(clamp(i32(q0 + WIDE) + offset, 0, i32(size.keys)));
    }

    for (var n0 = 0u; n0 < last; n0 += WIDE) {
        workgroupBarrier();
        for (var f = lane; f < d; f += WIDE) {
            let is_in = n0 + row < size.keys;
            tile[row][f] = select(0.0, k[select(0u, key0 + (n0 + row) * d + f, is_in)], is_in);
        }
        workgroupBarrier();
        var s = 0.0;
        for (var f = 0u; f < d; f++) {
            s += query[row][f] * tile[lane][f];
        }
        let seen = n0 + lane < size.keys && (size.is_causal == 0u || i32(n0 + lane) <= at + offset);
        score[row][lane] = select(LOW, s * size.scale, seen);
        workgroupBarrier();
        for (var f = lane; f < d; f += WIDE) {
            let is_in = n0 + row < size.keys;
            tile[row][f] = select(0.0, v[select(0u, key0 + (n0 + row) * d + f, is_in)], is_in);
        }
        var peak = top;
        for (var j = 0u; j < WIDE; j++) {
            peak = max(peak, score[row][j]);
        }
        workgroupBarrier();
        if (peak > LOW) {
            let fade = exp(top - peak);
            total *= fade;
            for (var e = 0u; e < EACH; e++) {
                sum[e] *= fade;
            }
            for (var j = 0u; j < WIDE; j++) {
                if (score[row][j] > LOW) {
                    let p = exp(score[row][j] - peak);
                    total += p;
                    for (var e = 0u; e < EACH; e++) {
                        if (lane + e * WIDE < d) {
                            sum[e] += p * tile[j][lane + e * WIDE];
                        }
                    }
                }
            }
            top = peak;
        }
    }
    if (q0 + row < size.queries) {
        for (var e = 0u; e < EACH; e++) {
            let f = lane + e * WIDE;
            if (f < d) {
                out[query0 + (q0 + row) * d + f] = select(0.0, sum[e] / total, total > 0.0);
            }
        }
    }
}
