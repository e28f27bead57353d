package dev.saccade.train.model;

/**
 * Size of a {@link Transformer}.
 *
 * @param vocabulary number of tokens
 * @param patchSize values of an image patch
 * @param positions longest sequence
 * @param width of the residual stream
 * @param layers number of layers
 * @param heads query heads
 * @param kvHeads key heads, a divisor of {@code heads}
 * @param headDim dimension of a head
 * @param hidden width of the feed-forward layer
 */
public record TransformerConfig(
    int vocabulary,
    int patchSize,
    int positions,
    int width,
    int layers,
    int heads,
    int kvHeads,
    int headDim,
    int hidden) {
  public TransformerConfig {
    require("vocabulary", vocabulary);
    require("patchSize", patchSize);
    require("positions", positions);
    require("width", width);
    require("layers", layers);
    require("heads", heads);
    require("kvHeads", kvHeads);
    require("headDim", headDim);
    require("hidden", hidden);
    if (heads % kvHeads != 0) {
      throw new IllegalArgumentException(
          "heads: expected a multiple of kvHeads " + kvHeads + ", got " + heads);
    }
  }

  private static void require(String name, int value) {
    if (value < 1) {
      throw new IllegalArgumentException(name + ": expected at least 1, got " + value);
    }
  }

  int qkvWidth() {
    return (heads + 2 * kvHeads) * headDim;
  }
}
