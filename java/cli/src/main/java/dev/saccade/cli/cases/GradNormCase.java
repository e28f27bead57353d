package dev.saccade.cli.cases;

import dev.saccade.Context;
import dev.saccade.GradNorm;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.Map;

/** {@code grad_norm} over {@code in.grad0}, {@code in.grad1} and so on. */
final class GradNormCase implements OpCase {
  @Override
  public Map<String, Tensor> run(Context context, Scope scope, CaseInputs inputs) {
    var options = new GradNorm.Options(inputs.number("max_norm"));
    var outputs = GradNorm.forward(scope, inputs.numbered("grad"), options);
    return Map.of("norm", outputs.norm(), "scale", outputs.scale());
  }
}
