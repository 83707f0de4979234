// stdlib/conv.sdl:31 conv2d
// grid 1 × 1 × 1, group 4 × 2 × 8
//
//   group0 b < 1
//     group0 o < 1 step 32
//       group0 row < 1 step 8
//         group0 col < 1 step 8
//           lane0 o.lane < 4 step 8
//             lane2 row.lane < 8
//               lane1 col.lane < 2 step 4
//                 for d < 16  (reduced)
//                   for i < 3  (reduced)
//                     for j < 1 step 3  (reduced)
//                       unroll j.unroll < 3  (reduced)
//                         unroll o.tile < 2 step 4
//                           unroll col.tile < 4
//                             vector o.vec < 4
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL FP_CONTRACT OFF
#define AT(type, base, offset) ((__global type *)((__global const char *)(base) + (uint)(offset) * (uint)sizeof(type)))
__kernel __attribute__((reqd_work_group_size(4, 2, 8)))
void conv2d_out(__global const half *restrict x, __global const half *restrict k, __global half *restrict out) {
  const int lane_x = (int)get_local_id(0);
  const int lane_y = (int)get_local_id(1);
  const int lane_z = (int)get_local_id(2);
  float4 total_value = (float4)(0.0f);
  float4 total_value1 = (float4)(0.0f);
  float4 total_value2 = (float4)(0.0f);
  float4 total_value3 = (float4)(0.0f);
  float4 total_value4 = (float4)(0.0f);
  float4 total_value5 = (float4)(0.0f);
  float4 total_value6 = (float4)(0.0f);
  float4 total_value7 = (float4)(0.0f);
  const bool inside1 = 1 <= lane_y;
  const int at1 = lane_y * 4;
  const int at2 = max(at1 - 1, 0);
  const int at6 = lane_x * 1152;
  const bool inside2 = lane_y < 1;
  const int at11 = min(at1 + 4, 7);
  int at7 = at6;
  for (int d = 0; d < 16; ++d) {
    const int at3 = d * 64;
    const int at4 = at2 + at3;
    const int at9 = at1 + at3;
    const int at12 = at11 + at3;
    int at8 = at7;
    for (int i = 0; i < 3; ++i) {
      const int at = lane_z + i;
      const bool inside = 1 <= at && at < 9;
      const int at5 = min(max(at - 1, 0), 7) * 8;
      const float value = (inside && inside1) ? (float)AT(const half, x, at4 + at5)[0] : 0.0f;
      const float4 value1 = (float4)((float)AT(const half, k, at8)[0], (float)AT(const half, k, at8)[144], (float)AT(const half, k, at8)[288], (float)AT(const half, k, at8)[432]);
      const int at10 = at5 + at9;
      const half4 x_wide = vload4(0, x + at10);
      const float value2 = inside ? (float)x_wide.s0 : 0.0f;
      const float value3 = inside ? (float)x_wide.s1 : 0.0f;
      const float value4 = inside ? (float)x_wide.s2 : 0.0f;
      const float4 value5 = (float4)((float)AT(const half, k, at8)[576], (float)AT(const half, k, at8)[720], (float)AT(const half, k, at8)[864], (float)AT(const half, k, at8)[1008]);
      const float4 value6 = (float4)((float)AT(const half, k, at8)[1], (float)AT(const half, k, at8)[145], (float)AT(const half, k, at8)[289], (float)AT(const half, k, at8)[433]);
      const float value7 = inside ? (float)x_wide.s3 : 0.0f;
      const float4 value8 = (float4)((float)AT(const half, k, at8)[577], (float)AT(const half, k, at8)[721], (float)AT(const half, k, at8)[865], (float)AT(const half, k, at8)[1009]);
      const float4 value9 = (float4)((float)AT(const half, k, at8)[2], (float)AT(const half, k, at8)[146], (float)AT(const half, k, at8)[290], (float)AT(const half, k, at8)[434]);
      const float value10 = (inside && inside2) ? (float)AT(const half, x, at12 + at5)[0] : 0.0f;
      const float4 value11 = (float4)((float)AT(const half, k, at8)[578], (float)AT(const half, k, at8)[722], (float)AT(const half, k, at8)[866], (float)AT(const half, k, at8)[1010]);
      total_value = fma((float4)(value), value1, total_value);
      total_value1 = fma((float4)(value2), value1, total_value1);
      total_value2 = fma((float4)(value3), value1, total_value2);
      total_value3 = fma((float4)(value4), value1, total_value3);
      total_value4 = fma((float4)(value), value5, total_value4);
      total_value5 = fma((float4)(value2), value5, total_value5);
      total_value6 = fma((float4)(value3), value5, total_value6);
      total_value7 = fma((float4)(value4), value5, total_value7);
      total_value = fma((float4)(value2), value6, total_value);
      total_value1 = fma((float4)(value3), value6, total_value1);
      total_value2 = fma((float4)(value4), value6, total_value2);
      total_value3 = fma((float4)(value7), value6, total_value3);
      total_value4 = fma((float4)(value2), value8, total_value4);
      total_value5 = fma((float4)(value3), value8, total_value5);
      total_value6 = fma((float4)(value4), value8, total_value6);
      total_value7 = fma((float4)(value7), value8, total_value7);
      total_value = fma((float4)(value3), value9, total_value);
      total_value1 = fma((float4)(value4), value9, total_value1);
      total_value2 = fma((float4)(value7), value9, total_value2);
      total_value3 = fma((float4)(value10), value9, total_value3);
      total_value4 = fma((float4)(value3), value11, total_value4);
      total_value5 = fma((float4)(value4), value11, total_value5);
      total_value6 = fma((float4)(value7), value11, total_value6);
      total_value7 = fma((float4)(value10), value11, total_value7);
      at8 = at8 + 3;
    }
    at7 = at7 + 9;
  }
  const int at13 = lane_x * 512 + lane_z * 8 + at1;
  AT(half, out, at13)[0] = (half)total_value.s0;
  AT(half, out, at13)[64] = (half)total_value.s1;
  AT(half, out, at13)[128] = (half)total_value.s2;
  AT(half, out, at13)[192] = (half)total_value.s3;
  AT(half, out, at13)[1] = (half)total_value1.s0;
  AT(half, out, at13)[65] = (half)total_value1.s1;
  AT(half, out, at13)[129] = (half)total_value1.s2;
  AT(half, out, at13)[193] = (half)total_value1.s3;
  AT(half, out, at13)[2] = (half)total_value2.s0;
  AT(half, out, at13)[66] = (half)total_value2.s1;
  AT(half, out, at13)[130] = (half)total_value2.s2;
  AT(half, out, at13)[194] = (half)total_value2.s3;
  AT(half, out, at13)[3] = (half)total_value3.s0;
  AT(half, out, at13)[67] = (half)total_value3.s1;
  AT(half, out, at13)[131] = (half)total_value3.s2;
  AT(half, out, at13)[195] = (half)total_value3.s3;
  AT(half, out, at13)[256] = (half)total_value4.s0;
  AT(half, out, at13)[320] = (half)total_value4.s1;
  AT(half, out, at13)[384] = (half)total_value4.s2;
  AT(half, out, at13)[448] = (half)total_value4.s3;
  AT(half, out, at13)[257] = (half)total_value5.s0;
  AT(half, out, at13)[321] = (half)total_value5.s1;
  AT(half, out, at13)[385] = (half)total_value5.s2;
  AT(half, out, at13)[449] = (half)total_value5.s3;
  AT(half, out, at13)[258] = (half)total_value6.s0;
  AT(half, out, at13)[322] = (half)total_value6.s1;
  AT(half, out, at13)[386] = (half)total_value6.s2;
  AT(half, out, at13)[450] = (half)total_value6.s3;
  AT(half, out, at13)[259] = (half)total_value7.s0;
  AT(half, out, at13)[323] = (half)total_value7.s1;
  AT(half, out, at13)[387] = (half)total_value7.s2;
  AT(half, out, at13)[451] = (half)total_value7.s3;
}
