#include "attention_divergence/attention_divergence.h"
#include "attention_divergence/element.h"
#include "attention_policy/mean_policy.h"

namespace saccade::SACCADE_ISA {
namespace {

// Heads whose policy is compared at once, and the share of the row's weight that they carry.
struct HeadRange {
  int64_t begin, end;
  int64_t ref_begin, ref_end;
  float share;
  bool first;
};

SACCADE_INLINE vfloat centred(vfloat dp, AttentionCentre centre) { return (dp - centre.pivot) - centre.delta; }

// Where x is largest in [begin, end).
SACCADE_INLINE int64_t argmax(const float* x, int64_t begin, int64_t end) {
  const float lowest = -__builtin_inff();
  vfloat top = splat(lowest);
  vint at = lane_index() * 0;
  for_lanes(end - begin, [&](int64_t j, int64_t lanes) {
    const vfloat v = load(x + begin + j, lanes, lowest);
    const vint larger = v > top;
    top = select(larger, v, top);
    at = larger ? lane_index() + static_cast<int32_t>(j) : at;
  });
  const float most = max_of(top);
  int64_t first = 0;
  for (int lane = kLanes - 1; lane >= 0; --lane)
    if (top[lane] == most) first = at[lane];
  return begin + first;
}

template <class T>
class Passes {
 public:
  Passes(Pool& pool, const saccade_attention_divergence_args& args, const AttentionDivergenceWorkspace& workspace)
      : pool_(pool),
        args_(args),
        work_(workspace),
        keys_(heads_of<const T>(args.k, args.k_row_stride, args.k_head_stride)),
        rows_{packing_of(args, 0), args.support, pointer<const int32_t>(args.support_ranges)},
        side_{heads_of<const T>(args.q, args.q_row_stride, args.q_head_stride),
              args.heads,
              args.scale,
              {workspace.keys, args.kv_heads, args.head_dim},
              workspace.key_norms,
              args.rows,
              pointer<const float>(args.lse)},
        ref_side_{heads_of<const T>(args.ref_q, args.ref_q_row_stride, args.ref_q_head_stride),
                  args.ref_heads,
                  args.ref_scale,
                  {workspace.ref_keys, args.ref_kv_heads, args.ref_head_dim},
                  workspace.ref_key_norms,
                  args.rows,
                  pointer<const float>(args.ref_lse)},
        weight_(pointer<const float>(args.weight)),
        entropy_weight_(pointer<const float>(args.entropy_weight)),
        width_(padded(args.max_keys)),
        gradient_(wants_gradient(args)),
        grad_output_(scalar(args.grad_output, 1.0f)) {}

  void run() {
    side_.prepare(pool_, rows_.packing, keys_);
    if (args_.ref_k)
      ref_side_.prepare(pool_, rows_.packing,
                        heads_of<const T>(args_.ref_k, args_.ref_k_row_stride, args_.ref_k_head_stride));
    if (gradient_) clear_gradients();
    if (args_.reduction == SACCADE_REDUCTION_MEAN) {
      pass({args_.head_begin, args_.head_end, args_.ref_head_begin, args_.ref_head_end, 1.0f, true});
    } else {
      const float share = 1.0f / static_cast<float>(args_.head_end - args_.head_begin);
      for (int64_t h = args_.head_begin; h < args_.head_end; ++h) {
        const int64_t ref = args_.ref_head_begin + h - args_.head_begin;
        pass({h, h + 1, ref, ref + 1, share, h == args_.head_begin});
      }
    }
    if (gradient_)
      with_gradient_type([&](auto element) {
        using G = decltype(element);
        write_transposed(pool_, rows_.packing, d_keys(),
                         heads_of<G>(args_.dk, args_.dk_row_stride, args_.dk_head_stride), args_.scale);
      });
    write_rows();
  }

 private:
  Transposed d_keys() const { return {work_.d_keys, args_.kv_heads, args_.head_dim}; }

  // A worker's blocks of kRows rows.
  float* scores_of(int worker) const {
    return work_.scratch + worker * AttentionDivergenceWorkspace::kScratchRows * width_;
  }
  float* policy_of(int worker) const { return scores_of(worker) + 2 * kRows * width_; }

  float weight(int64_t row) const { return weight_ ? weight_[row] : 0.0f; }
  float entropy_weight(int64_t row) const { return entropy_weight_ ? entropy_weight_[row] : 0.0f; }
  bool active(int64_t row) const { return weight(row) != 0.0f || entropy_weight(row) != 0.0f; }
  // What a row's dP is kept in multiples of: at weights of at most 1 and without the given gradient, r / p is within
  // f32 wherever p is.
  float unit(int64_t row) const {
    const float w = __builtin_fabsf(weight(row)), ew = __builtin_fabsf(entropy_weight(row)), most = w > ew ? w : ew;
    return most > 1.0f ? most : 1.0f;
  }

  template <class Body>
  void with_gradient_type(const Body& body) {
    if (args_.grad_dtype == SACCADE_F32)
      body(float{});
    else
      body(T{});
  }

  void pass(const HeadRange& heads) {
    for_row_blocks(pool_, rows_.packing,
                   [&](int64_t s, int64_t i, int64_t count, int worker) { compare(heads, s, i, count, worker); });
    if (!gradient_) return;
    for_row_blocks(pool_, rows_.packing, [&](int64_t s, int64_t i, int64_t count, int worker) {
      query_gradient(heads, s, i, count, worker);
    });
    const int64_t blocks = width_ / kColumnBlock, kv_begin = heads.begin / side_.group(),
                  kv_heads = (heads.end - 1) / side_.group() + 1 - kv_begin;
    pool_.run(rows_.packing.sequences * kv_heads * blocks, [&](int64_t task, int) {
      key_gradient(heads, task / blocks / kv_heads, kv_begin + task / blocks % kv_heads, task % blocks * kColumnBlock);
    });
  }

  // Rows whose gradient no pass writes: heads outside the range.  dk gathers over passes from 0.
  void clear_gradients() {
    const Packing& packing = rows_.packing;
    pool_.run(packing.sequences, [&](int64_t s, int) {
      const int64_t n = args_.kv_heads * args_.head_dim * padded(packing.keys(s));
      std::memset(d_keys().at(packing, s, 0, 0), 0, static_cast<size_t>(n) * sizeof(float));
      for (int64_t row = packing.offsets_q[s]; row < packing.offsets_q[s + 1]; ++row)
        for (int64_t h = 0; h < args_.heads; ++h) {
          if (h >= args_.head_begin && h < args_.head_end) continue;
          with_gradient_type([&](auto element) {
            using G = decltype(element);
            std::memset(static_cast<void*>(heads_of<G>(args_.dq, args_.dq_row_stride, args_.dq_head_stride).at(row, h)),
                        0, static_cast<size_t>(args_.head_dim) * sizeof(G));
          });
          if (args_.dscore_sq) pointer<float>(args_.dscore_sq)[h * args_.rows + row] = 0.0f;
        }
    });
  }

  // Pass 1.
  void compare(const HeadRange& heads, int64_t s, int64_t i, int64_t count, int worker) {
    const Packing& packing = rows_.packing;
    float* scratch = scores_of(worker);
    float* policy = policy_of(worker);
    float* reference = policy + kRows * width_;
    const int64_t row = packing.offsets_q[s] + i;
    if (args_.ref_q)
      sum_heads(ref_side_, rows_, s, i, count, heads.ref_begin, heads.ref_end, false, scratch, reference, width_,
                [](int64_t, double) {});
    sum_heads(side_, rows_, s, i, count, heads.begin, heads.end, false, scratch, policy, width_,
              [&](int64_t at, double lse) {
                if (gradient_) work_.lse[at] = lse;
              });
    for (int64_t r = 0; r < count; ++r) {
      const Support support = rows_.of(s, i + r);
      const bool has_reference = load_reference(heads, s, row + r, support, reference + r * width_);
      compare_row(heads, s, i + r, row + r, support, policy + r * width_,
                  has_reference ? reference + r * width_ : nullptr);
    }
  }

  // The reference of a row over its support, in `reference`; false where it has none.
  bool load_reference(const HeadRange& heads, int64_t s, int64_t row, Support support, float* reference) {
    if (support.begin == support.end) return false;
    if (args_.ref_q) {
      const Mass m = mass_of(reference, support, heads.ref_end - heads.ref_begin);
      if (m.dead) return false;
      for_lanes(support.end - support.begin, [&](int64_t j, int64_t lanes) {
        float* at = reference + support.begin + j;
        store(at, lanes, load(at, lanes, 0.0f) * m.inverse);
      });
      return true;
    }
    if (args_.ref_index) {
      const int32_t index = pointer<const int32_t>(args_.ref_index)[row];
      if (index == -1) return false;
      for_lanes(support.end - support.begin,
                [&](int64_t j, int64_t lanes) { store(reference + support.begin + j, lanes, splat(0.0f)); });
      if (index >= support.begin && index < support.end) {
        reference[index] = 1.0f;
      } else if (index < 0 || index >= rows_.packing.keys(s)) {
        for_lanes(support.end - support.begin, [&](int64_t j, int64_t lanes) {
          store(reference + support.begin + j, lanes, splat(__builtin_nanf("")));
        });
      } else {
        return false;
      }
      return true;
    }
    const int64_t first_key = args_.compact ? rows_.first_key(s) : 0;
    const auto copy = [&](auto* map) {
      map += row * args_.ref_stride - first_key;
      for_lanes(support.end - support.begin, [&](int64_t j, int64_t lanes) {
        store(reference + support.begin + j, lanes, load(map + support.begin + j, lanes, 0.0f));
      });
    };
    if (args_.ref_dtype == SACCADE_BF16)
      copy(pointer<const bf16>(args_.ref));
    else
      copy(pointer<const float>(args_.ref));
    return sum_lanes(support.begin, support.end,
                     [&](int64_t j, int64_t lanes) { return load(reference + j, lanes, 0.0f); }) != 0.0;
  }

  // Divergence, entropy and mass of a row; dP into its row of the map, 0 off the support.
  void compare_row(const HeadRange& heads, int64_t s, int64_t i, int64_t row, Support support, float* policy,
                   const float* reference) {
    const Mass m = mass_of(policy, support, heads.end - heads.begin);
    double divergence = 0.0, entropy = 0.0;
    float* map = gradient_ ? work_.map + row * width_ : nullptr;
    const int64_t end = padded(rows_.packing.visible(s, i));
    if (map) std::memset(map, 0, static_cast<size_t>(end) * sizeof(float));
    if (!m.dead) {
      const float part = heads.share / unit(row);
      const float w = reference ? weight(row) * part : 0.0f, ew = entropy_weight(row) * part;
      const bool gradient = map && active(row);
      constexpr int64_t kBlock = kMaxPartial * kLanes;
      for (int64_t begin = support.begin; begin < support.end; begin += kBlock) {
        const int64_t size = support.end - begin < kBlock ? support.end - begin : kBlock;
        vfloat d_sum = splat(0.0f), h_sum = d_sum;
        for_lanes(size, [&](int64_t j, int64_t lanes) {
          const vfloat sum = load(policy + begin + j, lanes, 0.0f), p = sum * m.inverse;
          const vfloat log_p = log(at_least(p, kFloor));
          h_sum += p * log_p;
          vfloat g = splat(0.0f);
          if (reference) {
            const Element e = element_of(args_.kind, args_.beta, p, load(reference + begin + j, lanes, 0.0f), sum);
            d_sum += e.value;
            if (w != 0.0f) g = w * e.derivative;
          }
          if (gradient) {
            if (ew != 0.0f) g += ew * log_p;
            store(map + begin + j, lanes, g);
          }
        });
        divergence += sum_of(d_sum);
        entropy -= sum_of(h_sum);
      }
      if (gradient) {
        const float pivot = map[argmax(policy, support.begin, support.end)];
        const float mean = static_cast<float>(sum_lanes(support.begin, support.end, [&](int64_t j, int64_t lanes) {
          return load(policy + j, lanes, 0.0f) * m.inverse * (load(map + j, lanes, pivot) - pivot);
        }));
        for_lanes(support.end - support.begin, [&](int64_t j, int64_t lanes) {
          float* at = map + support.begin + j;
          store(at, lanes, ((load(at, lanes, 0.0f) - pivot) - mean) * m.inverse);
        });
      }
    }
    const float share = heads.share;
    work_.divergence[row] = (heads.first ? 0.0f : work_.divergence[row]) + static_cast<float>(divergence) * share;
    work_.entropy[row] = (heads.first ? 0.0f : work_.entropy[row]) + static_cast<float>(entropy) * share;
    work_.mass[row] = (heads.first ? 0.0f : work_.mass[row]) + m.mass * share;
  }

  // Pass 2.  Rows without weight get zeros without their scores being computed.
  void query_gradient(const HeadRange& heads, int64_t s, int64_t i, int64_t count, int worker) {
    const Packing& packing = rows_.packing;
    float* p = policy_of(worker);
    const int64_t row = packing.offsets_q[s] + i, dim = args_.head_dim;
    const int64_t most = packing.visible(s, i + count - 1);
    float* dscore_sq = pointer<float>(args_.dscore_sq);
    bool any = false;
    for (int64_t r = 0; r < count; ++r) any |= active(row + r);
    for (int64_t h = heads.begin; h < heads.end; ++h) {
      RowBlock queries, out;
      if (any) {
        load_rows(side_.q, row, h, count, dim, queries);
        const auto weigh = [&](const auto* scores, uint32_t which) {
          for (int64_t r = 0; r < count; ++r) {
            if (!(which >> r & 1)) continue;
            exponentials(scores + r * width_, active(row + r) ? packing.visible(s, i + r) : 0,
                         work_.lse[h * args_.rows + row + r], p + r * width_);
          }
        };
        side_.score(packing, s, h, queries, count, 0, most, scores_of(worker), width_, weigh);
      }
      for (int64_t r = 0; r < count; ++r) {
        float* pr = p + r * width_;
        const bool live = active(row + r);
        const int64_t n = live ? packing.visible(s, i + r) : 0;
        AttentionCentre centre{0.0f, 0.0f};
        double squares = 0.0;
        if (live) {
          const float* map = work_.map + (row + r) * width_;
          const float factor = unit(row + r) * grad_output_;
          if (heads.end - heads.begin > 1 && n > 0) {  // a single head's delta is 0: dP is orthogonal to its own policy
            centre.pivot = map[argmax(pr, 0, n)];
            centre.delta = static_cast<float>(sum_lanes(
                0, padded(n), [&](int64_t j, int64_t) { return load(pr + j) * (load(map + j) - centre.pivot); }));
          }
          squares = sum_lanes(0, padded(n), [&](int64_t j, int64_t) {
            const vfloat ds = load(pr + j) * centred(load(map + j), centre) * factor;
            store(pr + j, ds);
            return ds * ds;
          });
        }
        for (int64_t j = padded(n); j < padded(most); j += kLanes) store(pr + j, splat(0.0f));
        work_.centre[h * args_.rows + row + r] = centre;
        if (dscore_sq) dscore_sq[h * args_.rows + row + r] = static_cast<float>(squares);
      }
      if (any)
        times_rows(p, width_, count, keys_.at(packing.offsets_k[s], h / side_.group()), keys_.row_stride, most, dim,
                   args_.scale, out);
      else
        std::memset(out, 0, sizeof out);
      with_gradient_type([&](auto element) {
        using G = decltype(element);
        const auto dq = heads_of<G>(args_.dq, args_.dq_row_stride, args_.dq_head_stride);
        for (int64_t r = 0; r < count; ++r) {
          G* to = dq.at(row + r, h);
          const bool live = active(row + r);
          for_lanes(dim, [&](int64_t d, int64_t lanes) {
            store(to + d, lanes, live ? load(out[r] + d, lanes, 0.0f) : splat(0.0f));
          });
        }
      });
    }
  }

  // Pass 3: one block of keys of one key head.
  void key_gradient(const HeadRange& heads, int64_t s, int64_t kv, int64_t first) {
    const Packing& packing = rows_.packing;
    const int64_t nk = packing.keys(s), nq = packing.queries(s), dim = args_.head_dim;
    if (first >= nk) return;
    float* out = d_keys().at(packing, s, kv, first);
    ColumnBlock block = {};
    const int64_t sees = first - (nk - nq) < 0 ? 0 : first - (nk - nq);  // first row that sees key `first`
    const int64_t group_begin = kv * side_.group(), group_end = group_begin + side_.group();
    const int64_t head_begin = heads.begin > group_begin ? heads.begin : group_begin;
    const int64_t head_end = heads.end < group_end ? heads.end : group_end;
    int64_t terms = 0;
    for (int64_t h = head_begin; h < head_end; ++h)
      for (int64_t i = sees; i < nq; i += kRows) {
        const int64_t count = nq - i < kRows ? nq - i : kRows, row = packing.offsets_q[s] + i;
        bool any = false;
        for (int64_t r = 0; r < count; ++r) any |= active(row + r);
        if (!any) continue;
        RowBlock queries;
        float scratch[2 * kRows][kColumnBlock], ds[kRows][kColumnBlock];
        load_rows(side_.q, row, h, count, dim, queries);
        side_.score(packing, s, h, queries, count, first, kColumnBlock, scratch[0], kColumnBlock,
                    [&](const auto* scores, uint32_t which) {
                      for (int r = 0; r < kRows; ++r) {
                        if (r < count && !(which >> r & 1)) continue;
                        const bool live = r < count && active(row + r);
                        int64_t n = live ? packing.visible(s, i + r) - first : 0;
                        n = n < 0 ? 0 : n > kColumnBlock ? kColumnBlock : n;
                        if (n == 0) {
                          std::memset(ds[r], 0, sizeof ds[r]);
                          if (!live) std::memset(queries[r], 0, sizeof queries[r]);
                          continue;
                        }
                        const float* map = work_.map + (row + r) * width_ + first;
                        const AttentionCentre centre = work_.centre[h * args_.rows + row + r];
                        const float factor = unit(row + r) * grad_output_;
                        exponentials(scores + r * kColumnBlock, n, work_.lse[h * args_.rows + row + r], ds[r]);
                        for (int64_t j = 0; j < kColumnBlock; j += kLanes)
                          store(ds[r] + j, load(ds[r] + j) * centred(load(map + j), centre) * factor);
                      }
                    });
        add_outer(queries, count, ds[0], kColumnBlock, dim, block);
        terms += kRows;
        if (terms >= kMaxPartial) {
          flush(block, dim, out);
          terms = 0;
        }
      }
    flush(block, dim, out);
  }

  void write_rows() {
    const size_t bytes = static_cast<size_t>(args_.rows) * sizeof(float);
    if (args_.rows > 0) {
      if (args_.divergence) std::memcpy(pointer<float>(args_.divergence), work_.divergence, bytes);
      if (args_.entropy) std::memcpy(pointer<float>(args_.entropy), work_.entropy, bytes);
      if (args_.mass) std::memcpy(pointer<float>(args_.mass), work_.mass, bytes);
    }
    if (!args_.loss) return;
    double loss = 0.0;
    for (int64_t row = 0; row < args_.rows; ++row) {
      const float w = weight(row), ew = entropy_weight(row);
      if (w != 0.0f) loss += static_cast<double>(w) * static_cast<double>(work_.divergence[row]);
      if (ew != 0.0f) loss -= static_cast<double>(ew) * static_cast<double>(work_.entropy[row]);
    }
    *pointer<float>(args_.loss) = static_cast<float>(loss);
  }

  Pool& pool_;
  const saccade_attention_divergence_args& args_;
  const AttentionDivergenceWorkspace& work_;
  const Heads<const T> keys_;
  const PolicyRows rows_;
  const PolicySide<T> side_;
  const PolicySide<T> ref_side_;
  const float* weight_;
  const float* entropy_weight_;
  const int64_t width_;
  const bool gradient_;
  const float grad_output_;
};

}  // namespace

void attention_divergence(Pool& pool, const saccade_attention_divergence_args& args,
                          const AttentionDivergenceWorkspace& workspace) {
  with_float_type(args.dtype, [&](auto element) { Passes<decltype(element)>(pool, args, workspace).run(); });
}

}  // namespace saccade::SACCADE_ISA
