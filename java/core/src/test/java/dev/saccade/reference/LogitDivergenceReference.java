package dev.saccade.reference;

import dev.saccade.Divergence;
import java.util.stream.IntStream;

/**
 * {@code logit_divergence} of one row in double precision, from the definitions: distributions are
 * given by their log-probabilities, -inf for a masked token. Sums are compensated.
 */
public final class LogitDivergenceReference {
  private LogitDivergenceReference() {}

  /**
   * Log-probabilities of softmax(logits / temperature), to full relative precision also where one
   * token holds nearly everything.
   */
  public static double[] logProbs(float[] logits, double temperature) {
    double[] z = TokenLogProbsReference.scaled(logits, temperature);
    int top = 0;
    for (int j = 1; j < z.length; j++) {
      top = z[j] > z[top] ? j : top;
    }
    double max = z[top];
    int first = top;
    for (int j = 0; j < z.length; j++) {
      z[j] -= max;
    }
    double others =
        IntStream.range(0, z.length).filter(j -> j != first).mapToDouble(j -> Math.exp(z[j])).sum();
    for (int j = 0; j < z.length; j++) {
      z[j] -= Math.log1p(others);
    }
    return z;
  }

  /** Σ a·(log a − log b); a token with a = 0 counts 0. */
  private static double kl(double[] logA, double[] logB) {
    return IntStream.range(0, logA.length)
        .filter(j -> logA[j] > Double.NEGATIVE_INFINITY)
        .mapToDouble(j -> Math.exp(logA[j]) * (logA[j] - logB[j]))
        .sum();
  }

  /** Log-probabilities of M = β·r + (1−β)·π. */
  private static double[] logMixture(double[] logPolicy, double[] logReference, double beta) {
    double[] m = new double[logPolicy.length];
    for (int j = 0; j < m.length; j++) {
      double a = logReference[j] + Math.log(beta);
      double b = logPolicy[j] + Math.log1p(-beta);
      double max = Math.max(a, b);
      m[j] =
          max + (max > Double.NEGATIVE_INFINITY ? Math.log1p(Math.exp(Math.min(a, b) - max)) : 0);
    }
    return m;
  }

  /** The divergence, in nats. */
  public static double divergence(
      Divergence kind, double beta, double[] logPolicy, double[] logReference) {
    return switch (kind) {
      case FORWARD_KL -> kl(logReference, logPolicy);
      case REVERSE_KL -> kl(logPolicy, logReference);
      case JSD -> {
        double[] logM = logMixture(logPolicy, logReference, beta);
        yield beta * kl(logReference, logM) + (1 - beta) * kl(logPolicy, logM);
      }
    };
  }

  /**
   * ∂divergence/∂logits: the derivative with respect to each probability, through the Jacobian of
   * the softmax.
   */
  public static double[] gradient(
      Divergence kind, double beta, double temperature, double[] logPolicy, double[] logReference) {
    double[] logM = logMixture(logPolicy, logReference, beta);
    int n = logPolicy.length;
    double[] h = new double[n];
    for (int j = 0; j < n; j++) {
      if (logPolicy[j] == Double.NEGATIVE_INFINITY) {
        continue;
      }
      double logRatio = logPolicy[j] - logReference[j];
      h[j] =
          switch (kind) {
            case FORWARD_KL -> -Math.exp(-logRatio);
            case REVERSE_KL -> logRatio + 1;
            case JSD -> {
              double policyOverM = Math.exp(logPolicy[j] - logM[j]);
              double referenceOverM = Math.exp(logReference[j] - logM[j]);
              yield -beta * (1 - beta) * referenceOverM
                  + (1 - beta) * (logPolicy[j] - logM[j] + 1 - (1 - beta) * policyOverM);
            }
          };
    }
    double mean = IntStream.range(0, n).mapToDouble(j -> Math.exp(logPolicy[j]) * h[j]).sum();
    for (int j = 0; j < n; j++) {
      h[j] = Math.exp(logPolicy[j]) * (h[j] - mean) / temperature;
    }
    return h;
  }
}
