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
  const int32_t active = kCounted ? active_rows(policy, counts) : 0;
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

constexpr int kRingWarps = 19, kRingSlots = 2;  // every warp holds at most two chunks of a row
constexpr int kRingThreads = kRingWarps * 32;
constexpr int kRingStep = 512;  // bytes that a warp takes at once: chunks are multiples of it

// Clusters of kCluster blocks; cluster c takes the active rows c, c + clusters ...  Chunk k of a row, of `chunk` bytes,
// is in the hands of warp k modulo the cluster's warps.
template <class T, int kCluster>
__global__ void __launch_bounds__(kRingThreads)
    ring_kernel(const __grid_constant__ LogitPolicyCall call, int32_t chunk) {
  extern __shared__ __align__(128) unsigned char ring[];
  __shared__ uint64_t loaded[kRingWarps][kRingSlots];
  __shared__ SoftmaxRow warps[2][32], blocks[2][kCluster];
  const int rank = kCluster == 1 ? 0 : cluster_rank();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own_chunk = rank * kRingWarps + warp;
  constexpr int kClusterWarps = kCluster * kRingWarps;
  const int64_t row_bytes = call.args.vocabulary * static_cast<int64_t>(sizeof(T));
  const int64_t first_row = call.first + blockIdx.x / kCluster, step = gridDim.x / kCluster;
  const int64_t rows = call.active_end();

  const auto slot = [&](int k) { return ring + static_cast<int64_t>(warp * kRingSlots + k) * chunk; };
  const auto begin_of = [&](int k) { return static_cast<int64_t>(own_chunk + k * kClusterWarps) * chunk; };
  const auto size_of = [&](int k) {
    const int64_t left = row_bytes - begin_of(k);
    return static_cast<uint32_t>(left <= 0 ? 0 : left < chunk ? left : chunk);
  };
  const auto load = [&](int k, int64_t i, int64_t r) {  // lane 0
    bulk_load(slot(k), reinterpret_cast<const unsigned char*>(call.logits<T>(i, r)) + begin_of(k), size_of(k),
              &loaded[warp][k]);
  };

  if (lane == 0) {
    for (int k = 0; k < kRingSlots; ++k) barrier_init(&loaded[warp][k], 1);
    barrier_fence();
  }
  if (kCluster == 1)
    __syncthreads();
  else
    cluster_sync();
  if (lane == 0)
    for (int k = 0; k < kRingSlots; ++k)
      if (first_row < rows && size_of(k) > 0) load(k, first_row, call.workspace.inputs[first_row].row);

  const Objective objective(call.policy);
  const float kl_coef = call.kl_coef(), inverse = call.inverse(), scale = inverse * kLog2E;
  // To the largest maximum first: every rescaling costs the sums an exponential's error.
  const auto merge_lanes = [&](SoftmaxRow row) {
    float top = row.max;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, distance));
    row.raise(top, scale);
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      row.sum += __shfl_xor_sync(~0u, row.sum, distance);
      row.moment += __shfl_xor_sync(~0u, row.moment, distance);
    }
    return row;
  };

  uint32_t parity = 0;
  for (int64_t i = first_row; i < rows; i += step, parity ^= 1) {
    const LogitPolicyRow input = call.workspace.inputs[i];
    const bool more = i + step < rows;
    const int64_t next = more ? call.workspace.inputs[i + step].row : 0;
    SoftmaxRow row = SoftmaxRow::none();
    for (int k = 0; k < kRingSlots; ++k) {
      const uint32_t size = size_of(k);
      if (size == 0) continue;
      barrier_wait(&loaded[warp][k], parity);
      const auto* packs = reinterpret_cast<const Pack<T>*>(slot(k));
      for (uint32_t j = lane; j < size / 16; j += 32) row.add(packs[j], scale);
    }
    row = merge_lanes(row);
    if (lane == 0) warps[parity][warp] = row;
    __syncthreads();
    row = merge_lanes(lane < kRingWarps ? warps[parity][lane] : SoftmaxRow::none());
    if (kCluster > 1) {
      if (warp == 0 && lane < kCluster) {
        SoftmaxRow& mine = blocks[parity][rank];
        cluster_store(&mine.max, lane, row.max);
        cluster_store(&mine.sum, lane, row.sum);
        cluster_store(&mine.moment, lane, row.moment);
      }
      cluster_sync();
      row = merge_lanes(lane < kCluster ? blocks[parity][lane] : SoftmaxRow::none());
    }
    if (rank == 0 && threadIdx.x == 0) call.write_row(input, row);

    const RowGradient gradient = call.gradient(input, row, objective, kl_coef);
    const float log_sum = row.log_sum(), entropy = row.entropy(), shift = log2f(row.sum);
    const float a = -(gradient.d_log_prob + gradient.d_entropy * entropy) * inverse;
    const float b = -gradient.d_entropy * kLog2 * inverse;
    const float log_p = (input.x_target - row.max) * inverse - log_sum, p = expf(log_p);
    const float own =
        (gradient.d_log_prob * -expm1f(log_p) - (p > 0.0f ? gradient.d_entropy * p * (log_p + entropy) : 0.0f)) *
        inverse;
    unsigned char* out = reinterpret_cast<unsigned char*>(call.d_logits<T>(i, input.row));
    for (int k = 0; k < kRingSlots; ++k) {
      const uint32_t size = size_of(k);
      if (size == 0) continue;
      auto* packs = reinterpret_cast<Pack<T>*>(slot(k));
      for (uint32_t j = lane; j < size / 16; j += 32) {
        Pack<T> pack = packs[j];
#pragma unroll
        for (T& x : pack.x) {
          const float u = max_nan((to_float(x) - row.max) * scale - shift, kFaint);
          x = from_float<T>(exp2_fast(u) * fmaf(b, u, a));
        }
        packs[j] = pack;
      }
      __syncwarp();
      const int64_t target = static_cast<int64_t>(gradient.target) * static_cast<int64_t>(sizeof(T)) - begin_of(k);
      if (lane == 0 && gradient.target >= 0 && target >= 0 && target < size)
        *reinterpret_cast<T*>(slot(k) + target) = from_float<T>(own);
      bulk_fence();
      __syncwarp();
      if (lane != 0) continue;
      bulk_store(out + begin_of(k), slot(k), size);
      // A slot is loaded again once its store has been read; the newest store may still be.
      if (k > 0 && more) {
        bulk_wait_read<1>();
        load(k - 1, i + step, next);
      }
    }
    if (lane == 0 && more) {
      bulk_wait_read<0>();
      const int last = size_of(kRingSlots - 1) > 0 ? kRingSlots - 1 : 0;
      if (size_of(last) > 0) load(last, i + step, next);
    }
  }
  if (lane == 0) bulk_wait_all();
  for (int64_t i = rows + blockIdx.x / kCluster; i < call.end(); i += step) {
    T* out = call.d_logits<T>(i, call.workspace.inputs[i].row);
    const int64_t packs = row_bytes / 16;
    for (int64_t j = rank * kRingThreads + threadIdx.x; j < packs; j += kCluster * kRingThreads)
      __stcs(reinterpret_cast<uint4*>(out) + j, make_uint4(0, 0, 0, 0));
  }
  if (kCluster > 1) cluster_sync();  // no block leaves while others write to its shared memory
}

// Bytes of a chunk with clusters of `cluster` blocks.
inline int64_t ring_chunk(int64_t row_bytes, int cluster) {
  return divide_up(divide_up(row_bytes, cluster * kRingWarps * kRingSlots), kRingStep) * kRingStep;
}

template <class T, int kCluster>
bool launch_ring(const Device& device, const LogitPolicyCall& call) {
  const int64_t chunk = ring_chunk(call.args.vocabulary * static_cast<int64_t>(sizeof(T)), kCluster);
  const int64_t shared = kRingWarps * kRingSlots * chunk;
  constexpr int kStatic = 4096;
  if (shared > device.shared_memory - kStatic) return false;
  const auto kernel = ring_kernel<T, kCluster>;
  int64_t clusters = resident_clusters(device, kernel, kCluster, kRingThreads, static_cast<int>(shared));
  if (clusters == 0) return false;
  if (clusters > call.count) clusters = call.count;
  launch_clusters(device, kernel, kCluster, clusters, kRingThreads, static_cast<int>(shared), call,
                  static_cast<int32_t>(chunk));
  return true;
}

template <class T, class G>
void launch_gradient(const Device& device, const LogitPolicyCall& call) {
  if (call.count == 0) return;
  if constexpr (std::is_same_v<T, G>) {
    const uint64_t pieces = call.args.logits | call.args.d_logits | call.args.vocabulary * sizeof(T) |
                            call.args.logits_stride * sizeof(T) | call.args.d_logits_stride * sizeof(T);
    if (device.capability == 90 && pieces % 16 == 0 &&
        (launch_ring<T, 1>(device, call) || launch_ring<T, 2>(device, call) || launch_ring<T, 4>(device, call) ||
         launch_ring<T, 8>(device, call)))
      return;
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
