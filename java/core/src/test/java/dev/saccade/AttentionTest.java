package dev.saccade;

import static dev.saccade.Near.assertNear;
import static dev.saccade.Near.largest;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_attention_args;
import dev.saccade.reference.AttentionReference;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIf;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class AttentionTest {
  /** Equal lengths, fewer queries than keys, one key, empty sequences at both ends and between. */
  private static final int[][] RAGGED = {{0, 3, 0, 17, 1, 1, 5, 0}, {0, 3, 0, 40, 1, 33, 9, 0}};

  /** More queries than keys, no keys at all, keys that no query reads. */
  private static final int[][] BLIND = {{6, 4, 0, 2, 37}, {4, 0, 5, 2, 3}};

  /** Blocks of rows and of keys, whole ones and begun ones. */
  private static final int[][] LONG = {{70, 130}, {130, 130}};

  /** Sequences of many rows, and one of a few. */
  private static final int[][] MANY = {
    {128, 300, 5, 191, 129, 0, 64}, {128, 517, 40, 64, 257, 3, 64}
  };

  /** Neither few rows nor few keys, and none of them a whole block. */
  private static final int[][] SOME = {{30, 40, 3, 20}, {90, 100, 70, 66}};

  /** A few rows and many keys, as in generation. */
  private static final int[][] FEW = {{1, 2, 8, 3}, {600, 70, 1000, 5}};

  /** More rows than one f32 sum of a key's gradient may have. */
  private static final int[][] TALL = {{5000}, {3}};

  /** More keys than one f32 sum of a row may have. */
  private static final int[][] WIDE = {{2}, {70_000}};

  private static int[][] packing(String name) {
    return switch (name) {
      case "ragged" -> RAGGED;
      case "blind" -> BLIND;
      case "long" -> LONG;
      case "some" -> SOME;
      case "few" -> FEW;
      case "many" -> MANY;
      case "tall" -> TALL;
      case "wide" -> WIDE;
      default -> throw new IllegalArgumentException(name);
    };
  }

  private static int[] offsets(int[] lengths) {
    int[] offsets = new int[lengths.length + 1];
    for (int s = 0; s < lengths.length; s++) {
      offsets[s + 1] = offsets[s] + lengths[s];
    }
    return offsets;
  }

  private static double[] doubles(float[] x) {
    double[] y = new double[x.length];
    for (int i = 0; i < x.length; i++) {
      y[i] = x[i];
    }
    return y;
  }

  private static float[] gaussian(Random random, int n, double scale) {
    float[] x = new float[n];
    for (int i = 0; i < n; i++) {
      x[i] = (float) (random.nextGaussian() * scale);
    }
    return x;
  }

  /** Random q, k, v and dO of packed sequences, and what double precision makes of them. */
  private static final class Problem {
    final AttentionReference.Shape shape;
    final int rows;
    final int keys;
    final int longest;
    final float[] q;
    final float[] k;
    final float[] v;
    final float[] dO;

    Problem(long seed, int[][] lengths, int heads, int kvHeads, int dim, double deviation) {
      Random random = new Random(seed);
      shape =
          new AttentionReference.Shape(
              offsets(lengths[0]),
              offsets(lengths[1]),
              null,
              heads,
              kvHeads,
              dim,
              (float) (1 / Math.sqrt(dim)));
      rows = Arrays.stream(lengths[0]).sum();
      keys = Arrays.stream(lengths[1]).sum();
      longest = Arrays.stream(lengths[1]).max().orElse(0);
      q = gaussian(random, rows * heads * dim, deviation);
      k = gaussian(random, keys * kvHeads * dim, deviation);
      v = gaussian(random, keys * kvHeads * dim, 1);
      dO = gaussian(random, rows * heads * dim, 1);
    }

    AttentionReference.Forward forward() {
      return AttentionReference.forward(shape, doubles(q), doubles(k), doubles(v));
    }

    AttentionReference.Gradients backward() {
      return AttentionReference.backward(shape, doubles(q), doubles(k), doubles(v), doubles(dO));
    }

    Attention.Input input(Scope scope, Precision precision) {
      return new Attention.Input(
          Tensor.of(scope, q, rows, shape.heads(), shape.dim()),
          Tensor.of(scope, k, keys, shape.kvHeads(), shape.dim()),
          Tensor.of(scope, v, keys, shape.kvHeads(), shape.dim()),
          Tensor.of(scope, shape.offsetsQ()),
          Tensor.of(scope, shape.offsetsK()),
          null,
          longest,
          (float) shape.scale(),
          precision);
    }

    Results run(Scope scope) {
      return run(scope, Precision.F32);
    }

    Results run(Scope scope, Precision precision) {
      Results results = new Results(scope, this, precision);
      Attention.forward(scope.context(), results.input, results.o, results.lse);
      Attention.backward(
          scope.context(),
          results.input,
          results.o,
          results.lse,
          results.dO,
          results.dq,
          results.dk,
          results.dv);
      return results;
    }
  }

  /** Outputs that hold 777 before they are written. */
  private static final class Results {
    final Attention.Input input;
    final Tensor o;
    final Tensor lse;
    final Tensor dO;
    final Tensor dq;
    final Tensor dk;
    final Tensor dv;

    Results(Scope scope, Problem problem, Precision precision) {
      input = problem.input(scope, precision);
      o = unwritten(scope, input.q().shape());
      lse = unwritten(scope, problem.shape.heads(), problem.rows);
      dO = Tensor.of(scope, problem.dO, input.q().shape());
      dq = unwritten(scope, input.q().shape());
      dk = unwritten(scope, input.k().shape());
      dv = unwritten(scope, input.v().shape());
    }

    List<float[]> all() {
      return List.of(o.toFloats(), lse.toFloats(), dq.toFloats(), dk.toFloats(), dv.toFloats());
    }
  }

  private static Tensor unwritten(Scope scope, long... shape) {
    Tensor tensor = Tensor.empty(scope, DType.F32, shape);
    float[] values = new float[(int) tensor.size()];
    Arrays.fill(values, 777f);
    return tensor.copyFrom(values);
  }

  /** -inf equals itself; the rest by distance. */
  private static void assertLse(float[] got, double[] want, double tolerance) {
    for (int i = 0; i < want.length; i++) {
      if (want[i] == Double.NEGATIVE_INFINITY) {
        assertThat(got[i]).as("lse[%d]", i).isEqualTo(Float.NEGATIVE_INFINITY);
      } else {
        assertThat((double) got[i]).as("lse[%d]", i).isCloseTo(want[i], within(tolerance));
      }
    }
  }

  private static void assertGradients(
      Results got, AttentionReference.Gradients want, double tolerance) {
    assertNear("dq", got.dq.toFloats(), want.dq(), 0, tolerance * largest(want.dq()));
    assertNear("dk", got.dk.toFloats(), want.dk(), 0, tolerance * largest(want.dk()));
    assertNear("dv", got.dv.toFloats(), want.dv(), 0, tolerance * largest(want.dv()));
  }

  // ---------------------------------------------------------------------------------------
  // accuracy

  @Test
  void gradientsOfTheReferenceAreItsDifferences() {
    Problem problem = new Problem(1, RAGGED, 4, 2, 3, 1);
    AttentionReference.Gradients gradients = problem.backward();
    double[][] inputs = {doubles(problem.q), doubles(problem.k), doubles(problem.v)};
    double[][] want = {gradients.dq(), gradients.dk(), gradients.dv()};
    for (int x = 0; x < 3; x++) {
      for (int i = 0; i < inputs[x].length; i++) {
        double[] loss = new double[2];
        double value = inputs[x][i];
        for (int side = 0; side < 2; side++) {
          inputs[x][i] = value + (side == 0 ? -1e-5 : 1e-5);
          double[] o =
              AttentionReference.forward(problem.shape, inputs[0], inputs[1], inputs[2]).o();
          for (int e = 0; e < o.length; e++) {
            loss[side] += problem.dO[e] * o[e];
          }
        }
        inputs[x][i] = value;
        assertThat(want[x][i]).isCloseTo((loss[1] - loss[0]) / 2e-5, within(1e-8));
      }
    }
  }

  /** One dimension, around the widest vector, common ones, the largest; every grouping of heads. */
  @ParameterizedTest
  @CsvSource({
    "ragged, 4, 2, 1, 3e-6",
    "ragged, 6, 2, 8, 3e-6",
    "ragged, 4, 4, 16, 3e-6",
    "ragged, 3, 1, 17, 3e-6",
    "ragged, 4, 2, 80, 3e-6",
    "ragged, 2, 1, 128, 3e-6",
    "ragged, 2, 2, 256, 3e-6",
    "blind, 4, 2, 8, 3e-6",
    "blind, 3, 3, 17, 3e-6",
    "long, 4, 2, 16, 3e-6",
    "long, 2, 1, 5, 3e-6",
    "some, 3, 1, 17, 3e-6",
    "few, 4, 2, 32, 3e-6",
    "few, 3, 1, 64, 3e-6",
    "few, 2, 2, 40, 3e-6",
    "many, 4, 2, 32, 3e-6",
    "many, 2, 1, 64, 3e-6",
    "many, 2, 2, 128, 3e-6",
    "many, 1, 1, 256, 3e-6",
    "tall, 2, 1, 3, 3e-6",
    "tall, 2, 1, 8, 3e-6",
    "wide, 2, 1, 4, 6e-5" // the gradient of q is what is left of 70,000 terms that cancel
  })
  void agreesWithDoublePrecisionOnEveryInstructionSet(
      String packing, int heads, int kvHeads, int dim, double tolerance) {
    Problem problem = new Problem(dim, packing(packing), heads, kvHeads, dim, 1);
    AttentionReference.Forward forward = problem.forward();
    AttentionReference.Gradients backward = problem.backward();
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Results results = problem.run(scope);
        assertNear("o", results.o.toFloats(), forward.o(), 0, 2e-6);
        assertLse(results.lse.toFloats(), forward.lse(), 2e-6);
        assertGradients(results, backward, tolerance);
      }
    }
  }

  /**
   * Factors of 8 bits give results of about 8 bits. Sequences with rows enough for tiles that are
   * written first, and ones without; row counts around a tile, a begun one, more rows than keys.
   */
  @ParameterizedTest
  @CsvSource({
    "ragged, 4, 2, 17",
    "ragged, 2, 2, 256",
    "blind, 3, 3, 80",
    "long, 2, 1, 5",
    "some, 4, 2, 17",
    "some, 4, 2, 64",
    "some, 2, 1, 128",
    "many, 4, 2, 64",
    "many, 2, 1, 72",
    "many, 3, 1, 128",
    "many, 2, 1, 256",
    "tall, 2, 1, 3"
  })
  @EnabledIf("dev.saccade.Contexts#onGpu")
  void lowPrecisionRoundsFactorsOnly(String packing, int heads, int kvHeads, int dim) {
    Problem problem = new Problem(dim, packing(packing), heads, kvHeads, dim, 1);
    AttentionReference.Forward forward = problem.forward();
    AttentionReference.Gradients backward = problem.backward();
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Results results = problem.run(scope, Precision.BF16);
      assertNear("o", results.o.toFloats(), forward.o(), 0, 1e-2 * largest(forward.o()));
      assertLse(results.lse.toFloats(), forward.lse(), 2e-2);
      assertGradients(results, backward, 1.5e-2);
    }
  }

  @Test
  void lowPrecisionIsRefusedOnTheCpu() {
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      Problem problem = new Problem(2, RAGGED, 4, 2, 8, 1);
      for (Precision precision : List.of(Precision.TF32, Precision.BF16)) {
        assertThatThrownBy(() -> problem.run(scope, precision))
            .isInstanceOf(UnsupportedException.class)
            .hasMessageContaining("precision: expected F32 (0) on the CPU, got " + precision);
      }
    }
  }

  /** Score differences of hundreds: one key takes all, and the exponentials neither overflow. */
  @ParameterizedTest
  @ValueSource(ints = {8, 80})
  void largeScoresNeitherOverflowNorLoseTheirRows(int dim) {
    Problem problem = new Problem(2, RAGGED, 4, 2, dim, 0.5);
    Random random = new Random(3);
    // q·k·scale lies around -200, 0 or 200.
    for (int i = 0; i < problem.q.length; i += dim) {
      problem.q[i] = random.nextBoolean() ? 20 : -20;
    }
    for (int i = 0; i < problem.k.length; i += dim) {
      problem.k[i] = (float) ((random.nextInt(3) - 1) * 10 * Math.sqrt(dim));
    }
    AttentionReference.Forward forward = problem.forward();
    assertThat(largest(Arrays.stream(forward.lse()).filter(Double::isFinite).toArray()))
        .isCloseTo(200, within(4.0));
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Results results = problem.run(scope);
        // The products behind a score of 200 are sums in f32 of up to 80 terms near 1800.
        assertNear("o", results.o.toFloats(), forward.o(), 0, 3e-4);
        assertLse(results.lse.toFloats(), forward.lse(), 2e-4);
        // An lse of 200 leaves probabilities whose sum is 1 within 1e-5, and keys of length 90.
        assertGradients(results, problem.backward(), 2e-3);
      }
    }
  }

  // ---------------------------------------------------------------------------------------- layout

  @Test
  void rowsThatSeeNothingAreZerosAndHaveNoGradient() {
    Problem problem = new Problem(4, BLIND, 4, 2, 8, 1);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Results results = problem.run(scope);
      // The first sequence has 6 queries and 4 keys, the second 4 queries and none.
      for (Tensor tensor : List.of(results.o, results.dq)) {
        assertThat(tensor.rows(0, 2).toFloats()).containsOnly(0f);
        assertThat(tensor.rows(6, 10).toFloats()).containsOnly(0f);
        assertThat(tensor.rows(5, 6).toFloats()).doesNotContain(0f, 777f);
      }
      float[] lse = results.lse.toFloats();
      for (int h = 0; h < 4; h++) {
        for (int row : new int[] {0, 1, 6, 7, 8, 9}) {
          assertThat(lse[h * problem.rows + row]).isEqualTo(Float.NEGATIVE_INFINITY);
        }
        assertThat(lse[h * problem.rows + 2]).isFinite();
      }
      // The third sequence has 5 keys and no query.
      for (Tensor tensor : List.of(results.dk, results.dv)) {
        assertThat(tensor.rows(4, 9).toFloats()).containsOnly(0f);
      }
    }
  }

  @Test
  void sequencesOfOneKeyPassItsValueOn() {
    Problem problem = new Problem(5, new int[][] {{1, 1}, {1, 1}}, 4, 2, 17, 1);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Results results = problem.run(scope);
      for (int row = 0; row < 2; row++) {
        for (int h = 0; h < 4; h++) {
          int o = (row * 4 + h) * 17;
          int v = (row * 2 + h / 2) * 17;
          assertThat(Arrays.copyOfRange(results.o.toFloats(), o, o + 17))
              .isEqualTo(Arrays.copyOfRange(problem.v, v, v + 17));
        }
      }
      // dP and the mean of dP come from different sums; they agree to their rounding.
      for (Tensor tensor : List.of(results.dq, results.dk)) {
        for (float gradient : tensor.toFloats()) {
          assertThat(gradient).isCloseTo(0, within(2e-6f));
        }
      }
    }
  }

  /**
   * q, k, v and their gradients as columns of one matrix each, as a model has them; rows that begin
   * anywhere, and at multiples of 16 bytes.
   */
  @ParameterizedTest
  @CsvSource({"17, 3, 9", "24, 4, 12", "24, 3, 12", "24, 4, 9"})
  void stridesAreHonouredAndPaddingUntouched(int dim, int before, int more) {
    int heads = 4;
    int kvHeads = 2;
    int[] lengths = {5, 1, 20};
    Problem problem = new Problem(6, new int[][] {lengths, lengths}, heads, kvHeads, dim, 1);
    int n = problem.rows;
    int width = before + (heads + 2 * kvHeads) * dim + 4;
    int[] begin = {before, before + heads * dim, before + (heads + kvHeads) * dim, width - 4};
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Results dense = problem.run(scope);
      Tensor qkv = unwritten(scope, n, width);
      Tensor gradient = unwritten(scope, n, width);
      Tensor output = unwritten(scope, n, 2 * heads * dim + more);
      Tensor[] in = new Tensor[3];
      Tensor[] d = new Tensor[3];
      float[][] values = {problem.q, problem.k, problem.v};
      for (int x = 0; x < 3; x++) {
        int count = x == 0 ? heads : kvHeads;
        in[x] = qkv.columns(begin[x], begin[x + 1]).copyFrom(values[x]).reshape(n, count, dim);
        d[x] = gradient.columns(begin[x], begin[x + 1]).reshape(n, count, dim);
      }
      Tensor o = output.columns(4, 4 + heads * dim).reshape(n, heads, dim);
      Tensor dO = output.columns(4 + heads * dim, 4 + 2 * heads * dim).copyFrom(problem.dO);
      Attention.Input input =
          new Attention.Input(
              in[0],
              in[1],
              in[2],
              dense.input.offsetsQ(),
              dense.input.offsetsK(),
              null,
              20,
              (float) problem.shape.scale());
      Tensor lse = unwritten(scope, heads, n);
      Attention.forward(context, input, o, lse);
      // o and dO interleave, which an operation that writes o would refuse; backward reads both.
      Attention.backward(context, input, o, lse, dO.reshape(n, heads, dim), d[0], d[1], d[2]);
      assertThat(o.toFloats()).isEqualTo(dense.o.toFloats());
      assertThat(lse.toFloats()).isEqualTo(dense.lse.toFloats());
      assertThat(d[0].toFloats()).isEqualTo(dense.dq.toFloats());
      assertThat(d[1].toFloats()).isEqualTo(dense.dk.toFloats());
      assertThat(d[2].toFloats()).isEqualTo(dense.dv.toFloats());
      for (Tensor matrix : List.of(qkv, gradient)) {
        assertThat(matrix.columns(0, 3).toFloats()).containsOnly(777f);
        assertThat(matrix.columns(width - 4, width).toFloats()).containsOnly(777f);
      }
      assertThat(output.columns(0, 4).toFloats()).containsOnly(777f);
      assertThat(output.columns(4 + 2 * heads * dim, 9 + 2 * heads * dim).toFloats())
          .containsOnly(777f);
    }
  }

  /**
   * Heads that are further apart than their dimension; Java's views cannot say that, the ABI can.
   */
  @ParameterizedTest
  @CsvSource({"ragged, 5, 8", "ragged, 8, 12", "some, 5, 8"})
  void headStridesAreHonouredAndPaddingUntouched(String packing, int dim, int step) {
    int heads = 4;
    int kvHeads = 2;
    Problem problem = new Problem(7, packing(packing), heads, kvHeads, dim, 1);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Results dense = problem.run(scope);
      // As [rows * heads, dim] views a head stride is a row stride.
      Tensor q = unwritten(scope, (long) problem.rows * heads, step);
      Tensor k = unwritten(scope, (long) problem.keys * kvHeads, step);
      Tensor v = unwritten(scope, (long) problem.keys * kvHeads, step);
      Tensor o = unwritten(scope, (long) problem.rows * heads, step);
      q.columns(0, dim).copyFrom(problem.q);
      k.columns(0, dim).copyFrom(problem.k);
      v.columns(0, dim).copyFrom(problem.v);
      Tensor workspace = Tensor.empty(scope, DType.U8, 1 << 20);
      try (Call call = context.begin("attention")) {
        var args = call.args(saccade_attention_args.class, saccade_attention_args::new);
        args.rows(problem.rows)
            .keys(problem.keys)
            .sequences(problem.shape.offsetsQ().length - 1)
            .heads(heads)
            .kv_heads(kvHeads)
            .head_dim(dim)
            .q(q.address())
            .q_row_stride(heads * step)
            .q_head_stride(step)
            .k(k.address())
            .k_row_stride(kvHeads * step)
            .k_head_stride(step)
            .v(v.address())
            .v_row_stride(kvHeads * step)
            .v_head_stride(step)
            .offsets_q(dense.input.offsetsQ().address())
            .offsets_k(dense.input.offsetsK().address())
            .max_keys(problem.longest)
            .scale((float) problem.shape.scale())
            .o(o.address())
            .o_row_stride(heads * step)
            .o_head_stride(step)
            .workspace(workspace.address());
        long[] bytes = new long[1];
        call.invoke(Saccade.saccade_attention_workspace(context.handle(), args, bytes));
        assertThat(bytes[0]).isLessThanOrEqualTo(workspace.size());
        call.invoke(Saccade.saccade_attention(context.handle(), args));
      }
      assertThat(o.columns(0, dim).toFloats()).isEqualTo(dense.o.toFloats());
      assertThat(o.columns(dim, step).toFloats()).containsOnly(777f);
    }
  }

  /** What lies in a cache behind the keys of a sequence is not read: it may be NaN. */
  @ParameterizedTest
  @ValueSource(ints = {17, 24})
  void aCacheShowsItsFirstKeysOnly(int dim) {
    aCacheShowsItsFirstKeysOnly(
        new int[] {12, 3, 40, 6, 0}, new int[] {7, 3, 33, 0, 0}, new int[] {1, 3, 5, 1, 0}, dim);
    aCacheShowsItsFirstKeysOnly(
        new int[] {90, 110, 140, 66},
        new int[] {80, 100, 133, 65},
        new int[] {20, 40, 33, 30},
        dim);
  }

  private static void aCacheShowsItsFirstKeysOnly(
      int[] room, int[] lengths, int[] queries, int dim) {
    Problem packed = new Problem(8, new int[][] {queries, lengths}, 4, 2, dim, 1);
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Results dense = packed.run(scope);
        int[] regions = offsets(room);
        int[] from = packed.shape.offsetsK();
        int total = regions[room.length];
        int width = 2 * dim;
        float[][] cache = new float[2][total * width];
        for (int x = 0; x < 2; x++) {
          Arrays.fill(cache[x], Float.NaN);
          for (int s = 0; s < room.length; s++) {
            System.arraycopy(
                x == 0 ? packed.k : packed.v,
                from[s] * width,
                cache[x],
                regions[s] * width,
                lengths[s] * width);
          }
        }
        // maxKeys is the longest length, shorter than the largest region.
        Attention.Input input =
            new Attention.Input(
                dense.input.q(),
                Tensor.of(scope, cache[0], total, 2, dim),
                Tensor.of(scope, cache[1], total, 2, dim),
                dense.input.offsetsQ(),
                Tensor.of(scope, regions),
                Tensor.of(scope, lengths),
                packed.longest,
                (float) packed.shape.scale());
        Tensor o = unwritten(scope, input.q().shape());
        Tensor lse = unwritten(scope, 4, packed.rows);
        Attention.forward(context, input, o, lse);
        assertThat(o.toFloats()).isEqualTo(dense.o.toFloats());
        assertThat(lse.toFloats()).isEqualTo(dense.lse.toFloats());
        // Without lse, and with room to spare in the workspace.
        Tensor again = unwritten(scope, input.q().shape());
        Attention.Input roomy =
            new Attention.Input(
                input.q(),
                input.k(),
                input.v(),
                input.offsetsQ(),
                input.offsetsK(),
                input.lengthsK(),
                packed.longest + 67,
                input.scale());
        Attention.forward(context, roomy, again, null);
        assertThat(again.toFloats()).isEqualTo(dense.o.toFloats());
      }
    }
  }

  @Test
  void emptyProblemsAreLegal() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      assertThat(new Problem(9, new int[][] {{}, {}}, 4, 2, 8, 1).run(scope).o.size()).isZero();
      assertThat(new Problem(9, new int[][] {{0, 0}, {0, 0}}, 4, 2, 8, 1).run(scope).o.size())
          .isZero();
      Results keysOnly = new Problem(9, new int[][] {{0}, {40}}, 4, 2, 8, 1).run(scope);
      assertThat(keysOnly.dk.toFloats()).containsOnly(0f);
      assertThat(keysOnly.dv.toFloats()).containsOnly(0f);
      Results queriesOnly = new Problem(9, new int[][] {{3}, {0}}, 4, 2, 8, 1).run(scope);
      assertThat(queriesOnly.o.toFloats()).containsOnly(0f);
      assertThat(queriesOnly.dq.toFloats()).containsOnly(0f);
    }
  }

  // --------------------------------------------------------------------------- NaN and determinism

  /** Bits, so that NaN equals NaN and -0 differs from 0. */
  private static int[] bits(float[] x) {
    int[] bits = new int[x.length];
    for (int i = 0; i < x.length; i++) {
      bits[i] = Float.floatToRawIntBits(x[i]);
    }
    return bits;
  }

  /** Bits of the results of the sequences other than {@code broken}. */
  private static List<int[]> others(Problem problem, Results results, int broken) {
    List<int[]> parts = new ArrayList<>();
    int[] q = problem.shape.offsetsQ();
    int[] k = problem.shape.offsetsK();
    for (int s = 0; s + 1 < q.length; s++) {
      if (s == broken) {
        continue;
      }
      for (Tensor tensor : List.of(results.o, results.dq)) {
        parts.add(bits(tensor.rows(q[s], q[s + 1]).toFloats()));
      }
      for (Tensor tensor : List.of(results.dk, results.dv)) {
        parts.add(bits(tensor.rows(k[s], k[s + 1]).toFloats()));
      }
      for (int h = 0; h < problem.shape.heads(); h++) {
        int row = h * problem.rows;
        parts.add(bits(Arrays.copyOfRange(results.lse.toFloats(), row + q[s], row + q[s + 1])));
      }
    }
    return parts;
  }

  @ParameterizedTest
  @ValueSource(strings = {"q", "k", "v", "dO"})
  void nanStaysInItsSequence(String where) {
    nanStaysInItsSequence(where, new int[][] {{3, 6, 2, 9}, {3, 11, 35, 9}});
    nanStaysInItsSequence(where, SOME);
  }

  private static void nanStaysInItsSequence(String where, int[][] lengths) {
    int broken = 1;
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Problem problem = new Problem(10, lengths, 4, 2, 8, 1);
        List<int[]> clean = others(problem, problem.run(scope), broken);
        for (float bad : new float[] {Float.NaN, Float.POSITIVE_INFINITY}) {
          int[] q = problem.shape.offsetsQ();
          int[] k = problem.shape.offsetsK();
          boolean ofQueries = where.equals("q") || where.equals("dO");
          float[] x =
              switch (where) {
                case "q" -> problem.q;
                case "k" -> problem.k;
                case "v" -> problem.v;
                default -> problem.dO;
              };
          int width = ofQueries ? 32 : 16;
          int at = ofQueries ? q[broken] + 2 : k[broken] + 4;
          x[at * width + 3] = bad;
          Results results = problem.run(scope);
          assertThat(others(problem, results, broken)).usingRecursiveComparison().isEqualTo(clean);
          // It is not lost either: the key is seen by the last row, and the query is a row.
          int row = ofQueries ? at : q[broken + 1] - 1;
          Tensor reached = where.equals("dO") ? results.dq : results.o;
          boolean finite = true;
          for (float y : reached.rows(row, row + 1).toFloats()) {
            finite &= Float.isFinite(y);
          }
          assertThat(finite).isFalse();
        }
      }
    }
  }

  @Test
  void bitsDoNotDependOnTheThreadCount() {
    Problem problem = new Problem(11, new int[][] {{150, 3, 0, 40}, {300, 3, 7, 41}}, 6, 2, 24, 1);
    List<float[]> first = null;
    for (int threads : new int[] {1, 2, 3, 7}) {
      try (Context context = Context.builder().threads(threads).build();
          Scope scope = context.scope()) {
        List<float[]> all = problem.run(scope).all();
        if (first == null) {
          first = all;
        }
        for (int i = 0; i < all.size(); i++) {
          assertThat(all.get(i)).isEqualTo(first.get(i));
        }
      }
    }
  }

  // -------------------------------------------------------------------------------------
  // rejections

  private static Attention.Input with(Attention.Input in, Tensor q, Tensor k, Tensor v) {
    return new Attention.Input(
        q, k, v, in.offsetsQ(), in.offsetsK(), in.lengthsK(), in.maxKeys(), in.scale());
  }

  private static Attention.Input with(
      Attention.Input in, Tensor offsetsQ, Tensor offsetsK, Tensor lengthsK, long maxKeys) {
    return new Attention.Input(
        in.q(), in.k(), in.v(), offsetsQ, offsetsK, lengthsK, maxKeys, in.scale());
  }

  @Test
  void rejectsTensorsThatDoNotFit() {
    Problem problem = new Problem(12, new int[][] {{2, 3}, {4, 3}}, 4, 2, 8, 1);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Attention.Input in = problem.input(scope, Precision.F32);
      Tensor o = Tensor.zeros(scope, DType.F32, 5, 4, 8);
      Tensor[][] qkvs = {
        {null, in.k(), in.v()},
        {Tensor.zeros(scope, DType.BF16, 5, 4, 8), in.k(), in.v()},
        {Tensor.zeros(scope, DType.F32, 5, 32), in.k(), in.v()},
        {in.q(), Tensor.zeros(scope, DType.F32, 7, 2, 9), in.v()},
        {in.q(), in.k(), Tensor.zeros(scope, DType.F32, 6, 2, 8)},
        {Tensor.zeros(scope, DType.F32, 5, 3, 8), in.k(), in.v()},
        {
          Tensor.zeros(scope, DType.F32, 5, 4, 257),
          Tensor.zeros(scope, DType.F32, 7, 2, 257),
          Tensor.zeros(scope, DType.F32, 7, 2, 257)
        },
        {
          Tensor.zeros(scope, DType.F32, 5, 4, 0),
          Tensor.zeros(scope, DType.F32, 7, 2, 0),
          Tensor.zeros(scope, DType.F32, 7, 2, 0)
        },
        {in.q(), Tensor.zeros(scope, DType.F32, 7, 0, 8), Tensor.zeros(scope, DType.F32, 7, 0, 8)}
      };
      String[] messages = {
        "q: expected f32[*, *, *], got null",
        "q: expected f32[*, *, *], got bf16[5, 4, 8]",
        "q: expected f32[*, *, *], got f32[5, 32]",
        "k: expected f32[*, *, 8], got f32[7, 2, 9]",
        "v: expected f32[7, 2, 8], got f32[6, 2, 8]",
        "heads: expected a multiple of kv_heads = 2, got 3",
        "head_dim: expected 1 to 256, got 257",
        "head_dim: expected 1 to 256, got 0",
        "kv_heads: expected 1 to 65536, got 0"
      };
      for (int i = 0; i < messages.length; i++) {
        Attention.Input wrong = with(in, qkvs[i][0], qkvs[i][1], qkvs[i][2]);
        Tensor out = qkvs[i][0] == null ? o : Tensor.zeros(scope, DType.F32, wrong.q().shape());
        assertThatThrownBy(() -> Attention.forward(context, wrong, out, null))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessage("attention: " + messages[i]);
      }
      Tensor small = Tensor.zeros(scope, DType.F32, 5, 4, 7);
      assertThatThrownBy(() -> Attention.forward(context, in, small, null))
          .hasMessage("attention: o: expected f32[5, 4, 8], got f32[5, 4, 7]");
      assertThatThrownBy(() -> Attention.forward(context, in, null, null))
          .hasMessage("attention: o: expected f32[5, 4, 8], got null");
      Tensor lse = Tensor.zeros(scope, DType.F32, 5, 4);
      assertThatThrownBy(() -> Attention.forward(context, in, o, lse))
          .hasMessage("attention: lse: expected f32[4, 5], got f32[5, 4]");
      assertThatThrownBy(() -> Attention.forward(context, in, in.q(), null))
          .hasMessage(
              "attention: o: expected memory that overlaps no input, got an overlap with q");
    }
  }

  @Test
  void rejectsOffsetsAndOptionsThatDoNotFit() {
    Problem problem = new Problem(12, new int[][] {{2, 3}, {4, 3}}, 4, 2, 8, 1);
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      Attention.Input in = problem.input(scope, Precision.F32);
      Tensor o = Tensor.zeros(scope, DType.F32, 5, 4, 8);
      Tensor oq = in.offsetsQ();
      Tensor ok = in.offsetsK();
      Attention.Input[] inputs = {
        with(in, null, ok, null, 4),
        with(in, Tensor.zeros(scope, DType.I64, 3), ok, null, 4),
        with(in, Tensor.zeros(scope, DType.I32, 0), Tensor.zeros(scope, DType.I32, 0), null, 4),
        with(in, Tensor.of(scope, new int[] {1, 2, 5}), ok, null, 4),
        with(in, Tensor.of(scope, new int[] {0, 6, 5}), ok, null, 4),
        with(in, Tensor.of(scope, new int[] {0, 2, 4}), ok, null, 4),
        with(in, oq, Tensor.of(scope, new int[] {0, 7}), null, 7),
        with(in, oq, Tensor.of(scope, new int[] {0, 4, 8}), null, 4),
        with(in, oq, ok, null, 3),
        with(in, oq, ok, null, -1),
        with(in, oq, ok, Tensor.of(scope, new int[] {4}), 4),
        with(in, oq, ok, Tensor.of(scope, new int[] {5, 3}), 5),
        with(in, oq, ok, Tensor.of(scope, new int[] {4, -1}), 4),
        with(in, oq, ok, Tensor.of(scope, new int[] {4, 3}), 3),
        new Attention.Input(in.q(), in.k(), in.v(), oq, ok, null, 4, Float.NaN)
      };
      String[] messages = {
        "offsets_q: expected i32[*], got null",
        "offsets_q: expected i32[*], got i64[3]",
        "offsets_q: expected i32[1] or more, got i32[0]",
        "offsets_q: expected offsets that begin at 0, got 1",
        "offsets_q: expected non-decreasing offsets, got 5 after 6 at 2",
        "offsets_q: expected offsets that end at 5, got 4",
        "offsets_k: expected i32[3], got i32[2]",
        "offsets_k: expected offsets that end at 7, got 8",
        "max_keys: expected at least the longest sequence of 4, got 3",
        "max_keys: expected 0 to 2147483647, got -1",
        "lengths_k: expected i32[2], got i32[1]",
        "lengths_k: expected lengths within the region of each sequence, got 5 of 4 at 0",
        "lengths_k: expected lengths within the region of each sequence, got -1 of 3 at 1",
        "max_keys: expected at least the longest sequence of 4, got 3",
        "scale: expected a finite number, got nan"
      };
      for (int i = 0; i < messages.length; i++) {
        Attention.Input wrong = inputs[i];
        assertThatThrownBy(() -> Attention.forward(context, wrong, o, null))
            .as(messages[i])
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessage("attention: " + messages[i]);
      }
      assertThat(o.toFloats()).as("nothing was written").containsOnly(0f);
    }
  }

  @Test
  void backwardRejectsWhatDoesNotFit() {
    Problem problem = new Problem(13, new int[][] {{2, 3}, {4, 3}}, 4, 2, 8, 1);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Results r = problem.run(scope);
      Attention.Input in = r.input;
      Attention.Input cache =
          with(in, in.offsetsQ(), in.offsetsK(), Tensor.of(scope, new int[] {4, 3}), 4);
      assertThatThrownBy(
              () -> Attention.backward(context, cache, r.o, r.lse, r.dO, r.dq, r.dk, r.dv))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessage(
              "attention_backward: lengths_k: expected null: a cache has no gradient, got a"
                  + " tensor");
      Tensor wrong = Tensor.zeros(scope, DType.F32, 5, 4, 9);
      Tensor[][] tensors = {
        {wrong, r.lse, r.dO, r.dq, r.dk, r.dv},
        {r.o, null, r.dO, r.dq, r.dk, r.dv},
        {r.o, r.lse, wrong, r.dq, r.dk, r.dv},
        {r.o, r.lse, r.dO, null, r.dk, r.dv},
        {r.o, r.lse, r.dO, r.dq, wrong, r.dv},
        {r.o, r.lse, r.dO, r.dq, r.dk, wrong},
        {r.o, r.lse, r.dO, r.dO, r.dk, r.dv},
        {r.o, r.lse, r.dO, r.dq, in.k(), r.dv},
        {r.o, r.lse, r.dO, r.dq, r.dk, in.v()}
      };
      String[] messages = {
        "o: expected f32[5, 4, 8], got f32[5, 4, 9]",
        "lse: expected f32[4, 5], got null",
        "d_o: expected f32[5, 4, 8], got f32[5, 4, 9]",
        "dq: expected f32[5, 4, 8], got null",
        "dk: expected f32[7, 2, 8], got f32[5, 4, 9]",
        "dv: expected f32[7, 2, 8], got f32[5, 4, 9]",
        "dq: expected memory that overlaps no input, got an overlap with d_o",
        "dk: expected memory that overlaps no input, got an overlap with k",
        "dv: expected memory that overlaps no input, got an overlap with v"
      };
      for (int i = 0; i < messages.length; i++) {
        Tensor[] t = tensors[i];
        assertThatThrownBy(
                () -> Attention.backward(context, in, t[0], t[1], t[2], t[3], t[4], t[5]))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessage("attention_backward: " + messages[i]);
      }
    }
  }
}
