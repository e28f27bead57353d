package dev.saccade.train;

import java.util.Locale;

/**
 * Learning rules by name: presets of section {@code rl} of a configuration, which {@code
 * rules.yaml} among the resources holds. All but {@link #SFT} are one rule with other numbers.
 */
public enum Algorithm {
  /** Supervised training alone: −log-probability of the reference answer. */
  SFT,
  /** Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300). */
  GRPO,
  /** Without deviations and lengths as divisors (arXiv 2503.20783). */
  DR_GRPO,
  /** REINFORCE with the mean of the other responses as its baseline (arXiv 2402.14740). */
  RLOO,
  /** A higher upper clip, and groups that tell nothing are replaced (arXiv 2503.14476). */
  DAPO,
  /** Ratios of whole sequences (arXiv 2507.18071). */
  GSPO,
  /** Clipped, detached ratios (MiniMax-M1, arXiv 2506.13585). */
  CISPO,
  /** A sigmoid in the place of the clip (arXiv 2511.20347). */
  SAPO,
  /** GRPO with a KL coefficient that falls, then rises (OThink-MR1, arXiv 2503.16081v2). */
  GRPO_D,
  /** GRPO with an advantage-weighted attention divergence (RAL, arXiv 2602.04884). */
  RAL,
  /** Distillation on the student's own responses, without rewards (arXiv 2306.13649). */
  GKD;

  /** The name in configurations and on the command line. */
  public String id() {
    return name().toLowerCase(Locale.ROOT);
  }
}
