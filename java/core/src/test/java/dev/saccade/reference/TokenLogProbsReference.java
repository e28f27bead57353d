package dev.saccade.reference;

/** {@code token_log_probs} in double precision, from its definition. */
public final class TokenLogProbsReference {
  private TokenLogProbsReference() {}

  /** Natural logarithm of Σ exp z. */
  public static double lse(double[] z) {
    double max = Double.NEGATIVE_INFINITY;
    for (double x : z) {
      max = Math.max(max, x);
    }
    double sum = 0;
    for (double x : z) {
      sum += Math.exp(x - max);
    }
    return max + Math.log(sum);
  }

  /** Log-probability of {@code target}. */
  public static double logProb(double[] z, int target) {
    return z[target] - lse(z);
  }

  /** Entropy in nats; masked tokens count nothing. */
  public static double entropy(double[] z) {
    double lse = lse(z);
    double entropy = 0;
    for (double x : z) {
      double p = Math.exp(x - lse);
      if (p > 0) {
        entropy -= p * (x - lse);
      }
    }
    return entropy;
  }

  /** z = logits / temperature. */
  public static double[] scaled(float[] logits, double temperature) {
    double[] z = new double[logits.length];
    for (int i = 0; i < z.length; i++) {
      z[i] = logits[i] / temperature;
    }
    return z;
  }
}
