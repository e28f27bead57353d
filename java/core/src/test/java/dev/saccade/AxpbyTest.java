package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.reference.AxpbyReference;
import java.util.Arrays;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class AxpbyTest {
  private static float[] gaussian(Random random, int n) {
    float[] x = new float[n];
    for (int i = 0; i < n; i++) {
      x[i] = (float) random.nextGaussian();
    }
    return x;
  }

  /**
   * Nothing, one element, around the widest vector; dense over several tasks; strided with short
   * rows (a task holds many) and with rows longer than a task.
   */
  @ParameterizedTest
  @CsvSource({
    "0, 3, 0",
    "3, 0, 2",
    "1, 1, 0",
    "2, 15, 1",
    "2, 16, 3",
    "2, 17, 2",
    "1, 100003, 0",
    "500, 200, 0",
    "500, 200, 5",
    "3, 70001, 1"
  })
  void agreesWithDoublePrecisionAndLeavesPadding(int rows, int columns, int padding) {
    Random random = new Random(13L * rows + columns);
    int width = columns + padding;
    float[] x = gaussian(random, rows * width);
    float[] y = gaussian(random, rows * width);
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Tensor tx = Tensor.of(scope, x, rows, width).columns(0, columns);
        for (float[] ab : new float[][] {{1, 1}, {-0.3f, 2}, {0, 1}}) {
          Tensor all = Tensor.of(scope, y, rows, width);
          Axpby.apply(context, ab[0], tx, ab[1], all.columns(0, columns));
          float[] out = all.toFloats();
          for (int i = 0; i < out.length; i++) {
            if (i % width >= columns) {
              assertThat(out[i]).isEqualTo(y[i]);
              continue;
            }
            double want = AxpbyReference.apply(ab[0], x[i], ab[1], y[i]);
            double size = Math.abs(ab[0] * x[i]) + Math.abs(ab[1] * y[i]);
            if (!(Math.abs(out[i] - want) <= 2e-7 * size)) {
              assertThat((double) out[i]).isCloseTo(want, within(2e-7 * size));
            }
          }
        }
      }
    }
  }

  @Test
  void doesNotReadYWhereItCountsNothing() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      float[] x = gaussian(new Random(1), 20);
      float[] nan = new float[20];
      Arrays.fill(nan, Float.NaN);
      Tensor y = Tensor.of(scope, nan, 4, 5);
      Axpby.apply(context, 2, Tensor.of(scope, x, 4, 5), 0, y);
      for (int i = 0; i < 20; i++) {
        assertThat(y.toFloats()[i]).isEqualTo(2 * x[i]);
      }
    }
  }

  @Test
  void takesDenseTensorsOfAnyShape() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      float[] x = gaussian(new Random(2), 24);
      for (long[] shape : new long[][] {{24}, {2, 3, 4}}) {
        Tensor y = Tensor.zeros(scope, DType.F32, shape);
        Axpby.apply(context, 1, Tensor.of(scope, x, shape), 1, y);
        assertThat(y.toFloats()).isEqualTo(x);
      }
    }
  }

  @Test
  void nanStaysInItsElementAndBitsDoNotDependOnTheThreadCount() {
    float[] x = gaussian(new Random(3), 100_000);
    x[777] = Float.NaN;
    float[] first = null;
    for (int threads : new int[] {1, 2, 3, 7}) {
      try (Context context = Context.builder().threads(threads).build();
          Scope scope = context.scope()) {
        Tensor y = Tensor.of(scope, gaussian(new Random(4), 100_000));
        Axpby.apply(context, 0.7f, Tensor.of(scope, x), 1.1f, y);
        float[] out = y.toFloats();
        if (first == null) {
          first = out;
        }
        assertThat(Arrays.equals(out, first)).as("%d threads", threads).isTrue();
        for (int i = 0; i < out.length; i++) {
          if (Float.isNaN(out[i])) {
            assertThat(i).isEqualTo(777);
          }
        }
      }
    }
  }

  @Test
  void rejectsWhatDoesNotFit() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor x = Tensor.zeros(scope, DType.F32, 4, 6);
      assertThatThrownBy(() -> Axpby.apply(context, 1, x, 1, Tensor.zeros(scope, DType.F32, 4, 5)))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessage("axpby: y: expected f32[4, 6], got f32[4, 5]");
      assertThatThrownBy(() -> Axpby.apply(context, 1, x, 1, Tensor.zeros(scope, DType.F16, 4, 6)))
          .hasMessage("axpby: y: expected f32[4, 6], got f16[4, 6]");
      assertThatThrownBy(() -> Axpby.apply(context, 1, null, 1, x))
          .hasMessage("axpby: x: expected f32 of any shape, got null");
      assertThatThrownBy(() -> Axpby.apply(context, 1, x, 1, null))
          .hasMessage("axpby: y: expected f32[4, 6], got null");
      assertThatThrownBy(() -> Axpby.apply(context, 1, x.rows(0, 3), 1, x.rows(1, 4)))
          .hasMessage("axpby: y: expected memory that overlaps no input, got an overlap with x");
      assertThatThrownBy(
              () -> {
                Tensor gaps = x.columns(0, 4).reshape(4, 2, 2);
                Axpby.apply(context, 1, gaps, 1, Tensor.zeros(scope, DType.F32, 4, 2, 2));
              })
          .hasMessage(
              "axpby: x: expected a dense tensor, got f32[4, 2, 2] with gaps between its rows");
    }
  }
}
