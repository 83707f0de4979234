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
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL FP_CONTRACT OFF
#define AT(type, base, offset) ((__global type *)((__global const char *)(base) + (uint)(offset) * (uint)sizeof(type)))
__kernel __attribute__((reqd_work_group_size(64, 1, 1)))
void softmax_out(__global const half *restrict x, __global half *restrict out) {
  __local float shared_m[64];
  __local float shared_l[64];
  const int group_x = (int)get_group_id(0);
  const int lane_x = (int)get_local_id(0);
  const int at1 = group_x * 77;
  const int at2 = min(lane_x + 32, 63);
  const int at3 = min(lane_x + 16, 63);
  const int at4 = min(lane_x + 8, 63);
  const int at5 = min(lane_x + 4, 63);
  const int at6 = min(lane_x + 2, 63);
  const int at7 = min(lane_x + 1, 63);
  float total_m = -0x1.fffffep+127f;
  float total_l = 0.0f;
  for (int s_j = 0; s_j < 2; ++s_j) {  // j
    const int at = s_j * 64 + lane_x;
    const bool inside = at < 77;
    const float value = inside ? (float)AT(const half, x, at1 + min(at, 76))[0] : -0x1.fffffep+127f;
    const float value1 = max(total_m, value);
    const float next1 = fma(inside ? 1.0f : 0.0f, native_exp(value - value1), total_l * native_exp(total_m - value1));
    total_m = value1;
    total_l = next1;
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  shared_m[lane_x] = total_m;
  shared_l[lane_x] = total_l;
  barrier(CLK_LOCAL_MEM_FENCE);
  const float shared_m_at = shared_m[lane_x];
  const float shared_m_at1 = shared_m[at2];
  const float value2 = max(shared_m_at, shared_m_at1);
  const float total1 = fma(shared_l[at2], native_exp(shared_m_at1 - value2), shared_l[lane_x] * native_exp(shared_m_at - value2));
  if (lane_x < 32) { shared_m[lane_x] = value2; }
  if (lane_x < 32) { shared_l[lane_x] = total1; }
  barrier(CLK_LOCAL_MEM_FENCE);
  const float shared_m_at2 = shared_m[lane_x];
  const float shared_m_at3 = shared_m[at3];
  const float value3 = max(shared_m_at2, shared_m_at3);
  const float total3 = fma(shared_l[at3], native_exp(shared_m_at3 - value3), shared_l[lane_x] * native_exp(shared_m_at2 - value3));
  if (lane_x < 16) { shared_m[lane_x] = value3; }
  if (lane_x < 16) { shared_l[lane_x] = total3; }
  barrier(CLK_LOCAL_MEM_FENCE);
  const float shared_m_at4 = shared_m[lane_x];
  const float shared_m_at5 = shared_m[at4];
  const float value4 = max(shared_m_at4, shared_m_at5);
  const float total5 = fma(shared_l[at4], native_exp(shared_m_at5 - value4), shared_l[lane_x] * native_exp(shared_m_at4 - value4));
  if (lane_x < 8) { shared_m[lane_x] = value4; }
  if (lane_x < 8) { shared_l[lane_x] = total5; }
  barrier(CLK_LOCAL_MEM_FENCE);
  const float shared_m_at6 = shared_m[lane_x];
  const float shared_m_at7 = shared_m[at5];
  const float value5 = max(shared_m_at6, shared_m_at7);
  const float total7 = fma(shared_l[at5], native_exp(shared_m_at7 - value5), shared_l[lane_x] * native_exp(shared_m_at6 - value5));
  if (lane_x < 4) { shared_m[lane_x] = value5; }
  if (lane_x < 4) { shared_l[lane_x] = total7; }
  barrier(CLK_LOCAL_MEM_FENCE);
  const float shared_m_at8 = shared_m[lane_x];
  const float shared_m_at9 = shared_m[at6];
  const float value6 = max(shared_m_at8, shared_m_at9);
  const float total9 = fma(shared_l[at6], native_exp(shared_m_at9 - value6), shared_l[lane_x] * native_exp(shared_m_at8 - value6));
  if (lane_x < 2) { shared_m[lane_x] = value6; }
  if (lane_x < 2) { shared_l[lane_x] = total9; }
  barrier(CLK_LOCAL_MEM_FENCE);
  const float shared_m_at10 = shared_m[lane_x];
  const float shared_m_at11 = shared_m[at7];
  const float value7 = max(shared_m_at10, shared_m_at11);
  const float total11 = fma(shared_l[at7], native_exp(shared_m_at11 - value7), shared_l[lane_x] * native_exp(shared_m_at10 - value7));
  if (lane_x < 1) { shared_m[lane_x] = value7; }
  if (lane_x < 1) { shared_l[lane_x] = total11; }
  barrier(CLK_LOCAL_MEM_FENCE);
  const float total12 = shared_m[0];
  const float total13 = shared_l[0];
  const float s_kept = total12;
  const float s_kept1 = total13;
  const int at8 = lane_x + at1;
  for (int i = 0; i < 2; ++i) {
    const int at9 = i * 64;
    const int at10 = lane_x + at9;
    if (at10 < 77) { AT(half, out, at8 + at9)[0] = (half)(native_exp((float)AT(const half, x, at1 + min(at10, 76))[0] - s_kept) / s_kept1); }
  }
}
