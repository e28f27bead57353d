#include "core/simd.h"
#include "grad_norm/grad_norm.h"
#include "grad_norm/tensor_list.h"

namespace saccade::SACCADE_ISA {
namespace {

constexpr int64_t kPage = 1024;  // f32 elements

double sum_of_squares(const float* x, int64_t n) {
  vdouble s[4] = {};
  int64_t i = 0;
  for (; i + 4 * kDoubles <= n; i += 4 * kDoubles) {
    // A page further: the processor's own prefetcher stops at each page.
    __builtin_prefetch(x + i + kPage);
    __builtin_prefetch(x + i + kPage + 2 * kDoubles);
    for (int k = 0; k < 4; ++k) {
      const vdouble d = load_double(x + i + k * kDoubles);
      s[k] += d * d;
    }
  }
  const vdouble lanes = (s[0] + s[1]) + (s[2] + s[3]);
  double sum = 0.0;
  for (int k = 0; k < kDoubles; ++k) sum += lanes[k];
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

}  // namespace

void grad_norm(Pool& pool, const saccade_grad_norm_args& args, const GradNormWorkspace& workspace) {
  const auto* entries = pointer<const saccade_grad_norm_tensor>(args.entries);
  pool.run(workspace.blocks, [&](int64_t block, int) {
    double sum = 0.0;
    for_pieces(entries, args.tensors, block * kGradNormBlock, kGradNormBlock,
               [&](const saccade_grad_norm_tensor& tensor, int64_t begin, int64_t size) {
                 sum += sum_of_squares(pointer<const float>(tensor.grad) + begin, size);
               });
    workspace.sums[block] = sum;
  });
  double sum = 0.0;
  for (int64_t block = 0; block < workspace.blocks; ++block) sum += workspace.sums[block];
  const double exact = std::sqrt(sum);
  const float norm = static_cast<float>(exact);
  *pointer<float>(args.norm) = norm;
  if (args.scale) {
    const double scale = static_cast<double>(args.max_norm) / (exact + 1e-6);
    *pointer<float>(args.scale) =
        norm - norm == 0.0f ? (scale < 1.0 ? static_cast<float>(scale) : 1.0f) : __builtin_nanf("");
  }
}

}  // namespace saccade::SACCADE_ISA
