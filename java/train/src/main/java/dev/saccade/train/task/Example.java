package dev.saccade.train.task;

import static dev.saccade.train.task.Vocabulary.ANSWER;
import static dev.saccade.train.task.Vocabulary.END_ANSWER;
import static dev.saccade.train.task.Vocabulary.END_THINK;
import static dev.saccade.train.task.Vocabulary.THINK;

import java.util.stream.IntStream;

/**
 * A question about an image, with its answer.
 *
 * <p>The arrays are shared, not copied: treat them as read-only.
 *
 * @param task the name of the task that asked
 * @param image what is seen
 * @param question the tokens that follow the visual tokens
 * @param thoughts the tokens between {@code <think>} and {@code </think>} of the reference response
 * @param truth the tokens of the right answer, at least one
 */
public record Example(String task, Image image, int[] question, int[] thoughts, int[] truth) {

  /** An example whose thoughts are the reading of the scene. */
  public Example(String task, Scene scene, int[] question, int[] truth) {
    this(task, scene, question, scene.reading(), truth);
  }

  /**
   * The reference response, in a new array: {@code <answer> truth </answer>}, after {@code <think>
   * thoughts </think>} if {@code thinking}.
   */
  public int[] reference(boolean thinking) {
    IntStream answer = enclosed(ANSWER, truth, END_ANSWER);
    return (thinking ? IntStream.concat(enclosed(THINK, thoughts, END_THINK), answer) : answer)
        .toArray();
  }

  private static IntStream enclosed(int open, int[] tokens, int close) {
    return IntStream.concat(
        IntStream.concat(IntStream.of(open), IntStream.of(tokens)), IntStream.of(close));
  }
}
