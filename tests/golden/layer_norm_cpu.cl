// stdlib/norm.sdl:25 layer_normalize
// stdlib/norm.sdl:26 layer_normalize
// grid 16 × 1 × 1, group 1 × 1 × 1
//
//   group0 b < 16
//     for i < 6 step 16
//       vector i.vec < 16
//   stage stats outermost in private: 1
//     for b < 1
//       for i < 6 step 16  (reduced)
//         vector i.vec < 16  (reduced)
#pragma OPENCL FP_CONTRACT OFF
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void layer_normalize_out(__global const float16 *restrict x, __global const float16 *restrict scale, __global const float16 *restrict shift, __global float16 *restrict out) {
  const int group_x = (int)get_group_id(0);
  const int at_by16 = group_x * 6;
  float16 total_n = (float16)(0.0f);
  float16 total_mean = (float16)(0.0f);
  float16 total_m2 = (float16)(0.0f);
  for (int stats_i = 0; stats_i < 6; ++stats_i) {  // i
    const float16 value = total_n + 1.0f;
    const float16 value1 = x[stats_i + at_by16] - total_mean;
    const float16 value2 = 1.0f / max(value, (float16)(1.0f));
    const float16 next1 = fma(value1, value2, total_mean);
    const float16 next2 = fma(value1 * (total_n * value2), value1, total_m2);
    total_n = value;
    total_mean = next1;
    total_m2 = next2;
  }
  const float8 value3 = total_n.s01234567 + total_n.s89abcdef;
  const float8 value4 = total_mean.s89abcdef - total_mean.s01234567;
  const float8 value5 = total_n.s89abcdef / max(value3, (float8)(1.0f));
  const float8 total1 = fma(value4, value5, total_mean.s01234567);
  const float8 total2 = fma(value4 * (total_n.s01234567 * value5), value4, total_m2.s01234567 + total_m2.s89abcdef);
  const float4 value6 = value3.s0123 + value3.s4567;
  const float4 value7 = total1.s4567 - total1.s0123;
  const float4 value8 = value3.s4567 / max(value6, (float4)(1.0f));
  const float4 total4 = fma(value7, value8, total1.s0123);
  const float4 total5 = fma(value7 * (value3.s0123 * value8), value7, total2.s0123 + total2.s4567);
  const float2 value9 = value6.s01 + value6.s23;
  const float2 value10 = total4.s23 - total4.s01;
  const float2 value11 = value6.s23 / max(value9, (float2)(1.0f));
  const float2 total7 = fma(value10, value11, total4.s01);
  const float2 total8 = fma(value10 * (value6.s01 * value11), value10, total5.s01 + total5.s23);
  const float value12 = value9.s0 + value9.s1;
  const float value13 = total7.s1 - total7.s0;
  const float value14 = value9.s1 / max(value12, 1.0f);
  const float total10 = fma(value13, value14, total7.s0);
  const float total11 = fma(value13 * (value9.s0 * value14), value13, total8.s0 + total8.s1);
  const float stats_kept = total10;
  const float stats_kept1 = total11;
  for (int i = 0; i < 6; ++i) {
    const int at2_by16 = at_by16 + i;
    out[at2_by16] = (x[at2_by16] - stats_kept) * rsqrt(stats_kept1 / 96.0f + 1e-05f) * scale[i] + shift[i];
  }
}
