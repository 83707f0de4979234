// stdlib/matmul.sdl:12 matmul_nt
// tests/programs/mixed.sdl:10 mixed
// grid 1 × 1 × 1, group 2 × 1 × 1
//
//   group0 b < 1 step 2
//     group0 j < 1 step 8
//       lane0 j.lane < 2 step 4
//         for p < 1 step 8  (reduced)
//           unroll p.unroll < 8  (reduced)
//             unroll b.tile < 2
//               vector j.vec < 4
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL FP_CONTRACT OFF
#define AT(type, base, offset) ((__global type *)((__global const char *)(base) + (uint)(offset) * (uint)sizeof(type)))
__kernel __attribute__((reqd_work_group_size(2, 1, 1)))
void matmul_nt_mixed_y(__global const half4 *restrict x, __global const float4 *restrict weight, __global const float4 *restrict bias, __global float4 *restrict y) {
  const int lane_x = (int)get_local_id(0);
  float4 total_value = (float4)(0.0f);
  float4 total_value1 = (float4)(0.0f);
  const float4 weight_at = AT(const float4, weight, lane_x)[0];
  const half4 x_wide = x[0];
  total_value = fma((float4)((float)x_wide.s0), weight_at, total_value);
  const half4 x_wide_2 = x[2];
  total_value1 = fma((float4)((float)x_wide_2.s0), weight_at, total_value1);
  const float4 weight_at1 = AT(const float4, weight, lane_x)[2];
  total_value = fma((float4)((float)x_wide.s1), weight_at1, total_value);
  total_value1 = fma((float4)((float)x_wide_2.s1), weight_at1, total_value1);
  const float4 weight_at2 = AT(const float4, weight, lane_x)[4];
  total_value = fma((float4)((float)x_wide.s2), weight_at2, total_value);
  total_value1 = fma((float4)((float)x_wide_2.s2), weight_at2, total_value1);
  const float4 weight_at3 = AT(const float4, weight, lane_x)[6];
  total_value = fma((float4)((float)x_wide.s3), weight_at3, total_value);
  total_value1 = fma((float4)((float)x_wide_2.s3), weight_at3, total_value1);
  const float4 weight_at4 = AT(const float4, weight, lane_x)[8];
  const half4 x_wide_3 = x[1];
  total_value = fma((float4)((float)x_wide_3.s0), weight_at4, total_value);
  const half4 x_wide_4 = x[3];
  total_value1 = fma((float4)((float)x_wide_4.s0), weight_at4, total_value1);
  const float4 weight_at5 = AT(const float4, weight, lane_x)[10];
  total_value = fma((float4)((float)x_wide_3.s1), weight_at5, total_value);
  total_value1 = fma((float4)((float)x_wide_4.s1), weight_at5, total_value1);
  const float4 weight_at6 = AT(const float4, weight, lane_x)[12];
  total_value = fma((float4)((float)x_wide_3.s2), weight_at6, total_value);
  total_value1 = fma((float4)((float)x_wide_4.s2), weight_at6, total_value1);
  const float4 weight_at7 = AT(const float4, weight, lane_x)[14];
  total_value = fma((float4)((float)x_wide_3.s3), weight_at7, total_value);
  total_value1 = fma((float4)((float)x_wide_4.s3), weight_at7, total_value1);
  const float4 bias_at = AT(const float4, bias, lane_x)[0];
  const float4 value = total_value + bias_at;
  AT(float4, y, lane_x)[0] = value * value;
  const float4 value1 = total_value1 + bias_at;
  AT(float4, y, lane_x)[2] = value1 * value1;
}

// stdlib/norm.sdl:25 layer_normalize
// stdlib/norm.sdl:26 layer_normalize
// grid 2 × 1 × 1, group 2 × 1 × 1
//
//   group0 b < 2
//     group0 i < 1 step 8
//       lane0 i.lane < 2 step 4
//         vector i.vec < 4
//   stage stats outermost in private: 1
//     for b < 1
//       for i < 2 step 4  (reduced)
//         vector i.vec < 4  (reduced)
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL FP_CONTRACT OFF
#define AT(type, base, offset) ((__global type *)((__global const char *)(base) + (uint)(offset) * (uint)sizeof(type)))
__kernel __attribute__((reqd_work_group_size(2, 1, 1)))
void layer_normalize_out(__global const float4 *restrict y, __global const half4 *restrict weight, __global const half4 *restrict bias, __global half4 *restrict out) {
  const int group_x = (int)get_group_id(0);
  const int lane_x = (int)get_local_id(0);
  const int at_by4 = group_x * 2;
  float4 total_n = (float4)(0.0f);
  float4 total_mean = (float4)(0.0f);
  float4 total_m2 = (float4)(0.0f);
  for (int stats_i = 0; stats_i < 2; ++stats_i) {  // i
    const float4 value = total_n + 1.0f;
    const float4 value1 = AT(const float4, y, stats_i + at_by4)[0] - total_mean;
    const float4 value2 = 1.0f / max(value, (float4)(1.0f));
    const float4 next1 = fma(value1, value2, total_mean);
    const float4 next2 = fma(value1 * (total_n * value2), value1, total_m2);
    total_n = value;
    total_mean = next1;
    total_m2 = next2;
  }
  const float2 value3 = total_n.s01 + total_n.s23;
  const float2 value4 = total_mean.s23 - total_mean.s01;
  const float2 value5 = total_n.s23 / max(value3, (float2)(1.0f));
  const float2 total1 = fma(value4, value5, total_mean.s01);
  const float2 total2 = fma(value4 * (total_n.s01 * value5), value4, total_m2.s01 + total_m2.s23);
  const float value6 = value3.s0 + value3.s1;
  const float value7 = total1.s1 - total1.s0;
  const float value8 = value3.s1 / max(value6, 1.0f);
  const float total4 = fma(value7, value8, total1.s0);
  const float total5 = fma(value7 * (value3.s0 * value8), value7, total2.s0 + total2.s1);
  const float stats_kept = total4;
  const float stats_kept1 = total5;
  const int at2_by4 = at_by4 + lane_x;
  AT(half4, out, at2_by4)[0] = convert_half4((AT(const float4, y, at2_by4)[0] - stats_kept) * native_rsqrt(stats_kept1 / 8.0f + 1e-05f) * convert_float4(AT(const half4, weight, lane_x)[0]) + convert_float4(AT(const half4, bias, lane_x)[0]));
}
