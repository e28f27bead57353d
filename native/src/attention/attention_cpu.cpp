#include "attention/attention.h"
#include "core/attention.h"

namespace saccade::SACCADE_ISA {
namespace {

// lse of row r of a block; rows past the block's count are not there.
SACCADE_INLINE double at_row(const float* lse, int64_t row, int r, int64_t count) {
  return r < count ? static_cast<double>(lse[row + r]) : 0.0;
}

// Log-normaliser of n scores; -inf where n is 0.
SACCADE_INLINE float log_sum_exp(const float* s, int64_t n) {
  const float top = largest(s, n);
  const double sum =
      sum_lanes(0, n, [&](int64_t j, int64_t lanes) { return exp(load(s + j, lanes, -__builtin_inff()) - top); });
  return static_cast<float>(static_cast<double>(top) + std::log(sum));
}

}  // namespace

void attention(Pool& pool, const saccade_attention_args& args, const AttentionWorkspace& workspace) {
  const Packing packing = packing_of(args, args.lengths_k);
  const Transposed keys{workspace.keys, args.kv_heads, args.head_dim};
  transpose(pool, packing, heads_of<const float>(args.k, args.k_row_stride, args.k_head_stride), keys);
  const auto v = heads_of<const float>(args.v, args.v_row_stride, args.v_head_stride);
  const auto q = heads_of<const float>(args.q, args.q_row_stride, args.q_head_stride);
  const auto o = heads_of<float>(args.o, args.o_row_stride, args.o_head_stride);
  float* lse = pointer<float>(args.lse);
  const int64_t group = args.heads / args.kv_heads, width = padded(args.max_keys), dim = args.head_dim;
  for_row_blocks(pool, packing, [&](int64_t s, int64_t i, int64_t count, int worker) {
    float* scores = workspace.scratch + worker * kRows * width;
    const int64_t row = packing.offsets_q[s] + i, most = packing.visible(s, i + count - 1);
    for (int64_t h = 0; h < args.heads; ++h) {
      RowBlock rows, out;
      load_rows(q, row, h, count, dim, rows);
      dot_columns(rows, count, dim, keys.at(packing, s, h / group, 0), most, args.scale, scores, width);
      for (int64_t r = 0; r < count; ++r) {
        const int64_t n = packing.visible(s, i + r);
        const float normaliser = log_sum_exp(scores + r * width, n);
        if (lse) lse[h * args.rows + row + r] = normaliser;
        exponentials(scores + r * width, n, static_cast<double>(normaliser), scores + r * width);
        for (int64_t j = padded(n); j < most; ++j) scores[r * width + j] = 0.0f;
      }
      times_rows(scores, width, count, v.at(packing.offsets_k[s], h / group), v.row_stride, most, dim, 1.0f, out);
      for (int64_t r = 0; r < count; ++r)
        std::memcpy(o.at(row + r, h), out[r], static_cast<size_t>(dim) * sizeof(float));
    }
  });
}

void attention_backward(Pool& pool, const saccade_attention_backward_args& args,
                        const AttentionBackwardWorkspace& workspace) {
  const Packing packing = packing_of(args, 0);
  const int64_t dim = args.head_dim, heads = args.heads, group = heads / args.kv_heads, width = padded(args.max_keys);
  const Transposed keys{workspace.keys, args.kv_heads, dim}, values{workspace.values, args.kv_heads, dim};
  const Transposed d_keys{workspace.d_keys, args.kv_heads, dim}, d_values{workspace.d_values, args.kv_heads, dim};
  const auto k = heads_of<const float>(args.k, args.k_row_stride, args.k_head_stride);
  transpose(pool, packing, k, keys);
  transpose(pool, packing, heads_of<const float>(args.v, args.v_row_stride, args.v_head_stride), values);
  const auto q = heads_of<const float>(args.q, args.q_row_stride, args.q_head_stride);
  const auto o = heads_of<const float>(args.o, args.o_row_stride, args.o_head_stride);
  const auto d_o = heads_of<const float>(args.d_o, args.d_o_row_stride, args.d_o_head_stride);
  const auto dq = heads_of<float>(args.dq, args.dq_row_stride, args.dq_head_stride);
  const float* lse = pointer<const float>(args.lse);

  // Rows: delta = d_o . o, dS = P (dP - delta) with dP = d_o . v, dq = scale dS k.
  for_row_blocks(pool, packing, [&](int64_t s, int64_t i, int64_t count, int worker) {
    float* p = workspace.scratch + worker * 2 * kRows * width;
    float* dp = p + kRows * width;
    const int64_t row = packing.offsets_q[s] + i, most = packing.visible(s, i + count - 1);
    for (int64_t h = 0; h < heads; ++h) {
      RowBlock rows, gradients, out;
      load_rows(q, row, h, count, dim, rows);
      load_rows(d_o, row, h, count, dim, gradients);
      dot_columns(rows, count, dim, keys.at(packing, s, h / group, 0), most, args.scale, p, width);
      dot_columns(gradients, count, dim, values.at(packing, s, h / group, 0), most, 1.0f, dp, width);
      for (int64_t r = 0; r < count; ++r) {
        const int64_t n = packing.visible(s, i + r), at = h * args.rows + row + r;
        exponentials(p + r * width, n, static_cast<double>(lse[at]), p + r * width);
        const float* output = o.at(row + r, h);
        const float delta = static_cast<float>(sum_lanes(0, dim, [&](int64_t d, int64_t lanes) {
          return load(gradients[r] + d, lanes, 0.0f) * load(output + d, lanes, 0.0f);
        }));
        workspace.delta[at] = delta;
        for (int64_t j = 0; j < padded(most); j += kLanes) {
          float* pj = p + r * width + j;
          store(pj, j < padded(n) ? load(pj) * (load(dp + r * width + j) - delta) : splat(0.0f));
        }
      }
      times_rows(p, width, count, k.at(packing.offsets_k[s], h / group), k.row_stride, most, dim, args.scale, out);
      for (int64_t r = 0; r < count; ++r)
        std::memcpy(dq.at(row + r, h), out[r], static_cast<size_t>(dim) * sizeof(float));
    }
  });

  // Key blocks: dk = scale dS^T q and dv = P^T d_o, summed over rows and the heads of the group in a fixed order.
  const int64_t blocks = width / kColumnBlock;
  pool.run(packing.sequences * args.kv_heads * blocks, [&](int64_t task, int) {
    const int64_t s = task / blocks / args.kv_heads, kv = task / blocks % args.kv_heads,
                  first = task % blocks * kColumnBlock;
    const int64_t nk = packing.keys(s), nq = packing.queries(s);
    if (first >= nk) return;
    ColumnBlock dk = {}, dv = {};
    float* dk_out = d_keys.at(packing, s, kv, first);
    float* dv_out = d_values.at(packing, s, kv, first);
    std::memset(dk_out, 0, static_cast<size_t>(dim * kColumnBlock) * sizeof(float));
    std::memset(dv_out, 0, static_cast<size_t>(dim * kColumnBlock) * sizeof(float));
    const int64_t sees = first - (nk - nq) < 0 ? 0 : first - (nk - nq);  // first row that sees key `first`
    int64_t terms = 0;
    for (int64_t h = kv * group; h < (kv + 1) * group; ++h)
      for (int64_t i = sees; i < nq; i += kRows) {
        const int64_t count = nq - i < kRows ? nq - i : kRows, row = packing.offsets_q[s] + i;
        RowBlock rows, gradients;
        float p[kRows][kColumnBlock], ds[kRows][kColumnBlock];
        load_rows(q, row, h, count, dim, rows);
        load_rows(d_o, row, h, count, dim, gradients);
        dot_columns(rows, count, dim, keys.at(packing, s, kv, first), kColumnBlock, args.scale, p[0], kColumnBlock);
        dot_columns(gradients, count, dim, values.at(packing, s, kv, first), kColumnBlock, 1.0f, ds[0], kColumnBlock);
        for (int r = 0; r < kRows; ++r) {
          int64_t n = r < count ? packing.visible(s, i + r) - first : 0;
          n = n < 0 ? 0 : n > kColumnBlock ? kColumnBlock : n;
          exponentials(p[r], n, at_row(lse + h * args.rows, row, r, count), p[r]);
          const float delta = r < count ? workspace.delta[h * args.rows + row + r] : 0.0f;
          for (int64_t j = 0; j < kColumnBlock; j += kLanes) {
            if (n == 0) store(p[r] + j, splat(0.0f));
            store(ds[r] + j, n == 0 ? splat(0.0f) : load(p[r] + j) * (load(ds[r] + j) - delta));
          }
        }
        add_outer(rows, count, ds[0], kColumnBlock, dim, dk);
        add_outer(gradients, count, p[0], kColumnBlock, dim, dv);
        terms += kRows;
        if (terms >= kMaxPartial) {
          flush(dk, dim, dk_out);
          flush(dv, dim, dv_out);
          terms = 0;
        }
      }
    flush(dk, dim, dk_out);
    flush(dv, dim, dv_out);
  });
  const auto dk = heads_of<float>(args.dk, args.dk_row_stride, args.dk_head_stride);
  const auto dv = heads_of<float>(args.dv, args.dv_row_stride, args.dv_head_stride);
  // dk has not been scaled yet: scores are scale * q . k.
  write_transposed(pool, packing, d_keys, dk, args.scale);
  write_transposed(pool, packing, d_values, dv, 1.0f);
}

}  // namespace saccade::SACCADE_ISA
