package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.LogitDivergence.Inputs;
import dev.saccade.LogitDivergence.Options;
import dev.saccade.LogitDivergence.Outputs;
import dev.saccade.reference.LogitDivergenceReference;
import java.util.Arrays;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

class LogitDivergenceTest {
  private static final float INF = Float.POSITIVE_INFINITY;
  private static final float NAN = Float.NaN;

  /** Both KL, and JSD as a mean under either side. */
  static Stream<Options> kinds() {
    Options warm = Options.DEFAULT.withTemperature(0.8f);
    return Stream.of(
        warm,
        warm.withBeta(0.1f),
        warm.withBeta(0.9f),
        warm.withKind(Divergence.FORWARD_KL),
        warm.withKind(Divergence.REVERSE_KL));
  }

  /**
   * One element, around the widest vector, around a block of a row, a remainder, a real vocabulary.
   */
  private static final int[] VOCABULARIES = {
    1, 2, 7, 15, 16, 17, 63, 64, 65, 515, 4095, 4096, 4097, 8200, 151_936
  };

  // ------------------------------------------------------------------------------------- helpers

  private static float[] normal(Random random, int n, double scale) {
    float[] x = new float[n];
    for (int i = 0; i < n; i++) {
      x[i] = (float) (random.nextGaussian() * scale);
    }
    return x;
  }

  /** Every element moved by a normal number. */
  private static float[] near(Random random, float[] x, double distance) {
    float[] y = new float[x.length];
    for (int i = 0; i < y.length; i++) {
      y[i] = (float) (x[i] + random.nextGaussian() * distance);
    }
    return y;
  }

  private static Tensor poisoned(Scope scope, DType dtype, long... shape) {
    long size = Arrays.stream(shape).reduce(1, (a, b) -> a * b);
    float[] nan = new float[(int) size];
    Arrays.fill(nan, NAN);
    return Tensor.of(scope, dtype, nan, shape);
  }

  /** Divergences and gradients of rows, in double precision, and each policy's top probability. */
  private record Wanted(double[] divergence, double[] gradient, double[] top) {
    static Wanted of(Options options, float[] logits, float[] refLogits, int vocabulary) {
      int rows = logits.length / vocabulary;
      Wanted want = new Wanted(new double[rows], new double[logits.length], new double[rows]);
      for (int r = 0; r < rows; r++) {
        double[] policy = logProbs(logits, r, vocabulary, options);
        double[] reference = logProbs(refLogits, r, vocabulary, options);
        Divergence kind = options.kind();
        float beta = options.beta();
        want.divergence[r] = LogitDivergenceReference.divergence(kind, beta, policy, reference);
        want.top[r] = Math.exp(Arrays.stream(policy).max().orElseThrow());
        double[] gradient =
            LogitDivergenceReference.gradient(kind, beta, options.temperature(), policy, reference);
        System.arraycopy(gradient, 0, want.gradient, r * vocabulary, vocabulary);
      }
      return want;
    }

    private static double[] logProbs(float[] x, int r, int vocabulary, Options options) {
      return LogitDivergenceReference.logProbs(row(x, r, vocabulary), options.temperature());
    }
  }

  /** Results of rows, written over poison. */
  private record Got(float[] divergence, float[] gradient) {
    static Got of(Context context, Options options, float[] logits, float[] refLogits, int width) {
      return of(context, options, DType.F32, DType.F32, logits, refLogits, width);
    }

    static Got of(
        Context context,
        Options options,
        DType dtype,
        DType gradient,
        float[] logits,
        float[] refLogits,
        int vocabulary) {
      try (Scope scope = context.scope()) {
        int rows = logits.length / vocabulary;
        Outputs outputs =
            new Outputs(
                poisoned(scope, DType.F32, rows), poisoned(scope, gradient, rows, vocabulary));
        LogitDivergence.forward(
            context,
            Inputs.of(
                Tensor.of(scope, dtype, logits, rows, vocabulary),
                Tensor.of(scope, dtype, refLogits, rows, vocabulary)),
            options,
            outputs);
        return new Got(outputs.divergence().toFloats(), outputs.dLogits().toFloats());
      }
    }
  }

  private static float[] row(float[] x, int r, int vocabulary) {
    return Arrays.copyOfRange(x, r * vocabulary, (r + 1) * vocabulary);
  }

  /**
   * Compares rows on every instruction set. Besides its tolerances a gradient may be off by 1e-7 of
   * the sum of the row's magnitudes, which is what a sum over them rounds by, and by the rounding
   * of the reference.
   *
   * @param relative of a divergence
   * @param ofLargest of a gradient, in units of the row's largest
   * @param ofTop of a gradient, in units of the policy's largest probability
   */
  private static void assertAgrees(
      Options options,
      float[] logits,
      float[] refLogits,
      int vocabulary,
      double relative,
      double ofLargest,
      double ofTop) {
    Wanted want = Wanted.of(options, logits, refLogits, vocabulary);
    // In double precision the logarithm of a mixture rounds at 1e-16.
    double floor = options.kind() == Divergence.JSD ? 1e-15 : 1e-30;
    for (Context context : Contexts.every()) {
      try (context) {
        Got got = Got.of(context, options, logits, refLogits, vocabulary);
        String what = options + " of " + vocabulary + " on " + context.instructionSet();
        Near.assertNear(what, got.divergence(), want.divergence(), relative, floor);
        for (int r = 0; r < want.divergence().length; r++) {
          int from = r * vocabulary;
          double[] gradient = Arrays.copyOfRange(want.gradient(), from, from + vocabulary);
          double absolute =
              ofLargest * Near.largest(gradient)
                  + 1e-7 * Arrays.stream(gradient).map(Math::abs).sum()
                  + ofTop * want.top()[r]
                  + 1e-15;
          Near.assertNear(what, row(got.gradient(), r, vocabulary), gradient, 1e-5, absolute);
        }
      }
    }
  }

  // --------------------------------------------------------------------------------------- tests

  @ParameterizedTest
  @MethodSource("kinds")
  void agreesWithDoublePrecisionOnEveryInstructionSet(Options options) {
    for (int vocabulary : VOCABULARIES) {
      Random random = new Random(vocabulary);
      float[] x = normal(random, 2 * vocabulary, 3);
      // Of policies that have little in common, JSD has all but lost its gradient: what is left is
      // a difference of scores that agree in their first digits.
      assertAgrees(options, x, normal(random, x.length, 3), vocabulary, 5e-6, 1e-5, 3e-7);
      assertAgrees(options, x, near(random, x, 0.5), vocabulary, 5e-6, 1e-5, 0);
    }
  }

  /**
   * 0.1 % and less apart, and apart by a constant besides, which a softmax does not see but f32
   * does.
   */
  @ParameterizedTest
  @MethodSource("kinds")
  void policiesCloseToEachOtherKeepRelativePrecision(Options options) {
    // The gradient of FORWARD_KL is a difference of probabilities, whose normalisers are those of
    // f32 sums; for the others the mean takes the error out.
    double ofTop = options.kind() == Divergence.FORWARD_KL ? 3e-7 : 0;
    for (int vocabulary : new int[] {7, 1031, 151_936}) {
      Random random = new Random(vocabulary);
      float[] x = normal(random, 2 * vocabulary, 2);
      float[] scaled = new float[x.length];
      float[] moved = near(random, x, 1e-3);
      for (int i = 0; i < x.length; i++) {
        scaled[i] = x[i] * 1.001f;
        moved[i] += 100;
      }
      assertAgrees(options, x, scaled, vocabulary, 1e-5, 5e-6, ofTop);
      assertAgrees(options, x, moved, vocabulary, 1e-5, 5e-6, ofTop);
      assertAgrees(options, moved, x, vocabulary, 1e-5, 5e-6, ofTop);
      assertAgrees(options, x, near(random, x, 1e-5), vocabulary, 1e-4, 5e-6, ofTop);
    }
  }

  @ParameterizedTest
  @MethodSource("kinds")
  void equalPoliciesGiveNothing(Options options) {
    // Multiples of 2^-10 move by 100 without rounding.
    float[] x = new float[1031];
    float[] moved = new float[x.length];
    Random random = new Random(1);
    for (int i = 0; i < x.length; i++) {
      x[i] = random.nextInt(-5000, 5000) / 1024f;
      moved[i] = x[i] + 100;
    }
    for (Context context : Contexts.every()) {
      try (context) {
        Got same = Got.of(context, options, x, x, x.length);
        assertThat(same.divergence()).containsOnly(0f);
        assertThat(same.gradient()).containsOnly(0f);
        Got shifted = Got.of(context, options, x, moved, x.length);
        assertThat((double) shifted.divergence()[0]).isLessThan(1e-24);
        Near.assertNear("gradient", shifted.gradient(), new double[x.length], 0, 1e-14);
      }
    }
  }

  /** Policies that hold all but e^-2 to all but e^-16 of their probability in one token. */
  @ParameterizedTest
  @MethodSource("kinds")
  void peakedPolicies(Options options) {
    double ofTop = options.kind() == Divergence.FORWARD_KL ? 1e-7 : 0;
    for (int vocabulary : new int[] {7, 1031, 8200}) {
      Random random = new Random(vocabulary);
      int rows = 29;
      float[] x = normal(random, rows * vocabulary, 1);
      for (int r = 0; r < rows; r++) {
        x[r * vocabulary + random.nextInt(vocabulary)] =
            (float) (Math.log(vocabulary) + 2 + r / 2.0);
      }
      assertAgrees(options, x, near(random, x, 0.5), vocabulary, 1e-5, 1e-5, 0);
      assertAgrees(options, x, near(random, x, 1e-3), vocabulary, 1e-3, 1e-5, ofTop);
    }
  }

  /** Probabilities far below the range of f32, on one side and on both. */
  @ParameterizedTest
  @MethodSource("kinds")
  void logitsOfTwoHundred(Options options) {
    for (int vocabulary : new int[] {2, 7, 1031, 151_936}) {
      Random random = new Random(vocabulary);
      float[] x = normal(random, vocabulary, 2);
      float[] y = near(random, x, 0.5);
      x[0] += 200;
      y[vocabulary - 1] += 200;
      assertAgrees(options, x, y, vocabulary, 5e-6, 1e-5, 1e-12);
      float[] agreeing = x.clone();
      agreeing[vocabulary - 1] -= 200;
      assertAgrees(options, x, agreeing, vocabulary, 5e-6, 1e-5, 1e-12);
      float[] spread = normal(random, vocabulary, 80);
      assertAgrees(options, spread, normal(random, vocabulary, 80), vocabulary, 2e-5, 2e-5, 1e-12);
    }
  }

  @Test
  void anyBetaKeepsPrecision() {
    for (float beta : new float[] {1e-6f, 0.001f, 0.3f, 0.7f, 0.999f, 0.999999f}) {
      Options options = Options.DEFAULT.withBeta(beta);
      Random random = new Random(4);
      float[] x = normal(random, 2 * 1031, 3);
      assertAgrees(options, x, normal(random, x.length, 3), 1031, 5e-6, 1e-5, 3e-7);
      assertAgrees(options, x, near(random, x, 1e-3), 1031, 5e-6, 1e-5, 0);
    }
  }

  @ParameterizedTest
  @MethodSource("kinds")
  void theReferencesGradientIsThatOfItsDivergence(Options options) {
    Random random = new Random(3);
    float[] x = normal(random, 37, 2);
    double[] reference =
        LogitDivergenceReference.logProbs(normal(random, 37, 2), options.temperature());
    double[] gradient =
        LogitDivergenceReference.gradient(
            options.kind(),
            options.beta(),
            options.temperature(),
            LogitDivergenceReference.logProbs(x, options.temperature()),
            reference);
    for (int j = 0; j < x.length; j++) {
      double[] side = new double[2];
      double[] at = new double[2];
      for (int i = 0; i < 2; i++) {
        float[] moved = x.clone();
        moved[j] += i == 0 ? -1e-3f : 1e-3f;
        at[i] = moved[j];
        side[i] =
            LogitDivergenceReference.divergence(
                options.kind(),
                options.beta(),
                LogitDivergenceReference.logProbs(moved, options.temperature()),
                reference);
      }
      assertThat(gradient[j]).isCloseTo((side[1] - side[0]) / (at[1] - at[0]), within(1e-6));
    }
  }

  @ParameterizedTest
  @MethodSource("kinds")
  void tokensMaskedOnBothSidesCountNothing(Options options) {
    for (int vocabulary : new int[] {5, 17, 4099}) {
      Random random = new Random(vocabulary);
      float[] x = normal(random, vocabulary, 2);
      float[] y = near(random, x, 0.5);
      for (int j = 1; j < vocabulary; j++) {
        if (random.nextInt(3) == 0) {
          x[j] = y[j] = -INF;
        }
      }
      assertAgrees(options, x, y, vocabulary, 5e-6, 1e-5, 0);
    }
  }

  @ParameterizedTest
  @MethodSource("kinds")
  void tokensMaskedOnOneSide(Options options) {
    int vocabulary = 67;
    Random random = new Random(5);
    float[] full = normal(random, vocabulary, 2);
    float[] masked = near(random, full, 0.5);
    masked[66] = -INF;
    masked[3] = -INF;
    float[] faint = full.clone(); // of a probability that f32 cannot hold, and still above 0
    faint[66] = -200;
    faint[3] = -200;
    for (float[][] rows : new float[][][] {{full, masked}, {masked, full}, {faint, masked}}) {
      boolean infinite =
          options.kind() == Divergence.REVERSE_KL && rows[1] == masked
              || options.kind() == Divergence.FORWARD_KL && rows[0] == masked;
      if (!infinite) {
        assertAgrees(options, rows[0], rows[1], vocabulary, 5e-6, 1e-5, 0);
        continue;
      }
      for (Context context : Contexts.every()) {
        try (context) {
          Got got = Got.of(context, options, rows[0], rows[1], vocabulary);
          assertThat(got.divergence()).containsExactly(INF);
          assertThat(got.gradient()).containsOnly(NAN);
        }
      }
    }
  }

  @ParameterizedTest
  @MethodSource("kinds")
  void rowsThatAreNoDistributionStayAlone(Options options) {
    int vocabulary = 4099;
    int rows = 7;
    Random random = new Random(6);
    float[] x = normal(random, rows * vocabulary, 2);
    float[] y = near(random, x, 0.5);
    float[] brokenX = x.clone();
    float[] brokenY = y.clone();
    brokenX[vocabulary + 4098] = NAN;
    brokenY[2 * vocabulary] = NAN;
    brokenX[3 * vocabulary + 17] = INF;
    brokenY[4 * vocabulary + 17] = INF;
    Arrays.fill(brokenX, 5 * vocabulary, 6 * vocabulary, -INF);
    Arrays.fill(brokenY, 5 * vocabulary, 6 * vocabulary, -INF);
    for (Context context : Contexts.every()) {
      try (context) {
        Got clean = Got.of(context, options, x, y, vocabulary);
        Got got = Got.of(context, options, brokenX, brokenY, vocabulary);
        for (int r = 0; r < rows; r++) {
          boolean broken = r >= 1 && r <= 5;
          float[] gradient = row(got.gradient(), r, vocabulary);
          if (broken) {
            assertThat(got.divergence()[r]).as("row %d", r).isNaN();
            assertThat(gradient).as("row %d", r).containsOnly(NAN);
          } else {
            assertThat(got.divergence()[r]).isEqualTo(clean.divergence()[r]);
            assertThat(gradient).isEqualTo(row(clean.gradient(), r, vocabulary));
          }
        }
      }
    }
  }

  @ParameterizedTest
  @MethodSource("kinds")
  void weightsAndTheGradientOfTheOutput(Options options) {
    int vocabulary = 70;
    Random random = new Random(7);
    float[] x = normal(random, 5 * vocabulary, 2);
    float[] y = near(random, x, 0.5);
    x[3 * vocabulary] = NAN;
    y[4 * vocabulary] = -INF;
    x[4 * vocabulary + 1] = -INF;
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Inputs plain =
          Inputs.of(Tensor.of(scope, x, 5, vocabulary), Tensor.of(scope, y, 5, vocabulary));
      Outputs unweighted = LogitDivergence.forward(scope, plain, options);
      float[] weight = {-1.5f, 0, NAN, 0, -0.0f};
      Inputs weighted =
          plain
              .withWeight(Tensor.of(scope, weight))
              .withGradOutput(Tensor.of(scope, new float[] {4}));
      Outputs outputs =
          new Outputs(poisoned(scope, DType.F32, 5), poisoned(scope, DType.F32, 5, vocabulary));
      LogitDivergence.forward(context, weighted, options, outputs);
      assertThat(outputs.divergence().toFloats()).isEqualTo(unweighted.divergence().toFloats());
      float[] gradient = outputs.dLogits().toFloats();
      float[] base = unweighted.dLogits().toFloats();
      for (int j = 0; j < vocabulary; j++) {
        assertThat(gradient[j]).isCloseTo(-6 * base[j], within(1e-6f * Math.abs(6 * base[j])));
      }
      for (int r : new int[] {1, 3, 4}) {
        assertThat(row(gradient, r, vocabulary)).as("row %d", r).containsOnly(0f);
      }
      assertThat(row(gradient, 2, vocabulary)).containsOnly(NAN);
      LogitDivergence.forward(
          context,
          weighted.withGradOutput(Tensor.of(scope, new float[] {NAN})),
          options,
          new Outputs(null, outputs.dLogits()));
      gradient = outputs.dLogits().toFloats();
      assertThat(row(gradient, 0, vocabulary)).containsOnly(NAN);
      assertThat(row(gradient, 1, vocabulary)).containsOnly(0f);
    }
  }

  @ParameterizedTest
  @MethodSource("kinds")
  void lowPrecisionRoundsTheLogitsAndTheGradientAlone(Options options) {
    for (int vocabulary : new int[] {1, 15, 33, 4099}) {
      Random random = new Random(vocabulary);
      float[] x = normal(random, 3 * vocabulary, 2);
      x[vocabulary - 1] += 12; // a row whose top token gets its gradient last
      float[] y = near(random, x, 0.5);
      for (DType dtype : new DType[] {DType.BF16, DType.F16}) {
        for (Context context : Contexts.every()) {
          try (context;
              Scope scope = context.scope()) {
            float[] roundedX = Tensor.of(scope, dtype, x, x.length).toFloats();
            float[] roundedY = Tensor.of(scope, dtype, y, y.length).toFloats();
            Got f32 = Got.of(context, options, roundedX, roundedY, vocabulary);
            Got wide = Got.of(context, options, dtype, DType.F32, x, y, vocabulary);
            Got narrow = Got.of(context, options, dtype, dtype, x, y, vocabulary);
            float[] rounded = Tensor.of(scope, dtype, f32.gradient(), x.length).toFloats();
            Near.assertSame("divergence", wide.divergence(), f32.divergence());
            Near.assertSame("divergence", narrow.divergence(), f32.divergence());
            Near.assertSame("gradient", wide.gradient(), f32.gradient());
            // The sums of 16-bit rows have another order on a GPU: a gradient may round the other
            // way.
            float ulp = dtype == DType.BF16 ? 0x1p-7f : 0x1p-10f;
            for (int i = 0; i < rounded.length; i++) {
              float off = Contexts.CUDA ? ulp * Math.abs(rounded[i]) + 0x1p-24f : 0f;
              assertThat(narrow.gradient()[i]).isBetween(rounded[i] - off, rounded[i] + off);
            }
          }
        }
      }
    }
  }

  @ParameterizedTest
  @MethodSource("kinds")
  void inPlaceAndOptionalOutputsGiveTheSameBits(Options options) {
    int vocabulary = 4101;
    Random random = new Random(9);
    float[] x = normal(random, 3 * vocabulary, 2);
    x[5] += 12;
    float[] y = near(random, x, 0.5);
    for (DType dtype : new DType[] {DType.F32, DType.BF16, DType.F16}) {
      try (Context context = Contexts.one();
          Scope scope = context.scope()) {
        Tensor logits = Tensor.of(scope, dtype, x, 3, vocabulary);
        Inputs inputs =
            Inputs.of(logits, Tensor.of(scope, dtype, y, 3, vocabulary))
                .withWeight(Tensor.of(scope, new float[] {1, 0, -2}));
        Outputs both = LogitDivergence.forward(scope, inputs, options);
        Tensor divergence = poisoned(scope, DType.F32, 3);
        LogitDivergence.forward(context, inputs, options, new Outputs(divergence, null));
        assertThat(divergence.toFloats()).isEqualTo(both.divergence().toFloats());
        LogitDivergence.forward(context, inputs, options, new Outputs(null, null));
        assertThat(logits.toFloats())
            .isEqualTo(Tensor.of(scope, dtype, x, 3, vocabulary).toFloats());
        Tensor again = Tensor.of(scope, dtype, x, 3, vocabulary);
        Inputs over = Inputs.of(again, inputs.refLogits()).withWeight(inputs.weight());
        LogitDivergence.forward(context, over, options, new Outputs(null, again));
        assertThat(again.toFloats()).isEqualTo(both.dLogits().toFloats());
        divergence = poisoned(scope, DType.F32, 3);
        LogitDivergence.forward(context, inputs, options, new Outputs(divergence, logits));
        assertThat(logits.toFloats()).isEqualTo(both.dLogits().toFloats());
        assertThat(divergence.toFloats()).isEqualTo(both.divergence().toFloats());
      }
    }
  }

  @ParameterizedTest
  @MethodSource("kinds")
  void stridesAreHonouredAndPaddingUntouched(Options options) {
    Random random = new Random(1);
    float[] wideX = normal(random, 5 * 40, 1);
    float[] wideY = normal(random, 5 * 47, 1);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor allX = Tensor.of(scope, wideX, 5, 40);
      Tensor x = allX.columns(3, 36);
      Tensor y = Tensor.of(scope, wideY, 5, 47).columns(14, 47);
      Outputs dense =
          LogitDivergence.forward(
              scope,
              Inputs.of(
                  Tensor.of(scope, x.toFloats(), 5, 33), Tensor.of(scope, y.toFloats(), 5, 33)),
              options);
      Tensor allD = poisoned(scope, DType.F32, 5, 35);
      Tensor divergence = poisoned(scope, DType.F32, 5);
      LogitDivergence.forward(
          context, Inputs.of(x, y), options, new Outputs(divergence, allD.columns(1, 34)));
      Near.assertSame("divergence", divergence.toFloats(), dense.divergence().toFloats());
      Near.assertSame("d_logits", allD.columns(1, 34).toFloats(), dense.dLogits().toFloats());
      assertThat(allD.columns(0, 1).toFloats()).containsOnly(NAN);
      assertThat(allD.columns(34, 35).toFloats()).containsOnly(NAN);
      LogitDivergence.forward(context, Inputs.of(x, y), options, new Outputs(null, x));
      Near.assertSame("d_logits", x.toFloats(), dense.dLogits().toFloats());
      float[] after = allX.toFloats();
      for (int i = 0; i < after.length; i++) {
        if (i % 40 < 3 || i % 40 >= 36) {
          assertThat(after[i]).isEqualTo(wideX[i]);
        }
      }
    }
  }

  @Test
  void bitsDoNotDependOnTheThreadCount() {
    Random random = new Random(8);
    float[] x = normal(random, 33 * 5000, 3);
    float[] y = near(random, x, 0.5);
    Got first = null;
    for (int threads : new int[] {1, 2, 3, 7}) {
      try (Context context = Context.builder().threads(threads).build()) {
        Got got = Got.of(context, Options.DEFAULT, x, y, 5000);
        first = first == null ? got : first;
        assertThat(got.divergence()).isEqualTo(first.divergence());
        assertThat(got.gradient()).isEqualTo(first.gradient());
      }
    }
  }

  @Test
  void noRows() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor none = Tensor.empty(scope, DType.BF16, 0, 7);
      Outputs outputs = LogitDivergence.forward(scope, Inputs.of(none, none), Options.DEFAULT);
      assertThat(outputs.divergence().size()).isZero();
      assertThat(outputs.dLogits().shape()).containsExactly(0, 7);
    }
  }

  @Test
  void rejectsWhatDoesNotFit() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor x = Tensor.zeros(scope, DType.F32, 4, 7);
      Tensor y = Tensor.zeros(scope, DType.F32, 4, 7);
      Inputs inputs = Inputs.of(x, y);
      Options options = Options.DEFAULT;
      for (float temperature : new float[] {0, -1, NAN, INF}) {
        assertThatThrownBy(
                () -> LogitDivergence.forward(scope, inputs, options.withTemperature(temperature)))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessageStartingWith(
                "logit_divergence: temperature: expected a finite number above 0, got");
      }
      for (float beta : new float[] {0, 1, -0.5f, 1.5f, NAN}) {
        assertThatThrownBy(() -> LogitDivergence.forward(scope, inputs, options.withBeta(beta)))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessageStartingWith("logit_divergence: beta: expected a number inside (0, 1), got");
        LogitDivergence.forward(
            scope, inputs, options.withBeta(beta).withKind(Divergence.FORWARD_KL));
        LogitDivergence.forward(
            scope, inputs, options.withBeta(beta).withKind(Divergence.REVERSE_KL));
      }
      Tensor words = Tensor.zeros(scope, DType.I32, 4, 7);
      assertRejected(
          scope,
          Inputs.of(words, y),
          options,
          "logits: expected f32 or bf16 or f16[*, *], got i32[4, 7]");
      assertRejected(
          scope,
          Inputs.of(x, Tensor.zeros(scope, DType.BF16, 4, 7)),
          options,
          "ref_logits: expected f32[4, 7], got bf16[4, 7]");
      assertRejected(
          scope,
          Inputs.of(x, Tensor.zeros(scope, DType.F32, 4, 8)),
          options,
          "ref_logits: expected f32[4, 7], got f32[4, 8]");
      assertRejected(
          scope, Inputs.of(x, null), options, "ref_logits: expected f32[4, 7], got null");
      assertRejected(
          scope,
          inputs.withWeight(Tensor.zeros(scope, DType.F32, 5)),
          options,
          "weight: expected f32[4], got f32[5]");
      assertRejected(
          scope,
          inputs.withGradOutput(Tensor.zeros(scope, DType.F32, 2)),
          options,
          "grad_output: expected f32[1], got f32[2]");
      Tensor empty = Tensor.zeros(scope, DType.F32, 4, 0);
      assertRejected(
          scope, Inputs.of(empty, empty), options, "vocabulary: expected 1 to 2147483647, got 0");
      assertRejected(
          context,
          inputs,
          new Outputs(Tensor.zeros(scope, DType.F32, 3), null),
          "divergence: expected f32[4], got f32[3]");
      assertRejected(
          context,
          inputs,
          new Outputs(null, Tensor.zeros(scope, DType.F32, 7, 4)),
          "d_logits: expected f32 or bf16 or f16[4, 7], got f32[7, 4]");
      assertRejected(
          context,
          inputs,
          new Outputs(null, Tensor.zeros(scope, DType.BF16, 4, 7)),
          "d_logits_dtype: expected the dtype of the logits, or f32, got 1");
      assertRejected(
          context,
          inputs,
          new Outputs(null, y),
          "d_logits: expected memory that overlaps no input, got an overlap with ref_logits");
      assertRejected(
          context,
          inputs,
          new Outputs(x.reshape(28).rows(0, 4), null),
          "divergence: expected memory that overlaps no input, got an overlap with logits");
      Tensor taller = Tensor.zeros(scope, DType.F32, 5, 7);
      assertRejected(
          context,
          Inputs.of(taller.rows(0, 4), y),
          new Outputs(null, taller.rows(1, 5)),
          "d_logits: expected memory that overlaps no input, got an overlap with logits");
      Tensor half = Tensor.wrap(scope, x.address(), x, DType.BF16, 4, 7);
      assertRejected(
          context,
          Inputs.of(half, Tensor.zeros(scope, DType.BF16, 4, 7)),
          new Outputs(null, x),
          "d_logits: expected memory that overlaps no input, got an overlap with logits");
      Tensor wider = Tensor.zeros(scope, DType.F32, 4, 8);
      assertRejected(
          context,
          Inputs.of(wider.columns(0, 7), y),
          new Outputs(null, Tensor.wrap(scope, wider.address(), wider, DType.F32, 4, 7)),
          "d_logits: expected memory that overlaps no input, got an overlap with logits");
    }
  }

  private static void assertRejected(
      Scope scope, Inputs inputs, Options options, String complaint) {
    assertThatThrownBy(() -> LogitDivergence.forward(scope, inputs, options))
        .isInstanceOf(InvalidArgumentException.class)
        .hasMessage("logit_divergence: " + complaint);
  }

  private static void assertRejected(
      Context context, Inputs inputs, Outputs outputs, String complaint) {
    assertThatThrownBy(() -> LogitDivergence.forward(context, inputs, Options.DEFAULT, outputs))
        .isInstanceOf(InvalidArgumentException.class)
        .hasMessage("logit_divergence: " + complaint);
  }
}
