package dev.saccade.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

class SmokeTest {
  @Test
  void everyBenchmarkRuns() throws Exception {
    assertThat(Smoke.run(Engine.SACCADE)).isNotEmpty();
  }
}
