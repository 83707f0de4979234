// stdlib/softmax.sdl:4 softmax
// grid 2 × 1 × 1, group 64 × 2 × 1
//
//   group0 b < 2 step 2
//     lane1 b.lane < 2
//       lane0 j.lane < 64  (reduced, guarded)
//         for j < 2 step 64  (reduced, guarded)
enable f16;
@group(0) @binding(0) var<storage, read_write> x: array<f16>;
@group(0) @binding(1) var<storage, read_write> s_m: array<f32>;
@group(0) @binding(2) var<storage, read_write> s_l: array<f32>;
var<workgroup> shared_m: array<f32, 128>;
var<workgroup> shared_l: array<f32, 128>;

@compute @workgroup_size(64, 2, 1)
fn softmax_s(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
  let group_x = i32(group.x);
  let lane_x = i32(lane.x);
  let lane_y = i32(lane.y);
  var total_m: f32 = -0x1.fffffep+127f;
  var total_l: f32 = 0.0f;
  let at1 = group_x * 154 + lane_y * 77;
  for (var j = 0; j < 2; j++) {
    let at = j * 64 + lane_x;
    let inside = at < 77;
    let value = select(-0x1.fffffep+127f, f32(x[at1 + min(at, 76)]), inside);
    let value1 = max(total_m, value);
    let next1 = fma(select(0.0f, 1.0f, inside), exp(value - value1), total_l * exp(total_m - value1));
    total_m = value1;
    total_l = next1;
  }
  let cell = lane_y * 64 + lane_x;
  shared_m[cell] = total_m;
  shared_l[cell] = total_l;
  workgroupBarrier();
  let shared_m_at = shared_m[cell];
  let at2 = lane_y * 64 + min(lane_x + 32, 63);
  let shared_m_at1 = shared_m[at2];
  let value2 = max(shared_m_at, shared_m_at1);
  let total1 = fma(shared_l[at2], exp(shared_m_at1 - value2), shared_l[cell] * exp(shared_m_at - value2));
  if (lane_x < 32) { shared_m[cell] = value2; }
  if (lane_x < 32) { shared_l[cell] = total1; }
  workgroupBarrier();
  let shared_m_at2 = shared_m[cell];
  let at3 = lane_y * 64 + min(lane_x + 16, 63);
  let shared_m_at3 = shared_m[at3];
  let value3 = max(shared_m_at2, shared_m_at3);
  let total3 = fma(shared_l[at3], exp(shared_m_at3 - value3), shared_l[cell] * exp(shared_m_at2 - value3));
  if (lane_x < 16) { shared_m[cell] = value3; }
  if (lane_x < 16) { shared_l[cell] = total3; }
  workgroupBarrier();
  let shared_m_at4 = shared_m[cell];
  let at4 = lane_y * 64 + min(lane_x + 8, 63);
  let shared_m_at5 = shared_m[at4];
  let value4 = max(shared_m_at4, shared_m_at5);
  let total5 = fma(shared_l[at4], exp(shared_m_at5 - value4), shared_l[cell] * exp(shared_m_at4 - value4));
  if (lane_x < 8) { shared_m[cell] = value4; }
  if (lane_x < 8) { shared_l[cell] = total5; }
  workgroupBarrier();
  let shared_m_at6 = shared_m[cell];
  let at5 = lane_y * 64 + min(lane_x + 4, 63);
  let shared_m_at7 = shared_m[at5];
  let value5 = max(shared_m_at6, shared_m_at7);
  let total7 = fma(shared_l[at5], exp(shared_m_at7 - value5), shared_l[cell] * exp(shared_m_at6 - value5));
  if (lane_x < 4) { shared_m[cell] = value5; }
  if (lane_x < 4) { shared_l[cell] = total7; }
  workgroupBarrier();
  let shared_m_at8 = shared_m[cell];
  let at6 = lane_y * 64 + min(lane_x + 2, 63);
  let shared_m_at9 = shared_m[at6];
  let value6 = max(shared_m_at8, shared_m_at9);
  let total9 = fma(shared_l[at6], exp(shared_m_at9 - value6), shared_l[cell] * exp(shared_m_at8 - value6));
  if (lane_x < 2) { shared_m[cell] = value6; }
  if (lane_x < 2) { shared_l[cell] = total9; }
  workgroupBarrier();
  let shared_m_at10 = shared_m[cell];
  let at7 = lane_y * 64 + min(lane_x + 1, 63);
  let shared_m_at11 = shared_m[at7];
  let value7 = max(shared_m_at10, shared_m_at11);
  let total11 = fma(shared_l[at7], exp(shared_m_at11 - value7), shared_l[cell] * exp(shared_m_at10 - value7));
  if (lane_x < 1) { shared_m[cell] = value7; }
  if (lane_x < 1) { shared_l[cell] = total11; }
  workgroupBarrier();
  let at8 = group_x * 2 + lane_y;
  let at9 = lane_y * 64;
  let inside1 = lane_x == 0;
  if (inside1) { s_m[at8] = shared_m[at9]; }
  if (inside1) { s_l[at8] = shared_l[at9]; }
}

// stdlib/softmax.sdl:5 softmax
// grid 4 × 1 × 1, group 77 × 1 × 1
//
//   group0 b < 4
//     group0 i < 1 step 77
//       lane0 i.lane < 77
enable f16;
@group(0) @binding(0) var<storage, read_write> x: array<f16>;
@group(0) @binding(1) var<storage, read_write> s_m: array<f32>;
@group(0) @binding(2) var<storage, read_write> s_l: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f16>;

@compute @workgroup_size(77, 1, 1)
fn softmax_out(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
  let group_x = i32(group.x);
  let lane_x = i32(lane.x);
  let at = group_x * 77 + lane_x;
  out[at] = f16(exp(f32(x[at]) - s_m[group_x]) / s_l[group_x]);
}
