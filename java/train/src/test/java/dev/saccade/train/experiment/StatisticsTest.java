package dev.saccade.train.experiment;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class StatisticsTest {
  /** 97.5 % quantiles of Student's t as tables print them. */
  @ParameterizedTest
  @CsvSource({"2, 12.706", "3, 4.303", "5, 2.776", "11, 2.228", "31, 2.042"})
  void theHalfWidthIsAQuantileTimesTheStandardError(int n, double quantile) {
    double[] values = new double[n];
    double squares = 0;
    for (int i = 0; i < n; i++) {
      values[i] = 7 + i;
      squares += Math.pow(i - (n - 1) / 2.0, 2);
    }
    double error = Math.sqrt(squares / (n - 1)) / Math.sqrt(n);

    Statistics statistics = Statistics.of(values);

    assertThat(statistics.mean()).isEqualTo(7 + (n - 1) / 2.0);
    assertThat(statistics.halfWidth() / error).isCloseTo(quantile, within(5e-4));
    assertThat(statistics.low() + statistics.high()).isCloseTo(2 * statistics.mean(), within(1e-9));
  }

  @Test
  void fewValuesHaveNoInterval() {
    assertThat(Statistics.of().text(false)).isEqualTo("–");
    assertThat(Statistics.of(0.5).text(false)).isEqualTo("0.500");
    assertThat(Statistics.of(0.5).isSignificant()).isFalse();
    assertThat(Statistics.of(-0.5, -0.5).text(true)).isEqualTo("−0.500 ± 0.000");
    assertThat(Statistics.of(-0.5, -0.5).isSignificant()).isTrue();
    assertThat(Statistics.of(0.1, -0.1).isSignificant()).isFalse();
  }
}
