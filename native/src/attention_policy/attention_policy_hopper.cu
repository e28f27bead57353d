#include "attention_policy/attention_policy_hopper.h"
#include "attention_policy/policy_hopper.cuh"
#include "attention_policy/row_kernel.cuh"

namespace saccade::cuda {

void attention_policy_hopper(const Device& device, const saccade_attention_policy_args& args,
                             const AttentionPolicyWorkspace& work) {
  const PolicyRows rows = policy_rows(clean_sequences(device, args, 0, work.packing), args);
  const PolicySide<bf16> side = policy_side<bf16>(args);
  const TiledPolicy policy(rows, side, args.lse ? HeadSpan{0, args.heads} : HeadSpan{args.head_begin, args.head_end},
                           work.tiles.queries, work.tiles.keys);
  with_dim(args.head_dim, [&](auto dim) {
    launch_tiling<dim>(device, policy, side, args.keys, args.sequences, nullptr, pointer<float>(args.lse));
    launch_policies(device, args, work, rows,
                    [&](const PolicyMap& sums) { launch_mean<dim>(device, policy, sums, args.sequences); });
  });
}

}  // namespace saccade::cuda
