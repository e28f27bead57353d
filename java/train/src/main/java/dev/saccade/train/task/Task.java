package dev.saccade.train.task;

import java.util.random.RandomGenerator;

/**
 * A kind of question about images that it draws itself. Implementations are stateless; {@link
 * TaskMixture#KNOWN} lists those that have a name in configurations.
 */
public interface Task {

  /** The name in configurations and reports: lower case, without {@code '+'} or white space. */
  String name();

  /** Its tokens are those of {@link Vocabulary} with ids below this. */
  int vocabulary();

  /** The most tokens of a question. */
  int questionLength();

  /** The most tokens of an answer about an image of {@code cells} · {@link Digits#SIDE} pixels. */
  default int answerLength(int cells) {
    return 1;
  }

  /** The most tokens of the thoughts of a reference response. */
  int thoughtsLength(int cells);

  /**
   * Checks that images of {@code cells} · {@link Digits#SIDE} pixels have room for a question.
   *
   * @throws IllegalArgumentException if they have none
   */
  default void requireFits(int cells) {}

  /**
   * What images are made of.
   *
   * @param cells an image has {@code cells} · {@link Digits#SIDE} pixels a side; 1 … {@link
   *     Vocabulary#MAX_CELLS}
   * @param emptyProbability the probability of an empty cell in scenes of digits
   * @param split where images of digits come from
   */
  record Setting(int cells, double emptyProbability, Digits.Split split) {}

  /**
   * Draws an image and asks a question about it.
   *
   * @param random the only source of chance: the same setting and stream give the same example
   */
  Example example(Setting setting, RandomGenerator random);
}
