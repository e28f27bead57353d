// From rows of logits to the policy-gradient loss and back on a GPU: what policy_loss_from_logits and
// linear_policy_loss share.  They say where a row's logits are.
#pragma once

#include "core/bulk.cuh"
#include "core/softmax_row.cuh"
#include "policy_loss/rows.cuh"
#include "policy_loss_from_logits/policy_loss_from_logits.h"

namespace saccade::cuda {

constexpr int kListThreads = 1024, kInputThreads = 256, kRowOfLogitsThreads = 1024;
constexpr int kListed = 8;  // rows that a thread of list_kernel takes at once

struct LogitPolicyCall {
  saccade_policy_loss_from_logits_args args;
  saccade_policy_loss_args policy;
  LogitPolicyWorkspace workspace;
  // The rows whose logits are in memory: [first, first + count) of the list of list_kernel.  Packed: number i of the
  // list lies at i - first; otherwise every row lies at its own index.
  int64_t first, count;
  bool packed;

  __device__ int64_t end() const { return first + count; }
  // The end of the active ones among them.
  __device__ int64_t active_end() const {
    const int64_t listed = *workspace.listed;
    return listed < first ? first : listed < end() ? listed : end();
  }
  // Of number i of the list, which is row r.
  __device__ int64_t place(int64_t i, int64_t r) const { return packed ? i - first : r; }

  __device__ float inverse() const { return 1.0f / args.temperature; }
  __device__ bool whole() const { return needs_whole_sequences(policy); }

  template <class T>
  __device__ const T* logits(int64_t i, int64_t r) const {
    return pointer<const T>(args.logits) + place(i, r) * args.logits_stride;
  }
  template <class G>
  __device__ G* d_logits(int64_t i, int64_t r) const {
    return pointer<G>(args.d_logits) + place(i, r) * args.d_logits_stride;
  }

  // Log-probability of the target of an active row from its statistics; NaN for a target outside the vocabulary.
  // Every thread may ask for it: a rounding or two less precise than what write_row() gives away.
  __device__ float log_prob(const LogitPolicyRow& input, const SoftmaxRow& row) const {
    if (workspace.known_log_prob) return input.known_log_prob;
    return (input.x_target - row.max) * inverse() - row.log_sum();
  }

  // Per-row results of an active row; one thread.
  __device__ void write_row(const LogitPolicyRow& input, const SoftmaxRow& row) const {
    const int64_t r = input.row;
    const bool bad = input.target < 0 || input.target >= args.vocabulary;
    const float own = bad                        ? NAN
                      : workspace.known_log_prob ? input.known_log_prob
                                                 : row.log_prob(input.x_target, args.temperature);
    const float entropy = bad ? NAN : row.entropy();
    workspace.log_prob[r] = own;
    workspace.rows[r].entropy = entropy;
    if (args.log_prob) pointer<float>(args.log_prob)[r] = own;
    if (args.entropy) pointer<float>(args.entropy)[r] = entropy;
    if (args.lse) pointer<float>(args.lse)[r] = fmaf(row.max, inverse(), row.log_sum());
  }

  // The gradient of an active row by its log-probability and entropy.
  __device__ RowGradient gradient(const LogitPolicyRow& input, const SoftmaxRow& row, const Objective& objective,
                                  float kl_coef) const {
    const bool bad = input.target < 0 || input.target >= args.vocabulary;
    const float d_entropy = -args.entropy_coef * input.weight;
    if (bad) return {NAN, NAN, -1};
    if (whole()) return {input.d_log_prob, d_entropy, input.target};
    const float own = log_prob(input, row), log_ratio = own - input.old_log_prob;
    const float ratio = exp(clamp_log_ratio(log_ratio));
    const Token token = objective.token(own, ratio, beyond_log_ratio(log_ratio), input.advantage);
    float d_log_prob = token.gradient * input.is_weight;
    if (kl_coef != 0.0f) {
      const KlElement kl = policy.kl_importance_corrected
                               ? corrected_kl_element(policy.kl_estimator, own, input.ref_log_prob, log_ratio)
                               : sampled_kl_element(policy.kl_estimator, own, input.ref_log_prob);
      d_log_prob += kl_coef * kl.gradient;
    }
    return {d_log_prob * input.weight, d_entropy, input.target};
  }

  __device__ float kl_coef() const {
    return policy.kl_coef_scalar ? *pointer<const float>(policy.kl_coef_scalar) : policy.kl_coef;
  }
};

// One block: lists the active rows from the front of the inputs and the others from the back, each in order, and writes
// the per-row results of the latter.
static __global__ void __launch_bounds__(kListThreads) list_kernel(const __grid_constant__ LogitPolicyCall call) {
  __shared__ int32_t counts[32];
  const int64_t rows = call.policy.rows;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  wait_for_last();
  allow_next();
  int64_t active = 0;
  for (int64_t first = 0; first < rows; first += kListed * kListThreads) {
    const int64_t begin = first + kListed * 32 * warp + lane;
    int32_t targets[kListed], given[kListed], own = 0;
    uint32_t votes[kListed];
#pragma unroll
    for (int k = 0; k < kListed; ++k) {
      const int64_t r = begin + 32 * k < rows ? begin + 32 * k : rows - 1;
      targets[k] = pointer<const int32_t>(call.args.targets)[r];
      given[k] = call.workspace.mask ? call.workspace.mask[r] : 1;
    }
#pragma unroll
    for (int k = 0; k < kListed; ++k) {
      const bool on = begin + 32 * k < rows && given[k] != 0 && targets[k] != call.args.ignore_index;
      votes[k] = __ballot_sync(~0u, on);
      own += __popc(votes[k]);
    }
    __syncthreads();
    if (lane == 0) counts[warp] = own;
    __syncthreads();
    int64_t before = active + __reduce_add_sync(~0u, lane < warp ? counts[lane] : 0);
    active += __reduce_add_sync(~0u, counts[lane]);
#pragma unroll
    for (int k = 0; k < kListed; ++k) {
      const int64_t r = begin + 32 * k;
      const bool on = votes[k] >> lane & 1;
      const int64_t number = before + __popc(votes[k] & ((1u << lane) - 1));  // active rows before this one
      before += __popc(votes[k]);
      if (r >= rows) continue;
      call.workspace.active[r] = on;
      call.workspace.log_prob[r] = on && call.workspace.known_log_prob ? call.workspace.known_log_prob[r] : 0.0f;
      LogitPolicyRow& input = call.workspace.inputs[on ? number : rows - 1 - (r - number)];
      input.row = static_cast<int32_t>(r);
      input.target = targets[k];
      if (on) continue;
      if (call.args.log_prob) pointer<float>(call.args.log_prob)[r] = 0.0f;
      if (call.args.entropy) pointer<float>(call.args.entropy)[r] = 0.0f;
      if (call.args.lse) pointer<float>(call.args.lse)[r] = 0.0f;
    }
  }
  if (threadIdx.x == 0) *call.workspace.listed = static_cast<int32_t>(active);
}

// Per-row values of the active rows, side by side; their weights once the rows of all sequences are counted.
template <class T, bool kCounted>
__global__ void __launch_bounds__(kInputThreads) inputs_kernel(const __grid_constant__ LogitPolicyCall call) {
  const saccade_policy_loss_args& policy = call.policy;
  const PolicyLossWorkspace& counts = call.workspace.policy;
  wait_for_last();
  const int32_t active = kCounted ? count_rows(policy, counts).active : 0;
  const int64_t i = call.first + static_cast<int64_t>(blockIdx.x) * kInputThreads + threadIdx.x;
  if (i >= call.active_end()) return;
  LogitPolicyRow input = call.workspace.inputs[i];
  const int64_t r = input.row, s = sequence_of(pointer<const int32_t>(policy.offsets), r, 0, policy.sequences);
  const Bounds bounds(policy, s);
  const auto value = [&](saccade_address x, int64_t at, float otherwise) {
    return x ? pointer<const float>(x)[at] : otherwise;
  };
  const bool bad = input.target < 0 || input.target >= call.args.vocabulary;
  input.x_target = bad ? NAN : to_float(call.logits<T>(i, r)[input.target]);
  input.known_log_prob = call.workspace.known_log_prob ? call.workspace.known_log_prob[r] : 0.0f;
  input.old_log_prob = value(policy.old_log_prob, r, 0.0f);
  input.ref_log_prob = value(policy.ref_log_prob, r, 0.0f);
  input.advantage = value(policy.advantage, policy.advantage_per_sequence ? s : r, 0.0f);
  input.is_weight = value(policy.is_weight, r, 1.0f);
  input.d_log_prob = kCounted && call.whole() ? pointer<const float>(policy.d_log_prob)[r] : 0.0f;
  const int32_t own = kCounted && counts_by_sequence(policy) ? counts.sequences[s].active : active;
  const double a = kCounted ? row_weight(policy, own, active) : 0.0;
  const bool lost = bounds.bad || r < bounds.begin || r >= bounds.end;
  input.weight = lost ? NAN : static_cast<float>(a * static_cast<double>(value(policy.grad_output, 0, 1.0f)));
  call.workspace.inputs[i] = input;
}

// One block a row, statistics only.
template <class T>
__global__ void __launch_bounds__(kRowOfLogitsThreads) forward_kernel(const __grid_constant__ LogitPolicyCall call) {
  __shared__ SoftmaxShared shared;
  const int64_t i = call.first + blockIdx.x;
  if (i >= call.active_end()) return;
  const LogitPolicyRow& input = call.workspace.inputs[i];
  const SoftmaxRow row = softmax_row<kRowOfLogitsThreads, true>(call.logits<T>(i, input.row), call.args.vocabulary,
                                                                call.inverse() * kLog2E, shared);
  if (threadIdx.x == 0) call.write_row(input, row);
}

// One block a row: statistics, and the gradient from a second read that the L2 cache serves.
template <class T, class G>
__global__ void __launch_bounds__(kRowOfLogitsThreads) gradient_kernel(const __grid_constant__ LogitPolicyCall call) {
  __shared__ SoftmaxShared shared;
  const int64_t i = call.first + blockIdx.x;
  G* dx = call.d_logits<G>(i, call.workspace.inputs[i].row);
  if (i >= call.active_end()) return fill_row<kRowOfLogitsThreads>(dx, call.args.vocabulary, 0.0f);
  const LogitPolicyRow input = call.workspace.inputs[i];
  const T* x = call.logits<T>(i, input.row);
  const SoftmaxRow row =
      softmax_row<kRowOfLogitsThreads, false>(x, call.args.vocabulary, call.inverse() * kLog2E, shared);
  if (threadIdx.x == 0) call.write_row(input, row);
  const RowGradient gradient = call.gradient(input, row, Objective(call.policy), call.kl_coef());
  write_row_gradient<kRowOfLogitsThreads>(x, dx, call.args.vocabulary, call.inverse(), row, input.x_target, gradient);
}

// ------------------------------------------------------------------------------------------------------- Hopper

constexpr int kRingCluster = 8;  // most blocks of a cluster

// Where kBlocks blocks share a multiprocessor.
template <int kBlocks>
struct RingShape {
  static constexpr int kWarps = kBlocks == 1 ? 20 : 16, kThreads = 32 * kWarps;
  static constexpr int kSteps = kBlocks == 1 ? 3 : 2;  // packs of a lane in a chunk
  static constexpr int kChunk = kSteps * 512;
  static constexpr int kSlots = kBlocks == 1 ? 7 : 6;  // chunks that a warp holds
  static constexpr int kShared = kWarps * kSlots * kChunk;
  // Most bytes of a row that are a warp's: at least one slot is ahead.
  static constexpr int kShare = (kSlots - 1) * kChunk;
};

// What all threads must know of a row for its gradient: 2^u (a + b u) with u = (x - max) scale, and the target's own.
struct alignas(16) RingRow {
  float max, a, b, own;
  int32_t row, target;  // below 0: no target
};

// Clusters of `cluster` blocks; cluster c takes the active rows c, c + clusters ...  Every warp owns `share` bytes of
// them, a multiple of 512, which pass through its slots in turn, chunk after chunk, row after row.
template <class T, int kBlocks, bool kEntropy>
__global__ void __launch_bounds__(RingShape<kBlocks>::kThreads, kBlocks)
    ring_kernel(const __grid_constant__ LogitPolicyCall call, int32_t cluster, int32_t share) {
  using Shape = RingShape<kBlocks>;
  constexpr int kWarps = Shape::kWarps, kSteps = Shape::kSteps, kChunk = Shape::kChunk, kSlots = Shape::kSlots;
  constexpr uint32_t kSpan = kSlots * kChunk;
  extern __shared__ __align__(128) unsigned char ring[];
  __shared__ uint64_t loaded[kWarps][kSlots], joined[2];
  __shared__ uint4 parts[2][kRingCluster * kWarps];  // SoftmaxRow of every warp of the cluster
  __shared__ RingRow found[2];
  const int rank = cluster == 1 ? 0 : cluster_rank();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const auto row_bytes = static_cast<int32_t>(call.args.vocabulary * static_cast<int64_t>(sizeof(T)));
  const int32_t own = (rank * kWarps + warp) * share, left = row_bytes - own, bytes = left < share ? left : share;
  const int32_t chunks = bytes > 0 ? (bytes + kChunk - 1) / kChunk : 0, last_size = bytes - (chunks - 1) * kChunk;
  const auto first_row = static_cast<int32_t>(call.first + blockIdx.x / cluster);
  const auto step = static_cast<int32_t>(gridDim.x / cluster), rows = static_cast<int32_t>(call.active_end());
  const uint32_t slots = shared_address(ring) + warp * kSpan, barriers = shared_address(loaded[warp]);

  // Where the next load comes from and goes to; one lane knows.
  const auto row_of = [&](int32_t i) { return i < rows ? call.workspace.inputs[i].row : 0; };
  const auto source_of = [&](int32_t i, int32_t r) {
    return reinterpret_cast<const unsigned char*>(call.logits<T>(i, r)) + own;
  };
  int32_t load_row = first_row, load_left = chunks, after = row_of(first_row + step);
  uint32_t load_slot = 0;
  const unsigned char* source = source_of(first_row, row_of(first_row));
  const auto load_next = [&] {
    if (load_row >= rows) return;
    bulk_load(slots + load_slot * kChunk, source, load_left > 1 ? kChunk : last_size, barriers + 8 * load_slot);
    load_slot = load_slot + 1 < kSlots ? load_slot + 1 : 0;
    source += kChunk;
    if (--load_left > 0) return;
    load_row += step;
    load_left = chunks;
    source = source_of(load_row, after);
    after = row_of(load_row + step);
  };

  if (lane == 0) {
    for (int k = 0; k < kSlots; ++k) barrier_init(&loaded[warp][k], 1);
    if (warp == 0)
      for (uint64_t& barrier : joined) barrier_init(&barrier, cluster == 1 ? kWarps : 1);
    barrier_fence();
  }
  cluster_sync();
  if (lane == 0 && chunks > 0)
#pragma unroll 1
    for (int k = 0; k < kSlots - 1; ++k) load_next();

  const Objective objective(call.policy);
  const float kl_coef = call.kl_coef(), inverse = call.inverse(), scale = inverse * kLog2E;
  const auto max_of_lanes = [](float x) {
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, distance));
    return x;
  };
  const auto sum_lanes = [](SoftmaxRow& row) {
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      row.sum += __shfl_xor_sync(~0u, row.sum, distance);
      if (kEntropy) row.moment += __shfl_xor_sync(~0u, row.moment, distance);
    }
  };

  uint32_t slot = 0, phase = 0, parity = 0, join_phase = 0;
  for (int32_t i = first_row; i < rows; i += step) {
    LogitPolicyRow input;
    if (warp == 0) {
      input = call.workspace.inputs[i];
      if (lane == 0 && cluster > 1)
        barrier_expect(&joined[parity], cluster * kWarps * static_cast<uint32_t>(sizeof(uint4)));
    }
    SoftmaxRow row = SoftmaxRow::none();
    uint32_t read_slot = slot, read_phase = phase;
    for (int k = 0; k < chunks; ++k) {
      const uint32_t at = slots + read_slot * kChunk + lane * 16;
      barrier_sleep(barriers + 8 * read_slot, read_phase);
      if (k + 1 < chunks || last_size == kChunk) {
        uint4 packs[kSteps];
#pragma unroll
        for (int n = 0; n < kSteps; ++n) packs[n] = load_shared(at + 512 * n);
        row.add<T, kEntropy>(packs, scale);
      } else {
#pragma unroll 1
        for (int n = 0; 512 * n < last_size; ++n) {
          const uint4 pack[] = {lane * 16 + 512 * n < last_size ? load_shared(at + 512 * n) : lowest_pack<T>()};
          row.add<T, kEntropy>(pack, scale);
        }
      }
      if (++read_slot == kSlots) {
        read_slot = 0;
        read_phase ^= 1;
      }
      if (k == 0 && lane == 0) {  // into the slot of the last store
        bulk_wait_read<0>();
        load_next();
      }
    }
    // To the largest maximum first: every rescaling costs the sums an exponential's error.
    row.raise(max_of_lanes(row.max), scale);
    sum_lanes(row);
    const uint4 sums = make_uint4(__float_as_uint(row.max), __float_as_uint(row.sum), __float_as_uint(row.moment), 0);
    uint4* own_part = &parts[parity][rank * kWarps + warp];
    if (cluster == 1 && lane == 0) {
      *own_part = sums;
      barrier_arrive(&joined[parity]);
    } else if (cluster > 1 && lane < cluster) {
      cluster_send(cluster_address(own_part, lane), sums, cluster_address(&joined[parity], lane));
    }
    if (warp == 0) {
      barrier_sleep_cluster(&joined[parity], join_phase);
      const auto part_of = [&](int k) {
        const uint4 part = parts[parity][k];
        return SoftmaxRow{__uint_as_float(part.x), __uint_as_float(part.y), __uint_as_float(part.z)};
      };
      row = SoftmaxRow::none();
#pragma unroll 1
      for (int k = lane; k < cluster * kWarps; k += 32) row.max = fmaxf(row.max, part_of(k).max);
      row.max = max_of_lanes(row.max);
#pragma unroll 1
      for (int k = lane; k < cluster * kWarps; k += 32) {
        SoftmaxRow part = part_of(k);
        part.raise(row.max, scale);
        row = SoftmaxRow::join(row, part);
      }
      sum_lanes(row);
      if (rank == 0 && lane == 0) call.write_row(input, row);
      const RowGradient gradient = call.gradient(input, row, objective, kl_coef);
      const float log_sum = row.log_sum(), entropy = kEntropy ? row.entropy() : 0.0f;
      const float a = -(gradient.d_log_prob + gradient.d_entropy * entropy) * inverse;
      const float b = -gradient.d_entropy * kLog2 * inverse;
      const float log_p = (input.x_target - row.max) * inverse - log_sum, p = expf(log_p);
      const float d_entropy = p > 0.0f ? gradient.d_entropy * p * (log_p + entropy) : 0.0f;
      if (lane == 0)
        found[parity] = {row.max,     (kEntropy ? fmaf(-b, log2f(row.sum), a) : a) / row.sum,
                         b / row.sum, (gradient.d_log_prob * -expm1f(log_p) - d_entropy) * inverse,
                         input.row,   gradient.target};
    }
    __syncthreads();

    const RingRow out = found[parity];
    unsigned char* to = reinterpret_cast<unsigned char*>(call.d_logits<T>(i, out.row)) + own;
    // Where the target is in the warp's chunk, if it is there.
    int32_t target = out.target * static_cast<int32_t>(sizeof(T)) - own;
    for (int k = 0; k < chunks; ++k, to += kChunk, target -= kChunk) {
      const uint32_t begin = slots + slot * kChunk, at = begin + lane * 16;
      const int size = k + 1 < chunks ? kChunk : last_size;
#pragma unroll
      for (int n = 0; n < kSteps; ++n) {
        if (lane * 16 + 512 * n >= size) break;
        float x[kPack<T>];
        unpack<T>(load_shared(at + 512 * n), x);
#pragma unroll
        for (float& v : x) {
          const float d = (v - out.max) * scale, u = kEntropy ? max_nan(d, kFaint) : d;
          v = exp2_fast(u) * (kEntropy ? fmaf(out.b, u, out.a) : out.a);
        }
        store_shared(at + 512 * n, pack<T>(x));
      }
      __syncwarp();
      if (lane == 0 && out.target >= 0 && target >= 0 && target < size)
        reinterpret_cast<T*>(ring)[(begin - shared_address(ring) + target) / sizeof(T)] = from_float<T>(out.own);
      bulk_fence();
      __syncwarp();
      if (++slot == kSlots) {
        slot = 0;
        phase ^= 1;
      }
      if (lane != 0) continue;
      bulk_store(to, begin, size);
      if (k == 0) continue;
      bulk_wait_read<1>();
      load_next();
    }
    parity ^= 1;
    if (parity == 0) join_phase ^= 1;
  }
  if (lane == 0) bulk_wait_all();
  for (int64_t i = rows + blockIdx.x / cluster; i < call.end(); i += step) {
    T* out = call.d_logits<T>(i, call.workspace.inputs[i].row);
    for (int j = rank * Shape::kThreads + static_cast<int>(threadIdx.x); j < row_bytes / 16;
         j += cluster * Shape::kThreads)
      __stcs(reinterpret_cast<uint4*>(out) + j, make_uint4(0, 0, 0, 0));
  }
  if (cluster > 1) cluster_sync();  // no block leaves while others write to its shared memory
}

// False: no cluster of so many blocks, kBlocks of them on a multiprocessor, holds a row.
template <class T, int kBlocks>
bool launch_ring(const Device& device, const LogitPolicyCall& call, int cluster) {
  using Shape = RingShape<kBlocks>;
  const int64_t row_bytes = call.args.vocabulary * static_cast<int64_t>(sizeof(T));
  const int64_t share = divide_up(divide_up(row_bytes, cluster * Shape::kWarps), 512) * 512;
  if (share > Shape::kShare) return false;
  const bool entropy = call.args.entropy || call.args.entropy_coef != 0.0f;
  const auto kernel = entropy ? ring_kernel<T, kBlocks, true> : ring_kernel<T, kBlocks, false>;
  int64_t clusters = resident_clusters(device, kernel, cluster, Shape::kThreads, Shape::kShared);
  if (clusters == 0) return false;
  if (clusters > call.count) clusters = call.count;
  launch_clusters(device, kernel, cluster, clusters, Shape::kThreads, Shape::kShared, call, cluster,
                  static_cast<int32_t>(share));
  return true;
}

template <class T>
bool launch_ring(const Device& device, const LogitPolicyCall& call) {
  if (launch_ring<T, 2>(device, call, 1)) return true;
  // Clusters of 5 and 7 leave many multiprocessors of an H100 idle.
  for (const int cluster : {1, 2, 3, 4, 6, kRingCluster})
    if (launch_ring<T, 1>(device, call, cluster)) return true;
  return false;
}

template <class T, class G>
void launch_gradient(const Device& device, const LogitPolicyCall& call) {
  if (call.count == 0) return;
  if constexpr (std::is_same_v<T, G>) {
    const uint64_t pieces = call.args.logits | call.args.d_logits | call.args.vocabulary * sizeof(T) |
                            call.args.logits_stride * sizeof(T) | call.args.d_logits_stride * sizeof(T);
    if (device.capability == 90 && pieces % 16 == 0 && launch_ring<T>(device, call)) return;
  }
  launch(device, gradient_kernel<T, G>, call.count, kRowOfLogitsThreads, call);
}

// a_t * entropy_coef * entropy, before a_t.
struct EntropyBonus {
  const LogitRow* rows;
  float coefficient;

  __device__ float operator()(int64_t r) const { return coefficient == 0.0f ? 0.0f : coefficient * rows[r].entropy; }
};

// The whole call.  for_parts(gradient, step) calls step(part), `part` this call with some rows in memory, until all of
// the list have been; with `gradient` it may then take the gradient that step left.
template <class T, class G, class Parts>
void compute(const Device& device, const LogitPolicyCall& call, const Parts& for_parts) {
  const saccade_policy_loss_args& policy = call.policy;
  const PolicyLossWorkspace& rows = call.workspace.policy;
  const bool whole = needs_whole_sequences(policy), gradient = call.args.d_logits != 0;
  const bool forward = !gradient || (whole && !call.workspace.known_log_prob);
  const EntropyBonus bonus{call.workspace.rows, call.args.entropy_coef}, none{call.workspace.rows, 0.0f};
  launch_overlapping(device, list_kernel, 1, kListThreads, call);
  if (forward)
    for_parts(false, [&](const LogitPolicyCall& part) {
      launch_overlapping(device, inputs_kernel<T, false>, divide_up(part.count, kInputThreads), kInputThreads, part);
      launch(device, forward_kernel<T>, part.count, kRowOfLogitsThreads, part);
    });
  launch_sequences(device, policy, rows);
  // GSPO's gradients by the log-probabilities come from here; losses too, where the entropies are known.
  if (whole || !gradient) launch_rows(device, policy, rows, forward ? bonus : none, true);
  if (!gradient) return;
  for_parts(true, [&](const LogitPolicyCall& part) {
    launch_overlapping(device, inputs_kernel<T, true>, divide_up(part.count, kInputThreads), kInputThreads, part);
    launch_gradient<T, G>(device, part);
  });
  if (!forward) launch_rows(device, policy, rows, bonus, false);
}

}  // namespace saccade::cuda
