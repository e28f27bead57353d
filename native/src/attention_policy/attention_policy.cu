#include "attention_policy/attention_policy_hopper.h"
#include "attention_policy/attention_policy_mma.h"
#include "attention_policy/policy_tile.cuh"

namespace saccade::cuda {
namespace {

constexpr int kRowThreads = 256;

// One block a piece of rows and part of the keys: entropy of the part, and the part of the map, which is 0 before.
__global__ void __launch_bounds__(Tiling::kThreads)
    policy_kernel(saccade_attention_policy_args args, AttentionPolicyWorkspace workspace, PolicySide<float> side,
                  PolicyRows rows, HeadSpan heads, KeyParts cut) {
  Tiling::Memory memory(tile_memory);
  __shared__ Mass masses[kTile];
  const int64_t part = blockIdx.x % cut.parts, pieces = gridDim.x / cut.parts;
  const Piece piece = piece_of(rows.sequences.offsets_q, rows.sequences.count, pieces - 1 - blockIdx.x / cut.parts);
  if (piece.empty()) return;
  const int64_t s = piece.s;
  double* entropies = workspace.entropies + part * args.rows + piece.begin;
  const int64_t first_column = args.compact ? rows.first_key(s) : 0;
  const auto write = [&](int r, int64_t key, float p) {
    const int64_t column = key - first_column, at = (piece.begin + r) * args.map_stride + column;
    if (args.map_dtype == SACCADE_BF16)
      pointer<bf16>(args.map)[at] = from_float<bf16>(p);
    else
      pointer<float>(args.map)[at] = p;
  };
  const auto fill_row = [&](int r) {
    for (int64_t c = threadIdx.x; c < args.map_stride; c += Tiling::kThreads) write(r, first_column + c, kNan);
  };
  // Ranges come from the device: one may be wider than the caller said.
  const auto fits = [&](const Support& support) { return support.end - first_column <= args.map_stride; };
  if (rows.sequences.bad[s]) {
    if (threadIdx.x < piece.count()) entropies[threadIdx.x] = static_cast<double>(kNan);
    if (args.map && part == 0)
      for (int r = 0; r < piece.count(); ++r) fill_row(r);
    return;
  }
  if (threadIdx.x < piece.count())
    masses[threadIdx.x] = mass_of(workspace.statistics, heads, args.rows, piece.begin + threadIdx.x);
  int64_t visible[Tiling::kRows];
  double entropy[Tiling::kRows];
#pragma unroll
  for (int i = 0; i < Tiling::kRows; ++i) {
    const int r = Tiling::row(i);
    visible[i] = r < piece.count() ? visible_keys(rows.sequences, s, piece.begin + r) : 0;
    entropy[i] = 0.0;
  }
  const int64_t most = visible_keys(rows.sequences, s, piece.end - 1);
  const int64_t begin = part * cut.tiles * kTile,
                end = begin + cut.tiles * kTile < most ? begin + cut.tiles * kTile : most;
  for (int64_t first = begin; first < end; first += kTile) {
    Own<float> sum;
    policy_tile(sum, memory, side, workspace.statistics, heads, piece, visible, rows.sequences.first_key(s), first,
                static_cast<int>(end - first < kTile ? end - first : kTile));
#pragma unroll
    for (int i = 0; i < Tiling::kRows; ++i) {
      const int r = Tiling::row(i);
      if (r >= piece.count()) continue;
      const Support support = rows.of(s, visible[i]);
      const Mass mass = masses[r];
      const bool shown = args.map && fits(support);
      float part_entropy = 0.0f;
#pragma unroll
      for (int j = 0; j < Tiling::kColumns; ++j) {
        const int64_t key = first + Tiling::column(j);
        if (!support.has(key) || mass.dead) continue;
        const float p = sum[i][j] * mass.inverse;
        part_entropy -= p * log(at_least(p, kFloor));
        if (shown) write(r, key, p);
      }
      entropy[i] += static_cast<double>(part_entropy);
    }
  }
  if (args.map && args.compact && part == 0)
    for (int r = 0; r < piece.count(); ++r)
      if (!fits(rows.of(s, visible_keys(rows.sequences, s, piece.begin + r)))) fill_row(r);
#pragma unroll
  for (int i = 0; i < Tiling::kRows; ++i) {
    const double all = over_row(entropy[i], add_doubles);
    if (Tiling::leads() && Tiling::row(i) < piece.count()) entropies[Tiling::row(i)] = all;
  }
}

// One thread a row: adds one policy's entropy and mass up; of `policies` the one with this `number`.
__global__ void __launch_bounds__(kRowThreads)
    row_kernel(saccade_attention_policy_args args, AttentionPolicyWorkspace workspace, HeadSpan heads, int64_t parts,
               int64_t number, int64_t policies) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (row >= args.rows) return;
  const Mass mass = mass_of(workspace.statistics, heads, args.rows, row);
  double entropy = 0.0;
  for (int64_t p = 0; p < parts; ++p) entropy += workspace.entropies[p * args.rows + row];
  double* sums = workspace.sums + 2 * row;
  sums[0] = (number == 0 ? 0.0 : sums[0]) + entropy;
  sums[1] = (number == 0 ? 0.0 : sums[1]) + static_cast<double>(mass.mass);
  if (number != policies - 1) return;
  if (args.entropy) pointer<float>(args.entropy)[row] = static_cast<float>(sums[0] / static_cast<double>(policies));
  if (args.mass) pointer<float>(args.mass)[row] = static_cast<float>(sums[1] / static_cast<double>(policies));
}

void compute(const Device& device, const saccade_attention_policy_args& args,
             const AttentionPolicyWorkspace& workspace) {
  const PolicyRows rows = policy_rows(clean_sequences(device, args, 0, workspace.packing), args);
  const PolicySide<float> side = policy_side<float>(args);
  const HeadSpan range{args.head_begin, args.head_end}, counted = args.lse ? HeadSpan{0, args.heads} : range;
  const int64_t pieces = pieces_of(args.rows, args.sequences);
  const KeyParts cut(args.max_keys);
  launch_tiles(device, statistics_kernel, pieces * counted.count(), side, rows, counted.begin, counted.count(),
               workspace.statistics, pointer<float>(args.lse));
  if (args.map) zero(device, args.map, args.rows * args.map_stride * (args.map_dtype == SACCADE_BF16 ? 2 : 4));
  const int64_t policies = args.reduction == SACCADE_REDUCTION_MEAN ? 1 : range.count();
  for (int64_t number = 0; number < policies; ++number) {
    const HeadSpan heads = policies == 1 ? range : HeadSpan{range.begin + number, range.begin + number + 1};
    const bool elements = args.entropy || args.map;
    if (elements) launch_tiles(device, policy_kernel, pieces * cut.parts, args, workspace, side, rows, heads, cut);
    if (args.entropy || args.mass)
      launch(device, row_kernel, divide_up(args.rows, kRowThreads), kRowThreads, args, workspace, heads,
             args.entropy ? cut.parts : 0, number, policies);
  }
}

}  // namespace

void attention_policy(const Device& device, const saccade_attention_policy_args& args,
                      const AttentionPolicyWorkspace& workspace) {
  if (args.rows == 0) return;
  if (workspace.tiles.queries) return attention_policy_hopper(device, args, workspace);
  if (args.dtype != SACCADE_F32) return attention_policy_mma(device, args, workspace);
  compute(device, args, workspace);
}

}  // namespace saccade::cuda
