// The diagonal of (H - z)^-1 of tridiagonal chains by continued fractions from both ends; one invocation a chain.
// Sites are the slow axis, so that neighbours in a workgroup read neighbouring floats.   Source: Godfrin 1991.

struct Sizes { chains: u32, sites: u32, energy_re: f32, energy_im: f32, diagonal: f32, link: f32 }

@group(0) @binding(0) var<storage, read> v: array<f32>;                  // (sites, chains)
@group(0) @binding(1) var<storage, read_write> green: array<vec2<f32>>;  // (sites, chains): real, imaginary
@group(0) @binding(2) var<uniform> size: Sizes;

fn inverse(x: vec2<f32>) -> vec2<f32> {
    let top = max(abs(x.x), abs(x.y));             // so that a square neither overflows nor vanishes
    let y = x / top;
    return vec2<f32>(y.x, -y.y) / (dot(y, y) * top);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    let chain = at.x;
    if (chain >= size.chains) {
        return;
    }
    let free = vec2<f32>(size.diagonal - size.energy_re, -size.energy_im);
    var below = vec2<f32>(0.0);                    // what the chain to the left takes from d; `link` is upper * lower
    for (var i = 0u; i < size.sites; i++) {
        green[i * size.chains + chain] = below;
        below = size.link * inverse(vec2<f32>(v[i * size.chains + chain], 0.0) + free - below);
    }
    var above = vec2<f32>(0.0);                    // and the one to the right
    for (var j = 0u; j < size.sites; j++) {
        let i = size.sites - 1u - j;
        let place = i * size.chains + chain;
        let d = vec2<f32>(v[place], 0.0) + free;
        let left = green[place];
        green[place] = inverse(d - left - above);
        above = size.link * inverse(d - above);
    }
}
