package dev.saccade.train.task;

import java.util.Arrays;
import java.util.random.RandomGenerator;

/**
 * "What is the sum of the digits of this row?": {@code SUM row}, answered by the number in decimal,
 * one or two digits. The row is drawn uniformly; an empty cell counts 0.
 */
public final class SumTask extends DigitTask {

  @Override
  public String name() {
    return "sum";
  }

  @Override
  public int vocabulary() {
    return Vocabulary.SUM + 1;
  }

  @Override
  public int questionLength() {
    return 2;
  }

  @Override
  public int answerLength(int cells) {
    return Vocabulary.number(9 * cells).length;
  }

  @Override
  Example example(Scene scene, RandomGenerator random) {
    int cells = scene.cells();
    int row = random.nextInt(cells);
    int sum =
        Arrays.stream(scene.labels(), row * cells, (row + 1) * cells)
            .filter(label -> label != Scene.NO_DIGIT)
            .sum();
    int[] question = {Vocabulary.SUM, Vocabulary.row(row)};
    return new Example(name(), scene, question, Vocabulary.number(sum));
  }
}
