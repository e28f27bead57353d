package dev.saccade;

import static dev.saccade.Near.assertNear;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.saccade.AttentionPolicy.Reduction;
import dev.saccade.AttentionPolicy.Support;
import dev.saccade.reference.AttentionPolicyReference;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

class AttentionPolicyTest {
  /**
   * Packed sequences with random queries and keys of one or more policies.
   *
   * @param queries lengths
   * @param keys lengths
   * @param ranges [begin, end) of each sequence, flat
   */
  record Sequences(int[] queries, int[] keys, int[] ranges) {
    /**
     * Equal lengths, fewer queries than keys, one key, no query, no key, more queries than keys.
     * Ranges that are empty, that begin before the sequence, that end behind it, and that some rows
     * see nothing of.
     */
    static final Sequences RAGGED =
        new Sequences(
            new int[] {0, 3, 0, 17, 1, 1, 5, 2, 6},
            new int[] {0, 3, 4, 40, 1, 33, 9, 0, 4},
            new int[] {0, 0, 0, 2, 3, 5, -4, 25, 0, 1, 7, 100, 4, 4, 1, 2, 1, 3});

    /** Around the tiles of 64 rows and 128 keys that a GPU cuts rows and keys of bf16 into. */
    static final Sequences TILED =
        new Sequences(
            new int[] {70, 1, 130, 0, 40, 64},
            new int[] {200, 1, 131, 5, 290, 33},
            new int[] {-3, 150, 0, 1, 2, 9, 0, 5, 129, 270, 0, 33});

    /** So few queries to so many keys that a GPU cuts the keys into parts. */
    static final Sequences LONG =
        new Sequences(new int[] {40, 33}, new int[] {3100, 2050}, new int[] {1000, 2000, -3, 40});

    int rows() {
      return Arrays.stream(queries).sum();
    }

    int keyRows() {
      return Arrays.stream(keys).sum();
    }

    int longest() {
      return Arrays.stream(keys).max().orElse(0);
    }

    static int[] offsets(int[] lengths) {
      int[] offsets = new int[lengths.length + 1];
      for (int s = 0; s < lengths.length; s++) {
        offsets[s + 1] = offsets[s] + lengths[s];
      }
      return offsets;
    }

    AttentionPolicy.Input input(Scope scope, Tensor q, Tensor k) {
      return new AttentionPolicy.Input(
          q,
          k,
          Tensor.of(scope, offsets(queries)),
          Tensor.of(scope, offsets(keys)),
          longest(),
          Tensor.of(scope, ranges, queries.length, 2));
    }

    AttentionPolicy.Input random(
        Scope scope,
        Random random,
        DType dtype,
        int heads,
        int kvHeads,
        int dim,
        double deviation) {
      float[] q = gaussian(random, rows() * heads * dim, deviation);
      float[] k = gaussian(random, keyRows() * kvHeads * dim, deviation);
      return input(
          scope,
          Tensor.of(scope, dtype, q, rows(), heads, dim),
          Tensor.of(scope, dtype, k, keyRows(), kvHeads, dim));
    }

    AttentionPolicyReference.Rows reference(AttentionPolicy.Options options) {
      return new AttentionPolicyReference.Rows(
          offsets(queries), offsets(keys), options.support(), ranges, options.reduction());
    }
  }

  static float[] gaussian(Random random, int n, double deviation) {
    float[] x = new float[n];
    for (int i = 0; i < n; i++) {
      x[i] = (float) (random.nextGaussian() * deviation);
    }
    return x;
  }

  /** The queries and keys that the operation reads, after their rounding. */
  static AttentionPolicyReference.Side side(
      Tensor q, Tensor k, double scale, int headBegin, int headEnd) {
    int heads = (int) q.shape(1);
    int dim = (int) q.shape(2);
    return new AttentionPolicyReference.Side(
        q.toDoubles(),
        k.toDoubles(),
        heads,
        (int) k.shape(1),
        dim,
        Double.isNaN(scale) ? 1 / Math.sqrt(dim) : scale,
        headBegin,
        headEnd == -1 ? heads : headEnd);
  }

  private static AttentionPolicyReference.Side side(
      AttentionPolicy.Input input, AttentionPolicy.Options options) {
    return side(input.q(), input.k(), options.scale(), options.headBegin(), options.headEnd());
  }

  static Tensor unwritten(Scope scope, DType dtype, long... shape) {
    Tensor tensor = Tensor.empty(scope, dtype, shape);
    float[] values = new float[(int) tensor.size()];
    Arrays.fill(values, 777f);
    return tensor.copyFrom(values);
  }

  private static AttentionPolicy.Outputs outputs(
      Scope scope, AttentionPolicy.Input input, Tensor map) {
    long rows = input.q().shape(0);
    return new AttentionPolicy.Outputs(
        unwritten(scope, DType.F32, rows),
        unwritten(scope, DType.F32, rows),
        unwritten(scope, DType.F32, input.q().shape(1), rows),
        map);
  }

  private static final AttentionPolicy.Options RAL = AttentionPolicy.Options.DEFAULT;

  // ---------------------------------------------------------------------------------------
  // accuracy

  private static void assertAgrees(
      Sequences sequences,
      AttentionPolicy.Input input,
      AttentionPolicy.Options options,
      AttentionPolicy.Outputs got,
      double tolerance) {
    AttentionPolicyReference.Rows rows = sequences.reference(options);
    AttentionPolicyReference.Side side = side(input, options);
    int n = rows.count();
    double[] entropy = new double[n];
    double[] mass = new double[n];
    int ld = got.map() == null ? 0 : (int) got.map().shape(1);
    double[] map = new double[n * ld];
    for (int row = 0; row < n; row++) {
      AttentionPolicyReference.Policy[] policies = side.policies(rows, row);
      for (AttentionPolicyReference.Policy policy : policies) {
        if (policy.p() == null) {
          continue;
        }
        entropy[row] += AttentionPolicyReference.entropy(policy.p()) / policies.length;
        mass[row] += policy.mass() / policies.length;
        int first = options.compact() ? Math.max(0, sequences.ranges[2 * rows.sequence(row)]) : 0;
        for (int j = first; j < policy.p().length && j - first < ld; j++) {
          map[row * ld + j - first] = policy.p()[j];
        }
      }
      for (int h = 0; h < side.heads(); h++) {
        double want = side.lse(rows, row, h);
        float lse = got.lse().toFloats()[h * n + row];
        if (want == Double.NEGATIVE_INFINITY) {
          assertThat(lse).isEqualTo(Float.NEGATIVE_INFINITY);
        } else {
          assertThat((double) lse).isCloseTo(want, within(tolerance * (1 + Math.abs(want))));
        }
      }
    }
    assertNear("entropy", got.entropy().toFloats(), entropy, 0, 3 * tolerance);
    assertNear("mass", got.mass().toFloats(), mass, 3 * tolerance, 0);
    if (ld > 0) {
      // Probabilities below the smallest normal number are 0.
      assertNear("map", got.map().toFloats(), map, 5 * tolerance, 1e-30);
    }
  }

  /** Dimensions around the widest vector and the largest; groupings and ranges of heads. */
  @ParameterizedTest
  @CsvSource({
    "F32, 4, 2, 1, 0, -1", "F32, 6, 2, 8, 1, 5", "F32, 4, 4, 16, 3, 4", "F32, 3, 1, 17, 0, 2",
    "F32, 4, 2, 80, 0, -1", "F32, 2, 1, 256, 1, 2", "BF16, 4, 2, 24, 0, -1", "F16, 4, 1, 17, 2, 4",
    "F32, 1, 1, 5, 0, 1", "F32, 4, 2, 96, 0, 3", "F32, 3, 1, 200, 1, 3", "BF16, 2, 1, 256, 0, -1"
  })
  void agreesWithDoublePrecisionOnEveryInstructionSet(
      DType dtype, int heads, int kvHeads, int dim, int headBegin, int headEnd) {
    Sequences sequences = Sequences.RAGGED;
    for (Context context : Contexts.every()) {
      for (Support support : Support.values()) {
        for (Reduction reduction : Reduction.values()) {
          try (Scope scope = context.scope()) {
            AttentionPolicy.Input input =
                sequences.random(scope, new Random(dim), dtype, heads, kvHeads, dim, 1.3);
            AttentionPolicy.Options options =
                RAL.withSupport(support)
                    .withReduction(reduction)
                    .withHeads(headBegin, headEnd)
                    .withScale(dim == 8 ? 0.7f : Float.NaN);
            // Wider than it must be: all columns are written.
            Tensor map =
                reduction == Reduction.NONE
                    ? null
                    : unwritten(scope, DType.F32, sequences.rows(), sequences.longest() + 5);
            AttentionPolicy.Outputs got = outputs(scope, input, map);
            AttentionPolicy.forward(context, input, options, got);
            assertAgrees(sequences, input, options, got, 1e-6);
          }
        }
      }
      context.close();
    }
  }

  /** More keys than one f32 sum may have; flat policies and sharp ones. */
  @ParameterizedTest
  @CsvSource({"5000, 1", "5000, 6", "70000, 0.1", "70000, 3"})
  void longRowsKeepTheirAccuracy(int keys, double deviation) {
    Sequences sequences = new Sequences(new int[] {3}, new int[] {keys}, new int[] {9, keys - 7});
    for (Context context : Contexts.every()) {
      for (Support support : Support.values()) {
        try (Scope scope = context.scope()) {
          AttentionPolicy.Input input =
              sequences.random(scope, new Random(4), DType.F32, 2, 1, 4, deviation);
          AttentionPolicy.Options options = RAL.withSupport(support);
          AttentionPolicy.Outputs got = AttentionPolicy.forward(scope, input, options);
          assertAgrees(sequences, input, options, got, deviation > 2 ? 1e-5 : 4e-6);
        }
      }
      context.close();
    }
  }

  /** A support that holds little keeps its relative accuracy: mass and map are not differences. */
  @ParameterizedTest
  @ValueSource(doubles = {5, 12, 25, 44})
  void smallMassesKeepTheirRelativeAccuracy(double ahead) {
    Sequences sequences = new Sequences(new int[] {1}, new int[] {40}, new int[] {0, 39});
    Random random = new Random(5);
    float[] q = {1};
    float[] k = gaussian(random, 40, 1);
    k[39] = (float) ahead;
    for (Context context : Contexts.every()) {
      for (Support support : new Support[] {Support.PREVIOUS, Support.RANGES}) {
        try (Scope scope = context.scope()) {
          AttentionPolicy.Input input =
              sequences.input(scope, Tensor.of(scope, q, 1, 1, 1), Tensor.of(scope, k, 40, 1, 1));
          AttentionPolicy.Options options = RAL.withSupport(support);
          AttentionPolicy.Outputs got = AttentionPolicy.forward(scope, input, options);
          double mass = side(input, options).policies(sequences.reference(options), 0)[0].mass();
          assertThat(mass).isBetween(1e-20, 0.5);
          assertAgrees(sequences, input, options, got, 3e-6);
        }
      }
      context.close();
    }
  }

  @ParameterizedTest
  @EnumSource(Reduction.class)
  void scoresOfHundredsNeitherOverflowNorLoseTheirRows(Reduction reduction) {
    Sequences sequences = Sequences.RAGGED;
    Random random = new Random(6);
    float[] q = new float[sequences.rows() * 4];
    float[] k = new float[sequences.keyRows() * 2];
    for (int i = 0; i < q.length; i++) {
      q[i] = random.nextBoolean() ? 20 : -20;
    }
    for (int i = 0; i < k.length; i++) {
      k[i] = (random.nextInt(3) - 1) * 10;
    }
    for (Context context : Contexts.every()) {
      for (Support support : Support.values()) {
        try (Scope scope = context.scope()) {
          AttentionPolicy.Input input =
              sequences.input(
                  scope,
                  Tensor.of(scope, q, sequences.rows(), 4, 1),
                  Tensor.of(scope, k, sequences.keyRows(), 2, 1));
          AttentionPolicy.Options options = RAL.withSupport(support).withReduction(reduction);
          AttentionPolicy.Outputs got = AttentionPolicy.forward(scope, input, options);
          assertAgrees(sequences, input, options, got, 6e-6);
        }
      }
      context.close();
    }
  }

  /**
   * f32 queries and keys have their policy to f32's precision whatever their scores are: spread
   * over a hundred, or in the hundreds all of them.
   */
  @ParameterizedTest
  @CsvSource({"20, 0", "1, 60"})
  void largeScoresOfF32KeepTheAccuracyOfSmallOnes(double deviation, float common) {
    Sequences sequences = new Sequences(new int[] {31}, new int[] {200}, new int[] {20, 150});
    for (Context context : Contexts.every()) {
      for (Support support : Support.values()) {
        for (Reduction reduction : Reduction.values()) {
          try (Scope scope = context.scope()) {
            Random random = new Random(13);
            float[] q = gaussian(random, 31 * 4 * 64, deviation);
            float[] k = gaussian(random, 200 * 2 * 64, 1);
            for (float[] x : new float[][] {q, k}) {
              for (int i = 0; i < x.length; i += 64) {
                x[i] += common;
              }
            }
            AttentionPolicy.Input input =
                sequences.input(
                    scope, Tensor.of(scope, q, 31, 4, 64), Tensor.of(scope, k, 200, 2, 64));
            AttentionPolicy.Options options =
                RAL.withSupport(support).withReduction(reduction).withScale(0.125f);
            AttentionPolicy.Outputs got = AttentionPolicy.forward(scope, input, options);
            assertAgrees(sequences, input, options, got, 1e-6);
          }
        }
      }
      context.close();
    }
  }

  /** A map of an even width, an odd width, which shows 0 beyond the keys, and a rounded one. */
  @ParameterizedTest
  @CsvSource({
    "4, 2, 64, 0, 4, PREVIOUS, false, 1",
    "7, 1, 128, 0, 7, ALL, false, 1",
    "4, 4, 128, 0, 4, RANGES, false, 1",
    "6, 2, 80, 1, 5, RANGES, true, 1",
    "6, 3, 33, 3, 4, PREVIOUS, false, 1",
    "12, 3, 96, 5, 11, ALL, false, 1",
    "4, 2, 64, 0, 4, RANGES, true, 3",
    "4, 1, 128, 0, 4, ALL, false, 6"
  })
  void agreesOnTiles(
      int heads,
      int kvHeads,
      int dim,
      int begin,
      int end,
      Support support,
      boolean compact,
      double spread) {
    Sequences sequences = Sequences.TILED;
    int least = compact ? 150 : 290;
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        AttentionPolicy.Input input =
            sequences.random(scope, new Random(14), DType.BF16, heads, kvHeads, dim, spread);
        AttentionPolicy.Options options =
            RAL.withSupport(support).withHeads(begin, end).withCompact(compact);
        int rows = sequences.rows();
        AttentionPolicy.Outputs got =
            outputs(scope, input, unwritten(scope, DType.F32, rows, least));
        AttentionPolicy.forward(context, input, options, got);
        assertAgrees(sequences, input, options, got, spread > 1 ? 5e-5 : 4e-6);
        Tensor odd = unwritten(scope, DType.F32, rows, least + 5);
        Tensor rounded = unwritten(scope, DType.BF16, rows, least);
        for (Tensor map : new Tensor[] {odd, rounded}) {
          AttentionPolicy.forward(
              context, input, options, new AttentionPolicy.Outputs(null, null, null, map));
        }
        for (int row = 0; row < rows; row++) {
          float[] want = got.map().rows(row, row + 1).toFloats();
          assertThat(odd.rows(row, row + 1).toFloats()).isEqualTo(Arrays.copyOf(want, least + 5));
        }
        assertRounded(got.map(), rounded);
      }
    }
  }

  // -------------------------------------------------------------------------------------------
  // maps

  private static void assertRounded(Tensor f32, Tensor bf16) {
    float[] want = f32.toFloats();
    float[] got = bf16.toFloats();
    for (int i = 0; i < want.length; i++) {
      assertThat(got[i]).isEqualTo(DType.bf16ToFloat(DType.floatToBf16(want[i])));
    }
  }

  @Test
  void compactMapsBeginAtTheRange() {
    Sequences sequences = Sequences.RAGGED;
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        AttentionPolicy.Input input = sequences.random(scope, new Random(7), DType.F32, 4, 2, 8, 1);
        AttentionPolicy.Options options = RAL.withSupport(Support.RANGES).withCompact(true);
        // The widest range within its sequence is 7 … 32.
        for (int ld : new int[] {26, 31}) {
          AttentionPolicy.Outputs got =
              outputs(scope, input, unwritten(scope, DType.F32, sequences.rows(), ld));
          AttentionPolicy.forward(context, input, options, got);
          assertAgrees(sequences, input, options, got, 1e-6);
        }
        if (Contexts.CUDA) {
          continue; // whose ranges are not looked at
        }
        Tensor narrow = unwritten(scope, DType.F32, sequences.rows(), 25);
        assertThatThrownBy(
                () ->
                    AttentionPolicy.forward(
                        context,
                        input,
                        options,
                        new AttentionPolicy.Outputs(null, null, null, narrow)))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessage("attention_policy: map_stride: expected 0 (dense) or at least 26, got 25");
      }
    }
  }

  /** The map of f32, rounded; the rounding alone is a divergence of a few 1e-7. */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void bf16MapsAreTheRoundedMaps(boolean compact) {
    Sequences sequences = Sequences.RAGGED;
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        AttentionPolicy.Input input = sequences.random(scope, new Random(8), DType.F32, 4, 2, 8, 1);
        AttentionPolicy.Options options =
            RAL.withSupport(compact ? Support.RANGES : Support.PREVIOUS).withCompact(compact);
        int ld = compact ? 26 : 40;
        Tensor exact = unwritten(scope, DType.F32, sequences.rows(), ld);
        Tensor rounded = unwritten(scope, DType.BF16, sequences.rows(), ld);
        AttentionPolicy.Outputs all = outputs(scope, input, exact);
        AttentionPolicy.forward(context, input, options, all);
        AttentionPolicy.forward(
            context, input, options, new AttentionPolicy.Outputs(null, null, null, rounded));
        assertRounded(exact, rounded);
        float[] want = exact.toFloats();
        float[] got = rounded.toFloats();
        for (int row = 0; row < sequences.rows(); row++) {
          double[] p =
              Tensor.of(scope, Arrays.copyOfRange(want, row * ld, row * ld + ld)).toDoubles();
          double[] r =
              Tensor.of(scope, Arrays.copyOfRange(got, row * ld, row * ld + ld)).toDoubles();
          assertThat(AttentionPolicyReference.divergence(Divergence.JSD, 0.5, r, p))
              .isLessThan(1e-6);
        }
      }
    }
  }

  /** A GPU does not look at ranges before it computes: a row that does not fit is NaN. */
  @ParameterizedTest
  @EnumSource(
      value = DType.class,
      names = {"F32", "BF16"})
  void rangesWiderThanTheMapAreNanOnAGpu(DType dtype) {
    assumeTrue(Contexts.CUDA);
    Sequences sequences = Sequences.TILED;
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      AttentionPolicy.Input input = sequences.random(scope, new Random(15), dtype, 4, 2, 24, 1);
      AttentionPolicy.Options options = RAL.withSupport(Support.RANGES).withCompact(true);
      int rows = sequences.rows();
      AttentionPolicy.Outputs want = outputs(scope, input, unwritten(scope, DType.F32, rows, 150));
      AttentionPolicy.Outputs got = outputs(scope, input, unwritten(scope, DType.F32, rows, 140));
      AttentionPolicy.forward(context, input, options, want);
      AttentionPolicy.forward(context, input, options, got);
      assertThat(got.entropy().toFloats()).isEqualTo(want.entropy().toFloats());
      assertThat(got.mass().toFloats()).isEqualTo(want.mass().toFloats());
      int lost = 0;
      for (int row = 0; row < rows; row++) {
        float[] whole = want.map().rows(row, row + 1).toFloats();
        float[] part = Arrays.copyOf(whole, 140);
        if (whole[140] != 0) {
          Arrays.fill(part, Float.NaN);
          lost++;
        }
        assertThat(got.map().rows(row, row + 1).toFloats()).isEqualTo(part);
      }
      // Rows of the first sequence from 10 on, and of the fifth from 19 on.
      assertThat(lost).isEqualTo(60 + 21);
    }
  }

  /** Each result alone is what it is among the others. */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void everyOutputIsOptional(boolean tiled) {
    Sequences sequences = tiled ? Sequences.TILED : Sequences.RAGGED;
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      AttentionPolicy.Input input =
          sequences.random(scope, new Random(9), tiled ? DType.BF16 : DType.F32, 4, 2, 8, 1);
      // Heads outside of the range have an lse too.
      AttentionPolicy.Options options = RAL.withHeads(1, 3);
      AttentionPolicy.Outputs all = AttentionPolicy.forward(scope, input, options);
      Tensor[] want = {all.entropy(), all.mass(), all.lse(), all.map()};
      for (int i = 0; i < 4; i++) {
        Tensor[] t = new Tensor[4];
        t[i] = unwritten(scope, DType.F32, want[i].shape());
        AttentionPolicy.forward(
            context, input, options, new AttentionPolicy.Outputs(t[0], t[1], t[2], t[3]));
        assertThat(t[i].toFloats()).isEqualTo(want[i].toFloats());
      }
      AttentionPolicy.forward(
          context, input, options, new AttentionPolicy.Outputs(null, null, null, null));
      AttentionPolicy.Outputs perHead =
          AttentionPolicy.forward(scope, input, options.withReduction(Reduction.NONE));
      assertThat(perHead.map()).isNull();
      Near.assertSame("lse", perHead.lse().toFloats(), all.lse().toFloats());
    }
  }

  // ------------------------------------------------------------------------------------------
  // edges

  @Test
  void deadPoliciesHaveNoEntropyNoMassAndNoMap() {
    // A row that sees nothing, one that sees itself alone, one that sees two keys; then a row whose
    // own position holds all but e^-60.
    Sequences sequences = new Sequences(new int[] {3, 1}, new int[] {2, 2}, new int[] {0, 1, 0, 1});
    float[] q = {1, 1, 1, 1};
    float[] k = {0, 1, 0, 60};
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        AttentionPolicy.Input input =
            sequences.input(scope, Tensor.of(scope, q, 4, 1, 1), Tensor.of(scope, k, 4, 1, 1));
        for (Reduction reduction : Reduction.values()) {
          AttentionPolicy.Outputs previous =
              AttentionPolicy.forward(scope, input, RAL.withReduction(reduction));
          float own = (float) (1 / (1 + Math.E));
          assertThat(previous.mass().toFloats()[2]).isCloseTo(own, within(1e-6f));
          for (int row : new int[] {0, 1, 3}) {
            assertThat(previous.mass().toFloats()[row]).isZero();
            assertThat(previous.entropy().toFloats()[row]).isZero();
          }
          // One token is a policy without entropy.
          assertThat(previous.entropy().toFloats()[2]).isCloseTo(0, within(1e-6f));
          if (reduction == Reduction.MEAN) {
            Near.assertSame("map", previous.map().toFloats(), new float[] {0, 0, 0, 0, 1, 0, 0, 0});
          }
          AttentionPolicy.Outputs all =
              AttentionPolicy.forward(
                  scope, input, RAL.withSupport(Support.ALL).withReduction(reduction));
          assertThat(all.mass().toFloats()[0]).isZero();
          for (int row = 1; row < 4; row++) {
            assertThat(all.mass().toFloats()[row]).isCloseTo(1, within(1e-6f));
          }
        }
      }
    }
  }

  /** With NONE the dead heads of a row count 0 in its means. */
  @Test
  void deadHeadsCountInTheMeanOverHeads() {
    Sequences sequences = new Sequences(new int[] {1}, new int[] {3}, new int[] {0, 2});
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      // The first head puts all on the row's own position, the second head looks around.
      AttentionPolicy.Input input =
          sequences.input(
              scope,
              Tensor.of(scope, new float[] {100, 0}, 1, 2, 1),
              Tensor.of(scope, new float[] {0, 0, 1}, 3, 1, 1));
      AttentionPolicy.Outputs out =
          AttentionPolicy.forward(scope, input, RAL.withReduction(Reduction.NONE));
      assertThat(out.mass().item()).isCloseTo(1 / 3f, within(1e-6f));
      assertThat(out.entropy().item()).isCloseTo((float) Math.log(2) / 2, within(1e-6f));
    }
  }

  @Test
  void emptyProblemsAreLegal() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      for (int[] keys : new int[][] {{}, {0, 0}, {0, 7}}) {
        Sequences sequences = new Sequences(new int[keys.length], keys, new int[2 * keys.length]);
        AttentionPolicy.Input input = sequences.random(scope, new Random(1), DType.F32, 2, 1, 3, 1);
        for (Support support : Support.values()) {
          AttentionPolicy.Outputs out =
              AttentionPolicy.forward(scope, input, RAL.withSupport(support));
          assertThat(out.mass().size()).isZero();
        }
      }
      Sequences blind = new Sequences(new int[] {2}, new int[] {0}, new int[] {0, 5});
      AttentionPolicy.Input input = blind.random(scope, new Random(1), DType.F32, 2, 1, 3, 1);
      AttentionPolicy.Outputs out = outputs(scope, input, null);
      AttentionPolicy.forward(context, input, RAL, out);
      assertThat(out.mass().toFloats()).containsOnly(0f);
      assertThat(out.entropy().toFloats()).containsOnly(0f);
      assertThat(out.lse().toFloats()).containsOnly(Float.NEGATIVE_INFINITY);
    }
  }

  /** q and k as columns of one matrix, as a model has them. */
  @ParameterizedTest
  @EnumSource(
      value = DType.class,
      names = {"F32", "BF16", "F16"})
  void stridesAreHonoured(DType dtype) {
    int[] lengths = {5, 1, 20};
    Sequences sequences = new Sequences(lengths, lengths, new int[] {0, 3, 0, 1, 2, 9});
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      AttentionPolicy.Input dense = sequences.random(scope, new Random(10), dtype, 4, 2, 17, 1);
      Tensor qkv = unwritten(scope, dtype, 26, 3 + 6 * 17 + 40);
      Tensor q = qkv.columns(3, 3 + 4 * 17).copyFrom(dense.q().toFloats());
      Tensor k = qkv.columns(3 + 4 * 17, 3 + 6 * 17).copyFrom(dense.k().toFloats());
      AttentionPolicy.Input strided =
          sequences.input(scope, q.reshape(26, 4, 17), k.reshape(26, 2, 17));
      AttentionPolicy.Outputs want = AttentionPolicy.forward(scope, dense, RAL);
      AttentionPolicy.Outputs got = AttentionPolicy.forward(scope, strided, RAL);
      assertThat(got.entropy().toFloats()).isEqualTo(want.entropy().toFloats());
      assertThat(got.mass().toFloats()).isEqualTo(want.mass().toFloats());
      assertThat(got.lse().toFloats()).isEqualTo(want.lse().toFloats());
      assertThat(got.map().toFloats()).isEqualTo(want.map().toFloats());
    }
  }

  // ---------------------------------------------------------------------------- NaN and
  // determinism

  private static int[] bits(float[] x) {
    int[] bits = new int[x.length];
    for (int i = 0; i < x.length; i++) {
      bits[i] = Float.floatToRawIntBits(x[i]);
    }
    return bits;
  }

  /** The same bits in all rows but [begin, end). */
  private static void assertSameOutside(
      int begin, int end, AttentionPolicy.Outputs got, AttentionPolicy.Outputs want) {
    Tensor[][] pairs = {
      {got.entropy(), want.entropy()}, {got.mass(), want.mass()}, {got.map(), want.map()}
    };
    for (Tensor[] pair : pairs) {
      for (long[] part : new long[][] {{0, begin}, {end, pair[1].shape(0)}}) {
        assertThat(bits(pair[0].rows(part[0], part[1]).toFloats()))
            .isEqualTo(bits(pair[1].rows(part[0], part[1]).toFloats()));
      }
    }
  }

  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void nanStaysInItsSequence(boolean inKeys) {
    Sequences sequences =
        new Sequences(
            new int[] {3, 6, 2, 9}, new int[] {3, 11, 35, 9}, new int[] {0, 2, 0, 9, 0, 9, 0, 9});
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        AttentionPolicy.Input input =
            sequences.random(scope, new Random(11), DType.F32, 4, 2, 8, 1);
        AttentionPolicy.Outputs clean = AttentionPolicy.forward(scope, input, RAL);
        for (float bad : new float[] {Float.NaN, Float.POSITIVE_INFINITY}) {
          Tensor broken = inKeys ? input.k() : input.q();
          float[] row = broken.rows(7, 8).toFloats();
          float[] changed = row.clone();
          changed[3] = bad;
          broken.rows(7, 8).copyFrom(changed);
          AttentionPolicy.Outputs out = AttentionPolicy.forward(scope, input, RAL);
          broken.rows(7, 8).copyFrom(row);
          // Rows 3 … 8 are those of the second sequence.
          assertSameOutside(3, 9, out, clean);
          // Key 4 of the sequence is seen from its first row on, position 5; row 7 is its fifth.
          if (Float.isNaN(bad)) { // an infinite score may be -inf: a masked key
            assertThat(out.mass().toFloats()[7]).isNaN();
            assertThat(out.entropy().toFloats()[7]).isNaN();
          }
        }
      }
    }
  }

  @Test
  void nanInATileStaysWithItsRowAndWithThoseThatSeeItsKey() {
    Sequences sequences = Sequences.TILED;
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        AttentionPolicy.Input input =
            sequences.random(scope, new Random(16), DType.BF16, 4, 2, 64, 1);
        AttentionPolicy.Outputs clean = AttentionPolicy.forward(scope, input, RAL);
        // Row 9 of the third sequence; then key 140 of the first one, which row 10 sees first.
        for (boolean inKeys : new boolean[] {false, true}) {
          Tensor broken = inKeys ? input.k().rows(140, 141) : input.q().rows(80, 81);
          float[] before = broken.toFloats();
          float[] nan = new float[before.length];
          Arrays.fill(nan, Float.NaN);
          broken.copyFrom(nan);
          AttentionPolicy.Outputs out = AttentionPolicy.forward(scope, input, RAL);
          broken.copyFrom(before);
          int begin = inKeys ? 10 : 80;
          int end = inKeys ? 70 : 81;
          assertSameOutside(begin, end, out, clean);
          for (int row = begin; row < end; row++) {
            assertThat(out.mass().toFloats()[row]).isNaN();
            assertThat(out.entropy().toFloats()[row]).isNaN();
          }
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
      List<float[]> first = null;
      for (int threads : new int[] {1, 2, 3, 7}) {
        try (Context context = Context.builder().threads(threads).build();
            Scope scope = context.scope()) {
          AttentionPolicy.Input input =
              sequences.random(scope, new Random(12), DType.F32, 6, 2, 24, 1);
          AttentionPolicy.Outputs out =
              AttentionPolicy.forward(
                  scope, input, RAL.withSupport(Support.RANGES).withReduction(reduction));
          List<float[]> all = new ArrayList<>();
          for (Tensor tensor : new Tensor[] {out.entropy(), out.mass(), out.lse(), out.map()}) {
            all.add(tensor == null ? new float[0] : tensor.toFloats());
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

  // -------------------------------------------------------------------------------------
  // rejections

  private static AttentionPolicy.Input with(AttentionPolicy.Input in, Tensor q, Tensor k) {
    return new AttentionPolicy.Input(
        q, k, in.offsetsQ(), in.offsetsK(), in.maxKeys(), in.supportRanges());
  }

  private static AttentionPolicy.Input with(
      AttentionPolicy.Input in, Tensor offsetsQ, Tensor offsetsK, long maxKeys, Tensor ranges) {
    return new AttentionPolicy.Input(in.q(), in.k(), offsetsQ, offsetsK, maxKeys, ranges);
  }

  @Test
  void rejectsInputsThatDoNotFit() {
    Sequences sequences = new Sequences(new int[] {2, 3}, new int[] {4, 3}, new int[] {0, 2, 0, 2});
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      AttentionPolicy.Input in = sequences.random(scope, new Random(1), DType.F32, 4, 2, 8, 1);
      Tensor oq = in.offsetsQ();
      Tensor ok = in.offsetsK();
      Tensor ranges = in.supportRanges();
      AttentionPolicy.Input[] inputs = {
        with(in, null, in.k()),
        with(in, Tensor.zeros(scope, DType.F64, 5, 4, 8), in.k()),
        with(in, Tensor.zeros(scope, DType.BF16, 5, 4, 8), in.k()),
        with(in, in.q(), Tensor.zeros(scope, DType.F32, 7, 2, 9)),
        with(in, in.q(), Tensor.zeros(scope, DType.F32, 7, 3, 8)),
        with(in, in.q(), Tensor.zeros(scope, DType.F32, 8, 2, 8)),
        with(
            in,
            Tensor.zeros(scope, DType.F32, 5, 4, 300),
            Tensor.zeros(scope, DType.F32, 7, 2, 300)),
        with(in, null, ok, 4, ranges),
        with(in, Tensor.of(scope, new int[] {0, 3, 4}), ok, 4, ranges),
        with(in, oq, Tensor.of(scope, new int[] {0, 8, 7}), 4, ranges),
        with(in, oq, ok, 3, ranges),
        with(in, oq, ok, 4, null),
        with(in, oq, ok, 4, Tensor.zeros(scope, DType.I32, 4))
      };
      String[] messages = {
        "q: expected f32 or bf16 or f16[*, *, *], got null",
        "q: expected f32 or bf16 or f16[*, *, *], got f64[5, 4, 8]",
        "k: expected bf16[*, *, 8], got f32[7, 2, 8]",
        "k: expected f32[*, *, 8], got f32[7, 2, 9]",
        "heads: expected a multiple of kv_heads = 3, got 4",
        "offsets_k: expected offsets that end at 8, got 7",
        "head_dim: expected 1 to 256, got 300",
        "offsets_q: expected i32[*], got null",
        "offsets_q: expected offsets that end at 5, got 4",
        "offsets_k: expected non-decreasing offsets, got 7 after 8 at 2",
        "max_keys: expected at least the longest sequence of 4, got 3",
        "support_ranges: expected an address, got null with 4 elements",
        "support_ranges: expected i32[2, 2], got i32[4]"
      };
      AttentionPolicy.Outputs none = new AttentionPolicy.Outputs(null, null, null, null);
      for (int i = 0; i < messages.length; i++) {
        AttentionPolicy.Input wrong = inputs[i];
        assertThatThrownBy(
                () ->
                    AttentionPolicy.forward(context, wrong, RAL.withSupport(Support.RANGES), none))
            .as(messages[i])
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessage("attention_policy: " + messages[i]);
      }
    }
  }

  @Test
  void rejectsOptionsAndOutputsThatDoNotFit() {
    Sequences sequences = new Sequences(new int[] {2, 3}, new int[] {4, 3}, new int[] {0, 2, 0, 2});
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      AttentionPolicy.Input in = sequences.random(scope, new Random(1), DType.F32, 4, 2, 8, 1);
      AttentionPolicy.Options[] options = {
        RAL.withScale(Float.POSITIVE_INFINITY),
        RAL.withHeads(-1, 2),
        RAL.withHeads(2, 2),
        RAL.withHeads(3, 5),
        RAL.withCompact(true)
      };
      String[] messages = {
        "scale: expected a finite number, got inf",
        "head_begin, head_end: expected a non-empty range within [0, 4), got [-1, 2)",
        "head_begin, head_end: expected a non-empty range within [0, 4), got [2, 2)",
        "head_begin, head_end: expected a non-empty range within [0, 4), got [3, 5)",
        "compact: expected 0 unless support is RANGES, got 1"
      };
      for (int i = 0; i < messages.length; i++) {
        AttentionPolicy.Options wrong = options[i];
        assertThatThrownBy(() -> AttentionPolicy.forward(scope, in, wrong))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessage("attention_policy: " + messages[i]);
      }
      Tensor short4 = Tensor.zeros(scope, DType.F32, 4);
      Tensor map = Tensor.zeros(scope, DType.F32, 5, 4);
      AttentionPolicy.Outputs[] outputs = {
        new AttentionPolicy.Outputs(short4, null, null, null),
        new AttentionPolicy.Outputs(null, short4, null, null),
        new AttentionPolicy.Outputs(null, null, map, null),
        new AttentionPolicy.Outputs(null, null, null, Tensor.zeros(scope, DType.F32, 5, 3)),
        new AttentionPolicy.Outputs(null, null, null, Tensor.zeros(scope, DType.F16, 5, 4)),
        new AttentionPolicy.Outputs(null, null, null, Tensor.zeros(scope, DType.F32, 4, 4)),
        new AttentionPolicy.Outputs(in.q().reshape(160).rows(0, 5), null, null, null)
      };
      messages =
          new String[] {
            "entropy: expected f32[5], got f32[4]",
            "mass: expected f32[5], got f32[4]",
            "lse: expected f32[4, 5], got f32[5, 4]",
            "map_stride: expected 0 (dense) or at least 4, got 3",
            "map: expected f32 or bf16[5, *], got f16[5, 4]",
            "map: expected f32 or bf16[5, *], got f32[4, 4]",
            "entropy: expected memory that overlaps no input, got an overlap with q"
          };
      for (int i = 0; i < messages.length; i++) {
        AttentionPolicy.Outputs wrong = outputs[i];
        assertThatThrownBy(() -> AttentionPolicy.forward(context, in, RAL, wrong))
            .as(messages[i])
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessage("attention_policy: " + messages[i]);
      }
      assertThatThrownBy(
              () ->
                  AttentionPolicy.forward(
                      context,
                      in,
                      RAL.withReduction(Reduction.NONE),
                      new AttentionPolicy.Outputs(null, null, null, map)))
          .hasMessage(
              "attention_policy: map: expected no map: reduction NONE has a policy for every head,"
                  + " got a map");
    }
  }
}
