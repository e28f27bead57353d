package dev.saccade.train.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.util.Arrays;
import java.util.stream.LongStream;
import org.junit.jupiter.api.Test;

class CounterRandomTest {

  @Test
  void streamIsAFunctionOfSeedAndIndex() {
    assertThat(new CounterRandom(1, 2).nextLong()).isEqualTo(new CounterRandom(1, 2).nextLong());
    assertThat(LongStream.range(-500, 500).map(i -> new CounterRandom(7, i).nextLong()).distinct())
        .hasSize(1000);
    assertThat(LongStream.range(-500, 500).map(s -> new CounterRandom(s, 7).nextLong()).distinct())
        .hasSize(1000);
  }

  @Test
  void valuesStayAsTheyAre() {
    CounterRandom random = new CounterRandom(0, 0);

    assertThat(random.nextLong()).isEqualTo(6235967106033911276L);
    assertThat(random.nextInt(1000)).isEqualTo(269);
  }

  @Test
  void neighbouringIndicesAreUncorrelated() {
    int n = 20_000;
    double mean = 0;
    double product = 0;
    int[] histogram = new int[10];
    for (int i = 0; i < n; i++) {
      double here = new CounterRandom(3, i).nextDouble();
      double next = new CounterRandom(3, i + 1).nextDouble();
      mean += here / n;
      product += (here - 0.5) * (next - 0.5) / n;
      histogram[new CounterRandom(3, i).nextInt(10)]++;
    }

    assertThat(mean).isCloseTo(0.5, within(0.01));
    assertThat(product).isCloseTo(0, within(0.003));
    assertThat(Arrays.stream(histogram)).allSatisfy(c -> assertThat(c).isBetween(1800, 2200));
  }

  @Test
  void boundMustBePositive() {
    assertThatThrownBy(() -> new CounterRandom(0, 0).nextInt(0))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("bound must be positive, got 0");
  }
}
