// linear_policy_loss (docs/spec.md §7): policy_loss_from_logits of logits = hidden * weight^T, fused with the
// projection: of the [R,V] logits and their gradient at most chunk_rows rows exist at a time.
//
// CPU.  The active rows are gathered into chunks of chunk_rows.  A chunk goes through
//   1. logits = hidden * weight^T, by the context's provider of products;
//   2. the steps of policy_loss_from_logits, which leave the gradient in the place of the logits;
//   3. d_weight += d_logits^T * hidden, d_hidden = d_logits * weight.
// Rows that are not active are neither multiplied nor read.  A 16-bit weight is widened block by block.  GSPO and
// GSPO_TOKEN need the log-probabilities of whole sequences first: step 1 twice, unless the caller knows them.
// Workspace: chunk_rows * (V + D) floats, O(R), what the products need; for a 16-bit weight kWeightBlock floats, for
// a 16-bit d_weight V * D floats.
// CUDA.  The same steps.  How many rows are active is known on the device alone: the chunks are cut from all rows, the
// active ones first, and the rest of them are zeros.  Factors of 16 bits are multiplied as they are, with sums and
// logits in f32, so the gradient by the logits is rounded to their type between steps 2 and 3 (f16 wants a grad_output
// that scales the loss, as all of its gradients do).
// Workspace: chunk_rows * V floats, for 16-bit types half as much again; chunk_rows * D of hidden and of its gradient;
// O(R); for a 16-bit d_weight V * D floats.
#pragma once

#include "gemm/gemm.h"
#include "policy_loss_from_logits/policy_loss_from_logits.h"

namespace saccade {

constexpr int64_t kWeightBlock = int64_t{1} << 21;  // elements of a 16-bit weight that are widened at a time

struct LinearPolicyWorkspace {
  LogitPolicyWorkspace rows;
  int32_t* index;       // [R]: the active rows, in order
  float* hidden;        // [chunk_rows, D]: of the chunk; then its gradient
  float* logits;        // [chunk_rows, V]: of the chunk; then their gradient
  float* weight;        // [weight_rows, D]: the widened block of a 16-bit weight
  float* d_weight;      // [V, D] where the result is 16-bit
  float* products;      // what gemm needs
  int64_t weight_rows;  // rows of the weight that a product takes: V where nothing is widened
  // CUDA
  saccade_address gathered;  // [chunk_rows, D] of the dtype: hidden of the chunk
  saccade_address d_logits;  // [chunk_rows, V] of the dtype; f32: the logits
  float* d_hidden;           // [chunk_rows, D]
  int64_t logits_stride;     // of logits and d_logits: every row begins at 16 bytes
};

}  // namespace saccade

SACCADE_DECLARE_CPU(void linear_policy_loss(Pool& pool, saccade_cblas_sgemm provider,
                                            const saccade_linear_policy_loss_args& args,
                                            const saccade_policy_loss_args& policy,
                                            const LinearPolicyWorkspace& workspace))

namespace saccade::cuda {
void linear_policy_loss(const Device& device, const saccade_linear_policy_loss_args& args,
                        const saccade_policy_loss_args& policy, const LinearPolicyWorkspace& workspace);
}  // namespace saccade::cuda
