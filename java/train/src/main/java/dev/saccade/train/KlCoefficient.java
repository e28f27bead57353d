package dev.saccade.train;

/**
 * The coefficient of the KL term over the optimizer steps of a run.
 *
 * @param schedule which of the other values count
 * @param coef {@code CONSTANT}: the coefficient; {@code ADAPTIVE}: the coefficient of the next step
 * @param min {@code GRPO_D}, {@code RISING}: the least coefficient
 * @param max {@code GRPO_D}, {@code RISING}: the coefficient after the last step
 * @param target {@code ADAPTIVE}: the KL divergence to be held, in nats per token
 * @param horizon {@code ADAPTIVE}: responses over which the coefficient changes by a fifth at most
 */
public record KlCoefficient(
    Schedule schedule, double coef, double min, double max, double target, double horizon) {
  private static final double TURN = 0.3;
  private static final double MOST_ERROR = 0.2;

  /** How the coefficient goes. */
  public enum Schedule {
    /** It stays as it is. */
    CONSTANT,
    /**
     * From the middle of min and max to min over the first three tenths of the steps, then to max,
     * linearly: OThink-MR1, arXiv 2503.16081v2.
     */
    GRPO_D,
    /** From min to max, linearly. */
    RISING,
    /**
     * Multiplied after every step by 1 + clip(KL / target − 1, ±0.2) · responses / horizon: Ziegler
     * et al., arXiv 1909.08593.
     */
    ADAPTIVE
  }

  /**
   * Checks what the schedule uses.
   *
   * @param prefix of the names in messages
   * @param responses responses of an optimizer step
   * @throws IllegalArgumentException if a value is out of range
   */
  void require(String prefix, int responses) {
    boolean ramp = schedule == Schedule.GRPO_D || schedule == Schedule.RISING;
    boolean adaptive = schedule == Schedule.ADAPTIVE;
    require(prefix, "coef", coef, adaptive);
    require(prefix, "min", min, false);
    require(prefix, "max", max, ramp);
    require(prefix, "target", target, adaptive);
    require(prefix, "horizon", horizon, adaptive);
    TrainConfig.require(
        !ramp || max >= min, prefix + "max", "at least " + prefix + "min = " + min, max);
    TrainConfig.require(
        !adaptive || horizon >= responses,
        prefix + "horizon",
        "at least the " + responses + " responses of an optimizer step",
        horizon);
  }

  private void require(String prefix, String name, double value, boolean above0) {
    TrainConfig.require(
        above0 ? value > 0 : value >= 0,
        prefix + name,
        above0 ? "a number above 0 with " + prefix + "schedule " + schedule : "0 or more",
        value);
  }

  /** Whether there is no KL term at any step. */
  boolean isZero() {
    return schedule == Schedule.CONSTANT && coef == 0;
  }

  /**
   * The coefficient of a step.
   *
   * @param step optimizer steps taken before it, 0 to {@code steps}
   * @param steps optimizer steps of the run, at least 1
   */
  public double at(long step, long steps) {
    return switch (schedule) {
      case CONSTANT, ADAPTIVE -> coef;
      case RISING -> between(min, max, step, steps);
      case GRPO_D -> {
        double turn = TURN * steps;
        yield step <= turn
            ? between((min + max) / 2, min, step, turn)
            : between(min, max, step - turn, steps - turn);
      }
    };
  }

  private static double between(double from, double to, double part, double whole) {
    return from + (to - from) * (part / whole);
  }

  /**
   * What a step leaves to the next; NaN changes nothing.
   *
   * @param kl mean over the tokens of the step
   * @param responses responses of the step
   */
  public KlCoefficient after(double kl, int responses) {
    if (schedule != Schedule.ADAPTIVE || Double.isNaN(kl)) {
      return this;
    }
    double error = Math.max(-MOST_ERROR, Math.min(MOST_ERROR, kl / target - 1));
    return withCoef(coef * (1 + error * responses / horizon));
  }

  KlCoefficient withCoef(double coef) {
    return new KlCoefficient(schedule, coef, min, max, target, horizon);
  }
}
