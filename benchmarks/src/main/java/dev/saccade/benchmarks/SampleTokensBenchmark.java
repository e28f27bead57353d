package dev.saccade.benchmarks;

import dev.saccade.DType;
import dev.saccade.SampleTokens;
import java.util.List;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/**
 * Draws of a token a row by the inverse of the cumulative distribution. Saccade makes its uniform
 * numbers itself; the others get the same ones.
 */
public class SampleTokensBenchmark extends LogitsBenchmark {
  static final int SEED = 20_260_101;

  @Param("1")
  private float temperature;

  /** 0 for all tokens. */
  @Param("0")
  private float topP;

  /** Logits and the uniform number of each row. */
  public record Inputs(LogitsBenchmark.Inputs logits, float[] uniform) {}

  @Override
  protected Workload workload(String method) {
    Workload workload =
        Workload.of(
                "sample_tokens",
                shape(),
                engine -> engine.sampleTokens(new Inputs(inputs(), uniforms(rows()))))
            .reads(size(), dtype())
            .writes(rows(), DType.I32);
    if (temperature == 1 && topP == 0) {
      return workload;
    }
    var options = new SampleTokens.Options(temperature, SEED, 0).withTopP(topP);
    return workload.variant(
        workload.name() + " at temperature " + temperature + (topP == 0 ? "" : " top_p " + topP),
        engine -> engine.sampleTokens(inputs(), options));
  }

  private static float[] uniforms(int rows) {
    float[] uniform = new float[rows];
    for (int r = 0; r < rows; r++) {
      uniform[r] = (float) uniform(r);
    }
    return uniform;
  }

  /** Philox4x32-10 at key (SEED, 0), counter (0, 0, stream, 0), as the operation defines it. */
  private static double uniform(int stream) {
    int[] c = {0, 0, stream, 0};
    int k0 = SEED;
    int k1 = 0;
    for (int round = 0; round < 10; round++) {
      long p0 = 0xd2511f53L * Integer.toUnsignedLong(c[0]);
      long p1 = 0xcd9e8d57L * Integer.toUnsignedLong(c[2]);
      c =
          new int[] {
            (int) (p1 >>> 32) ^ c[1] ^ k0, (int) p1, (int) (p0 >>> 32) ^ c[3] ^ k1, (int) p0
          };
      k0 += 0x9e3779b9;
      k1 += 0xbb67ae85;
    }
    return (((long) c[1] << 32 | Integer.toUnsignedLong(c[0])) >>> 11) * 0x1p-53;
  }

  /**
   * The number in the token's share of the cumulative distribution that is nearest to the row's
   * uniform number: that number itself where the token is right, near it where sums in f32 led to a
   * neighbour. Nothing for a nucleus.
   */
  @Override
  protected List<float[]> comparable(List<float[]> results) {
    if (topP > 0) {
      return List.of();
    }
    LogitsBenchmark.Inputs in = inputs();
    int drawn = in.logits().length / in.vocabulary();
    float[] uniform = uniforms(in.rows());
    float[] nearest = new float[in.rows()];
    for (int r = 0; r < in.rows(); r++) {
      int token = (int) results.get(0)[r];
      double below = 0;
      double own = 0;
      double above = 0;
      for (int v = 0; v < in.vocabulary(); v++) {
        double e = Math.exp(in.logits()[r % drawn * in.vocabulary() + v] / temperature);
        if (v < token) {
          below += e;
        } else if (v == token) {
          own = e;
        } else {
          above += e;
        }
      }
      double sum = below + own + above;
      nearest[r] = (float) Math.max(below / sum, Math.min(uniform[r], (below + own) / sum));
    }
    return List.of(nearest);
  }

  /** One token a row. */
  @Benchmark
  public Object forward() {
    return run();
  }
}
