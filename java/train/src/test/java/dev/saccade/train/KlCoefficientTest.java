package dev.saccade.train;

import static dev.saccade.train.KlCoefficient.Schedule.ADAPTIVE;
import static dev.saccade.train.KlCoefficient.Schedule.CONSTANT;
import static dev.saccade.train.KlCoefficient.Schedule.GRPO_D;
import static dev.saccade.train.KlCoefficient.Schedule.RISING;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.train.KlCoefficient.Schedule;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class KlCoefficientTest {
  private static KlCoefficient kl(Schedule schedule) {
    return new KlCoefficient(schedule, 0.02, 0.01, 0.05, 0.01, 100);
  }

  /** From 0.03 by 0.02 down over 0.3 t, then by 0.04 up over 0.7 t; worked out by hand. */
  @ParameterizedTest
  @CsvSource({
    "1, 0, 0.03",
    "1, 1, 0.05",
    "2, 0, 0.03",
    "2, 1, 0.021428571428571429", // 0.01 + 0.04 * 0.4 / 1.4
    "2, 2, 0.05",
    "3, 0, 0.03",
    "3, 1, 0.011904761904761905", // 0.01 + 0.04 * 0.1 / 2.1
    "3, 2, 0.030952380952380953", // 0.01 + 0.04 * 1.1 / 2.1
    "3, 3, 0.05",
    "10, 0, 0.03",
    "10, 1, 0.023333333333333333", // 0.03 - 0.02 / 3
    "10, 3, 0.01",
    "10, 5, 0.021428571428571429", // 0.01 + 0.04 * 2 / 7
    "10, 10, 0.05",
    "4000000000, 1200000000, 0.01",
    "4000000000, 2600000000, 0.03",
  })
  void grpoDFallsThenRises(long steps, long step, double expected) {
    assertThat(kl(GRPO_D).at(step, steps)).isCloseTo(expected, within(1e-16));
  }

  @ParameterizedTest
  @ValueSource(longs = {1, 2, 3, 7, 10, 1000})
  void rampsAreMonotonicBetweenTheirEnds(long steps) {
    for (long step = 1; step <= steps; step++) {
      double change = kl(GRPO_D).at(step, steps) - kl(GRPO_D).at(step - 1, steps);
      if (10 * step <= 3 * steps) {
        assertThat(change).isNegative();
      } else if (10 * (step - 1) >= 3 * steps) {
        assertThat(change).isPositive();
      }
      assertThat(kl(GRPO_D).at(step, steps)).isBetween(0.01 - 1e-17, 0.05 + 1e-17);
      assertThat(kl(RISING).at(step, steps) - kl(RISING).at(step - 1, steps))
          .isCloseTo(0.04 / steps, within(1e-16));
    }
    assertThat(kl(RISING).at(0, steps)).isEqualTo(0.01);
    assertThat(kl(RISING).at(steps, steps)).isCloseTo(0.05, within(1e-16));
  }

  /** The target is 0.01, the horizon 100 responses; 10 responses a step. */
  @ParameterizedTest
  @CsvSource({
    "0.011,    0.0202", // 0.02 * (1 + 0.1 * 0.1)
    "0.0095,   0.0199", // 0.02 * (1 - 0.05 * 0.1)
    "0.01,     0.02",
    "0.012,    0.0204",
    "1,        0.0204",
    "Infinity, 0.0204",
    "0.008,    0.0196",
    "0,        0.0196",
    "-1,       0.0196",
    "NaN,      0.02",
  })
  void adaptiveFollowsTheKl(double measured, double expected) {
    assertThat(kl(ADAPTIVE).after(measured, 10).at(5, 7)).isCloseTo(expected, within(1e-17));
  }

  @Test
  void adaptiveGoesOnFromWhereItIs() {
    KlCoefficient kl = kl(ADAPTIVE).after(1, 100).after(1, 50).after(0, 100);

    assertThat(kl.at(0, 1)).isCloseTo(0.02 * 1.2 * 1.1 * 0.8, within(1e-17));
  }

  @Test
  void onlyAdaptiveLooksAtTheKl() {
    for (Schedule schedule : new Schedule[] {CONSTANT, GRPO_D, RISING}) {
      assertThat(kl(schedule).after(1, 10)).isEqualTo(kl(schedule));
    }
    assertThat(kl(CONSTANT).at(3, 7)).isEqualTo(0.02);
    assertThat(kl(ADAPTIVE).at(3, 7)).isEqualTo(0.02);
  }
}
