package dev.saccade.cli.cases;

import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.Map;

/** Runs one operation on the inputs of a case. Implementations are stateless. */
@FunctionalInterface
public interface OpCase {
  /**
   * Reads every input and attribute that the operation knows, and computes every result that it
   * has.
   *
   * @param scope of {@code context}; owns the results
   * @return results by the names of the specification, without {@code out.}
   * @throws CaseException if an input or an attribute is missing or does not fit
   * @throws dev.saccade.SaccadeException if the operation refuses the inputs
   */
  Map<String, Tensor> run(Context context, Scope scope, CaseInputs inputs);

  /**
   * The type of a gradient whose elements may be far smaller than its input's: that of the input,
   * but f32 for f16, whose range they fall below.
   */
  static DType gradientType(Tensor input) {
    return input.dtype() == DType.F16 ? DType.F32 : input.dtype();
  }
}
