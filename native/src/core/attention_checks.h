// Checks that the attention operations share.
#pragma once

#include "core/attention_layout.h"

namespace saccade {

// Head counts and dimension of one side; `prefix` names the arguments ("", "ref_").
inline void require_heads(const char* heads_name, int64_t heads, const char* kv_name, int64_t kv_heads,
                          const char* dim_name, int64_t dim) {
  require_size(kv_name, kv_heads, 1, 1 << 16);
  require_size(heads_name, heads, 1, 1 << 16);
  if (heads % kv_heads) {
    char expected[64];
    std::snprintf(expected, sizeof expected, "a multiple of %s = %lld", kv_name, static_cast<long long>(kv_heads));
    invalid(heads_name, expected, "%lld", static_cast<long long>(heads));
  }
  require_size(dim_name, dim, 1, kMaxHeadDim);
}

// Strides of a [rows,heads,dim] tensor, dense where 0.  Returns what it spans.
inline Extent checked_head_strides(const char* row_name, int64_t& row_stride, const char* head_name,
                                   int64_t& head_stride, int64_t rows, int64_t heads, int64_t dim) {
  head_stride = checked_stride(head_name, head_stride, heads, dim);
  const int64_t row_width = (heads - 1) * head_stride + dim;
  if (row_stride == 0 && head_stride == dim) row_stride = heads * dim;
  row_stride = checked_stride(row_name, row_stride, rows, row_width);
  return span(rows, row_stride, row_width);
}

inline void require_head_range(const char* name, int32_t begin, int32_t end, int64_t heads) {
  if (begin >= 0 && begin < end && end <= heads) return;
  char expected[64];
  std::snprintf(expected, sizeof expected, "a non-empty range within [0, %lld)", static_cast<long long>(heads));
  invalid(name, expected, "[%d, %d)", begin, end);
}

// Both offsets, the longest key sequence, and lengths where given.
inline void require_packing(Operands& operands, saccade_address offsets_q, saccade_address offsets_k,
                            saccade_address lengths_k, int64_t sequences, int64_t rows, int64_t keys,
                            int64_t max_keys) {
  operands.offsets("offsets_q", offsets_q, sequences, rows);
  int64_t longest = operands.offsets("offsets_k", offsets_k, sequences, keys);
  operands.optional_input("lengths_k", lengths_k, sequences, 4);
  if (lengths_k && operands.on_host) {
    const int32_t* lengths = pointer<const int32_t>(lengths_k);
    const int32_t* offsets = pointer<const int32_t>(offsets_k);
    longest = 0;
    for (int64_t s = 0; s < sequences; ++s) {
      const int32_t room = offsets[s + 1] - offsets[s];
      if (lengths[s] < 0 || lengths[s] > room)
        invalid("lengths_k", "lengths within the region of each sequence", "%d of %d at %lld", lengths[s], room,
                static_cast<long long>(s));
      if (lengths[s] > longest) longest = lengths[s];
    }
  }
  if (max_keys < longest) {
    char expected[64];
    std::snprintf(expected, sizeof expected, "at least the longest sequence of %lld", static_cast<long long>(longest));
    invalid("max_keys", expected, "%lld", static_cast<long long>(max_keys));
  }
}

// Sizes that workspaces are made of.
template <class Args>
void require_attention_sizes(const Args& args) {
  require_rows("rows", args.rows);
  require_rows("keys", args.keys);
  require_rows("sequences", args.sequences);
  require_rows("max_keys", args.max_keys);
  require_heads("heads", args.heads, "kv_heads", args.kv_heads, "head_dim", args.head_dim);
}

// Everything that attention_policy and attention_divergence have in common; fills dense strides in.
template <class Args>
void require_attention_policy(Args& args, Operands& operands) {
  require_attention_sizes(args);
  require(std::isfinite(args.scale), "scale", "a finite number", static_cast<double>(args.scale));
  require_choice("support", args.support, 3, "ALL (0), PREVIOUS (1) or RANGES (2)");
  require_choice("reduction", args.reduction, 2, "MEAN (0) or NONE (1)");
  require_head_range("head_begin, head_end", args.head_begin, args.head_end, args.heads);
  require_choice("compact", args.compact, 2, "0 or 1");
  if (args.compact && args.support != SACCADE_SUPPORT_RANGES)
    invalid("compact", "0 unless support is RANGES", "%d", args.compact);
  const int64_t size = float_size("dtype", args.dtype);
  operands.input("q", args.q,
                 checked_head_strides("q_row_stride", args.q_row_stride, "q_head_stride", args.q_head_stride, args.rows,
                                      args.heads, args.head_dim),
                 size);
  operands.input("k", args.k,
                 checked_head_strides("k_row_stride", args.k_row_stride, "k_head_stride", args.k_head_stride, args.keys,
                                      args.kv_heads, args.head_dim),
                 size);
  require_packing(operands, args.offsets_q, args.offsets_k, 0, args.sequences, args.rows, args.keys, args.max_keys);
  if (args.support == SACCADE_SUPPORT_RANGES)
    operands.input("support_ranges", args.support_ranges, 2 * args.sequences, 4);
}

// The row stride of a stored map: at least the longest key sequence, or the widest range when compact.
template <class Args>
int64_t require_map(const Operands& operands, const char* stride_name, const char* dtype_name, const Args& args,
                    int64_t stride, int32_t dtype) {
  if (dtype != SACCADE_F32 && dtype != SACCADE_BF16) invalid(dtype_name, "f32 (0) or bf16 (1)", "%d", dtype);
  if (!operands.on_host) return checked_stride(stride_name, stride, args.rows, args.compact ? 0 : args.max_keys);
  int64_t width = 0;
  const int32_t* offsets = pointer<const int32_t>(args.offsets_k);
  const int32_t* ranges = pointer<const int32_t>(args.support_ranges);
  for (int64_t s = 0; s < args.sequences; ++s) {
    int64_t keys = offsets[s + 1] - offsets[s];
    if (args.compact) {
      const int64_t begin = ranges[2 * s] < 0 ? 0 : ranges[2 * s],
                    end = ranges[2 * s + 1] < keys ? ranges[2 * s + 1] : keys;
      keys = end - begin;
    }
    if (keys > width) width = keys;
  }
  return checked_stride(stride_name, stride, args.rows, width);
}

}  // namespace saccade
