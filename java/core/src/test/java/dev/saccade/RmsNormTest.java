package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.reference.RmsNormReference;
import java.util.Arrays;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class RmsNormTest {
  private static final float EPS = 1e-5f;

  private static float[] gaussian(Random random, int n) {
    float[] x = new float[n];
    for (int i = 0; i < n; i++) {
      x[i] = (float) random.nextGaussian();
    }
    return x;
  }

  private static double[] row(float[] x, int r, int columns) {
    double[] row = new double[columns];
    for (int j = 0; j < columns; j++) {
      row[j] = x[r * columns + j];
    }
    return row;
  }

  /**
   * No row, one element, around the widest vector and two of them, around the longest f32 partial
   * sum; then several tasks, and so many rows that a block of them is the largest that one partial
   * sum of d_weight may hold.
   */
  @ParameterizedTest
  @CsvSource({
    "0, 5",
    "1, 1",
    "3, 2",
    "3, 15",
    "3, 16",
    "3, 17",
    "3, 31",
    "3, 32",
    "3, 33",
    "2, 4095",
    "2, 4096",
    "2, 4097",
    "2, 8211",
    "1000, 96",
    "9001, 3",
    "600000, 1"
  })
  void agreesWithDoublePrecisionOnEveryInstructionSet(int rows, int columns) {
    Random random = new Random(31L * rows + columns);
    float[] x = gaussian(random, rows * columns);
    float[] weight = gaussian(random, columns);
    float[] dy = gaussian(random, rows * columns);
    float[] before = gaussian(random, columns);
    double[] w = row(weight, 0, columns);
    double[] dWeight = row(before, 0, columns);
    double[] size = new double[columns]; // Σ |term|: what the error of d_weight is relative to
    for (int r = 0; r < rows; r++) {
      double[] terms = RmsNormReference.dWeight(row(x, r, columns), row(dy, r, columns), EPS);
      for (int j = 0; j < columns; j++) {
        dWeight[j] += terms[j];
        size[j] += Math.abs(terms[j]);
      }
    }
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Tensor tx = Tensor.of(scope, x, rows, columns);
        Tensor tw = Tensor.of(scope, weight);
        var out = RmsNorm.forward(scope, tx, tw, EPS);
        Tensor dx = Tensor.of(scope, new float[rows * columns], rows, columns);
        Tensor dw = Tensor.of(scope, before);
        RmsNorm.backward(
            context, tx, tw, out.rstd(), Tensor.of(scope, dy, rows, columns), null, dx, dw);
        float[] y = out.y().toFloats();
        float[] rstd = out.rstd().toFloats();
        float[] gradient = dx.toFloats();
        for (int r = 0; r < rows; r++) {
          double[] xr = row(x, r, columns);
          double[] wantY = RmsNormReference.forward(xr, w, EPS);
          double[] wantDx = RmsNormReference.dx(xr, w, row(dy, r, columns), EPS);
          double wantRstd = RmsNormReference.rstd(xr, EPS);
          // Relative to the two terms that dx is the difference of.
          double scale = wantRstd * (1 + Arrays.stream(wantDx).map(Math::abs).max().getAsDouble());
          near(rstd[r], wantRstd, 1e-6 * wantRstd);
          for (int j = 0; j < columns; j++) {
            near(y[r * columns + j], wantY[j], 1e-6 * Math.abs(wantY[j]));
            near(gradient[r * columns + j], wantDx[j], 3e-6 * (scale + 10 * wantRstd));
          }
        }
        float[] dWeights = dw.toFloats();
        for (int j = 0; j < columns; j++) {
          near(dWeights[j], dWeight[j], 1e-6 * (1 + size[j]));
        }
      }
    }
  }

  private static void near(float actual, double expected, double tolerance) {
    if (!(Math.abs(actual - expected) <= tolerance)) {
      assertThat((double) actual).isCloseTo(expected, within(tolerance));
    }
  }

  @Test
  void gradientAgreesWithFiniteDifferences() {
    Random random = new Random(4);
    int columns = 19;
    float[] x = gaussian(random, columns);
    float[] weight = gaussian(random, columns);
    float[] dy = gaussian(random, columns);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor tx = Tensor.of(scope, x, 1, columns);
      Tensor tw = Tensor.of(scope, weight);
      var out = RmsNorm.forward(scope, tx, tw, 0.1f);
      Tensor dx = Tensor.empty(scope, DType.F32, 1, columns);
      Tensor dw = Tensor.zeros(scope, DType.F32, columns);
      RmsNorm.backward(context, tx, tw, out.rstd(), Tensor.of(scope, dy, 1, columns), null, dx, dw);
      for (int j = 0; j < 2 * columns; j++) {
        double[] loss = new double[2];
        for (int side = 0; side < 2; side++) {
          double[] xs = row(x, 0, columns);
          double[] ws = row(weight, 0, columns);
          (j < columns ? xs : ws)[j % columns] += side == 0 ? -1e-5 : 1e-5;
          double[] y = RmsNormReference.forward(xs, ws, 0.1f);
          for (int i = 0; i < columns; i++) {
            loss[side] += dy[i] * y[i];
          }
        }
        float gradient = (j < columns ? dx : dw).toFloats()[j % columns];
        assertThat((double) gradient).isCloseTo((loss[1] - loss[0]) / 2e-5, within(2e-6));
      }
    }
  }

  @Test
  void accumulates() {
    Random random = new Random(5);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor x = Tensor.of(scope, gaussian(random, 70), 2, 35);
      Tensor w = Tensor.of(scope, gaussian(random, 35));
      Tensor dy = Tensor.of(scope, gaussian(random, 70), 2, 35);
      var out = RmsNorm.forward(scope, x, w, EPS);
      float[] before = gaussian(random, 70);
      Tensor plain = Tensor.empty(scope, DType.F32, 2, 35);
      Tensor added = Tensor.of(scope, before, 2, 35);
      Tensor dw = Tensor.zeros(scope, DType.F32, 35);
      Tensor twice = Tensor.zeros(scope, DType.F32, 35);
      RmsNorm.backward(context, x, w, out.rstd(), dy, null, plain, dw);
      RmsNorm.backward(context, x, w, out.rstd(), dy, added, added, twice);
      Tensor beside = Tensor.empty(scope, DType.F32, 2, 35);
      Tensor wide = Tensor.zeros(scope, DType.F32, 2, 40);
      Tensor residual = wide.columns(3, 38).copyFrom(before);
      RmsNorm.backward(
          context, x, w, out.rstd(), dy, residual, beside, Tensor.zeros(scope, DType.F32, 35));
      assertThat(beside.toFloats()).containsExactly(added.toFloats());
      assertThat(residual.toFloats()).containsExactly(before);
      RmsNorm.backward(context, x, w, out.rstd(), dy, null, plain, twice);
      for (int i = 0; i < 70; i++) {
        assertThat(added.toFloats()[i]).isCloseTo(before[i] + plain.toFloats()[i], within(1e-6f));
      }
      for (int j = 0; j < 35; j++) {
        assertThat(twice.toFloats()[j]).isCloseTo(2 * dw.toFloats()[j], within(1e-6f));
      }
    }
  }

  @Test
  void nanStaysInItsRow() {
    Random random = new Random(6);
    int columns = 21;
    float[] x = gaussian(random, 3 * columns);
    float[] broken = x.clone();
    broken[columns + 4] = Float.NaN;
    float[] dy = gaussian(random, 3 * columns);
    float[] weight = gaussian(random, columns);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      float[][] y = new float[2][];
      float[][] dx = new float[2][];
      float[] dw = null;
      for (int i = 0; i < 2; i++) {
        Tensor tx = Tensor.of(scope, i == 0 ? x : broken, 3, columns);
        Tensor tw = Tensor.of(scope, weight);
        var out = RmsNorm.forward(scope, tx, tw, EPS);
        Tensor gradient = Tensor.empty(scope, DType.F32, 3, columns);
        Tensor dWeight = Tensor.zeros(scope, DType.F32, columns);
        RmsNorm.backward(
            context, tx, tw, out.rstd(), Tensor.of(scope, dy, 3, columns), null, gradient, dWeight);
        y[i] = out.y().toFloats();
        dx[i] = gradient.toFloats();
        dw = dWeight.toFloats();
      }
      for (int i = 0; i < 3 * columns; i++) {
        if (i / columns == 1) {
          assertThat(y[1][i]).isNaN();
          assertThat(dx[1][i]).isNaN();
        } else {
          assertThat(y[1][i]).isEqualTo(y[0][i]);
          assertThat(dx[1][i]).isEqualTo(dx[0][i]);
        }
      }
      for (float d : dw) {
        assertThat(d).isNaN();
      }
    }
  }

  @Test
  void stridesAreHonouredAndPaddingUntouched() {
    Random random = new Random(7);
    int columns = 33;
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor x = Tensor.of(scope, gaussian(random, 5 * 40), 5, 40).columns(2, 35);
      Tensor dy = Tensor.of(scope, gaussian(random, 5 * 37), 5, 37).columns(4, 37);
      Tensor w = Tensor.of(scope, gaussian(random, columns));
      Tensor wideY = Tensor.of(scope, filled(5 * 36), 5, 36);
      Tensor wideDx = Tensor.of(scope, filled(5 * 50), 5, 50);
      Tensor rstd = Tensor.empty(scope, DType.F32, 5);
      Tensor dw = Tensor.zeros(scope, DType.F32, columns);
      RmsNorm.forward(context, x, w, EPS, new RmsNorm.Outputs(wideY.columns(1, 34), rstd));
      RmsNorm.backward(context, x, w, rstd, dy, null, wideDx.columns(10, 43), dw);

      Tensor denseX = Tensor.of(scope, x.toFloats(), 5, columns);
      var dense = RmsNorm.forward(scope, denseX, w, EPS);
      Tensor denseDx = Tensor.empty(scope, DType.F32, 5, columns);
      Tensor denseDw = Tensor.zeros(scope, DType.F32, columns);
      RmsNorm.backward(
          context,
          denseX,
          w,
          dense.rstd(),
          Tensor.of(scope, dy.toFloats(), 5, columns),
          null,
          denseDx,
          denseDw);
      assertThat(wideY.columns(1, 34).toFloats()).isEqualTo(dense.y().toFloats());
      assertThat(wideDx.columns(10, 43).toFloats()).isEqualTo(denseDx.toFloats());
      assertThat(dw.toFloats()).isEqualTo(denseDw.toFloats());
      assertThat(wideY.columns(0, 1).toFloats()).containsOnly(777f);
      assertThat(wideY.columns(34, 36).toFloats()).containsOnly(777f);
      assertThat(wideDx.columns(0, 10).toFloats()).containsOnly(777f);
      assertThat(wideDx.columns(43, 50).toFloats()).containsOnly(777f);
    }
  }

  private static float[] filled(int n) {
    float[] x = new float[n];
    Arrays.fill(x, 777f);
    return x;
  }

  @Test
  void bitsDoNotDependOnTheThreadCount() {
    Random random = new Random(8);
    int rows = 3000;
    int columns = 100;
    float[] x = gaussian(random, rows * columns);
    float[] dy = gaussian(random, rows * columns);
    float[] weight = gaussian(random, columns);
    float[] first = null;
    for (int threads : new int[] {1, 2, 3, 7}) {
      try (Context context = Context.builder().threads(threads).build();
          Scope scope = context.scope()) {
        Tensor tx = Tensor.of(scope, x, rows, columns);
        Tensor tw = Tensor.of(scope, weight);
        var out = RmsNorm.forward(scope, tx, tw, EPS);
        Tensor all = Tensor.empty(scope, DType.F32, 2 * rows + 1, columns);
        all.rows(0, rows).copyFrom(out.y());
        Tensor dw = all.rows(2 * rows, 2 * rows + 1).reshape(columns).zero();
        RmsNorm.backward(
            context,
            tx,
            tw,
            out.rstd(),
            Tensor.of(scope, dy, rows, columns),
            null,
            all.rows(rows, 2 * rows),
            dw);
        float[] bits = all.toFloats();
        if (first == null) {
          first = bits;
        }
        assertThat(Arrays.equals(bits, first)).as("%d threads", threads).isTrue();
      }
    }
  }

  @ParameterizedTest
  @ValueSource(ints = {1, 33, 1024, 3000})
  void addsTheResidualFirst(int columns) {
    Random random = new Random(columns);
    int rows = 9;
    float[] a = gaussian(random, rows * columns);
    float[] b = gaussian(random, rows * columns);
    float[] sums = new float[a.length];
    for (int i = 0; i < sums.length; i++) {
      sums[i] = a[i] + b[i];
    }
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Tensor w = Tensor.of(scope, gaussian(new Random(1), columns));
        Tensor x = Tensor.zeros(scope, DType.F32, rows, columns + 2);
        x.columns(1, columns + 1).copyFrom(a);
        Tensor residual = Tensor.of(scope, b, rows, columns);
        var added = RmsNorm.forward(scope, x.columns(1, columns + 1), residual, w, EPS);
        var plain = RmsNorm.forward(scope, Tensor.of(scope, sums, rows, columns), w, EPS);
        assertThat(x.columns(1, columns + 1).toFloats()).containsExactly(sums);
        assertThat(x.columns(0, 1).toFloats()).containsOnly(0);
        assertThat(residual.toFloats()).containsExactly(b);
        assertThat(added.y().toFloats()).containsExactly(plain.y().toFloats());
        assertThat(added.rstd().toFloats()).containsExactly(plain.rstd().toFloats());
      }
    }
  }

  @Test
  void rejectsWhatDoesNotFit() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor x = Tensor.zeros(scope, DType.F32, 4, 7);
      Tensor w = Tensor.zeros(scope, DType.F32, 7);
      Tensor rstd = Tensor.zeros(scope, DType.F32, 4);
      Tensor y = Tensor.zeros(scope, DType.F32, 4, 7);
      for (float eps : new float[] {-1, Float.NaN, Float.POSITIVE_INFINITY}) {
        assertThatThrownBy(() -> RmsNorm.forward(scope, x, w, eps))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessageContaining("rms_norm: eps: expected a finite number of at least 0, got");
      }
      assertThatThrownBy(() -> RmsNorm.forward(scope, x, rstd, EPS))
          .hasMessage("rms_norm: weight: expected f32[7], got f32[4]");
      assertThatThrownBy(() -> RmsNorm.forward(scope, Tensor.zeros(scope, DType.F16, 4, 7), w, EPS))
          .hasMessage("rms_norm: x: expected f32[*, *], got f16[4, 7]");
      assertThatThrownBy(
              () ->
                  RmsNorm.forward(
                      scope,
                      Tensor.zeros(scope, DType.F32, 4, 0),
                      Tensor.zeros(scope, DType.F32, 0),
                      EPS))
          .hasMessage("rms_norm: columns: expected 1 to 2147483647, got 0");
      assertThatThrownBy(
              () -> RmsNorm.forward(context, x, w, EPS, new RmsNorm.Outputs(y.rows(0, 3), rstd)))
          .hasMessage("rms_norm: y: expected f32[4, 7], got f32[3, 7]");
      assertThatThrownBy(() -> RmsNorm.forward(context, x, w, EPS, new RmsNorm.Outputs(y, null)))
          .hasMessage("rms_norm: rstd: expected f32[4], got null");
      assertThatThrownBy(() -> RmsNorm.forward(context, x, w, EPS, new RmsNorm.Outputs(x, rstd)))
          .hasMessage("rms_norm: y: expected memory that overlaps no input, got an overlap with x");
      assertThatThrownBy(() -> RmsNorm.backward(context, x, w, w, x, null, y, w))
          .hasMessage("rms_norm_backward: rstd: expected f32[4], got f32[7]");
      assertThatThrownBy(() -> RmsNorm.backward(context, x, w, rstd, x.rows(0, 2), null, y, w))
          .hasMessage("rms_norm_backward: dy: expected f32[4, 7], got f32[2, 7]");
      assertThatThrownBy(() -> RmsNorm.backward(context, x, w, rstd, x, null, null, w))
          .hasMessage("rms_norm_backward: dx: expected f32[4, 7], got null");
      assertThatThrownBy(() -> RmsNorm.backward(context, x, w, rstd, x, null, y, rstd))
          .hasMessage("rms_norm_backward: d_weight: expected f32[7], got f32[4]");
      assertThatThrownBy(() -> RmsNorm.backward(context, x, w, rstd, x, null, y, w))
          .hasMessage(
              "rms_norm_backward: d_weight: expected memory that overlaps no input, got an overlap"
                  + " with weight");
      assertThatThrownBy(() -> RmsNorm.forward(scope, x, x.rows(0, 2), w, EPS))
          .hasMessage("rms_norm: residual: expected f32[4, 7], got f32[2, 7]");
      assertThatThrownBy(() -> RmsNorm.forward(scope, x, x, w, EPS))
          .hasMessage(
              "rms_norm: x: expected memory that overlaps no input, got an overlap with residual");
      Tensor dw = Tensor.zeros(scope, DType.F32, 7);
      assertThatThrownBy(() -> RmsNorm.backward(context, x, w, rstd, x, x.rows(0, 2), y, dw))
          .hasMessage("rms_norm_backward: residual: expected f32[4, 7], got f32[2, 7]");
      Tensor wide = Tensor.zeros(scope, DType.F32, 5, 14);
      Tensor strided = wide.columns(0, 7).rows(0, 4);
      Tensor other = Tensor.wrap(scope, wide.address(), wide, DType.F32, 4, 7);
      assertThatThrownBy(() -> RmsNorm.backward(context, x, w, rstd, x, other, strided, dw))
          .hasMessageContaining("rms_norm_backward: residual_stride: expected that of dx");
    }
  }
}
