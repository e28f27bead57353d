package dev.saccade.benchmarks;

import static org.assertj.core.api.Assertions.assertThatCode;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;

class ComparisonTest {
  private static void compare(float[] expected, float... actual) {
    Comparison.requireNear(List.of(expected), List.of(actual), 1e-3);
  }

  @Test
  void nearIsNear() {
    assertThatCode(() -> compare(new float[] {1, -1, 0}, 1.001f, -1, 1e-4f))
        .doesNotThrowAnyException();
  }

  @Test
  void oneOfManyMayBeFartherOff() {
    float[] expected = new float[1000];
    Arrays.fill(expected, 1);
    float[] actual = expected.clone();
    actual[7] = 1.015f;
    assertThatCode(() -> compare(expected, actual)).doesNotThrowAnyException();
    actual[7] = 1.02f;
    assertThatThrownBy(() -> compare(expected, actual)).hasMessageContaining("result 0[7]");
    Arrays.fill(actual, 1.002f);
    assertThatThrownBy(() -> compare(expected, actual)).hasMessageContaining("off by 0.00200");
  }

  @Test
  void otherValuesNaNAndSizesAreNot() {
    assertThatThrownBy(() -> compare(new float[] {1, -1, 0}, 1, -1.02f, 0))
        .hasMessageContaining("result 0[1]: expected -1.0, got -1.02");
    assertThatThrownBy(() -> compare(new float[] {1, 2}, 1, Float.NaN)).hasMessageContaining("NaN");
    assertThatThrownBy(() -> compare(new float[] {Float.NaN}, Float.NaN))
        .hasMessageContaining("NaN");
    assertThatThrownBy(() -> compare(new float[] {1, 2}, 1)).hasMessageContaining("2 elements");
    assertThatThrownBy(() -> Comparison.requireNear(List.of(new float[1]), List.of(), 1))
        .hasMessageContaining("1 results expected");
  }
}
