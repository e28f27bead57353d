package dev.saccade.train;

import dev.saccade.AttentionDivergence;
import dev.saccade.AttentionPolicy;
import dev.saccade.LogitDivergence;
import dev.saccade.PolicyLoss;
import dev.saccade.PolicyLossFromLogits;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import dev.saccade.train.io.Safetensors;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The call of an operation as {@code saccade op} runs it: tensors and options under the names of
 * the C ABI.
 *
 * @param operation such as {@code policy_loss}
 * @param attributes options; numbers, flags, and names of constants
 * @param inputs tensors; a null value is one that was not given
 */
record OperationCase(String operation, Map<String, ?> attributes, Map<String, Tensor> inputs) {

  static OperationCase of(PolicyLossFromLogits.Inputs in, PolicyLossFromLogits.Options options) {
    PolicyLoss.Options policy = options.policy();
    Map<String, Object> attributes = new LinkedHashMap<>();
    attributes.put("objective", policy.objective());
    attributes.put("aggregation", policy.aggregation());
    attributes.put("clip_low", policy.clipLow());
    attributes.put("clip_high", policy.clipHigh());
    attributes.put("dual_clip", policy.dualClip());
    attributes.put("delta", policy.delta());
    attributes.put("tau_pos", policy.tauPos());
    attributes.put("tau_neg", policy.tauNeg());
    attributes.put("constant", policy.constant());
    attributes.put("normalizer", policy.normalizer());
    Tensor klCoef = in.policy().klCoef();
    attributes.put("kl_coef", klCoef == null ? policy.klCoef() : klCoef.item());
    attributes.put("kl_estimator", policy.klEstimator());
    attributes.put("advantage_per_sequence", policy.advantagePerSequence());
    attributes.put("importance_corrected", policy.klImportanceCorrected());
    attributes.put("temperature", options.temperature());
    attributes.put("ignore_index", options.ignoreIndex());
    attributes.put("entropy_coef", options.entropyCoef());
    Map<String, Tensor> inputs = new LinkedHashMap<>();
    inputs.put("logits", in.logits());
    inputs.put("targets", in.targets());
    inputs.put("old_log_prob", in.policy().oldLogProb());
    inputs.put("ref_log_prob", in.policy().refLogProb());
    inputs.put("advantage", in.policy().advantage());
    inputs.put("offsets", in.policy().offsets());
    inputs.put("grad_output", in.policy().gradOutput());
    return new OperationCase("policy_loss_from_logits", attributes, inputs);
  }

  static OperationCase of(
      AttentionPolicy.Input in,
      AttentionDivergence.Reference.Map reference,
      AttentionDivergence.Weights weights,
      AttentionDivergence.Options options) {
    AttentionPolicy.Options policy = options.policy();
    Map<String, Tensor> inputs = new LinkedHashMap<>();
    inputs.put("q", in.q());
    inputs.put("k", in.k());
    inputs.put("offsets_q", in.offsetsQ());
    inputs.put("offsets_k", in.offsetsK());
    inputs.put("support_ranges", in.supportRanges());
    inputs.put("ref", reference.map());
    inputs.put("weight", weights.weight());
    inputs.put("entropy_weight", weights.entropyWeight());
    return new OperationCase(
        "attention_divergence",
        Map.of(
            "support", policy.support(),
            "reduction", policy.reduction(),
            "head_begin", policy.headBegin(),
            "head_end", policy.headEnd(),
            "compact", policy.compact(),
            "kind", options.kind(),
            "beta", options.beta()),
        inputs);
  }

  static OperationCase of(LogitDivergence.Inputs in, LogitDivergence.Options options) {
    Map<String, Tensor> inputs = new LinkedHashMap<>();
    inputs.put("logits", in.logits());
    inputs.put("ref_logits", in.refLogits());
    inputs.put("weight", in.weight());
    return new OperationCase(
        "logit_divergence",
        Map.of(
            "kind", options.kind(), "beta", options.beta(), "temperature", options.temperature()),
        inputs);
  }

  static OperationCase of(
      Tensor logits, Tensor targets, Tensor dLogProb, TokenLogProbs.Options options) {
    return new OperationCase(
        "token_log_probs",
        Map.of("temperature", options.temperature(), "ignore_index", options.ignoreIndex()),
        Map.of("logits", logits, "targets", targets, "d_log_prob", dLogProb));
  }

  static OperationCase gradNorm(List<Tensor> gradients, double maxNorm) {
    Map<String, Tensor> inputs = new LinkedHashMap<>();
    for (int i = 0; i < gradients.size(); i++) {
      inputs.put("grad" + i, gradients.get(i));
    }
    return new OperationCase("grad_norm", Map.of("max_norm", maxNorm), inputs);
  }

  /** A file of this case, with copies of the tensors. */
  Safetensors.Builder file() {
    Safetensors.Builder file =
        Safetensors.builder()
            .metadata("op", operation)
            .metadata("attrs", ConfigTree.write(attributes));
    inputs.forEach(
        (name, tensor) -> {
          if (tensor != null) {
            file.add("in." + name, tensor);
          }
        });
    return file;
  }
}
