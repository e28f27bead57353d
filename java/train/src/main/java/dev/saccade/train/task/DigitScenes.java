package dev.saccade.train.task;

import java.util.List;
import java.util.stream.LongStream;

/**
 * An endless data set: the example of an index is a pure function of these settings and the index,
 * so that the cursor of a training run is one {@code long}. The scene of an index is the first of
 * its stream that holds as many different digits as the task at that index needs, and depends on
 * the mixture in nothing else. Immutable and safe for use by many threads.
 *
 * @param cells the number of rows, and of columns, 1 … {@link Vocabulary#MAX_CELLS}
 * @param emptyProbability the probability of an empty cell, in [0, 1)
 * @param split where the images come from
 * @param seed any value
 * @param tasks who asks
 */
public record DigitScenes(
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
  public DigitScenes {
    if (cells < 1 || cells > Vocabulary.MAX_CELLS) {
      throw new IllegalArgumentException(
          "cells must be 1 to %d, got %d".formatted(Vocabulary.MAX_CELLS, cells));
    }
    if (!(emptyProbability >= 0 && emptyProbability < 1)) {
      throw new IllegalArgumentException(
          "emptyProbability must be in [0, 1), got " + emptyProbability);
    }
    for (Task task : tasks.tasks()) {
      if (cells * cells < task.distinctDigits()) {
        throw new IllegalArgumentException(
            "cells: task \"%s\" needs room for %d digits, got %d×%<d cells"
                .formatted(task.name(), task.distinctDigits(), cells));
      }
    }
  }

  /** Training scenes with the usual share of empty cells. */
  public static DigitScenes training(int cells, long seed, TaskMixture tasks) {
    return new DigitScenes(cells, DEFAULT_EMPTY_PROBABILITY, Digits.Split.TRAIN, seed, tasks);
  }

  /** The example of an index; any value. */
  public Example get(long index) {
    CounterRandom random = new CounterRandom(seed, index);
    Task task = tasks.at(index);
    Scene scene;
    do {
      scene = Scene.draw(cells, emptyProbability, Digits.of(split), random);
    } while (scene.distinctDigits() < task.distinctDigits());
    return task.example(scene, random);
  }

  /** Consecutive examples, from index {@code begin} on. */
  public List<Example> get(long begin, int count) {
    return LongStream.range(begin, begin + count).mapToObj(this::get).toList();
  }

  /**
   * The first {@code count} held-out examples: of the same kind, but from the test images and a
   * seed of their own. The same for every training seed and split.
   */
  public List<Example> heldOut(int count) {
    return new DigitScenes(cells, emptyProbability, Digits.Split.TEST, HELD_OUT_SEED, tasks)
        .get(0, count);
  }
}
