package dev.saccade.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;

import dev.saccade.benchmarks.NvidiaSmi.Sample;
import java.util.List;
import org.junit.jupiter.api.Test;

class NvidiaSmiTest {
  @Test
  void linesAreSamples() {
    assertThat(Sample.parse("1980, 700.00, 0x0000000000000004"))
        .isEqualTo(new Sample(1980, 700, 4));
    assertThat(Sample.parse("1755, [N/A], 0x0000000000000000"))
        .isEqualTo(new Sample(1755, Double.NaN, 0));
    assertThat(Sample.parse("Unable to determine the device handle")).isEqualTo(Sample.UNKNOWN);
    assertThat(Sample.parse("a,b,c")).isEqualTo(Sample.UNKNOWN);
  }

  @Test
  void severalGiveTheMedianClockAndEveryReason() {
    List<Sample> samples =
        List.of(
            new Sample(1980, 700, 0),
            new Sample(1410, 700, 4),
            Sample.UNKNOWN,
            new Sample(1755, 700, 0x20));
    assertThat(Sample.of(samples)).isEqualTo(new Sample(1755, 700, 0x24));
    assertThat(Sample.of(List.of())).isEqualTo(Sample.UNKNOWN);
  }

  @Test
  void reasonsHaveNames() {
    assertThat(NvidiaSmi.reasons(0x24)).isEqualTo("power cap and temperature");
    assertThat(NvidiaSmi.reasons(1)).isEqualTo("none"); // idle
    assertThat(NvidiaSmi.reasons(Double.NaN)).isEmpty();
  }
}
