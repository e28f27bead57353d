#include "core/rows.cuh"
#include "sampled_kl/element.h"
#include "sampled_kl/sampled_kl.h"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 256;

// A thread takes four rows.
__global__ void __launch_bounds__(kThreads) rows_kernel(saccade_sampled_kl_args args) {
  constexpr int kRows = kPack<float>;
  allow_next();
  wait_for_last();
  const int64_t first = kRows * (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x);
  float log_prob[kRows], reference[kRows], old[kRows] = {}, kl[kRows], gradient[kRows];
  load_group(pointer<const float>(args.log_prob), args.rows, first, 0.0f, log_prob);
  load_group(pointer<const float>(args.ref_log_prob), args.rows, first, 0.0f, reference);
  if (args.importance_corrected) load_group(pointer<const float>(args.old_log_prob), args.rows, first, 0.0f, old);
#pragma unroll
  for (int e = 0; e < kRows; ++e) {
    const KlElement element = args.importance_corrected ? corrected_kl_element(args.estimator, log_prob[e],
                                                                               reference[e], log_prob[e] - old[e])
                                                        : sampled_kl_element(args.estimator, log_prob[e], reference[e]);
    kl[e] = element.value;
    gradient[e] = element.gradient;
  }
  store_group(pointer<float>(args.kl), args.rows, first, kl);
  if (args.d_log_prob) store_group(pointer<float>(args.d_log_prob), args.rows, first, gradient);
}

}  // namespace

void sampled_kl(const Device& device, const saccade_sampled_kl_args& args) {
  launch_overlapping(device, rows_kernel, divide_up(args.rows, kPack<float> * kThreads), kThreads, args);
}

}  // namespace saccade::cuda
