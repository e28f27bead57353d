package dev.saccade.benchmarks;

import dev.saccade.DType;
import java.util.SplittableRandom;

/**
 * What a policy loss reads besides the log-probabilities, for sequences of one length. The loss is
 * GRPO's: PPO_CLIP at 0.2, TOKEN_MEAN, K3 with coefficient 0.04.
 *
 * @param oldLogProb [sequences·length]
 * @param refLogProb [sequences·length]
 * @param advantage [sequences·length]
 * @param mask [sequences·length]
 */
public record PolicyBatch(
    int sequences,
    int length,
    float[] oldLogProb,
    float[] refLogProb,
    float[] advantage,
    byte[] mask) {
  public static final float CLIP = 0.2f;
  public static final float KL_COEF = 0.04f;

  /** Old and reference policies around {@code logProb}; that share of the rows is active. */
  static PolicyBatch around(float[] logProb, int sequences, double active) {
    float[] old = Data.near(11, logProb, 0.1);
    for (int i = 0; i < old.length; i++) {
      // At a bound itself engines may round to either side of it.
      double fromBound = Math.abs(Math.abs(Math.expm1(logProb[i] - old[i])) - CLIP);
      if (fromBound < 1e-4) {
        old[i] = logProb[i];
      }
    }
    byte[] mask = new byte[logProb.length];
    SplittableRandom random = new SplittableRandom(14);
    for (int i = 0; i < mask.length; i++) {
      mask[i] = (byte) (random.nextDouble() < active ? 1 : 0);
    }
    return new PolicyBatch(
        sequences,
        logProb.length / sequences,
        old,
        Data.near(12, logProb, 0.1),
        Data.normal(13, logProb.length, 0.5, 1),
        mask);
  }

  /** Number of rows. */
  public int rows() {
    return oldLogProb.length;
  }

  /** The mask as numbers. */
  public float[] floatMask() {
    float[] values = new float[mask.length];
    for (int i = 0; i < values.length; i++) {
      values[i] = mask[i];
    }
    return values;
  }

  /** Bytes of all four, and of the offsets. */
  static Workload read(Workload workload, long rows, long sequences) {
    return workload.reads(3 * rows).reads(rows, DType.U8).reads(sequences + 1, DType.I32);
  }
}
