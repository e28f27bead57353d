package dev.saccade.reference;

/** {@code adamw} in double precision, from its definition; one weight. */
public final class AdamWReference {
  /** The weight and its moments; updated by {@link #step}. */
  public double param;

  /** First moment. */
  public double m;

  /** Second moment. */
  public double v;

  public AdamWReference(double param, double m, double v) {
    this.param = param;
    this.m = m;
    this.v = v;
  }

  /** One step with the gradient {@code g}. */
  public void step(
      double g, double lr, double beta1, double beta2, double eps, double decay, long step) {
    m = beta1 * m + (1 - beta1) * g;
    v = beta2 * v + (1 - beta2) * g * g;
    double mHat = m / (1 - Math.pow(beta1, step));
    double vHat = v / (1 - Math.pow(beta2, step));
    param = param * (1 - lr * decay) - lr * mHat / (Math.sqrt(vHat) + eps);
  }
}
