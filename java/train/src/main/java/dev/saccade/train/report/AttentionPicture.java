package dev.saccade.train.report;

import java.util.List;

/**
 * A scene, a question about it, and where two policies look when they answer.
 *
 * <p>The arrays are shared, not copied.
 *
 * @param canvas [side, side], row-major: 0 paper … 1 ink
 * @param side width and height of the canvas, in pixels
 * @param patchesPerSide how many patches a row and a column hold; divides {@code side}
 * @param question the question, as text
 * @param truth the right answer, as text
 * @param before the policy before training
 * @param after the policy after training
 * @param samples what that policy says too, as text
 */
public record AttentionPicture(
    float[] canvas,
    int side,
    int patchesPerSide,
    String question,
    String truth,
    Glance before,
    Glance after,
    List<String> samples) {

  /**
   * An answer, and the attention of its tokens on the patches.
   *
   * @param answer as text; empty if the response has none
   * @param attention [patches], in reading order, not negative; it need not sum to 1
   * @param response all its tokens, as text; empty if it is not to be shown
   */
  public record Glance(String answer, float[] attention, String response) {
    /** Without the response. */
    public Glance(String answer, float[] attention) {
      this(answer, attention, "");
    }
  }

  /**
   * Checks sizes.
   *
   * @throws IllegalArgumentException if an array does not fit
   */
  public AttentionPicture {
    if (patchesPerSide < 1 || side < 1 || side % patchesPerSide != 0) {
      throw new IllegalArgumentException(
          "patchesPerSide must divide side %s, got %s".formatted(side, patchesPerSide));
    }
    checkLength("canvas", side * side, canvas);
    checkLength("before.attention", patchesPerSide * patchesPerSide, before.attention());
    checkLength("after.attention", patchesPerSide * patchesPerSide, after.attention());
  }

  private static void checkLength(String name, int expected, float[] array) {
    if (array.length != expected) {
      throw new IllegalArgumentException(
          "%s: expected %s values, got %s".formatted(name, expected, array.length));
    }
  }
}
