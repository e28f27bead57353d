package dev.saccade.reference;

/** {@code gradient_moments} in double precision, from its definition: two passes over samples. */
public final class GradientMomentsReference {
  /** Mean of the samples, element by element. */
  public final double[] mean;

  /** Σ (x − mean)², element by element. */
  public final double[] m2;

  private final int count;

  /**
   * @param samples at least one, all of one length
   */
  public GradientMomentsReference(double[][] samples) {
    count = samples.length;
    mean = new double[samples[0].length];
    m2 = new double[mean.length];
    for (int i = 0; i < mean.length; i++) {
      for (double[] sample : samples) {
        mean[i] += sample[i] / count;
      }
      for (double[] sample : samples) {
        m2[i] += (sample[i] - mean[i]) * (sample[i] - mean[i]);
      }
    }
  }

  /** ‖mean‖² of elements from … to−1. */
  public double meanSq(int from, int to) {
    double sum = 0;
    for (int i = from; i < to; i++) {
      sum += mean[i] * mean[i];
    }
    return sum;
  }

  /** Trace of the covariance of elements from … to−1. */
  public double trace(int from, int to) {
    double sum = 0;
    for (int i = from; i < to; i++) {
      sum += m2[i] / (count - 1);
    }
    return sum;
  }

  /** ‖E g‖² of elements from … to−1, without bias. */
  public double signal(int from, int to) {
    return meanSq(from, to) - trace(from, to) / count;
  }
}
