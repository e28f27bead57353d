package dev.saccade;

import static dev.saccade.AttentionPolicyTest.gaussian;
import static dev.saccade.AttentionPolicyTest.side;
import static dev.saccade.AttentionPolicyTest.unwritten;
import static dev.saccade.Near.assertNear;
import static dev.saccade.Near.largest;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.AttentionDivergence.Options;
import dev.saccade.AttentionDivergence.Outputs;
import dev.saccade.AttentionDivergence.Reference;
import dev.saccade.AttentionDivergence.Weights;
import dev.saccade.AttentionPolicy.Reduction;
import dev.saccade.AttentionPolicy.Support;
import dev.saccade.AttentionPolicyTest.Sequences;
import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_attention_divergence_args;
import dev.saccade.reference.AttentionPolicyReference;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

class AttentionDivergenceTest {
  private static final Options RAL = Options.DEFAULT;

  /** A policy, what it is compared with, the weights of its rows, and the same in double. */
  private static final class Case {
    final Scope scope;
    final Sequences sequences;
    final AttentionPolicy.Input input;
    final Options options;
    final AttentionPolicyReference.Rows rows;
    float[] weight;
    float[] entropyWeight;
    Tensor lse;
    Tensor gradOutput;
    Reference reference;
    AttentionPolicyReference.Reference expected;

    Case(Scope scope, Sequences sequences, AttentionPolicy.Input input, Options options) {
      this.scope = scope;
      this.sequences = sequences;
      this.input = input;
      this.options = options;
      rows = sequences.reference(options.policy());
      weight = new float[sequences.rows()];
      entropyWeight = new float[sequences.rows()];
      Arrays.fill(weight, 1);
    }

    /** Weights of either sign, as advantages are; some rows have none. */
    Case weigh(Random random, boolean divergence, boolean entropy) {
      weight = divergence ? gaussian(random, sequences.rows(), 1) : new float[sequences.rows()];
      entropyWeight = entropy ? gaussian(random, sequences.rows(), 0.5) : null;
      weight[random.nextInt(weight.length)] = 0;
      return this;
    }

    Case compareWith(Reference.Map map) {
      reference = map;
      int ld = (int) map.map().shape(1);
      double[] values = map.map().toDoubles();
      if (!options.policy().compact()) {
        expected = AttentionPolicyReference.map(rows, values, ld);
      } else {
        double[] wide = new double[rows.count() * sequences.longest()];
        for (int row = 0; row < rows.count(); row++) {
          int begin = Math.max(0, sequences.ranges()[2 * rows.sequence(row)]);
          for (int j = begin; j < rows.keys(row) && j - begin < ld; j++) {
            wide[row * sequences.longest() + j] = values[row * ld + j - begin];
          }
        }
        expected = AttentionPolicyReference.map(rows, wide, sequences.longest());
      }
      return this;
    }

    Case compareWith(Reference.QueriesKeys other) {
      reference = other;
      expected =
          AttentionPolicyReference.policy(
              rows, side(other.q(), other.k(), other.scale(), other.headBegin(), other.headEnd()));
      return this;
    }

    Case compareWith(Reference.Index index) {
      reference = index;
      expected = AttentionPolicyReference.index(rows, index.index().toInts());
      return this;
    }

    AttentionPolicyReference.Side policy() {
      AttentionPolicy.Options policy = options.policy();
      return side(input.q(), input.k(), policy.scale(), policy.headBegin(), policy.headEnd());
    }

    AttentionPolicyReference.Loss loss() {
      double[] w = new double[rows.count()];
      double[] e = new double[rows.count()];
      for (int row = 0; row < w.length; row++) {
        w[row] = weight == null ? 0 : weight[row];
        e[row] = entropyWeight == null ? 0 : entropyWeight[row];
      }
      return new AttentionPolicyReference.Loss(
          rows, expected, options.kind(), options.beta(), w, e);
    }

    Weights weights() {
      return new Weights(
          weight == null ? null : Tensor.of(scope, weight),
          entropyWeight == null ? null : Tensor.of(scope, entropyWeight),
          lse,
          gradOutput);
    }

    /** Into tensors that hold 777 before; gradients of type {@code type}. */
    Outputs run(DType type) {
      long n = input.q().shape(0);
      Outputs outputs =
          new Outputs(
              unwritten(scope, DType.F32, 1),
              unwritten(scope, DType.F32, n),
              unwritten(scope, DType.F32, n),
              unwritten(scope, DType.F32, n),
              unwritten(scope, type, input.q().shape()),
              unwritten(scope, type, input.k().shape()),
              unwritten(scope, DType.F32, input.q().shape(1), n));
      run(outputs);
      return outputs;
    }

    void run(Outputs outputs) {
      AttentionDivergence.forwardBackward(
          scope.context(), input, reference, weights(), options, outputs);
    }

    Outputs assertValues(double tolerance) {
      Outputs got = run(DType.F32);
      AttentionPolicyReference.Loss.Values want = loss().values(policy());
      assertNear(
          "divergence", got.divergence().toFloats(), want.divergence(), tolerance, tolerance);
      assertNear("entropy", got.entropy().toFloats(), want.entropy(), tolerance, 3 * tolerance);
      assertNear("mass", got.mass().toFloats(), want.mass(), 2 * tolerance, 0);
      double sum = 0;
      for (int row = 0; row < rows.count(); row++) {
        sum += weight == null ? 0 : Math.abs(weight[row] * want.divergence()[row]);
        sum += entropyWeight == null ? 0 : Math.abs(entropyWeight[row] * want.entropy()[row]);
      }
      assertThat((double) got.loss().item())
          .as("loss")
          .isCloseTo(want.loss(), within(2 * tolerance * (sum + 1e-3)));
      return got;
    }

    /**
     * Compares all results; gradients with the largest of their row, so that rows whose gradient is
     * small count too.
     */
    void assertAgrees(double tolerance) {
      assertAgrees(tolerance, 5 * tolerance);
    }

    void assertAgrees(double tolerance, double ofGradients) {
      assertAgrees(tolerance, ofGradients, loss().gradients(policy()));
    }

    void assertAgrees(
        double tolerance, double ofGradients, AttentionPolicyReference.Loss.Gradients want) {
      Outputs got = assertValues(tolerance);
      assertRows("dq", got.dq().toFloats(), want.dq(), input.q(), ofGradients);
      assertRows("dk", got.dk().toFloats(), want.dk(), input.k(), ofGradients);
      assertNear(
          "dscore_sq",
          got.dscoreSq().toFloats(),
          want.dscoreSq(),
          20 * tolerance,
          tolerance * largest(want.dscoreSq()));
    }
  }

  private static void assertRows(
      String what, float[] got, double[] want, Tensor like, double tolerance) {
    int width = (int) (like.shape(1) * like.shape(2));
    double everywhere = largest(want);
    for (int row = 0; row < like.shape(0); row++) {
      double[] wanted = Arrays.copyOfRange(want, row * width, row * width + width);
      assertNear(
          what + " of row " + row,
          Arrays.copyOfRange(got, row * width, row * width + width),
          wanted,
          0,
          tolerance * (largest(wanted) + 1e-2 * everywhere));
    }
  }

  /** The policy of other queries and keys, which {@code apart} says how far they are. */
  private static Reference.QueriesKeys old(
      Scope scope, AttentionPolicy.Input input, Random random, double apart) {
    Tensor[] other = new Tensor[2];
    for (int x = 0; x < 2; x++) {
      Tensor from = x == 0 ? input.q() : input.k();
      float[] values = from.toFloats();
      for (int i = 0; i < values.length; i++) {
        values[i] += (float) (apart * random.nextGaussian());
      }
      other[x] = Tensor.of(scope, from.dtype(), values, from.shape());
    }
    return new Reference.QueriesKeys(other[0], other[1]);
  }

  private static Reference.QueriesKeys teacher(
      Scope scope, Sequences sequences, Random random, DType dtype, int heads, int begin, int end) {
    AttentionPolicy.Input other = sequences.random(scope, random, dtype, heads, 2, 11, 1.2);
    return new Reference.QueriesKeys(other.q(), other.k(), 0.4f, begin, end, null);
  }

  private static Tensor mapOf(
      Scope scope,
      Sequences sequences,
      Reference.QueriesKeys other,
      AttentionPolicy.Options options,
      DType dtype,
      int ld) {
    Tensor map = Tensor.empty(scope, dtype, sequences.rows(), ld);
    AttentionPolicy.forward(
        scope.context(),
        sequences.input(scope, other.q(), other.k()),
        options
            .withScale(other.scale())
            .withHeads(other.headBegin(), other.headEnd())
            .withReduction(Reduction.MEAN),
        new AttentionPolicy.Outputs(null, null, null, map));
    return map;
  }

  /** Sampled keys of the sequence; some rows have none, some sampled one off the support. */
  private static Reference.Index sampled(Scope scope, Sequences sequences, Random random) {
    int[] index = new int[sequences.rows()];
    int row = 0;
    for (int s = 0; s < sequences.queries().length; s++) {
      for (int i = 0; i < sequences.queries()[s]; i++, row++) {
        int keys = sequences.keys()[s];
        index[row] = keys == 0 || random.nextInt(5) == 0 ? -1 : random.nextInt(keys);
      }
    }
    return new Reference.Index(Tensor.of(scope, index));
  }

  private static Case compare(Case c, String with, Random random) {
    AttentionPolicy.Options policy = c.options.policy();
    Reference.QueriesKeys old = old(c.scope, c.input, random, 0.4);
    int begin = policy.headBegin();
    int end = policy.headEnd();
    Reference.QueriesKeys inRange =
        new Reference.QueriesKeys(old.q(), old.k(), policy.scale(), begin, end, null);
    int ld = policy.compact() ? 26 : c.sequences.longest();
    return switch (with) {
      case "map" ->
          c.compareWith(
              new Reference.Map(mapOf(c.scope, c.sequences, inRange, policy, DType.F32, ld + 3)));
      case "bf16 map" ->
          c.compareWith(
              new Reference.Map(mapOf(c.scope, c.sequences, inRange, policy, DType.BF16, ld)));
      case "old policy" -> c.compareWith(inRange);
      case "teacher" ->
          c.compareWith(
              teacher(
                  c.scope,
                  c.sequences,
                  random,
                  c.input.q().dtype(),
                  6,
                  1,
                  policy.reduction() == Reduction.NONE ? 1 + end - begin : 5));
      case "index" -> c.compareWith(sampled(c.scope, c.sequences, random));
      default -> throw new IllegalArgumentException(with);
    };
  }

  // ---------------------------------------------------------------------------------------
  // accuracy

  /** Every divergence with every kind of reference, over every support, for both reductions. */
  @ParameterizedTest
  @CsvSource({
    "JSD, 0.5, map, PREVIOUS, MEAN",
    "JSD, 0.5, map, ALL, MEAN",
    "JSD, 0.5, map, RANGES, MEAN",
    "JSD, 0.1, map, PREVIOUS, MEAN",
    "FORWARD_KL, 0, map, PREVIOUS, MEAN",
    "REVERSE_KL, 0, map, PREVIOUS, MEAN",
    "JSD, 0.5, bf16 map, PREVIOUS, MEAN",
    "FORWARD_KL, 0, bf16 map, ALL, MEAN",
    "REVERSE_KL, 0, bf16 map, RANGES, MEAN",
    "JSD, 0.5, old policy, PREVIOUS, MEAN",
    "JSD, 0.5, old policy, PREVIOUS, NONE",
    "JSD, 0.1, old policy, RANGES, NONE",
    "FORWARD_KL, 0, old policy, ALL, NONE",
    "REVERSE_KL, 0, old policy, RANGES, MEAN",
    "JSD, 0.9, teacher, ALL, MEAN",
    "JSD, 0.5, teacher, PREVIOUS, NONE",
    "FORWARD_KL, 0, teacher, RANGES, MEAN",
    "REVERSE_KL, 0, teacher, PREVIOUS, NONE",
    "FORWARD_KL, 0, index, PREVIOUS, MEAN",
    "FORWARD_KL, 0, index, ALL, NONE",
    "JSD, 0.5, index, RANGES, MEAN",
    "REVERSE_KL, 0, index, PREVIOUS, MEAN"
  })
  void agreesWithDoublePrecisionOnEveryInstructionSet(
      Divergence kind, float beta, String with, Support support, Reduction reduction) {
    Sequences sequences = Sequences.RAGGED;
    for (Context context : Contexts.every()) {
      for (int[] heads : new int[][] {{0, 4}, {1, 3}}) {
        try (Scope scope = context.scope()) {
          Random random = new Random(heads[0] + 7);
          Options options =
              new Options(
                  AttentionPolicy.Options.DEFAULT
                      .withSupport(support)
                      .withReduction(reduction)
                      .withHeads(heads[0], heads[1]),
                  kind,
                  beta);
          AttentionPolicy.Input input = sequences.random(scope, random, DType.F32, 4, 2, 8, 1);
          compare(new Case(scope, sequences, input, options), with, random)
              .weigh(random, true, heads[0] == 1)
              .assertAgrees(2e-6);
        }
      }
      context.close();
    }
  }

  /** Dimensions around the widest vector and the largest, groupings of heads. */
  @ParameterizedTest
  @CsvSource({
    "2, 1, 1",
    "6, 2, 5",
    "4, 4, 16",
    "3, 1, 17",
    "4, 2, 80",
    "4, 2, 96",
    "2, 2, 128",
    "3, 1, 200",
    "2, 1, 256",
    "1, 1, 8"
  })
  void agreesForEveryDimensionAndGrouping(int heads, int kvHeads, int dim) {
    Sequences sequences = Sequences.RAGGED;
    for (Context context : Contexts.every()) {
      for (Reduction reduction : Reduction.values()) {
        try (Scope scope = context.scope()) {
          Random random = new Random(dim);
          Options options =
              RAL.withPolicy(
                  AttentionPolicy.Options.DEFAULT
                      .withSupport(Support.ALL)
                      .withReduction(reduction));
          AttentionPolicy.Input input =
              sequences.random(scope, random, DType.F32, heads, kvHeads, dim, 1);
          new Case(scope, sequences, input, options)
              .compareWith(old(scope, input, random, 0.4))
              .weigh(random, true, true)
              .assertAgrees(2e-6);
        }
      }
      context.close();
    }
  }

  /** q and k themselves are perturbed: nothing of the chain rule is taken for granted. */
  @ParameterizedTest
  @CsvSource({
    "JSD, 0.5, map, true, false", "JSD, 0.1, teacher, true, false",
    "FORWARD_KL, 0, old policy, true, false", "REVERSE_KL, 0, map, true, false",
    "FORWARD_KL, 0, index, true, false", "JSD, 0.5, map, false, true",
    "JSD, 0.5, teacher, true, true"
  })
  void gradientsAgreeWithFiniteDifferences(
      Divergence kind, float beta, String with, boolean divergence, boolean entropy) {
    Sequences sequences = Sequences.RAGGED;
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      for (Reduction reduction : Reduction.values()) {
        if (reduction == Reduction.NONE && with.equals("map")) {
          continue;
        }
        Random random = new Random(21);
        Options options =
            new Options(
                AttentionPolicy.Options.DEFAULT.withReduction(reduction).withHeads(1, 4),
                kind,
                beta);
        AttentionPolicy.Input input = sequences.random(scope, random, DType.F32, 4, 2, 5, 1);
        Case c =
            compare(new Case(scope, sequences, input, options), with, random)
                .weigh(random, divergence, entropy);
        Outputs got = c.run(DType.F32);
        AttentionPolicyReference.Side policy = c.policy();
        for (boolean ofQueries : new boolean[] {true, false}) {
          float[] gradient = (ofQueries ? got.dq() : got.dk()).toFloats();
          double[] want = new double[gradient.length];
          for (int i = 0; i < want.length; i++) {
            want[i] = c.loss().difference(policy, ofQueries, i, 1e-5);
          }
          assertNear(ofQueries ? "dq" : "dk", gradient, want, 0, 3e-6 * largest(want));
        }
      }
    }
  }

  @Test
  void compactMapsBeginAtTheRange() {
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Sequences sequences = Sequences.RAGGED;
        Random random = new Random(22);
        Options options =
            RAL.withPolicy(
                AttentionPolicy.Options.DEFAULT
                    .withSupport(Support.RANGES)
                    .withCompact(true)
                    .withHeads(0, 4));
        AttentionPolicy.Input input = sequences.random(scope, random, DType.F32, 4, 2, 8, 1);
        compare(new Case(scope, sequences, input, options), "map", random)
            .weigh(random, true, true)
            .assertAgrees(2e-6);
        compare(new Case(scope, sequences, input, options), "bf16 map", random)
            .weigh(random, true, false)
            .assertAgrees(2e-6);
      }
    }
  }

  /** A policy a thousandth away: f32 must not lose the divergence in the difference. */
  @ParameterizedTest
  @CsvSource({
    "JSD, 0.5, MEAN",
    "JSD, 0.1, MEAN",
    "FORWARD_KL, 0, MEAN",
    "REVERSE_KL, 0, MEAN",
    "JSD, 0.5, NONE",
    "FORWARD_KL, 0, NONE"
  })
  void nearlyEqualPoliciesKeepTheirDivergenceAndGradient(
      Divergence kind, float beta, Reduction reduction) {
    Sequences sequences =
        new Sequences(new int[] {8, 11}, new int[] {33, 60}, new int[] {0, 30, 5, 50});
    for (Context context : Contexts.every()) {
      for (Support support : Support.values()) {
        try (Scope scope = context.scope()) {
          Random random = new Random(23);
          Options options =
              new Options(
                  AttentionPolicy.Options.DEFAULT.withSupport(support).withReduction(reduction),
                  kind,
                  beta);
          AttentionPolicy.Input input = sequences.random(scope, random, DType.F32, 4, 2, 16, 1);
          float[] q = input.q().toFloats();
          for (int i = 0; i < q.length; i++) {
            q[i] += (float) (1e-3 * random.nextGaussian());
          }
          Reference.QueriesKeys old =
              new Reference.QueriesKeys(Tensor.of(scope, q, input.q().shape()), input.k());
          List<Case> cases = new ArrayList<>();
          cases.add(new Case(scope, sequences, input, options).compareWith(old));
          if (reduction == Reduction.MEAN) {
            Tensor map =
                mapOf(scope, sequences, old, options.policy(), DType.F32, sequences.longest());
            cases.add(
                new Case(scope, sequences, input, options).compareWith(new Reference.Map(map)));
          }
          for (Case c : cases) {
            Outputs got = c.run(DType.F32);
            double[] want = c.loss().values(c.policy()).divergence();
            assertThat(largest(want)).isBetween(1e-8, 2e-6);
            assertNear("divergence", got.divergence().toFloats(), want, 1e-3, 0);
            AttentionPolicyReference.Loss.Gradients gradients = c.loss().gradients(c.policy());
            double[] dq = gradients.dq();
            double[] dk = gradients.dk();
            assertNear("dq", got.dq().toFloats(), dq, 0, 1e-3 * largest(dq));
            assertNear("dk", got.dk().toFloats(), dk, 0, 1e-3 * largest(dk));
          }
        }
      }
      context.close();
    }
  }

  @ParameterizedTest
  @EnumSource(Reduction.class)
  void equalPoliciesHaveNoDivergenceAndNoGradient(Reduction reduction) {
    Sequences sequences = Sequences.RAGGED;
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      AttentionPolicy.Input input = sequences.random(scope, new Random(24), DType.F32, 4, 2, 8, 1);
      for (Divergence kind : Divergence.values()) {
        Options options =
            RAL.withKind(kind).withPolicy(AttentionPolicy.Options.DEFAULT.withReduction(reduction));
        Outputs got =
            new Case(scope, sequences, input, options)
                .compareWith(new Reference.QueriesKeys(input.q(), input.k()))
                .run(DType.F32);
        assertThat(got.divergence().toFloats()).containsOnly(0f);
        assertThat(got.loss().item()).isZero();
        for (Tensor gradient : List.of(got.dq(), got.dk())) {
          for (float x : gradient.toFloats()) {
            assertThat(x).isCloseTo(0, within(kind == Divergence.FORWARD_KL ? 1e-6f : 0f));
          }
        }
      }
    }
  }

  /** Heads that are all but certain of a key, and of another one than the reference. */
  @ParameterizedTest
  @ValueSource(doubles = {4, 12})
  void sharpPoliciesKeepTheirAccuracy(double deviation) {
    Sequences sequences = Sequences.RAGGED;
    for (Context context : Contexts.every()) {
      for (Divergence kind : new Divergence[] {Divergence.JSD, Divergence.REVERSE_KL}) {
        for (Reduction reduction : Reduction.values()) {
          try (Scope scope = context.scope()) {
            Random random = new Random(25);
            AttentionPolicy.Input input =
                sequences.random(scope, random, DType.F32, 4, 2, 1, Math.sqrt(deviation));
            Options options =
                RAL.withKind(kind)
                    .withPolicy(
                        AttentionPolicy.Options.DEFAULT
                            .withReduction(reduction)
                            .withSupport(Support.ALL));
            new Case(scope, sequences, input, options)
                .compareWith(old(scope, input, random, 0.3))
                .weigh(random, true, true)
                .assertAgrees(4e-5);
          }
        }
      }
      context.close();
    }
  }

  @ParameterizedTest
  @CsvSource({
    "JSD, 0.5, map, MEAN",
    "JSD, 0.2, old policy, NONE",
    "FORWARD_KL, 0, index, MEAN",
    "FORWARD_KL, 0, old policy, NONE",
    "REVERSE_KL, 0, teacher, MEAN"
  })
  void theFormulaOfTheGradientAgreesWithDifferences(
      Divergence kind, float beta, String with, Reduction reduction) {
    Sequences sequences = Sequences.RAGGED;
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      for (Support support : Support.values()) {
        Random random = new Random(50);
        Options options =
            new Options(
                AttentionPolicy.Options.DEFAULT
                    .withSupport(support)
                    .withReduction(reduction)
                    .withHeads(1, 4),
                kind,
                beta);
        AttentionPolicy.Input input = sequences.random(scope, random, DType.F32, 4, 2, 8, 1);
        Case c =
            compare(new Case(scope, sequences, input, options), with, random)
                .weigh(random, true, true);
        AttentionPolicyReference.Loss.Gradients formula = c.loss().formula(c.policy());
        AttentionPolicyReference.Loss.Gradients differences = c.loss().gradients(c.policy());
        double[][][] pairs = {
          {formula.dq(), differences.dq()},
          {formula.dk(), differences.dk()},
          {formula.dscoreSq(), differences.dscoreSq()}
        };
        for (double[][] pair : pairs) {
          double tolerance = 1e-8 * largest(pair[1]);
          assertThat(pair[0]).usingElementComparator(near(tolerance)).containsExactly(pair[1]);
        }
      }
    }
  }

  private static Comparator<Double> near(double tolerance) {
    return (a, b) -> Math.abs(a - b) <= tolerance ? 0 : Double.compare(a, b);
  }

  /**
   * Heads of f32 that leave hardly anything to most keys, of which the gradient of every key is to
   * be right, relative to its own size: scores spread over a hundred, exponentials of their
   * differences.
   */
  @ParameterizedTest
  @CsvSource({
    "map, JSD, false",
    "map, JSD, true",
    "old policy, JSD, false",
    "old policy, JSD, true",
    "old policy, REVERSE_KL, false",
    "old policy, FORWARD_KL, true"
  })
  void verySharpPoliciesKeepTheGradientsOfFaintKeys(
      String with, Divergence kind, boolean givenLse) {
    Sequences sequences = new Sequences(new int[] {31}, new int[] {200}, new int[] {0, 1});
    int dim = 64;
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Random random = new Random(51);
        AttentionPolicy.Options policy =
            AttentionPolicy.Options.DEFAULT.withSupport(Support.ALL).withScale(0.125f);
        AttentionPolicy.Input input =
            sequences.input(
                scope,
                Tensor.of(scope, gaussian(random, 31 * 4 * dim, 20), 31, 4, dim),
                Tensor.of(scope, gaussian(random, 200 * 2 * dim, 1), 200, 2, dim));
        Case c =
            compare(
                new Case(scope, sequences, input, new Options(policy, kind, 0.5f)), with, random);
        c.weight = gaussian(random, 31, 1);
        if (givenLse) {
          c.lse = AttentionPolicy.forward(scope, input, policy).lse();
        }
        Outputs got = c.run(DType.F32);
        AttentionPolicyReference.Loss.Values values = c.loss().values(c.policy());
        assertNear("divergence", got.divergence().toFloats(), values.divergence(), 2e-4, 1e-5);
        assertNear("entropy", got.entropy().toFloats(), values.entropy(), 2e-4, 1e-5);
        assertNear("mass", got.mass().toFloats(), values.mass(), 2e-4, 1e-5);
        AttentionPolicyReference.Loss.Gradients want = c.loss().formula(c.policy());
        assertHeads("dq", got.dq(), want.dq());
        assertHeads("dk", got.dk(), want.dk());
      }
    }
  }

  /**
   * A key hardly above 2^-126: r / p times a weight and a loss scale is beyond f32, r P / p is not.
   */
  @ParameterizedTest
  @EnumSource(Reduction.class)
  void forwardKlOfTheFaintestKeysHasItsGradient(Reduction reduction) {
    int rows = 19;
    int[] queries = new int[rows];
    int[] keys = new int[rows];
    Arrays.fill(queries, 1);
    Arrays.fill(keys, 2);
    Sequences sequences = new Sequences(queries, keys, new int[2 * rows]);
    float[] k = new float[2 * rows];
    int[] index = new int[rows];
    for (int row = 0; row < rows; row++) {
      k[2 * row] = 1;
      k[2 * row + 1] = -85 - 0.07f * row;
      index[row] = 1;
    }
    Options options =
        new Options(
            AttentionPolicy.Options.DEFAULT
                .withSupport(Support.ALL)
                .withReduction(reduction)
                .withScale(1),
            Divergence.FORWARD_KL,
            0);
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        float[] q = new float[2 * rows];
        Arrays.fill(q, 1);
        Case c =
            new Case(
                    scope,
                    sequences,
                    sequences.input(
                        scope,
                        Tensor.of(scope, q, rows, 2, 1),
                        Tensor.of(scope, k, 2 * rows, 1, 1)),
                    options)
                .compareWith(new Reference.Index(Tensor.of(scope, index)));
        for (int row = 0; row < rows; row++) {
          c.weight[row] = row % 2 == 0 ? 64 : -0.5f;
        }
        c.gradOutput = Tensor.of(scope, new float[] {1024});
        Outputs got = c.run(DType.F32);
        AttentionPolicyReference.Loss.Gradients want = c.loss().formula(c.policy());
        for (int i = 0; i < want.dq().length; i++) {
          want.dq()[i] *= 1024;
          want.dk()[i] *= 1024;
        }
        assertNear("dq", got.dq().toFloats(), want.dq(), 1e-5, 0);
        assertNear("dk", got.dk().toFloats(), want.dk(), 1e-5, 0);
      }
    }
  }

  /** Each row and head by itself, with the largest of its elements. */
  private static void assertHeads(String what, Tensor got, double[] want) {
    int dim = (int) got.shape(2);
    float[] values = got.toFloats();
    for (int at = 0; at < want.length; at += dim) {
      double[] wanted = Arrays.copyOfRange(want, at, at + dim);
      assertNear(
          what + " of " + at / dim,
          Arrays.copyOfRange(values, at, at + dim),
          wanted,
          2e-4,
          1e-12 + 5e-5 * largest(wanted));
    }
  }

  /** More keys than one f32 sum may have. */
  @ParameterizedTest
  @EnumSource(Divergence.class)
  void longRowsKeepTheirAccuracy(Divergence kind) {
    Sequences sequences = new Sequences(new int[] {2}, new int[] {70_000}, new int[] {0, 1});
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Random random = new Random(26);
      AttentionPolicy.Input input = sequences.random(scope, random, DType.F32, 2, 1, 4, 0.8);
      Case c =
          new Case(scope, sequences, input, RAL.withKind(kind))
              .compareWith(old(scope, input, random, 0.3))
              .weigh(random, true, true);
      Outputs got = c.assertValues(3e-6);
      AttentionPolicyReference.Side policy = c.policy();
      double[] want = new double[2 * 2 * 4];
      for (int i = 0; i < want.length; i++) {
        want[i] = c.loss().difference(policy, true, i, 1e-3);
      }
      assertNear("dq", got.dq().toFloats(), want, 0, 2e-5 * largest(want));
      float[] dk = got.dk().toFloats();
      double most = 0;
      for (float x : dk) {
        most = Math.max(most, Math.abs(x));
      }
      for (int i = 0; i < 40; i++) {
        int at = random.nextInt(dk.length);
        assertThat((double) dk[at])
            // A step as long as that keeps the rounding of 70,000 terms below what is compared.
            .isCloseTo(c.loss().difference(policy, false, at, 1e-3), within(2e-5 * most));
      }
    }
  }

  /** Many rows and heads share a key: more terms than one f32 sum of its gradient may have. */
  @Test
  void tallProblemsKeepTheirAccuracy() {
    Sequences sequences = new Sequences(new int[] {1500}, new int[] {1503}, new int[] {0, 4});
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Random random = new Random(27);
      AttentionPolicy.Input input = sequences.random(scope, random, DType.F32, 4, 1, 1, 1);
      Options options = RAL.withPolicy(AttentionPolicy.Options.DEFAULT.withSupport(Support.RANGES));
      Case c =
          new Case(scope, sequences, input, options).compareWith(old(scope, input, random, 0.3));
      c.weight = gaussian(random, 1500, 1);
      Outputs got = c.run(DType.F32);
      AttentionPolicyReference.Side policy = c.policy();
      float[] dk = got.dk().toFloats();
      double[] want = new double[3];
      for (int i = 0; i < want.length; i++) {
        want[i] = c.loss().difference(policy, false, i, 1e-4);
      }
      assertNear("dk", Arrays.copyOf(dk, 3), want, 0, 2e-5 * largest(want));
    }
  }

  // -------------------------------------------------------------------------------------- the
  // policy

  /** Entropy and mass are those of attention_policy, whose lse may be given. */
  @ParameterizedTest
  @EnumSource(Reduction.class)
  void policyAndNormaliserAreThoseOfAttentionPolicy(Reduction reduction) {
    Sequences sequences = Sequences.RAGGED;
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Random random = new Random(28);
        AttentionPolicy.Input input = sequences.random(scope, random, DType.F32, 4, 2, 8, 1);
        Options options = RAL.withPolicy(AttentionPolicy.Options.DEFAULT.withReduction(reduction));
        Reference.QueriesKeys old = old(scope, input, random, 0.4);
        Case c = new Case(scope, sequences, input, options).compareWith(old);
        Outputs plain = c.weigh(random, true, true).run(DType.F32);
        AttentionPolicy.Outputs policy = AttentionPolicy.forward(scope, input, options.policy());
        assertNear("mass", plain.mass().toFloats(), policy.mass().toDoubles(), 3e-7, 0);
        assertNear("entropy", plain.entropy().toFloats(), policy.entropy().toDoubles(), 0, 1e-6);

        // A given lse stands in for the largest score: neither its rounding nor an error matters.
        Tensor oldLse =
            AttentionPolicy.forward(
                    scope, sequences.input(scope, old.q(), old.k()), options.policy())
                .lse();
        for (float error : new float[] {0, 0.7f, -3}) {
          c.lse = added(scope, policy.lse(), error);
          c.reference =
              new Reference.QueriesKeys(
                  old.q(), old.k(), Float.NaN, 0, -1, added(scope, oldLse, 2 * error));
          c.assertAgrees(2e-6);
        }

        if (Contexts.CUDA) {
          continue; // which finds the largest scores itself
        }
        // It is used, though.
        float[] broken = policy.lse().toFloats();
        broken[5] = Float.NaN; // head 0, row 5
        c.lse = Tensor.of(scope, broken, policy.lse().shape());
        float[] divergence = c.run(DType.F32).divergence().toFloats();
        for (int row = 0; row < divergence.length; row++) {
          assertThat(Float.isNaN(divergence[row])).as("row %d", row).isEqualTo(row == 5);
        }
      }
    }
  }

  private static Tensor added(Scope scope, Tensor x, float y) {
    float[] values = x.toFloats();
    for (int i = 0; i < values.length; i++) {
      values[i] += y;
    }
    return Tensor.of(scope, values, x.shape());
  }

  @Test
  void headsOutsideTheRangeHaveNoGradient() {
    Sequences sequences = Sequences.RAGGED;
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Random random = new Random(29);
      AttentionPolicy.Input input = sequences.random(scope, random, DType.F32, 6, 3, 8, 1);
      for (Reduction reduction : Reduction.values()) {
        Options options =
            RAL.withPolicy(
                AttentionPolicy.Options.DEFAULT.withReduction(reduction).withHeads(3, 5));
        Reference.QueriesKeys old = old(scope, input, random, 0.4);
        Outputs got =
            new Case(scope, sequences, input, options)
                .compareWith(new Reference.QueriesKeys(old.q(), old.k(), Float.NaN, 3, 5, null))
                .run(DType.F32);
        int n = sequences.rows();
        for (int h = 0; h < 6; h++) {
          Tensor dq = got.dq().reshape(n, 48).columns(h * 8, h * 8 + 8);
          float[] dscoreSq = got.dscoreSq().rows(h, h + 1).toFloats();
          if (h < 3 || h >= 5) {
            assertThat(dq.toFloats()).containsOnly(0f);
            assertThat(dscoreSq).containsOnly(0f);
          } else {
            assertThat(largest(dq.toDoubles())).isPositive();
          }
        }
        // Key head 0 serves the query heads 0 and 1 alone.
        assertThat(got.dk().reshape(sequences.keyRows(), 24).columns(0, 8).toFloats())
            .containsOnly(0f);
        assertThat(largest(got.dk().reshape(sequences.keyRows(), 24).columns(8, 24).toDoubles()))
            .isPositive();
      }
    }
  }

  // -------------------------------------------------------------------------------------------
  // rows

  /** No key, only the own one, another one alone, two others. */
  @ParameterizedTest
  @EnumSource(Reduction.class)
  void deadPoliciesAndSupportsOfOneTokenHaveNoGradient(Reduction reduction) {
    Sequences sequences = new Sequences(new int[] {4}, new int[] {3}, new int[] {0, 1});
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Random random = new Random(30);
        AttentionPolicy.Input input = sequences.random(scope, random, DType.F32, 4, 2, 8, 1);
        Options options = RAL.withPolicy(AttentionPolicy.Options.DEFAULT.withReduction(reduction));
        Case c =
            new Case(scope, sequences, input, options)
                .compareWith(old(scope, input, random, 0.4))
                .weigh(random, true, true);
        c.assertAgrees(2e-6);
        Outputs got = c.run(DType.F32);
        for (int row = 0; row < 3; row++) {
          assertThat(got.divergence().toFloats()[row]).isCloseTo(0, within(1e-12f));
          assertThat(got.entropy().toFloats()[row]).isCloseTo(0, within(1e-6f));
          assertThat(got.mass().toFloats()[row] > 0).isEqualTo(row == 2);
          assertThat(got.dq().rows(row, row + 1).toFloats()).containsOnly(0f);
        }
        assertThat(largest(got.dq().rows(3, 4).toDoubles())).isPositive();
      }
    }
  }

  @Test
  void rowsWhoseSupportHoldsNextToNothingAreDead() {
    Sequences sequences = new Sequences(new int[] {2}, new int[] {3}, new int[] {0, 1});
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      // The last row's own position holds all but e^-60.
      AttentionPolicy.Input input =
          sequences.input(
              scope,
              Tensor.of(scope, new float[] {1, 1}, 2, 1, 1),
              Tensor.of(scope, new float[] {0, 1, 60}, 3, 1, 1));
      Case c =
          new Case(scope, sequences, input, RAL)
              .compareWith(
                  new Reference.Map(Tensor.of(scope, new float[] {1, 0, 0, 0.9f, 0.1f, 0}, 2, 3)));
      c.entropyWeight = new float[] {1, 1};
      Outputs got = c.run(DType.F32);
      assertThat(got.divergence().toFloats()[1]).isZero();
      assertThat(got.entropy().toFloats()[1]).isZero();
      assertThat(got.mass().toFloats()[1]).isZero();
      assertThat(got.dq().toFloats()[1]).isZero();
      assertThat(got.dscoreSq().toFloats()[1]).isZero();
    }
  }

  /** An all-zero map, a dead policy, -1, a key off the support: entropy and mass remain. */
  @ParameterizedTest
  @ValueSource(strings = {"map", "old policy", "index"})
  void rowsWithoutAReferenceHaveTheirEntropyAlone(String with) {
    Sequences sequences = new Sequences(new int[] {4}, new int[] {6}, new int[] {0, 1});
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Random random = new Random(31);
        AttentionPolicy.Input input = sequences.random(scope, random, DType.F32, 4, 2, 8, 1);
        Case c = new Case(scope, sequences, input, RAL);
        Reference.QueriesKeys old = old(scope, input, random, 0.4);
        switch (with) {
          case "map" -> {
            Tensor map =
                mapOf(scope, sequences, old, AttentionPolicy.Options.DEFAULT, DType.F32, 6);
            map.rows(1, 3).zero();
            c.compareWith(new Reference.Map(map));
          }
          case "old policy" -> {
            // Rows 1 and 2 put all but e^-200 on themselves; keys 3 and 4 are theirs.
            float[] k = old.k().toFloats();
            float[] q = old.q().toFloats();
            for (int row = 0; row < 4; row++) {
              for (int h = 0; h < 4; h++) {
                boolean dead = row == 1 || row == 2;
                q[(row * 4 + h) * 8] = dead && row == 1 ? 100 : 0;
                q[(row * 4 + h) * 8 + 1] = dead && row == 2 ? 100 : 0;
              }
            }
            for (int j = 0; j < 6; j++) {
              for (int h = 0; h < 2; h++) {
                k[(j * 2 + h) * 8] = j == 3 ? 10 : 0;
                k[(j * 2 + h) * 8 + 1] = j == 4 ? 10 : 0;
              }
            }
            c.compareWith(
                new Reference.QueriesKeys(
                    Tensor.of(scope, q, 4, 4, 8), Tensor.of(scope, k, 6, 2, 8)));
          }
          default ->
              c.compareWith(
                  // Row 2 is at position 4, which PREVIOUS leaves out.
                  new Reference.Index(Tensor.of(scope, new int[] {0, -1, 4, 2})));
        }
        c.assertAgrees(2e-6);
        Outputs alone = c.run(DType.F32);
        for (int row = 0; row < 4; row++) {
          boolean none = row == 1 || row == 2;
          assertThat(alone.divergence().toFloats()[row] == 0).isEqualTo(none);
          assertThat(largest(alone.dq().rows(row, row + 1).toDoubles()) == 0).isEqualTo(none);
          assertThat(alone.mass().toFloats()[row]).isPositive();
          assertThat(alone.entropy().toFloats()[row]).isPositive();
        }
        c.weigh(random, true, true).assertAgrees(2e-6);
        assertThat(largest(c.run(DType.F32).dq().rows(1, 2).toDoubles())).isPositive();
      }
    }
  }

  @Test
  void sampledPositionsGiveTheirNegativeLogProbability() {
    Sequences sequences = new Sequences(new int[] {3}, new int[] {9}, new int[] {0, 9});
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      AttentionPolicy.Input input = sequences.random(scope, new Random(32), DType.F32, 4, 2, 8, 1);
      float[] map =
          AttentionPolicy.forward(scope, input, AttentionPolicy.Options.DEFAULT).map().toFloats();
      Outputs got =
          new Case(scope, sequences, input, RAL.withKind(Divergence.FORWARD_KL))
              .compareWith(new Reference.Index(Tensor.of(scope, new int[] {0, 3, 5})))
              .run(DType.F32);
      for (int row = 0; row < 3; row++) {
        int sampled = new int[] {0, 3, 5}[row];
        assertThat((double) got.divergence().toFloats()[row])
            .isCloseTo(-Math.log(map[row * 9 + sampled]), within(2e-6));
      }
    }
  }

  /** A key that the sequence does not have is never read: its row is NaN, no other one. */
  @Test
  void badSampledPositionsGiveNanInTheirRow() {
    Sequences sequences = new Sequences(new int[] {3, 2}, new int[] {9, 4}, new int[] {0, 9, 0, 9});
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        AttentionPolicy.Input input =
            sequences.random(scope, new Random(33), DType.F32, 4, 2, 8, 1);
        for (int bad : new int[] {9, -2, Integer.MAX_VALUE, Integer.MIN_VALUE}) {
          Outputs got =
              new Case(scope, sequences, input, RAL)
                  .compareWith(new Reference.Index(Tensor.of(scope, new int[] {1, bad, 2, 0, 1})))
                  .run(DType.F32);
          for (int row = 0; row < 5; row++) {
            assertThat(Float.isNaN(got.divergence().toFloats()[row])).isEqualTo(row == 1);
            assertThat(got.entropy().toFloats()[row]).isFinite();
            boolean nan = Double.isNaN(sum(got.dq().rows(row, row + 1)));
            assertThat(nan).isEqualTo(row == 1);
          }
          assertThat(sum(got.dk().rows(0, 9))).isNaN();
          assertThat(sum(got.dk().rows(9, 13))).isFinite();
          assertThat(got.loss().item()).isNaN();
        }
      }
    }
  }

  private static double sum(Tensor tensor) {
    return Arrays.stream(tensor.toDoubles()).sum();
  }

  // ----------------------------------------------------------------------------------------
  // weights

  @Test
  void withoutWeightsThereIsNothingToLoseButValuesAreGiven() {
    Sequences sequences = Sequences.RAGGED;
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Random random = new Random(34);
      AttentionPolicy.Input input = sequences.random(scope, random, DType.F32, 4, 2, 8, 1);
      Case c = new Case(scope, sequences, input, RAL).compareWith(old(scope, input, random, 0.4));
      c.weight = null;
      c.entropyWeight = null;
      Outputs got = c.assertValues(2e-6);
      assertThat(got.loss().item()).isZero();
      for (Tensor tensor : List.of(got.dq(), got.dk(), got.dscoreSq())) {
        assertThat(tensor.toFloats()).containsOnly(0f);
      }
    }
  }

  @ParameterizedTest
  @EnumSource(Reduction.class)
  void inactiveRowsMayHoldAnything(Reduction reduction) {
    Sequences sequences =
        new Sequences(new int[] {6, 5}, new int[] {20, 5}, new int[] {0, 9, 0, 9});
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Random random = new Random(35);
        Options options = RAL.withPolicy(AttentionPolicy.Options.DEFAULT.withReduction(reduction));
        AttentionPolicy.Input input = sequences.random(scope, random, DType.F32, 4, 2, 8, 1);
        Reference.QueriesKeys old = old(scope, input, random, 0.4);
        Case c = new Case(scope, sequences, input, options).compareWith(old);
        c.weigh(random, true, true);
        for (int row : new int[] {0, 3, 8}) {
          c.weight[row] = 0;
          c.entropyWeight[row] = 0;
        }
        Outputs clean = c.run(DType.F32);
        // Also what makes scores so large that f32 would not do for them.
        for (float bad : new float[] {1000f, 1e30f, Float.NaN, Float.NEGATIVE_INFINITY}) {
          float[] row = new float[32];
          Arrays.fill(row, bad);
          for (int broken : new int[] {0, 3, 8}) {
            input.q().rows(broken, broken + 1).copyFrom(row);
            old.q().rows(broken, broken + 1).copyFrom(row);
          }
          Outputs got = c.run(DType.F32);
          assertThat(bits(got.loss())).isEqualTo(bits(clean.loss()));
          assertThat(bits(got.dq())).isEqualTo(bits(clean.dq()));
          assertThat(bits(got.dk())).isEqualTo(bits(clean.dk()));
          assertThat(bits(got.dscoreSq())).isEqualTo(bits(clean.dscoreSq()));
          for (int r = 0; r < 11; r++) {
            if (r != 0 && r != 3 && r != 8) {
              assertThat(got.divergence().toFloats()[r]).isFinite();
            } else if (!Float.isFinite(bad)) {
              assertThat(got.divergence().toFloats()[r]).isNaN();
            }
          }
          for (int zero : new int[] {0, 3, 8}) {
            assertThat(got.dq().rows(zero, zero + 1).toFloats()).containsOnly(0f);
          }
        }
      }
    }
  }

  private static int[] bits(Tensor tensor) {
    float[] x = tensor.toFloats();
    int[] bits = new int[x.length];
    for (int i = 0; i < x.length; i++) {
      bits[i] = Float.floatToRawIntBits(x[i]);
    }
    return bits;
  }

  @ParameterizedTest
  @CsvSource({"F32, LONG", "BF16, LONG", "BF16, TILED", "F16, TILED"})
  void gradientsOfARowWhoseReferenceIsNanAreNan(DType dtype, String which) {
    Sequences sequences = which.equals("LONG") ? Sequences.LONG : Sequences.TILED;
    Options options = RAL.withPolicy(AttentionPolicy.Options.DEFAULT.withSupport(Support.ALL));
    int rows = sequences.rows();
    int broken = 50;
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Random random = new Random(38);
        AttentionPolicy.Input input = sequences.random(scope, random, dtype, 4, 2, 64, 1);
        Case c = compare(new Case(scope, sequences, input, options), "map", random);
        Tensor row = ((Reference.Map) c.reference).map().rows(broken, broken + 1);
        float[] values = row.toFloats();
        values[3] = Float.NaN;
        row.copyFrom(values);
        Outputs got = c.run(DType.F32);
        float[] squares = got.dscoreSq().toFloats();
        for (int i = 0; i < squares.length; i++) {
          assertThat(Float.isNaN(squares[i])).as("of %d", i).isEqualTo(i % rows == broken);
        }
        assertThat(got.dq().rows(broken, broken + 1).toFloats()).containsOnly(Float.NaN);
        assertThat(largest(got.dq().rows(broken + 1, rows).toDoubles())).isFinite();
      }
    }
  }

  @Test
  void gradOutputMultipliesGradientsAlone() {
    Sequences sequences = Sequences.RAGGED;
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Random random = new Random(36);
      AttentionPolicy.Input input = sequences.random(scope, random, DType.F32, 4, 2, 8, 1);
      for (Reduction reduction : Reduction.values()) {
        Options options = RAL.withPolicy(AttentionPolicy.Options.DEFAULT.withReduction(reduction));
        Case c =
            new Case(scope, sequences, input, options)
                .compareWith(old(scope, input, random, 0.4))
                .weigh(random, true, true);
        Outputs one = c.run(DType.F32);
        c.gradOutput = Tensor.of(scope, new float[] {-0.37f});
        Outputs scaled = c.run(DType.F32);
        assertThat(bits(scaled.loss())).isEqualTo(bits(one.loss()));
        assertThat(bits(scaled.divergence())).isEqualTo(bits(one.divergence()));
        assertThat(bits(scaled.entropy())).isEqualTo(bits(one.entropy()));
        Tensor[][] pairs = {
          {one.dq(), scaled.dq()}, {one.dk(), scaled.dk()}, {one.dscoreSq(), scaled.dscoreSq()}
        };
        for (int i = 0; i < 3; i++) {
          double factor = i < 2 ? -0.37f : 0.37f * (double) 0.37f;
          double[] want = Arrays.stream(pairs[i][0].toDoubles()).map(x -> x * factor).toArray();
          assertNear("scaled", pairs[i][1].toFloats(), want, 1e-5, 1e-6 * largest(want));
        }
        c.gradOutput = Tensor.of(scope, new float[] {0});
        Outputs none = c.run(DType.F32);
        assertThat(largest(none.dq().toDoubles())).isZero();
        assertThat(largest(none.dk().toDoubles())).isZero();
      }
    }
  }

  // ----------------------------------------------------------------------------------- types,
  // layout

  /**
   * Gradients in f32 are as accurate as those of f32 inputs, except that a GPU rounds dS to bf16
   * before it multiplies bf16 keys and queries; those of the own type are rounded.
   */
  @ParameterizedTest
  @EnumSource(
      value = DType.class,
      names = {"BF16", "F16"})
  void lowPrecisionInputsHaveGradientsOfTheirTypeOrF32(DType dtype) {
    Sequences sequences = Sequences.RAGGED;
    for (Context context : Contexts.every()) {
      for (Reduction reduction : Reduction.values()) {
        try (Scope scope = context.scope()) {
          Random random = new Random(37);
          AttentionPolicy.Input input = sequences.random(scope, random, dtype, 4, 2, 17, 1);
          Options options =
              RAL.withPolicy(
                  AttentionPolicy.Options.DEFAULT.withReduction(reduction).withHeads(1, 4));
          Case c =
              compare(new Case(scope, sequences, input, options), "teacher", random)
                  .weigh(random, true, true);
          c.assertAgrees(2e-6, Contexts.CUDA && dtype == DType.BF16 ? 0x1p-8 : 1e-5);
          Outputs f32 = c.run(DType.F32);
          Outputs own = c.run(dtype);
          for (Tensor[] pair : new Tensor[][] {{f32.dq(), own.dq()}, {f32.dk(), own.dk()}}) {
            Tensor rounded = Tensor.of(scope, dtype, pair[0].toFloats(), pair[0].shape());
            assertThat(bits(pair[1])).isEqualTo(bits(rounded));
          }
          assertThat(bits(own.loss())).isEqualTo(bits(f32.loss()));
          assertThat(bits(own.dscoreSq())).isEqualTo(bits(f32.dscoreSq()));
        }
      }
      context.close();
    }
  }

  private static Case tiled(
      Scope scope, Random random, Options options, int heads, int kvHeads, int dim, double spread) {
    return tiled(scope, Sequences.TILED, random, options, heads, kvHeads, dim, spread);
  }

  private static Case tiled(
      Scope scope,
      Sequences sequences,
      Random random,
      Options options,
      int heads,
      int kvHeads,
      int dim,
      double spread) {
    AttentionPolicy.Input input =
        sequences.random(scope, random, DType.BF16, heads, kvHeads, dim, spread);
    return new Case(
        scope,
        sequences,
        input,
        options.withPolicy(options.policy().withScale((float) (1 / Math.sqrt(dim)))));
  }

  @ParameterizedTest
  @CsvSource({
    "4, 2, 64, 0, 4, JSD, map, PREVIOUS, false, 1",
    "7, 1, 128, 0, 7, JSD, map, ALL, true, 1",
    "4, 4, 128, 0, 4, JSD, bf16 map, RANGES, true, 1",
    "6, 2, 80, 1, 5, FORWARD_KL, index, PREVIOUS, false, 1",
    "6, 3, 33, 3, 4, REVERSE_KL, map, RANGES, false, 1",
    "4, 2, 96, 0, 4, JSD, old policy, ALL, false, 1",
    "4, 2, 64, 0, 3, REVERSE_KL, teacher, RANGES, true, 1",
    "4, 2, 64, 0, 4, JSD, map, ALL, false, 6",
    "4, 1, 128, 0, 4, JSD, map, ALL, true, 6"
  })
  void agreesOnTiles(
      int heads,
      int kvHeads,
      int dim,
      int begin,
      int end,
      Divergence kind,
      String with,
      Support support,
      boolean normalised,
      double spread) {
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Random random = new Random(41);
        Options options =
            new Options(
                AttentionPolicy.Options.DEFAULT.withSupport(support).withHeads(begin, end),
                kind,
                0.5f);
        Case c = compare(tiled(scope, random, options, heads, kvHeads, dim, spread), with, random);
        if (normalised) {
          c.lse = Tensor.empty(scope, DType.F32, heads, Sequences.TILED.rows());
          AttentionPolicy.forward(
              context,
              c.input,
              c.options.policy(),
              new AttentionPolicy.Outputs(null, null, c.lse, null));
        }
        c.weigh(random, true, true);
        // Differences of every score would take minutes.
        c.assertAgrees(1e-4, Contexts.CUDA ? 0x1p-7 : 1e-4, c.loss().formula(c.policy()));
      }
    }
  }

  @ParameterizedTest
  @CsvSource({
    "4, 2, 64, 0, 4, ALL, 1",
    "4, 1, 128, 1, 4, PREVIOUS, 6",
    "2, 2, 80, 0, 1, RANGES, 1",
    "3, 1, 128, 0, 3, ALL, 16"
  })
  void agreesWithFewQueriesToManyKeys(
      int heads, int kvHeads, int dim, int begin, int end, Support support, double spread) {
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Random random = new Random(43);
        Options options =
            new Options(
                AttentionPolicy.Options.DEFAULT.withSupport(support).withHeads(begin, end),
                Divergence.JSD,
                0.5f);
        Case c =
            compare(
                    tiled(scope, Sequences.LONG, random, options, heads, kvHeads, dim, spread),
                    "map",
                    random)
                .weigh(random, true, true);
        // Scores are as large as spread^2, and as wrong as f32 is of that.
        double tolerance = 1e-4 * Math.max(1, spread * spread / 4);
        c.assertAgrees(tolerance, Contexts.CUDA ? 0x1p-7 : tolerance, c.loss().formula(c.policy()));
      }
    }
  }

  /**
   * dP that rises along the keys: what products round is as small as where the gradient of the
   * scores itself is rounded.
   */
  @ParameterizedTest
  @CsvSource({"64, 2000", "40, 3000", "20, 3000"})
  void gradientsAreAsGoodWhereTheReferenceFollowsTheKeys(int rows, int keys) {
    Sequences sequences = new Sequences(new int[] {rows}, new int[] {keys}, new int[] {0, keys});
    float[] map = new float[rows * keys];
    for (int i = 0; i < map.length; i++) {
      map[i] = (float) Math.exp(3.0 * (i % keys) / keys);
    }
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Random random = new Random(44);
        Options options =
            new Options(
                AttentionPolicy.Options.DEFAULT.withSupport(Support.ALL), Divergence.JSD, 0.5f);
        Case c = tiled(scope, sequences, random, options, 4, 2, 64, 1);
        c.compareWith(new Reference.Map(Tensor.of(scope, map, rows, keys)));
        AttentionPolicyReference.Loss.Gradients want = c.loss().formula(c.policy());
        AttentionPolicyReference.Loss.Gradients plain =
            c.loss().formula(c.policy(), AttentionDivergenceTest::roundedToBf16);
        Outputs got = c.run(DType.F32);
        assertThat(distance(got.dq().toDoubles(), want.dq()))
            .isLessThan(2 * distance(plain.dq(), want.dq()));
        assertThat(distance(got.dk().toDoubles(), want.dk()))
            .isLessThan(2 * distance(plain.dk(), want.dk()));
      }
    }
  }

  private static double roundedToBf16(double x) {
    int bits = Float.floatToRawIntBits((float) x);
    return Float.intBitsToFloat((bits + 0x7fff + (bits >>> 16 & 1)) & 0xffff0000);
  }

  private static double distance(double[] a, double[] b) {
    double sum = 0;
    for (int i = 0; i < a.length; i++) {
      sum += (a[i] - b[i]) * (a[i] - b[i]);
    }
    return Math.sqrt(sum);
  }

  /**
   * Some queries leave next to nothing to the first keys, one of which is the reference, beside
   * queries that do not: dP is as large there as the probability is small.
   */
  @ParameterizedTest
  @ValueSource(floats = {6, 18, 40})
  void gradientsAreAsGoodWhereTheReferenceIsAFaintKey(float score) {
    int rows = 60;
    int keys = 330;
    int faint = 64;
    int heads = 4;
    int dim = 64;
    Sequences sequences = new Sequences(new int[] {rows}, new int[] {keys}, new int[] {0, keys});
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Random random = new Random(45);
        float[] q = gaussian(random, rows * heads * dim, 1);
        float[] k = gaussian(random, keys * 2 * dim, 1);
        for (int i = 0; i < q.length; i += dim) {
          q[i] = i / (heads * dim) % 2 == 0 ? 0 : -score;
        }
        for (int i = 0; i < k.length; i += dim) {
          k[i] = i / (2 * dim) < faint ? 8 : 0;
        }
        AttentionPolicy.Input input =
            sequences.input(
                scope,
                Tensor.of(scope, DType.BF16, q, rows, heads, dim),
                Tensor.of(scope, DType.BF16, k, keys, 2, dim));
        int[] index = new int[rows];
        Arrays.setAll(index, row -> row * 7 % faint);
        Options options =
            new Options(
                AttentionPolicy.Options.DEFAULT.withSupport(Support.ALL).withScale(0.125f),
                Divergence.FORWARD_KL,
                0);
        Case c =
            new Case(scope, sequences, input, options)
                .compareWith(new Reference.Index(Tensor.of(scope, index)));
        c.assertAgrees(1e-4, Contexts.CUDA ? 0x1p-7 : 1e-4, c.loss().formula(c.policy()));
      }
    }
  }

  @Test
  void tilesKeepInactiveRowsAndOtherSequencesApart() {
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Random random = new Random(42);
        Case c =
            compare(tiled(scope, random, RAL, 4, 2, 64, 1), "map", random)
                .weigh(random, true, true);
        // Of the first sequence rows 0 to 4; all rows of the third one, which begin at 71.
        for (int row = 0; row < Sequences.TILED.rows(); row++) {
          if (row < 5 || (row >= 71 && row < 201)) {
            c.weight[row] = 0;
            c.entropyWeight[row] = 0;
          }
        }
        Outputs clean = c.run(DType.F32);
        float[] bad = new float[4 * 64];
        Arrays.fill(bad, Float.NaN);
        for (int row : new int[] {0, 4, 71, 135, 200}) {
          c.input.q().rows(row, row + 1).copyFrom(bad);
        }
        Outputs got = c.run(DType.F32);
        assertThat(bits(got.loss())).isEqualTo(bits(clean.loss()));
        assertThat(bits(got.dq())).isEqualTo(bits(clean.dq()));
        assertThat(bits(got.dk())).isEqualTo(bits(clean.dk()));
        assertThat(bits(got.dscoreSq())).isEqualTo(bits(clean.dscoreSq()));
        assertThat(largest(got.dk().rows(201, 332).toDoubles())).isZero();
        // A key of the first sequence, which all but its first rows see.
        c.input.k().rows(140, 141).copyFrom(Arrays.copyOf(bad, 2 * 64));
        Outputs broken = c.run(DType.F32);
        assertThat(bits(broken.dq().rows(70, Sequences.TILED.rows())))
            .isEqualTo(bits(clean.dq().rows(70, Sequences.TILED.rows())));
        assertThat(bits(broken.dk().rows(200, Sequences.TILED.keyRows())))
            .isEqualTo(bits(clean.dk().rows(200, Sequences.TILED.keyRows())));
        assertThat(broken.entropy().toFloats()[69]).isNaN();
        assertThat(broken.entropy().toFloats()[71 + 128]).isFinite();
      }
    }
  }

  /** q, k, reference and gradients as columns of matrices, as a model has them. */
  @ParameterizedTest
  @EnumSource(
      value = DType.class,
      names = {"F32", "BF16"})
  void stridesAreHonouredAndPaddingUntouched(DType dtype) {
    int[] lengths = {5, 1, 20};
    Sequences sequences = new Sequences(lengths, lengths, new int[] {0, 3, 0, 1, 2, 9});
    int n = 26;
    int d = 17;
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Random random = new Random(38);
      AttentionPolicy.Input input = sequences.random(scope, random, dtype, 4, 2, d, 1);
      Reference.QueriesKeys old = old(scope, input, random, 0.4);
      Case dense =
          new Case(scope, sequences, input, RAL).compareWith(old).weigh(random, true, true);
      Outputs want = dense.run(dtype);
      Tensor[] matrices = new Tensor[3];
      Tensor[][] parts = new Tensor[3][2];
      float[][][] values = {
        {input.q().toFloats(), input.k().toFloats()}, {old.q().toFloats(), old.k().toFloats()}, {}
      };
      for (int m = 0; m < 3; m++) {
        matrices[m] = unwritten(scope, dtype, n, 3 + 6 * d + 21);
        Tensor q = matrices[m].columns(3, 3 + 4 * d);
        Tensor k = matrices[m].columns(3 + 4 * d, 3 + 6 * d);
        if (values[m].length > 0) {
          q.copyFrom(values[m][0]);
          k.copyFrom(values[m][1]);
        }
        parts[m][0] = q.reshape(n, 4, d);
        parts[m][1] = k.reshape(n, 2, d);
      }
      Case strided =
          new Case(scope, sequences, sequences.input(scope, parts[0][0], parts[0][1]), RAL)
              .compareWith(new Reference.QueriesKeys(parts[1][0], parts[1][1]));
      strided.weight = dense.weight;
      strided.entropyWeight = dense.entropyWeight;
      Tensor loss = Tensor.empty(scope, DType.F32, 1);
      strided.run(new Outputs(loss, null, null, null, parts[2][0], parts[2][1], null));
      assertThat(bits(loss)).isEqualTo(bits(want.loss()));
      assertThat(bits(parts[2][0])).isEqualTo(bits(want.dq()));
      assertThat(bits(parts[2][1])).isEqualTo(bits(want.dk()));
      float padding = Tensor.of(scope, dtype, new float[] {777}).item();
      for (Tensor matrix : matrices) {
        assertThat(matrix.columns(0, 3).toFloats()).containsOnly(padding);
        assertThat(matrix.columns(3 + 6 * d, 24 + 6 * d).toFloats()).containsOnly(padding);
      }
    }
  }

  /**
   * Heads that are further apart than their dimension; Java's views cannot say that, the ABI can.
   */
  @ParameterizedTest
  @EnumSource(
      value = DType.class,
      names = {"F32", "BF16"})
  void headStridesAreHonouredAndPaddingUntouched(DType dtype) {
    Sequences sequences = Sequences.RAGGED;
    int dim = 5;
    int step = 8;
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Random random = new Random(42);
      AttentionPolicy.Input input = sequences.random(scope, random, dtype, 4, 2, dim, 1);
      Reference.QueriesKeys old = old(scope, input, random, 0.4);
      Case dense =
          new Case(scope, sequences, input, RAL).compareWith(old).weigh(random, true, true);
      Outputs want = dense.run(dtype);
      // As [rows * heads, dim] views a head stride is a row stride.
      Tensor[] in = {input.q(), input.k(), old.q(), old.k()};
      Tensor[] apart = new Tensor[6];
      for (int t = 0; t < 6; t++) {
        Tensor like = in[t % 4];
        apart[t] = unwritten(scope, dtype, like.shape(0) * like.shape(1), step);
        if (t < 4) {
          apart[t].columns(0, dim).copyFrom(like.toFloats());
        }
      }
      Weights weights = dense.weights();
      Tensor workspace = Tensor.empty(scope, DType.U8, 1 << 20);
      try (Call call = context.begin("attention_divergence")) {
        var args =
            call.args(
                saccade_attention_divergence_args.class, saccade_attention_divergence_args::new);
        args.rows(sequences.rows())
            .keys(sequences.keyRows())
            .sequences(sequences.keys().length)
            .heads(4)
            .kv_heads(2)
            .head_dim(dim)
            .q(apart[0].address())
            .q_row_stride(4 * step)
            .q_head_stride(step)
            .k(apart[1].address())
            .k_row_stride(2 * step)
            .k_head_stride(step)
            .dtype(dtype.code())
            .offsets_q(input.offsetsQ().address())
            .offsets_k(input.offsetsK().address())
            .max_keys(input.maxKeys())
            .scale((float) (1 / Math.sqrt(dim)))
            .support(RAL.policy().support().code())
            .head_end(4)
            .weight(weights.weight().address())
            .entropy_weight(weights.entropyWeight().address())
            .ref_q(apart[2].address())
            .ref_q_row_stride(4 * step)
            .ref_q_head_stride(step)
            .ref_k(apart[3].address())
            .ref_k_row_stride(2 * step)
            .ref_k_head_stride(step)
            .ref_heads(4)
            .ref_kv_heads(2)
            .ref_head_dim(dim)
            .ref_scale((float) (1 / Math.sqrt(dim)))
            .ref_head_end(4)
            .beta(RAL.beta())
            .dq(apart[4].address())
            .dq_row_stride(4 * step)
            .dq_head_stride(step)
            .dk(apart[5].address())
            .dk_row_stride(2 * step)
            .dk_head_stride(step)
            .grad_dtype(dtype.code())
            .workspace(workspace.address());
        long[] bytes = new long[1];
        call.invoke(Saccade.saccade_attention_divergence_workspace(context.handle(), args, bytes));
        assertThat(bytes[0]).isLessThanOrEqualTo(workspace.size());
        call.invoke(Saccade.saccade_attention_divergence(context.handle(), args));
      }
      assertThat(bits(apart[4].columns(0, dim))).isEqualTo(bits(want.dq()));
      assertThat(bits(apart[5].columns(0, dim))).isEqualTo(bits(want.dk()));
      float padding = Tensor.of(scope, dtype, new float[] {777}).item();
      for (Tensor tensor : apart) {
        assertThat(tensor.columns(dim, step).toFloats()).containsOnly(padding);
      }
    }
  }

  /** Each result alone is what it is among the others. */
  @Test
  void everyOutputIsOptional() {
    Sequences sequences = Sequences.RAGGED;
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Random random = new Random(39);
      AttentionPolicy.Input input = sequences.random(scope, random, DType.F32, 4, 2, 8, 1);
      for (Reduction reduction : Reduction.values()) {
        Options options = RAL.withPolicy(AttentionPolicy.Options.DEFAULT.withReduction(reduction));
        Case c =
            new Case(scope, sequences, input, options)
                .compareWith(old(scope, input, random, 0.4))
                .weigh(random, true, true);
        Outputs all = c.run(DType.F32);
        Tensor[] want = {
          all.loss(), all.divergence(), all.entropy(), all.mass(), all.dq(), all.dk()
        };
        for (int i = 0; i < 5; i++) {
          Tensor[] t = new Tensor[6];
          t[i] = unwritten(scope, DType.F32, want[i].shape());
          if (i == 4) {
            t[5] = unwritten(scope, DType.F32, want[5].shape());
          }
          c.run(new Outputs(t[0], t[1], t[2], t[3], t[4], t[5], null));
          for (int o = i; o < 6; o++) {
            if (t[o] != null) {
              assertThat(bits(t[o])).isEqualTo(bits(want[o]));
            }
          }
        }
        c.run(new Outputs(null, null, null, null, null, null, null));
        Outputs fresh =
            AttentionDivergence.forwardBackward(scope, input, c.reference, c.weights(), options);
        assertThat(bits(fresh.dk())).isEqualTo(bits(all.dk()));
        assertThat(fresh.dscoreSq()).isNull();
      }
    }
  }

  @Test
  void emptyProblemsAreLegalAndOverwriteTheirOutputs() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      for (int[] keys : new int[][] {{}, {0, 0}, {0, 7}}) {
        Sequences sequences = new Sequences(new int[keys.length], keys, new int[2 * keys.length]);
        AttentionPolicy.Input input = sequences.random(scope, new Random(1), DType.F32, 2, 1, 3, 1);
        Outputs got =
            new Case(scope, sequences, input, RAL)
                .compareWith(new Reference.QueriesKeys(input.q(), input.k()))
                .run(DType.F32);
        assertThat(got.loss().item()).isZero();
        assertThat(largest(got.dk().toDoubles())).isZero();
      }
      Sequences blind = new Sequences(new int[] {2}, new int[] {0}, new int[] {0, 5});
      AttentionPolicy.Input input = blind.random(scope, new Random(1), DType.F32, 2, 1, 3, 1);
      for (Reduction reduction : Reduction.values()) {
        Case c =
            new Case(
                    scope,
                    blind,
                    input,
                    RAL.withPolicy(AttentionPolicy.Options.DEFAULT.withReduction(reduction)))
                .compareWith(new Reference.QueriesKeys(input.q(), input.k()));
        Outputs got = c.run(DType.F32);
        assertThat(got.divergence().toFloats()).containsOnly(0f);
        assertThat(got.mass().toFloats()).containsOnly(0f);
        assertThat(got.dq().toFloats()).containsOnly(0f);
        assertThat(got.dscoreSq().toFloats()).containsOnly(0f);
      }
    }
  }

  // ---------------------------------------------------------------------------- NaN and
  // determinism

  @ParameterizedTest
  @CsvSource({
    "q, MEAN",
    "k, MEAN",
    "reference, MEAN",
    "weight, MEAN",
    "q, NONE",
    "k, NONE",
    "reference, NONE"
  })
  void nanStaysInItsSequence(String where, Reduction reduction) {
    Sequences sequences =
        new Sequences(
            new int[] {3, 6, 2, 9}, new int[] {3, 11, 35, 9}, new int[] {0, 2, 0, 9, 0, 9, 0, 9});
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Random random = new Random(40);
        AttentionPolicy.Input input = sequences.random(scope, random, DType.F32, 4, 2, 8, 1);
        Reference.QueriesKeys old = old(scope, input, random, 0.4);
        Options options = RAL.withPolicy(AttentionPolicy.Options.DEFAULT.withReduction(reduction));
        Case c =
            new Case(scope, sequences, input, options).compareWith(old).weigh(random, true, true);
        c.weight[7] = 1;
        Outputs clean = c.run(DType.F32);
        // Rows 3 … 8 and keys 3 … 13 are those of the second sequence.
        Tensor broken =
            switch (where) {
              case "q" -> input.q();
              case "k" -> input.k();
              default -> old.q();
            };
        if (where.equals("weight")) {
          c.weight[7] = Float.NaN;
        } else {
          float[] row = broken.rows(7, 8).toFloats();
          row[3] = Float.NaN;
          broken.rows(7, 8).copyFrom(row);
        }
        Outputs got = c.run(DType.F32);
        Tensor[][] pairs = {
          {clean.divergence(), got.divergence()},
          {clean.entropy(), got.entropy()},
          {clean.mass(), got.mass()},
          {clean.dq(), got.dq()},
          {clean.dk(), got.dk()}
        };
        for (int i = 0; i < pairs.length; i++) {
          int end = i < 4 ? 9 : 14;
          long size = pairs[i][0].shape(0);
          assertThat(bits(pairs[i][1].rows(0, 3))).isEqualTo(bits(pairs[i][0].rows(0, 3)));
          assertThat(bits(pairs[i][1].rows(end, size)))
              .isEqualTo(bits(pairs[i][0].rows(end, size)));
        }
        assertThat(got.loss().item()).isNaN();
        assertThat(sum(got.dq().rows(7, 8))).isNaN();
        assertThat(sum(got.dk().rows(3, 14))).isNaN();
        if (!where.equals("weight")) {
          assertThat(got.divergence().toFloats()[7]).isNaN();
        }
      }
    }
  }

  @Test
  void bitsDoNotDependOnTheThreadCount() {
    Sequences sequences =
        new Sequences(
            new int[] {150, 3, 40}, new int[] {300, 3, 41}, new int[] {5, 99, 0, 9, 0, 9});
    for (Reduction reduction : Reduction.values()) {
      for (Support support : Support.values()) {
        List<int[]> first = null;
        for (int threads : new int[] {1, 2, 3, 7}) {
          try (Context context = Context.builder().threads(threads).build();
              Scope scope = context.scope()) {
            Random random = new Random(41);
            AttentionPolicy.Input input = sequences.random(scope, random, DType.F32, 6, 2, 24, 1);
            Options options =
                RAL.withPolicy(
                    AttentionPolicy.Options.DEFAULT.withReduction(reduction).withSupport(support));
            Outputs out =
                new Case(scope, sequences, input, options)
                    .compareWith(old(scope, input, random, 0.4))
                    .weigh(random, true, true)
                    .run(DType.F32);
            List<int[]> all = new ArrayList<>();
            for (Tensor tensor :
                List.of(
                    out.loss(),
                    out.divergence(),
                    out.entropy(),
                    out.mass(),
                    out.dq(),
                    out.dk(),
                    out.dscoreSq())) {
              all.add(bits(tensor));
            }
            if (first == null) {
              first = all;
            }
            for (int i = 0; i < all.size(); i++) {
              assertThat(all.get(i)).isEqualTo(first.get(i));
            }
          }
        }
      }
    }
  }

  // -------------------------------------------------------------------------------------
  // rejections

  private static final Sequences SMALL =
      new Sequences(new int[] {2, 3}, new int[] {4, 3}, new int[] {0, 2, 0, 2});

  private static void assertRejected(
      Context context,
      AttentionPolicy.Input input,
      Reference reference,
      Weights weights,
      Options options,
      Outputs outputs,
      String message) {
    assertThatThrownBy(
            () ->
                AttentionDivergence.forwardBackward(
                    context, input, reference, weights, options, outputs))
        .as(message)
        .isInstanceOf(InvalidArgumentException.class)
        .hasMessage("attention_divergence: " + message);
  }

  @Test
  void rejectsReferencesThatDoNotFit() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      AttentionPolicy.Input in = SMALL.random(scope, new Random(1), DType.F32, 4, 2, 8, 1);
      Tensor q = in.q();
      Tensor k = in.k();
      Reference[] references = {
        null,
        new Reference.Map(null),
        new Reference.Map(Tensor.zeros(scope, DType.F16, 5, 4)),
        new Reference.Map(Tensor.zeros(scope, DType.F32, 4, 4)),
        new Reference.Map(Tensor.zeros(scope, DType.F32, 5, 3)),
        new Reference.Index(Tensor.zeros(scope, DType.I64, 5)),
        new Reference.Index(Tensor.zeros(scope, DType.I32, 4)),
        new Reference.Index(null),
        new Reference.QueriesKeys(null, k),
        new Reference.QueriesKeys(q, null),
        new Reference.QueriesKeys(Tensor.zeros(scope, DType.BF16, 5, 4, 8), k),
        new Reference.QueriesKeys(Tensor.zeros(scope, DType.F32, 4, 4, 8), k),
        new Reference.QueriesKeys(q, Tensor.zeros(scope, DType.F32, 6, 2, 8)),
        new Reference.QueriesKeys(q, Tensor.zeros(scope, DType.F32, 7, 2, 9)),
        new Reference.QueriesKeys(q, Tensor.zeros(scope, DType.F32, 7, 3, 8)),
        new Reference.QueriesKeys(
            Tensor.zeros(scope, DType.F32, 5, 4, 257), Tensor.zeros(scope, DType.F32, 7, 2, 257)),
        new Reference.QueriesKeys(q, k, Float.NEGATIVE_INFINITY, 0, -1, null),
        new Reference.QueriesKeys(q, k, 1, 4, 4, null),
        new Reference.QueriesKeys(q, k, 1, 0, -1, Tensor.zeros(scope, DType.F32, 5, 4))
      };
      String[] messages = {
        "reference: expected a map, queries and keys, or an index, got null",
        "ref: expected f32 or bf16[5, *], got null",
        "ref: expected f32 or bf16[5, *], got f16[5, 4]",
        "ref: expected f32 or bf16[5, *], got f32[4, 4]",
        "ref_stride: expected 0 (dense) or at least 4, got 3",
        "ref_index: expected i32[5], got i64[5]",
        "ref_index: expected i32[5], got i32[4]",
        "ref_index: expected i32[5], got null",
        "ref_q: expected f32[5, *, *], got null",
        "ref_k: expected f32[7, *, 8], got null",
        "ref_q: expected f32[5, *, *], got bf16[5, 4, 8]",
        "ref_q: expected f32[5, *, *], got f32[4, 4, 8]",
        "ref_k: expected f32[7, *, 8], got f32[6, 2, 8]",
        "ref_k: expected f32[7, *, 8], got f32[7, 2, 9]",
        "ref_heads: expected a multiple of ref_kv_heads = 3, got 4",
        "ref_head_dim: expected 1 to 256, got 257",
        "ref_scale: expected a finite number, got -inf",
        "ref_head_begin, ref_head_end: expected a non-empty range within [0, 4), got [4, 4)",
        "ref_lse: expected f32[4, 5], got f32[5, 4]"
      };
      Outputs none = new Outputs(null, null, null, null, null, null, null);
      Weights weights = Weights.of(null);
      for (int i = 0; i < messages.length; i++) {
        assertRejected(context, in, references[i], weights, RAL, none, messages[i]);
      }
      Options perHead =
          RAL.withPolicy(AttentionPolicy.Options.DEFAULT.withReduction(Reduction.NONE));
      assertRejected(
          context,
          in,
          new Reference.Map(Tensor.zeros(scope, DType.F32, 5, 4)),
          weights,
          perHead,
          none,
          "ref: expected ref_q and ref_k, or ref_index: a stored map is for reduction MEAN, got a"
              + " map");
      assertRejected(
          context,
          in,
          new Reference.QueriesKeys(q, k, 1, 1, 4, null),
          weights,
          perHead,
          none,
          "ref_head_begin, ref_head_end: expected as many heads as the policy has, for reduction"
              + " NONE, got 3");
    }
  }

  @Test
  void rejectsOptionsAndWeightsThatDoNotFit() {
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      AttentionPolicy.Input in = SMALL.random(scope, new Random(1), DType.F32, 4, 2, 8, 1);
      Reference reference = new Reference.QueriesKeys(in.q(), in.k());
      Outputs none = new Outputs(null, null, null, null, null, null, null);
      for (float beta : new float[] {0, 1, -0.5f, Float.NaN}) {
        assertRejected(
            context,
            in,
            reference,
            Weights.of(null),
            RAL.withBeta(beta),
            none,
            "beta: expected a number inside (0, 1), got "
                + (Float.isNaN(beta) ? "nan" : beta == -0.5f ? "-0.5" : "" + (int) beta));
        // It is JSD's alone.
        AttentionDivergence.forwardBackward(
            context,
            in,
            reference,
            Weights.of(null),
            RAL.withKind(Divergence.FORWARD_KL).withBeta(beta),
            none);
      }
      AttentionPolicy.Options policy = AttentionPolicy.Options.DEFAULT;
      Options[] options = {
        RAL.withPolicy(policy.withScale(Float.POSITIVE_INFINITY)),
        RAL.withPolicy(policy.withHeads(0, 5)),
        RAL.withPolicy(policy.withCompact(true))
      };
      String[] messages = {
        "scale: expected a finite number, got inf",
        "head_begin, head_end: expected a non-empty range within [0, 4), got [0, 5)",
        "compact: expected 0 unless support is RANGES, got 1"
      };
      for (int i = 0; i < messages.length; i++) {
        assertRejected(context, in, reference, Weights.of(null), options[i], none, messages[i]);
      }
      Tensor four = Tensor.zeros(scope, DType.F32, 4);
      Weights[] weights = {
        new Weights(four, null, null, null),
        new Weights(null, four, null, null),
        new Weights(null, null, Tensor.zeros(scope, DType.F32, 5, 4), null),
        new Weights(null, null, null, four),
        new Weights(Tensor.zeros(scope, DType.BF16, 5), null, null, null)
      };
      messages =
          new String[] {
            "weight: expected f32[5], got f32[4]",
            "entropy_weight: expected f32[5], got f32[4]",
            "lse: expected f32[4, 5], got f32[5, 4]",
            "grad_output: expected f32[1], got f32[4]",
            "weight: expected f32[5], got bf16[5]"
          };
      for (int i = 0; i < messages.length; i++) {
        assertRejected(context, in, reference, weights[i], RAL, none, messages[i]);
      }
      AttentionPolicy.Input noRanges =
          new AttentionPolicy.Input(in.q(), in.k(), in.offsetsQ(), in.offsetsK(), 4, null);
      assertRejected(
          context,
          noRanges,
          reference,
          Weights.of(null),
          RAL.withPolicy(policy.withSupport(Support.RANGES)),
          none,
          "support_ranges: expected an address, got null with 4 elements");
      AttentionPolicy.Input tooShort =
          new AttentionPolicy.Input(
              in.q(), in.k(), in.offsetsQ(), in.offsetsK(), 3, in.supportRanges());
      assertRejected(
          context,
          tooShort,
          reference,
          Weights.of(null),
          RAL,
          none,
          "max_keys: expected at least the longest sequence of 4, got 3");
      AttentionPolicy.Input mixed =
          new AttentionPolicy.Input(
              in.q(),
              Tensor.zeros(scope, DType.F16, 7, 2, 8),
              in.offsetsQ(),
              in.offsetsK(),
              4,
              null);
      assertRejected(
          context,
          mixed,
          reference,
          Weights.of(null),
          RAL,
          none,
          "k: expected f32[*, *, 8], got f16[7, 2, 8]");
    }
  }

  @Test
  void rejectsOutputsThatDoNotFit() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      AttentionPolicy.Input in = SMALL.random(scope, new Random(1), DType.BF16, 4, 2, 8, 1);
      Reference reference = new Reference.QueriesKeys(in.q(), in.k());
      Tensor four = Tensor.zeros(scope, DType.F32, 4);
      Tensor dq = Tensor.zeros(scope, DType.F32, 5, 4, 8);
      Tensor dk = Tensor.zeros(scope, DType.F32, 7, 2, 8);
      Tensor weight = Tensor.zeros(scope, DType.F32, 5);
      Tensor half = Tensor.zeros(scope, DType.F16, 5, 4, 8);
      Tensor own = Tensor.zeros(scope, DType.BF16, 7, 2, 8);
      Tensor small = Tensor.zeros(scope, DType.F32, 7, 2, 7);
      Outputs[] outputs = {
        new Outputs(four, null, null, null, null, null, null),
        new Outputs(null, four, null, null, null, null, null),
        new Outputs(null, null, four, null, null, null, null),
        new Outputs(null, null, null, four, null, null, null),
        new Outputs(null, null, null, null, dq, null, null),
        new Outputs(null, null, null, null, null, dk, null),
        new Outputs(null, null, null, null, half, dk, null),
        new Outputs(null, null, null, null, dq, own, null),
        new Outputs(null, null, null, null, dq, small, null),
        new Outputs(null, null, null, null, dq, dk, four),
        new Outputs(null, weight, null, null, null, null, null),
        new Outputs(null, null, null, null, in.q(), own, null)
      };
      String[] messages = {
        "loss: expected f32[1], got f32[4]",
        "divergence: expected f32[5], got f32[4]",
        "entropy: expected f32[5], got f32[4]",
        "mass: expected f32[5], got f32[4]",
        "dk: expected f32[7, 2, 8], got null",
        "dq: expected f32 or bf16[5, 4, 8], got null",
        "dq: expected f32 or bf16[5, 4, 8], got f16[5, 4, 8]",
        "dk: expected f32[7, 2, 8], got bf16[7, 2, 8]",
        "dk: expected f32[7, 2, 8], got f32[7, 2, 7]",
        "dscore_sq: expected f32[4, 5], got f32[4]",
        "divergence: expected memory that overlaps no input, got an overlap with weight",
        "dq: expected memory that overlaps no input, got an overlap with q"
      };
      for (int i = 0; i < messages.length; i++) {
        assertRejected(context, in, reference, Weights.of(weight), RAL, outputs[i], messages[i]);
      }
    }
  }
}
