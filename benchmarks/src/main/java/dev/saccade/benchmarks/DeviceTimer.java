package dev.saccade.benchmarks;

import dev.saccade.Context;
import dev.saccade.Device;
import dev.saccade.Graph;
import java.util.Arrays;
import java.util.List;

/**
 * Times work that a context does on its stream: launches back to back that end in one
 * synchronisation, as many as take {@link #LEAST} at least, and the median of several such
 * repetitions.
 */
final class DeviceTimer {
  /** Seconds of a repetition, beside which those of a synchronisation count for nothing. */
  private static final double LEAST = 0.01;

  /** On a GPU, what is shorter is launched from a graph: launches from Java would be the longer. */
  private static final double SHORT = 100e-6;

  private static final int REPETITIONS = 15;

  private final Context context;

  DeviceTimer(Context context) {
    this.context = context;
  }

  /**
   * @param works the same work on different memory, in turn: together more than a cache holds
   * @return seconds of one
   */
  double seconds(List<Runnable> works) {
    int launches = 4 * works.size();
    repetition(works, launches);
    double first = repetition(works, launches) / launches;
    launches = (int) Math.max(1, Math.ceil(LEAST / first));
    boolean gpu = context.device().kind() == Device.Kind.CUDA;
    while (gpu && first < SHORT) {
      int recorded = launches;
      try (Graph graph = Graph.capture(context, () -> launch(works, recorded))) {
        List<Runnable> replay = List.of(graph::launch);
        repetition(replay, 1);
        double time = repetition(replay, 1);
        if (time >= LEAST) {
          return median(replay, 1) / recorded;
        }
        launches = (int) Math.ceil(1.1 * recorded * LEAST / time);
      }
    }
    return median(works, launches) / launches;
  }

  private double median(List<Runnable> works, int launches) {
    double[] times = new double[REPETITIONS];
    for (int i = 0; i < times.length; i++) {
      times[i] = repetition(works, launches);
    }
    Arrays.sort(times);
    return times[times.length / 2];
  }

  private double repetition(List<Runnable> works, int launches) {
    context.synchronize();
    long start = System.nanoTime();
    launch(works, launches);
    context.synchronize();
    return (System.nanoTime() - start) / 1e9;
  }

  private static void launch(List<Runnable> works, int launches) {
    for (int i = 0; i < launches; i++) {
      works.get(i % works.size()).run();
    }
  }
}
