// One explicit Euler step of two species on a periodic grid, five-point Laplacian.
// u' = D_u Lap u - u v^2 + feed (1 - u),  v' = D_v Lap v + u v^2 - (feed + kill) v.   Source: Pearson 1993.

struct Setting { height: u32, width: u32, diffusion_u: f32, diffusion_v: f32, feed: f32, kill: f32, dt: f32, per_h2: f32 }

@group(0) @binding(0) var<storage, read> before: array<f32>;        // (batch, 2, height, width)
@group(0) @binding(1) var<storage, read_write> after: array<f32>;
@group(0) @binding(2) var<uniform> rule: Setting;

fn laplacian(start: u32, y: u32, x: u32) -> f32 {
    let up = select(y - 1u, rule.height - 1u, y == 0u);
    let down = select(y + 1u, 0u, y == rule.height - 1u);
    let left = select(x - 1u, rule.width - 1u, x == 0u);
    let right = select(x + 1u, 0u, x == rule.width - 1u);
    let here = before[start + y * rule.width + x];
    let around = before[start + up * rule.width + x] + before[start + down * rule.width + x]
        + before[start + y * rule.width + left] + before[start + y * rule.width + right];
    return (around - 4.0 * here) * rule.per_h2;
}

@compute @workgroup_size(16, 16)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    if (at.x >= rule.width || at.y >= rule.height) {
        return;
    }
    let plane = rule.height * rule.width;
    let first = at.z * 2u * plane;
    let here = at.y * rule.width + at.x;
    let u = before[first + here];
    let v = before[first + plane + here];
    let made = u * v * v;
    after[first + here] = u + rule.dt * (rule.diffusion_u * laplacian(first, at.y, at.x) - made + rule.feed * (1.0 - u));
    after[first + plane + here] = v
        + rule.dt * (rule.diffusion_v * laplacian(first + plane, at.y, at.x) + made - (rule.feed + rule.kill) * v);
}
