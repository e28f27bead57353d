package dev.saccade.cli.cases;

import dev.saccade.Context;
import dev.saccade.PolicyLossFromLogits;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.HashMap;
import java.util.Map;

/** {@code policy_loss_from_logits}. */
final class PolicyLossFromLogitsCase implements OpCase {
  @Override
  public Map<String, Tensor> run(Context context, Scope scope, CaseInputs inputs) {
    var tensors =
        new PolicyLossFromLogits.Inputs(
            inputs.tensor("logits"),
            inputs.tensor("targets"),
            PolicyLossCase.tensors(inputs, inputs.optional("log_prob")));
    var outputs = PolicyLossFromLogits.forward(scope, tensors, options(inputs));
    Map<String, Tensor> results = results(outputs.values());
    results.put("d_logits", outputs.dLogits());
    return results;
  }

  /** Loss and per-row results, to which gradients can be added. */
  static Map<String, Tensor> results(PolicyLossFromLogits.Values values) {
    Map<String, Tensor> results = new HashMap<>();
    results.put("loss", values.loss());
    results.put("token_loss", values.tokenLoss());
    results.put("metrics", values.metrics());
    results.put("log_prob", values.logProb());
    results.put("entropy", values.entropy());
    results.put("lse", values.lse());
    if (values.kl() != null) {
      results.put("kl", values.kl());
    }
    return results;
  }

  static PolicyLossFromLogits.Options options(CaseInputs inputs) {
    var defaults = PolicyLossFromLogits.Options.DEFAULT;
    return new PolicyLossFromLogits.Options(
        PolicyLossCase.options(inputs),
        inputs.number("temperature", defaults.temperature()),
        inputs.integer("ignore_index", defaults.ignoreIndex()),
        inputs.number("entropy_coef", defaults.entropyCoef()));
  }
}
