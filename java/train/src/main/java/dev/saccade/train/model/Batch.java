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
 *
 * <p>Batches whose shapes are to repeat are padded: every sequence has the same number of rows and
 * of response rows. Rows without a token follow a sequence, where causal attention hides them from
 * its others; response rows that predict no token of the response have the target {@link #IGNORED}.
 */
public final class Batch {
  /** The target of a response row that predicts no token of the response. */
  public static final int IGNORED = -100;

  private final List<Prompt> prompts;
  private final int[] promptOf;
  private final int[][] responses;
  private final Room room;
  private final int[] offsets;
  private final int[] responseOffsets;
  private final int longest;
  private final int tokens;
  private final int filled;

  /**
   * How large sequences are made.
   *
   * @param shortest tokens and patches of a prompt, at least
   * @param longest tokens and patches of a prompt, at most
   * @param response tokens of a response, at most
   */
  public record Room(int shortest, int longest, int response) {
    /** That of prompts with responses of any length up to {@code response}. */
    public static Room of(List<Prompt> prompts, int response) {
      return new Room(
          prompts.stream().mapToInt(Prompt::length).min().orElse(1),
          prompts.stream().mapToInt(Prompt::length).max().orElse(1),
          response);
    }

    private int rows() {
      return Math.addExact(longest, response - 1);
    }

    /** Those from the last token of the shortest prompt on. */
    private int responseRows() {
      return rows() - (shortest - 1);
    }
  }

  private Batch(List<Prompt> prompts, int[] promptOf, int[][] responses, Room room) {
    this.prompts = prompts;
    this.promptOf = promptOf;
    this.responses = responses;
    this.room = room;
    int sequences = responses.length;
    offsets = new int[sequences + 1];
    responseOffsets = new int[sequences + 1];
    int most = 0;
    int all = 0;
    int taken = 0;
    for (int s = 0; s < sequences; s++) {
      int response = responses[s].length;
      if (response == 0) {
        throw new IllegalArgumentException(
            "responses: expected at least one token each, got none at " + s);
      }
      int prompt = prompts.get(promptOf[s]).length();
      Room own = room == null ? new Room(prompt, prompt, response) : room;
      if (prompt < own.shortest || prompt > own.longest || response > own.response) {
        throw new IllegalArgumentException(
            "responses: expected prompts and responses that fit %s, got lengths %d and %d at %d"
                .formatted(own, prompt, response, s));
      }
      offsets[s + 1] = Math.addExact(offsets[s], own.rows());
      responseOffsets[s + 1] = responseOffsets[s] + own.responseRows();
      most = Math.max(most, own.rows());
      all += response;
      taken += prompt + response - 1;
    }
    longest = most;
    tokens = all;
    filled = taken;
  }

  /**
   * Packs responses to prompts.
   *
   * @param promptOf which prompt each response answers, an index into {@code prompts}
   * @param responses token ids of each response, at least one
   */
  public static Batch of(List<Prompt> prompts, int[] promptOf, int[][] responses) {
    return padded(prompts, promptOf, responses, null);
  }

  /**
   * Packs responses to prompts, every sequence with the same room.
   *
   * @param room of each sequence; null: no more than it takes
   */
  public static Batch padded(List<Prompt> prompts, int[] promptOf, int[][] responses, Room room) {
    if (promptOf.length != responses.length) {
      throw new IllegalArgumentException(
          "promptOf: expected " + responses.length + " indices, got " + promptOf.length);
    }
    return new Batch(List.copyOf(prompts), promptOf.clone(), responses.clone(), room);
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

  /** Room of every sequence; null where each has its own length. */
  Room room() {
    return room;
  }

  /** Number of sequences. */
  public int sequences() {
    return responses.length;
  }

  /** Rows of all sequences. */
  public int rows() {
    return offsets[offsets.length - 1];
  }

  /** Rows that hold a patch or a token. */
  public int filledRows() {
    return filled;
  }

  /** Tokens of all responses. */
  public int tokens() {
    return tokens;
  }

  /** Response rows of all sequences: one for each response token, and those that are ignored. */
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

  /** The response row that predicts the first token of a response. */
  public int firstRow(int s) {
    int first = prompts.get(promptOf[s]).length() - 1;
    return responseOffsets[s + 1] - (offsets[s + 1] - offsets[s] - first);
  }

  /** The token that each response row predicts, or {@link #IGNORED}. */
  public int[] targets() {
    int[] targets = new int[responseRows()];
    Arrays.fill(targets, IGNORED);
    for (int s = 0; s < responses.length; s++) {
      System.arraycopy(responses[s], 0, targets, firstRow(s), responses[s].length);
    }
    return targets;
  }

  /** The sequence of each response row that predicts a token; -1 of others. */
  public int[] sequenceOfRows() {
    int[] sequences = new int[responseRows()];
    Arrays.fill(sequences, -1);
    for (int s = 0; s < responses.length; s++) {
      int first = firstRow(s);
      Arrays.fill(sequences, first, first + responses[s].length, s);
    }
    return sequences;
  }

  /** A value for each sequence, repeated over the rows of its response tokens; 0 in others. */
  public float[] perResponseRow(float[] perSequence) {
    int[] sequences = sequenceOfRows();
    float[] rows = new float[sequences.length];
    for (int r = 0; r < rows.length; r++) {
      rows[r] = sequences[r] < 0 ? 0 : perSequence[sequences[r]];
    }
    return rows;
  }
}
