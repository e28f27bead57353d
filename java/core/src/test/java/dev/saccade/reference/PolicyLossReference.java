package dev.saccade.reference;

import dev.saccade.PolicyLoss.Metrics;
import dev.saccade.PolicyLoss.Objective;
import dev.saccade.PolicyLoss.Options;

/**
 * {@code policy_loss} in double precision: token losses from their definition, gradients by central
 * differences of the loss, with detached quantities held at the point of evaluation.
 */
public final class PolicyLossReference {
  private static final double H = 1e-5;

  private final double[] logProb;
  private final double[] oldLogProb;
  private final double[] refLogProb;
  private final double[] advantage;
  private final boolean[] active;
  private final double[] isWeight;
  private final int[] offsets;
  private final Options options;
  private final int[] sequenceOf;
  private final int[] activeOf;
  private final int activeRows;

  /**
   * Per-row arrays, {@code advantage} included; {@code mask}, {@code ref} and {@code weight} may be
   * null.
   */
  public PolicyLossReference(
      float[] logProb,
      float[] old,
      float[] ref,
      float[] advantage,
      byte[] mask,
      float[] weight,
      int[] offsets,
      Options options) {
    this(doubles(logProb), old, ref, advantage, mask, weight, offsets, options);
  }

  /** With the policy's log-probabilities in double precision. */
  public PolicyLossReference(
      double[] logProb,
      float[] old,
      float[] ref,
      float[] advantage,
      byte[] mask,
      float[] weight,
      int[] offsets,
      Options options) {
    int rows = logProb.length;
    this.logProb = logProb;
    this.oldLogProb = doubles(old);
    this.refLogProb = ref == null ? new double[rows] : doubles(ref);
    this.advantage = doubles(advantage);
    this.offsets = offsets;
    this.options = options;
    active = new boolean[rows];
    isWeight = new double[rows];
    sequenceOf = new int[rows];
    activeOf = new int[offsets.length - 1];
    int all = 0;
    for (int s = 0; s + 1 < offsets.length; s++) {
      for (int r = offsets[s]; r < offsets[s + 1]; r++) {
        sequenceOf[r] = s;
        active[r] = mask == null || mask[r] != 0;
        isWeight[r] = weight == null ? 1 : weight[r];
        activeOf[s] += active[r] ? 1 : 0;
      }
      all += activeOf[s];
    }
    activeRows = all;
  }

  private static double[] doubles(float[] x) {
    double[] y = new double[x.length];
    for (int i = 0; i < y.length; i++) {
      y[i] = x[i];
    }
    return y;
  }

  /** Mean log-ratio of a sequence with {@code h} added to the log-probability of {@code row}. */
  private double meanLogRatio(int s, int row, double h) {
    double sum = 0;
    for (int r = offsets[s]; r < offsets[s + 1]; r++) {
      if (active[r]) {
        sum += logProb[r] + (r == row ? h : 0) - oldLogProb[r];
      }
    }
    return sum / activeOf[s];
  }

  /**
   * The ratio that the objective uses for an active row, with {@code h} added to the
   * log-probability of {@code row}.
   */
  private double ratio(int r, int row, double h) {
    double moved = logProb[r] + (r == row ? h : 0);
    return switch (options.objective()) {
      case GSPO -> Math.exp(SampledKlReference.clamp(meanLogRatio(sequenceOf[r], row, h)));
      case GSPO_TOKEN ->
          Math.exp(SampledKlReference.clamp(meanLogRatio(sequenceOf[r], -1, 0)))
              * Math.exp(moved - logProb[r]);
      default -> Math.exp(SampledKlReference.clamp(moved - oldLogProb[r]));
    };
  }

  private double clip(double ratio) {
    return Math.max(
        1 - (double) options.clipLow(), Math.min(1 + (double) options.clipHigh(), ratio));
  }

  /** Token loss of an active row at a given ratio. */
  private double tokenLoss(int r, int row, double h, double ratio) {
    double l = logProb[r] + (r == row ? h : 0);
    double a = advantage[r];
    double loss =
        switch (options.objective()) {
          case CISPO -> -clip(ratio(r, -1, 0)) * a * l;
          case SAPO -> {
            double tau = a > 0 ? options.tauPos() : options.tauNeg();
            yield -4 / tau / (1 + Math.exp(-tau * (ratio - 1))) * a;
          }
          case REINFORCE -> -a * l;
          default -> {
            double first = options.delta() > 0 ? Math.min(ratio, options.delta()) : ratio;
            double t = Math.max(-first * a, -clip(ratio) * a);
            yield options.dualClip() > 0 && a < 0 ? Math.min(t, -options.dualClip() * a) : t;
          }
        };
    loss *= isWeight[r];
    if (options.klCoef() != 0) {
      loss +=
          options.klCoef()
              * klRatio(r, l)
              * SampledKlReference.surrogate(options.klEstimator(), l, logProb[r], refLogProb[r]);
    }
    return loss;
  }

  /** What the KL term of a row is multiplied by where its log-probability is {@code l}. */
  private double klRatio(int r, double l) {
    return options.klImportanceCorrected()
        ? Math.exp(SampledKlReference.clamp(l - oldLogProb[r]))
        : 1;
  }

  /** Value of the KL estimator in every row, 0 where it is not active. */
  public double[] kl() {
    double[] kl = new double[logProb.length];
    for (int r = 0; r < kl.length; r++) {
      if (active[r]) {
        kl[r] =
            klRatio(r, logProb[r])
                * SampledKlReference.value(options.klEstimator(), logProb[r], refLogProb[r]);
      }
    }
    return kl;
  }

  /** Weight of row {@code r} in the loss, 0 where it is not active. */
  public double rowWeight(int r) {
    return active[r] ? weight(sequenceOf[r]) : 0;
  }

  /** Weight of the active rows of a sequence. */
  private double weight(int s) {
    boolean normalized = options.normalizer() > 0;
    double sequences = normalized ? options.normalizer() : offsets.length - 1;
    return switch (options.aggregation()) {
      case TOKEN_MEAN -> 1.0 / (normalized ? options.normalizer() : activeRows);
      case SEQ_MEAN_TOKEN_MEAN -> 1 / (activeOf[s] * sequences);
      case SEQ_MEAN_TOKEN_SUM -> 1 / sequences;
      case CONSTANT -> 1.0 / (normalized ? options.normalizer() : options.constant());
    };
  }

  /** Loss of every row, 0 where it is not active. */
  public double[] tokenLoss() {
    double[] loss = new double[logProb.length];
    double[] shared = sequenceRatios();
    for (int r = 0; r < loss.length; r++) {
      loss[r] = active[r] ? tokenLoss(r, -1, 0, ratioOf(r, shared)) : 0;
    }
    return loss;
  }

  /** The scalar loss. */
  public double loss() {
    double[] tokens = tokenLoss();
    double loss = 0;
    for (int r = 0; r < tokens.length; r++) {
      loss += active[r] ? weight(sequenceOf[r]) * tokens[r] : 0;
    }
    return loss;
  }

  /** Derivative of the loss by the log-probability of {@code row}. */
  public double gradient(int row) {
    if (!active[row]) {
      return 0;
    }
    int s = sequenceOf[row];
    boolean whole = options.objective() == Objective.GSPO;
    double[] side = new double[2];
    for (int i = 0; i < 2; i++) {
      double h = i == 0 ? -H : H;
      double ratio = ratio(row, row, h);
      if (whole) {
        for (int r = offsets[s]; r < offsets[s + 1]; r++) {
          side[i] += active[r] ? tokenLoss(r, row, h, ratio) : 0;
        }
      } else {
        side[i] = tokenLoss(row, row, h, ratio);
      }
    }
    return weight(s) * (side[1] - side[0]) / (2 * H);
  }

  /**
   * All metrics; a row counts as clipped where a change of its ratio does not change its loss, or
   * for CISPO outside.
   */
  public Metrics metrics() {
    double low = 0;
    double high = 0;
    double ratios = 0;
    double kl = 0;
    double loss = 0;
    double largest = 0;
    double[] shared = sequenceRatios();
    for (int r = 0; r < logProb.length; r++) {
      if (!active[r]) {
        continue;
      }
      double ratio = ratioOf(r, shared);
      boolean clipped =
          switch (options.objective()) {
            case SAPO, REINFORCE -> false;
            case CISPO -> clip(ratio) != ratio;
            default ->
                advantage[r] != 0
                    && tokenLoss(r, -1, 0, ratio) == tokenLoss(r, -1, 0, ratio * (1 + 1e-9));
          };
      low += clipped && ratio < 1 ? 1 : 0;
      high += clipped && ratio > 1 ? 1 : 0;
      ratios += ratio;
      if (options.klCoef() != 0) {
        kl +=
            klRatio(r, logProb[r])
                * SampledKlReference.value(options.klEstimator(), logProb[r], refLogProb[r]);
      }
      loss += tokenLoss(r, -1, 0, ratio);
      largest = Math.max(largest, Math.abs(logProb[r] - oldLogProb[r]));
    }
    double n = Math.max(1, activeRows);
    return new Metrics(
        (float) (low / n),
        (float) (high / n),
        (float) (ratios / n),
        (float) (kl / n),
        (float) (loss / n),
        activeRows,
        (float) largest);
  }

  /** Ratio of each sequence; NaN where the objective has one for each row. */
  private double[] sequenceRatios() {
    double[] ratios = new double[activeOf.length];
    for (int s = 0; s < ratios.length; s++) {
      boolean shared =
          options.objective() == Objective.GSPO || options.objective() == Objective.GSPO_TOKEN;
      ratios[s] = shared ? Math.exp(SampledKlReference.clamp(meanLogRatio(s, -1, 0))) : Double.NaN;
    }
    return ratios;
  }

  private double ratioOf(int r, double[] shared) {
    double ratio = shared[sequenceOf[r]];
    return Double.isNaN(ratio) ? ratio(r, -1, 0) : ratio;
  }
}
