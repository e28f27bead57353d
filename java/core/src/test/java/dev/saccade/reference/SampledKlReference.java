package dev.saccade.reference;

import dev.saccade.KlEstimator;

/** {@code sampled_kl} in double precision, from its definition. */
public final class SampledKlReference {
  private SampledKlReference() {}

  /** x clamped to ±20. */
  public static double clamp(double x) {
    return Math.max(-20, Math.min(20, x));
  }

  /** The estimate. */
  public static double value(KlEstimator estimator, double logProb, double ref) {
    double d = clamp(ref - logProb);
    return switch (estimator) {
      case K1, K1_ST -> -d;
      case ABS -> Math.abs(d);
      case K2 -> d * d / 2;
      case K3, K3_ST -> Math.expm1(d) - d;
    };
  }

  /**
   * A function of {@code logProb} whose value and derivative at {@code at} are those of the
   * estimator: the straight-through estimators move as K2 does.
   */
  public static double surrogate(KlEstimator estimator, double logProb, double at, double ref) {
    if (estimator == KlEstimator.K1_ST || estimator == KlEstimator.K3_ST) {
      return value(KlEstimator.K2, logProb, ref)
          - value(KlEstimator.K2, at, ref)
          + value(estimator, at, ref);
    }
    return value(estimator, logProb, ref);
  }

  /**
   * Derivative of the surrogate, times the ratio to {@code old} where it is not NaN, by central
   * differences.
   */
  public static double gradient(KlEstimator estimator, double logProb, double ref, double old) {
    double distance = Math.abs(ref - logProb);
    double h = distance == 0 ? 1e-7 : Math.min(1e-5, distance / 2); // never across the kink of ABS
    double[] side = new double[2];
    for (int i = 0; i < 2; i++) {
      double moved = logProb + (i == 0 ? -h : h);
      double ratio = Double.isNaN(old) ? 1 : Math.exp(clamp(moved - old));
      side[i] = ratio * surrogate(estimator, moved, logProb, ref);
    }
    return (side[1] - side[0]) / (2 * h);
  }
}
