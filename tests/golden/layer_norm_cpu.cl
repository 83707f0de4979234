// stdlib/norm.sdl:25 layer_normalize
// grid 16 × 1 × 1, group 1 × 1 × 1
//
//   group0 b < 16
//     for i < 12 step 8  (reduced)
//       vector i.vec < 8  (reduced)
#pragma OPENCL FP_CONTRACT OFF
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void layer_normalize_stats(__global const float8 *restrict x, __global float *restrict stats_n, __global float *restrict stats_mean, __global float *restrict stats_m2) {
  const int group_x = (int)get_group_id(0);
  float8 total_n = (float8)(0.0f);
  float8 total_mean = (float8)(0.0f);
  float8 total_m2 = (float8)(0.0f);
  const int at_by8 = group_x * 12;
  for (int i = 0; i < 12; ++i) {
    const float8 value = total_n + 1.0f;
    const float8 value1 = x[i + at_by8] - total_mean;
    const float8 value2 = 1.0f / max(value, (float8)(1.0f));
    const float8 next1 = fma(value1, value2, total_mean);
    const float8 next2 = fma(value1 * value1 * total_n, value2, total_m2);
    total_n = value;
    total_mean = next1;
    total_m2 = next2;
  }
  const float4 value3 = total_n.s0123 + total_n.s4567;
  const float4 value4 = total_mean.s4567 - total_mean.s0123;
  const float4 value5 = total_n.s4567 / max(value3, (float4)(1.0f));
  const float4 total1 = fma(value4, value5, total_mean.s0123);
  const float4 total2 = fma(value4 * value4 * total_n.s0123, value5, total_m2.s0123 + total_m2.s4567);
  const float2 value6 = value3.s01 + value3.s23;
  const float2 value7 = total1.s23 - total1.s01;
  const float2 value8 = value3.s23 / max(value6, (float2)(1.0f));
  const float2 total4 = fma(value7, value8, total1.s01);
  const float2 total5 = fma(value7 * value7 * value3.s01, value8, total2.s01 + total2.s23);
  const float value9 = value6.s0 + value6.s1;
  const float value10 = total4.s1 - total4.s0;
  const float value11 = value6.s1 / max(value9, 1.0f);
  const float total7 = fma(value10, value11, total4.s0);
  const float total8 = fma(value10 * value10 * value6.s0, value11, total5.s0 + total5.s1);
  stats_n[group_x] = value9;
  stats_mean[group_x] = total7;
  stats_m2[group_x] = total8;
}

// stdlib/norm.sdl:26 layer_normalize
// grid 32 × 1 × 1, group 1 × 1 × 1
//
//   group0 b < 16
//     group0 i < 2 step 48
//       for i.loop < 6 step 8
//         vector i.vec < 8
#pragma OPENCL FP_CONTRACT OFF
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void layer_normalize_out(__global const float8 *restrict x, __global const float *restrict stats_mean, __global const float *restrict stats_m2, __global const float *restrict stats_n, __global const float8 *restrict scale, __global const float8 *restrict shift, __global float8 *restrict out) {
  const int group_x = (int)get_group_id(0);
  const int at_by8 = group_x * 6;
  const int at3 = group_x / 2;
  const float stats_mean_at = stats_mean[at3];
  const float value = rsqrt(stats_m2[at3] / stats_n[at3] + 1e-05f);
  const int at4_by8 = group_x % 2 * 6;
  for (int i_loop = 0; i_loop < 6; ++i_loop) {  // i
    const int at2_by8 = at_by8 + i_loop;
    const int at5_by8 = i_loop + at4_by8;
    out[at2_by8] = (x[at2_by8] - stats_mean_at) * value * scale[at5_by8] + shift[at5_by8];
  }
}
