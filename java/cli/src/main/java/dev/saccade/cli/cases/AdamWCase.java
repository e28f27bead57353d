package dev.saccade.cli.cases;

import dev.saccade.AdamW;
import dev.saccade.Context;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.List;
import java.util.Map;

/** {@code adamw}: one step, on copies of the inputs. */
final class AdamWCase implements OpCase {
  @Override
  public Map<String, Tensor> run(Context context, Scope scope, CaseInputs inputs) {
    var defaults = AdamW.Options.of(inputs.number("lr"));
    var options =
        new AdamW.Options(
            defaults.lr(),
            inputs.number("beta1", defaults.beta1()),
            inputs.number("beta2", defaults.beta2()),
            inputs.number("eps", defaults.eps()),
            inputs.number("grad_scale", defaults.gradScale()));
    var parameter =
        new AdamW.Parameter(
            inputs.tensor("param"),
            inputs.tensor("grad"),
            inputs.tensor("m"),
            inputs.tensor("v"),
            null,
            inputs.number("weight_decay", 0));
    AdamW.step(context, List.of(parameter), options, inputs.integer("step"));
    return Map.of("param", parameter.param(), "m", parameter.m(), "v", parameter.v());
  }
}
