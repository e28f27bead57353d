#include "core/rows.cuh"
#include "gradient_moments/gradient_moments.h"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 256;
constexpr double kNan = __builtin_nan("");

// The count of a and b samples; negative where either is, or where the sum is too large.
__device__ int64_t add_counts(int64_t a, int64_t b) { return a < 0 || b < 0 || a > INT64_MAX - b ? -1 : a + b; }

// Behind the kernel that reads the old count.
__global__ void count_kernel(saccade_address count, saccade_address other, int64_t more) {
  int64_t& own = *pointer<int64_t>(count);
  own = add_counts(own, other ? *pointer<const int64_t>(other) : more);
}

template <class T>
__global__ void __launch_bounds__(kThreads) update_kernel(saccade_gradient_moments_update_args args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.size) return;
  const int64_t before = *pointer<const int64_t>(args.count), count = add_counts(before, args.rows);
  float& mean = pointer<float>(args.mean)[i];
  double& m2 = pointer<double>(args.m2)[i];
  const T* x = pointer<const T>(args.samples) + i;
  const double old_m2 = before == 0 ? 0.0 : m2;
  const double origin = before != 0     ? static_cast<double>(mean)
                        : args.rows > 0 ? static_cast<double>(to_float(*x))
                                        : 0.0;
  double total = 0.0, deltas = 0.0, squares = 0.0;
#pragma unroll 8
  for (int64_t row = 0; row < args.rows; ++row) {
    const double value = static_cast<double>(to_float(x[row * args.samples_stride])), delta = value - origin;
    total += value;
    deltas += delta;
    squares += delta * delta;
  }
  if (args.sum) pointer<float>(args.sum)[i] = static_cast<float>(total);
  if (count < 0) {
    mean = NAN;
    m2 = kNan;
  } else if (args.rows > 0) {
    const double share = deltas * (1.0 / static_cast<double>(count));
    mean = static_cast<float>(origin + share);
    m2 = old_m2 + (squares - deltas * share);
  }
}

__global__ void __launch_bounds__(kThreads) merge_kernel(saccade_gradient_moments_merge_args args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.size) return;
  const int64_t own = *pointer<const int64_t>(args.count), other = *pointer<const int64_t>(args.other_count);
  const int64_t count = add_counts(own, other);
  float& mean = pointer<float>(args.mean)[i];
  double& m2 = pointer<double>(args.m2)[i];
  if (count < 0) {
    mean = NAN;
    m2 = kNan;
    return;
  }
  if (other == 0) return;
  const float other_mean = pointer<const float>(args.other_mean)[i];
  const double other_m2 = pointer<const double>(args.other_m2)[i];
  if (own == 0) {
    mean = other_mean;
    m2 = other_m2;
    return;
  }
  const double share = static_cast<double>(other) / static_cast<double>(count);
  const double old = static_cast<double>(mean), delta = static_cast<double>(other_mean) - old;
  mean = static_cast<float>(old + delta * share);
  m2 += other_m2 + delta * delta * (static_cast<double>(own) * share);
}

__device__ MomentSums add(const MomentSums& a, const MomentSums& b) { return {a.mean_sq + b.mean_sq, a.m2 + b.m2}; }

// What kMomentsBlock elements and one segment share, [block + segment]; a block walks the segments that it meets.
__global__ void __launch_bounds__(kThreads) sums_kernel(saccade_gradient_moments_report_args args, MomentSums* sums) {
  __shared__ MomentSums shared[2][32];
  if (*pointer<const int64_t>(args.count) <= 0) return;
  const int64_t* offsets = pointer<const int64_t>(args.offsets);
  const int64_t begin = blockIdx.x * kMomentsBlock;
  const int64_t end = begin + kMomentsBlock < args.size ? begin + kMomentsBlock : args.size;
  int64_t low = 0, high = args.segments;  // offsets[low] <= begin < offsets[high]
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (offsets[middle] <= begin ? low : high) = middle;
  }
  for (int64_t s = low; s < args.segments && offsets[s] < end; ++s) {
    const int64_t from = offsets[s] > begin ? offsets[s] : begin, until = offsets[s + 1] < end ? offsets[s + 1] : end;
    MomentSums own{0.0, 0.0};
    for (int64_t i = from + threadIdx.x; i < until; i += kThreads) {
      const double mean = static_cast<double>(pointer<const float>(args.mean)[i]);
      own = add(own, {mean * mean, pointer<const double>(args.m2)[i]});
    }
    own = reduce_block(own, shared[s % 2], add);
    if (threadIdx.x == 0 && from < until) sums[blockIdx.x + s] = own;
  }
}

__global__ void __launch_bounds__(kThreads)
    report_kernel(saccade_gradient_moments_report_args args, const MomentSums* sums) {
  const int64_t s = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (s >= args.segments) return;
  const int64_t* offsets = pointer<const int64_t>(args.offsets);
  const int64_t count = *pointer<const int64_t>(args.count), begin = offsets[s], end = offsets[s + 1];
  const bool bad = begin < 0 || end < begin || end > args.size;
  MomentSums total{count < 0 || bad ? kNan : 0.0, bad ? kNan : 0.0};
  if (count > 0 && !bad && begin < end)
    for (int64_t b = begin / kMomentsBlock; b <= (end - 1) / kMomentsBlock; ++b) total = add(total, sums[b + s]);
  const double n = static_cast<double>(count);
  const double trace = count < 2 ? kNan : total.m2 / (n - 1.0), signal = total.mean_sq - trace / n;
  const auto write = [&](saccade_address out, double x) {
    if (out) pointer<float>(out)[s] = static_cast<float>(x);
  };
  write(args.mean_sq, total.mean_sq);
  write(args.trace, trace);
  write(args.signal, signal);
  write(args.snr, signal / trace);
}

}  // namespace

void gradient_moments_update(const Device& device, const saccade_gradient_moments_update_args& args) {
  with_float_type(args.samples_dtype, [&](auto element) {
    launch(device, update_kernel<decltype(element)>, divide_up(args.size, kThreads), kThreads, args);
  });
  launch(device, count_kernel, 1, 1, args.count, saccade_address{0}, args.rows);
}

void gradient_moments_merge(const Device& device, const saccade_gradient_moments_merge_args& args) {
  launch(device, merge_kernel, divide_up(args.size, kThreads), kThreads, args);
  launch(device, count_kernel, 1, 1, args.count, args.other_count, int64_t{0});
}

void gradient_moments_report(const Device& device, const saccade_gradient_moments_report_args& args, MomentSums* sums) {
  launch(device, sums_kernel, args.segments > 0 ? divide_up(args.size, kMomentsBlock) : 0, kThreads, args, sums);
  launch(device, report_kernel, divide_up(args.segments, kThreads), kThreads, args, sums);
}

}  // namespace saccade::cuda
