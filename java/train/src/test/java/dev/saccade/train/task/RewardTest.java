package dev.saccade.train.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class RewardTest {

  private static final int[] TRUTH = Vocabulary.number(3);

  /** Without thinking required, numbers of one digit; the right answer is 3. */
  @ParameterizedTest
  @CsvSource({
    "<answer> 3 </answer>,                              1, 1",
    "<answer> 4 </answer>,                              0, 1",
    "<think> 3 empty </think> <answer> 3 </answer>,     1, 1",
    "<think> row1 </think> <answer> 4 </answer>,        0, 1",
    "'',                                                0, 0",
    "3,                                                 0, 0",
    "<answer>,                                          0, 0",
    "<answer> 3,                                        0, 0",
    "3 </answer>,                                       0, 0",
    "<answer> </answer>,                                0, 0",
    "<answer> 3 3 </answer>,                            0, 0",
    "<answer> 0 3 </answer>,                            0, 0",
    "<answer> 3 empty </answer>,                        0, 0",
    "<answer> first </answer>,                          0, 1",
    "<answer> first second </answer>,                   0, 0",
    "<answer> row3 </answer>,                           0, 0",
    "</answer> 3 <answer>,                              0, 0",
    "<answer> 3 </answer> 3,                            1, 0",
    "<answer> 3 </answer> <pad>,                        1, 0",
    "3 <answer> 3 </answer>,                            1, 0",
    "<answer> empty </answer>,                          0, 0",
    "<answer> 3 </answer> <answer> 3 </answer>,         0, 0",
    "<answer> 3 </answer> <answer> 4 </answer>,         0, 0",
    "<answer> <answer> 3 </answer>,                     0, 0",
    "<answer> 3 </answer> </answer>,                    0, 0",
    "<think> </think> <answer> 3 </answer>,             1, 0",
    "<think> 3 <answer> 3 </answer>,                    1, 0",
    "3 </think> <answer> 3 </answer>,                   1, 0",
    "<think> <think> 3 </think> <answer> 3 </answer>,   1, 0",
    "<think> 3 <pad> </think> <answer> 3 </answer>,     1, 0",
    "<think> 3 </think> 3 <answer> 3 </answer>,         1, 0",
    "<think> 3,                                         0, 0",
    "<think> 3 </think>,                                0, 0",
    "<think> <answer> 3 </answer> </think>,             1, 0",
  })
  void scores(String response, double accuracy, double format) {
    Score score = new Reward(false, 1).score(Vocabulary.encode(response), TRUTH);

    assertThat(score.accuracy()).isEqualTo(accuracy);
    assertThat(score.format()).isEqualTo(format);
    assertThat(score.total()).isCloseTo(0.9 * accuracy + 0.1 * format, within(1e-15));
  }

  @ParameterizedTest
  @CsvSource({
    "1 2,    <answer> 1 2 </answer>,               1, 1",
    "1 2,    <answer> 2 1 </answer>,               0, 1",
    "1 2,    <answer> 1 </answer>,                 0, 1",
    "1 2,    <answer> 1 2 3 </answer>,             0, 0",
    "1 2,    <answer> 1 2,                         0, 0",
    "1 2,    <answer> 1 2 </answer> 0,             1, 0",
    "1 2,    <answer> 1 </answer> 2 </answer>,     0, 0",
    "1 2,    <think> 7 5 </think> <answer> 1 2 </answer>, 1, 1",
    "7,      <answer> 7 </answer>,                 1, 1",
    "7,      <answer> 0 7 </answer>,               0, 0",
    "7,      <answer> 7 0 </answer>,               0, 1",
    "0,      <answer> 0 </answer>,                 1, 1",
    "0,      <answer> 0 0 </answer>,               0, 0",
    "1 0,    <answer> 1 0 </answer>,               1, 1",
    "first,  <answer> first </answer>,             1, 1",
    "first,  <answer> second </answer>,            0, 1",
    "first,  <answer> first first </answer>,       0, 0",
    "first,  <answer> first 1 </answer>,           0, 0",
    "first,  <answer> 1 </answer>,                 0, 1",
    "second, <answer> second </answer>,            1, 1",
  })
  void answersOfSeveralTokensAndOrdinals(
      String truth, String response, double accuracy, double format) {
    Score score = new Reward(false, 2).score(Vocabulary.encode(response), Vocabulary.encode(truth));

    assertThat(score.accuracy()).isEqualTo(accuracy);
    assertThat(score.format()).isEqualTo(format);
  }

  @Test
  void missingThinkingCostsTheFormatOnly() {
    int[] direct = Vocabulary.encode("<answer> 3 </answer>");
    int[] thoughtful = Vocabulary.encode("<think> 3 empty </think> <answer> 3 </answer>");

    assertThat(new Reward(true, 1).score(direct, TRUTH)).isEqualTo(new Score(1, 0, 0.9));
    assertThat(new Reward(true, 1).score(thoughtful, TRUTH)).isEqualTo(new Score(1, 1, 1));
  }

  @Test
  void weightsAreFree() {
    int[] wrong = Vocabulary.encode("<answer> 4 </answer>");
    int[] right = Vocabulary.encode("<answer> 3 </answer>");

    assertThat(new Reward(1, 1, false, 1).score(wrong, TRUTH).total()).isEqualTo(1);
    assertThat(new Reward(1, 1, false, 1).score(right, TRUTH).total()).isEqualTo(2);
  }

  @Test
  void packedResponseEndsAtItsEnd() {
    int[] packed = Vocabulary.encode("COUNT 3 <answer> 3 </answer> COUNT 4 <answer> 4 </answer>");

    assertThat(new Reward(false, 1).score(packed, 2, 5, TRUTH)).isEqualTo(new Score(1, 1, 1));
    assertThat(new Reward(false, 1).score(packed, 7, 10, TRUTH)).isEqualTo(new Score(0, 1, 0.1));
    assertThat(new Reward(false, 1).score(packed, 5, 5, TRUTH)).isEqualTo(new Score(0, 0, 0));
    assertThatThrownBy(() -> new Reward(false, 1).score(packed, 7, 11, TRUTH))
        .isInstanceOf(IndexOutOfBoundsException.class);
  }

  @Test
  void answerIsTheOnlyOne() {
    assertThat(Reward.answer(Vocabulary.encode("3 <answer> 5 </answer>")))
        .hasValueSatisfying(answer -> assertThat(Vocabulary.decode(answer)).isEqualTo("5"));
    assertThat(Reward.answer(Vocabulary.encode("<answer> 5 row1 </answer> 3")))
        .hasValueSatisfying(answer -> assertThat(Vocabulary.decode(answer)).isEqualTo("5 row1"));
    assertThat(Reward.answer(Vocabulary.encode("<answer> 5"))).isEmpty();
  }

  @Test
  void settingsOutOfRangeAreRejected() {
    assertThatThrownBy(() -> new Reward(-1, 0, false, 1))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("accuracyWeight must be finite and not negative, got -1.0");
    assertThatThrownBy(() -> new Reward(1, Double.NaN, false, 1))
        .hasMessage("formatWeight must be finite and not negative, got NaN");
    assertThatThrownBy(() -> new Reward(1, 1, false, 0))
        .hasMessage("digits must be at least 1, got 0");
  }
}
