package dev.saccade.train;

/** Learning rules of {@link Trainer}. */
public enum Algorithm {
  /** The supervised warm-up alone: −log-probability of the reference answer. */
  SFT,
  /** Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300). */
  GRPO,
  /** GRPO with an advantage-weighted attention divergence (RAL, arXiv 2602.04884). */
  RAL;

  /** The name in configurations and on the command line. */
  public String id() {
    return name().toLowerCase(java.util.Locale.ROOT);
  }
}
