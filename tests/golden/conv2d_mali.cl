// stdlib/conv.sdl:38 conv2d
// grid 2 × 1 × 1, group 8 × 2 × 4
//
//   group0 b < 1
//     group0 o < 1 step 32
//       group0 row < 2 step 4
//         group0 col < 1 step 8
//           lane0 o.lane < 8 step 4
//             lane2 row.lane < 4
//               lane1 col.lane < 2 step 4
//                 for d < 16  (reduced)
//                   for i < 3  (reduced)
//                     for j < 1 step 3  (reduced)
//                       unroll j.unroll < 3  (reduced)
//                         unroll col.tile < 4
//                           vector o.vec < 4
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL FP_CONTRACT OFF
#define AT(type, base, offset) ((__global type *)((__global const char *)(base) + (uint)(offset) * (uint)sizeof(type)))
__kernel __attribute__((reqd_work_group_size(8, 2, 4)))
void conv2d_out(__global const half *restrict x, __global const half *restrict k, __global half *restrict out) {
  const int group_x = (int)get_group_id(0);
  const int lane_x = (int)get_local_id(0);
  const int lane_y = (int)get_local_id(1);
  const int lane_z = (int)get_local_id(2);
  float4 total_value = (float4)(0.0f);
  float4 total_value1 = (float4)(0.0f);
  float4 total_value2 = (float4)(0.0f);
  float4 total_value3 = (float4)(0.0f);
  const int at = group_x * 4 + lane_z;
  const bool inside1 = 1 <= lane_y;
  const int at2 = lane_y * 4;
  const int at3 = max(at2 - 1, 0);
  const int at7 = lane_x * 576;
  const bool inside2 = lane_y < 1;
  const int at12 = min(at2 + 4, 7);
  int at8 = at7;
  for (int d = 0; d < 16; ++d) {
    const int at4 = d * 64;
    const int at4_by4 = d * 16;
    const int at5 = at3 + at4;
    const int at10_by4 = lane_y + at4_by4;
    const int at13 = at12 + at4;
    int at9 = at8;
    for (int i = 0; i < 3; ++i) {
      const int at1 = at + i;
      const bool inside = 1 <= at1 && at1 < 9;
      const int at6 = min(max(at1 - 1, 0), 7) * 8;
      const int at6_by4 = min(max(at1 - 1, 0), 7) * 2;
      const float value = (inside && inside1) ? (float)AT(const half, x, at5 + at6)[0] : 0.0f;
      const float4 value1 = (float4)((float)AT(const half, k, at9)[0], (float)AT(const half, k, at9)[144], (float)AT(const half, k, at9)[288], (float)AT(const half, k, at9)[432]);
      const int at11_by4 = at10_by4 + at6_by4;
      const half4 x_wide = AT(const half4, x, at11_by4)[0];
      const float value2 = inside ? (float)x_wide.s0 : 0.0f;
      const float value3 = inside ? (float)x_wide.s1 : 0.0f;
      const float value4 = inside ? (float)x_wide.s2 : 0.0f;
      const float4 value5 = (float4)((float)AT(const half, k, at9)[1], (float)AT(const half, k, at9)[145], (float)AT(const half, k, at9)[289], (float)AT(const half, k, at9)[433]);
      const float value6 = inside ? (float)x_wide.s3 : 0.0f;
      const float4 value7 = (float4)((float)AT(const half, k, at9)[2], (float)AT(const half, k, at9)[146], (float)AT(const half, k, at9)[290], (float)AT(const half, k, at9)[434]);
      const float value8 = (inside && inside2) ? (float)AT(const half, x, at13 + at6)[0] : 0.0f;
      total_value = fma((float4)(value), value1, total_value);
      total_value1 = fma((float4)(value2), value1, total_value1);
      total_value2 = fma((float4)(value3), value1, total_value2);
      total_value3 = fma((float4)(value4), value1, total_value3);
      total_value = fma((float4)(value2), value5, total_value);
      total_value1 = fma((float4)(value3), value5, total_value1);
      total_value2 = fma((float4)(value4), value5, total_value2);
      total_value3 = fma((float4)(value6), value5, total_value3);
      total_value = fma((float4)(value3), value7, total_value);
      total_value1 = fma((float4)(value4), value7, total_value1);
      total_value2 = fma((float4)(value6), value7, total_value2);
      total_value3 = fma((float4)(value8), value7, total_value3);
      at9 = at9 + 3;
    }
    at8 = at8 + 9;
  }
  const int at14 = lane_x * 256 + group_x * 32 + lane_z * 8 + at2;
  AT(half, out, at14)[0] = (half)total_value.s0;
  AT(half, out, at14)[64] = (half)total_value.s1;
  AT(half, out, at14)[128] = (half)total_value.s2;
  AT(half, out, at14)[192] = (half)total_value.s3;
  AT(half, out, at14)[1] = (half)total_value1.s0;
  AT(half, out, at14)[65] = (half)total_value1.s1;
  AT(half, out, at14)[129] = (half)total_value1.s2;
  AT(half, out, at14)[193] = (half)total_value1.s3;
  AT(half, out, at14)[2] = (half)total_value2.s0;
  AT(half, out, at14)[66] = (half)total_value2.s1;
  AT(half, out, at14)[130] = (half)total_value2.s2;
  AT(half, out, at14)[194] = (half)total_value2.s3;
  AT(half, out, at14)[3] = (half)total_value3.s0;
  AT(half, out, at14)[67] = (half)total_value3.s1;
  AT(half, out, at14)[131] = (half)total_value3.s2;
  AT(half, out, at14)[195] = (half)total_value3.s3;
}
