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
    Map<String, Tensor> results = new HashMap<>();
    results.put("loss", outputs.loss());
    results.put("token_loss", outputs.tokenLoss());
    results.put("metrics", outputs.metrics());
    results.put("log_prob", outputs.logProb());
    results.put("entropy", outputs.entropy());
    results.put("lse", outputs.lse());
    results.put("d_logits", outputs.dLogits());
    if (outputs.kl() != null) {
      results.put("kl", outputs.kl());
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
