package dev.saccade.benchmarks.peers;

import static org.assertj.core.api.Assertions.assertThat;

import dev.saccade.benchmarks.Smoke;
import org.junit.jupiter.api.Test;

class Nd4jEngineTest {
  @Test
  void computesWhatSaccadeComputes() throws Exception {
    assertThat(Smoke.run("nd4j")).isNotEmpty();
  }
}
