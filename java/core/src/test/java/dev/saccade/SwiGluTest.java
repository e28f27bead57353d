package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.reference.SwiGluReference;
import java.util.Arrays;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class SwiGluTest {
  private static float[] gaussian(Random random, int n, double scale) {
    float[] x = new float[n];
    for (int i = 0; i < n; i++) {
      x[i] = (float) (random.nextGaussian() * scale);
    }
    return x;
  }

  private static void near(float actual, double expected) {
    double tolerance = 1e-6 * Math.abs(expected) + 1e-30;
    if (!(Math.abs(actual - expected) <= tolerance)) {
      assertThat((double) actual).isCloseTo(expected, within(tolerance));
    }
  }

  /** Nothing, one element, around the widest vector, a longer remainder, several tasks. */
  @ParameterizedTest
  @CsvSource({"0, 3", "3, 0", "1, 1", "2, 15", "2, 16", "2, 17", "3, 50", "700, 96", "2, 20000"})
  void agreesWithDoublePrecisionOnEveryInstructionSet(int rows, int columns) {
    Random random = new Random(17L * rows + columns);
    float[] x = gaussian(random, rows * 2 * columns, 4);
    float[] dy = gaussian(random, rows * columns, 1);
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Tensor tx = Tensor.of(scope, x, rows, 2 * columns);
        float[] y = SwiGlu.forward(scope, tx).toFloats();
        Tensor dx = Tensor.empty(scope, DType.F32, rows, 2 * columns);
        Tensor tdy = Tensor.of(scope, dy, rows, columns);
        SwiGlu.backward(context, tx, tdy, dx);
        float[] gradient = dx.toFloats();
        for (int r = 0; r < rows; r++) {
          for (int j = 0; j < columns; j++) {
            double gate = x[r * 2 * columns + j];
            double up = x[(r * 2 + 1) * columns + j];
            double d = dy[r * columns + j];
            near(y[r * columns + j], SwiGluReference.forward(gate, up));
            double wantGate = d * SwiGluReference.dGate(gate, up);
            // silu has its minimum near -1.28, where its derivative is a difference of equals.
            assertThat((double) gradient[r * 2 * columns + j])
                .isCloseTo(wantGate, within(1e-6 * (Math.abs(wantGate) + Math.abs(d * up))));
            near(gradient[(r * 2 + 1) * columns + j], d * SwiGluReference.dUp(gate));
          }
        }
        SwiGlu.backward(context, tx, tdy, tx);
        assertThat(Arrays.equals(tx.toFloats(), gradient)).as("in place").isTrue();
      }
    }
  }

  @Test
  void gradientAgreesWithFiniteDifferences() {
    float[] x = {-9, -1.3f, -0.2f, 0, 0.4f, 3, 1.5f, -2, 0.3f, 7, -1, 0.1f};
    float[] dy = {1, -2, 0.5f, 1.5f, -1, 0.7f};
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor dx = Tensor.empty(scope, DType.F32, 1, 12);
      SwiGlu.backward(context, Tensor.of(scope, x, 1, 12), Tensor.of(scope, dy, 1, 6), dx);
      for (int j = 0; j < 6; j++) {
        double gate = x[j];
        double up = x[6 + j];
        double h = 1e-5;
        double dGate =
            (SwiGluReference.forward(gate + h, up) - SwiGluReference.forward(gate - h, up))
                / (2 * h);
        double dUp =
            (SwiGluReference.forward(gate, up + h) - SwiGluReference.forward(gate, up - h))
                / (2 * h);
        assertThat((double) dx.toFloats()[j]).isCloseTo(dy[j] * dGate, within(2e-6));
        assertThat((double) dx.toFloats()[6 + j]).isCloseTo(dy[j] * dUp, within(2e-6));
      }
    }
  }

  @Test
  void largeGatesSaturateAndNanStaysInItsElement() {
    float[] x = {1000, -1000, 88, -88, Float.NaN, 3, 2, 1e30f, 2, 2, 2, Float.NaN};
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Tensor tx = Tensor.of(scope, x, 1, 12);
        float[] y = SwiGlu.forward(scope, tx).toFloats();
        assertThat(y[0]).isEqualTo(2000);
        assertThat(y[1]).isZero();
        assertThat(y[2]).isEqualTo(176);
        assertThat(y[3]).isBetween(-1e-35f, 0f);
        assertThat(y[4]).isNaN();
        assertThat(y[5]).isNaN();
        Tensor ones = Tensor.of(scope, new float[] {1, 1, 1, 1, 1, 1}, 1, 6);
        SwiGlu.backward(context, tx, ones, tx);
        float[] d = tx.toFloats();
        assertThat(d[0]).isEqualTo(2);
        assertThat(d[1]).isZero();
        assertThat(d[2]).isEqualTo(2);
        assertThat(d[4]).isNaN();
        assertThat(d[5]).isNaN();
        assertThat(d[6]).isEqualTo(1000);
        assertThat(d[7]).isZero();
        assertThat(d[10]).isNaN();
        assertThat(d[11]).isCloseTo(2.857722f, within(1e-6f)); // silu(3): up does not enter
      }
    }
  }

  @Test
  void bitsDoNotDependOnTheThreadCount() {
    Random random = new Random(9);
    float[] x = gaussian(random, 900 * 2 * 77, 3);
    float[] first = null;
    for (int threads : new int[] {1, 2, 3, 7}) {
      try (Context context = Context.builder().threads(threads).build();
          Scope scope = context.scope()) {
        float[] y = SwiGlu.forward(scope, Tensor.of(scope, x, 900, 2 * 77)).toFloats();
        if (first == null) {
          first = y;
        }
        assertThat(Arrays.equals(y, first)).as("%d threads", threads).isTrue();
      }
    }
  }

  @Test
  void rejectsWhatDoesNotFit() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor x = Tensor.zeros(scope, DType.F32, 4, 6);
      Tensor y = Tensor.zeros(scope, DType.F32, 4, 3);
      assertThatThrownBy(() -> SwiGlu.forward(scope, Tensor.zeros(scope, DType.F32, 4, 7)))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessage("swiglu: x: expected f32[4, 6], got f32[4, 7]");
      assertThatThrownBy(() -> SwiGlu.forward(context, x, null))
          .hasMessage("swiglu: y: expected f32[*, *], got null");
      assertThatThrownBy(
              () -> SwiGlu.forward(context, x.reshape(4, 6).columns(0, 6), x.columns(0, 3)))
          .hasMessage(
              "swiglu: y: expected a dense tensor, got f32[4, 3] with gaps between its rows");
      assertThatThrownBy(() -> SwiGlu.forward(context, x, x.reshape(8, 3).rows(0, 4)))
          .hasMessage("swiglu: y: expected memory that overlaps no input, got an overlap with x");
      assertThatThrownBy(() -> SwiGlu.backward(context, x, y, y))
          .hasMessage("swiglu_backward: dx: expected f32[4, 6], got f32[4, 3]");
      Tensor wide = Tensor.zeros(scope, DType.F32, 5, 6);
      assertThatThrownBy(() -> SwiGlu.backward(context, wide.rows(0, 4), y, wide.rows(1, 5)))
          .hasMessage(
              "swiglu_backward: dx: expected memory that overlaps no input, got an overlap with x");
    }
  }
}
