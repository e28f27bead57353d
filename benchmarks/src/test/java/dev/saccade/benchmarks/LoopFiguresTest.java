package dev.saccade.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;

import dev.saccade.Device;
import dev.saccade.train.TrainConfig;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;

class LoopFiguresTest {
  @Test
  void aSmallLoopRunsOnTheCpu() throws IOException {
    StringWriter out = new StringWriter();

    LoopFigures.run(Device.CPU, 2, true, List.of(), new PrintWriter(out));

    assertThat(out.toString().lines().toList())
        .hasSize(3)
        .satisfies(
            lines -> {
              assertThat(lines.get(0)).startsWith("8 questions × 4 responses of 3 tokens, 2 up");
              assertThat(lines.get(2))
                  .matches(
                      "grpo +F32 +saccade +[0-9.]+ +question [0-9]+ %  sample [0-9]+ %"
                          + "  score [0-9]+ %  prepare [0-9]+ %  update [0-9]+ %");
            });
  }

  /** Every value that the program reads is in the request. */
  @Test
  void theRequestHasWhatTheProgramReads() throws IOException {
    var request = LoopFigures.request(TrainConfig.preset("full"), 5);
    try (InputStream in = PythonPeers.class.getResourceAsStream("peers/training_loop.py")) {
      String program = new String(in.readAllBytes(), StandardCharsets.UTF_8);
      List<String> read =
          Pattern.compile("\\bp\\[\"([a-z_]+)\"\\]")
              .matcher(program)
              .results()
              .map(match -> match.group(1))
              .distinct()
              .toList();
      assertThat(request).containsKeys(read.toArray(String[]::new)).hasSize(read.size());
    }
  }
}
