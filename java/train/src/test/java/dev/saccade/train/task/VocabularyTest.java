package dev.saccade.train.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

class VocabularyTest {

  @Test
  void idsAreFixed() {
    assertThat(Vocabulary.SIZE).isEqualTo(41);
    assertThat(Vocabulary.decode(IntStream.range(0, Vocabulary.SIZE).toArray()))
        .isEqualTo(
            "<pad> <think> </think> <answer> </answer> COUNT READ empty 0 1 2 3 4 5 6 7 8 9"
                + " row0 row1 row2 row3 row4 row5 row6 row7"
                + " col0 col1 col2 col3 col4 col5 col6 col7"
                + " SUM COMPARE first second LENGTH ANGLE INTERSECTIONS");
  }

  @Test
  void encodeInvertsDecode() {
    int[] all = IntStream.range(0, Vocabulary.SIZE).toArray();

    assertThat(Vocabulary.encode(Vocabulary.decode(all))).isEqualTo(all);
    assertThat(Vocabulary.encode("  READ\trow1\n col7 "))
        .containsExactly(Vocabulary.READ, Vocabulary.row(1), Vocabulary.column(7));
    assertThat(Vocabulary.encode(" ")).isEmpty();
  }

  @Test
  void cellsReadAsDigitOrEmpty() {
    assertThat(Vocabulary.cell(Scene.NO_DIGIT)).isEqualTo(Vocabulary.EMPTY);
    assertThat(Vocabulary.name(Vocabulary.cell(9))).isEqualTo("9");
    assertThat(IntStream.range(0, Vocabulary.SIZE).filter(Vocabulary::isDigit)).hasSize(10);
  }

  @Test
  void numbersAreTheirDigits() {
    for (int number : new int[] {0, 7, 10, 72, 100}) {
      assertThat(Vocabulary.decode(Vocabulary.number(number)).replace(" ", ""))
          .isEqualTo(Integer.toString(number));
    }
  }

  @Test
  void unknownTokensAreRejected() {
    assertThatThrownBy(() -> Vocabulary.encode("COUNT ten"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageStartingWith("unknown token \"ten\"; known tokens: <pad> <think>");
    assertThatThrownBy(() -> Vocabulary.decode(41)).isInstanceOf(IndexOutOfBoundsException.class);
    assertThatThrownBy(() -> Vocabulary.digit(10)).isInstanceOf(IndexOutOfBoundsException.class);
    assertThatThrownBy(() -> Vocabulary.row(8)).isInstanceOf(IndexOutOfBoundsException.class);
  }
}
