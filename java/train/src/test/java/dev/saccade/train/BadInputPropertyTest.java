package dev.saccade.train;

import static org.assertj.core.api.Assertions.assertThat;

import dev.saccade.AdamW;
import dev.saccade.Attention;
import dev.saccade.AttentionDivergence;
import dev.saccade.AttentionPolicy;
import dev.saccade.Axpby;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Divergence;
import dev.saccade.GatherRows;
import dev.saccade.Gemm;
import dev.saccade.GradNorm;
import dev.saccade.GradientMoments;
import dev.saccade.GroupAdvantage;
import dev.saccade.KlEstimator;
import dev.saccade.LinearPolicyLoss;
import dev.saccade.LogitDivergence;
import dev.saccade.PolicyLoss;
import dev.saccade.PolicyLossFromLogits;
import dev.saccade.RmsNorm;
import dev.saccade.SaccadeException;
import dev.saccade.SampleTokens;
import dev.saccade.SampledKl;
import dev.saccade.ScatterAddRows;
import dev.saccade.Scope;
import dev.saccade.SwiGlu;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Consumer;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.Example;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.constraints.Size;
import net.jqwik.api.lifecycle.AfterContainer;

/**
 * Whatever an operation is called with, it either succeeds or refuses: with a {@link
 * SaccadeException} that names the operation and the argument, and outputs as they were. Never with
 * another exception, never with the end of the process.
 *
 * <p>{@code mvn verify -pl java/train -am -Dtest=BadInputPropertyTest
 * -Djqwik.tries.default=1000000} for a long run.
 */
class BadInputPropertyTest {
  private static final Context CONTEXT = Context.builder().threads(2).build();
  private static final Context OTHER = Context.builder().threads(1).build();

  /** Calls by a name that begins with the operation's. */
  private static final Map<String, Consumer<BadInput>> CALLS = new LinkedHashMap<>();

  static {
    OpenBlas.provideTo(CONTEXT);
    CALLS.put(
        "token_log_probs",
        in -> {
          int rows = in.size(0);
          int vocabulary = in.size(1);
          TokenLogProbs.forward(
              in.context(),
              in.free(1).strided("logits", in.floatType(), rows, vocabulary),
              in.ints("targets", in.indices(rows, vocabulary)),
              new TokenLogProbs.Options(in.temperature(), in.of(-100, 0)),
              new TokenLogProbs.Outputs(
                  in.output("log_prob", rows),
                  in.optionalOutput("entropy", rows),
                  in.optionalOutput("lse", rows)));
        });
    CALLS.put(
        "token_log_probs in a scope",
        in -> {
          int rows = in.size(0);
          int vocabulary = in.size(1);
          TokenLogProbs.forward(
              in.scope(),
              in.free(1).strided("logits", in.floatType(), rows, vocabulary),
              in.ints("targets", in.indices(rows, vocabulary)),
              new TokenLogProbs.Options(in.temperature(), -100));
        });
    CALLS.put(
        "token_log_probs_backward",
        in -> {
          int rows = in.size(0);
          int vocabulary = in.size(1);
          DType dtype = in.floatType();
          TokenLogProbs.backward(
              in.context(),
              in.strided("logits", dtype, rows, vocabulary),
              in.ints("targets", in.indices(rows, vocabulary)),
              new TokenLogProbs.Options(in.temperature(), -100),
              in.optionalF32("d_log_prob", rows),
              in.optionalF32("d_entropy", rows),
              in.inPlace().stridedOutput("d_logits", in.of(dtype, DType.F32), rows, vocabulary));
        });
    CALLS.put(
        "sampled_kl",
        in -> {
          int rows = in.size(0);
          boolean corrected = in.flip();
          SampledKl.forward(
              in.context(),
              in.f32("log_prob", rows),
              in.f32("ref_log_prob", rows),
              corrected && rows > 0
                  ? in.f32("old_log_prob", rows)
                  : in.optionalF32("old_log_prob", rows),
              new SampledKl.Options(in.of(KlEstimator.values()), corrected),
              new SampledKl.Outputs(in.output("kl", rows), in.optionalOutput("d_log_prob", rows)));
        });
    CALLS.put(
        "sampled_kl in a scope",
        in -> {
          int rows = in.size(0);
          SampledKl.forward(
              in.scope(),
              in.f32("log_prob", rows),
              in.f32("ref_log_prob", rows),
              in.optionalF32("old_log_prob", rows),
              SampledKl.Options.DEFAULT);
        });
    CALLS.put(
        "logit_divergence",
        in -> {
          int rows = in.size(0);
          int vocabulary = in.size(1);
          DType dtype = in.floatType();
          LogitDivergence.forward(
              in.context(),
              divergenceInputs(in, dtype, rows, vocabulary),
              logitDivergenceOptions(in),
              new LogitDivergence.Outputs(
                  in.optionalOutput("divergence", rows),
                  in.optional()
                      .inPlace()
                      .stridedOutput("d_logits", in.of(dtype, DType.F32), rows, vocabulary)));
        });
    CALLS.put(
        "logit_divergence in a scope",
        in ->
            LogitDivergence.forward(
                in.scope(),
                divergenceInputs(in, in.floatType(), in.size(0), in.size(1)),
                logitDivergenceOptions(in)));
    CALLS.put(
        "group_advantage",
        in -> {
          int size = in.size(0);
          int groups = in.sequences(size);
          GroupAdvantage.forward(
              in.context(),
              in.f32("rewards", size),
              in.offsets("offsets", groups, size),
              in.mask("valid", size),
              groupOptions(in),
              new GroupAdvantage.Outputs(
                  in.output("advantage", size),
                  in.optionalOutput("mean", groups),
                  in.optionalOutput("std", groups),
                  in.optional().output("degenerate", DType.U8, groups)));
        });
    CALLS.put(
        "group_advantage in a scope",
        in -> {
          int size = in.size(0);
          GroupAdvantage.forward(
              in.scope(),
              in.f32("rewards", size),
              in.offsets("offsets", in.sequences(size), size),
              in.mask("valid", size),
              groupOptions(in));
        });
    CALLS.put(
        "policy_loss",
        in -> {
          Policy policy = new Policy(in, true);
          PolicyLoss.forward(
              in.context(),
              policy.inputs(in, in.f32("log_prob", policy.rows)),
              policy.options,
              new PolicyLoss.Outputs(
                  in.output("loss", 1),
                  in.optionalOutput("token_loss", policy.rows),
                  in.optionalOutput("d_log_prob", policy.rows),
                  in.optionalOutput("metrics", PolicyLoss.Metrics.COUNT),
                  policy.kl));
        });
    CALLS.put(
        "policy_loss in a scope",
        in -> {
          Policy policy = new Policy(in, false);
          PolicyLoss.forward(
              in.scope(), policy.inputs(in, in.f32("log_prob", policy.rows)), policy.options);
        });
    CALLS.put(
        "policy_loss_from_logits",
        in -> {
          Policy policy = new Policy(in, true);
          int vocabulary = in.size(1);
          DType dtype = in.floatType();
          PolicyLossFromLogits.forward(
              in.context(),
              new PolicyLossFromLogits.Inputs(
                  in.free(1).strided("logits", dtype, policy.rows, vocabulary),
                  policy.targets(in, vocabulary),
                  policy.inputs(in, in.optionalF32("log_prob", policy.rows))),
              policy.fromLogits(in),
              new PolicyLossFromLogits.Outputs(
                  policy.values(in),
                  in.optional()
                      .inPlace()
                      .stridedOutput(
                          "d_logits", in.of(dtype, DType.F32), policy.rows, vocabulary)));
        });
    CALLS.put(
        "policy_loss_from_logits in a scope",
        in -> {
          Policy policy = new Policy(in, false);
          int vocabulary = in.size(1);
          PolicyLossFromLogits.forward(
              in.scope(),
              new PolicyLossFromLogits.Inputs(
                  in.free(1).strided("logits", in.floatType(), policy.rows, vocabulary),
                  policy.targets(in, vocabulary),
                  policy.inputs(in, null)),
              policy.fromLogits(in));
        });
    CALLS.put(
        "linear_policy_loss",
        in -> {
          Policy policy = new Policy(in, true);
          int vocabulary = in.size(1);
          int width = in.size(1);
          DType dtype = in.floatType();
          LinearPolicyLoss.forward(
              in.context(),
              new LinearPolicyLoss.Inputs(
                  in.strided("hidden", dtype, policy.rows, width),
                  in.free(0).strided("weight", dtype, vocabulary, width),
                  policy.targets(in, vocabulary),
                  policy.inputs(in, in.optionalF32("log_prob", policy.rows))),
              new LinearPolicyLoss.Options(
                  policy.fromLogits(in),
                  in.option("chunk_rows", List.of(4, 1, 1000), List.of(0, -1, Integer.MIN_VALUE))),
              new LinearPolicyLoss.Outputs(
                  policy.values(in),
                  in.optional()
                      .stridedOutput("d_hidden", in.of(dtype, DType.F32), policy.rows, width),
                  in.optional()
                      .stridedOutput("d_weight", in.of(dtype, DType.F32), vocabulary, width)));
        });
    CALLS.put(
        "linear_policy_loss in a scope",
        in -> {
          Policy policy = new Policy(in, false);
          int vocabulary = in.size(1);
          int width = in.size(1);
          DType dtype = in.floatType();
          LinearPolicyLoss.forward(
              in.scope(),
              new LinearPolicyLoss.Inputs(
                  in.strided("hidden", dtype, policy.rows, width),
                  in.free(0).strided("weight", dtype, vocabulary, width),
                  policy.targets(in, vocabulary),
                  policy.inputs(in, null)),
              new LinearPolicyLoss.Options(policy.fromLogits(in), 4));
        });
    CALLS.put(
        "attention_policy",
        in -> {
          Attending of = new Attending(in);
          AttentionPolicy.Options options = of.options(in);
          boolean mean = options.reduction() == AttentionPolicy.Reduction.MEAN;
          DType map = in.of(DType.F32, DType.BF16);
          AttentionPolicy.forward(
              in.context(),
              of.input(in, in.floatType(), options),
              options,
              new AttentionPolicy.Outputs(
                  in.optionalOutput("entropy", of.rows),
                  in.optionalOutput("mass", of.rows),
                  in.optionalOutput("lse", of.heads, of.rows),
                  mean ? in.optional().free(1).output("map", map, of.rows, of.keys) : null));
        });
    CALLS.put(
        "attention_policy in a scope",
        in -> {
          Attending of = new Attending(in);
          AttentionPolicy.Options options = of.options(in);
          AttentionPolicy.forward(in.scope(), of.input(in, in.floatType(), options), options);
        });
    CALLS.put(
        "attention_divergence",
        in -> {
          Attending of = new Attending(in);
          DType dtype = in.floatType();
          AttentionPolicy.Options options = of.options(in);
          DType gradient = in.of(dtype, DType.F32);
          boolean gradients = in.flip();
          AttentionDivergence.forwardBackward(
              in.context(),
              of.input(in, dtype, options),
              of.reference(in, dtype, options),
              new AttentionDivergence.Weights(
                  in.optionalF32("weight", of.rows),
                  in.optionalF32("entropy_weight", of.rows),
                  in.optionalF32("lse", of.heads, of.rows),
                  in.optionalF32("grad_output", 1)),
              divergenceOptions(in, options),
              new AttentionDivergence.Outputs(
                  in.optionalOutput("loss", 1),
                  in.optionalOutput("divergence", of.rows),
                  in.optionalOutput("entropy", of.rows),
                  in.optionalOutput("mass", of.rows),
                  gradients ? in.output("dq", gradient, of.rows, of.heads, of.dim) : null,
                  gradients ? in.output("dk", gradient, of.keys, of.keyHeads, of.dim) : null,
                  gradients ? in.optionalOutput("dscore_sq", of.heads, of.rows) : null));
        });
    CALLS.put(
        "attention_divergence in a scope",
        in -> {
          Attending of = new Attending(in);
          DType dtype = in.floatType();
          AttentionPolicy.Options options = of.options(in);
          AttentionDivergence.forwardBackward(
              in.scope(),
              of.input(in, dtype, options),
              of.reference(in, dtype, options),
              AttentionDivergence.Weights.of(in.optionalF32("weight", of.rows)),
              divergenceOptions(in, options));
        });
    CALLS.put(
        "attention",
        in -> {
          Attending of = new Attending(in);
          Attention.forward(
              in.context(),
              of.input(in, true),
              in.output("o", of.rows, of.heads, of.dim),
              in.optionalOutput("lse", of.heads, of.rows));
        });
    CALLS.put(
        "attention_backward",
        in -> {
          Attending of = new Attending(in);
          Attention.backward(
              in.context(),
              of.input(in, false),
              in.strided("o", DType.F32, of.rows, of.heads, of.dim),
              in.f32("lse", of.heads, of.rows),
              in.strided("d_o", DType.F32, of.rows, of.heads, of.dim),
              in.output("dq", of.rows, of.heads, of.dim),
              in.output("dk", of.keys, of.keyHeads, of.dim),
              in.output("dv", of.keys, of.keyHeads, of.dim));
        });
    CALLS.put(
        "grad_norm",
        in -> {
          List<Tensor> gradients = gradients(in);
          Tensor scale = in.optionalOutput("scale", 1);
          GradNorm.forward(
              in.context(),
              gradients,
              new GradNorm.Options(scale == null ? Float.NaN : maxNorm(in)),
              new GradNorm.Outputs(in.output("norm", 1), scale));
        });
    CALLS.put(
        "grad_norm in a scope",
        in -> GradNorm.forward(in.scope(), gradients(in), new GradNorm.Options(maxNorm(in))));
    CALLS.put(
        "adamw",
        in -> {
          List<AdamW.Parameter> parameters = new ArrayList<>();
          int tensors = in.below(3);
          for (int i = 0; i < tensors; i++) {
            parameters.add(parameter(in, "entries[" + i + "].", shape(in)));
          }
          Tensor lr = in.optionalF32("lr_scalar", 1);
          Tensor gradScale = in.optionalF32("grad_scale_scalar", 1);
          Tensor step = in.optional().dense("step_scalar", DType.I64, 1);
          AdamW.step(
              in.context(),
              parameters,
              new AdamW.Options(
                  lr == null ? in.number("lr", List.of(1e-3f, 0.0f), -1.0f) : Float.NaN,
                  in.number("beta1", List.of(0.9f, 0.0f), 1.0f, -0.1f),
                  in.number("beta2", List.of(0.999f, 0.0f), 1.0f, -0.1f),
                  in.number("eps", List.of(1e-8f), 0.0f, -1.0f),
                  gradScale == null ? in.number("grad_scale", List.of(1.0f, -0.5f)) : Float.NaN),
              step == null
                  ? in.option("step", List.of(1L, 1000L), List.of(0L, -1L, Long.MIN_VALUE))
                  : -1,
              new AdamW.Scalars(
                  lr, gradScale, step, in.optional().output("skipped", DType.I32, 1)));
        });
    CALLS.put(
        "gradient_moments_update",
        in -> {
          long[] shape = shape(in);
          GradientMoments.update(
              in.context(), state(in, "", shape), in.dense("samples", in.floatType(), shape));
        });
    CALLS.put(
        "gradient_moments_update of several",
        in -> {
          int size = in.size(0);
          GradientMoments.update(
              in.context(),
              state(in, "", size),
              in.free(0).strided("samples", in.floatType(), in.size(0), size),
              in.optionalOutput("sum", size));
        });
    CALLS.put(
        "gradient_moments_merge",
        in -> {
          long[] shape = shape(in);
          GradientMoments.merge(in.context(), state(in, "", shape), state(in, "other_", shape));
        });
    CALLS.put(
        "gradient_moments_report",
        in -> {
          int size = in.size(0);
          int segments = in.size(0);
          GradientMoments.report(
              in.context(),
              state(in, "", size),
              in.free(0).dense("offsets", DType.I64, segments + 1),
              new GradientMoments.Outputs(
                  in.optionalOutput("mean_sq", segments),
                  in.optionalOutput("trace", segments),
                  in.optionalOutput("signal", segments),
                  in.optionalOutput("snr", segments)));
        });
    CALLS.put(
        "gradient_moments_report in a scope",
        in ->
            GradientMoments.report(
                in.scope(),
                state(in, "", in.size(0)),
                in.free(0).dense("offsets", DType.I64, in.size(0) + 1)));
    CALLS.put(
        "gemm",
        in -> {
          int m = in.size(0);
          int n = in.size(0);
          int k = in.size(0);
          boolean transA = in.flip();
          boolean transB = in.flip();
          Gemm.multiply(
              in.context(),
              in.strided("a", DType.F32, transA ? k : m, transA ? m : k),
              in.strided("b", DType.F32, transB ? n : k, transB ? k : n),
              Gemm.Options.DEFAULT
                  .withTransA(transA)
                  .withTransB(transB)
                  .withBeta(in.of(0.0f, 1.0f)),
              in.stridedOutput("c", DType.F32, m, n));
        });
    CALLS.put(
        "gemm in a scope",
        in -> {
          int k = in.size(0);
          Gemm.multiply(
              in.scope(),
              in.free(0).strided("a", DType.F32, in.size(0), k),
              in.free(1).strided("b", DType.F32, k, in.size(0)),
              Gemm.Options.DEFAULT.withBeta(in.option("beta", List.of(0.0f), List.of(1f))));
        });
    CALLS.put(
        "rms_norm",
        in -> {
          int rows = in.size(0);
          int columns = in.size(1);
          RmsNorm.forward(
              in.context(),
              in.strided("x", DType.F32, rows, columns),
              in.f32("weight", columns),
              in.number("eps", List.of(1e-5f, 0.0f), -1.0f),
              new RmsNorm.Outputs(
                  in.stridedOutput("y", DType.F32, rows, columns), in.output("rstd", rows)));
        });
    CALLS.put(
        "rms_norm with a residual",
        in -> {
          int rows = in.size(0);
          int columns = in.size(1);
          RmsNorm.forward(
              in.context(),
              in.stridedOutput("x", DType.F32, rows, columns),
              in.optional().strided("residual", DType.F32, rows, columns),
              in.f32("weight", columns),
              in.number("eps", List.of(1e-5f, 0.0f), -1.0f),
              new RmsNorm.Outputs(
                  in.stridedOutput("y", DType.F32, rows, columns), in.output("rstd", rows)));
        });
    CALLS.put(
        "rms_norm in a scope",
        in -> {
          int columns = in.size(1);
          RmsNorm.forward(
              in.scope(),
              in.free(0).strided("x", DType.F32, in.size(0), columns),
              in.f32("weight", columns),
              in.number("eps", List.of(1e-5f, 0.0f), -1.0f));
        });
    CALLS.put(
        "rms_norm_backward",
        in -> {
          int rows = in.size(0);
          int columns = in.size(1);
          RmsNorm.backward(
              in.context(),
              in.strided("x", DType.F32, rows, columns),
              in.f32("weight", columns),
              in.f32("rstd", rows),
              in.strided("dy", DType.F32, rows, columns),
              in.optional().strided("residual", DType.F32, rows, columns),
              in.stridedOutput("dx", DType.F32, rows, columns),
              in.output("d_weight", columns));
        });
    CALLS.put(
        "swiglu",
        in -> {
          int rows = in.size(0);
          int columns = in.size(0);
          SwiGlu.forward(
              in.context(), in.f32("x", rows, 2L * columns), in.output("y", rows, columns));
        });
    CALLS.put(
        "swiglu in a scope",
        in ->
            SwiGlu.forward(
                in.scope(), in.free(0, 1).dense("x", DType.F32, in.size(0), 2L * in.size(0))));
    CALLS.put(
        "swiglu_backward",
        in -> {
          int rows = in.size(0);
          int columns = in.size(0);
          SwiGlu.backward(
              in.context(),
              in.f32("x", rows, 2L * columns),
              in.f32("dy", rows, columns),
              in.inPlace().output("dx", DType.F32, rows, 2L * columns));
        });
    CALLS.put(
        "gather_rows",
        in -> {
          int rows = in.size(0);
          int columns = in.size(0);
          int count = in.size(0);
          Tensor x = in.free(0).strided("x", DType.F32, rows, columns);
          Tensor index = in.optional().ints("index", in.indices(count, rows));
          int most = index == null ? rows : count;
          GatherRows.gather(
              in.context(),
              x,
              index,
              in.optional().ints("out_index", IntStream.range(0, most).toArray()),
              in.flip(),
              in.free(0).stridedOutput("y", DType.F32, most, columns));
        });
    CALLS.put(
        "gather_rows in a scope",
        in -> {
          int rows = in.size(0);
          GatherRows.gather(
              in.scope(),
              in.free(0, 1).strided("x", DType.F32, rows, in.size(0)),
              in.free(0).ints("index", in.indices(in.size(0), rows)));
        });
    CALLS.put(
        "scatter_add_rows",
        in -> {
          int count = in.size(0);
          int columns = in.size(0);
          int rows = in.size(0);
          ScatterAddRows.add(
              in.context(),
              in.strided("x", DType.F32, count, columns),
              in.ints("index", in.indices(count, rows)),
              in.free(0).stridedOutput("y", DType.F32, rows, columns));
        });
    CALLS.put(
        "axpby",
        in -> {
          long[] shape = shape(in);
          Axpby.apply(
              in.context(),
              0.5f,
              in.ofAnyShape().strided("x", DType.F32, shape),
              in.of(0.0f, 2.0f),
              in.stridedOutput("y", DType.F32, shape));
        });
    CALLS.put(
        "sample_tokens",
        in -> {
          int rows = in.size(0);
          SampleTokens.sample(
              in.context(),
              in.free(1).strided("logits", in.floatType(), rows, in.size(1)),
              in.optional().ints("stream", in.indices(rows, 1000)),
              new SampleTokens.Options(
                  in.number("temperature", List.of(1.0f, 0.0f, 1e-40f), -1.0f),
                  in.below(256),
                  in.below(256),
                  in.optional().dense("offset_scalar", DType.I64, 1),
                  in.number("top_p", List.of(1.0f, 0.0f, 0.9f, 1e-40f), 1.5f)),
              in.output("tokens", DType.I32, rows));
        });
    CALLS.put(
        "sample_tokens in a scope",
        in ->
            SampleTokens.sample(
                in.scope(),
                in.free(0, 1).strided("logits", in.floatType(), in.size(0), in.size(1)),
                SampleTokens.Options.GREEDY));
  }

  // ----------------------------------------------------------------------------- what they share

  private static long[] shape(BadInput in) {
    return in.flip() ? new long[] {in.size(0)} : new long[] {in.size(0), in.size(0)};
  }

  private static GroupAdvantage.Options groupOptions(BadInput in) {
    return new GroupAdvantage.Options(
        in.of(GroupAdvantage.Estimator.values()),
        in.number("eps", List.of(1e-4f, 0.0f), -1.0f),
        in.option("ddof", List.of(1, 0, 5), List.of(-1, Integer.MIN_VALUE)));
  }

  private static LogitDivergence.Inputs divergenceInputs(
      BadInput in, DType dtype, int rows, int vocabulary) {
    return new LogitDivergence.Inputs(
        in.strided("logits", dtype, rows, vocabulary),
        in.strided("ref_logits", dtype, rows, vocabulary),
        in.optionalF32("weight", rows),
        in.optionalF32("grad_output", 1));
  }

  private static LogitDivergence.Options logitDivergenceOptions(BadInput in) {
    Divergence kind = in.of(Divergence.values());
    return new LogitDivergence.Options(kind, beta(in, kind), in.temperature());
  }

  private static float beta(BadInput in, Divergence kind) {
    return kind == Divergence.JSD ? in.number("beta", List.of(0.5f, 0.01f), 0.0f, 1.0f) : 0.5f;
  }

  private static AttentionDivergence.Options divergenceOptions(
      BadInput in, AttentionPolicy.Options options) {
    Divergence kind = in.of(Divergence.values());
    return new AttentionDivergence.Options(options, kind, beta(in, kind));
  }

  private static List<Tensor> gradients(BadInput in) {
    List<Tensor> gradients = new ArrayList<>();
    int tensors = in.below(4);
    for (int i = 0; i < tensors; i++) {
      gradients.add(in.ofAnyShape().f32("entries[" + i + "].grad", shape(in)));
    }
    return gradients;
  }

  private static float maxNorm(BadInput in) {
    return in.number("max_norm", List.of(1.0f, 1e-3f), 0.0f, -1.0f);
  }

  private static AdamW.Parameter parameter(BadInput in, String prefix, long[] shape) {
    return new AdamW.Parameter(
        in.ofAnyShape().f32(prefix + "param", shape),
        in.f32(prefix + "grad", shape),
        in.f32(prefix + "m", shape),
        in.f32(prefix + "v", shape),
        in.optional().output(prefix + "param_bf16", DType.BF16, shape),
        in.number("weight_decay", List.of(0.0f, 0.1f), -0.1f));
  }

  private static GradientMoments.State state(BadInput in, String prefix, long... shape) {
    return new GradientMoments.State(
        in.dense(prefix + "count", DType.I64, 1),
        in.ofAnyShape().f32(prefix + "mean", shape),
        in.dense(prefix + "m2", DType.F64, shape));
  }

  /** Options of a policy loss, and what they call for. */
  private static final class Policy {
    final int rows;
    final Tensor kl;
    final Tensor klCoef;
    final PolicyLoss.Options options;

    Policy(BadInput in, boolean mayWantKl) {
      rows = in.size(0);
      kl = mayWantKl ? in.optionalOutput("kl", rows) : null;
      klCoef = in.optionalF32("kl_coef_scalar", 1);
      PolicyLoss.Objective objective = in.of(PolicyLoss.Objective.values());
      PolicyLoss.Aggregation aggregation = in.of(PolicyLoss.Aggregation.values());
      boolean bounded = objective.compareTo(PolicyLoss.Objective.GSPO_TOKEN) <= 0;
      boolean sapo = objective == PolicyLoss.Objective.SAPO;
      float normalizer = in.number("normalizer", List.of(0.0f, 10.0f), -1.0f);
      boolean constant = aggregation == PolicyLoss.Aggregation.CONSTANT && normalizer == 0;
      options =
          PolicyLoss.Options.DEFAULT
              .withObjective(objective)
              .withAggregation(aggregation)
              .withNormalizer(normalizer)
              .withConstant(constant ? in.number("constant", List.of(100.0f), 0.0f) : Float.NaN)
              .withClipLow(in.number("clip_low", List.of(0.2f, 0.0f, 1.0f), -0.1f, 1.1f))
              .withClipHigh(in.number("clip_high", List.of(0.2f, 0.0f), -0.1f))
              .withDualClip(in.number("dual_clip", List.of(0.0f), bounded ? 0.5f : 3.0f))
              .withDelta(in.number("delta", List.of(0.0f), bounded ? 0.5f : 3.0f))
              .withTauPos(sapo ? in.number("tau_pos", List.of(1.0f), 0.0f, -1.0f) : Float.NaN)
              .withTauNeg(sapo ? in.number("tau_neg", List.of(1.05f), 0.0f, -1.0f) : Float.NaN)
              .withKlCoef(
                  klCoef == null ? in.number("kl_coef", List.of(0.0f, 0.04f), -0.1f) : Float.NaN)
              .withKlEstimator(in.of(KlEstimator.values()))
              .withAdvantagePerSequence(in.flip())
              .withKlImportanceCorrected(in.flip());
    }

    PolicyLoss.Inputs inputs(BadInput in, Tensor logProb) {
      int sequences = in.sequences(rows);
      boolean compared = rows > 0 && (kl != null || klCoef != null || options.klCoef() != 0);
      return new PolicyLoss.Inputs(
          logProb,
          in.f32("old_log_prob", rows),
          compared ? in.f32("ref_log_prob", rows) : in.optionalF32("ref_log_prob", rows),
          in.f32("advantage", options.advantagePerSequence() ? sequences : rows),
          in.mask("mask", rows),
          in.optionalF32("is_weight", rows),
          in.offsets("offsets", sequences, rows),
          klCoef,
          in.optionalF32("grad_output", 1));
    }

    Tensor targets(BadInput in, int vocabulary) {
      return in.ints("targets", in.indices(rows, vocabulary));
    }

    PolicyLossFromLogits.Options fromLogits(BadInput in) {
      return new PolicyLossFromLogits.Options(
          options, in.temperature(), -100, in.number("entropy_coef", List.of(0.0f, 0.01f)));
    }

    PolicyLossFromLogits.Values values(BadInput in) {
      return new PolicyLossFromLogits.Values(
          in.output("loss", 1),
          in.optionalOutput("token_loss", rows),
          in.optionalOutput("metrics", PolicyLoss.Metrics.COUNT),
          in.optionalOutput("log_prob", rows),
          in.optionalOutput("entropy", rows),
          in.optionalOutput("lse", rows),
          kl);
    }
  }

  /** Packed queries and keys. */
  private static final class Attending {
    final int rows;
    final int keys;
    final int sequences;
    final int keyHeads;
    final int heads;
    final int dim;

    Attending(BadInput in) {
      rows = in.size(0);
      keys = in.size(0);
      sequences = in.sequences(Math.max(rows, keys));
      keyHeads = in.below(2) + 1;
      heads = keyHeads * (in.below(2) + 1);
      dim = in.size(1);
    }

    AttentionPolicy.Options options(BadInput in) {
      return new AttentionPolicy.Options(
          in.option("scale", List.of(0.5f, Float.NaN), List.of(Float.POSITIVE_INFINITY)),
          in.of(AttentionPolicy.Support.values()),
          in.of(AttentionPolicy.Reduction.values()),
          in.option("head_begin", List.of(0), List.of(-1, 100, Integer.MIN_VALUE)),
          in.option("head_end", List.of(-1, heads), List.of(0, heads + 1, Integer.MIN_VALUE)),
          false);
    }

    private long maxKeys(BadInput in) {
      return in.option("max_keys", List.of((long) keys), List.of(-1L, Long.MAX_VALUE));
    }

    AttentionPolicy.Input input(BadInput in, DType dtype, AttentionPolicy.Options options) {
      boolean ranges = options.support() == AttentionPolicy.Support.RANGES;
      return new AttentionPolicy.Input(
          in.free(1).strided("q", dtype, rows, heads, dim),
          in.free(1).strided("k", dtype, keys, keyHeads, dim),
          in.offsets("offsets_q", sequences, rows),
          in.offsets("offsets_k", sequences, keys),
          maxKeys(in),
          ranges && sequences > 0 ? in.dense("support_ranges", DType.I32, sequences, 2) : null);
    }

    Attention.Input input(BadInput in, boolean lengths) {
      return new Attention.Input(
          in.strided("q", DType.F32, rows, heads, dim),
          in.strided("k", DType.F32, keys, keyHeads, dim),
          in.strided("v", DType.F32, keys, keyHeads, dim),
          in.offsets("offsets_q", sequences, rows),
          in.offsets("offsets_k", sequences, keys),
          lengths ? in.optional().ints("lengths_k", new int[sequences]) : null,
          maxKeys(in),
          in.number("scale", List.of(0.5f, 0.0f)));
    }

    AttentionDivergence.Reference reference(
        BadInput in, DType dtype, AttentionPolicy.Options options) {
      boolean mean = options.reduction() == AttentionPolicy.Reduction.MEAN;
      return switch (in.below(mean ? 3 : 2)) {
        case 0 ->
            new AttentionDivergence.Reference.Index(in.ints("ref_index", in.indices(rows, keys)));
        case 1 ->
            new AttentionDivergence.Reference.QueriesKeys(
                in.free(1).strided("ref_q", dtype, rows, heads, 3),
                in.free(1).strided("ref_k", dtype, keys, heads, 3));
        default ->
            new AttentionDivergence.Reference.Map(
                in.free(1).dense("ref", in.of(DType.F32, DType.BF16), rows, Math.max(1, keys)));
      };
    }
  }

  // ---------------------------------------------------------------------------------- properties

  @Provide
  Arbitrary<String> call() {
    return Arbitraries.of(CALLS.keySet());
  }

  @Property(seed = "1")
  void everyCallSucceedsOrSaysWhatIsWrong(
      @ForAll("call") String call,
      @ForAll @Size(max = 80) List<@IntRange(max = 255) Integer> choices) {
    try (Scope scope = CONTEXT.scope();
        Scope foreign = OTHER.scope()) {
      BadInput in = new BadInput(scope, foreign, choices);
      in.check(call.split(" ")[0], () -> CALLS.get(call).accept(in));
    }
  }

  @Example
  void everyOperationIsCalled() {
    Set<String> called =
        CALLS.keySet().stream().map(name -> name.split(" ")[0]).collect(Collectors.toSet());
    assertThat(called).isEqualTo(FlatMemoryTest.functions());
  }

  @AfterContainer
  static void close() {
    CONTEXT.close();
    OTHER.close();
  }
}
