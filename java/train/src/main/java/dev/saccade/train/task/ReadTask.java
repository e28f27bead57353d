package dev.saccade.train.task;

import java.util.random.RandomGenerator;
import java.util.stream.IntStream;

/**
 * "Which digit is in this cell?": {@code READ row column}, answered by the digit. The cell is drawn
 * uniformly among those that hold one.
 */
public final class ReadTask extends DigitTask {

  @Override
  public String name() {
    return "read";
  }

  @Override
  public int vocabulary() {
    return Vocabulary.BASIC_SIZE;
  }

  @Override
  public int questionLength() {
    return 3;
  }

  @Override
  Example example(Scene scene, RandomGenerator random) {
    int[] filled =
        IntStream.range(0, scene.labels().length)
            .filter(cell -> scene.labels()[cell] != Scene.NO_DIGIT)
            .toArray();
    int cell = filled[random.nextInt(filled.length)];
    int[] question = {
      Vocabulary.READ, Vocabulary.row(cell / scene.cells()), Vocabulary.column(cell % scene.cells())
    };
    return new Example(name(), scene, question, Vocabulary.number(scene.labels()[cell]));
  }
}
