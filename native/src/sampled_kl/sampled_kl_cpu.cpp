#include "sampled_kl/element.h"
#include "sampled_kl/sampled_kl.h"

namespace saccade::SACCADE_ISA {

void sampled_kl(Pool& pool, const saccade_sampled_kl_args& args) {
  constexpr int64_t kBlock = 1 << 14;  // rows of a task
  const float* log_prob = pointer<const float>(args.log_prob);
  const float* ref_log_prob = pointer<const float>(args.ref_log_prob);
  const float* old_log_prob = args.importance_corrected ? pointer<const float>(args.old_log_prob) : nullptr;
  float* kl = pointer<float>(args.kl);
  float* d_log_prob = pointer<float>(args.d_log_prob);
  pool.run((args.rows + kBlock - 1) / kBlock, [&](int64_t block, int) {
    const int64_t begin = block * kBlock, size = args.rows - begin < kBlock ? args.rows - begin : kBlock;
    for_lanes(size, [&](int64_t i, int64_t lanes) {
      const int64_t r = begin + i;
      const vfloat l = load(log_prob + r, lanes, 0.0f), reference = load(ref_log_prob + r, lanes, 0.0f);
      const KlElement element =
          old_log_prob ? corrected_kl_element(args.estimator, l, reference, l - load(old_log_prob + r, lanes, 0.0f))
                       : sampled_kl_element(args.estimator, l, reference);
      store(kl + r, lanes, element.value);
      if (d_log_prob) store(d_log_prob + r, lanes, element.gradient);
    });
  });
}

}  // namespace saccade::SACCADE_ISA
