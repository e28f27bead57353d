package dev.saccade.cli.cases;

import dev.saccade.Context;
import dev.saccade.GradientMoments;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.Map;

/**
 * {@code gradient_moments}: the rows of {@code in.samples}, then the report on {@code in.segments}.
 */
final class GradientMomentsCase implements OpCase {
  @Override
  public Map<String, Tensor> run(Context context, Scope scope, CaseInputs inputs) {
    Tensor samples = inputs.tensor("samples");
    if (samples.rank() != 2) {
      throw new CaseException(
          "tensor in.samples: expected [samples, n], got " + samples.rank() + " dimensions");
    }
    long n = samples.shape(1);
    Tensor segments = inputs.longs("segments");
    var state = GradientMoments.State.zeros(scope, n);
    GradientMoments.update(context, state, samples, null);
    var report = GradientMoments.report(scope, state, segments);
    return Map.of(
        "count", state.count(),
        "mean", state.mean(),
        "m2", state.m2(),
        "mean_sq", report.meanSq(),
        "trace", report.trace(),
        "signal", report.signal(),
        "snr", report.snr());
  }
}
