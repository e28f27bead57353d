package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.reference.ScatterAddRowsReference;
import java.util.Arrays;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class ScatterAddRowsTest {
  private static float[] gaussian(Random random, int n) {
    float[] x = new float[n];
    for (int i = 0; i < n; i++) {
      x[i] = (float) random.nextGaussian();
    }
    return x;
  }

  private static double[][] matrix(float[] values, int rows, int width, int columns) {
    double[][] matrix = new double[rows][columns];
    for (int r = 0; r < rows; r++) {
      for (int j = 0; j < columns; j++) {
        matrix[r][j] = values[r * width + j];
      }
    }
    return matrix;
  }

  /** Repeated rows, a hot one, and four that are not there. */
  private static int[] index(Random random, int count, int rows) {
    int[] index = rows == 0 ? new int[count] : random.ints(count, 0, rows).toArray();
    for (int i = 0; i < count; i += 3) {
      index[i] = 0;
    }
    int[] bad = {-1, rows, Integer.MIN_VALUE, Integer.MAX_VALUE};
    for (int i = 0; i < bad.length && i + 1 < count; i++) {
      index[i + 1] = bad[i];
    }
    return index;
  }

  /**
   * Nothing, no column, no row, one element, around the widest vector, one task of columns and
   * several.
   */
  @ParameterizedTest
  @CsvSource({
    "0, 4, 3",
    "6, 0, 3",
    "6, 4, 0",
    "1, 1, 1",
    "9, 15, 4",
    "9, 16, 4",
    "9, 17, 4",
    "9, 33, 4",
    "3000, 96, 50",
    "200, 1030, 7",
    "5000, 33, 40001"
  })
  void agreesWithDoublePrecisionAndLeavesPadding(int count, int columns, int yRows) {
    Random random = new Random(11L * count + columns);
    int wide = columns + 2;
    float[] x = gaussian(random, count * wide);
    float[] y = gaussian(random, yRows * wide);
    int[] index = index(random, count, yRows);
    double[][] want = matrix(y, yRows, wide, columns);
    ScatterAddRowsReference.add(matrix(x, count, wide, columns), index, want);
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Tensor all = Tensor.of(scope, y, yRows, wide);
        ScatterAddRows.add(
            context,
            Tensor.of(scope, x, count, wide).columns(0, columns),
            Tensor.of(scope, index),
            all.columns(0, columns));
        float[] out = all.toFloats();
        for (int i = 0; i < out.length; i++) {
          int j = i % wide;
          double expected = j < columns ? want[i / wide][j] : y[i];
          double tolerance = j < columns ? 2e-7 * (5 + count) : 0;
          if (!(Math.abs(out[i] - expected) <= tolerance)) {
            assertThat((double) out[i]).isCloseTo(expected, within(tolerance));
          }
        }
      }
    }
  }

  @Test
  void addsRowsOfEqualIndexInTheirOrder() {
    float large = 1 << 24; // 1 is lost beside it, and 2 is not
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor y = Tensor.zeros(scope, DType.F32, 2, 1);
      ScatterAddRows.add(
          context,
          Tensor.of(scope, new float[] {1, large, 1, 1, large, 1}, 6, 1),
          Tensor.of(scope, new int[] {0, 1, 0, 1, 0, 1}),
          y);
      assertThat(y.toFloats()).containsExactly(large + 2, large);
      // y comes first.
      Tensor z = Tensor.of(scope, new float[] {large, 1}, 2, 1);
      ScatterAddRows.add(
          context,
          Tensor.of(scope, new float[] {1, large, 1, 1}, 4, 1),
          Tensor.of(scope, new int[] {0, 1, 0, 0}),
          z);
      assertThat(z.toFloats()).containsExactly(large, large);
    }
  }

  @Test
  void isTheAdjointOfGatherRows() {
    Random random = new Random(3);
    int[] index = random.ints(40, -1, 10).toArray();
    float[] x = gaussian(random, 10 * 19);
    float[] d = gaussian(random, 40 * 19);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor ti = Tensor.of(scope, index);
      float[] y = GatherRows.gather(scope, Tensor.of(scope, x, 10, 19), ti).toFloats();
      Tensor dx = Tensor.zeros(scope, DType.F32, 10, 19);
      ScatterAddRows.add(context, Tensor.of(scope, d, 40, 19), ti, dx);
      double left = 0;
      double right = 0;
      for (int i = 0; i < y.length; i++) {
        left += (double) y[i] * d[i];
      }
      for (int i = 0; i < x.length; i++) {
        right += (double) x[i] * dx.toFloats()[i];
      }
      assertThat(left).isCloseTo(right, within(1e-4));
    }
  }

  @Test
  void nanStaysInItsRowAndBitsDoNotDependOnTheThreadCount() {
    Random random = new Random(6);
    float[] x = gaussian(random, 2000 * 130);
    int[] index = random.ints(2000, 0, 20).toArray();
    x[130 * 1234 + 7] = Float.NaN;
    float[] first = null;
    for (int threads : new int[] {1, 2, 3, 7}) {
      try (Context context = Context.builder().threads(threads).build();
          Scope scope = context.scope()) {
        Tensor y = Tensor.zeros(scope, DType.F32, 20, 130);
        ScatterAddRows.add(context, Tensor.of(scope, x, 2000, 130), Tensor.of(scope, index), y);
        float[] out = y.toFloats();
        if (first == null) {
          first = out;
        }
        assertThat(Arrays.equals(out, first)).as("%d threads", threads).isTrue();
        for (int i = 0; i < out.length; i++) {
          assertThat(Float.isNaN(out[i])).isEqualTo(i == index[1234] * 130 + 7);
        }
      }
    }
  }

  @Test
  void rejectsWhatDoesNotFit() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor x = Tensor.zeros(scope, DType.F32, 4, 6);
      Tensor y = Tensor.zeros(scope, DType.F32, 3, 6);
      Tensor index = Tensor.zeros(scope, DType.I32, 4);
      assertThatThrownBy(() -> ScatterAddRows.add(context, x, Tensor.zeros(scope, DType.I32, 3), y))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessage("scatter_add_rows: index: expected i32[4], got i32[3]");
      assertThatThrownBy(() -> ScatterAddRows.add(context, x, null, y))
          .hasMessage("scatter_add_rows: index: expected i32[4], got null");
      assertThatThrownBy(
              () -> ScatterAddRows.add(context, x, index, Tensor.zeros(scope, DType.F32, 3, 5)))
          .hasMessage("scatter_add_rows: y: expected f32[*, 6], got f32[3, 5]");
      assertThatThrownBy(
              () -> ScatterAddRows.add(context, Tensor.zeros(scope, DType.BF16, 4, 6), index, y))
          .hasMessage("scatter_add_rows: x: expected f32[*, *], got bf16[4, 6]");
      assertThatThrownBy(() -> ScatterAddRows.add(context, x, index, x.rows(0, 2)))
          .hasMessage(
              "scatter_add_rows: y: expected memory that overlaps no input, got an overlap with x");
    }
  }
}
