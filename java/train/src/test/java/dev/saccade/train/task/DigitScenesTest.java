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

  @Test
  void exampleIsAFunctionOfSettingsAndIndex() {
    Example example = DigitScenes.training(3, 42, BOTH).get(123_456_789_012L);

    assertThat(DigitScenes.training(3, 42, BOTH).get(123_456_789_012L))
        .usingRecursiveComparison()
        .isEqualTo(example);
    assertThat(DigitScenes.training(3, 43, BOTH).get(123_456_789_012L).scene().canvas())
        .isNotEqualTo(example.scene().canvas());
    assertThat(DigitScenes.training(3, 42, BOTH).get(123_456_789_013L).scene().canvas())
        .isNotEqualTo(example.scene().canvas());
  }

  @Test
  void sceneDoesNotDependOnTheMixture() {
    assertThat(DigitScenes.training(2, 1, COUNT).get(5).scene())
        .usingRecursiveComparison()
        .isEqualTo(DigitScenes.training(2, 1, READ).get(5).scene());
  }

  @Test
  void heldOutIsTheSameForEveryTrainingSeedAndSplit() {
    List<Example> heldOut = DigitScenes.training(2, 1, BOTH).heldOut(8);

    assertThat(new DigitScenes(2, 0.25, Digits.Split.TEST, 99, BOTH).heldOut(8))
        .usingRecursiveComparison()
        .isEqualTo(heldOut);
    assertThat(DigitScenes.training(2, 1, BOTH).heldOut(4))
        .usingRecursiveComparison()
        .isEqualTo(heldOut.subList(0, 4));
  }

  @Test
  void trainingAndHeldOutScenesUseTheirOwnDigits() {
    Set<FloatBuffer> train = images(Digits.Split.TRAIN);
    Set<FloatBuffer> test = images(Digits.Split.TEST);
    DigitScenes scenes = DigitScenes.training(3, 11, COUNT);

    for (Example example : scenes.get(0, 100)) {
      assertThat(cells(example.scene())).isSubsetOf(train).doesNotContainAnyElementsOf(test);
    }
    for (Example example : scenes.heldOut(100)) {
      assertThat(cells(example.scene())).isSubsetOf(test).doesNotContainAnyElementsOf(train);
    }
  }

  @Test
  void emptyCellsLookEmptyAndHaveTheirShare() {
    int empty = 0;
    for (Example example : DigitScenes.training(3, 4, COUNT).get(0, 1000)) {
      empty += example.scene().count(Scene.NO_DIGIT);
      assertThat(cells(example.scene())).hasSize(9 - example.scene().count(Scene.NO_DIGIT));
    }
    assertThat(empty / 9000.0).isCloseTo(0.25, within(0.02));
  }

  // 8×8 cells hold a digit more than nine times now and then.
  @ParameterizedTest
  @ValueSource(ints = {1, 2, 3, 4, 8})
  void countIsTheNumberOfCellsWithTheDigit(int cells) {
    for (Example example : DigitScenes.training(cells, 3, COUNT).get(0, 300)) {
      assertThat(example.task()).isEqualTo("count");
      String[] question = Vocabulary.decode(example.question()).split(" ");
      assertThat(question).hasSize(2).startsWith("COUNT");
      int asked = Integer.parseInt(question[1]);
      long count = Arrays.stream(example.scene().labels()).filter(label -> label == asked).count();
      assertThat(Vocabulary.name(example.truth())).isEqualTo(Long.toString(count));
    }
  }

  @Test
  void countAsksForAPresentDigitSevenTimesInTen() {
    long present =
        DigitScenes.training(2, 3, COUNT).get(0, 4000).stream()
            .filter(example -> example.truth() != Vocabulary.digit(0))
            .count();

    assertThat(present / 4000.0).isCloseTo(CountTask.PRESENT_PROBABILITY, within(0.03));
  }

  @ParameterizedTest
  @ValueSource(ints = {1, 2, 3, 8})
  void readIsTheDigitOfTheCell(int cells) {
    for (Example example : DigitScenes.training(cells, 3, READ).get(0, 300)) {
      assertThat(example.task()).isEqualTo("read");
      String[] question = Vocabulary.decode(example.question()).split(" ");
      assertThat(question).hasSize(3).startsWith("READ");
      int row = Integer.parseInt(question[1].substring("row".length()));
      int column = Integer.parseInt(question[2].substring("col".length()));
      int label = example.scene().labels()[row * cells + column];
      assertThat(Vocabulary.name(example.truth())).isEqualTo(Integer.toString(label));
    }
  }

  @Test
  void referenceEarnsTheFullReward() {
    DigitScenes scenes = DigitScenes.training(2, 8, BOTH);
    for (boolean thinking : new boolean[] {false, true}) {
      Reward reward = new Reward(thinking);
      for (Example example : scenes.get(0, 20)) {
        int[] reference = example.reference(thinking);
        assertThat(reference).hasSize(scenes.responseLength(thinking));
        assertThat(reward.score(reference, example.truth())).isEqualTo(new Score(1, 1, 1));
      }
    }
  }

  @Test
  void thinkingReadsTheCells() {
    Scene scene = new Scene(2, new int[] {3, -1, 3, 0}, new float[56 * 56]);
    Example example = new CountTask().example(scene, new CounterRandom(0, 0));
    String answer = "<answer> " + Vocabulary.name(example.truth()) + " </answer>";

    assertThat(Vocabulary.decode(example.reference(false))).isEqualTo(answer);
    assertThat(Vocabulary.decode(example.reference(true)))
        .isEqualTo("<think> 3 empty 3 0 </think> " + answer);
  }

  @Test
  void settingsOutOfRangeAreRejected() {
    assertThatThrownBy(() -> DigitScenes.training(9, 0, BOTH))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("cells must be 1 to 8, got 9");
    assertThatThrownBy(() -> new DigitScenes(2, 1, Digits.Split.TRAIN, 0, BOTH))
        .hasMessage("emptyProbability must be in [0, 1), got 1.0");
    assertThatThrownBy(() -> new DigitScenes(2, Double.NaN, Digits.Split.TRAIN, 0, BOTH))
        .hasMessage("emptyProbability must be in [0, 1), got NaN");
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
