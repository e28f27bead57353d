package dev.saccade.train.model;

/**
 * What a policy is asked: an image as patches, then a question as tokens.
 *
 * @param patches f32[patchCount * patchSize], row-major; may be empty for a question without an
 *     image
 * @param patchCount number of patches: the visual tokens of the sequence
 * @param question token ids, at least one
 */
public record Prompt(float[] patches, int patchCount, int[] question) {
  public Prompt {
    if (question.length == 0) {
      throw new IllegalArgumentException("question: expected at least one token, got none");
    }
    if (patchCount < 0
        || (patchCount == 0 ? patches.length != 0 : patches.length % patchCount != 0)) {
      throw new IllegalArgumentException(
          "patches: expected a multiple of patchCount " + patchCount + ", got " + patches.length);
    }
  }

  /** Sequence positions of the prompt. */
  public int length() {
    return patchCount + question.length;
  }
}
