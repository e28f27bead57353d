package dev.saccade.cli;

import java.io.PrintStream;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.function.LongSupplier;
import me.tongfei.progressbar.ConsoleProgressBarConsumer;
import me.tongfei.progressbar.ProgressBar;
import me.tongfei.progressbar.ProgressBarBuilder;
import me.tongfei.progressbar.ProgressBarStyle;

/**
 * Shows how a run goes: a bar that redraws itself on a terminal; elsewhere a plain line every few
 * seconds, and one at the end.
 *
 * <p>Made for the standard error, so that the standard output holds results only. A reader that
 * goes away is no error. The launcher says by the property {@code saccade.terminal} how many
 * columns the terminal has; without it there is none.
 */
public final class Progress implements AutoCloseable {
  private static final Duration LINE_INTERVAL = Duration.ofSeconds(5);
  private static final int LEAST_BAR = 10;

  /**
   * What is known after a step. NaN: not known, and not shown.
   *
   * @param step steps done
   * @param reward mean reward of the rollouts
   * @param accuracy fraction of right answers
   * @param kl mean KL to the reference policy, in nats
   * @param attentionDivergence mean divergence of the attention policy from the old one
   * @param tokensPerSecond rows trained on, prompts included, per second of the whole step
   */
  public record Sample(
      long step,
      double reward,
      double accuracy,
      double kl,
      double attentionDivergence,
      double tokensPerSecond) {

    /** Only the number of the step. */
    public static Sample of(long step) {
      return new Sample(step, Double.NaN, Double.NaN, Double.NaN, Double.NaN, Double.NaN);
    }
  }

  private final String title;
  private final long first;
  private final long steps;
  private final PrintStream stream;
  private final int columns;
  private final ProgressBar bar;
  private final LongSupplier clock;
  private final long start;
  private long lastLine;
  private Sample last;
  private boolean shown = true;

  private Progress(
      String title, long first, long steps, PrintStream stream, int columns, LongSupplier clock) {
    this.title = title;
    this.first = first;
    this.steps = steps;
    this.stream = stream;
    this.columns = columns;
    this.clock = clock;
    this.start = clock.getAsLong();
    this.lastLine = start;
    this.bar = columns > 0 ? bar(title, first, steps, stream, columns) : null;
  }

  /**
   * Starts to show a run on the standard error.
   *
   * @param title one word
   * @param first steps that were done before; above 0 on resume
   * @param steps steps when all is done
   */
  public static Progress start(String title, long first, long steps) {
    int columns = Integer.getInteger("saccade.terminal", 0);
    return new Progress(title, first, steps, System.err, columns, System::nanoTime);
  }

  /** For tests: another stream, a width (0: no terminal) and a clock of nanoseconds. */
  static Progress start(
      String title, long first, long steps, PrintStream stream, int columns, LongSupplier clock) {
    return new Progress(title, first, steps, stream, columns, clock);
  }

  private static ProgressBar bar(
      String title, long first, long steps, PrintStream stream, int columns) {
    return new ProgressBarBuilder()
        .setTaskName(title)
        .setInitialMax(steps)
        .startsFrom(first, Duration.ZERO)
        .setStyle(ProgressBarStyle.ASCII)
        .setUpdateIntervalMillis(200)
        .setConsumer(new ConsoleProgressBarConsumer(stream, columns - 1))
        .build();
  }

  /** Shows the state after a step; cheap enough for every step. */
  public void show(Sample sample) {
    last = sample;
    if (bar != null) {
      bar.stepTo(sample.step());
      bar.setExtraMessage(" " + fitting(sample));
      return;
    }
    shown = false;
    if (clock.getAsLong() - lastLine >= LINE_INTERVAL.toNanos()) {
      printLine();
    }
  }

  /** Ends the bar, or prints the last line. */
  @Override
  public void close() {
    if (bar != null) {
      bar.close();
    } else if (!shown) {
      printLine();
    }
  }

  private void printLine() {
    long now = clock.getAsLong();
    double elapsed = (now - start) / 1e9;
    long done = last.step() - first;
    String left =
        done > 0 && last.step() < steps
            ? ", " + duration(elapsed / done * (steps - last.step())) + " left"
            : "";
    List<String> parts = new ArrayList<>();
    parts.add(title + " " + last.step() + "/" + steps);
    parts.addAll(fields(last));
    parts.add(duration(elapsed) + left);
    stream.println(String.join("  ", parts));
    stream.flush();
    lastLine = now;
    shown = true;
  }

  /** As many fields as leave room for a bar beside them. */
  private String fitting(Sample sample) {
    // title 100% [bar] step/steps (0:00:00 / 0:00:00)
    int digits = Long.toString(steps).length();
    int room = columns - title.length() - 2 * digits - LEAST_BAR - 34;
    StringBuilder line = new StringBuilder();
    for (String field : fields(sample)) {
      if (line.length() + field.length() + 2 > room) {
        break;
      }
      line.append(line.length() == 0 ? "" : "  ").append(field);
    }
    return line.toString();
  }

  private static List<String> fields(Sample sample) {
    List<String> fields = new ArrayList<>();
    add(fields, "reward %.3f", sample.reward());
    add(fields, "accuracy %.3f", sample.accuracy());
    add(fields, "KL %.4f", sample.kl());
    add(fields, "attention %.1e", sample.attentionDivergence());
    add(fields, "%.0f tokens/s", sample.tokensPerSecond());
    return fields;
  }

  private static void add(List<String> fields, String format, double value) {
    if (!Double.isNaN(value)) {
      fields.add(String.format(Locale.ROOT, format, value));
    }
  }

  private static String duration(double seconds) {
    long s = Math.round(seconds);
    return s < 3600
        ? "%d:%02d".formatted(s / 60, s % 60)
        : "%d:%02d:%02d".formatted(s / 3600, s / 60 % 60, s % 60);
  }
}
