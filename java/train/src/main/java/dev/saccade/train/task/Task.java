package dev.saccade.train.task;

import java.util.random.RandomGenerator;

/** A kind of question about a scene. Implementations are stateless. */
public interface Task {

  /** The name in configurations and reports: lower case, without {@code '+'} or white space. */
  String name();

  /** Its tokens are those of {@link Vocabulary} with ids below this. */
  int vocabulary();

  /** The most tokens of a question. */
  int questionLength();

  /** The most tokens of an answer about a scene of {@code cells} rows and columns. */
  default int answerLength(int cells) {
    return 1;
  }

  /** How many different digits a scene must hold to be asked about; at least 1. */
  default int distinctDigits() {
    return 1;
  }

  /**
   * Asks a question about a scene.
   *
   * @param scene of at most {@link Vocabulary#MAX_CELLS} rows and columns, with at least {@link
   *     #distinctDigits()} different digits
   * @param random the only source of chance: the same scene and stream give the same example
   */
  Example example(Scene scene, RandomGenerator random);
}
