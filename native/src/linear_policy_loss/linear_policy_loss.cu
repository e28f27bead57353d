#include "linear_policy_loss/linear_policy_loss.h"
#include "policy_loss_from_logits/logit_policy.cuh"

namespace saccade::cuda {
namespace {

constexpr int kCopyThreads = 256;  // of a block, which copies a row of hidden or weight

// Zeros where there is no `from`.
template <class From, class To>
__device__ void copy_row(const From* from, To* to, int64_t n) {
  for (int64_t j = threadIdx.x; j < n; j += kCopyThreads) to[j] = from_float<To>(from ? to_float(from[j]) : 0.0f);
}

// hidden of the part, side by side.
template <class T>
__global__ void __launch_bounds__(kCopyThreads) gather_kernel(const __grid_constant__ LogitPolicyCall part,
                                                              const T* hidden, int64_t stride, T* gathered, int64_t d) {
  const int64_t i = part.first + blockIdx.x;
  const T* from = i < part.active_end() ? hidden + part.workspace.inputs[i].row * stride : nullptr;
  copy_row(from, gathered + blockIdx.x * d, d);
}

// The gradient of hidden of the part to where its rows are.
template <class G>
__global__ void __launch_bounds__(kCopyThreads)
    scatter_kernel(const __grid_constant__ LogitPolicyCall part, const float* gathered, int64_t d, G* d_hidden,
                   int64_t stride) {
  const int64_t i = part.first + blockIdx.x;
  const float* from = i < part.active_end() ? gathered + blockIdx.x * d : nullptr;
  copy_row(from, d_hidden + part.workspace.inputs[i].row * stride, d);
}

// The f32 sums of d_weight to the caller's 16-bit tensor.
template <class G>
__global__ void __launch_bounds__(kCopyThreads)
    round_kernel(const float* sums, int64_t d, G* d_weight, int64_t stride) {
  copy_row(sums + blockIdx.x * d, d_weight + blockIdx.x * stride, d);
}

LogitPolicyCall logits_call(const saccade_linear_policy_loss_args& args, const saccade_policy_loss_args& policy,
                            const LinearPolicyWorkspace& work) {
  LogitPolicyCall call{{}, policy, work.rows, 0, 0, true};
  call.args.vocabulary = args.vocabulary;
  call.args.logits = reinterpret_cast<saccade_address>(work.logits);
  call.args.logits_stride = work.logits_stride;
  call.args.targets = args.targets;
  call.args.ignore_index = args.ignore_index;
  call.args.temperature = args.temperature;
  call.args.entropy_coef = args.entropy_coef;
  call.args.log_prob = args.log_prob;
  call.args.entropy = args.entropy;
  call.args.lse = args.lse;
  call.args.d_logits = args.d_hidden || args.d_weight ? work.d_logits : 0;
  call.args.d_logits_stride = work.logits_stride;
  return call;
}

template <class T>
void run(const Device& device, const saccade_linear_policy_loss_args& args, const saccade_policy_loss_args& policy,
         const LinearPolicyWorkspace& work) {
  const LogitPolicyCall call = logits_call(args, policy, work);
  const int64_t d = args.hidden_size;
  const bool narrow_weight = args.d_weight_dtype != SACCADE_F32;
  saccade_gemm_args product = {};  // of two factors of T
  product.alpha = 1.0f;
  const auto with_gradient_type = [](int32_t dtype, const auto& body) {
    if (dtype == SACCADE_F32)
      body(float{});
    else
      body(T{});
  };

  compute<float, T>(device, call, [&](bool gradient, const auto& step) {
    for (int64_t first = 0; first < policy.rows; first += args.chunk_rows) {
      LogitPolicyCall part = call;
      part.first = first;
      part.count = policy.rows - first < args.chunk_rows ? policy.rows - first : args.chunk_rows;
      launch(device, gather_kernel<T>, part.count, kCopyThreads, part, pointer<const T>(args.hidden),
             args.hidden_stride, pointer<T>(work.gathered), d);

      // logits = hidden weight^T
      product.m = part.count, product.n = args.vocabulary, product.k = d;
      product.a = work.gathered, product.a_stride = d, product.trans_a = 0;
      product.b = args.weight, product.b_stride = args.weight_stride, product.trans_b = 1;
      product.c = call.args.logits, product.c_stride = work.logits_stride, product.beta = 0.0f;
      multiply(device, product, args.dtype);
      step(part);
      if (!gradient) continue;

      product.trans_b = 0;
      if (args.d_weight) {  // += d_logits^T hidden
        product.m = args.vocabulary, product.n = d, product.k = part.count;
        product.a = work.d_logits, product.a_stride = work.logits_stride, product.trans_a = 1;
        product.b = work.gathered, product.b_stride = d;
        product.c = narrow_weight ? reinterpret_cast<saccade_address>(work.d_weight) : args.d_weight;
        product.c_stride = narrow_weight ? d : args.d_weight_stride;
        product.beta = first == 0 ? 0.0f : 1.0f;
        multiply(device, product, args.dtype);
      }
      if (args.d_hidden) {  // = d_logits weight
        product.m = part.count, product.n = d, product.k = args.vocabulary;
        product.a = work.d_logits, product.a_stride = work.logits_stride, product.trans_a = 0;
        product.b = args.weight, product.b_stride = args.weight_stride;
        product.c = reinterpret_cast<saccade_address>(work.d_hidden), product.c_stride = d, product.beta = 0.0f;
        multiply(device, product, args.dtype);
        with_gradient_type(args.d_hidden_dtype, [&](auto element) {
          using G = decltype(element);
          launch(device, scatter_kernel<G>, part.count, kCopyThreads, part, static_cast<const float*>(work.d_hidden), d,
                 pointer<G>(args.d_hidden), args.d_hidden_stride);
        });
      }
    }
  });

  if (!args.d_weight) return;
  with_gradient_type(args.d_weight_dtype, [&](auto element) {
    using G = decltype(element);
    G* d_weight = pointer<G>(args.d_weight);
    if (policy.rows == 0)  // no chunk wrote it
      check(cudaMemset2DAsync(d_weight, static_cast<size_t>(args.d_weight_stride) * sizeof(G), 0,
                              static_cast<size_t>(d) * sizeof(G), static_cast<size_t>(args.vocabulary), device.stream),
            "zero");
    else if (narrow_weight)
      launch(device, round_kernel<G>, args.vocabulary, kCopyThreads, static_cast<const float*>(work.d_weight), d,
             d_weight, args.d_weight_stride);
  });
}

}  // namespace

void linear_policy_loss(const Device& device, const saccade_linear_policy_loss_args& args,
                        const saccade_policy_loss_args& policy, const LinearPolicyWorkspace& workspace) {
  with_float_type(args.dtype, [&](auto element) { run<decltype(element)>(device, args, policy, workspace); });
}

}  // namespace saccade::cuda
