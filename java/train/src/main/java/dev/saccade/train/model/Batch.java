package dev.saccade.train.model;

import java.util.Arrays;
import java.util.List;

/**
 * Prompts with responses, packed for one pass: sequence s is its prompt followed by its response
 * without the last token.
 *
 * <p>The last n rows of a sequence with n response tokens, its <i>response rows</i>, are the
 * positions that predict those tokens. Logits and queries are wanted for these rows alone; keys for
 * the whole sequence.
 */
public final class Batch {
  private final List<Prompt> prompts;
  private final int[] promptOf;
  private final int[][] responses;
  private final int[] offsets;
  private final int[] responseOffsets;
  private final int longest;

  private Batch(List<Prompt> prompts, int[] promptOf, int[][] responses) {
    this.prompts = prompts;
    this.promptOf = promptOf;
    this.responses = responses;
    int sequences = responses.length;
    offsets = new int[sequences + 1];
    responseOffsets = new int[sequences + 1];
    int most = 0;
    for (int s = 0; s < sequences; s++) {
      if (responses[s].length == 0) {
        throw new IllegalArgumentException(
            "responses: expected at least one token each, got none at " + s);
      }
      int length = prompts.get(promptOf[s]).length() + responses[s].length - 1;
      offsets[s + 1] = Math.addExact(offsets[s], length);
      responseOffsets[s + 1] = responseOffsets[s] + responses[s].length;
      most = Math.max(most, length);
    }
    longest = most;
  }

  /**
   * Packs responses to prompts.
   *
   * @param promptOf which prompt each response answers, an index into {@code prompts}
   * @param responses token ids of each response, at least one
   */
  public static Batch of(List<Prompt> prompts, int[] promptOf, int[][] responses) {
    if (promptOf.length != responses.length) {
      throw new IllegalArgumentException(
          "promptOf: expected " + responses.length + " indices, got " + promptOf.length);
    }
    return new Batch(List.copyOf(prompts), promptOf.clone(), responses.clone());
  }

  /** The prompts; several sequences may share one. */
  public List<Prompt> prompts() {
    return prompts;
  }

  /** Which prompt sequence s belongs to. */
  public int promptOf(int s) {
    return promptOf[s];
  }

  /** Response tokens of sequence s. */
  public int[] response(int s) {
    return responses[s];
  }

  /** Number of sequences. */
  public int sequences() {
    return responses.length;
  }

  /** Rows of all sequences. */
  public int rows() {
    return offsets[offsets.length - 1];
  }

  /** Response rows of all sequences: one for each response token. */
  public int responseRows() {
    return responseOffsets[responseOffsets.length - 1];
  }

  /** Rows of the longest sequence. */
  public int longest() {
    return longest;
  }

  /** First row of each sequence, and the end: {@code offsets_k} of the operations. */
  public int[] offsets() {
    return offsets.clone();
  }

  /** First response row of each sequence, and the end: {@code offsets_q} of the operations. */
  public int[] responseOffsets() {
    return responseOffsets.clone();
  }

  /** The token that each response row predicts. */
  public int[] targets() {
    int[] targets = new int[responseRows()];
    for (int s = 0; s < responses.length; s++) {
      System.arraycopy(responses[s], 0, targets, responseOffsets[s], responses[s].length);
    }
    return targets;
  }

  /** A value for each sequence, repeated over its response rows. */
  public float[] perResponseRow(float[] perSequence) {
    float[] rows = new float[responseRows()];
    for (int s = 0; s < responses.length; s++) {
      Arrays.fill(rows, responseOffsets[s], responseOffsets[s + 1], perSequence[s]);
    }
    return rows;
  }
}
