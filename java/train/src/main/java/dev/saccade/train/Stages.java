package dev.saccade.train;

import dev.saccade.Context;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * Seconds of the stages of a step, by the clock of the host. On a GPU a stage that reads no result
 * ends when it has given its work, so that part of its time appears in the next one that reads; a
 * clock that waits says what the GPU took.
 */
final class Stages {
  /** How the names of times end in metrics. */
  static final String SECONDS = "_seconds";

  private final Context context;
  private final boolean waits;
  private final Map<String, Double> seconds = new LinkedHashMap<>();
  private long begin = System.nanoTime();

  Stages(Context context, boolean waits) {
    this.context = context;
    this.waits = waits;
  }

  /** What was done since the last stage ended, or since this was made, was stage {@code name}. */
  void end(String name) {
    if (waits) {
      context.synchronize();
    }
    long now = System.nanoTime();
    seconds.merge(name, (now - begin) * 1e-9, Double::sum);
    begin = now;
  }

  /** Adds {@code <stage>_seconds}. */
  void into(Map<String, Object> metrics) {
    seconds.forEach((name, value) -> metrics.put(name + SECONDS, value));
  }
}
