package dev.saccade.train.task;

import java.util.List;
import java.util.stream.LongStream;

/**
 * An endless data set: the example of an index is a pure function of these settings and the index,
 * so that the cursor of a training run is one {@code long}. Immutable and safe for use by many
 * threads.
 *
 * @param cells size of an image, and rows and columns of scenes of digits, 1 … {@link
 *     Vocabulary#MAX_CELLS}
 * @param emptyProbability the probability of an empty cell, in [0, 1)
 * @param split where images of digits come from
 * @param seed any value
 * @param tasks who asks
 */
public record Examples(
    int cells, double emptyProbability, Digits.Split split, long seed, TaskMixture tasks) {

  /** The usual probability of an empty cell. */
  public static final double DEFAULT_EMPTY_PROBABILITY = 0.25;

  private static final long HELD_OUT_SEED = 0x5acc_ade0_4e1d_0075L;

  /**
   * Checks ranges.
   *
   * @throws IllegalArgumentException if a number is out of range, or scenes of this size are too
   *     small for a task
   */
  public Examples {
    if (cells < 1 || cells > Vocabulary.MAX_CELLS) {
      throw new IllegalArgumentException(
          "cells must be 1 to %d, got %d".formatted(Vocabulary.MAX_CELLS, cells));
    }
    if (!(emptyProbability >= 0 && emptyProbability < 1)) {
      throw new IllegalArgumentException(
          "emptyProbability must be in [0, 1), got " + emptyProbability);
    }
    for (Task task : tasks.tasks()) {
      task.requireFits(cells);
    }
  }

  /** Training scenes with the usual share of empty cells. */
  public static Examples training(int cells, long seed, TaskMixture tasks) {
    return new Examples(cells, DEFAULT_EMPTY_PROBABILITY, Digits.Split.TRAIN, seed, tasks);
  }

  /** The example of an index; any value. */
  public Example get(long index) {
    Task.Setting setting = new Task.Setting(cells, emptyProbability, split);
    return tasks.at(index).example(setting, new CounterRandom(seed, index));
  }

  /** Consecutive examples, from index {@code begin} on. */
  public List<Example> get(long begin, int count) {
    return LongStream.range(begin, begin + count).parallel().mapToObj(this::get).toList();
  }

  /**
   * The first {@code count} held-out examples: of the same kind, but from the test images and a
   * seed of their own. The same for every training seed and split.
   */
  public List<Example> heldOut(int count) {
    return new Examples(cells, emptyProbability, Digits.Split.TEST, HELD_OUT_SEED, tasks)
        .get(0, count);
  }
}
