package dev.saccade.cli.cases;

import dev.saccade.Context;
import dev.saccade.LinearPolicyLoss;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.HashMap;
import java.util.Map;

/** {@code linear_policy_loss}. */
final class LinearPolicyLossCase implements OpCase {
  @Override
  public Map<String, Tensor> run(Context context, Scope scope, CaseInputs inputs) {
    var tensors =
        new LinearPolicyLoss.Inputs(
            inputs.tensor("hidden"),
            inputs.tensor("weight"),
            inputs.tensor("targets"),
            PolicyLossCase.tensors(inputs, inputs.optional("log_prob")));
    var options =
        new LinearPolicyLoss.Options(
            PolicyLossFromLogitsCase.options(inputs),
            inputs.integer("chunk_rows", LinearPolicyLoss.Options.DEFAULT.chunkRows()));
    var outputs = LinearPolicyLoss.forward(scope, tensors, options);
    Map<String, Tensor> results = new HashMap<>();
    results.put("loss", outputs.loss());
    results.put("token_loss", outputs.tokenLoss());
    results.put("metrics", outputs.metrics());
    results.put("log_prob", outputs.logProb());
    results.put("entropy", outputs.entropy());
    results.put("lse", outputs.lse());
    results.put("d_hidden", outputs.dHidden());
    results.put("d_weight", outputs.dWeight());
    if (outputs.kl() != null) {
      results.put("kl", outputs.kl());
    }
    return results;
  }
}
