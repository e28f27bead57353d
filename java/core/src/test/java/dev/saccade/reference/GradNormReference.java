package dev.saccade.reference;

import java.util.List;

/** {@code grad_norm} in double precision, from its definition. */
public final class GradNormReference {
  private GradNormReference() {}

  /** √Σ x² over all tensors. */
  public static double norm(List<float[]> gradients) {
    double sum = 0;
    for (float[] gradient : gradients) {
      for (double x : gradient) {
        sum += x * x;
      }
    }
    return Math.sqrt(sum);
  }
}
