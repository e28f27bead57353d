package dev.saccade.train.report;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Test;

class TicksTest {
  private static List<String> texts(List<Double> ticks) {
    return ticks.stream().map(Ticks::text).toList();
  }

  @Test
  void linearAxes() {
    assertThat(texts(Ticks.linear(-0.13, 0.42)))
        .containsExactly("−0.1", "0", "0.1", "0.2", "0.3", "0.4");
    assertThat(texts(Ticks.linear(0, 1000)))
        .containsExactly("0", "200", "400", "600", "800", "1000");
    assertThat(Ticks.step(6e-7)).isEqualTo(1e-7);
  }

  @Test
  void logarithmicAxes() {
    assertThat(texts(Ticks.logarithmic(7.8, 137))).containsExactly("10", "20", "50", "100");
    assertThat(Ticks.logarithmic(1e-7, 2e-3)).hasSize(5);
    assertThat(texts(Ticks.logarithmic(0.0009, 2))).containsExactly("0.001", "0.01", "0.1", "1");
    assertThat(texts(Ticks.logarithmic(3.1, 4.2))).contains("3.2", "4");
  }
}
