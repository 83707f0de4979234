// stdlib/softmax.sdl:4 softmax
// grid 2 × 1 × 1, group 64 × 2 × 1
//
//   group0 b < 2 step 2
//     lane1 b.lane < 2
//       lane0 j.lane < 64  (reduced, guarded)
//         for j < 2 step 64  (reduced, guarded)
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL FP_CONTRACT OFF
#define AT(type, base, offset) ((__global type *)((__global const char *)(base) + (uint)(offset) * (uint)sizeof(type)))
__kernel __attribute__((reqd_work_group_size(64, 2, 1)))
void softmax_s(__global const half *restrict x, __global float *restrict s_m, __global float *restrict s_l) {
  __local float shared_m[128];
  __local float shared_l[128];
  const int group_x = (int)get_group_id(0);
  const int lane_x = (int)get_local_id(0);
  const int lane_y = (int)get_local_id(1);
  float total_m = -0x1.fffffep+127f;
  float total_l = 0.0f;
  const int at1 = group_x * 154 + lane_y * 77;
  for (int j = 0; j < 2; ++j) {
    const int at = j * 64 + lane_x;
    const bool inside = at < 77;
    const float value = inside ? (float)AT(const half, x, at1 + min(at, 76))[0] : -0x1.fffffep+127f;
    const float value1 = max(total_m, value);
    const float next1 = fma(inside ? 1.0f : 0.0f, exp(value - value1), total_l * exp(total_m - value1));
    total_m = value1;
    total_l = next1;
  }
  const int cell = lane_y * 64 + lane_x;
  shared_m[cell] = total_m;
  shared_l[cell] = total_l;
  barrier(CLK_LOCAL_MEM_FENCE);
  const float shared_m_at = shared_m[cell];
  const int at2 = lane_y * 64 + min(lane_x + 32, 63);
  const float shared_m_at1 = shared_m[at2];
  const float value2 = max(shared_m_at, shared_m_at1);
  const float total1 = fma(shared_l[at2], exp(shared_m_at1 - value2), shared_l[cell] * exp(shared_m_at - value2));
  if (lane_x < 32) { shared_m[cell] = value2; }
  if (lane_x < 32) { shared_l[cell] = total1; }
  barrier(CLK_LOCAL_MEM_FENCE);
  const float shared_m_at2 = shared_m[cell];
  const int at3 = lane_y * 64 + min(lane_x + 16, 63);
  const float shared_m_at3 = shared_m[at3];
  const float value3 = max(shared_m_at2, shared_m_at3);
  const float total3 = fma(shared_l[at3], exp(shared_m_at3 - value3), shared_l[cell] * exp(shared_m_at2 - value3));
  if (lane_x < 16) { shared_m[cell] = value3; }
  if (lane_x < 16) { shared_l[cell] = total3; }
  barrier(CLK_LOCAL_MEM_FENCE);
  const float shared_m_at4 = shared_m[cell];
  const int at4 = lane_y * 64 + min(lane_x + 8, 63);
  const float shared_m_at5 = shared_m[at4];
  const float value4 = max(shared_m_at4, shared_m_at5);
  const float total5 = fma(shared_l[at4], exp(shared_m_at5 - value4), shared_l[cell] * exp(shared_m_at4 - value4));
  if (lane_x < 8) { shared_m[cell] = value4; }
  if (lane_x < 8) { shared_l[cell] = total5; }
  barrier(CLK_LOCAL_MEM_FENCE);
  const float shared_m_at6 = shared_m[cell];
  const int at5 = lane_y * 64 + min(lane_x + 4, 63);
  const float shared_m_at7 = shared_m[at5];
  const float value5 = max(shared_m_at6, shared_m_at7);
  const float total7 = fma(shared_l[at5], exp(shared_m_at7 - value5), shared_l[cell] * exp(shared_m_at6 - value5));
  if (lane_x < 4) { shared_m[cell] = value5; }
  if (lane_x < 4) { shared_l[cell] = total7; }
  barrier(CLK_LOCAL_MEM_FENCE);
  const float shared_m_at8 = shared_m[cell];
  const int at6 = lane_y * 64 + min(lane_x + 2, 63);
  const float shared_m_at9 = shared_m[at6];
  const float value6 = max(shared_m_at8, shared_m_at9);
  const float total9 = fma(shared_l[at6], exp(shared_m_at9 - value6), shared_l[cell] * exp(shared_m_at8 - value6));
  if (lane_x < 2) { shared_m[cell] = value6; }
  if (lane_x < 2) { shared_l[cell] = total9; }
  barrier(CLK_LOCAL_MEM_FENCE);
  const float shared_m_at10 = shared_m[cell];
  const int at7 = lane_y * 64 + min(lane_x + 1, 63);
  const float shared_m_at11 = shared_m[at7];
  const float value7 = max(shared_m_at10, shared_m_at11);
  const float total11 = fma(shared_l[at7], exp(shared_m_at11 - value7), shared_l[cell] * exp(shared_m_at10 - value7));
  if (lane_x < 1) { shared_m[cell] = value7; }
  if (lane_x < 1) { shared_l[cell] = total11; }
  barrier(CLK_LOCAL_MEM_FENCE);
  const int at8 = group_x * 2 + lane_y;
  const int at9 = lane_y * 64;
  const bool inside1 = lane_x == 0;
  if (inside1) { AT(float, s_m, at8)[0] = shared_m[at9]; }
  if (inside1) { AT(float, s_l, at8)[0] = shared_l[at9]; }
}

// stdlib/softmax.sdl:5 softmax
// grid 4 × 1 × 1, group 77 × 1 × 1
//
//   group0 b < 4
//     group0 i < 1 step 77
//       lane0 i.lane < 77
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL FP_CONTRACT OFF
#define AT(type, base, offset) ((__global type *)((__global const char *)(base) + (uint)(offset) * (uint)sizeof(type)))
__kernel __attribute__((reqd_work_group_size(77, 1, 1)))
void softmax_out(__global const half *restrict x, __global const float *restrict s_m, __global const float *restrict s_l, __global half *restrict out) {
  const int group_x = (int)get_group_id(0);
  const int lane_x = (int)get_local_id(0);
  const int at = group_x * 77 + lane_x;
  AT(half, out, at)[0] = (half)(exp((float)AT(const half, x, at)[0] - AT(const float, s_m, group_x)[0]) / AT(const float, s_l, group_x)[0]);
}
