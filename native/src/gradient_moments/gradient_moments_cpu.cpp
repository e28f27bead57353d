#include "core/simd.h"
#include "gradient_moments/gradient_moments.h"

namespace saccade::SACCADE_ISA {
namespace {

// Calls body(begin, end) for the blocks of n.
template <class Body>
void for_blocks(Pool& pool, int64_t n, const Body& body) {
  pool.run((n + kMomentsBlock - 1) / kMomentsBlock, [&](int64_t block, int) {
    const int64_t begin = block * kMomentsBlock;
    body(begin, begin + kMomentsBlock < n ? begin + kMomentsBlock : n);
  });
}

// The count of a and b samples; negative where either is, or where the sum is too large.
int64_t add_counts(int64_t a, int64_t b) {
  int64_t sum;
  return a < 0 || b < 0 || __builtin_add_overflow(a, b, &sum) ? -1 : sum;
}

// What becomes of a state whose count would be negative.
void spoil(Pool& pool, int64_t n, float* mean, double* m2) {
  for_blocks(pool, n, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      mean[i] = __builtin_nanf("");
      m2[i] = __builtin_nan("");
    }
  });
}

template <class T>
void update(Pool& pool, const saccade_gradient_moments_update_args& args, const T* samples) {
  float* mean = pointer<float>(args.mean);
  double* m2 = pointer<double>(args.m2);
  float* sum = pointer<float>(args.sum);
  int64_t* count = pointer<int64_t>(args.count);
  const bool first = *count == 0;
  *count = add_counts(*count, args.rows);
  const int64_t rows = args.rows, stride = args.samples_stride;
  const bool adds = *count > 0 && rows > 0;
  const double share = 1.0 / static_cast<double>(*count);
  if (*count < 0) spoil(pool, args.size, mean, m2);
  if (!adds && !sum) return;
  for_blocks(pool, args.size, [&](int64_t begin, int64_t end) {
    for_lanes(
        end - begin, [&](int64_t lane, int64_t lanes) __attribute__((always_inline)) {
          const int64_t at = begin + lane;
          float x[kLanes] = {};
          vdouble origin[2], total[2] = {}, deltas[2] = {}, squares[2] = {};
          if (!first)
            store(x, load(mean + at, lanes, 0.0f));
          else if (rows > 0)
            store(x, load(samples + at, lanes, 0.0f));
          for (int k = 0; k < 2; ++k) origin[k] = load_double(x + k * kDoubles);
          for (int64_t row = 0; row < rows; ++row) {
            store(x, load(samples + row * stride + at, lanes, 0.0f));
            for (int k = 0; k < 2; ++k) {
              const vdouble value = load_double(x + k * kDoubles), delta = value - origin[k];
              total[k] += value;
              deltas[k] += delta;
              squares[k] += delta * delta;
            }
          }
          if (sum) store(sum + at, lanes, narrow(total[0], total[1]));
          if (!adds) return;
          double more[kLanes];
          vdouble centre[2];
          for (int k = 0; k < 2; ++k) {
            const vdouble moved = deltas[k] * share;
            centre[k] = origin[k] + moved;
            store(more + k * kDoubles, squares[k] - deltas[k] * moved);
          }
          store(mean + at, lanes, narrow(centre[0], centre[1]));
          for (int64_t i = 0; i < lanes; ++i) m2[at + i] = (first ? 0.0 : m2[at + i]) + more[i];
        });
  });
}

MomentSums sums_of(const float* mean, const double* m2, int64_t n) {
  vdouble squares[2] = {}, deviations[2] = {};
  int64_t i = 0;
  for (; i + 2 * kDoubles <= n; i += 2 * kDoubles)
    for (int k = 0; k < 2; ++k) {
      const vdouble m = load_double(mean + i + k * kDoubles);
      squares[k] += m * m;
      deviations[k] += load(m2 + i + k * kDoubles);
    }
  MomentSums sums{sum_of(squares[0] + squares[1]), sum_of(deviations[0] + deviations[1])};
  for (; i < n; ++i) {
    sums.mean_sq += static_cast<double>(mean[i]) * static_cast<double>(mean[i]);
    sums.m2 += m2[i];
  }
  return sums;
}

// The segment that element i lies in.
int64_t segment_of(const int64_t* offsets, int64_t segments, int64_t i) {
  int64_t low = 0, high = segments;  // offsets[low] <= i < offsets[high]
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (offsets[middle] <= i ? low : high) = middle;
  }
  return low;
}

}  // namespace

void gradient_moments_update(Pool& pool, const saccade_gradient_moments_update_args& args) {
  with_float_type(args.samples_dtype, [&](auto element) {
    using T = decltype(element);
    update(pool, args, pointer<const T>(args.samples));
  });
}

void gradient_moments_merge(Pool& pool, const saccade_gradient_moments_merge_args& args) {
  int64_t* count = pointer<int64_t>(args.count);
  float* mean = pointer<float>(args.mean);
  double* m2 = pointer<double>(args.m2);
  const float* other_mean = pointer<const float>(args.other_mean);
  const double* other_m2 = pointer<const double>(args.other_m2);
  const int64_t other = *pointer<const int64_t>(args.other_count), own = *count;
  *count = add_counts(own, other);
  if (*count < 0) return spoil(pool, args.size, mean, m2);
  if (other == 0) return;
  const double share = static_cast<double>(other) / static_cast<double>(*count);
  const double between = static_cast<double>(own) * share;  // own * other / count
  for_blocks(pool, args.size, [&](int64_t begin, int64_t end) {
    if (own == 0) {
      std::memcpy(mean + begin, other_mean + begin, static_cast<size_t>(end - begin) * sizeof(float));
      std::memcpy(m2 + begin, other_m2 + begin, static_cast<size_t>(end - begin) * sizeof(double));
      return;
    }
    for (int64_t i = begin; i < end; ++i) {
      const double old = static_cast<double>(mean[i]), delta = static_cast<double>(other_mean[i]) - old;
      mean[i] = static_cast<float>(old + delta * share);
      m2[i] += other_m2[i] + delta * delta * between;
    }
  });
}

void gradient_moments_report(Pool& pool, const saccade_gradient_moments_report_args& args, MomentSums* sums) {
  const int64_t* offsets = pointer<const int64_t>(args.offsets);
  const float* mean = pointer<const float>(args.mean);
  const double* m2 = pointer<const double>(args.m2);
  const int64_t count = *pointer<const int64_t>(args.count);
  if (count > 0)
    for_blocks(pool, offsets[args.segments], [&](int64_t begin, int64_t end) {
      MomentSums* block = sums + begin / kMomentsBlock;
      for (int64_t s = segment_of(offsets, args.segments, begin); begin < end; ++s) {
        const int64_t until = offsets[s + 1] < end ? offsets[s + 1] : end;
        block[s] = sums_of(mean + begin, m2 + begin, until - begin);
        begin = until;
      }
    });

  const auto write = [](saccade_address out, int64_t s, double x) {
    if (out) pointer<float>(out)[s] = static_cast<float>(x);
  };
  const double n = static_cast<double>(count);
  for_blocks(pool, args.segments, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      MomentSums total{count < 0 ? __builtin_nan("") : 0.0, 0.0};
      if (count > 0 && offsets[s] < offsets[s + 1])
        for (int64_t b = offsets[s] / kMomentsBlock; b <= (offsets[s + 1] - 1) / kMomentsBlock; ++b) {
          total.mean_sq += sums[b + s].mean_sq;
          total.m2 += sums[b + s].m2;
        }
      const double trace = count < 2 ? __builtin_nan("") : total.m2 / (n - 1.0), signal = total.mean_sq - trace / n;
      write(args.mean_sq, s, total.mean_sq);
      write(args.trace, s, trace);
      write(args.signal, s, signal);
      write(args.snr, s, signal / trace);
    }
  });
}

}  // namespace saccade::SACCADE_ISA
