#include "core/softmax_row.cuh"
#include "token_log_probs/token_log_probs.h"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr float kNan = __builtin_nanf("");

// One block a row.
template <class T>
__global__ void __launch_bounds__(kThreads) forward_kernel(saccade_token_log_probs_args args) {
  __shared__ SoftmaxShared shared;
  const int64_t r = blockIdx.x;
  const float inverse = 1.0f / args.temperature;
  const T* x = pointer<const T>(args.logits) + r * args.logits_stride;
  const SoftmaxRow row = softmax_row<kThreads, true>(x, args.vocabulary, inverse * kLog2E, shared);
  if (threadIdx.x != 0) return;
  const int32_t target = pointer<const int32_t>(args.targets)[r];
  const bool ignored = target == args.ignore_index, bad = target < 0 || target >= args.vocabulary;
  pointer<float>(args.log_prob)[r] = ignored ? 0.0f : bad ? kNan : row.log_prob(to_float(x[target]), args.temperature);
  if (args.entropy) pointer<float>(args.entropy)[r] = ignored ? 0.0f : bad ? kNan : row.entropy();
  if (args.lse) pointer<float>(args.lse)[r] = fmaf(row.max, inverse, row.log_sum());
}

// One block a row, which stays in the L2 cache between its two reads.
template <class T, class G>
__global__ void __launch_bounds__(kThreads) backward_kernel(saccade_token_log_probs_backward_args args) {
  __shared__ SoftmaxShared shared;
  const int64_t r = blockIdx.x;
  const T* x = pointer<const T>(args.logits) + r * args.logits_stride;
  G* dx = pointer<G>(args.d_logits) + r * args.d_logits_stride;
  const int32_t target = pointer<const int32_t>(args.targets)[r];
  const bool ignored = target == args.ignore_index;
  if (ignored || target < 0 || target >= args.vocabulary)
    return fill_row<kThreads>(dx, args.vocabulary, ignored ? 0.0f : kNan);
  const float inverse = 1.0f / args.temperature, x_target = to_float(x[target]);
  const SoftmaxRow row = softmax_row<kThreads, false>(x, args.vocabulary, inverse * kLog2E, shared);
  const RowGradient gradient{args.d_log_prob ? pointer<const float>(args.d_log_prob)[r] : 0.0f,
                             args.d_entropy ? pointer<const float>(args.d_entropy)[r] : 0.0f, target};
  write_row_gradient<kThreads>(x, dx, args.vocabulary, inverse, row, x_target, gradient);
}

}  // namespace

void token_log_probs(const Device& device, const saccade_token_log_probs_args& args) {
  with_float_type(args.logits_dtype,
                  [&](auto element) { launch(device, forward_kernel<decltype(element)>, args.rows, kThreads, args); });
}

void token_log_probs_backward(const Device& device, const saccade_token_log_probs_backward_args& args) {
  with_float_type(args.logits_dtype, [&](auto element) {
    using T = decltype(element);
    if (args.d_logits_dtype == SACCADE_F32)
      launch(device, backward_kernel<T, float>, args.rows, kThreads, args);
    else
      launch(device, backward_kernel<T, T>, args.rows, kThreads, args);
  });
}

}  // namespace saccade::cuda
