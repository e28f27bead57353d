package dev.saccade.reference;

/** {@code rms_norm} in double precision, from its definition; one row. */
public final class RmsNormReference {
  private RmsNormReference() {}

  /** 1/√(mean(x²) + eps). */
  public static double rstd(double[] x, double eps) {
    double sum = 0;
    for (double v : x) {
      sum += v * v;
    }
    return 1 / Math.sqrt(sum / x.length + eps);
  }

  /** x · rstd · weight. */
  public static double[] forward(double[] x, double[] weight, double eps) {
    double rstd = rstd(x, eps);
    double[] y = new double[x.length];
    for (int j = 0; j < y.length; j++) {
      y[j] = x[j] * rstd * weight[j];
    }
    return y;
  }

  /** Gradient with respect to x of Σ dy·y, from the derivative of rstd: -rstd³·x/C. */
  public static double[] dx(double[] x, double[] weight, double[] dy, double eps) {
    double rstd = rstd(x, eps);
    double dot = 0;
    for (int j = 0; j < x.length; j++) {
      dot += dy[j] * weight[j] * x[j];
    }
    double[] dx = new double[x.length];
    for (int j = 0; j < dx.length; j++) {
      dx[j] = dy[j] * weight[j] * rstd - dot * rstd * rstd * rstd * x[j] / x.length;
    }
    return dx;
  }

  /** Gradient with respect to the weight of Σ dy·y. */
  public static double[] dWeight(double[] x, double[] dy, double eps) {
    double rstd = rstd(x, eps);
    double[] dWeight = new double[x.length];
    for (int j = 0; j < dWeight.length; j++) {
      dWeight[j] = dy[j] * x[j] * rstd;
    }
    return dWeight;
  }
}
