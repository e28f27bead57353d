package dev.saccade.train;

import dev.saccade.AdamW;
import dev.saccade.Attention;
import dev.saccade.AttentionDivergence;
import dev.saccade.AttentionDivergence.Reference;
import dev.saccade.AttentionPolicy;
import dev.saccade.Axpby;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Device;
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
import dev.saccade.Precision;
import dev.saccade.RmsNorm;
import dev.saccade.SampleTokens;
import dev.saccade.SampledKl;
import dev.saccade.ScatterAddRows;
import dev.saccade.SwiGlu;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.function.Function;
import java.util.function.ToDoubleFunction;
import java.util.stream.IntStream;

/**
 * Every operation, in the variants that take paths of their own, on small ragged shapes: what tests
 * that mean all operations run.
 */
final class Operations {
  /** Rows of sequences: an empty one, one of a single row. */
  private static final int[] LENGTHS = {3, 0, 17, 1, 12};

  private static final int ROWS = 33;
  private static final int[] OFFSETS = offsets(LENGTHS);

  /** Elements of a state of gradient moments. */
  private static final int MOMENTS = 1003;

  private static final ToDoubleFunction<Random> POSITIVE = random -> 0.1 + random.nextDouble();
  private static final ToDoubleFunction<Random> LOG_PROB = random -> -3 * random.nextDouble();
  private static final ToDoubleFunction<Random> FLAG = random -> random.nextInt(4) == 0 ? 0 : 1;

  private Operations() {}

  /** Prepares the operation's tensors; the result runs it on them. */
  interface Preparation {
    Runnable prepare(Context context, GuardedTensors tensors);
  }

  /**
   * @param name of the operation, and its variant
   * @param comparable whether results of two devices are near each other, which drawn tokens need
   *     not be
   */
  record Operation(String name, boolean comparable, Preparation preparation) {
    Operation(String name, Preparation preparation) {
      this(name, true, preparation);
    }

    @Override
    public String toString() {
      return name;
    }
  }

  private static int[] offsets(int... lengths) {
    int[] offsets = new int[lengths.length + 1];
    for (int s = 0; s < lengths.length; s++) {
      offsets[s + 1] = offsets[s] + lengths[s];
    }
    return offsets;
  }

  /** All of them. */
  static List<Operation> all() {
    List<Operation> all = new ArrayList<>();
    advantages(all);
    logits(all);
    policies(all);
    attention(all);
    attentionInBf16(all, 64);
    attentionInBf16(all, 128);
    attentionInBf16(all, 256);
    policiesOnTiles(all, 64);
    policiesOnTiles(all, 128);
    optimizer(all);
    model(all);
    return all;
  }

  private static void advantages(List<Operation> all) {
    for (GroupAdvantage.Estimator estimator : GroupAdvantage.Estimator.values()) {
      all.add(
          new Operation(
              "group_advantage " + estimator,
              (context, t) -> {
                Tensor rewards = t.normal(ROWS);
                Tensor offsets = t.fixed(OFFSETS);
                Tensor valid = t.input(DType.U8, FLAG, ROWS);
                int groups = LENGTHS.length;
                var out =
                    new GroupAdvantage.Outputs(
                        t.output(ROWS),
                        t.output(groups),
                        t.output(groups),
                        t.output(DType.U8, groups));
                var options = GroupAdvantage.Options.DEFAULT.withEstimator(estimator);
                return () -> GroupAdvantage.forward(context, rewards, offsets, valid, options, out);
              }));
    }
  }

  /** Rows of a vocabulary: less than a block, more than one, more than one multiprocessor's. */
  private record Logits(DType dtype, int rows, int vocabulary) {
    static final List<Logits> ALL =
        List.of(
            new Logits(DType.F32, 33, 1003),
            new Logits(DType.BF16, 7, 40_001),
            new Logits(DType.F16, 33, 257),
            new Logits(DType.F32, 33, 1));

    Tensor draw(GuardedTensors t) {
      return t.input(dtype, random -> 3 * random.nextGaussian(), rows, vocabulary);
    }

    Tensor targets(GuardedTensors t) {
      return t.input(
          DType.I32, random -> random.nextInt(8) == 0 ? -100 : random.nextInt(vocabulary), rows);
    }

    Tensor gradient(GuardedTensors t) {
      return t.output(dtype, rows, vocabulary);
    }

    @Override
    public String toString() {
      return " %s %d × %d".formatted(dtype, rows, vocabulary);
    }
  }

  private static void logits(List<Operation> all) {
    for (Logits shape : Logits.ALL) {
      int rows = shape.rows;
      all.add(
          new Operation(
              "token_log_probs" + shape,
              (context, t) -> {
                Tensor logits = shape.draw(t);
                Tensor targets = shape.targets(t);
                var out = new TokenLogProbs.Outputs(t.output(rows), t.output(rows), t.output(rows));
                var options = TokenLogProbs.Options.DEFAULT.withTemperature(0.7f);
                return () -> TokenLogProbs.forward(context, logits, targets, options, out);
              }));
      all.add(
          new Operation(
              "token_log_probs_backward" + shape,
              (context, t) -> {
                Tensor logits = shape.draw(t);
                Tensor targets = shape.targets(t);
                Tensor dLogProb = t.normal(rows);
                Tensor dEntropy = t.normal(rows);
                Tensor dLogits = shape.gradient(t);
                var options = TokenLogProbs.Options.DEFAULT;
                return () ->
                    TokenLogProbs.backward(
                        context, logits, targets, options, dLogProb, dEntropy, dLogits);
              }));
      for (Divergence kind : Divergence.values()) {
        all.add(
            new Operation(
                "logit_divergence " + kind + shape,
                (context, t) -> {
                  var inputs =
                      new LogitDivergence.Inputs(
                          shape.draw(t),
                          shape.draw(t),
                          t.input(DType.F32, POSITIVE, rows),
                          t.normal(1));
                  var out = new LogitDivergence.Outputs(t.output(rows), shape.gradient(t));
                  var options = LogitDivergence.Options.DEFAULT.withKind(kind);
                  return () -> LogitDivergence.forward(context, inputs, options, out);
                }));
      }
      sampling(all, shape, "", SampleTokens.Options.GREEDY);
      sampling(all, shape, " from all", new SampleTokens.Options(0.8f, 7, 0));
      sampling(all, shape, " top_p", new SampleTokens.Options(0.8f, 7, 0).withTopP(0.9f));
    }
  }

  private static void sampling(
      List<Operation> all, Logits shape, String variant, SampleTokens.Options options) {
    boolean greedy = options.temperature() == 0;
    all.add(
        new Operation(
            "sample_tokens" + variant + shape,
            greedy,
            (context, t) -> {
              Tensor logits = shape.draw(t);
              Tensor stream = t.below(1000, shape.rows);
              Tensor offset = t.input(DType.I64, random -> random.nextInt(1 << 30), 1);
              Tensor tokens = t.output(DType.I32, shape.rows);
              var drawn = greedy ? options : options.withOffsetScalar(offset);
              return () -> SampleTokens.sample(context, logits, stream, drawn, tokens);
            }));
  }

  private static PolicyLoss.Inputs policyInputs(GuardedTensors t, Tensor logProb, int... lengths) {
    int[] offsets = offsets(lengths);
    int rows = offsets[lengths.length];
    return new PolicyLoss.Inputs(
        logProb,
        t.input(DType.F32, LOG_PROB, rows),
        t.input(DType.F32, LOG_PROB, rows),
        t.normal(rows),
        t.input(DType.U8, FLAG, rows),
        t.input(DType.F32, POSITIVE, rows),
        t.fixed(offsets),
        t.input(DType.F32, POSITIVE, 1),
        t.normal(1));
  }

  private static void policies(List<Operation> all) {
    for (KlEstimator estimator : KlEstimator.values()) {
      all.add(
          new Operation(
              "sampled_kl " + estimator,
              (context, t) -> {
                int rows = 1003;
                Tensor logProb = t.input(DType.F32, LOG_PROB, rows);
                Tensor ref = t.input(DType.F32, LOG_PROB, rows);
                Tensor old = t.input(DType.F32, LOG_PROB, rows);
                var out = new SampledKl.Outputs(t.output(rows), t.output(rows));
                var options =
                    SampledKl.Options.DEFAULT
                        .withEstimator(estimator)
                        .withImportanceCorrected(true);
                return () -> SampledKl.forward(context, logProb, ref, old, options, out);
              }));
    }
    for (PolicyLoss.Objective objective : PolicyLoss.Objective.values()) {
      var options = PolicyLoss.Options.DEFAULT.withObjective(objective);
      all.add(
          new Operation(
              "policy_loss " + objective,
              (context, t) -> {
                var inputs = policyInputs(t, t.input(DType.F32, LOG_PROB, ROWS), LENGTHS);
                var out =
                    new PolicyLoss.Outputs(
                        t.output(1),
                        t.output(ROWS),
                        t.output(ROWS),
                        t.output(PolicyLoss.Metrics.COUNT),
                        t.output(ROWS));
                return () -> PolicyLoss.forward(context, inputs, options, out);
              }));
    }
    for (PolicyLoss.Aggregation aggregation : PolicyLoss.Aggregation.values()) {
      var options = PolicyLoss.Options.DEFAULT.withAggregation(aggregation).withConstant(100f);
      all.add(
          new Operation(
              "policy_loss " + aggregation,
              (context, t) -> {
                var inputs = policyInputs(t, t.input(DType.F32, LOG_PROB, ROWS), LENGTHS);
                var out = new PolicyLoss.Outputs(t.output(1), null, t.output(ROWS), null);
                return () -> PolicyLoss.forward(context, inputs, options, out);
              }));
    }
    for (Logits shape : Logits.ALL) {
      int[] lengths = shape.rows == ROWS ? LENGTHS : new int[] {2, 0, 4, 1};
      for (PolicyLoss.Objective objective :
          List.of(PolicyLoss.Objective.PPO_CLIP, PolicyLoss.Objective.GSPO)) {
        var options =
            PolicyLossFromLogits.Options.DEFAULT
                .withEntropyCoef(0.01f)
                .withPolicy(PolicyLoss.Options.DEFAULT.withObjective(objective));
        all.add(
            new Operation(
                "policy_loss_from_logits " + objective + shape,
                (context, t) -> {
                  var inputs =
                      new PolicyLossFromLogits.Inputs(
                          shape.draw(t), shape.targets(t), policyInputs(t, null, lengths));
                  var out =
                      new PolicyLossFromLogits.Outputs(values(t, shape.rows), shape.gradient(t));
                  return () -> PolicyLossFromLogits.forward(context, inputs, options, out);
                }));
      }
    }
    all.add(
        new Operation(
            "linear_policy_loss",
            (context, t) -> {
              int hidden = 37;
              int vocabulary = 501;
              var shape = new Logits(DType.F32, ROWS, vocabulary);
              var inputs =
                  new LinearPolicyLoss.Inputs(
                      t.normal(ROWS, hidden),
                      t.normal(vocabulary, hidden),
                      shape.targets(t),
                      policyInputs(t, null, LENGTHS));
              var out =
                  new LinearPolicyLoss.Outputs(
                      values(t, ROWS), t.output(ROWS, hidden), t.output(vocabulary, hidden));
              var options = LinearPolicyLoss.Options.DEFAULT.withChunkRows(8);
              return () -> LinearPolicyLoss.forward(context, inputs, options, out);
            }));
  }

  private static PolicyLossFromLogits.Values values(GuardedTensors t, int rows) {
    return new PolicyLossFromLogits.Values(
        t.output(1),
        t.output(rows),
        t.output(PolicyLoss.Metrics.COUNT),
        t.output(rows),
        t.output(rows),
        t.output(rows),
        t.output(rows));
  }

  /** Lengths of packed sequences; one asks nothing, one is longer than a block of keys. */
  private enum Packing {
    PROMPTS(new int[] {3, 0, 70, 1, 12}, new int[] {5, 2, 70, 200, 33}),
    /** A few rows each, as in generation. */
    FEW(new int[] {1, 0, 8, 3, 1}, new int[] {5, 2, 200, 70, 33}),
    /** The same, where 16 bytes may be loaded at once. */
    FEW_ALIGNED(FEW.queries, FEW.keys);

    final int[] queries;
    final int[] keys;
    final int rows;
    final int allKeys;

    Packing(int[] queries, int[] keys) {
      this.queries = queries;
      this.keys = keys;
      rows = IntStream.of(queries).sum();
      allKeys = IntStream.of(keys).sum();
    }
  }

  private record Packed(DType dtype, int heads, int kvHeads, int dim, Packing packing) {
    static final int MOST_KEYS = 200;

    Packed(DType dtype, int heads, int kvHeads, int dim) {
      this(dtype, heads, kvHeads, dim, Packing.PROMPTS);
    }

    int rows() {
      return packing.rows;
    }

    Tensor q(GuardedTensors t) {
      if (packing == Packing.FEW_ALIGNED) {
        t.align();
      }
      return t.normal(dtype, rows(), heads, dim);
    }

    Tensor k(GuardedTensors t) {
      return t.normal(dtype, packing.allKeys, kvHeads, dim);
    }

    Tensor outputQ(GuardedTensors t) {
      return t.output(dtype, rows(), heads, dim);
    }

    Tensor outputK(GuardedTensors t) {
      return t.output(dtype, packing.allKeys, kvHeads, dim);
    }

    /** Keys in use of a cache: those of the queries at least. */
    Tensor lengths(GuardedTensors t) {
      int[] queries = packing.queries;
      int[] keys = packing.keys;
      int[] next = {0};
      return t.input(
          DType.I32,
          random -> {
            int s = next[0]++ % keys.length;
            return queries[s] + random.nextInt(keys[s] - queries[s] + 1);
          },
          keys.length);
    }

    AttentionPolicy.Input input(GuardedTensors t) {
      return new AttentionPolicy.Input(
          q(t),
          k(t),
          t.fixed(offsets(packing.queries)),
          t.fixed(offsets(packing.keys)),
          MOST_KEYS,
          null);
    }

    Attention.Input values(GuardedTensors t, Tensor lengths) {
      return new Attention.Input(
          q(t),
          k(t),
          k(t),
          t.fixed(offsets(packing.queries)),
          t.fixed(offsets(packing.keys)),
          lengths,
          MOST_KEYS,
          0.2f);
    }

    @Override
    public String toString() {
      String name = " %s %d/%d × %d".formatted(dtype, heads, kvHeads, dim);
      return switch (packing) {
        case PROMPTS -> name;
        case FEW -> name + ", few rows";
        case FEW_ALIGNED -> name + ", few rows, aligned";
      };
    }
  }

  /** Long enough for tiles that are written first; on the CPU in f32, which is all it has. */
  private static void attentionInBf16(List<Operation> all, int dim) {
    int[] queries = offsets(130, 70);
    int[] keys = offsets(150, 70);
    int heads = 4;
    all.add(
        new Operation(
            "attention BF16, forward and backward, 4/2 × " + dim,
            false,
            (context, t) -> {
              Tensor k = t.normal(DType.F32, 220, 2, dim);
              Tensor v = t.normal(DType.F32, 220, 2, dim);
              boolean gpu = context.device().kind() == Device.Kind.CUDA;
              var input =
                  new Attention.Input(
                      t.normal(DType.F32, 200, heads, dim),
                      k,
                      v,
                      t.fixed(queries),
                      t.fixed(keys),
                      null,
                      150,
                      0.2f,
                      gpu ? Precision.BF16 : Precision.F32);
              Tensor dO = t.normal(DType.F32, 200, heads, dim);
              Tensor o = t.output(200, heads, dim);
              Tensor lse = t.output(heads, 200);
              Tensor dq = t.output(200, heads, dim);
              Tensor dk = t.output(220, 2, dim);
              Tensor dv = t.output(220, 2, dim);
              return () -> {
                Attention.forward(context, input, o, lse);
                Attention.backward(context, input, o, lse, dO, dq, dk, dv);
              };
            }));
  }

  /** Policies of sequences that are long enough for tiles that are written first. */
  private static void policiesOnTiles(List<Operation> all, int dim) {
    int rows = 200;
    int heads = 4;
    int most = 150;
    Function<GuardedTensors, AttentionPolicy.Input> inputs =
        t ->
            new AttentionPolicy.Input(
                t.normal(DType.BF16, rows, heads, dim),
                t.normal(DType.BF16, 220, 2, dim),
                t.fixed(offsets(130, 70)),
                t.fixed(offsets(most, 70)),
                most,
                null);
    all.add(
        new Operation(
            "attention_policy on tiles, 4/2 × " + dim,
            (context, t) -> {
              var input = inputs.apply(t);
              var out =
                  new AttentionPolicy.Outputs(
                      t.output(rows), t.output(rows), t.output(heads, rows), t.output(rows, most));
              return () ->
                  AttentionPolicy.forward(context, input, AttentionPolicy.Options.DEFAULT, out);
            }));
    for (Divergence kind : Divergence.values()) {
      all.add(
          new Operation(
              "attention_divergence on tiles " + kind + ", 4/2 × " + dim,
              (context, t) -> {
                var input = inputs.apply(t);
                var reference =
                    new Reference.QueriesKeys(
                        t.normal(DType.BF16, rows, heads, dim), t.normal(DType.BF16, 220, 2, dim));
                var weights =
                    new AttentionDivergence.Weights(
                        t.input(DType.F32, POSITIVE, rows), t.normal(rows), null, t.normal(1));
                var out =
                    new AttentionDivergence.Outputs(
                        t.output(1),
                        t.output(rows),
                        t.output(rows),
                        t.output(rows),
                        t.output(DType.BF16, rows, heads, dim),
                        t.output(DType.BF16, 220, 2, dim),
                        t.output(heads, rows));
                var options = AttentionDivergence.Options.DEFAULT.withKind(kind);
                return () ->
                    AttentionDivergence.forwardBackward(
                        context, input, reference, weights, options, out);
              }));
    }
  }

  private static void attention(List<Operation> all) {
    for (Packed packed :
        List.of(
            new Packed(DType.F32, 4, 2, 32),
            new Packed(DType.F32, 2, 1, 128),
            new Packed(DType.F32, 3, 3, 17),
            new Packed(DType.F32, 4, 2, 32, Packing.FEW_ALIGNED),
            new Packed(DType.F32, 3, 1, 17, Packing.FEW),
            new Packed(DType.F32, 2, 1, 40, Packing.FEW_ALIGNED),
            new Packed(DType.F32, 2, 1, 128, Packing.FEW),
            new Packed(DType.F32, 2, 2, 256, Packing.FEW_ALIGNED))) {
      all.add(
          new Operation(
              "attention" + packed,
              (context, t) -> {
                var input = packed.values(t, null);
                Tensor o = packed.outputQ(t);
                Tensor lse = t.output(packed.heads, packed.rows());
                return () -> Attention.forward(context, input, o, lse);
              }));
      all.add(
          new Operation(
              "attention with a cache" + packed,
              (context, t) -> {
                var input = packed.values(t, packed.lengths(t));
                Tensor o = packed.outputQ(t);
                return () -> Attention.forward(context, input, o, null);
              }));
      all.add(
          new Operation(
              "attention_backward" + packed,
              (context, t) -> {
                var input = packed.values(t, null);
                Tensor dO = packed.q(t);
                Tensor o = packed.outputQ(t);
                Tensor lse = t.output(packed.heads, packed.rows());
                Tensor dq = packed.outputQ(t);
                Tensor dk = packed.outputK(t);
                Tensor dv = packed.outputK(t);
                return () -> {
                  Attention.forward(context, input, o, lse);
                  Attention.backward(context, input, o, lse, dO, dq, dk, dv);
                };
              }));
    }
    for (Packed packed :
        List.of(
            new Packed(DType.F32, 4, 2, 32),
            new Packed(DType.BF16, 2, 1, 128),
            new Packed(DType.F32, 3, 3, 17))) {
      all.add(
          new Operation(
              "attention_policy" + packed,
              (context, t) -> {
                var input = packed.input(t);
                int rows = packed.rows();
                var out =
                    new AttentionPolicy.Outputs(
                        t.output(rows),
                        t.output(rows),
                        t.output(packed.heads, rows),
                        t.output(rows, Packed.MOST_KEYS));
                return () ->
                    AttentionPolicy.forward(context, input, AttentionPolicy.Options.DEFAULT, out);
              }));
      for (Divergence kind : Divergence.values()) {
        divergence(
            all,
            packed,
            kind,
            "queries and keys",
            t -> new Reference.QueriesKeys(packed.q(t), packed.k(t)));
      }
      divergence(
          all,
          packed,
          Divergence.FORWARD_KL,
          "an index",
          t -> new Reference.Index(t.fixed(new int[packed.rows()])));
    }
  }

  private interface ReferenceOf {
    Reference of(GuardedTensors tensors);
  }

  private static void divergence(
      List<Operation> all,
      Packed packed,
      Divergence kind,
      String reference,
      ReferenceOf references) {
    all.add(
        new Operation(
            "attention_divergence " + kind + " from " + reference + packed,
            (context, t) -> {
              var input = packed.input(t);
              Reference from = references.of(t);
              int rows = packed.rows();
              var weights =
                  new AttentionDivergence.Weights(
                      t.input(DType.F32, POSITIVE, rows), t.normal(rows), null, t.normal(1));
              var out =
                  new AttentionDivergence.Outputs(
                      t.output(1),
                      t.output(rows),
                      t.output(rows),
                      t.output(rows),
                      packed.outputQ(t),
                      packed.outputK(t),
                      t.output(packed.heads, rows));
              var options = AttentionDivergence.Options.DEFAULT.withKind(kind);
              return () ->
                  AttentionDivergence.forwardBackward(context, input, from, weights, options, out);
            }));
  }

  private static void optimizer(List<Operation> all) {
    int[] counts = {1, 1003, 64, 0};
    all.add(
        new Operation(
            "adamw",
            (context, t) -> {
              List<AdamW.Parameter> parameters = new ArrayList<>();
              for (int n : counts) {
                parameters.add(
                    new AdamW.Parameter(
                        t.updated(DType.F32, Random::nextGaussian, n),
                        t.normal(n),
                        t.updated(DType.F32, Random::nextGaussian, n),
                        t.updated(DType.F32, POSITIVE, n),
                        t.output(DType.BF16, n),
                        0.1f));
              }
              var scalars =
                  new AdamW.Scalars(
                      t.input(DType.F32, POSITIVE, 1),
                      t.input(DType.F32, POSITIVE, 1),
                      t.input(DType.I64, random -> 1 + random.nextInt(100), 1),
                      t.updated(DType.I32, random -> 0, 1));
              var options = AdamW.Options.of(1e-3f);
              return () -> AdamW.step(context, parameters, options, 1, scalars);
            }));
    all.add(
        new Operation(
            "grad_norm",
            (context, t) -> {
              List<Tensor> gradients = new ArrayList<>();
              for (int n : new int[] {1, 1003, 0, 70_001}) {
                gradients.add(t.normal(n));
              }
              var out = new GradNorm.Outputs(t.output(1), t.output(1));
              return () -> GradNorm.forward(context, gradients, GradNorm.Options.DEFAULT, out);
            }));
    all.add(
        new Operation(
            "gradient_moments_update",
            (context, t) -> {
              var state = state(t, true);
              Tensor samples = t.normal(DType.BF16, 3, MOMENTS);
              Tensor sum = t.output(MOMENTS);
              return () -> GradientMoments.update(context, state, samples, sum);
            }));
    all.add(
        new Operation(
            "gradient_moments_merge",
            (context, t) -> {
              var state = state(t, true);
              var other = state(t, false);
              return () -> GradientMoments.merge(context, state, other);
            }));
    all.add(
        new Operation(
            "gradient_moments_report",
            (context, t) -> {
              var state = state(t, false);
              long[] ends = {0, 7, 7, 500, 1003};
              int[] next = {0};
              Tensor offsets =
                  t.input(DType.I64, random -> ends[next[0]++ % ends.length], ends.length);
              var out =
                  new GradientMoments.Outputs(t.output(4), t.output(4), t.output(4), t.output(4));
              return () -> GradientMoments.report(context, state, offsets, out);
            }));
  }

  private static GradientMoments.State state(GuardedTensors t, boolean updated) {
    ToDoubleFunction<Random> count = random -> 2 + random.nextInt(50);
    return updated
        ? new GradientMoments.State(
            t.updated(DType.I64, count, 1),
            t.updated(DType.F32, Random::nextGaussian, MOMENTS),
            t.updated(DType.F64, POSITIVE, MOMENTS))
        : new GradientMoments.State(
            t.input(DType.I64, count, 1), t.normal(MOMENTS), t.input(DType.F64, POSITIVE, MOMENTS));
  }

  private static void model(List<Operation> all) {
    all.add(
        new Operation(
            "gemm",
            (context, t) -> {
              Tensor a = t.normal(33, 65);
              Tensor b = t.normal(17, 65);
              Tensor c = t.updated(DType.F32, Random::nextGaussian, 33, 17);
              var options = Gemm.Options.DEFAULT.withTransB(true).withBeta(0.5f);
              return () -> Gemm.multiply(context, a, b, options, c);
            }));
    for (int columns : new int[] {1, 37, 1024}) {
      all.add(
          new Operation(
              "rms_norm " + columns,
              (context, t) -> {
                Tensor x = t.normal(ROWS, columns);
                Tensor weight = t.normal(columns);
                var out = new RmsNorm.Outputs(t.output(ROWS, columns), t.output(ROWS));
                return () -> RmsNorm.forward(context, x, weight, 1e-6f, out);
              }));
      all.add(
          new Operation(
              "rms_norm with a residual " + columns,
              (context, t) -> {
                Tensor x = t.updated(DType.F32, Random::nextGaussian, ROWS, columns);
                Tensor residual = t.normal(ROWS, columns);
                Tensor weight = t.normal(columns);
                var out = new RmsNorm.Outputs(t.output(ROWS, columns), t.output(ROWS));
                return () -> RmsNorm.forward(context, x, residual, weight, 1e-6f, out);
              }));
      all.add(
          new Operation(
              "rms_norm_backward " + columns,
              (context, t) -> {
                Tensor x = t.normal(ROWS, columns);
                Tensor weight = t.normal(columns);
                Tensor rstd = t.input(DType.F32, POSITIVE, ROWS);
                Tensor dy = t.normal(ROWS, columns);
                Tensor dx = t.updated(DType.F32, Random::nextGaussian, ROWS, columns);
                Tensor dWeight = t.updated(DType.F32, Random::nextGaussian, columns);
                return () -> RmsNorm.backward(context, x, weight, rstd, dy, dx, dx, dWeight);
              }));
      all.add(
          new Operation(
              "swiglu " + columns,
              (context, t) -> {
                Tensor x = t.normal(ROWS, 2L * columns);
                Tensor y = t.output(ROWS, columns);
                return () -> SwiGlu.forward(context, x, y);
              }));
      all.add(
          new Operation(
              "swiglu_backward " + columns,
              (context, t) -> {
                Tensor x = t.normal(ROWS, 2L * columns);
                Tensor dy = t.normal(ROWS, columns);
                Tensor dx = t.output(ROWS, 2L * columns);
                return () -> SwiGlu.backward(context, x, dy, dx);
              }));
      all.add(
          new Operation(
              "gather_rows " + columns,
              (context, t) -> {
                Tensor x = t.normal(ROWS, columns);
                Tensor index = t.below(ROWS, 20);
                int[] places = new int[20];
                for (int i = 0; i < places.length; i++) {
                  places[i] = 2 * i;
                }
                Tensor outIndex = t.fixed(places);
                Tensor y = t.updated(DType.F32, Random::nextGaussian, 50, columns);
                return () -> GatherRows.gather(context, x, index, outIndex, true, y);
              }));
      all.add(
          new Operation(
              "scatter_add_rows " + columns,
              (context, t) -> {
                Tensor x = t.normal(70, columns);
                Tensor index = t.below(9, 70);
                Tensor y = t.updated(DType.F32, Random::nextGaussian, 9, columns);
                return () -> ScatterAddRows.add(context, x, index, y);
              }));
      all.add(
          new Operation(
              "axpby " + columns,
              (context, t) -> {
                Tensor x = t.normal(ROWS, columns);
                Tensor y = t.updated(DType.F32, Random::nextGaussian, ROWS, columns);
                return () -> Axpby.apply(context, 0.5f, x, -2f, y);
              }));
    }
  }
}
