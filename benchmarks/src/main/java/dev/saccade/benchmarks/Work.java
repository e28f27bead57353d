package dev.saccade.benchmarks;

import java.util.List;

/** One operation of an {@link Engine}, ready to run on tensors that the engine holds. */
public interface Work {
  /** Runs once: what is measured. */
  Object run();

  /** Runs once and copies the results, row-major, in the order that {@link Engine} gives. */
  List<float[]> results();
}
