#include "attention_policy/attention_policy_mma.h"
#include "attention_policy/policy_mma.cuh"
#include "attention_policy/row_kernel.cuh"

namespace saccade::cuda {
namespace {

template <class T, int kDim>
void compute(const Device& device, const saccade_attention_policy_args& args, const AttentionPolicyWorkspace& work) {
  const PolicyRows rows = policy_rows(clean_sequences(device, args, 0, work.packing), args);
  const PlainPolicy<T> policy(rows, policy_side<T>(args),
                              args.lse ? HeadSpan{0, args.heads} : HeadSpan{args.head_begin, args.head_end},
                              work.head_statistics);
  launch_plain_lse<T, kDim>(device, policy, args.sequences, nullptr, pointer<float>(args.lse));
  launch_policies(device, args, work, rows,
                  [&](const PolicyMap& sums) { launch_plain_mean<T, kDim>(device, policy, sums, args.sequences); });
}

}  // namespace

void attention_policy_mma(const Device& device, const saccade_attention_policy_args& args,
                          const AttentionPolicyWorkspace& work) {
  const auto of_type = [&](auto element) {
    with_columns(args.head_dim, [&](auto dim) { compute<decltype(element), dim>(device, args, work); });
  };
  args.dtype == SACCADE_BF16 ? of_type(bf16{}) : of_type(f16{});
}

}  // namespace saccade::cuda
