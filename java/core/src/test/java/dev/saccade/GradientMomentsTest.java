package dev.saccade;

import static dev.saccade.Near.assertNear;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.fail;

import dev.saccade.GradientMoments.Outputs;
import dev.saccade.GradientMoments.State;
import dev.saccade.reference.GradientMomentsReference;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.stream.IntStream;
import java.util.stream.LongStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class GradientMomentsTest {
  /** Elements that a task takes. */
  private static final int BLOCK = 1 << 14;

  /** A state of no samples whose mean and m2 nobody has written yet. */
  private static State unwritten(Scope scope, long n) {
    double[] nan = new double[(int) n];
    Arrays.fill(nan, Double.NaN);
    State state = State.zeros(scope, n);
    state.m2().copyFrom(nan);
    state.mean().copyFrom(floats(nan));
    return state;
  }

  private static float[] floats(double[] x) {
    float[] y = new float[x.length];
    for (int i = 0; i < y.length; i++) {
      y[i] = (float) x[i];
    }
    return y;
  }

  private static List<Tensor> samples(
      Scope scope, DType dtype, int count, int n, double mean, double deviation) {
    Random random = new Random(n);
    List<Tensor> samples = new ArrayList<>();
    for (int s = 0; s < count; s++) {
      float[] x = new float[n];
      for (int i = 0; i < n; i++) {
        x[i] = (float) (mean + deviation * random.nextGaussian());
      }
      samples.add(Tensor.of(scope, dtype, x));
    }
    return samples;
  }

  private static State stateOf(Scope scope, List<Tensor> samples, long n) {
    State state = unwritten(scope, n);
    samples.forEach(sample -> GradientMoments.update(scope.context(), state, sample));
    return state;
  }

  private static GradientMomentsReference reference(List<Tensor> samples) {
    return new GradientMomentsReference(
        samples.stream().map(Tensor::toDoubles).toArray(double[][]::new));
  }

  private static void assertState(State state, List<Tensor> samples, double tolerance) {
    GradientMomentsReference want = reference(samples);
    assertThat(state.count().toLongs()).containsExactly(samples.size());
    // The mean of a few samples may be close to 0.
    assertNear("mean", state.mean().toFloats(), want.mean, 1e-6, 1e-7);
    double[] m2 = state.m2().toDoubles();
    for (int i = 0; i < m2.length; i++) {
      if (!(Math.abs(m2[i] - want.m2[i]) <= tolerance * want.m2[i])) {
        fail("m2[%d]: got %s, want %s", i, m2[i], want.m2[i]);
      }
    }
  }

  private static Tensor offsets(Scope scope, long... offsets) {
    return Tensor.of(scope, offsets, new long[] {offsets.length});
  }

  private static long[] bits(State state) {
    return LongStream.concat(
            Arrays.stream(bits(state.mean())).asLongStream(),
            Arrays.stream(state.m2().toDoubles()).mapToLong(Double::doubleToRawLongBits))
        .toArray();
  }

  private static int[] bits(Tensor tensor) {
    float[] x = tensor.toFloats();
    return IntStream.range(0, x.length).map(i -> Float.floatToRawIntBits(x[i])).toArray();
  }

  // ------------------------------------------------------------------------------------- update

  @ParameterizedTest
  @EnumSource(
      value = DType.class,
      names = {"F32", "BF16", "F16"})
  void agreesWithTwoPassesOnEveryInstructionSet(DType dtype) {
    for (Context context : Contexts.every()) {
      try (context) {
        for (int n : new int[] {1, 7, 8, 15, 16, 17, 33, BLOCK - 1, BLOCK, BLOCK + 1, 40_003}) {
          for (int count : new int[] {1, 2, n < 100 ? 200 : 5}) {
            try (Scope scope = context.scope()) {
              List<Tensor> samples = samples(scope, dtype, count, n, 0.5, 1);
              assertState(stateOf(scope, samples, n), samples, 1e-6);
            }
          }
        }
      }
    }
  }

  /** Samples in calls of several, whose rows have gaps, and the sum of each call. */
  @ParameterizedTest
  @EnumSource(
      value = DType.class,
      names = {"F32", "BF16", "F16"})
  void severalSamplesAreAddedAtOnce(DType dtype) {
    for (Context context : Contexts.every()) {
      try (context) {
        for (int n : new int[] {1, 15, 33, 255, 257, BLOCK + 5}) {
          for (int[] calls : new int[][] {{1}, {2}, {9}, {1, 8}, {3, 0, 4}, {0, 17, 1}}) {
            try (Scope scope = context.scope()) {
              List<Tensor> samples = samples(scope, dtype, Arrays.stream(calls).sum(), n, 0.5, 1);
              State state = unwritten(scope, n);
              int done = 0;
              for (int count : calls) {
                List<Tensor> own = samples.subList(done, done + count);
                Tensor rows = Tensor.zeros(scope, dtype, count, n + 3).columns(1, n + 1);
                for (int r = 0; r < count; r++) {
                  rows.rows(r, r + 1).copyFrom(own.get(r).reshape(1, n));
                }
                Tensor sum = Tensor.empty(scope, DType.F32, n);
                GradientMoments.update(context, state, rows, sum);
                double[] want = new double[n];
                for (Tensor sample : own) {
                  double[] x = sample.toDoubles();
                  Arrays.setAll(want, i -> want[i] + x[i]);
                }
                assertNear("sum", sum.toFloats(), want, 1e-7, 1e-7);
                done += count;
              }
              assertState(state, samples, 1e-6);
            }
          }
        }
      }
    }
  }

  /** The mean is 10,000 deviations away from 0: a difference of sums of squares would be noise. */
  @Test
  void largeMeansKeepTheirVariance() {
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        List<Tensor> samples = samples(scope, DType.F32, 40, 1001, 1e4, 1);
        // Each rounding of the f32 mean moves it by up to 5e-4 of a deviation.
        assertState(stateOf(scope, samples, 1001), samples, 2e-3);
        State merged = stateOf(scope, samples.subList(0, 17), 1001);
        GradientMoments.merge(context, merged, stateOf(scope, samples.subList(17, 40), 1001));
        assertState(merged, samples, 2e-3);
      }
    }
  }

  @Test
  void equalSamplesHaveNoVariance() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor sample = samples(scope, DType.F32, 1, 300, 3, 1).get(0);
      State state = stateOf(scope, List.of(sample, sample, sample), 300);
      assertThat(state.mean().toFloats()).isEqualTo(sample.toFloats());
      assertThat(state.m2().toDoubles()).containsOnly(0);
      Outputs out = GradientMoments.report(scope, state, offsets(scope, 0, 300));
      assertThat(out.trace().item()).isZero();
      assertThat(out.signal().item()).isEqualTo(out.meanSq().item());
      assertThat(out.snr().item()).isEqualTo(Float.POSITIVE_INFINITY);
    }
  }

  @Test
  void statesHaveTheShapeOfTheirSamples() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      State state = State.zeros(scope, 2, 3);
      GradientMoments.update(
          context, state, Tensor.of(scope, new float[] {1, 2, 3, 4, 5, 6}, 2, 3));
      assertThat(state.mean().toFloats()).containsExactly(1, 2, 3, 4, 5, 6);
      Outputs out = GradientMoments.report(scope, state, offsets(scope, 0, 2, 6));
      assertThat(out.meanSq().toFloats()).containsExactly(5, 86);
    }
  }

  // -------------------------------------------------------------------------------------- merge

  @Test
  void mergedStatesAreThoseOfAllSamples() {
    for (Context context : Contexts.every()) {
      try (context) {
        for (int n : new int[] {1, 16, 17, 33, BLOCK + 5}) {
          for (int[] split : new int[][] {{1, 1}, {1, 6}, {6, 1}, {3, 4}}) {
            try (Scope scope = context.scope()) {
              List<Tensor> samples = samples(scope, DType.F32, split[0] + split[1], n, 0.5, 1);
              State other = stateOf(scope, samples.subList(0, split[0]), n);
              State state = stateOf(scope, samples.subList(split[0], samples.size()), n);
              long[] before = bits(other);
              GradientMoments.merge(context, state, other);
              assertState(state, samples, 1e-6);
              assertThat(bits(other)).isEqualTo(before);
              assertThat(other.count().toLongs()).containsExactly(split[0]);
            }
          }
        }
      }
    }
  }

  @Test
  void emptyStatesChangeNothingAndBecomeCopies() {
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        int n = BLOCK + 3;
        State state = stateOf(scope, samples(scope, DType.F32, 3, n, 0, 1), n);
        long[] before = bits(state);
        GradientMoments.merge(context, state, unwritten(scope, n));
        assertThat(bits(state)).isEqualTo(before);
        assertThat(state.count().toLongs()).containsExactly(3);
        State copy = unwritten(scope, n);
        GradientMoments.merge(context, copy, state);
        assertThat(bits(copy)).isEqualTo(before);
        assertThat(copy.count().toLongs()).containsExactly(3);
        State none = State.zeros(scope, n);
        GradientMoments.merge(context, none, unwritten(scope, n));
        assertThat(none.count().toLongs()).containsExactly(0);
      }
    }
  }

  // ------------------------------------------------------------------------------------- report

  private static void assertReport(
      Context context, State state, GradientMomentsReference reference, int... ends) {
    int segments = ends.length - 1;
    try (Scope scope = context.scope()) {
      float[] poison = new float[segments];
      Arrays.fill(poison, 777);
      Outputs out =
          new Outputs(
              Tensor.of(scope, poison),
              Tensor.of(scope, poison),
              Tensor.of(scope, poison),
              Tensor.of(scope, poison));
      Tensor offsets = offsets(scope, Arrays.stream(ends).asLongStream().toArray());
      GradientMoments.report(context, state, offsets, out);
      double[] meanSq = new double[segments];
      double[] trace = new double[segments];
      double[] signal = new double[segments];
      double[] snr = new double[segments];
      double worst = 0;
      for (int s = 0; s < segments; s++) {
        meanSq[s] = reference.meanSq(ends[s], ends[s + 1]);
        trace[s] = reference.trace(ends[s], ends[s + 1]);
        signal[s] = reference.signal(ends[s], ends[s + 1]);
        snr[s] = signal[s] / trace[s];
        worst = Math.max(worst, meanSq[s]);
      }
      assertNear("mean_sq", out.meanSq().toFloats(), meanSq, 2e-6, 1e-7);
      assertNear("trace", out.trace().toFloats(), trace, 2e-6, 0);
      assertNear("signal", out.signal().toFloats(), signal, 2e-6, 1e-6 + 1e-6 * worst);
      // The signal is a difference; a segment of one element may hardly vary.
      float[] got = out.snr().toFloats();
      for (int s = 0; s < segments; s++) {
        boolean fits =
            trace[s] == 0
                ? Float.isNaN(got[s])
                : Math.abs(got[s] - snr[s]) <= 1e-5 * (Math.abs(snr[s]) + 1 + meanSq[s] / trace[s]);
        if (!fits) {
          fail("snr[%d]: got %s, want %s", s, got[s], snr[s]);
        }
      }
    }
  }

  /** One segment, segments that end within blocks and on their edges, empty ones, elements left. */
  @Test
  void segmentsMayBeAnyRanges() {
    int n = 3 * BLOCK + 100;
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        List<Tensor> samples = samples(scope, DType.F32, 4, n, 0.3, 1);
        State state = stateOf(scope, samples, n);
        GradientMomentsReference reference = reference(samples);
        assertReport(context, state, reference, 0, n);
        assertReport(context, state, reference, 0, 1);
        assertReport(context, state, reference, 0, 0, 0, 17, 17, 33, 33);
        assertReport(context, state, reference, 0, 5, BLOCK, BLOCK, BLOCK + 1, 3 * BLOCK, n - 9);
        assertReport(context, state, reference, 0, 0, 2 * BLOCK, 2 * BLOCK, 2 * BLOCK, n, n);
        assertReport(context, state, reference, 0, BLOCK - 1, BLOCK + 1, 2 * BLOCK + 7, n);
        assertReport(context, state, reference, 0);
        int[] tiny = new int[20_000];
        for (int s = 1; s < tiny.length; s++) {
          tiny[s] = tiny[s - 1] + s % 4;
        }
        assertReport(context, state, reference, tiny);
        int[] hugeAndTiny = IntStream.range(0, 5000).map(s -> s == 0 ? 0 : n - 5000 + s).toArray();
        assertReport(context, state, reference, hugeAndTiny);
      }
    }
  }

  @Test
  void bitsDoNotDependOnTheThreadCount() {
    int n = 5 * BLOCK + 77;
    List<Object> first = null;
    for (int threads : new int[] {1, 2, 3, 7}) {
      try (Context context = Context.builder().threads(threads).build();
          Scope scope = context.scope()) {
        List<Tensor> samples = samples(scope, DType.F32, 5, n, 0.3, 1);
        State state = stateOf(scope, samples.subList(0, 3), n);
        GradientMoments.merge(context, state, stateOf(scope, samples.subList(3, 5), n));
        Outputs out =
            GradientMoments.report(scope, state, offsets(scope, 0, 3, BLOCK + 9, 4 * BLOCK, n));
        List<Object> all =
            List.of(
                bits(state),
                bits(out.meanSq()),
                bits(out.trace()),
                bits(out.signal()),
                bits(out.snr()));
        first = first == null ? all : first;
        for (int i = 0; i < all.size(); i++) {
          assertThat(all.get(i)).isEqualTo(first.get(i));
        }
      }
    }
  }

  @Test
  void everyOutputIsOptional() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      State state = stateOf(scope, samples(scope, DType.F32, 3, 50, 0, 1), 50);
      Tensor offsets = offsets(scope, 0, 20, 50);
      Outputs all = GradientMoments.report(scope, state, offsets);
      Tensor[] want = {all.meanSq(), all.trace(), all.signal(), all.snr()};
      for (int i = 0; i < 4; i++) {
        Tensor[] t = new Tensor[4];
        t[i] = Tensor.zeros(scope, DType.F32, 2);
        GradientMoments.report(context, state, offsets, new Outputs(t[0], t[1], t[2], t[3]));
        assertThat(bits(t[i])).isEqualTo(bits(want[i]));
      }
      GradientMoments.report(context, state, offsets, new Outputs(null, null, null, null));
    }
  }

  // -------------------------------------------------------------------------------------- edges

  @Test
  void fewerThanTwoSamplesSayNothingOfTheNoise() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      State none = unwritten(scope, 4);
      State one = stateOf(scope, List.of(Tensor.of(scope, new float[] {1, 2, 3, 4})), 4);
      Tensor offsets = offsets(scope, 0, 2, 2, 4);
      for (State state : new State[] {none, one}) {
        Outputs out = GradientMoments.report(scope, state, offsets);
        if (state == none) {
          assertThat(out.meanSq().toFloats()).containsOnly(0);
        } else {
          assertThat(out.meanSq().toFloats()).containsExactly(5, 0, 25);
        }
        for (Tensor nan : new Tensor[] {out.trace(), out.signal(), out.snr()}) {
          assertThat(nan.toFloats()).containsOnly(Float.NaN);
        }
      }
    }
  }

  @Test
  void sizeZeroIsLegal() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      State state = State.zeros(scope, 0);
      for (int i = 0; i < 2; i++) {
        GradientMoments.update(context, state, Tensor.zeros(scope, DType.BF16, 0));
      }
      GradientMoments.merge(context, state, State.zeros(scope, 0));
      assertThat(state.count().toLongs()).containsExactly(2);
      Outputs out = GradientMoments.report(scope, state, offsets(scope, 0, 0, 0));
      assertThat(out.meanSq().toFloats()).containsExactly(0, 0);
      assertThat(out.trace().toFloats()).containsExactly(0, 0);
      assertThat(out.signal().toFloats()).containsExactly(0, 0);
      assertThat(out.snr().toFloats()).containsOnly(Float.NaN);
    }
  }

  @Test
  void nanStaysInItsElementAndItsSegment() {
    int n = BLOCK + 50;
    for (Context context : Contexts.every()) {
      for (float bad : new float[] {Float.NaN, Float.POSITIVE_INFINITY}) {
        try (Scope scope = context.scope()) {
          List<Tensor> samples = samples(scope, DType.F32, 3, n, 0, 1);
          State other = stateOf(scope, samples, n);
          State[] clean = {stateOf(scope, samples, n), stateOf(scope, samples, n)};
          GradientMoments.merge(context, clean[1], other);
          samples.get(1).rows(19, 20).copyFrom(new float[] {bad});
          State[] broken = {stateOf(scope, samples, n), stateOf(scope, samples, n)};
          GradientMoments.merge(context, broken[1], other);
          for (int s = 0; s < 2; s++) {
            long[] want = bits(clean[s]);
            long[] got = bits(broken[s]);
            for (int element : new int[] {19, n + 19}) {
              assertThat(got[element]).isNotEqualTo(want[element]);
              got[element] = want[element];
            }
            assertThat(got).isEqualTo(want);
            assertThat(broken[s].mean().toFloats()[19]).isNaN();
            assertThat(broken[s].m2().toDoubles()[19]).isNaN();
            Tensor offsets = offsets(scope, 0, 19, 20, BLOCK + 5, n);
            Outputs before = GradientMoments.report(scope, clean[s], offsets);
            Outputs after = GradientMoments.report(scope, broken[s], offsets);
            Tensor[][] pairs = {
              {before.meanSq(), after.meanSq()},
              {before.trace(), after.trace()},
              {before.signal(), after.signal()},
              {before.snr(), after.snr()}
            };
            for (Tensor[] pair : pairs) {
              assertThat(pair[1].toFloats()[1]).isNaN();
              for (int segment : new int[] {0, 2, 3}) {
                assertThat(pair[1].toFloats()[segment]).isEqualTo(pair[0].toFloats()[segment]);
              }
            }
          }
        }
      }
      context.close();
    }
  }

  /** Counts are data: one that no state can have is seen in the results. */
  @Test
  void negativeCountsGiveNan() {
    int n = BLOCK + 3;
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Tensor sample = Tensor.zeros(scope, DType.F32, n);
        for (long bad : new long[] {-1, Long.MIN_VALUE, Long.MAX_VALUE}) {
          State updated = State.zeros(scope, n);
          updated.count().copyFrom(new long[] {bad});
          GradientMoments.update(context, updated, sample);
          State several = State.zeros(scope, n);
          several.count().copyFrom(new long[] {bad});
          Tensor sum = Tensor.empty(scope, DType.F32, n);
          GradientMoments.update(context, several, sample.reshape(1, n), sum);
          assertThat(sum.toFloats()).containsOnly(0);
          State merged = stateOf(scope, List.of(sample, sample), n);
          State other = State.zeros(scope, n);
          other.count().copyFrom(new long[] {bad});
          GradientMoments.merge(context, merged, other);
          State into = State.zeros(scope, n);
          into.count().copyFrom(new long[] {bad});
          GradientMoments.merge(context, into, stateOf(scope, List.of(sample), n));
          for (State state : new State[] {updated, several, merged, into}) {
            assertThat(state.count().toLongs()[0]).isNegative();
            assertThat(state.mean().toFloats()).containsOnly(Float.NaN);
            assertThat(state.m2().toDoubles()).containsOnly(Double.NaN);
            Outputs out = GradientMoments.report(scope, state, offsets(scope, 0, 5, 5));
            for (Tensor nan : List.of(out.meanSq(), out.trace(), out.signal(), out.snr())) {
              assertThat(nan.toFloats()).containsOnly(Float.NaN);
            }
          }
        }
      }
    }
  }

  // --------------------------------------------------------------------------------- rejections

  private static void assertRejected(String message, Runnable call) {
    assertThatThrownBy(call::run)
        .as(message)
        .isInstanceOf(InvalidArgumentException.class)
        .hasMessage("gradient_moments_" + message);
  }

  @Test
  void rejectsStatesAndSamplesThatDoNotFit() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      State state = State.zeros(scope, 4);
      Tensor sample = Tensor.zeros(scope, DType.F32, 4);
      Tensor gaps = Tensor.zeros(scope, DType.F32, 2, 4).columns(0, 2);
      State[] states = {
        new State(null, state.mean(), state.m2()),
        new State(Tensor.zeros(scope, DType.I32, 1), state.mean(), state.m2()),
        new State(Tensor.zeros(scope, DType.I64, 2), state.mean(), state.m2()),
        new State(state.count(), null, state.m2()),
        new State(state.count(), Tensor.zeros(scope, DType.F64, 4), state.m2()),
        new State(state.count(), state.mean(), null),
        new State(state.count(), state.mean(), sample),
        new State(state.count(), state.mean(), Tensor.zeros(scope, DType.F64, 5)),
        new State(state.count(), gaps, Tensor.zeros(scope, DType.F64, 2, 2))
      };
      String[] messages = {
        "count: expected i64[1], got null",
        "count: expected i64[1], got i32[1]",
        "count: expected i64[1], got i64[2]",
        "mean: expected f32 of any shape, got null",
        "mean: expected f32[4], got f64[4]",
        "m2: expected f64[4], got null",
        "m2: expected f64[4], got f32[4]",
        "m2: expected f64[4], got f64[5]",
        "mean: expected a dense tensor, got f32[2, 2] with gaps between its rows"
      };
      for (int i = 0; i < states.length; i++) {
        State wrong = states[i];
        assertRejected(
            "update: " + messages[i], () -> GradientMoments.update(context, wrong, sample));
        assertRejected("merge: " + messages[i], () -> GradientMoments.merge(context, wrong, state));
        assertRejected(
            "report: " + messages[i],
            () -> GradientMoments.report(scope, wrong, offsets(scope, 0, 4)));
        if (i != 3 && i != 4 && i != 8) { // the mean that was given is what others are measured by
          assertRejected(
              "merge: other_" + messages[i], () -> GradientMoments.merge(context, state, wrong));
        }
      }
      assertRejected(
          "merge: other_mean: expected f32[4], got f32[5]",
          () -> GradientMoments.merge(context, state, State.zeros(scope, 5)));
      assertRejected(
          "update: samples: expected f32 or bf16 or f16[4], got f64[4]",
          () -> GradientMoments.update(context, state, state.m2()));
      assertRejected(
          "update: samples: expected f32 or bf16 or f16[4], got f32[5]",
          () -> GradientMoments.update(context, state, Tensor.zeros(scope, DType.F32, 5)));
      assertRejected(
          "update: samples: expected f32 or bf16 or f16[4], got null",
          () -> GradientMoments.update(context, state, null));
      assertRejected(
          "update: mean: expected memory that overlaps no input, got an overlap with samples",
          () -> GradientMoments.update(context, state, state.mean()));
      Tensor two = Tensor.zeros(scope, DType.F32, 2, 4);
      assertRejected(
          "update: samples: expected f32 or bf16 or f16[*, 4], got f32[4]",
          () -> GradientMoments.update(context, state, sample, null));
      assertRejected(
          "update: sum: expected f32[4], got f32[2, 4]",
          () -> GradientMoments.update(context, state, two, two));
      assertRejected(
          "update: sum: expected memory that overlaps no input, got an overlap with samples",
          () -> GradientMoments.update(context, state, two, two.rows(0, 1).reshape(4)));
      assertRejected(
          "merge: count: expected memory that overlaps no input, got an overlap with other_count",
          () -> GradientMoments.merge(context, state, state));
    }
  }

  @Test
  void rejectsSegmentsAndOutputsThatDoNotFit() {
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      State state = State.zeros(scope, 4);
      Tensor two = Tensor.zeros(scope, DType.F32, 2);
      Outputs none = new Outputs(null, null, null, null);
      Tensor[] offsets = {
        null,
        Tensor.zeros(scope, DType.I32, 2),
        offsets(scope),
        offsets(scope, 1, 4),
        offsets(scope, 0, 3, 2),
        offsets(scope, 0, 3, 5)
      };
      String[] messages = {
        "offsets: expected i64[*], got null",
        "offsets: expected i64[*], got i32[2]",
        "offsets: expected i64[1] or more, got i64[0]",
        "offsets: expected offsets that begin at 0, got 1",
        "offsets: expected non-decreasing offsets, got 2 after 3 at 2",
        "offsets: expected offsets within 4 elements, got 5"
      };
      for (int i = 0; i < offsets.length; i++) {
        Tensor wrong = offsets[i];
        assertRejected(
            "report: " + messages[i], () -> GradientMoments.report(context, state, wrong, none));
      }
      Outputs[] outputs = {
        new Outputs(two, null, null, null),
        new Outputs(null, two, null, null),
        new Outputs(null, null, two, null),
        new Outputs(null, null, null, two)
      };
      String[] names = {"mean_sq", "trace", "signal", "snr"};
      for (int i = 0; i < 4; i++) {
        Outputs wrong = outputs[i];
        assertRejected(
            "report: " + names[i] + ": expected f32[3], got f32[2]",
            () -> GradientMoments.report(context, state, offsets(scope, 0, 1, 2, 4), wrong));
      }
      assertRejected(
          "report: snr: expected memory that overlaps no input, got an overlap with mean",
          () ->
              GradientMoments.report(
                  context,
                  state,
                  offsets(scope, 0, 4),
                  new Outputs(null, null, null, state.mean().rows(3, 4))));
    }
  }
}
