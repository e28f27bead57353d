package dev.saccade.train.variance;

import dev.saccade.KlEstimator;
import dev.saccade.PolicyLoss;
import dev.saccade.train.TrainConfig.AttentionTerm.Support;

/**
 * What a measurement is made under: the factors that a study varies.
 *
 * @param group responses to a prompt that an estimator sees together
 * @param temperature of sampling, and of the policy in the loss
 * @param aggregation weights of the tokens in the policy loss; {@code SEQ_MEAN_TOKEN_SUM}, the mean
 *     over the responses of the sum over the tokens, is the one without bias
 * @param klEstimator of the KL term
 * @param klCoef coefficient of the estimators {@code kl}
 * @param clipLow of the ratio, below; 1: none
 * @param clipHigh of the ratio, above
 * @param responseLength most tokens of a response; 0: what the task needs
 * @param visualTokens patches of the image that are kept, evenly spaced; 0: all
 * @param staleness optimizer steps between the policy that samples, whose attention is the
 *     reference, and the one whose gradient is measured
 * @param lambda weight of the attention estimators
 * @param support keys that an attention policy is over
 */
public record Setting(
    int group,
    double temperature,
    PolicyLoss.Aggregation aggregation,
    KlEstimator klEstimator,
    double klCoef,
    double clipLow,
    double clipHigh,
    int responseLength,
    int visualTokens,
    int staleness,
    double lambda,
    Support support) {
  /** Groups of 8, temperature 1, sums of tokens, K3, PPO's clips, λ 1, PREVIOUS, fresh. */
  public static final Setting DEFAULT =
      new Setting(
          8,
          1,
          PolicyLoss.Aggregation.SEQ_MEAN_TOKEN_SUM,
          KlEstimator.K3,
          1,
          0.2,
          0.2,
          0,
          0,
          0,
          1,
          Support.PREVIOUS);

  public Setting {
    require(group >= 2, "group", "2 or more", group);
    require((float) temperature > 0, "temperature", "a number above 0", temperature);
    require(klCoef == klCoef, "klCoef", "a number", klCoef);
    require(clipLow >= 0 && clipLow <= 1, "clipLow", "a number from 0 to 1", clipLow);
    require(clipHigh >= 0, "clipHigh", "0 or more", clipHigh);
    require(responseLength >= 0, "responseLength", "0 or more", responseLength);
    require(visualTokens >= 0, "visualTokens", "0 or more", visualTokens);
    require(staleness >= 0, "staleness", "0 or more", staleness);
    require(lambda == lambda, "lambda", "a number", lambda);
  }

  static void require(boolean fits, String name, String expected, Object actual) {
    if (!fits) {
      throw new IllegalArgumentException(name + ": expected " + expected + ", got " + actual);
    }
  }
}
