#include "linear_policy_loss/linear_policy_loss.h"

#include "core/logit_rows.h"

using namespace saccade;

namespace {

saccade_linear_policy_loss_args checked(const saccade_linear_policy_loss_args* caller) {
  const auto args = copy_args(caller);
  require_logit_options(args);
  require_size("hidden_size", args.hidden_size, 1, kMaxRows);
  require_size("chunk_rows", args.chunk_rows, 1, kMaxRows);
  float_size("dtype", args.dtype);
  require_gradient_dtype("d_hidden_dtype", args.d_hidden_dtype, args.dtype, "the dtype of hidden, or f32");
  require_gradient_dtype("d_weight_dtype", args.d_weight_dtype, args.dtype, "the dtype of weight, or f32");
  return args;
}

// Strides that the provider of products takes as int.
int64_t checked_leading(const char* argument, int64_t stride, int64_t rows, int64_t width) {
  stride = checked_stride(argument, stride, rows, width);
  require_size(argument, stride, 0, kMaxRows);
  return stride;
}

LinearPolicyWorkspace carve_cuda(const saccade_context* context, const saccade_linear_policy_loss_args& args,
                                 saccade_policy_loss_args& policy, Carver& carver) {
  const int64_t chunk = args.chunk_rows < policy.rows ? args.chunk_rows : policy.rows;
  const int64_t v = args.vocabulary, d = args.hidden_size, size = float_size("dtype", args.dtype);
  const bool narrow = args.dtype != SACCADE_F32, gradient = args.d_hidden || args.d_weight;
  const auto take = [&](const char* argument, bool wanted, int64_t rows, int64_t width, int64_t element) {
    const int64_t bytes = checked_product(argument, checked_product(argument, rows, width), element);
    return reinterpret_cast<saccade_address>(carver.take<uint8_t>(wanted ? bytes : 0));
  };
  LinearPolicyWorkspace workspace = {};
  workspace.logits_stride = v <= kMaxRows - 7 ? (v + 7) / 8 * 8 : v;
  workspace.rows = carve_logit_policy(context, policy, 1, gradient, carver);
  workspace.gathered = take("hidden_size", true, chunk, d, size);
  const saccade_address logits = take("vocabulary", true, chunk, workspace.logits_stride, 4);
  workspace.logits = pointer<float>(logits);
  workspace.d_logits = narrow ? take("vocabulary", gradient, chunk, workspace.logits_stride, size) : logits;
  workspace.d_hidden = pointer<float>(take("hidden_size", args.d_hidden != 0, chunk, d, 4));
  workspace.d_weight =
      pointer<float>(take("hidden_size", args.d_weight && args.d_weight_dtype != SACCADE_F32, v, d, 4));
  return workspace;
}

LinearPolicyWorkspace carve(const saccade_context* context, const saccade_linear_policy_loss_args& args,
                            saccade_policy_loss_args& policy, Carver& carver) {
  if (context->gpu) return carve_cuda(context, args, policy, carver);
  const int64_t chunk = args.chunk_rows < policy.rows ? args.chunk_rows : policy.rows;
  const int64_t chunks = chunk > 0 ? (policy.rows + chunk - 1) / chunk : 0;
  const int64_t v = args.vocabulary, d = args.hidden_size;
  LinearPolicyWorkspace workspace = {};
  workspace.weight_rows = v;
  if (args.dtype != SACCADE_F32) {
    const int64_t rows = kWeightBlock / d > 512 ? kWeightBlock / d : 512;
    workspace.weight_rows = rows < v ? rows : v;
  }
  workspace.rows = carve_logit_policy(context, policy, chunks > 0 ? chunks * logit_tasks(chunk, v) : 1,
                                      args.d_hidden || args.d_weight, carver);
  workspace.index = carver.take<int32_t>(policy.rows);
  workspace.hidden = carver.take<float>(checked_product("hidden_size", chunk, d));
  workspace.logits = carver.take<float>(checked_product("vocabulary", chunk, v));
  workspace.weight = carver.take<float>(args.dtype == SACCADE_F32 ? 0 : workspace.weight_rows * d);
  workspace.d_weight = carver.take<float>(
      args.d_weight && args.d_weight_dtype != SACCADE_F32 ? checked_product("hidden_size", v, d) : 0);
  int64_t partials = 0;
  const auto need = [&](int64_t m, int64_t n, int64_t k) {
    const int64_t most = gemm_most_partials(m, n, k);
    if (most > partials) partials = most;
  };
  need(chunk, workspace.weight_rows, d);
  need(v, d, chunk);
  need(chunk, d, workspace.weight_rows);
  workspace.products = carver.take<float>(partials);
  return workspace;
}

}  // namespace

int32_t saccade_linear_policy_loss_workspace(saccade_context* context, const saccade_linear_policy_loss_args* caller,
                                             int64_t* bytes) {
  return run(context, "linear_policy_loss", [&] {
    require_result(bytes);
    const auto args = checked(caller);
    auto policy = copy_policy(args.policy);
    Carver carver(0);
    carve(context, args, policy, carver);
    *bytes = carver.bytes();
  });
}

int32_t saccade_linear_policy_loss(saccade_context* context, const saccade_linear_policy_loss_args* caller) {
  return run(context, "linear_policy_loss", [&] {
    auto args = checked(caller);
    auto policy = copy_policy(args.policy);
    const int64_t size = float_size("dtype", args.dtype);
    args.hidden_stride = checked_stride("hidden_stride", args.hidden_stride, policy.rows, args.hidden_size);
    args.weight_stride = checked_leading("weight_stride", args.weight_stride, args.vocabulary, args.hidden_size);
    Operands operands(context);
    require_row_operands(args, policy, operands);
    operands.input("hidden", args.hidden, span(policy.rows, args.hidden_stride, args.hidden_size), size);
    operands.input("weight", args.weight, span(args.vocabulary, args.weight_stride, args.hidden_size), size);
    if (args.d_hidden) {
      args.d_hidden_stride = checked_stride("d_hidden_stride", args.d_hidden_stride, policy.rows, args.hidden_size);
      operands.output("d_hidden", args.d_hidden, span(policy.rows, args.d_hidden_stride, args.hidden_size),
                      float_size("d_hidden_dtype", args.d_hidden_dtype));
    }
    if (args.d_weight) {
      args.d_weight_stride =
          checked_leading("d_weight_stride", args.d_weight_stride, args.vocabulary, args.hidden_size);
      operands.output("d_weight", args.d_weight, span(args.vocabulary, args.d_weight_stride, args.hidden_size),
                      float_size("d_weight_dtype", args.d_weight_dtype));
    }
    Carver carver(args.workspace);
    const LinearPolicyWorkspace workspace = carve(context, args, policy, carver);
    operands.workspace(args.workspace, carver.bytes());
    operands.require_disjoint();
    require_gemm(context);
    SACCADE_IF_CUDA(if (context->gpu) return cuda::linear_policy_loss(*context->gpu, args, policy, workspace);)
    SACCADE_CALL_CPU(context, linear_policy_loss(context->pool, context->gemm, args, policy, workspace));
  });
}
