#include "core/softmax_row.cuh"
#include "logit_divergence/logit_divergence.h"
#include "logit_divergence/pair.h"
#include "logit_divergence/resident.cuh"

namespace saccade::cuda {
namespace {

constexpr int kMaxThreads = 1024, kMinThreads = 128;
constexpr int64_t kLong = 8192;  // tokens of a row that a cluster is worth
constexpr float kNan = __builtin_nanf("");
constexpr float kMasked = -INFINITY;

struct Sums {
  double divergence;
  double change;  // of q - p: the error of the log-normalisers
  double score, mass;
  double others;  // FORWARD_KL: the sum of q - p over all but the token of the policy's largest logit
  float lowest, unused;

  static __device__ Sums merge(const Sums& a, const Sums& b) {
    return {a.divergence + b.divergence,
            a.change + b.change,
            a.score + b.score,
            a.mass + b.mass,
            a.others + b.others,
            fminf(a.lowest, b.lowest),
            0.0f};
  }
};

// What a block holds of a pair of rows.  A token is read, and its gradient written, by one thread in all sweeps.
template <int kThreads, Form kForm, class T>
struct Sweep {
  const T *policy, *reference;
  int64_t n;
  Groups<T> groups;

  // body(first token, logits of p, logits of q, by group), and end() after at most kPartial tokens of a thread.
  template <class Body, class End>
  __device__ __forceinline__ void operator()(const Body& body, const End& end) const {
    constexpr int kPartial = 512;  // few, as scores may differ little from their mean
    constexpr int64_t kSegment = int64_t{kThreads} * (kPartial / kPack<T>);
    for (int64_t first = 0; first < groups.count; first += kSegment) {
      const int64_t last = first + kSegment < groups.count ? first + kSegment : groups.count;
      for (int64_t g = first + threadIdx.x; g < last; g += kThreads) {
        const int64_t j = groups.begin(g);
        float p[kPack<T>], q[kPack<T>];
        load_group(under_policy(kForm) ? policy : reference, n, j, kMasked, p);
        load_group(under_policy(kForm) ? reference : policy, n, j, kMasked, q);
        body(j, p, q);
      }
      end();
    }
  }

  // The second sweep; for FORWARD_KL also dx = slope * (q - p), where dx is given.  top: the token of the policy's
  // largest logit, where it is the thread's.
  template <class G>
  __device__ Sums measure(const Pair<kForm>& pair, float slope, G* dx, int64_t& top, Sums* shared) const {
    Sums sums{};
    float divergence = 0.0f, change = 0.0f, score = 0.0f, mass = 0.0f, others = 0.0f;
    (*this)(
        [&](int64_t first, const float(&p)[kPack<T>], const float(&q)[kPack<T>]) {
          float gradient[kPack<T>];
#pragma unroll
          for (int e = 0; e < kPack<T>; ++e) {
            const float difference = pair.difference(p[e], q[e]);
            sums.lowest = fminf(sums.lowest, difference);
            const auto token = pair.token(p[e], q[e], difference);
            divergence += token.divergence;
            change += token.change;
            if constexpr (kForm == Form::kForwardKl) {
              const bool largest = q[e] == pair.policy.max;
              if (largest) top = first + e;
              others += largest ? 0.0f : token.change;
              gradient[e] = token.change * slope;
            } else {
              score = fmaf(token.policy, token.score, score);
              mass += token.policy;
            }
          }
          if (kForm == Form::kForwardKl && dx) store_group(dx, n, first, gradient);
        },
        [&] {
          sums.divergence += static_cast<double>(divergence);
          sums.change += static_cast<double>(change);
          sums.score += static_cast<double>(score);
          sums.mass += static_cast<double>(mass);
          sums.others += static_cast<double>(others);
          divergence = change = score = mass = others = 0.0f;
        });
    return reduce_block(sums, shared, Sums::merge);
  }

  // The third sweep, for all but FORWARD_KL: dx = slope * policy * (mean - score).  Returns the sum of policy * (mean -
  // score) over all but the token of the policy's largest logit.
  template <class G>
  __device__ double write_gradient(const Pair<kForm>& pair, float mean, float slope, G* dx, int64_t& top,
                                   double* shared) const {
    double total = 0.0;
    float others = 0.0f;
    (*this)(
        [&](int64_t first, const float(&p)[kPack<T>], const float(&q)[kPack<T>]) {
          float gradient[kPack<T>];
#pragma unroll
          for (int e = 0; e < kPack<T>; ++e) {
            const float own = pair.gradient(p[e], q[e], mean);
            const bool largest = (under_policy(kForm) ? p[e] : q[e]) == pair.policy.max;
            if (largest) top = first + e;
            others += largest ? 0.0f : own;
            gradient[e] = own * slope;
          }
          store_group(dx, n, first, gradient);
        },
        [&] {
          total += static_cast<double>(others);
          others = 0.0f;
        });
    return reduce_block(total, shared, [](double a, double b) { return a + b; });
  }
};

// One block a row: any GPU, any alignment.
template <int kThreads, Form kForm, class T, class G>
__global__ void __launch_bounds__(kThreads) rows_kernel(const __grid_constant__ saccade_logit_divergence_args args) {
  __shared__ SoftmaxShared shared_rows[2];
  __shared__ Sums shared_sums[32];
  __shared__ double shared_top[32];
  const int64_t r = blockIdx.x, n = args.vocabulary;
  const T* logits = pointer<const T>(args.logits) + r * args.logits_stride;
  const T* ref_logits = pointer<const T>(args.ref_logits) + r * args.ref_logits_stride;
  G* dx = args.d_logits ? pointer<G>(args.d_logits) + r * args.d_logits_stride : nullptr;
  const float weight = args.weight ? pointer<const float>(args.weight)[r] : 1.0f;
  const bool inactive = weight == 0.0f;
  if (inactive && !args.divergence) return fill_row<kThreads>(dx, n, 0.0f);

  const float inverse = 1.0f / args.temperature, scale = inverse * kLog2E;
  const SoftmaxRow policy = softmax_row<kThreads, false>(logits, n, scale, shared_rows[0]);
  const SoftmaxRow reference = softmax_row<kThreads, false>(ref_logits, n, scale, shared_rows[1]);
  const float policy_log_sum = policy.log_sum(), ref_log_sum = reference.log_sum();
  double divergence = static_cast<double>(policy_log_sum + ref_log_sum);  // NaN where a row is no distribution
  if (divergence == divergence) {
    const Pair<kForm> pair({policy.max, policy_log_sum}, {reference.max, ref_log_sum},
                           ::log(static_cast<double>(reference.sum) / static_cast<double>(policy.sum)), inverse,
                           args.beta);
    const Sweep<kThreads, kForm, T> sweep{logits, ref_logits, n, Groups<T>(logits, n)};
    const float grad_output = args.grad_output ? *pointer<const float>(args.grad_output) : 1.0f;
    double slope =
        static_cast<double>(weight) * static_cast<double>(grad_output) / static_cast<double>(args.temperature);
    if (is_jsd(kForm)) slope *= 1.0 - static_cast<double>(args.beta);
    G* const out = inactive ? nullptr : dx;
    int64_t top = -1;
    const Sums sums = sweep.measure(pair, static_cast<float>(slope), out, top, shared_sums);
    divergence = pair.corrected(sums.divergence, sums.change);
    if (!is_jsd(kForm) && sums.lowest == kMasked) divergence = static_cast<double>(INFINITY);  // p > 0 = q
    if (out && divergence < static_cast<double>(INFINITY)) {
      double top_gradient;
      if constexpr (kForm == Form::kForwardKl)
        // Without the others' share of the error.
        top_gradient = sums.change * (1.0 - 1.0 / static_cast<double>(policy.sum)) - sums.others;
      else
        top_gradient = -sweep.write_gradient(pair, static_cast<float>(sums.score / sums.mass),
                                             static_cast<float>(slope), out, top, shared_top);
      if (top >= 0 && policy.sum < 2.0f) out[top] = from_float<G>(static_cast<float>(top_gradient * slope));
    }
  }
  if (args.divergence && threadIdx.x == 0) pointer<float>(args.divergence)[r] = static_cast<float>(divergence);
  if (!dx || (!inactive && divergence < static_cast<double>(INFINITY))) return;
  __syncthreads();  // until FORWARD_KL's gradient is written
  fill_row<kThreads>(dx, n, inactive ? 0.0f : kNan);
}

template <Form kForm>
void launch_rows(const Device& device, const saccade_logit_divergence_args& args) {
  const auto rows = [&](auto logit, auto gradient) {
    using T = decltype(logit);
    using G = decltype(gradient);
    if constexpr (std::is_same_v<T, G>) {
      const int64_t strides = args.logits_stride | args.ref_logits_stride | (args.d_logits ? args.d_logits_stride : 0);
      const uint64_t pieces = args.logits | args.ref_logits | args.d_logits | (args.vocabulary | strides) * sizeof(T);
      if (device.capability == 90 && args.rows > 0 && args.vocabulary >= kLong && pieces % 16 == 0 &&
          (args.d_logits ? launch_resident<kForm, T, true> : launch_resident<kForm, T, false>)(device, args))
        return;
    }
    if (args.vocabulary > kMinThreads * 64)
      launch(device, rows_kernel<kMaxThreads, kForm, T, G>, args.rows, kMaxThreads, args);
    else
      launch(device, rows_kernel<kMinThreads, kForm, T, G>, args.rows, kMinThreads, args);
  };
  with_float_type(args.dtype, [&](auto logit) {
    if (args.d_logits && args.d_logits_dtype == SACCADE_F32)
      rows(logit, float{});
    else
      rows(logit, logit);
  });
}

}  // namespace

void logit_divergence(const Device& device, const saccade_logit_divergence_args& args) {
  if (!args.divergence && !args.d_logits) return;
  if (args.kind == SACCADE_DIVERGENCE_FORWARD_KL)
    launch_rows<Form::kForwardKl>(device, args);
  else if (args.kind == SACCADE_DIVERGENCE_REVERSE_KL)
    launch_rows<Form::kReverseKl>(device, args);
  else if (args.beta <= 0.5f)
    launch_rows<Form::kJsdUnderPolicy>(device, args);
  else
    launch_rows<Form::kJsdUnderReference>(device, args);
}

}  // namespace saccade::cuda
