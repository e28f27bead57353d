package dev.saccade.cli.cases;

import dev.saccade.Context;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import java.util.HashMap;
import java.util.Map;

/** {@code token_log_probs}, and its backward pass where the case gives a gradient. */
final class TokenLogProbsCase implements OpCase {
  @Override
  public Map<String, Tensor> run(Context context, Scope scope, CaseInputs inputs) {
    var defaults = TokenLogProbs.Options.DEFAULT;
    var options =
        new TokenLogProbs.Options(
            inputs.number("temperature", defaults.temperature()),
            inputs.integer("ignore_index", defaults.ignoreIndex()));
    Tensor logits = inputs.tensor("logits");
    Tensor targets = inputs.tensor("targets");
    Tensor dLogProb = inputs.optional("d_log_prob");
    Tensor dEntropy = inputs.optional("d_entropy");
    var outputs = TokenLogProbs.forward(scope, logits, targets, options);
    Map<String, Tensor> results = new HashMap<>();
    results.put("log_prob", outputs.logProb());
    results.put("entropy", outputs.entropy());
    results.put("lse", outputs.lse());
    if (dLogProb != null || dEntropy != null) {
      Tensor dLogits = Tensor.empty(scope, logits.dtype(), logits.shape());
      TokenLogProbs.backward(context, logits, targets, options, dLogProb, dEntropy, dLogits);
      results.put("d_logits", dLogits);
    }
    return results;
  }
}
