package dev.saccade.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.saccade.cli.Progress.Sample;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class ProgressTest {
  private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();
  private final PrintStream stream = new PrintStream(bytes, true, StandardCharsets.UTF_8);
  private long now;

  private Progress start(int columns, long first, long steps) {
    return Progress.start("ral", first, steps, stream, columns, () -> now);
  }

  private String text() {
    return bytes.toString(StandardCharsets.UTF_8);
  }

  private static Sample sample(long step) {
    return new Sample(step, 0.625, 0.5, 0.0123, 4.5e-4, 5120.4);
  }

  @Test
  void withoutATerminalALineEveryFewSecondsAndOneAtTheEnd() {
    try (Progress progress = start(0, 0, 10)) {
      for (int step = 1; step <= 8; step++) {
        now += 2_000_000_000L;
        progress.show(sample(step));
      }
    }

    String known = "reward 0.625  accuracy 0.500  KL 0.0123  attention 4.5e-04  5120 tokens/s";
    assertThat(text().lines())
        .containsExactly(
            "ral 3/10  " + known + "  0:06, 0:14 left",
            "ral 6/10  " + known + "  0:12, 0:08 left",
            "ral 8/10  " + known + "  0:16, 0:04 left");
  }

  @Test
  void theEndIsNotShownTwiceAndUnknownValuesAreNotShown() {
    try (Progress progress = start(0, 90, 100)) {
      now += 3_600_000_000_000L;
      progress.show(Sample.of(100));
    }

    assertThat(text().lines()).containsExactly("ral 100/100  1:00:00");
  }

  @Test
  void nothingShownNothingPrinted() {
    start(0, 0, 10).close();

    assertThat(text()).isEmpty();
  }

  @ParameterizedTest
  @ValueSource(ints = {20, 60, 80, 100, 140, 200})
  void onATerminalTheBarStaysWithinItsLine(int columns) {
    try (Progress progress = start(columns, 0, 10)) {
      progress.show(sample(5));
    }

    assertThat(text().split("[\r\n]+")).allMatch(line -> line.length() < columns);
    assertThat(text()).startsWith("\r").contains("ral");
    if (columns >= 140) {
      assertThat(text()).contains("5/10", "reward 0.625", "KL 0.0123", "5120 tokens/s");
    }
  }

  @ParameterizedTest
  @ValueSource(ints = {0, 100})
  void aReaderThatWentAwayIsNoError(int columns) {
    OutputStream closed =
        new OutputStream() {
          @Override
          public void write(int b) throws IOException {
            throw new IOException("Broken pipe");
          }
        };
    PrintStream pipe = new PrintStream(closed, true, StandardCharsets.UTF_8);
    try (Progress progress = Progress.start("ral", 0, 10, pipe, columns, () -> now)) {
      now += 10_000_000_000L;
      progress.show(sample(5));
    }

    assertThat(pipe.checkError()).isTrue();
  }
}
