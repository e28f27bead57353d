package dev.saccade.train.report;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.util.Arrays;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class CurveTest {

  @Test
  void smoothingKeepsAConstantFromItsFirstPoint() {
    double[] constant = new double[100];
    Arrays.fill(constant, 0.7);

    for (double value : new Curve(steps(100), constant).smooth().y()) {
      assertThat(value).isCloseTo(0.7, within(1e-12));
    }
  }

  @Test
  void smoothingIsTheExponentialMovingAverage() {
    double[] y = new double[60];
    y[0] = 1;
    Curve curve = new Curve(steps(60), y);

    // Span 3: weights halve with each step.
    assertThat(curve.window()).isEqualTo(3);
    assertThat(curve.smooth().y()[0]).isEqualTo(1);
    assertThat(curve.smooth().y()[1]).isCloseTo(0.5 / 1.5, within(1e-12));
    assertThat(curve.smooth().y()[2]).isCloseTo(0.25 / 1.75, within(1e-12));
  }

  @Test
  void shortCurvesAreNotSmoothed() {
    assertThat(new Curve(steps(3), new double[] {1, 5, 2}).smooth().y()).containsExactly(1, 5, 2);
    assertThat(new Curve(new double[0], new double[0]).smooth().size()).isZero();
  }

  @ParameterizedTest
  @ValueSource(ints = {0, 1, 399, 400, 401, 800, 12_345})
  void thinningKeepsTheLastPointAndTheSpacing(int size) {
    double[] thin = new Curve(steps(size), steps(size)).thin().x();

    assertThat(thin.length).isLessThanOrEqualTo(400).isGreaterThanOrEqualTo(Math.min(size, 200));
    if (size > 0) {
      assertThat(thin[thin.length - 1]).isEqualTo(size - 1);
    }
    assertThat(IntStream.range(1, thin.length).mapToDouble(i -> thin[i] - thin[i - 1]).distinct())
        .hasSizeLessThanOrEqualTo(1);
  }

  private static double[] steps(int size) {
    return IntStream.range(0, size).asDoubleStream().toArray();
  }
}
