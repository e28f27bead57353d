package dev.saccade.train.variance;

import dev.saccade.AttentionPolicy;
import dev.saccade.Divergence;
import dev.saccade.GroupAdvantage;
import dev.saccade.train.TrainConfig.AttentionTerm.Support;

/**
 * Which attention policies the attention estimators are of.
 *
 * @param layers 0 … layers − 1
 * @param headBegin first head
 * @param headEnd end of the heads; -1: all
 * @param divergence of RAL's term
 * @param beta of JSD
 * @param advantage that weighs the rows
 */
record AttentionChoice(
    int[] layers,
    int headBegin,
    int headEnd,
    Divergence divergence,
    float beta,
    GroupAdvantage.Estimator advantage) {
  AttentionPolicy.Options options(Support support) {
    return AttentionPolicy.Options.DEFAULT
        .withHeads(headBegin, headEnd)
        .withSupport(
            switch (support) {
              case ALL -> AttentionPolicy.Support.ALL;
              case PREVIOUS -> AttentionPolicy.Support.PREVIOUS;
              case VISUAL -> AttentionPolicy.Support.RANGES;
            });
  }
}
