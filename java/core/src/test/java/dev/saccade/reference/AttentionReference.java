package dev.saccade.reference;

/**
 * {@code attention} in double precision, from its definition: one row of one head after another.
 *
 * <p>Tensors are dense: q, o [rows, heads, dim], k, v [keys, key heads, dim], lse [heads, rows].
 */
public final class AttentionReference {
  private AttentionReference() {}

  /**
   * Sizes of a problem.
   *
   * @param lengthsK keys of each region that count, or null for all of them
   */
  public record Shape(
      int[] offsetsQ,
      int[] offsetsK,
      int[] lengthsK,
      int heads,
      int kvHeads,
      int dim,
      double scale) {
    int rows() {
      return offsetsQ[offsetsQ.length - 1];
    }

    /** The key head that a query head reads. */
    int kv(int head) {
      return head / (heads / kvHeads);
    }

    /** Keys that row i of sequence s sees: the first ones. */
    int visible(int s, int i) {
      int keys = lengthsK == null ? offsetsK[s + 1] - offsetsK[s] : lengthsK[s];
      return Math.max(0, keys - (offsetsQ[s + 1] - offsetsQ[s]) + i + 1);
    }
  }

  /** Results of the forward pass. */
  public record Forward(double[] o, double[] lse) {}

  /** Gradients of Σ dO·o. */
  public record Gradients(double[] dq, double[] dk, double[] dv) {}

  private interface Row {
    /**
     * @param q where the row's query begins, in q and o
     * @param k where the sequence's first key begins, in k and v; a key is {@code step} further
     * @param p probabilities of the visible keys
     */
    void accept(int q, int k, int step, double[] p);
  }

  private static double[] scores(Shape shape, double[] q, double[] k, int at, int from, int n) {
    double[] scores = new double[n];
    for (int j = 0; j < n; j++) {
      for (int d = 0; d < shape.dim; d++) {
        scores[j] += q[at + d] * k[from + j * shape.kvHeads * shape.dim + d];
      }
      scores[j] *= shape.scale;
    }
    return scores;
  }

  private static void forRows(Shape shape, double[] q, double[] k, double[] lse, Row body) {
    for (int s = 0; s + 1 < shape.offsetsQ.length; s++) {
      for (int row = shape.offsetsQ[s]; row < shape.offsetsQ[s + 1]; row++) {
        int n = shape.visible(s, row - shape.offsetsQ[s]);
        for (int h = 0; h < shape.heads; h++) {
          int at = (row * shape.heads + h) * shape.dim;
          int from = (shape.offsetsK[s] * shape.kvHeads + shape.kv(h)) * shape.dim;
          double[] p = scores(shape, q, k, at, from, n);
          double normaliser = n == 0 ? Double.NEGATIVE_INFINITY : TokenLogProbsReference.lse(p);
          for (int j = 0; j < n; j++) {
            p[j] = Math.exp(p[j] - normaliser);
          }
          lse[h * shape.rows() + row] = normaliser;
          body.accept(at, from, shape.kvHeads * shape.dim, p);
        }
      }
    }
  }

  public static Forward forward(Shape shape, double[] q, double[] k, double[] v) {
    double[] o = new double[q.length];
    double[] lse = new double[shape.heads * shape.rows()];
    forRows(
        shape,
        q,
        k,
        lse,
        (at, from, step, p) -> {
          for (int j = 0; j < p.length; j++) {
            for (int d = 0; d < shape.dim; d++) {
              o[at + d] += p[j] * v[from + j * step + d];
            }
          }
        });
    return new Forward(o, lse);
  }

  /** By the chain rule through the softmax; a test holds it against differences of the forward. */
  public static Gradients backward(Shape shape, double[] q, double[] k, double[] v, double[] dO) {
    double[] dq = new double[q.length];
    double[] dk = new double[k.length];
    double[] dv = new double[v.length];
    forRows(
        shape,
        q,
        k,
        new double[shape.heads * shape.rows()],
        (at, from, step, p) -> {
          double[] dp = new double[p.length];
          double mean = 0;
          for (int j = 0; j < p.length; j++) {
            for (int d = 0; d < shape.dim; d++) {
              dp[j] += dO[at + d] * v[from + j * step + d];
              dv[from + j * step + d] += p[j] * dO[at + d];
            }
            mean += p[j] * dp[j];
          }
          for (int j = 0; j < p.length; j++) {
            double ds = shape.scale * p[j] * (dp[j] - mean);
            for (int d = 0; d < shape.dim; d++) {
              dq[at + d] += ds * k[from + j * step + d];
              dk[from + j * step + d] += ds * q[at + d];
            }
          }
        });
    return new Gradients(dq, dk, dv);
  }
}
