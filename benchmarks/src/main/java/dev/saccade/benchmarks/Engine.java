package dev.saccade.benchmarks;

import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Device;
import java.util.ArrayList;
import java.util.List;
import java.util.ServiceLoader;

/**
 * A library under measurement: prepares the work of each operation on tensors of its own.
 *
 * <p>Every method computes what docs/spec.md says, at the options that the operation's benchmark
 * names. Engines other than Saccade come from {@link Provider}s on the class path and are written
 * as a user of that library would.
 */
public interface Engine extends AutoCloseable {
  /** The name of Saccade's engine. */
  String SACCADE = "saccade";

  /** The names of those that benchmarks/peers has. */
  List<String> PEERS = List.of("djl", "nd4j");

  /** Makes an engine; found by {@link ServiceLoader}. */
  interface Provider {
    /** A word. */
    String name();

    /** Starts the library with that number of threads. */
    Engine open(int threads);
  }

  /** The engines on the class path, Saccade first. */
  static List<String> names() {
    List<String> names = new ArrayList<>(List.of(SACCADE));
    ServiceLoader.load(Provider.class).stream()
        .map(p -> p.get().name())
        .sorted()
        .forEach(names::add);
    return names;
  }

  /**
   * Opens an engine by its name.
   *
   * @param device only Saccade has other than the CPU
   * @param threads on the CPU
   * @param dtype type of the tensors that may be of 16 bits; only Saccade has other than F32
   * @throws IllegalArgumentException if there is no such engine
   */
  static Engine open(String name, Device device, int threads, DType dtype) {
    boolean cpu = device.kind() == Device.Kind.CPU;
    if (name.equals(SACCADE)) {
      return new SaccadeEngine(
          Context.builder().device(device).threads(cpu ? threads : 0).build(), dtype);
    }
    if (!cpu || dtype != DType.F32) {
      throw new IllegalArgumentException(
          name + " is measured on the CPU with f32, not on " + device + " with " + dtype);
    }
    return ServiceLoader.load(Provider.class).stream()
        .map(ServiceLoader.Provider::get)
        .filter(provider -> provider.name().equals(name))
        .findFirst()
        .orElseThrow(
            () -> new IllegalArgumentException("no engine " + name + ", there are " + names()))
        .open(threads);
  }

  /** Threads that the library says it computes with. */
  int threads();

  /** Asks for them again: other users of a library that this one uses may have changed them. */
  default void restoreThreads() {}

  @Override
  void close();

  // The results are those named after the arrow, in that order.

  /** §1, GRPO → advantage, mean, std. */
  Work groupAdvantage(GroupAdvantageBenchmark.Inputs in);

  /** §2 → log_prob, entropy, lse. */
  Work tokenLogProbs(LogitsBenchmark.Inputs in);

  /** §2 and its gradient → log_prob, d_logits of Σ d_log_prob·log_prob. */
  Work tokenLogProbsGradient(LogitsBenchmark.Inputs in);

  /** §3, K3 → kl, d_log_prob. */
  Work sampledKl(SampledKlBenchmark.Inputs in);

  /** §4, JSD, β = ½, with weights → divergence, d_logits. */
  Work logitDivergence(LogitsBenchmark.Inputs in);

  /** §5 → loss, d_log_prob. */
  Work policyLoss(PolicyBatch batch, float[] logProb);

  /** §6 → loss, log_prob, d_logits. */
  Work policyLossFromLogits(LogitsBenchmark.Inputs in, PolicyBatch batch);

  /** §7 → loss, log_prob, d_hidden, d_weight. */
  Work linearPolicyLoss(LinearPolicyLossBenchmark.Inputs in);

  /** §8, PREVIOUS, MEAN → entropy, mass, lse, map. */
  Work attentionPolicy(AttentionInputs in);

  /** §8, JSD, β = ½, against a stored map → loss, dq, dk. */
  Work attentionDivergence(AttentionInputs in);

  /** §10, in place → the weights. */
  Work adamW(AdamWBenchmark.Inputs in);

  /** §10 → norm, scale. */
  Work gradNorm(float[][] gradients);

  /** §11, update, in place → mean, m2. */
  Work gradientMoments(GradientMomentsBenchmark.Inputs in);

  /** → A·B. */
  Work gemm(GemmBenchmark.Inputs in);

  /** → y. */
  Work rmsNorm(RmsNormBenchmark.Inputs in);

  /** → y, dx, d_weight. */
  Work rmsNormGradient(RmsNormBenchmark.Inputs in);

  /** → y. */
  Work swiGlu(SwiGluBenchmark.Inputs in);

  /** → y, dx. */
  Work swiGluGradient(SwiGluBenchmark.Inputs in);

  /** → o. */
  Work attention(AttentionInputs in);

  /** → o, dq, dk, dv. */
  Work attentionGradient(AttentionInputs in);

  /** By the uniform number of each row → the tokens, as floats. */
  Work sampleTokens(SampleTokensBenchmark.Inputs in);

  /** → the rows of x that the index names. */
  Work gatherRows(RowsInputs in);

  /** In place → y. */
  Work scatterAddRows(RowsInputs in);

  /** y = a·x + b·y, in place → y. */
  Work axpby(AxpbyBenchmark.Inputs in);

  /** y = x → y. */
  Work copy(AxpbyBenchmark.Inputs in);
}
