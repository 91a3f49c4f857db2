// Softmax attention with a running maximum, float32, head dims up to 128: no M x N matrix is ever written.
// A workgroup answers 16 queries of one head. 16 invocations share a query: each scores one key of a tile of 16, then
// sums every 16th feature of the answer. Causal: the last query sees the last key. What a query sees follows from places
// alone, never from scores, so that NaN and infinity reach the answer.

struct Sizes { queries: u32, keys: u32, features: u32, is_causal: u32, scale: f32 }

@group(0) @binding(0) var<storage, read> q: array<f32>;          // (heads, queries, features)
@group(0) @binding(1) var<storage, read> k: array<f32>;          // (heads, keys, features)
@group(0) @binding(2) var<storage, read> v: array<f32>;          // (heads, keys, features)
@group(0) @binding(3) var<storage, read_write> out: array<f32>;  // (heads, queries, features)
@group(0) @binding(4) var<uniform> size: Sizes;

const WIDE = 16u;
const MOST = 128u;
const EACH = 8u;                                   // features of the answer that an invocation sums: MOST / WIDE
const LOW = -3.4028234e38;                         // the least finite score

var<workgroup> tile: array<array<f32, 129>, 16>;   // keys, then values; one wider, so that no two rows share a bank
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
    let mine = query0 + min(q0 + row, size.queries - 1u) * d;  // a row beyond the last computes that one again
    let offset = i32(size.keys) - i32(size.queries);
    var top = LOW;
    var total = 0.0;
    var sum: array<f32, 8>;
    var seen = size.keys;                          // keys that this query sees
    var last = size.keys;                          // keys that any query of this group sees; the same for all of it
    if (size.is_causal == 1u) {
        seen = u32(clamp(i32(q0 + row) + 1 + offset, 0, i32(size.keys)));
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
            s += q[mine + f] * tile[lane][f];
        }
        score[row][lane] = s * size.scale;
        workgroupBarrier();
        for (var f = lane; f < d; f += WIDE) {
            let is_in = n0 + row < size.keys;
            tile[row][f] = select(0.0, v[select(0u, key0 + (n0 + row) * d + f, is_in)], is_in);
        }
        let count = min(seen - min(seen, n0), WIDE);  // keys of this tile that this query sees
        var peak = top;
        for (var j = 0u; j < count; j++) {
            peak = max(peak, score[row][j]);
        }
        workgroupBarrier();
        let fade = exp(top - peak);
        total *= fade;
        for (var e = 0u; e < EACH; e++) {
            sum[e] *= fade;
        }
        for (var j = 0u; j < count; j++) {
            let p = exp(score[row][j] - peak);
            total += p;
            for (var e = 0u; e < EACH; e++) {
                if (lane + e * WIDE < d) {
                    sum[e] += p * tile[j][lane + e * WIDE];
                }
            }
        }
        top = peak;
    }
    if (q0 + row < size.queries) {
        for (var e = 0u; e < EACH; e++) {
            let f = lane + e * WIDE;
            if (f < d) {
                out[query0 + (q0 + row) * d + f] = select(0.0, sum[e] / total, seen > 0u);
            }
        }
    }
}
