package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.saccade.reference.GatherRowsReference;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class GatherRowsTest {
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

  /** Different rows of y in random order, one of them skipped, two bad. */
  private static int[] outIndex(Random random, int count, int rows) {
    int[] all = new int[rows];
    for (int i = 0; i < rows; i++) {
      int j = random.nextInt(i + 1);
      all[i] = all[j];
      all[j] = i;
    }
    int[] index = java.util.Arrays.copyOf(all, count);
    int[] special = {-1, rows, Integer.MIN_VALUE};
    for (int i = 0; i < special.length && i + 5 < count; i++) {
      index[i] = special[i];
    }
    return index;
  }

  /** Rows of x with repetitions; one skipped, three bad. */
  private static int[] index(Random random, int count, int rows) {
    int[] index = rows == 0 ? new int[count] : random.ints(count, 0, rows).toArray();
    int[] special = {-1, rows, -2, Integer.MAX_VALUE};
    for (int i = 0; i < special.length && i < count; i++) {
      index[count - 1 - i] = special[i];
    }
    return index;
  }

  /**
   * Nothing, no column, nothing to read from, one element, around the widest vector, several tasks.
   * Bits: the operation copies, or adds two numbers, so its result is the rounded one of the
   * reference.
   */
  @ParameterizedTest
  @CsvSource({
    "0, 4, 3, 3",
    "3, 0, 3, 3",
    "4, 5, 0, 4",
    "1, 1, 1, 1",
    "9, 15, 4, 11",
    "9, 16, 4, 11",
    "9, 17, 4, 11",
    "9, 33, 4, 11",
    "5000, 96, 60, 5500",
    "30, 5000, 7, 30"
  })
  void agreesWithTheDefinition(int count, int columns, int xRows, int yRows) {
    Random random = new Random(7L * count + columns);
    int wide = columns + 3;
    float[] x = gaussian(random, xRows * wide);
    float[] y = gaussian(random, yRows * wide);
    int[] index = index(random, count, xRows);
    int[] outIndex = outIndex(random, count, yRows);
    for (boolean accumulate : new boolean[] {false, true}) {
      double[][] want = matrix(y, yRows, wide, columns);
      GatherRowsReference.gather(
          matrix(x, xRows, wide, columns), index, outIndex, accumulate, want, count);
      for (Context context : Contexts.every()) {
        try (context;
            Scope scope = context.scope()) {
          Tensor all = Tensor.of(scope, y, yRows, wide);
          GatherRows.gather(
              context,
              Tensor.of(scope, x, xRows, wide).columns(0, columns),
              Tensor.of(scope, index),
              Tensor.of(scope, outIndex),
              accumulate,
              all.columns(0, columns));
          float[] out = all.toFloats();
          for (int i = 0; i < out.length; i++) {
            int r = i / wide;
            int j = i % wide;
            float expected = j < columns ? (float) want[r][j] : y[i];
            if (Float.compare(out[i], expected) != 0) {
              assertThat(out[i]).as("row %d, column %d", r, j).isEqualTo(expected);
            }
          }
        }
      }
    }
  }

  @Test
  void anAbsentIndexCountsFromZero() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor x = Tensor.of(scope, new float[] {1, 2, 3, 4, 5, 6}, 3, 2);
      assertThat(GatherRows.gather(scope, x, Tensor.of(scope, new int[] {2, -1, 0, 3})).toFloats())
          .containsExactly(5, 6, 0, 0, 1, 2, Float.NaN, Float.NaN);
      Tensor y = Tensor.zeros(scope, DType.F32, 4, 2);
      GatherRows.gather(context, x, null, Tensor.of(scope, new int[] {3, 1}), false, y);
      assertThat(y.toFloats()).containsExactly(0, 0, 3, 4, 0, 0, 1, 2);
      GatherRows.gather(context, x, null, null, true, y);
      assertThat(y.toFloats()).containsExactly(1, 2, 6, 8, 5, 6, 1, 2);
    }
  }

  @Test
  void bitsDoNotDependOnTheThreadCount() {
    Random random = new Random(5);
    float[] x = gaussian(random, 50 * 90);
    int[] index = index(random, 4000, 50);
    float[] first = null;
    for (int threads : new int[] {1, 2, 3, 7}) {
      try (Context context = Context.builder().threads(threads).build();
          Scope scope = context.scope()) {
        float[] y =
            GatherRows.gather(scope, Tensor.of(scope, x, 50, 90), Tensor.of(scope, index))
                .toFloats();
        if (first == null) {
          first = y;
        }
        assertThat(java.util.Arrays.equals(y, first)).as("%d threads", threads).isTrue();
      }
    }
  }

  @Test
  void rejectsWhatDoesNotFit() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor x = Tensor.zeros(scope, DType.F32, 4, 6);
      Tensor y = Tensor.zeros(scope, DType.F32, 3, 6);
      Tensor two = Tensor.zeros(scope, DType.I32, 2);
      assertThatThrownBy(() -> GatherRows.gather(context, x, null, null, false, y))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessage("gather_rows: count: expected 0 to 3, got 4");
      assertThatThrownBy(
              () ->
                  GatherRows.gather(context, y, null, Tensor.zeros(scope, DType.I32, 5), false, x))
          .hasMessage("gather_rows: count: expected 0 to 3, got 5");
      assertThatThrownBy(
              () -> GatherRows.gather(context, x, two, Tensor.zeros(scope, DType.I32, 3), false, y))
          .hasMessage("gather_rows: out_index: expected i32[2], got i32[3]");
      assertThatThrownBy(
              () ->
                  GatherRows.gather(context, x, Tensor.zeros(scope, DType.I64, 2), null, false, y))
          .hasMessage("gather_rows: index: expected i32[*], got i64[2]");
      assertThatThrownBy(
              () ->
                  GatherRows.gather(
                      context, x, two, null, false, Tensor.zeros(scope, DType.F32, 3, 5)))
          .hasMessage("gather_rows: y: expected f32[*, 6], got f32[3, 5]");
      assertThatThrownBy(() -> GatherRows.gather(context, null, two, null, false, y))
          .hasMessage("gather_rows: x: expected f32[*, *], got null");
      assertThatThrownBy(() -> GatherRows.gather(context, x, two, null, false, x.rows(2, 4)))
          .hasMessage(
              "gather_rows: y: expected memory that overlaps no input, got an overlap with x");
    }
  }
}
