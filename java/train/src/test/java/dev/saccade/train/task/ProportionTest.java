package dev.saccade.train.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class ProportionTest {

  /**
   * 81/263, 15/148, 0/20 and 1/29 are the examples of Newcombe, Statistics in Medicine 17 (1998).
   */
  @ParameterizedTest
  @CsvSource({
    "81, 263, 0.2553, 0.3662",
    "15, 148, 0.0624, 0.1605",
    "0,  20,  0.0000, 0.1611",
    "1,  29,  0.0061, 0.1718",
    "20, 20,  0.8389, 1.0000",
    "5,  10,  0.2366, 0.7634",
  })
  void intervalsOfTheLiterature(long successes, long n, double low, double high) {
    Proportion proportion = new Proportion(successes, n);

    assertThat(proportion.rate()).isEqualTo((double) successes / n);
    assertThat(proportion.low()).isCloseTo(low, within(5e-5));
    assertThat(proportion.high()).isCloseTo(high, within(5e-5));
  }

  @Test
  void printsRateAndInterval() {
    assertThat(new Proportion(81, 263)).hasToString("0.308 [0.255, 0.366]");
  }

  @Test
  void withoutTrialsAnythingIsPossible() {
    Proportion none = new Proportion(0, 0);

    assertThat(none.rate()).isNaN();
    assertThat(none.low()).isZero();
    assertThat(none.high()).isOne();
  }

  @Test
  void countsMustFit() {
    assertThatThrownBy(() -> new Proportion(3, 2))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("expected 0 ≤ successes ≤ n, got successes 3, n 2");
    assertThatThrownBy(() -> new Proportion(-1, 2)).isInstanceOf(IllegalArgumentException.class);
  }
}
