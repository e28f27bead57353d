package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.saccade.reference.SampledKlReference;
import java.util.Arrays;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class SampledKlTest {
  private static final float NAN = Float.NaN;

  /** None, one, around every vector width, a remainder, around a block of rows. */
  private static final int[] SIZES = {0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 4097, 16384, 16386};

  private static float[] shifted(Random random, float[] x, double scale) {
    float[] y = new float[x.length];
    for (int i = 0; i < y.length; i++) {
      y[i] = (float) (x[i] + scale * random.nextGaussian());
    }
    return y;
  }

  private static float[] logProbs(Random random, int n) {
    float[] x = new float[n];
    for (int i = 0; i < n; i++) {
      x[i] = -8 * random.nextFloat();
    }
    return x;
  }

  @ParameterizedTest
  @EnumSource
  void agreesWithDoublePrecisionOnEveryInstructionSet(KlEstimator estimator) {
    Random random = new Random(estimator.ordinal());
    for (Context context : Contexts.every()) {
      try (context) {
        for (int n : SIZES) {
          float[] l = logProbs(random, n);
          // Policies that are nearly equal, that differ, and that have little in common.
          for (double distance : new double[] {1e-3, 0.5, 2}) {
            float[] ref = shifted(random, l, distance);
            float[] old = shifted(random, l, 0.2);
            for (boolean corrected : new boolean[] {false, true}) {
              double[] kl = new double[n];
              double[] gradient = new double[n];
              for (int i = 0; i < n; i++) {
                double ratio = corrected ? Math.exp((double) l[i] - old[i]) : 1;
                kl[i] = ratio * SampledKlReference.value(estimator, l[i], ref[i]);
                gradient[i] =
                    SampledKlReference.gradient(
                        estimator, l[i], ref[i], corrected ? old[i] : Double.NaN);
              }
              try (Scope scope = context.scope()) {
                var out =
                    SampledKl.forward(
                        scope,
                        Tensor.of(scope, l),
                        Tensor.of(scope, ref),
                        Tensor.of(scope, old),
                        new SampledKl.Options(estimator, corrected));
                // The difference of two log-probabilities is exact where they are close, else it
                // rounds at 2^-21.  So
                // divergences of nearly equal policies have a relative tolerance alone.
                double rounding = distance < 0.01 ? 0 : 1e-6;
                Near.assertNear("kl", out.kl().toFloats(), kl, 1e-5, rounding);
                Near.assertNear("d_log_prob", out.dLogProb().toFloats(), gradient, 5e-6, 1e-6);
              }
            }
          }
        }
      }
    }
  }

  @ParameterizedTest
  @EnumSource
  void ratiosBeyondTheClampAndNan(KlEstimator estimator) {
    // The clamp's edge, both sides beyond it, equal policies, NaN on each side, a probability of 0.
    float inf = Float.POSITIVE_INFINITY;
    float[] l = {-21, -30, -1, -2, NAN, -1, -inf};
    float[] ref = {-1, -1, -30, -2, -1, NAN, -1};
    double edge = Math.expm1(20);
    double low = Math.expm1(-20);
    double[] k3 = {edge - 20, edge - 20, low + 20, 0, NAN, NAN, edge - 20};
    double[] d = {20, 20, -20, 0, NAN, NAN, 20};
    double[] value = new double[l.length];
    double[] gradient = new double[l.length];
    for (int i = 0; i < l.length; i++) {
      boolean beyond = i == 1 || i == 2 || i == 6;
      value[i] =
          switch (estimator) {
            case K1, K1_ST -> -d[i];
            case ABS -> Math.abs(d[i]);
            case K2 -> d[i] * d[i] / 2;
            case K3, K3_ST -> k3[i];
          };
      gradient[i] =
          switch (estimator) {
            case K1 -> Double.isNaN(d[i]) ? NAN : 1;
            case ABS -> -Math.signum(d[i]);
            case K2, K1_ST, K3_ST -> -d[i];
            case K3 -> beyond ? 0 : -Math.expm1(d[i]);
          };
    }
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        var out =
            SampledKl.forward(
                scope,
                Tensor.of(scope, l),
                Tensor.of(scope, ref),
                null,
                SampledKl.Options.DEFAULT.withEstimator(estimator));
        Near.assertNear("kl", out.kl().toFloats(), value, 2e-6, 0);
        Near.assertNear("d_log_prob", out.dLogProb().toFloats(), gradient, 2e-6, 0);
      }
    }
  }

  @Test
  void correctionClampsItsRatio() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      var out =
          SampledKl.forward(
              scope,
              Tensor.of(scope, new float[] {-1, -40}),
              Tensor.of(scope, new float[] {-2, -41}),
              Tensor.of(scope, new float[] {-40, -1}),
              new SampledKl.Options(KlEstimator.K1, true));
      double[] want = {Math.exp(20), Math.exp(-20)};
      Near.assertNear("kl", out.kl().toFloats(), want, 1e-6, 0);
      double[] gradient = {2 * Math.exp(20), 2 * Math.exp(-20)};
      Near.assertNear("d_log_prob", out.dLogProb().toFloats(), gradient, 1e-6, 0);
    }
  }

  @Test
  void bitsDoNotDependOnTheThreadCount() {
    Random random = new Random(2);
    float[] l = logProbs(random, 100_003);
    float[] ref = shifted(random, l, 0.5);
    float[] first = null;
    for (int threads : new int[] {1, 2, 3}) {
      try (Context context = Context.builder().threads(threads).build();
          Scope scope = context.scope()) {
        float[] kl =
            SampledKl.forward(
                    scope,
                    Tensor.of(scope, l),
                    Tensor.of(scope, ref),
                    null,
                    SampledKl.Options.DEFAULT)
                .kl()
                .toFloats();
        first = first == null ? kl : first;
        assertThat(Arrays.equals(kl, first)).isTrue();
      }
    }
  }

  @Test
  void gradientIsOptional() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor l = Tensor.of(scope, new float[] {-1, -2});
      Tensor kl = Tensor.empty(scope, DType.F32, 2);
      SampledKl.forward(
          context, l, l, null, SampledKl.Options.DEFAULT, new SampledKl.Outputs(kl, null));
      assertThat(kl.toFloats()).containsExactly(0, 0);
    }
  }

  @Test
  void rejectsWhatDoesNotFit() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor l = Tensor.zeros(scope, DType.F32, 4);
      var options = SampledKl.Options.DEFAULT;
      assertThatThrownBy(
              () -> SampledKl.forward(scope, Tensor.zeros(scope, DType.BF16, 4), l, null, options))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessage("sampled_kl: log_prob: expected f32[*], got bf16[4]");
      assertThatThrownBy(
              () -> SampledKl.forward(scope, l, Tensor.zeros(scope, DType.F32, 5), null, options))
          .hasMessage("sampled_kl: ref_log_prob: expected f32[4], got f32[5]");
      assertThatThrownBy(() -> SampledKl.forward(scope, l, null, null, options))
          .hasMessage("sampled_kl: ref_log_prob: expected f32[4], got null");
      assertThatThrownBy(
              () -> SampledKl.forward(scope, l, l, null, options.withImportanceCorrected(true)))
          .hasMessage("sampled_kl: old_log_prob: expected an address, got null with 4 elements");
      assertThatThrownBy(
              () ->
                  SampledKl.forward(
                      scope,
                      l,
                      l,
                      Tensor.zeros(scope, DType.F32, 3),
                      options.withImportanceCorrected(true)))
          .hasMessage("sampled_kl: old_log_prob: expected f32[4], got f32[3]");
      assertThatThrownBy(
              () -> SampledKl.forward(context, l, l, null, options, new SampledKl.Outputs(l, null)))
          .hasMessage(
              "sampled_kl: kl: expected memory that overlaps no input, got an overlap with"
                  + " log_prob");
      assertThatThrownBy(
              () ->
                  SampledKl.forward(
                      context,
                      l,
                      l,
                      null,
                      options,
                      new SampledKl.Outputs(
                          Tensor.zeros(scope, DType.F32, 4), Tensor.zeros(scope, DType.F32, 1))))
          .hasMessage("sampled_kl: d_log_prob: expected f32[4], got f32[1]");
    }
  }
}
