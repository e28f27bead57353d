package dev.saccade;

import dev.saccade.binding.Saccade;

/** Divergences between two distributions: a reference r and a policy p. */
public enum Divergence {
  /** β·KL(r‖M) + (1−β)·KL(p‖M) with M = β·r + (1−β)·p. */
  JSD(Saccade.SACCADE_DIVERGENCE_JSD),
  /** KL(r‖p). */
  FORWARD_KL(Saccade.SACCADE_DIVERGENCE_FORWARD_KL),
  /** KL(p‖r). */
  REVERSE_KL(Saccade.SACCADE_DIVERGENCE_REVERSE_KL);

  private final int code;

  Divergence(int code) {
    this.code = code;
  }

  int code() {
    return code;
  }
}
