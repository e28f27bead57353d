package dev.saccade.reference;

import dev.saccade.AttentionPolicy.Reduction;
import dev.saccade.AttentionPolicy.Support;
import dev.saccade.Divergence;
import java.util.Arrays;
import java.util.function.DoubleUnaryOperator;

/**
 * {@code attention_policy} and {@code attention_divergence} in double precision, from their
 * definition: one row after another. Gradients are central differences of the loss; the formula of
 * the gradient is here for policies so sharp that the gradient drowns in the rounding of
 * differences.
 */
public final class AttentionPolicyReference {
  /** Below this a policy is dead. */
  private static final double DEAD = 1e-20;

  /** Logarithms are taken no lower. */
  private static final double FLOOR = 0x1p-126;

  private AttentionPolicyReference() {}

  /**
   * Packed sequences and what their policies are over.
   *
   * @param ranges [begin, end) of each sequence, flat, for RANGES
   */
  public record Rows(
      int[] offsetsQ, int[] offsetsK, Support support, int[] ranges, Reduction reduction) {
    /** Rows of all sequences. */
    public int count() {
      return offsetsQ[offsetsQ.length - 1];
    }

    /** The sequence of a row. */
    public int sequence(int row) {
      int s = 0;
      while (row >= offsetsQ[s + 1]) {
        s++;
      }
      return s;
    }

    /** Keys of the sequence of a row. */
    public int keys(int row) {
      int s = sequence(row);
      return offsetsK[s + 1] - offsetsK[s];
    }

    /** Keys that a row sees: the first ones. */
    public int visible(int row) {
      int s = sequence(row);
      return Math.max(0, keys(row) - (offsetsQ[s + 1] - row) + 1);
    }

    /** Whether key j of the sequence is in the support of a row. */
    public boolean supports(int row, int j) {
      int n = visible(row);
      return switch (support) {
        case ALL -> j < n;
        case PREVIOUS -> j < n - 1;
        case RANGES -> {
          int s = sequence(row);
          yield j < n && j >= ranges[2 * s] && j < ranges[2 * s + 1];
        }
      };
    }
  }

  /** Queries and keys, dense: q [rows, heads, dim], k [keys, key heads, dim]. */
  public record Side(
      double[] q,
      double[] k,
      int heads,
      int kvHeads,
      int dim,
      double scale,
      int headBegin,
      int headEnd) {
    /** Scaled scores of a row with the keys that it sees, by head. */
    double[][] scores(Rows rows, int row) {
      int first = rows.offsetsK[rows.sequence(row)];
      double[][] scores = new double[heads][rows.visible(row)];
      for (int h = 0; h < heads; h++) {
        for (int j = 0; j < scores[h].length; j++) {
          int at = ((first + j) * kvHeads + h / (heads / kvHeads)) * dim;
          for (int d = 0; d < dim; d++) {
            scores[h][j] += q[(row * heads + h) * dim + d] * k[at + d];
          }
          scores[h][j] *= scale;
        }
      }
      return scores;
    }

    /** Log-normaliser of a head of a row. */
    public double lse(Rows rows, int row, int head) {
      double[] scores = scores(rows, row)[head];
      return scores.length == 0 ? Double.NEGATIVE_INFINITY : TokenLogProbsReference.lse(scores);
    }

    /** The policies of a row: one, or one for each head. */
    public Policy[] policies(Rows rows, int row) {
      return policies(rows, row, scores(rows, row));
    }

    private Policy[] policies(Rows rows, int row, double[][] scores) {
      int inRange = headEnd - headBegin;
      boolean mean = rows.reduction == Reduction.MEAN;
      Policy[] policies = new Policy[mean ? 1 : inRange];
      boolean[] supported = new boolean[rows.keys(row)];
      for (int j = 0; j < supported.length; j++) {
        supported[j] = rows.supports(row, j);
      }
      for (int part = 0; part < policies.length; part++) {
        int heads = mean ? inRange : 1;
        double[] p = new double[supported.length];
        double mass = 0;
        for (int h = headBegin + part; h < headBegin + part + heads; h++) {
          if (scores[h].length == 0) {
            continue;
          }
          double lse = TokenLogProbsReference.lse(scores[h]);
          for (int j = 0; j < scores[h].length; j++) {
            if (supported[j]) {
              p[j] += Math.exp(scores[h][j] - lse) / heads;
            }
          }
        }
        for (double x : p) {
          mass += x;
        }
        boolean dead = mass < DEAD;
        for (int j = 0; j < p.length; j++) {
          p[j] = dead ? 0 : p[j] / mass;
        }
        policies[part] = new Policy(dead ? null : p, dead ? 0 : mass);
      }
      return policies;
    }
  }

  /**
   * One policy.
   *
   * @param p over the keys of the sequence, 0 off the support; null where it is dead
   * @param mass what the support held
   */
  public record Policy(double[] p, double mass) {}

  /** What the policies of a row are compared with. */
  public interface Reference {
    /** Over the keys of the sequence; null where there is none. */
    double[] of(int row, int part);
  }

  /** A stored map of {@code ld} columns, restricted to the support; all-zero rows are none. */
  public static Reference map(Rows rows, double[] map, int ld) {
    return (row, part) -> {
      double[] r = new double[rows.keys(row)];
      double sum = 0;
      for (int j = 0; j < r.length; j++) {
        r[j] = rows.supports(row, j) ? map[row * ld + j] : 0;
        sum += r[j];
      }
      return sum == 0 ? null : r;
    };
  }

  /** The policies of other queries and keys. */
  public static Reference policy(Rows rows, Side side) {
    Policy[][] policies = new Policy[rows.count()][];
    for (int row = 0; row < policies.length; row++) {
      policies[row] = side.policies(rows, row);
    }
    return (row, part) -> policies[row][part].p();
  }

  /** A key of the sequence; none where it is -1 or off the support. */
  public static Reference index(Rows rows, int[] index) {
    return (row, part) -> {
      if (index[row] < 0 || !rows.supports(row, index[row])) {
        return null;
      }
      double[] r = new double[rows.keys(row)];
      r[index[row]] = 1;
      return r;
    };
  }

  /** KL(a ‖ b) of one element as a term that is never negative: Σa − Σb is taken away. */
  private static double klTerm(double a, double b) {
    return a * (Math.log(Math.max(a, FLOOR)) - Math.log(Math.max(b, FLOOR))) - a + b;
  }

  /** Divergence of r from p. */
  public static double divergence(Divergence kind, double beta, double[] r, double[] p) {
    double sum = 0;
    for (int j = 0; j < p.length; j++) {
      double m = beta * r[j] + (1 - beta) * p[j];
      sum +=
          switch (kind) {
            case JSD -> beta * klTerm(r[j], m) + (1 - beta) * klTerm(p[j], m);
            case FORWARD_KL -> klTerm(r[j], p[j]);
            case REVERSE_KL -> klTerm(p[j], r[j]);
          };
    }
    return sum;
  }

  /** Entropy in nats. */
  public static double entropy(double[] p) {
    double sum = 0;
    for (double x : p) {
      sum -= x * Math.log(Math.max(x, FLOOR));
    }
    return sum;
  }

  /** One loss: Σ weight·D − Σ entropyWeight·entropy. */
  public record Loss(
      Rows rows,
      Reference reference,
      Divergence kind,
      double beta,
      double[] weight,
      double[] entropyWeight) {
    /** Results, one a row. */
    public record Values(double loss, double[] divergence, double[] entropy, double[] mass) {}

    /** Gradients of the loss; dscoreSq is Σ over keys of squared gradients of scaled scores. */
    public record Gradients(double[] dq, double[] dk, double[] dscoreSq) {}

    /** Divergence, entropy and mass of a row. */
    private double[] row(Side side, int row, double[][] scores) {
      double[] sum = new double[3];
      Policy[] policies = side.policies(rows, row, scores);
      for (int part = 0; part < policies.length; part++) {
        double[] p = policies[part].p();
        if (p == null) {
          continue;
        }
        double[] r = reference.of(row, part);
        sum[0] += r == null ? 0 : divergence(kind, beta, r, p);
        sum[1] += entropy(p);
        sum[2] += policies[part].mass();
      }
      return Arrays.stream(sum).map(x -> x / policies.length).toArray();
    }

    private double rowLoss(Side side, int row, double[][] scores) {
      double[] values = row(side, row, scores);
      return weight[row] * values[0] - entropyWeight[row] * values[1];
    }

    /** The loss and what it is made of. */
    public Values values(Side side) {
      int n = rows.count();
      Values values = new Values(0, new double[n], new double[n], new double[n]);
      double loss = 0;
      for (int row = 0; row < n; row++) {
        double[] x = row(side, row, side.scores(rows, row));
        values.divergence[row] = x[0];
        values.entropy[row] = x[1];
        values.mass[row] = x[2];
        loss += weight[row] * x[0] - entropyWeight[row] * x[1];
      }
      return new Values(loss, values.divergence, values.entropy, values.mass);
    }

    /** Differences with respect to the scores, then the chain rule through the products. */
    public Gradients gradients(Side side) {
      double step = 1e-5;
      return throughProducts(
          side,
          (row, scores) -> {
            double[][] ds = new double[scores.length][scores[0].length];
            for (int h = side.headBegin; h < side.headEnd; h++) {
              for (int j = 0; j < scores[h].length; j++) {
                double score = scores[h][j];
                scores[h][j] = score + step;
                double up = rowLoss(side, row, scores);
                scores[h][j] = score - step;
                double down = rowLoss(side, row, scores);
                scores[h][j] = score;
                ds[h][j] = (up - down) / (2 * step);
              }
            }
            return ds;
          });
    }

    /** The formula of the gradient with respect to the scores, then the same chain rule. */
    public Gradients formula(Side side) {
      return formula(side, x -> x);
    }

    /** As {@link #formula(Side)}, with gradients of scores that are rounded before the products. */
    public Gradients formula(Side side, DoubleUnaryOperator rounding) {
      return throughProducts(
          side,
          (row, scores) -> {
            double[][] ds = scoreGradients(side, row, scores);
            for (double[] head : ds) {
              Arrays.setAll(head, j -> rounding.applyAsDouble(head[j]));
            }
            return ds;
          });
    }

    private double[][] scoreGradients(Side side, int row, double[][] scores) {
      double[][] ds = new double[scores.length][scores[0].length];
      Policy[] policies = side.policies(rows, row, scores);
      int heads = (side.headEnd - side.headBegin) / policies.length;
      for (int part = 0; part < policies.length; part++) {
        double[] p = policies[part].p();
        if (p == null) {
          continue;
        }
        double[] r = reference.of(row, part);
        double[] g = new double[scores[0].length];
        double mean = 0;
        for (int j = 0; j < g.length; j++) {
          double log = Math.log(Math.max(p[j], FLOOR));
          g[j] = entropyWeight[row] * log;
          if (r != null) {
            g[j] += weight[row] * derivative(r[j], p[j], log);
          }
          mean += p[j] * g[j];
        }
        for (int h = side.headBegin + part * heads; h < side.headBegin + (part + 1) * heads; h++) {
          double lse = TokenLogProbsReference.lse(scores[h]);
          double delta = 0;
          for (int j = 0; j < g.length; j++) {
            if (rows.supports(row, j)) {
              ds[h][j] = (g[j] - mean) / (policies[part].mass() * heads * policies.length);
            }
            delta += Math.exp(scores[h][j] - lse) * ds[h][j];
          }
          for (int j = 0; j < g.length; j++) {
            ds[h][j] = Math.exp(scores[h][j] - lse) * (ds[h][j] - delta);
          }
        }
      }
      return ds;
    }

    /** Derivative of the divergence with respect to p, but for a constant. */
    private double derivative(double r, double p, double log) {
      return switch (kind) {
        case JSD -> (1 - beta) * (log - Math.log(Math.max(beta * r + (1 - beta) * p, FLOOR)));
        case FORWARD_KL -> p < FLOOR ? 0 : -r / p;
        case REVERSE_KL -> log - Math.log(Math.max(r, FLOOR));
      };
    }

    private interface ScoreGradients {
      /** Gradients with respect to the scaled scores of a row, by head. */
      double[][] of(int row, double[][] scores);
    }

    private Gradients throughProducts(Side side, ScoreGradients scoreGradients) {
      double[] dq = new double[side.q.length];
      double[] dk = new double[side.k.length];
      double[] dscoreSq = new double[side.heads * rows.count()];
      int group = side.heads / side.kvHeads;
      for (int row = 0; row < rows.count(); row++) {
        double[][] ds = scoreGradients.of(row, side.scores(rows, row));
        int first = rows.offsetsK[rows.sequence(row)];
        for (int h = side.headBegin; h < side.headEnd; h++) {
          for (int j = 0; j < ds[h].length; j++) {
            dscoreSq[h * rows.count() + row] += ds[h][j] * ds[h][j];
            int atQ = (row * side.heads + h) * side.dim;
            int atK = ((first + j) * side.kvHeads + h / group) * side.dim;
            for (int d = 0; d < side.dim; d++) {
              dq[atQ + d] += side.scale * ds[h][j] * side.k[atK + d];
              dk[atK + d] += side.scale * ds[h][j] * side.q[atQ + d];
            }
          }
        }
      }
      return new Gradients(dq, dk, dscoreSq);
    }

    /** Difference of the whole loss with respect to element i of the queries or of the keys. */
    public double difference(Side side, boolean ofQueries, int i, double step) {
      double[] x = ofQueries ? side.q : side.k;
      int width = ofQueries ? side.heads * side.dim : side.kvHeads * side.dim;
      int[] offsets = ofQueries ? rows.offsetsQ : rows.offsetsK;
      int s = 0;
      while (i / width >= offsets[s + 1]) {
        s++;
      }
      double value = x[i];
      double difference = 0;
      // The rows of other sequences do not change.
      for (int row = rows.offsetsQ[s]; row < rows.offsetsQ[s + 1]; row++) {
        if (ofQueries && row != i / width) {
          continue;
        }
        x[i] = value + step;
        difference += rowLoss(side, row, side.scores(rows, row));
        x[i] = value - step;
        difference -= rowLoss(side, row, side.scores(rows, row));
      }
      x[i] = value;
      return difference / (2 * step);
    }
  }
}
