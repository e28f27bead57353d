package dev.saccade;

/**
 * Estimators of KL(π‖ref) from the log-probabilities of sampled tokens, and the gradient that each
 * gives (Schulman, "Approximating KL divergence", 2020). With δ = clamp(ref_log_prob - log_prob,
 * ±20), in nats.
 */
public enum KlEstimator {
  /** -δ: unbiased, of either sign; gradient 1. */
  K1,
  /** |δ|; gradient -sign δ. */
  ABS,
  /** δ²/2: biased, low variance; gradient -δ, which is the unbiased gradient of the reverse KL. */
  K2,
  /** exp δ - 1 - δ: unbiased, never negative; gradient 1 - exp δ, 0 where δ was clamped. */
  K3,
  /** The value of {@link #K1} with the gradient of {@link #K2} (straight-through). */
  K1_ST,
  /** The value of {@link #K3} with the gradient of {@link #K2} (straight-through). */
  K3_ST;

  /** {@code saccade_kl_estimator} of the C ABI. */
  int code() {
    return ordinal();
  }
}
