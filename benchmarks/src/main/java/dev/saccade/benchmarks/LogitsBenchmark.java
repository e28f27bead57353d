package dev.saccade.benchmarks;

import dev.saccade.DType;
import org.openjdk.jmh.annotations.Param;

/**
 * Operations on logits of Qwen2.5-VL's vocabulary: those of 256 rows take 156 MB as f32, more than
 * any cache holds.
 */
public abstract class LogitsBenchmark extends OperationBenchmark {
  private static final double DEVIATION = 2;

  @Param("256")
  private int rows;

  @Param("151936")
  private int vocabulary;

  @Param("F32")
  private DType dtype;

  /** Rows of logits that differ, 0 for all; those after them repeat them. */
  @Param("0")
  private int distinctRows;

  /**
   * @param logits [rows, vocabulary], or the first rows of it, which repeat; values that dtype
   *     holds
   * @param targets [rows]
   * @param weights [rows]: of a row's divergence, or d_log_prob
   */
  public record Inputs(
      int rows, int vocabulary, DType dtype, float[] logits, int[] targets, float[] weights) {
    /** Logits of another policy, near these. */
    public float[] refLogits() {
      return Data.rounded(dtype, Data.near(4, logits, 0.5));
    }

    /** About what the log-probabilities of the targets are. */
    float[] nearLogProb() {
      float[] logProb = new float[rows];
      for (int r = 0; r < rows; r++) {
        int row = r % (logits.length / vocabulary);
        float target = logits[row * vocabulary + targets[r]];
        logProb[r] = (float) (target - Math.log(vocabulary) - DEVIATION * DEVIATION / 2);
      }
      return logProb;
    }
  }

  @Override
  protected final DType dtype() {
    return dtype;
  }

  protected final int rows() {
    return rows;
  }

  @Override
  protected String extent() {
    return "rows";
  }

  protected final Inputs inputs() {
    int drawn = distinctRows == 0 ? rows : Math.min(rows, distinctRows);
    return new Inputs(
        rows,
        vocabulary,
        dtype,
        Data.rounded(dtype, Data.normal(1, (long) drawn * vocabulary, DEVIATION)),
        Data.indices(2, rows, vocabulary),
        Data.normal(3, rows, 1, 0.3));
  }

  /** Elements of the logits. */
  protected final long size() {
    return (long) rows * vocabulary;
  }

  protected final String shape() {
    return "%d × %d".formatted(rows, vocabulary);
  }
}
