package dev.saccade.cli.cases;

import dev.saccade.Context;
import dev.saccade.GroupAdvantage;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.Map;

/** {@code group_advantage}. */
final class GroupAdvantageCase implements OpCase {
  @Override
  public Map<String, Tensor> run(Context context, Scope scope, CaseInputs inputs) {
    var defaults = GroupAdvantage.Options.DEFAULT;
    var options =
        new GroupAdvantage.Options(
            inputs.choice("estimator", GroupAdvantage.Estimator.class, defaults.estimator()),
            inputs.number("eps", defaults.eps()),
            inputs.integer("ddof", defaults.ddof()));
    var outputs =
        GroupAdvantage.forward(
            scope,
            inputs.tensor("rewards"),
            inputs.tensor("offsets"),
            inputs.optional("valid"),
            options);
    return Map.of(
        "advantage", outputs.advantage(),
        "mean", outputs.mean(),
        "std", outputs.std(),
        "degenerate", outputs.degenerate());
  }
}
