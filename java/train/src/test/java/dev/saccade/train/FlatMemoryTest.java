package dev.saccade.train;

import static org.assertj.core.api.Assertions.assertThat;

import dev.saccade.AdamW;
import dev.saccade.Attention;
import dev.saccade.AttentionDivergence;
import dev.saccade.AttentionPolicy;
import dev.saccade.Axpby;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.GatherRows;
import dev.saccade.Gemm;
import dev.saccade.GradNorm;
import dev.saccade.GradientMoments;
import dev.saccade.GroupAdvantage;
import dev.saccade.InvalidArgumentException;
import dev.saccade.LinearPolicyLoss;
import dev.saccade.LogitDivergence;
import dev.saccade.PolicyLoss;
import dev.saccade.PolicyLossFromLogits;
import dev.saccade.RmsNorm;
import dev.saccade.SampleTokens;
import dev.saccade.SampledKl;
import dev.saccade.ScatterAddRows;
import dev.saccade.Scope;
import dev.saccade.SwiGlu;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import dev.saccade.binding.Saccade;
import java.io.IOException;
import java.lang.reflect.Method;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.function.Consumer;
import org.bytedeco.javacpp.Pointer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Thousands of calls of every operation, those that are refused among them, keep no memory. */
class FlatMemoryTest {
  private static final int CALLS = 10_000;
  private static final int WARM_UP = 2_000;

  /**
   * What the JIT compiler and the allocator of the C library may still take; a leak of 840 bytes in
   * a round of all operations is more. Smaller ones show in the count of JavaCPP's blocks, and in
   * the native tests under the leak sanitizer.
   */
  private static final long SLACK = 8L << 20;

  @TempDir private Path folder;

  private static final int ROWS = 6;
  private static final int VOCABULARY = 33;

  private static final Random RANDOM = new Random(1);

  private static Tensor floats(Scope scope, long... shape) {
    float[] x = new float[(int) Arrays.stream(shape).reduce(1, (a, b) -> a * b)];
    for (int i = 0; i < x.length; i++) {
      x[i] = (float) RANDOM.nextGaussian();
    }
    return Tensor.of(scope, x, shape);
  }

  /** A call of every function of the ABI that takes an args struct, by the function's name. */
  private static Map<String, Consumer<Scope>> operations(Scope scope) {
    Context context = scope.context();
    Map<String, Consumer<Scope>> all = new TreeMap<>();
    Tensor logits = floats(scope, ROWS, VOCABULARY);
    Tensor other = floats(scope, ROWS, VOCABULARY);
    Tensor targets = Tensor.of(scope, RANDOM.ints(ROWS, 0, VOCABULARY).toArray());
    Tensor row = floats(scope, ROWS);
    Tensor old = floats(scope, ROWS);
    Tensor offsets = Tensor.of(scope, new int[] {0, 2, ROWS});
    Tensor square = floats(scope, ROWS, ROWS);
    Tensor wide = floats(scope, ROWS, 8);
    Tensor wideGradient = floats(scope, ROWS, 8);
    Tensor columns = floats(scope, 8);
    Tensor index = Tensor.of(scope, new int[] {3, 1, 0, 2, 5, 4});

    all.put(
        "group_advantage",
        s -> GroupAdvantage.forward(s, row, offsets, null, GroupAdvantage.Options.DEFAULT));
    all.put(
        "token_log_probs",
        s -> TokenLogProbs.forward(s, logits, targets, TokenLogProbs.Options.DEFAULT));
    all.put(
        "token_log_probs_backward",
        s ->
            TokenLogProbs.backward(
                context, logits, targets, TokenLogProbs.Options.DEFAULT, row, old, other));
    all.put("sampled_kl", s -> SampledKl.forward(s, row, old, null, SampledKl.Options.DEFAULT));
    all.put(
        "logit_divergence",
        s ->
            LogitDivergence.forward(
                s, LogitDivergence.Inputs.of(logits, other), LogitDivergence.Options.DEFAULT));
    var policy = PolicyLoss.Inputs.of(row, old, row, offsets);
    all.put("policy_loss", s -> PolicyLoss.forward(s, policy, PolicyLoss.Options.DEFAULT));
    var fromLogits = PolicyLoss.Inputs.of(null, old, row, offsets);
    all.put(
        "policy_loss_from_logits",
        s ->
            PolicyLossFromLogits.forward(
                s,
                new PolicyLossFromLogits.Inputs(logits, targets, fromLogits),
                PolicyLossFromLogits.Options.DEFAULT));
    Tensor weight = floats(scope, VOCABULARY, 8);
    all.put(
        "linear_policy_loss",
        s ->
            LinearPolicyLoss.forward(
                s,
                new LinearPolicyLoss.Inputs(wide, weight, targets, fromLogits),
                LinearPolicyLoss.Options.DEFAULT.withChunkRows(4)));

    Tensor q = floats(scope, ROWS, 4, 8);
    Tensor k = floats(scope, ROWS, 2, 8);
    Tensor v = floats(scope, ROWS, 2, 8);
    Tensor o = floats(scope, ROWS, 4, 8);
    Tensor lse = floats(scope, 4, ROWS);
    var attended = new AttentionPolicy.Input(q, k, offsets, offsets, 4, null);
    all.put(
        "attention_policy",
        s -> AttentionPolicy.forward(s, attended, AttentionPolicy.Options.DEFAULT));
    all.put(
        "attention_divergence",
        s ->
            AttentionDivergence.forwardBackward(
                s,
                attended,
                new AttentionDivergence.Reference.QueriesKeys(o, v),
                AttentionDivergence.Weights.of(row),
                AttentionDivergence.Options.DEFAULT));
    var attention = new Attention.Input(q, k, v, offsets, offsets, null, 4, 0.35f);
    all.put("attention", s -> Attention.forward(context, attention, o, lse));
    Tensor dq = floats(scope, ROWS, 4, 8);
    Tensor dk = floats(scope, ROWS, 2, 8);
    Tensor dv = floats(scope, ROWS, 2, 8);
    all.put(
        "attention_backward", s -> Attention.backward(context, attention, o, lse, q, dq, dk, dv));

    var parameters = List.of(AdamW.Parameter.of(scope, wide, wideGradient, 0.1f));
    all.put("adamw", s -> AdamW.step(context, parameters, AdamW.Options.of(1e-5f), 1));
    all.put("grad_norm", s -> GradNorm.forward(s, List.of(wide, row), GradNorm.Options.DEFAULT));
    var state = GradientMoments.State.zeros(scope, ROWS);
    var merged = GradientMoments.State.zeros(scope, ROWS);
    Tensor segments = Tensor.of(scope, new long[] {0, 2, ROWS}, new long[] {3});
    all.put("gradient_moments_update", s -> GradientMoments.update(context, state, row));
    all.put("gradient_moments_merge", s -> GradientMoments.merge(context, merged, state));
    all.put("gradient_moments_report", s -> GradientMoments.report(s, state, segments));

    all.put("gemm", s -> Gemm.multiply(s, square, wide, Gemm.Options.DEFAULT));
    all.put("rms_norm", s -> RmsNorm.forward(s, wide, columns, 1e-6f));
    Tensor dx = floats(scope, ROWS, 8);
    Tensor dWeight = floats(scope, 8);
    all.put(
        "rms_norm_backward",
        s -> RmsNorm.backward(context, wide, columns, row, wideGradient, null, dx, dWeight));
    all.put("swiglu", s -> SwiGlu.forward(s, wide));
    Tensor half = floats(scope, ROWS, 4);
    all.put("swiglu_backward", s -> SwiGlu.backward(context, wide, half, dx));
    all.put("gather_rows", s -> GatherRows.gather(s, wide, index));
    all.put("scatter_add_rows", s -> ScatterAddRows.add(context, wideGradient, index, dx));
    all.put("axpby", s -> Axpby.apply(context, 0.5f, wideGradient, 0.5f, dx));
    all.put(
        "sample_tokens", s -> SampleTokens.sample(s, logits, new SampleTokens.Options(1.0f, 1, 2)));
    return all;
  }

  /** Names of the functions of the binding that take an args struct and are no queries. */
  static Set<String> functions() {
    Set<String> names = new TreeSet<>();
    for (Method method : Saccade.class.getDeclaredMethods()) {
      String name = method.getName();
      Class<?>[] types = method.getParameterTypes();
      if (types.length == 2 && types[1].getSimpleName().endsWith("_args")) {
        names.add(name.substring("saccade_".length()));
      }
    }
    return names;
  }

  private static void calls(Scope scope, Map<String, Consumer<Scope>> operations, int count) {
    Tensor logits = Tensor.zeros(scope, DType.F32, 0, 4);
    Tensor targets = Tensor.zeros(scope, DType.I32, 0);
    var negative = TokenLogProbs.Options.DEFAULT.withTemperature(-1f);
    for (int i = 0; i < count; i++) {
      try (Scope call = scope.context().scope()) {
        operations.values().forEach(operation -> operation.accept(call));
        // Errors carry messages from native memory.
        try {
          TokenLogProbs.forward(call, logits, targets, negative);
        } catch (InvalidArgumentException expected) {
          assertThat(expected).hasMessageStartingWith("token_log_probs: temperature: expected");
        }
      }
    }
  }

  @Test
  void tenThousandCallsOfEveryOperationLeaveMemoryFlat() throws Exception {
    List<String> lines = StillJvm.run(Program.class, folder);
    assertThat(lines).hasSize(2);
    long[] before = Arrays.stream(lines.get(0).split(" ")).mapToLong(Long::parseLong).toArray();
    long[] after = Arrays.stream(lines.get(1).split(" ")).mapToLong(Long::parseLong).toArray();
    assertThat(after[0]).as("live bytes of the context").isEqualTo(before[0]);
    assertThat(after[1]).as("blocks of JavaCPP").isEqualTo(before[1]);
    assertThat(after[2] - before[2]).as("resident bytes").isLessThan(SLACK);
  }

  /** Prints live bytes, native blocks and resident bytes after a warm-up, and after the calls. */
  static final class Program {
    private Program() {}

    public static void main(String[] args) throws IOException {
      try (Context context = Context.builder().threads(2).build()) {
        OpenBlas.provideTo(context);
        try (Scope scope = context.scope()) {
          var operations = operations(scope);
          assertThat(operations.keySet()).isEqualTo(functions());
          for (int count : new int[] {WARM_UP, CALLS}) {
            calls(scope, operations, count);
            System.out.println(
                context.liveBytes() + " " + Pointer.totalCount() + " " + StillJvm.residentBytes());
          }
        }
      }
    }
  }
}
