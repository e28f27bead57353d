package dev.saccade.train.task;

import java.util.random.RandomGenerator;

/**
 * "How long is this segment?": {@code LENGTH}, answered by 1 … 9, of which an image is {@value
 * Drawing#UNITS} wide. All answers are equally likely, and so are all directions.
 *
 * <p>The thoughts are the places of its ends, x y x y, the left one first, each rounded down to 0 …
 * 9 units from a margin of one.
 */
public final class LengthTask implements Task {
  private static final int MARGIN = 1;

  @Override
  public String name() {
    return "length";
  }

  @Override
  public int vocabulary() {
    return Vocabulary.LENGTH + 1;
  }

  @Override
  public int questionLength() {
    return 1;
  }

  @Override
  public int thoughtsLength(int cells) {
    return 4;
  }

  @Override
  public Example example(Setting setting, RandomGenerator random) {
    int length = 1 + random.nextInt(9);
    // Left to right.
    double direction = (random.nextDouble() - 0.5) * Math.PI;
    double dx = length * StrictMath.cos(direction);
    double dy = length * StrictMath.sin(direction);
    double room = Drawing.UNITS - 2.0 * MARGIN;
    double x = MARGIN + random.nextDouble() * (room - dx);
    double y = MARGIN + Math.max(0, -dy) + random.nextDouble() * (room - Math.abs(dy));
    Drawing drawing = new Drawing(setting.cells() * Digits.SIDE).segment(x, y, x + dx, y + dy);
    int[] thoughts = {place(x), place(y), place(x + dx), place(y + dy)};
    int[] question = {Vocabulary.LENGTH};
    return new Example(name(), drawing, question, thoughts, Vocabulary.number(length));
  }

  private static int place(double coordinate) {
    return Vocabulary.digit((int) Math.max(0, Math.min(9, Math.floor(coordinate - MARGIN))));
  }
}
