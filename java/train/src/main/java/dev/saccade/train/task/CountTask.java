package dev.saccade.train.task;

import java.util.random.RandomGenerator;
import java.util.stream.IntStream;

/**
 * "How often does this digit occur?": {@code COUNT d}, answered by the digit 0 … 9 of the number.
 *
 * <p>The digit is one that occurs with probability {@value #PRESENT_PROBABILITY}, and otherwise one
 * that does not, uniformly among those; where there is none of a kind, of the other kind. A digit
 * that occurs more than nine times is never asked for.
 */
public final class CountTask extends DigitTask {

  /** The probability that the digit asked for occurs. */
  public static final double PRESENT_PROBABILITY = 0.7;

  @Override
  public String name() {
    return "count";
  }

  @Override
  public int vocabulary() {
    return Vocabulary.BASIC_SIZE;
  }

  @Override
  public int questionLength() {
    return 2;
  }

  @Override
  Example example(Scene scene, RandomGenerator random) {
    int[] present = IntStream.range(0, 10).filter(d -> isCountable(scene.count(d))).toArray();
    int[] absent = IntStream.range(0, 10).filter(d -> scene.count(d) == 0).toArray();
    boolean askPresent = random.nextDouble() < PRESENT_PROBABILITY;
    int[] candidates = absent.length == 0 || (askPresent && present.length > 0) ? present : absent;
    int digit = candidates[random.nextInt(candidates.length)];
    int[] question = {Vocabulary.COUNT, Vocabulary.digit(digit)};
    return new Example(name(), scene, question, Vocabulary.number(scene.count(digit)));
  }

  private static boolean isCountable(int count) {
    return count >= 1 && count <= 9;
  }
}
