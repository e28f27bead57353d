package dev.saccade.train.task;

import static dev.saccade.train.task.Vocabulary.ANSWER;
import static dev.saccade.train.task.Vocabulary.END_ANSWER;
import static dev.saccade.train.task.Vocabulary.END_THINK;
import static dev.saccade.train.task.Vocabulary.FIRST;
import static dev.saccade.train.task.Vocabulary.SECOND;
import static dev.saccade.train.task.Vocabulary.THINK;

import java.util.Arrays;
import java.util.Objects;
import java.util.Optional;

/**
 * The rule that scores a response: {@code accuracyWeight · accuracy + formatWeight · format}.
 *
 * <ul>
 *   <li><b>Accuracy</b> is 1 if the response has one answer and it is the truth, token by token. It
 *       has one answer if {@code <answer>} and {@code </answer>} occur once each, in this order,
 *       with one token or more between them, whatever stands elsewhere.
 *   <li><b>Format</b> is 1 if the response is exactly {@code <think> … </think> <answer> a
 *       </answer>}: between the first two tags one or more tokens that are neither tags nor {@code
 *       <pad>}, then {@code first}, {@code second} or a number in decimal, of at most {@code
 *       digits} digits and without leading zeros, and nothing before or after. The thinking block
 *       must be there if {@code thinking}, and may be there otherwise. The question does not
 *       matter.
 * </ul>
 *
 * @param accuracyWeight finite, not negative
 * @param formatWeight finite, not negative
 * @param thinking whether the format requires the thinking block
 * @param digits the most digits of a number, at least 1
 */
public record Reward(double accuracyWeight, double formatWeight, boolean thinking, int digits) {

  /**
   * Checks ranges.
   *
   * @throws IllegalArgumentException if a weight is negative or not finite, or there is no digit
   */
  public Reward {
    check("accuracyWeight", accuracyWeight);
    check("formatWeight", formatWeight);
    if (digits < 1) {
      throw new IllegalArgumentException("digits must be at least 1, got " + digits);
    }
  }

  /** The usual weights, 0.9 and 0.1 (RAL). */
  public Reward(boolean thinking, int digits) {
    this(0.9, 0.1, thinking, digits);
  }

  /**
   * Scores a response.
   *
   * @param response its tokens, up to and with the stop token if there is one
   * @param truth the tokens of the right answer
   */
  public Score score(int[] response, int[] truth) {
    return score(response, 0, response.length, truth);
  }

  /**
   * Scores a response that lies in a packed array.
   *
   * @param tokens packed sequences
   * @param begin first token of the response
   * @param end past its last token, which is the stop token if there is one
   * @param truth the tokens of the right answer
   * @throws IndexOutOfBoundsException unless 0 ≤ begin ≤ end ≤ tokens.length
   */
  public Score score(int[] tokens, int begin, int end, int[] truth) {
    Objects.checkFromToIndex(begin, end, tokens.length);
    Optional<int[]> answer = answer(tokens, begin, end);
    double accuracy = answer.isPresent() && Arrays.equals(answer.get(), truth) ? 1 : 0;
    double format = isExact(tokens, begin, end) ? 1 : 0;
    return new Score(accuracy, format, accuracyWeight * accuracy + formatWeight * format);
  }

  /** The tokens of the one answer of a response; empty if there is none, or more than one. */
  public static Optional<int[]> answer(int... response) {
    return answer(response, 0, response.length);
  }

  private static Optional<int[]> answer(int[] tokens, int begin, int end) {
    int open = only(ANSWER, tokens, begin, end);
    int close = only(END_ANSWER, tokens, begin, end);
    return open >= 0 && close > open + 1
        ? Optional.of(Arrays.copyOfRange(tokens, open + 1, close))
        : Optional.empty();
  }

  private boolean isExact(int[] tokens, int begin, int end) {
    int at = begin;
    if (at < end && tokens[at] == THINK) {
      int thoughts = ++at;
      while (at < end && !Vocabulary.isStructure(tokens[at])) {
        at++;
      }
      if (at == thoughts || at == end || tokens[at++] != END_THINK) {
        return false;
      }
    } else if (thinking) {
      return false;
    }
    return end - at >= 3
        && tokens[at] == ANSWER
        && isAnswer(tokens, at + 1, end - 1)
        && tokens[end - 1] == END_ANSWER;
  }

  private boolean isAnswer(int[] tokens, int begin, int end) {
    if (end - begin == 1 && (tokens[begin] == FIRST || tokens[begin] == SECOND)) {
      return true;
    }
    return end - begin <= digits
        && Arrays.stream(tokens, begin, end).allMatch(Vocabulary::isDigit)
        && (end - begin == 1 || tokens[begin] != Vocabulary.digit(0));
  }

  /** The position of a token that occurs exactly once, or −1. */
  private static int only(int token, int[] tokens, int begin, int end) {
    int position = -1;
    for (int i = begin; i < end; i++) {
      if (tokens[i] == token) {
        if (position >= 0) {
          return -1;
        }
        position = i;
      }
    }
    return position;
  }

  private static void check(String name, double weight) {
    if (!(weight >= 0 && weight < Double.POSITIVE_INFINITY)) {
      throw new IllegalArgumentException(name + " must be finite and not negative, got " + weight);
    }
  }
}
