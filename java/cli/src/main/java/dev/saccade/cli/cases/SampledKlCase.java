package dev.saccade.cli.cases;

import dev.saccade.Context;
import dev.saccade.KlEstimator;
import dev.saccade.SampledKl;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.Map;

/** {@code sampled_kl}. */
final class SampledKlCase implements OpCase {
  @Override
  public Map<String, Tensor> run(Context context, Scope scope, CaseInputs inputs) {
    var defaults = SampledKl.Options.DEFAULT;
    var options =
        new SampledKl.Options(
            inputs.choice("estimator", KlEstimator.class, defaults.estimator()),
            inputs.flag("importance_corrected", defaults.importanceCorrected()));
    var outputs =
        SampledKl.forward(
            scope,
            inputs.tensor("log_prob"),
            inputs.tensor("ref_log_prob"),
            inputs.optional("old_log_prob"),
            options);
    return Map.of("kl", outputs.kl(), "d_log_prob", outputs.dLogProb());
  }
}
