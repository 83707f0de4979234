// stdlib/softmax.sdl:4 softmax
// stdlib/softmax.sdl:5 softmax
// grid 4 × 1 × 1, group 64 × 1 × 1
//
//   group0 b < 4
//     lane0 i.lane < 64  (guarded)
//       for i < 2 step 64  (guarded)
//   stage s outermost in private: 1
//     lane0 j.lane < 64  (reduced, guarded)
//       for b < 1
//         for j < 2 step 64  (reduced, guarded)
enable f16;
@group(0) @binding(0) var<storage, read_write> x: array<f16>;
@group(0) @binding(1) var<storage, read_write> out: array<f16>;
var<workgroup> shared_m: array<f32, 64>;
var<workgroup> shared_l: array<f32, 64>;

@compute @workgroup_size(64, 1, 1)
fn softmax_out(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
  let group_x = i32(group.x);
  let lane_x = i32(lane.x);
  let at1 = group_x * 77;
  let at2 = min(lane_x + 32, 63);
  let at3 = min(lane_x + 16, 63);
  let at4 = min(lane_x + 8, 63);
  let at5 = min(lane_x + 4, 63);
  let at6 = min(lane_x + 2, 63);
  let at7 = min(lane_x + 1, 63);
  var total_m: f32 = -0x1.fffffep+127f;
  var total_l: f32 = 0.0f;
  for (var s_j = 0; s_j < 2; s_j++) {  // j
    let at = s_j * 64 + lane_x;
    let inside = at < 77;
    let value = select(-0x1.fffffep+127f, f32(x[at1 + min(at, 76)]), inside);
    let value1 = max(total_m, value);
    let next1 = fma(select(0.0f, 1.0f, inside), exp(value - value1), total_l * exp(total_m - value1));
    total_m = value1;
    total_l = next1;
  }
  workgroupBarrier();
  shared_m[lane_x] = total_m;
  shared_l[lane_x] = total_l;
  workgroupBarrier();
  let shared_m_at = shared_m[lane_x];
  let shared_m_at1 = shared_m[at2];
  let value2 = max(shared_m_at, shared_m_at1);
  let total1 = fma(shared_l[at2], exp(shared_m_at1 - value2), shared_l[lane_x] * exp(shared_m_at - value2));
  if (lane_x < 32) { shared_m[lane_x] = value2; }
  if (lane_x < 32) { shared_l[lane_x] = total1; }
  workgroupBarrier();
  let shared_m_at2 = shared_m[lane_x];
  let shared_m_at3 = shared_m[at3];
  let value3 = max(shared_m_at2, shared_m_at3);
  let total3 = fma(shared_l[at3], exp(shared_m_at3 - value3), shared_l[lane_x] * exp(shared_m_at2 - value3));
  if (lane_x < 16) { shared_m[lane_x] = value3; }
  if (lane_x < 16) { shared_l[lane_x] = total3; }
  workgroupBarrier();
  let shared_m_at4 = shared_m[lane_x];
  let shared_m_at5 = shared_m[at4];
  let value4 = max(shared_m_at4, shared_m_at5);
  let total5 = fma(shared_l[at4], exp(shared_m_at5 - value4), shared_l[lane_x] * exp(shared_m_at4 - value4));
  if (lane_x < 8) { shared_m[lane_x] = value4; }
  if (lane_x < 8) { shared_l[lane_x] = total5; }
  workgroupBarrier();
  let shared_m_at6 = shared_m[lane_x];
  let shared_m_at7 = shared_m[at5];
  let value5 = max(shared_m_at6, shared_m_at7);
  let total7 = fma(shared_l[at5], exp(shared_m_at7 - value5), shared_l[lane_x] * exp(shared_m_at6 - value5));
  if (lane_x < 4) { shared_m[lane_x] = value5; }
  if (lane_x < 4) { shared_l[lane_x] = total7; }
  workgroupBarrier();
  let shared_m_at8 = shared_m[lane_x];
  let shared_m_at9 = shared_m[at6];
  let value6 = max(shared_m_at8, shared_m_at9);
  let total9 = fma(shared_l[at6], exp(shared_m_at9 - value6), shared_l[lane_x] * exp(shared_m_at8 - value6));
  if (lane_x < 2) { shared_m[lane_x] = value6; }
  if (lane_x < 2) { shared_l[lane_x] = total9; }
  workgroupBarrier();
  let shared_m_at10 = shared_m[lane_x];
  let shared_m_at11 = shared_m[at7];
  let value7 = max(shared_m_at10, shared_m_at11);
  let total11 = fma(shared_l[at7], exp(shared_m_at11 - value7), shared_l[lane_x] * exp(shared_m_at10 - value7));
  if (lane_x < 1) { shared_m[lane_x] = value7; }
  if (lane_x < 1) { shared_l[lane_x] = total11; }
  workgroupBarrier();
  let total12 = shared_m[0];
  let total13 = shared_l[0];
  let s_kept = total12;
  let s_kept1 = total13;
  let at8 = lane_x + at1;
  for (var i = 0; i < 2; i++) {
    let at9 = i * 64;
    let at10 = lane_x + at9;
    if (at10 < 77) { out[at8 + at9] = f16(exp(f32(x[at1 + min(at10, 76)]) - s_kept) / s_kept1); }
  }
}
