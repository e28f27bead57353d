package dev.saccade.benchmarks;

import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.GradNorm;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import java.util.List;
import java.util.SplittableRandom;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/**
 * Log-probabilities with entropy and log-normaliser of Qwen2.5-VL's vocabulary, and the ceiling: a
 * threaded read of the same bytes, which is what a sum of squares is.
 *
 * <p>The logits of 256 rows take 156 MB as f32, more than any cache holds. They are normal, never
 * zeros.
 */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 2)
@Fork(
    value = 1,
    jvmArgsAppend = {
      "--enable-native-access=ALL-UNNAMED",
      "-Dorg.bytedeco.javacpp.maxPhysicalBytes=0"
    })
public class TokenLogProbsBenchmark {
  @Param("256")
  private int rows;

  @Param("151936")
  private int vocabulary;

  @Param({"F32", "BF16"})
  private DType dtype;

  private Context context;
  private dev.saccade.Scope scope;
  private Tensor logits;
  private Tensor targets;
  private Tensor bytes;
  private Tensor dLogits;
  private Tensor ones;
  private TokenLogProbs.Outputs outputs;
  private GradNorm.Outputs norm;

  /** Fills the logits. */
  @Setup
  public void setUp() {
    context = Context.cpu();
    scope = context.scope();
    logits = Tensor.empty(scope, dtype, rows, vocabulary);
    SplittableRandom random = new SplittableRandom(1);
    float[] row = new float[vocabulary];
    int[] target = new int[rows];
    float[] one = new float[rows];
    for (int r = 0; r < rows; r++) {
      for (int v = 0; v < vocabulary; v++) {
        row[v] = (float) (2 * random.nextGaussian());
      }
      logits.rows(r, r + 1).copyFrom(row);
      target[r] = random.nextInt(vocabulary);
      one[r] = 1;
    }
    targets = Tensor.of(scope, target);
    ones = Tensor.of(scope, one);
    dLogits = Tensor.empty(scope, dtype, rows, vocabulary);
    outputs =
        new TokenLogProbs.Outputs(
            Tensor.empty(scope, DType.F32, rows),
            Tensor.empty(scope, DType.F32, rows),
            Tensor.empty(scope, DType.F32, rows));
    long words = logits.size() * dtype.bytes() / DType.F32.bytes();
    bytes = Tensor.wrap(scope, logits.address(), logits, DType.F32, words);
    norm = new GradNorm.Outputs(Tensor.empty(scope, DType.F32, 1), null);
  }

  /** Frees everything. */
  @TearDown
  public void tearDown() {
    scope.close();
    context.close();
  }

  /** One read of the logits: log-probability, entropy, log-normaliser. */
  @Benchmark
  public Tensor forward() {
    TokenLogProbs.forward(context, logits, targets, TokenLogProbs.Options.DEFAULT, outputs);
    return outputs.logProb();
  }

  /** The gradient: two reads and a write. */
  @Benchmark
  public Tensor backward() {
    TokenLogProbs.backward(
        context, logits, targets, TokenLogProbs.Options.DEFAULT, ones, null, dLogits);
    return dLogits;
  }

  /**
   * The ceiling of {@link #forward}: the same bytes read by the same threads, summed as squares.
   */
  @Benchmark
  public Tensor read() {
    GradNorm.forward(context, List.of(bytes), GradNorm.Options.DEFAULT, norm);
    return norm.norm();
  }
}
