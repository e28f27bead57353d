package dev.saccade.cli.cases;

import dev.saccade.Context;
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
}
