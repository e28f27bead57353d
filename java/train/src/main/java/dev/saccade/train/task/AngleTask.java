package dev.saccade.train.task;

import java.util.random.RandomGenerator;
import java.util.stream.IntStream;

/**
 * "How large is this angle?": {@code ANGLE}, answered by its degrees, a multiple of {@value #STEP}
 * from {@value #STEP} to 165. All answers are equally likely, and the angle is turned at random.
 *
 * <p>The thoughts are the directions of its two legs, clockwise from the right, in steps of {@value
 * #STEP} degrees rounded to the nearest, two digits each; the second is the first turned clockwise
 * by the angle.
 */
public final class AngleTask implements Task {
  /** Degrees between two answers. */
  static final int STEP = 15;

  private static final int STEPS = 360 / STEP;
  private static final double LEG = 4.5;
  private static final double MARGIN = 0.5;

  @Override
  public String name() {
    return "angle";
  }

  @Override
  public int vocabulary() {
    return Vocabulary.ANGLE + 1;
  }

  @Override
  public int questionLength() {
    return 1;
  }

  @Override
  public int answerLength(int cells) {
    return 3;
  }

  @Override
  public int thoughtsLength(int cells) {
    return 4;
  }

  @Override
  public Example example(Setting setting, RandomGenerator random) {
    int steps = 1 + random.nextInt(180 / STEP - 1);
    while (true) {
      // In steps.
      double first = random.nextDouble() * STEPS;
      double x = random.nextDouble() * Drawing.UNITS;
      double y = random.nextDouble() * Drawing.UNITS;
      double[] one = end(x, y, first);
      double[] other = end(x, y, first + steps);
      if (isInside(x, y) && isInside(one[0], one[1]) && isInside(other[0], other[1])) {
        Drawing drawing =
            new Drawing(setting.cells() * Digits.SIDE)
                .segment(x, y, one[0], one[1])
                .segment(x, y, other[0], other[1]);
        int nearest = (int) Math.floor(first + 0.5);
        int[] thoughts = IntStream.concat(direction(nearest), direction(nearest + steps)).toArray();
        int[] question = {Vocabulary.ANGLE};
        int[] truth = Vocabulary.number(STEP * steps);
        return new Example(name(), drawing, question, thoughts, truth);
      }
    }
  }

  private static double[] end(double x, double y, double steps) {
    double radians = Math.toRadians(STEP * steps);
    return new double[] {x + LEG * StrictMath.cos(radians), y + LEG * StrictMath.sin(radians)};
  }

  private static boolean isInside(double x, double y) {
    double most = Drawing.UNITS - MARGIN;
    return x >= MARGIN && x <= most && y >= MARGIN && y <= most;
  }

  private static IntStream direction(int steps) {
    int turned = steps % STEPS;
    return IntStream.of(Vocabulary.digit(turned / 10), Vocabulary.digit(turned % 10));
  }
}
