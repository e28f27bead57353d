package dev.saccade.cli.cases;

import dev.saccade.Context;
import dev.saccade.KlEstimator;
import dev.saccade.PolicyLoss;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.Map;

/** {@code policy_loss}. */
final class PolicyLossCase implements OpCase {
  @Override
  public Map<String, Tensor> run(Context context, Scope scope, CaseInputs inputs) {
    var outputs =
        PolicyLoss.forward(scope, tensors(inputs, inputs.tensor("log_prob")), options(inputs));
    return Map.of(
        "loss", outputs.loss(),
        "token_loss", outputs.tokenLoss(),
        "d_log_prob", outputs.dLogProb(),
        "metrics", outputs.metrics());
  }

  /** The inputs of a policy loss, with the log-probabilities that a case gives or leaves out. */
  static PolicyLoss.Inputs tensors(CaseInputs inputs, Tensor logProb) {
    return new PolicyLoss.Inputs(
        logProb,
        inputs.tensor("old_log_prob"),
        inputs.optional("ref_log_prob"),
        inputs.tensor("advantage"),
        inputs.optional("mask"),
        inputs.optional("is_weight"),
        inputs.tensor("offsets"),
        null,
        inputs.optional("grad_output"));
  }

  static PolicyLoss.Options options(CaseInputs inputs) {
    var defaults = PolicyLoss.Options.DEFAULT;
    return new PolicyLoss.Options(
        inputs.choice("objective", PolicyLoss.Objective.class, defaults.objective()),
        inputs.choice("aggregation", PolicyLoss.Aggregation.class, defaults.aggregation()),
        inputs.number("clip_low", defaults.clipLow()),
        inputs.number("clip_high", defaults.clipHigh()),
        inputs.number("dual_clip", defaults.dualClip()),
        inputs.number("delta", defaults.delta()),
        inputs.number("tau_pos", defaults.tauPos()),
        inputs.number("tau_neg", defaults.tauNeg()),
        inputs.number("constant", defaults.constant()),
        inputs.number("normalizer", defaults.normalizer()),
        inputs.number("kl_coef", defaults.klCoef()),
        inputs.choice("kl_estimator", KlEstimator.class, defaults.klEstimator()),
        inputs.flag("advantage_per_sequence", defaults.advantagePerSequence()),
        inputs.flag("importance_corrected", defaults.klImportanceCorrected()));
  }
}
