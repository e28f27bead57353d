package dev.saccade.cli.cases;

import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Divergence;
import dev.saccade.LogitDivergence;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.Map;

/** {@code logit_divergence}. */
final class LogitDivergenceCase implements OpCase {
  @Override
  public Map<String, Tensor> run(Context context, Scope scope, CaseInputs inputs) {
    var defaults = LogitDivergence.Options.DEFAULT;
    var options =
        new LogitDivergence.Options(
            inputs.choice("kind", Divergence.class, defaults.kind()),
            inputs.number("beta", defaults.beta()),
            inputs.number("temperature", defaults.temperature()));
    Tensor logits = inputs.tensor("logits");
    var outputs =
        new LogitDivergence.Outputs(
            Tensor.empty(scope, DType.F32, logits.shape(0)),
            Tensor.empty(scope, OpCase.gradientType(logits), logits.shape()));
    LogitDivergence.forward(
        context,
        new LogitDivergence.Inputs(
            logits,
            inputs.tensor("ref_logits"),
            inputs.optional("weight"),
            inputs.optional("grad_output")),
        options,
        outputs);
    return Map.of("divergence", outputs.divergence(), "d_logits", outputs.dLogits());
  }
}
