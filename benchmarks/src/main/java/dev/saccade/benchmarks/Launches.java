package dev.saccade.benchmarks;

import dev.saccade.Context;
import dev.saccade.Device;
import dev.saccade.Graph;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/**
 * So many operations back to back, on data that takes turns, and a wait until they are done: what
 * one measurement of time encloses.
 */
abstract class Launches implements AutoCloseable {
  /** On a GPU, what is shorter is launched from a graph: calls from Java would be the longer. */
  private static final double SHORT = 100e-6;

  /** Of that engine. */
  static Launches of(Engine engine, List<Work> works, int count, boolean recorded) {
    if (engine instanceof SaccadeEngine saccade
        && saccade.context().device().kind() == Device.Kind.CUDA) {
      return new OnGpu(saccade.context(), works, count, recorded);
    }
    return new OnCpu(engine, works.get(0), count);
  }

  /** Runs them all; returns what the last one did. */
  abstract Object run();

  /** Bytes of workspace beyond inputs and outputs; NaN where that is not known. */
  double extraBytes() {
    return Double.NaN;
  }

  @Override
  public void close() {}

  private static final class OnCpu extends Launches {
    private final Work work;
    private final int count;
    private final double extraBytes;

    OnCpu(Engine engine, Work work, int count) {
      this.work = work;
      this.count = count;
      extraBytes =
          engine instanceof SaccadeEngine saccade ? workspace(saccade.context(), work) : Double.NaN;
    }

    @Override
    Object run() {
      for (int i = 1; i < count; i++) {
        work.run();
      }
      return work.run();
    }

    @Override
    double extraBytes() {
      return extraBytes;
    }
  }

  private static final class OnGpu extends Launches {
    private final Context context;
    private final List<Work> works;
    private final int count;
    private final double extraBytes;
    private final CudaEvents events;
    private final Graph graph;
    private int next;

    OnGpu(Context context, List<Work> works, int count, boolean recorded) {
      this.context = context;
      this.works = new ArrayList<>(works);
      this.count = count;
      extraBytes = workspace(context, works.get(0));
      events = CudaEvents.open(context.stream());
      graph = recorded && isShort() ? Graph.capture(context, this::launch) : null;
    }

    private boolean isShort() {
      int few = Math.min(count, 4 * works.size());
      double seconds = Double.MAX_VALUE;
      for (int attempt = 0; attempt < 3; attempt++) {
        context.synchronize();
        long start = System.nanoTime();
        for (int i = 0; i < few; i++) {
          works.get(i % works.size()).run();
        }
        context.synchronize();
        seconds = Math.min(seconds, (System.nanoTime() - start) / 1e9 / few);
      }
      if (count == 1 && seconds < Ceilings.LEAST) {
        System.err.printf(
            Locale.ROOT,
            "an invocation is one launch of %.3g ms and the wait for it: -opi %.0f makes it as many"
                + " as take %.0f ms%n",
            1e3 * seconds,
            Math.ceil(Ceilings.LEAST / seconds),
            1e3 * Ceilings.LEAST);
      }
      return count > 1 && seconds < SHORT;
    }

    private void launch() {
      for (int i = 0; i < count; i++) {
        works.get(next++ % works.size()).run();
      }
      next %= works.size();
    }

    @Override
    Object run() {
      events.start();
      if (graph == null) {
        launch();
      } else {
        graph.launch();
      }
      events.stop();
      context.synchronize();
      Probe.launched(count, events.seconds());
      return works;
    }

    @Override
    double extraBytes() {
      return extraBytes;
    }

    @Override
    public void close() {
      if (graph != null) {
        graph.close();
      }
      events.close();
    }
  }

  /** What one run leaves in a context that had none. */
  private static double workspace(Context context, Work work) {
    context.trim();
    work.run();
    context.synchronize();
    return context.workspaceBytes();
  }
}
