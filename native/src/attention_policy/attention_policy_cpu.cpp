#include "attention_policy/attention_policy.h"
#include "attention_policy/mean_policy.h"

namespace saccade::SACCADE_ISA {
namespace {

template <class T>
void write_map(T* out, int64_t columns, int64_t first_key, const float* policy, Support support, float inverse) {
  const int64_t begin = support.begin - first_key, end = support.end - first_key;
  for_lanes(begin < 0 ? 0 : begin, [&](int64_t c, int64_t lanes) { store(out + c, lanes, splat(0.0f)); });
  for_lanes(end - begin, [&](int64_t c, int64_t lanes) {
    store(out + begin + c, lanes, load(policy + support.begin + c, lanes, 0.0f) * inverse);
  });
  for_lanes(columns - end, [&](int64_t c, int64_t lanes) { store(out + end + c, lanes, splat(0.0f)); });
}

template <class T>
void policy_of_rows(Pool& pool, const saccade_attention_policy_args& args, const AttentionPolicyWorkspace& workspace) {
  const PolicyRows rows{packing_of(args, 0), args.support, pointer<const int32_t>(args.support_ranges)};
  const PolicySide<T> side{heads_of<const T>(args.q, args.q_row_stride, args.q_head_stride),
                           args.heads,
                           args.scale,
                           {workspace.keys, args.kv_heads, args.head_dim},
                           workspace.key_norms,
                           args.rows,
                           nullptr};
  side.prepare(pool, rows.packing, heads_of<const T>(args.k, args.k_row_stride, args.k_head_stride));
  float* lse = pointer<float>(args.lse);
  float* entropy = pointer<float>(args.entropy);
  float* mass = pointer<float>(args.mass);
  const bool mean = args.reduction == SACCADE_REDUCTION_MEAN;
  const int64_t width = padded(args.max_keys), in_range = args.head_end - args.head_begin;
  for_row_blocks(pool, rows.packing, [&](int64_t s, int64_t i, int64_t count, int worker) {
    float* scratch = workspace.scratch + worker * AttentionPolicyWorkspace::kScratchRows * width;
    float* policy = scratch + 2 * kRows * width;
    const int64_t row = rows.packing.offsets_q[s] + i;
    double entropies[kRows] = {}, masses[kRows] = {};
    const int64_t parts = mean ? 1 : in_range, heads = mean ? in_range : 1;
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t first = args.head_begin + part * heads;
      sum_heads(side, rows, s, i, count, first, first + heads, lse && part == 0, scratch, policy, width,
                [&](int64_t at, double value) {
                  if (lse) lse[at] = static_cast<float>(value);
                });
      for (int64_t r = 0; r < count; ++r) {
        const Support support = rows.of(s, i + r);
        const Mass m = mass_of(policy + r * width, support, heads);
        if (!m.dead) {
          entropies[r] += entropy_of(policy + r * width, support, m.inverse);
          masses[r] += static_cast<double>(m.mass);
        }
        if (args.map) {
          const int64_t first_key = args.compact ? rows.first_key(s) : 0, at = (row + r) * args.map_stride;
          const Support shown = m.dead ? Support{first_key, first_key} : support;
          if (args.map_dtype == SACCADE_BF16)
            write_map(pointer<bf16>(args.map) + at, args.map_stride, first_key, policy + r * width, shown, m.inverse);
          else
            write_map(pointer<float>(args.map) + at, args.map_stride, first_key, policy + r * width, shown, m.inverse);
        }
      }
    }
    for (int64_t r = 0; r < count; ++r) {
      if (entropy) entropy[row + r] = static_cast<float>(entropies[r] / static_cast<double>(parts));
      if (mass) mass[row + r] = static_cast<float>(masses[r] / static_cast<double>(parts));
    }
  });
}

}  // namespace

void attention_policy(Pool& pool, const saccade_attention_policy_args& args,
                      const AttentionPolicyWorkspace& workspace) {
  with_float_type(args.dtype, [&](auto element) { policy_of_rows<decltype(element)>(pool, args, workspace); });
}

}  // namespace saccade::SACCADE_ISA
