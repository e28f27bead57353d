#include "core/device.cuh"
#include "sampled_kl/element.h"
#include "sampled_kl/sampled_kl.h"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) rows_kernel(saccade_sampled_kl_args args) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (r >= args.rows) return;
  const float log_prob = pointer<const float>(args.log_prob)[r], reference = pointer<const float>(args.ref_log_prob)[r];
  const KlElement element = args.importance_corrected
                                ? corrected_kl_element(args.estimator, log_prob, reference,
                                                       log_prob - pointer<const float>(args.old_log_prob)[r])
                                : sampled_kl_element(args.estimator, log_prob, reference);
  pointer<float>(args.kl)[r] = element.value;
  if (args.d_log_prob) pointer<float>(args.d_log_prob)[r] = element.gradient;
}

}  // namespace

void sampled_kl(const Device& device, const saccade_sampled_kl_args& args) {
  launch(device, rows_kernel, divide_up(args.rows, kThreads), kThreads, args);
}

}  // namespace saccade::cuda
