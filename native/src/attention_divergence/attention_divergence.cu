#include "attention_divergence/attention_divergence.cuh"
#include "attention_divergence/attention_divergence_hopper.h"
#include "attention_divergence/attention_divergence_mma.h"
#include "attention_policy/policy_tile.cuh"

namespace saccade::cuda {
namespace {

// What is the same for all blocks of a launch.
struct Call : Arguments {
  PolicySide<float> side, ref_side;
  KeyParts cut;

  // dP of one key that the row sees.  The map of a dead policy is not written.
  __device__ float gradient_of(const RowGradient& g, const float* row_of_map, const Support& support,
                               int64_t key) const {
    return support.has(key) && g.inverse != 0.0f ? ((row_of_map[key] - g.pivot) - g.mean) * g.inverse : 0.0f;
  }
};

// One warp makes it.
__device__ Reference whole_reference_of(const Call& call, int64_t s, int64_t row, const Support& support) {
  if (support.begin >= support.end) return {};
  Reference reference = reference_of(call, s, row, support);
  if (call.args.ref_q) {
    const Mass mass = mass_of(call.work.ref_statistics, call.ref_heads, call.args.rows, row);
    reference.inverse = mass.inverse;
    reference.given = !mass.dead;
  }
  for (int64_t key = support.begin; reference.map && key < support.end && !reference.given; key += 32) {
    const int64_t own = key + threadIdx.x % 32;
    reference.given = __any_sync(~0u, own < support.end && reference.at(own) != 0.0f);
  }
  return reference;
}

// One block a piece of rows and part of the keys: what the part gives to the rows, and its part of the map, still
// without what the renormalisation takes away.
__global__ void __launch_bounds__(Tiling::kThreads) compare_kernel(const __grid_constant__ Call call) {
  Tiling::Memory memory(tile_memory);
  __shared__ Mass masses[kTile];
  __shared__ Reference references[kTile];
  const saccade_attention_divergence_args& args = call.args;
  const int64_t part = blockIdx.x % call.cut.parts, pieces = gridDim.x / call.cut.parts;
  const Piece piece =
      piece_of(call.sequences().offsets_q, call.sequences().count, pieces - 1 - blockIdx.x / call.cut.parts);
  if (piece.empty() || call.sequences().bad[piece.s]) return;
  const int64_t s = piece.s, first_key = call.sequences().first_key(s);
  const auto visible_to = [&](int r) { return visible_keys(call.sequences(), s, piece.begin + r); };
  if (threadIdx.x < piece.count())
    masses[threadIdx.x] = mass_of(call.work.statistics, call.heads, args.rows, piece.begin + threadIdx.x);
  for (int r = threadIdx.x / 32; r < piece.count(); r += Tiling::kThreads / 32) {
    const Reference reference = whole_reference_of(call, s, piece.begin + r, call.rows.of(s, visible_to(r)));
    if (threadIdx.x % 32 == 0) references[r] = reference;
  }
  __syncthreads();
  int64_t visible[Tiling::kRows];
  RowPart own[Tiling::kRows];
#pragma unroll
  for (int i = 0; i < Tiling::kRows; ++i) {
    const int r = Tiling::row(i);
    visible[i] = r < piece.count() ? visible_to(r) : 0;
    own[i] = {0.0, 0.0, 0.0, 0.0, -1.0f, 0.0f};
  }
  const int64_t most = visible_to(piece.count() - 1), begin = part * call.cut.tiles * kTile;
  const int64_t end = begin + call.cut.tiles * kTile < most ? begin + call.cut.tiles * kTile : most;
  for (int64_t first = begin; first < end; first += kTile) {
    const int keys = static_cast<int>(end - first < kTile ? end - first : kTile);
    Own<float> policy, reference = {};
    if (args.ref_q)
      policy_tile(reference, memory, call.ref_side, call.work.ref_statistics, call.ref_heads, piece, visible, first_key,
                  first, keys);
    policy_tile(policy, memory, call.side, call.work.statistics, call.heads, piece, visible, first_key, first, keys);
#pragma unroll
    for (int i = 0; i < Tiling::kRows; ++i) {
      const int r = Tiling::row(i);
      if (r >= piece.count() || masses[r].dead) continue;
      const int64_t row = piece.begin + r;
      const Support support = call.rows.of(s, visible[i]);
      const bool given = references[r].given;
      const float scale = call.share / call.unit(row), w = given ? call.weight(row) * scale : 0.0f,
                  ew = call.entropy_weight(row) * scale;
      float* map = call.gradient && call.active(row) ? call.map(row) : nullptr;
      float divergence = 0.0f, entropy = 0.0f;
#pragma unroll
      for (int j = 0; j < Tiling::kColumns; ++j) {
        const int64_t key = first + Tiling::column(j);
        if (!support.has(key)) continue;
        const float p = policy[i][j] * masses[r].inverse, log_p = log(at_least(p, kFloor));
        entropy -= p * log_p;
        float g = 0.0f;
        if (given) {
          const Element e = element_of(args.kind, args.beta, p, references[r].of(key, reference[i][j]), policy[i][j]);
          divergence += e.value;
          if (w != 0.0f) g = w * e.derivative;
        }
        if (!map) continue;
        if (ew != 0.0f) g += ew * log_p;
        map[key] = g;
        own[i].mass += static_cast<double>(p);
        own[i].moment += static_cast<double>(p) * static_cast<double>(g);
        if (p > own[i].top) own[i].top = p, own[i].pivot = g;
      }
      own[i].divergence += static_cast<double>(divergence);
      own[i].entropy += static_cast<double>(entropy);
    }
  }
#pragma unroll
  for (int i = 0; i < Tiling::kRows; ++i) {
    const double divergence = over_row(own[i].divergence, add_doubles), entropy = over_row(own[i].entropy, add_doubles);
    const double mass = over_row(own[i].mass, add_doubles), moment = over_row(own[i].moment, add_doubles);
    float top = own[i].top, pivot = own[i].pivot;
#pragma unroll
    for (int distance = 1; distance < Tiling::kLanes; distance *= 2) {
      const float other_top = __shfl_xor_sync(~0u, top, distance), other = __shfl_xor_sync(~0u, pivot, distance);
      // Of equals that of the lower columns.
      if (other_top > top || (other_top == top && (threadIdx.x & distance))) top = other_top, pivot = other;
    }
    if (Tiling::leads() && Tiling::row(i) < piece.count())
      call.work.parts[part * args.rows + piece.begin + Tiling::row(i)] = {divergence, entropy, mass,
                                                                          moment,     top,     pivot};
  }
}

// One thread a row: joins the parts.
__global__ void __launch_bounds__(kRowThreads) row_kernel(const __grid_constant__ Call call) {
  const saccade_attention_divergence_args& args = call.args;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (row >= args.rows) return;
  const int64_t s = sequence_of_row(call.sequences(), row);
  const bool bad = call.sequences().bad[s];
  const Mass mass = bad ? Mass{kNan, kNan, false} : mass_of(call.work.statistics, call.heads, args.rows, row);
  RowPart all{bad ? kNan : 0.0, bad ? kNan : 0.0, 0.0, 0.0, -1.0f, 0.0f};
  if (!bad)
    for (int64_t p = 0; p < call.cut.parts; ++p) {
      const RowPart part = call.work.parts[p * args.rows + row];
      all.divergence += part.divergence;
      all.entropy += part.entropy;
      all.mass += part.mass;
      all.moment += part.moment;
      if (part.top > all.top) all.top = part.top, all.pivot = part.pivot;
    }
  call.add_row(row, static_cast<float>(all.divergence), static_cast<float>(all.entropy), mass.mass);
  if (call.gradient)
    call.work.row_gradients[row] = {
        all.pivot, static_cast<float>(all.moment - static_cast<double>(all.pivot) * all.mass), mass.inverse};
}

// dS of a tile: P (dP - delta), 0 where a row does not see a key or has no weight.
struct ScoreGradients {
  Own<float> x;

  // probability(i, j, key, p) makes what is kept of each.
  template <class Use>
  __device__ ScoreGradients(const Call& call, Tiling::Memory& memory, int64_t s, int64_t row, int rows, int64_t first,
                            int keys, int64_t head, const bool (&live)[Tiling::kRows], const Use& use) {
    Own<Score> scores;
    score(scores, memory, call.side, row, rows, call.sequences().first_key(s) + first, keys, head);
#pragma unroll
    for (int i = 0; i < Tiling::kRows; ++i) {
      const int r = Tiling::row(i);
      const int64_t visible = live[i] ? visible_keys(call.sequences(), s, row + r) : 0;
      const Score lse =
          live[i] ? static_cast<Score>(call.work.statistics.lse[head * call.args.rows + row + r]) : Score(0);
#pragma unroll
      for (int j = 0; j < Tiling::kColumns; ++j) {
        const int64_t key = first + Tiling::column(j);
        const bool seen = Tiling::column(j) < keys && key < visible;
        x[i][j] = seen ? use(i, key, expf(static_cast<float>(scores[i][j] - lse))) : 0.0f;
      }
    }
  }
};

// One block a piece of rows and head of the policy.
template <int kDim>
__global__ void __launch_bounds__(Tiling::kThreads) query_kernel(const __grid_constant__ Call call) {
  Tiling::Memory memory(tile_memory);
  const saccade_attention_divergence_args& args = call.args;
  const int64_t h = call.heads.begin + blockIdx.x % call.heads.count(), pieces = gridDim.x / call.heads.count();
  const Piece piece =
      piece_of(call.sequences().offsets_q, call.sequences().count, pieces - 1 - blockIdx.x / call.heads.count());
  if (piece.empty()) return;
  const int64_t s = piece.s;
  const bool bad = call.sequences().bad[s];
  const bool live_row = !bad && threadIdx.x < piece.count() && call.active(piece.begin + threadIdx.x);
  const bool any = __syncthreads_or(live_row);
  float* dscore_sq = args.dscore_sq ? pointer<float>(args.dscore_sq) + h * args.rows + piece.begin : nullptr;
  const auto dq = heads_of<float>(args.dq, args.dq_row_stride, args.dq_head_stride);
  if (!any) {
    const float value = bad ? kNan : 0.0f;
    fill_heads(dq, piece.begin, piece.end, h, args.head_dim, value);
    if (dscore_sq && threadIdx.x < piece.count()) dscore_sq[threadIdx.x] = value;
    return;
  }
  bool live[Tiling::kRows];
  Support support[Tiling::kRows];
  RowGradient gradient[Tiling::kRows];
  float factor[Tiling::kRows];
  AttentionCentre centre[Tiling::kRows];
  const float* map[Tiling::kRows];
#pragma unroll
  for (int i = 0; i < Tiling::kRows; ++i) {
    const int r = Tiling::row(i);
    const int64_t row = piece.begin + r;
    live[i] = r < piece.count() && call.active(row);
    centre[i] = {0.0f, 0.0f};
    if (!live[i]) continue;
    support[i] = call.rows.of(s, visible_keys(call.sequences(), s, row));
    gradient[i] = call.work.row_gradients[row];
    factor[i] = call.factor(row);
    map[i] = call.map(row);
    const int32_t top = call.work.statistics.top[h * args.rows + row];
    if (call.heads.count() > 1 && top >= 0) centre[i].pivot = call.gradient_of(gradient[i], map[i], support[i], top);
  }
  const int64_t most = visible_keys(call.sequences(), s, piece.end - 1);
  const auto tile = [&](int64_t first) { return static_cast<int>(most - first < kTile ? most - first : kTile); };
  // A single head's delta is 0: dP is orthogonal to its own policy.
  if (call.heads.count() > 1) {
    double delta[Tiling::kRows] = {};
    for (int64_t first = 0; first < most; first += kTile) {
      const ScoreGradients g(call, memory, s, piece.begin, piece.count(), first, tile(first), h, live,
                             [&](int i, int64_t key, float p) {
                               return p * (call.gradient_of(gradient[i], map[i], support[i], key) - centre[i].pivot);
                             });
#pragma unroll
      for (int i = 0; i < Tiling::kRows; ++i) {
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < Tiling::kColumns; ++j) sum += g.x[i][j];
        delta[i] += static_cast<double>(sum);
      }
    }
#pragma unroll
    for (int i = 0; i < Tiling::kRows; ++i) centre[i].delta = static_cast<float>(over_row(delta[i], add_doubles));
  }
  double squares[Tiling::kRows] = {};
  Tiling::Sums<kDim> out;
  for (int64_t first = 0; first < most; first += kTile) {
    const ScoreGradients g(call, memory, s, piece.begin, piece.count(), first, tile(first), h, live,
                           [&](int i, int64_t key, float p) {
                             const float dp = call.gradient_of(gradient[i], map[i], support[i], key);
                             return p * ((dp - centre[i].pivot) - centre[i].delta) * factor[i];
                           });
#pragma unroll
    for (int i = 0; i < Tiling::kRows; ++i) {
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < Tiling::kColumns; ++j) sum += g.x[i][j] * g.x[i][j];
      squares[i] += static_cast<double>(sum);
    }
    memory.weigh<true>(g.x);
    out.add_keys(memory);
  }
#pragma unroll
  for (int i = 0; i < Tiling::kRows; ++i) {
    const double all = over_row(squares[i], add_doubles);
    const int r = Tiling::row(i);
    if (!Tiling::leads() || r >= piece.count()) continue;
    call.work.centre[h * args.rows + piece.begin + r] = centre[i];
    if (dscore_sq) dscore_sq[r] = static_cast<float>(all);
  }
  // A row without weight gets 0 whatever the keys hold.
  out.each(piece.count(), args.head_dim,
           [&](int i, int r, int64_t d, float x) { dq.at(piece.begin + r, h)[d] = live[i] ? x * args.scale : 0.0f; });
}

// One block a piece of keys and key head of the policy: rows, and the policy's heads of the group, in order.  The
// result goes to dk, or is added to d_keys where more heads are to come.
template <int kDim>
__global__ void __launch_bounds__(Tiling::kThreads)
    key_kernel(const __grid_constant__ Call call, int64_t kv_begin, int64_t kv_heads, bool add) {
  Tiling::Memory memory(tile_memory);
  const saccade_attention_divergence_args& args = call.args;
  const int64_t kv = kv_begin + blockIdx.x % kv_heads;
  const Piece piece = piece_of(call.sequences().offsets_k, call.sequences().count, blockIdx.x / kv_heads);
  if (piece.empty()) return;
  const int64_t s = piece.s;
  const bool bad = call.sequences().bad[s];
  const int64_t first = piece.begin - call.sequences().first_key(s);
  const int64_t hidden = first - (call.sequences().keys(s) - call.sequences().rows(s));  // rows that do not see `first`
  const int64_t begin = call.sequences().first_row(s) + (hidden > 0 ? hidden : 0);
  const int64_t end = bad ? begin : call.sequences().first_row(s) + call.sequences().rows(s);
  const int64_t group_begin = kv * call.side.group(), group_end = group_begin + call.side.group();
  const int64_t head_begin = call.heads.begin > group_begin ? call.heads.begin : group_begin;
  const int64_t head_end = call.heads.end < group_end ? call.heads.end : group_end;
  Tiling::Sums<kDim> out;
  for (int64_t h = head_begin; h < head_end; ++h)
    for (int64_t row = begin; row < end; row += kTile) {
      const int rows = static_cast<int>(end - row < kTile ? end - row : kTile);
      const bool live_row = threadIdx.x < rows && call.active(row + threadIdx.x);
      if (!__syncthreads_or(live_row)) continue;
      bool live[Tiling::kRows];
      Support support[Tiling::kRows];
      RowGradient gradient[Tiling::kRows];
      float factor[Tiling::kRows];
      AttentionCentre centre[Tiling::kRows];
      const float* map[Tiling::kRows];
#pragma unroll
      for (int i = 0; i < Tiling::kRows; ++i) {
        const int64_t at = row + Tiling::row(i);
        live[i] = Tiling::row(i) < rows && call.active(at);
        if (!live[i]) continue;
        support[i] = call.rows.of(s, visible_keys(call.sequences(), s, at));
        gradient[i] = call.work.row_gradients[at];
        factor[i] = call.factor(at);
        centre[i] = call.work.centre[h * args.rows + at];
        map[i] = call.map(at);
      }
      const ScoreGradients g(call, memory, s, row, rows, first, piece.count(), h, live,
                             [&](int i, int64_t key, float p) {
                               const float dp = call.gradient_of(gradient[i], map[i], support[i], key);
                               return p * ((dp - centre[i].pivot) - centre[i].delta) * factor[i];
                             });
      memory.weigh<false>(g.x);
      out.add_rows(memory, [&](int r) { return call.active(row + r); });
    }
  const auto dk = add ? Heads<float>{call.work.d_keys, args.kv_heads * args.head_dim, args.head_dim}
                      : heads_of<float>(args.dk, args.dk_row_stride, args.dk_head_stride);
  const float scale = add ? 1.0f : args.scale;
  out.each(piece.count(), args.head_dim, [&](int, int j, int64_t d, float x) {
    float& to = dk.at(piece.begin + j, kv)[d];
    const float value = bad ? kNan : x * scale;
    to = add ? to + value : value;
  });
}

template <int kDim>
void compute(const Device& device, const saccade_attention_divergence_args& args,
             const AttentionDivergenceWorkspace& work) {
  const Sequences sequences = clean_sequences(device, args, 0, work.packing);
  Call call{{args,
             work,
             policy_rows(sequences, args),
             {args.head_begin, args.head_end},
             {args.ref_head_begin, args.ref_head_end},
             1.0f,
             true,
             wants_gradient(args)},
            policy_side<float>(args),
            {},
            KeyParts(args.max_keys)};
  const int64_t pieces = pieces_of(args.rows, args.sequences), key_pieces = pieces_of(args.keys, args.sequences);
  const auto statistics = [&](const PolicySide<float>& side, const HeadSpan& heads, const HeadStatistics& out) {
    launch_tiles(device, statistics_kernel, pieces * heads.count(), side, call.rows, heads.begin, heads.count(), out,
                 static_cast<float*>(nullptr));
  };
  statistics(call.side, call.heads, work.statistics);
  if (args.ref_q) {
    call.ref_side = reference_side<float>(args);
    statistics(call.ref_side, call.ref_heads, work.ref_statistics);
  }
  const bool mean = args.reduction == SACCADE_REDUCTION_MEAN;
  if (call.gradient) {
    launch(device, clear_kernel<float>, args.rows, kRowThreads, call);
    if (!mean)
      zero(device, reinterpret_cast<saccade_address>(work.d_keys), args.keys * args.kv_heads * args.head_dim * 4);
  }
  const int64_t policies = mean ? 1 : call.heads.count();
  const HeadSpan all = call.heads, ref_all = call.ref_heads;
  for (int64_t p = 0; p < policies; ++p) {
    if (!mean) {
      call.heads = {all.begin + p, all.begin + p + 1};
      call.ref_heads = {ref_all.begin + p, ref_all.begin + p + 1};
      call.share = 1.0f / static_cast<float>(policies);
      call.first = p == 0;
    }
    launch_tiles(device, compare_kernel, pieces * call.cut.parts, call);
    launch(device, row_kernel, divide_up(args.rows, kRowThreads), kRowThreads, call);
    if (!call.gradient) continue;
    const int64_t kv_begin = mean ? 0 : call.heads.begin / (args.heads / args.kv_heads);
    const int64_t kv_heads = mean ? args.kv_heads : 1;
    launch_tiles(device, query_kernel<kDim>, pieces * call.heads.count(), call);
    launch_tiles(device, key_kernel<kDim>, key_pieces * kv_heads, call, kv_begin, kv_heads, !mean);
  }
  if (call.gradient && !mean) launch(device, d_keys_kernel<float>, args.keys, kRowThreads, call);
  launch(device, loss_kernel, 1, kLossThreads, call);
}

}  // namespace

void attention_divergence(const Device& device, const saccade_attention_divergence_args& args,
                          const AttentionDivergenceWorkspace& workspace) {
  if (workspace.tiles.queries) return attention_divergence_hopper(device, args, workspace);
  if (args.dtype != SACCADE_F32) return attention_divergence_mma(device, args, workspace);
  with_columns(args.head_dim, [&](auto columns) { compute<columns>(device, args, workspace); });
}

}  // namespace saccade::cuda
