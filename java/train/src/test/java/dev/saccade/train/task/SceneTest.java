package dev.saccade.train.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class SceneTest {

  private static final Digits DIGITS = Digits.of(Digits.Split.TEST);

  @Test
  void defaultPatchesOfTwoByTwoCells() {
    assertThat(scene(2).patches(14)).hasSize(16 * 196);
  }

  @ParameterizedTest
  @ValueSource(ints = {1, 7, 14, 28, 84})
  void patchesHoldEveryPixelAtItsPlace(int patch) {
    Scene scene = scene(3);
    float[] patches = scene.patches(patch);

    int side = scene.side();
    float[] rebuilt = new float[side * side];
    int perSide = side / patch;
    for (int p = 0; p < perSide * perSide; p++) {
      for (int i = 0; i < patch * patch; i++) {
        int row = p / perSide * patch + i / patch;
        int column = p % perSide * patch + i % patch;
        rebuilt[row * side + column] = patches[p * patch * patch + i];
      }
    }
    assertThat(rebuilt).isEqualTo(scene.canvas());
  }

  @ParameterizedTest
  @ValueSource(ints = {-14, 0, 5, 85})
  void patchMustDivideTheSide(int patch) {
    assertThatThrownBy(() -> scene(3).patches(patch))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("patch side must divide the canvas side 84, got " + patch);
  }

  @Test
  void readingNamesEveryCellInOrder() {
    Scene scene = new Scene(2, new int[] {3, -1, 3, 0}, new float[56 * 56]);

    assertThat(Vocabulary.decode(scene.reading())).isEqualTo("3 empty 3 0");
    assertThat(scene.count(3)).isEqualTo(2);
    assertThat(scene.count(Scene.NO_DIGIT)).isEqualTo(1);
    assertThat(scene.count(7)).isZero();
  }

  @Test
  void sceneIsNeverEmpty() {
    for (int i = 0; i < 200; i++) {
      Scene scene = Scene.draw(2, 0.99, DIGITS, new CounterRandom(5, i));
      assertThat(scene.count(Scene.NO_DIGIT)).isLessThan(4);
    }
  }

  @Test
  void misfitsAreRejected() {
    assertThatThrownBy(() -> new Scene(0, new int[0], new float[0]))
        .hasMessage("cells must be at least 1, got 0");
    assertThatThrownBy(() -> new Scene(2, new int[3], new float[56 * 56]))
        .hasMessage("labels: expected 4 for 2×2 cells, got 3");
    assertThatThrownBy(() -> new Scene(2, new int[4], new float[56]))
        .hasMessage("canvas: expected 3136 pixels for 2×2 cells, got 56");
    assertThatThrownBy(() -> new Scene(1, new int[] {10}, new float[784]))
        .hasMessage("labels: expected 0 to 9, or -1 for empty, got 10");
  }

  private static Scene scene(int cells) {
    return Scene.draw(cells, 0.25, DIGITS, new CounterRandom(1, 1));
  }
}
