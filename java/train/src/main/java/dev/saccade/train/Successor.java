package dev.saccade.train;

import dev.saccade.train.model.Transformer;
import java.util.Map;

/** The policy that a few optimizer steps make of another. */
public final class Successor {
  /** Examples far behind those that runs come to. */
  private static final long FIRST_EXAMPLE = 1L << 40;

  private Successor() {}

  /**
   * A new policy: optimizer steps with the token policy gradient of a run's configuration, each on
   * a rollout batch of its own, at the peak of its learning rate.
   *
   * @param config of the run; its attention, distillation and KL terms are left out
   * @param steps number of optimizer steps
   * @param seed of the samples
   */
  public static Transformer after(Transformer policy, TrainConfig config, int steps, long seed) {
    TrainConfig plain =
        config.with(
            Map.of(
                "rl.weight", 1,
                "rl.minibatches", 1,
                "rl.epochs", 1,
                "rl.rounds", 1,
                "rl.kl.coef", 0,
                "rl.kl.schedule", KlCoefficient.Schedule.CONSTANT,
                "rl.attention.lambda", 0,
                "rl.attention.entropy", 0,
                "rl.distillation.mu", 0,
                "rl.distillation.gamma", 0));
    TrainConfig.Rl rl = plain.rl();
    Transformer next = policy.copy();
    try (Transformer old = policy.copy();
        Optimizer optimizer = new Optimizer(next, rl.optimizer());
        PolicyGradientStep rule =
            new PolicyGradientStep(plain, new PolicyGradientStep.Models(next, old, policy, null))) {
      for (int step = 0; step < steps; step++) {
        long begin = FIRST_EXAMPLE + (long) step * rl.prompts();
        rule.run(
            count -> plain.scenes().get(begin, count),
            seed,
            step,
            rl.kl(),
            optimizer.update(rl.optimizer().learningRate()));
      }
      return next;
    } catch (RuntimeException e) {
      next.close();
      throw e;
    }
  }
}
