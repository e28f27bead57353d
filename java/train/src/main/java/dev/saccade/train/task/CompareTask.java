package dev.saccade.train.task;

import java.util.random.RandomGenerator;
import java.util.stream.IntStream;

/**
 * "Which of these two cells holds the larger digit?": {@code COMPARE row column row column},
 * answered by {@code first} or {@code second}.
 *
 * <p>The ordered pair of cells is drawn uniformly among those that hold different digits: there are
 * no ties and no empty cells, both answers are equally likely whatever the cells, and a scene must
 * hold two different digits.
 */
public final class CompareTask extends DigitTask {

  @Override
  public String name() {
    return "compare";
  }

  @Override
  public int vocabulary() {
    return Vocabulary.SECOND + 1;
  }

  @Override
  public int questionLength() {
    return 5;
  }

  @Override
  int distinctDigits() {
    return 2;
  }

  @Override
  Example example(Scene scene, RandomGenerator random) {
    int[] labels = scene.labels();
    int n = labels.length;
    int[] pairs =
        IntStream.range(0, n * n)
            .filter(pair -> differ(labels[pair / n], labels[pair % n]))
            .toArray();
    int pair = pairs[random.nextInt(pairs.length)];
    int first = pair / n;
    int second = pair % n;
    int cells = scene.cells();
    int[] question = {
      Vocabulary.COMPARE,
      Vocabulary.row(first / cells),
      Vocabulary.column(first % cells),
      Vocabulary.row(second / cells),
      Vocabulary.column(second % cells)
    };
    int truth = labels[first] > labels[second] ? Vocabulary.FIRST : Vocabulary.SECOND;
    return new Example(name(), scene, question, new int[] {truth});
  }

  private static boolean differ(int first, int second) {
    return first != Scene.NO_DIGIT && second != Scene.NO_DIGIT && first != second;
  }
}
