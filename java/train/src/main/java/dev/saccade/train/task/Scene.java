package dev.saccade.train.task;

import java.util.Arrays;
import java.util.random.RandomGenerator;

/**
 * A square grid of cells, each empty or holding one handwritten digit.
 *
 * <p>The arrays are shared, not copied: treat them as read-only.
 *
 * @param cells the number of rows, and of columns, at least 1
 * @param labels [cells · cells], row-major: the digit 0 … 9 of each cell, or {@link #NO_DIGIT}
 * @param canvas [side, side], row-major, side = cells · {@link Digits#SIDE}: 0 paper … 1 ink
 */
public record Scene(int cells, int[] labels, float[] canvas) implements Image {

  /** The label of an empty cell. */
  public static final int NO_DIGIT = -1;

  /**
   * Checks sizes and labels.
   *
   * @throws IllegalArgumentException if an array does not fit {@code cells} or a label is out of
   *     range
   */
  public Scene {
    if (cells < 1) {
      throw new IllegalArgumentException("cells must be at least 1, got " + cells);
    }
    int side = cells * Digits.SIDE;
    if (labels.length != cells * cells) {
      throw new IllegalArgumentException(
          "labels: expected %d for %d×%<d cells, got %d"
              .formatted(cells * cells, cells, labels.length));
    }
    if (canvas.length != side * side) {
      throw new IllegalArgumentException(
          "canvas: expected %d pixels for %d×%<d cells, got %d"
              .formatted(side * side, cells, canvas.length));
    }
    for (int label : labels) {
      if (label < NO_DIGIT || label > 9) {
        throw new IllegalArgumentException(
            "labels: expected 0 to 9, or %d for empty, got %d".formatted(NO_DIGIT, label));
      }
    }
  }

  /**
   * Draws a scene: each cell is empty with the given probability, and otherwise holds a uniformly
   * drawn image. Where all came out empty, one uniformly drawn cell is filled, so that a scene
   * always has a digit.
   */
  static Scene draw(int cells, double emptyProbability, Digits digits, RandomGenerator random) {
    int[] images = new int[cells * cells];
    for (int cell = 0; cell < images.length; cell++) {
      boolean empty = random.nextDouble() < emptyProbability;
      int image = random.nextInt(digits.size());
      images[cell] = empty ? NO_DIGIT : image;
    }
    if (Arrays.stream(images).allMatch(image -> image == NO_DIGIT)) {
      images[random.nextInt(images.length)] = random.nextInt(digits.size());
    }
    int side = cells * Digits.SIDE;
    int[] labels = new int[images.length];
    float[] canvas = new float[side * side];
    for (int cell = 0; cell < images.length; cell++) {
      if (images[cell] == NO_DIGIT) {
        labels[cell] = NO_DIGIT;
      } else {
        labels[cell] = digits.label(images[cell]);
        int corner = (cell / cells * side + cell % cells) * Digits.SIDE;
        digits.paint(images[cell], canvas, corner, side);
      }
    }
    return new Scene(cells, labels, canvas);
  }

  @Override
  public int side() {
    return cells * Digits.SIDE;
  }

  /**
   * The number of cells that hold {@code digit}; with {@link #NO_DIGIT}, the number of empty cells.
   */
  public int count(int digit) {
    return (int) Arrays.stream(labels).filter(label -> label == digit).count();
  }

  /** The number of different digits in the cells. */
  int distinctDigits() {
    return (int) Arrays.stream(labels).filter(label -> label != NO_DIGIT).distinct().count();
  }

  /**
   * The token of each cell in reading order, [cells · cells]: a digit, or {@link Vocabulary#EMPTY}.
   */
  public int[] reading() {
    return Arrays.stream(labels).map(Vocabulary::cell).toArray();
  }
}
