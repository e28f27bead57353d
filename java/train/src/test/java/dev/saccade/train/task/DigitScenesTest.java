package dev.saccade.train.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class DigitScenesTest {

  private static final TaskMixture COUNT = TaskMixture.parse("count");
  private static final TaskMixture READ = TaskMixture.parse("read");
  private static final TaskMixture BOTH = TaskMixture.parse("count+read");
  private static final TaskMixture COMPARE = TaskMixture.parse("compare");
  private static final TaskMixture SUM = TaskMixture.parse("sum");
  private static final TaskMixture ALL = TaskMixture.parse("count+read+compare+sum");

  @ParameterizedTest
  @ValueSource(strings = {"count", "read", "compare", "sum"})
  void exampleIsAFunctionOfSettingsAndIndex(String task) {
    TaskMixture tasks = TaskMixture.parse(task);
    Example example = Examples.training(3, 42, tasks).get(123_456_789_012L);

    assertThat(Examples.training(3, 42, tasks).get(123_456_789_012L))
        .usingRecursiveComparison()
        .isEqualTo(example);
    assertThat(scene(Examples.training(3, 43, tasks).get(123_456_789_012L)).canvas())
        .isNotEqualTo(scene(example).canvas());
    assertThat(scene(Examples.training(3, 42, tasks).get(123_456_789_013L)).canvas())
        .isNotEqualTo(scene(example).canvas());
  }

  @Test
  void sceneDoesNotDependOnTheMixture() {
    assertThat(scene(Examples.training(2, 1, COUNT).get(5)))
        .usingRecursiveComparison()
        .isEqualTo(scene(Examples.training(2, 1, READ).get(5)));
    // Unless the scene is too poor for the task.
    for (long index = 0; index < 100; index++) {
      Scene scene = scene(Examples.training(2, 1, COUNT).get(index));
      if (scene.distinctDigits() >= 2) {
        assertThat(scene(Examples.training(2, 1, COMPARE).get(index)).canvas())
            .isEqualTo(scene.canvas());
      }
    }
  }

  @Test
  void heldOutIsTheSameForEveryTrainingSeedAndSplit() {
    List<Example> heldOut = Examples.training(2, 1, ALL).heldOut(8);

    assertThat(new Examples(2, 0.25, Digits.Split.TEST, 99, ALL).heldOut(8))
        .usingRecursiveComparison()
        .isEqualTo(heldOut);
    assertThat(Examples.training(2, 1, ALL).heldOut(4))
        .usingRecursiveComparison()
        .isEqualTo(heldOut.subList(0, 4));
  }

  @Test
  void trainingAndHeldOutScenesUseTheirOwnDigits() {
    Set<FloatBuffer> train = images(Digits.Split.TRAIN);
    Set<FloatBuffer> test = images(Digits.Split.TEST);
    Examples scenes = Examples.training(3, 11, ALL);

    for (Example example : scenes.get(0, 100)) {
      assertThat(cells(scene(example))).isSubsetOf(train).doesNotContainAnyElementsOf(test);
    }
    for (Example example : scenes.heldOut(100)) {
      assertThat(cells(scene(example))).isSubsetOf(test).doesNotContainAnyElementsOf(train);
    }
  }

  @Test
  void emptyCellsLookEmptyAndHaveTheirShare() {
    int empty = 0;
    for (Example example : Examples.training(3, 4, COUNT).get(0, 1000)) {
      empty += scene(example).count(Scene.NO_DIGIT);
      assertThat(cells(scene(example))).hasSize(9 - scene(example).count(Scene.NO_DIGIT));
    }
    assertThat(empty / 9000.0).isCloseTo(0.25, within(0.02));
  }

  // 8×8 cells hold a digit more than nine times now and then.
  @ParameterizedTest
  @ValueSource(ints = {1, 2, 3, 4, 8})
  void countIsTheNumberOfCellsWithTheDigit(int cells) {
    for (Example example : Examples.training(cells, 3, COUNT).get(0, 300)) {
      assertThat(example.task()).isEqualTo("count");
      String[] question = Vocabulary.decode(example.question()).split(" ");
      assertThat(question).hasSize(2).startsWith("COUNT");
      int asked = Integer.parseInt(question[1]);
      long count = Arrays.stream(scene(example).labels()).filter(label -> label == asked).count();
      assertThat(Vocabulary.decode(example.truth())).isEqualTo(Long.toString(count));
    }
  }

  @Test
  void countAsksForAPresentDigitSevenTimesInTen() {
    long present =
        Examples.training(2, 3, COUNT).get(0, 4000).stream()
            .filter(example -> example.truth()[0] != Vocabulary.digit(0))
            .count();

    assertThat(present / 4000.0).isCloseTo(CountTask.PRESENT_PROBABILITY, within(0.03));
  }

  @ParameterizedTest
  @ValueSource(ints = {1, 2, 3, 8})
  void readIsTheDigitOfTheCell(int cells) {
    for (Example example : Examples.training(cells, 3, READ).get(0, 300)) {
      assertThat(example.task()).isEqualTo("read");
      String[] question = Vocabulary.decode(example.question()).split(" ");
      assertThat(question).hasSize(3).startsWith("READ");
      int row = Integer.parseInt(question[1].substring("row".length()));
      int column = Integer.parseInt(question[2].substring("col".length()));
      int label = scene(example).labels()[row * cells + column];
      assertThat(Vocabulary.decode(example.truth())).isEqualTo(Integer.toString(label));
    }
  }

  /** The cells that a COMPARE question names, first and second, as indices. */
  private static int[] compared(Example example) {
    String[] question = Vocabulary.decode(example.question()).split(" ");
    assertThat(question).hasSize(5).startsWith("COMPARE");
    int[] at = new int[4];
    for (int i = 0; i < 4; i++) {
      String axis = i % 2 == 0 ? "row" : "col";
      assertThat(question[1 + i]).startsWith(axis);
      at[i] = Integer.parseInt(question[1 + i].substring(axis.length()));
    }
    int cells = scene(example).cells();
    return new int[] {at[0] * cells + at[1], at[2] * cells + at[3]};
  }

  @ParameterizedTest
  @ValueSource(ints = {2, 3, 8})
  void compareIsTheCellWithTheLargerDigit(int cells) {
    for (Example example : Examples.training(cells, 3, COMPARE).get(0, 300)) {
      assertThat(example.task()).isEqualTo("compare");
      int[] at = compared(example);
      int first = scene(example).labels()[at[0]];
      int second = scene(example).labels()[at[1]];
      assertThat(first).isNotEqualTo(second).isNotEqualTo(Scene.NO_DIGIT);
      assertThat(second).isNotEqualTo(Scene.NO_DIGIT);
      assertThat(Vocabulary.decode(example.truth()))
          .isEqualTo(first == Math.max(first, second) ? "first" : "second");
    }
  }

  /** Standard errors: 0.008 of the answers, 0.007 of the cells, 0.016 of the answers of a cell. */
  @ParameterizedTest
  @ValueSource(doubles = {Examples.DEFAULT_EMPTY_PROBABILITY, 0.75})
  void compareIsBalancedWhateverTheCells(double emptyProbability) {
    int n = 4000;
    int[][] named = new int[2][4];
    int[] firstOfCell = new int[4];
    int first = 0;
    for (Example example :
        new Examples(2, emptyProbability, Digits.Split.TRAIN, 5, COMPARE).get(0, n)) {
      int[] at = compared(example);
      named[0][at[0]]++;
      named[1][at[1]]++;
      if (example.truth()[0] == Vocabulary.FIRST) {
        first++;
        firstOfCell[at[0]]++;
      }
    }
    assertThat(first / (double) n).isCloseTo(0.5, within(0.03));
    for (int cell = 0; cell < 4; cell++) {
      assertThat(named[0][cell] / (double) n).isCloseTo(0.25, within(0.03));
      assertThat(named[1][cell] / (double) n).isCloseTo(0.25, within(0.03));
      assertThat(firstOfCell[cell] / (double) named[0][cell]).isCloseTo(0.5, within(0.06));
    }
  }

  @ParameterizedTest
  @ValueSource(ints = {1, 2, 3, 8})
  void sumIsThatOfTheRow(int cells) {
    Set<Integer> rows = new HashSet<>();
    Set<Integer> lengths = new HashSet<>();
    for (Example example : Examples.training(cells, 3, SUM).get(0, 500)) {
      assertThat(example.task()).isEqualTo("sum");
      String[] question = Vocabulary.decode(example.question()).split(" ");
      assertThat(question).hasSize(2).startsWith("SUM");
      int row = Integer.parseInt(question[1].substring("row".length()));
      int sum = 0;
      for (int column = 0; column < cells; column++) {
        sum += Math.max(0, scene(example).labels()[row * cells + column]);
      }
      assertThat(Vocabulary.decode(example.truth()).replace(" ", ""))
          .isEqualTo(Integer.toString(sum));
      rows.add(row);
      lengths.add(example.truth().length);
    }
    assertThat(rows).hasSize(cells);
    assertThat(lengths)
        .containsExactlyInAnyOrder(cells == 1 ? new Integer[] {1} : new Integer[] {1, 2});
  }

  @Test
  void anEmptyRowSumsToZero() {
    Scene scene = new Scene(2, new int[] {-1, -1, -1, -1}, new float[56 * 56]);

    assertThat(Vocabulary.decode(new SumTask().example(scene, new CounterRandom(0, 0)).truth()))
        .isEqualTo("0");
  }

  @ParameterizedTest
  @ValueSource(ints = {2, 3})
  void referenceEarnsTheFullRewardWithinTheLimits(int cells) {
    Examples scenes = Examples.training(cells, 8, ALL);
    for (boolean thinking : new boolean[] {false, true}) {
      Reward reward = new Reward(thinking, 2);
      int longest = 0;
      for (Example example : scenes.get(0, 400)) {
        int[] reference = example.reference(thinking);
        longest = Math.max(longest, reference.length);
        assertThat(Vocabulary.encode(Vocabulary.decode(reference))).isEqualTo(reference);
        assertThat(reward.score(reference, example.truth())).isEqualTo(new Score(1, 1, 1));
      }
      assertThat(longest).isEqualTo(ALL.responseLength(cells, thinking));
    }
  }

  @Test
  void tasksStayWithinTheRoomThatTheyAskFor() {
    for (Task task : TaskMixture.KNOWN) {
      TaskMixture tasks = new TaskMixture(List.of(task));
      int most = 0;
      int thoughts = 0;
      for (Example example : Examples.training(3, 8, tasks).get(0, 300)) {
        assertThat(example.question()).hasSize(task.questionLength());
        assertThat(Arrays.stream(example.question())).allMatch(token -> token < task.vocabulary());
        assertThat(Arrays.stream(example.reference(true)))
            .allMatch(token -> token < task.vocabulary());
        most = Math.max(most, example.truth().length);
        thoughts = Math.max(thoughts, example.thoughts().length);
      }
      assertThat(most).isEqualTo(task.answerLength(3));
      assertThat(thoughts).isEqualTo(task.thoughtsLength(3));
    }
    assertThat(BOTH.vocabulary()).as("of the first checkpoints").isEqualTo(34);
  }

  @Test
  void thinkingReadsTheCells() {
    Scene scene = new Scene(2, new int[] {3, -1, 3, 0}, new float[56 * 56]);
    Example example = new CountTask().example(scene, new CounterRandom(0, 0));
    String answer = "<answer> " + Vocabulary.decode(example.truth()) + " </answer>";

    assertThat(Vocabulary.decode(example.reference(false))).isEqualTo(answer);
    assertThat(Vocabulary.decode(example.reference(true)))
        .isEqualTo("<think> 3 empty 3 0 </think> " + answer);
  }

  @Test
  void settingsOutOfRangeAreRejected() {
    assertThatThrownBy(() -> Examples.training(9, 0, BOTH))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("cells must be 1 to 8, got 9");
    assertThatThrownBy(() -> Examples.training(1, 0, ALL))
        .hasMessage("cells: task \"compare\" needs room for 2 digits, got 1×1 cells");
    assertThatThrownBy(() -> new Examples(2, 1, Digits.Split.TRAIN, 0, BOTH))
        .hasMessage("emptyProbability must be in [0, 1), got 1.0");
    assertThatThrownBy(() -> new Examples(2, Double.NaN, Digits.Split.TRAIN, 0, BOTH))
        .hasMessage("emptyProbability must be in [0, 1), got NaN");
  }

  private static Scene scene(Example example) {
    return (Scene) example.image();
  }

  /** The images in the cells that are not blank. */
  private static Set<FloatBuffer> cells(Scene scene) {
    Set<FloatBuffer> images = new HashSet<>();
    float[] patches = scene.patches(Digits.SIDE);
    for (int at = 0; at < patches.length; at += 28 * 28) {
      float[] cell = Arrays.copyOfRange(patches, at, at + 28 * 28);
      if (!Arrays.equals(cell, new float[28 * 28])) {
        images.add(FloatBuffer.wrap(cell));
      }
    }
    return images;
  }

  private static Set<FloatBuffer> images(Digits.Split split) {
    Digits digits = Digits.of(split);
    Set<FloatBuffer> images = new HashSet<>();
    for (int i = 0; i < digits.size(); i++) {
      images.add(FloatBuffer.wrap(digits.pixels(i)));
    }
    return images;
  }
}
