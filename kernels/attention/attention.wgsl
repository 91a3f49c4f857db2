// Softmax attention with a running maximum, float32, head dims up to 128: no M x N matrix is ever written.
// 1, 2 or 4 parts, each an invocation with 32 features of one query in registers, answer it together; neighbouring
// invocations hold other queries and the same features, so that all of them read one place of a tile at a time.
// Causal: the last query sees the last key. What a query sees follows from places alone, never from scores, so that NaN
// and infinity reach the answer.

struct Sizes { queries: u32, keys: u32, features: u32, is_causal: u32, scale: f32, parts: u32 }

@group(0) @binding(0) var<storage, read> q: array<f32>;          // (heads, queries, features)
@group(0) @binding(1) var<storage, read> k: array<f32>;          // (heads, keys, features)
@group(0) @binding(2) var<storage, read> v: array<f32>;          // (heads, keys, features)
@group(0) @binding(3) var<storage, read_write> out: array<f32>;  // (heads, queries, features)
@group(0) @binding(4) var<uniform> size: Sizes;

const THREADS = 128u;
const DEEP = 16u;                                  // keys of a tile
const EACH = 32u;                                  // features of a part
const LOW = -3.4028234e38;                         // the least finite score

var<workgroup> tile: array<array<vec4<f32>, 8>, 64>;   // [key * parts + part]: keys, then values; zero beyond an edge
var<workgroup> score: array<array<f32, 128>, 16>;      // [key][invocation]: over the features of its part

fn load(is_key: bool, key0: u32, n0: u32, lane: u32) {
    let wide = EACH * size.parts;
    for (var i = lane; i < DEEP * wide; i += THREADS) {
        let n = n0 + i / wide;
        let f = i % wide;
        let is_in = n < size.keys && f < size.features;
        let place = select(0u, key0 + n * size.features + f, is_in);
        var x = 0.0;
        if (is_key) { x = k[place]; } else { x = v[place]; }
        tile[i / EACH][i % EACH / 4u][i % 4u] = select(0.0, x, is_in);
    }
}

fn four(start: u32, f: u32) -> vec4<f32> {         // four features of q from f on, zero beyond the last
    var x = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i++) {
        let is_in = f + i < size.features;
        x[i] = select(0.0, q[select(0u, start + f + i, is_in)], is_in);
    }
    return x;
}

fn write(start: u32, f: u32, x: vec4<f32>) {
    for (var i = 0u; i < 4u; i++) {
        if (f + i < size.features) {
            out[start + f + i] = x[i];
        }
    }
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let parts = size.parts;
    let rows = THREADS / parts;                    // queries of this group
    let row = lane % rows;
    let part = lane / rows;
    let q0 = group.x * rows;
    let key0 = group.y * size.keys * size.features;
    let query = min(q0 + row, size.queries - 1u);  // a row beyond the last computes that one again
    let mine = (group.y * size.queries + query) * size.features;
    let first = part * EACH;
    let offset = i32(size.keys) - i32(size.queries);
    var seen = size.keys;                          // keys that this query sees
    var last = size.keys;                          // keys that any query of this group sees; the same for all of it
    if (size.is_causal == 1u) {
        seen = u32(clamp(i32(query) + 1 + offset, 0, i32(size.keys)));
        last = u32(clamp(i32(q0 + rows) + offset, 0, i32(size.keys)));
    }
    // by name, not in an array: drivers keep an array that a loop indexes outside the registers
    let qa = four(mine, first) * size.scale;
    let qb = four(mine, first + 4u) * size.scale;
    let qc = four(mine, first + 8u) * size.scale;
    let qd = four(mine, first + 12u) * size.scale;
    let qe = four(mine, first + 16u) * size.scale;
    let qf = four(mine, first + 20u) * size.scale;
    let qg = four(mine, first + 24u) * size.scale;
    let qh = four(mine, first + 28u) * size.scale;
    var a = vec4<f32>(0.0);
    var b = vec4<f32>(0.0);
    var c = vec4<f32>(0.0);
    var d = vec4<f32>(0.0);
    var e = vec4<f32>(0.0);
    var f = vec4<f32>(0.0);
    var g = vec4<f32>(0.0);
    var h = vec4<f32>(0.0);
    var top = LOW;
    var total = 0.0;

    for (var n0 = 0u; n0 < last; n0 += DEEP) {
        workgroupBarrier();
        load(true, key0, n0, lane);
        workgroupBarrier();
        for (var j = 0u; j < DEEP; j++) {
            let at = j * parts + part;
            let even = qa * tile[at][0] + qc * tile[at][2] + qe * tile[at][4] + qg * tile[at][6];
            let odd = qb * tile[at][1] + qd * tile[at][3] + qf * tile[at][5] + qh * tile[at][7];
            let both = even + odd;
            score[j][lane] = (both.x + both.y) + (both.z + both.w);
        }
        workgroupBarrier();
        load(false, key0, n0, lane);
        let count = min(seen - min(seen, n0), DEEP);  // keys of this tile that this query sees
        var peak = top;
        for (var j = 0u; j < count; j++) {
            peak = max(peak, whole(j, row, rows));
        }
        workgroupBarrier();
        let fade = exp(top - peak);
        total *= fade;
        a *= fade;
        b *= fade;
        c *= fade;
        d *= fade;
        e *= fade;
        f *= fade;
        g *= fade;
        h *= fade;
        for (var j = 0u; j < count; j++) {
            let p = exp(whole(j, row, rows) - peak);
            let at = j * parts + part;
            total += p;
            a += p * tile[at][0];
            b += p * tile[at][1];
            c += p * tile[at][2];
            d += p * tile[at][3];
            e += p * tile[at][4];
            f += p * tile[at][5];
            g += p * tile[at][6];
            h += p * tile[at][7];
        }
        top = peak;
    }
    if (q0 + row < size.queries) {
        let share = select(0.0, 1.0 / total, seen > 0u);
        write(mine, first, a * share);
        write(mine, first + 4u, b * share);
        write(mine, first + 8u, c * share);
        write(mine, first + 12u, d * share);
        write(mine, first + 16u, e * share);
        write(mine, first + 20u, f * share);
        write(mine, first + 24u, g * share);
        write(mine, first + 28u, h * share);
    }
}

fn whole(key: u32, row: u32, rows: u32) -> f32 {   // a score over all parts, in the same order for each of them
    var s = score[key][row];
    for (var at = row + rows; at < THREADS; at += rows) {
        s += score[key][at];
    }
    return s;
}
