package dev.saccade.train.task;

import java.util.random.RandomGenerator;

/** A kind of question about a scene. Implementations are stateless. */
public interface Task {

  /** The name in configurations and reports: lower case, without {@code '+'} or white space. */
  String name();

  /**
   * Asks a question about a scene that holds at least one digit.
   *
   * @param scene of at most {@link Vocabulary#MAX_CELLS} rows and columns
   * @param random the only source of chance: the same scene and stream give the same example
   */
  Example example(Scene scene, RandomGenerator random);
}
