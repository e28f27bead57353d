package dev.saccade.train;

import dev.saccade.Context;
import dev.saccade.train.model.Transformer;
import dev.saccade.train.model.TransformerConfig;
import dev.saccade.train.task.Example;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * How long rollout batches take, without metrics, evaluations and checkpoints: of a fresh policy,
 * on questions that are drawn beforehand.
 */
public final class TrainingLoop {
  /** The first records what others launch again. */
  private static final int WARM_UP = 3;

  private TrainingLoop() {}

  /**
   * Times of a rollout batch, medians.
   *
   * @param seconds from the questions to the numbers of the last optimizer step
   * @param stages seconds of each stage, where the device is waited for at its end: {@code
   *     question} (cutting images), {@code sample}, {@code score}, {@code prepare} (what models say
   *     before the first optimizer step) and {@code update}
   */
  public record Times(double seconds, Map<String, Double> stages) {}

  /**
   * Runs rollout batches.
   *
   * @param context on whose device the time is measured
   * @param config of a rule without a teacher
   * @param batches that are measured, at least 1
   * @param warmUp how long batches run before them, so that the JVM has compiled what they do
   */
  public static Times measure(Context context, TrainConfig config, int batches, Duration warmUp) {
    if (batches < 1) {
      throw new IllegalArgumentException("batches: expected at least 1, got " + batches);
    }
    MatrixProducts.provideTo(context);
    List<Example> examples = config.scenes().get(0, config.rl().prompts());
    try (Transformer policy = policy(context, config);
        Transformer old = policy.copy();
        Transformer reference = policy.copy();
        Optimizer optimizer = new Optimizer(policy, config.rl().optimizer())) {
      PolicyGradientStep.Models models =
          new PolicyGradientStep.Models(policy, old, reference, null);
      Update update = optimizer.update(config.rl().optimizer().learningRate());
      List<Double> seconds = new ArrayList<>();
      Map<String, List<Double>> stages = new LinkedHashMap<>();
      for (boolean timed : new boolean[] {false, true}) {
        try (PolicyGradientStep rule = new PolicyGradientStep(config, models, timed)) {
          long start = System.nanoTime();
          int left = batches;
          for (int i = 0; left > 0; i++) {
            long begin = System.nanoTime();
            Map<String, Object> metrics =
                rule.run(count -> examples, config.seed(), i, config.rl().kl(), update);
            double taken = (System.nanoTime() - begin) * 1e-9;
            if (i < WARM_UP || begin - start < warmUp.toNanos()) {
              continue;
            }
            left--;
            if (timed) {
              metrics.forEach((name, value) -> add(stages, name, value));
            } else {
              seconds.add(taken);
            }
          }
        }
      }
      Map<String, Double> medians = new LinkedHashMap<>();
      stages.forEach((name, all) -> medians.put(name, median(all)));
      return new Times(median(seconds), medians);
    }
  }

  private static Transformer policy(Context context, TrainConfig config) {
    return Transformer.create(context, config.transformer(), config.seed(), config.precision());
  }

  private static void add(Map<String, List<Double>> stages, String name, Object value) {
    if (name.endsWith(Stages.SECONDS)) {
      String stage = name.substring(0, name.length() - Stages.SECONDS.length());
      stages.computeIfAbsent(stage, any -> new ArrayList<>()).add((Double) value);
    }
  }

  private static double median(List<Double> values) {
    return values.stream().sorted().toList().get(values.size() / 2);
  }

  /**
   * What decides the shapes of a rollout batch.
   *
   * @param model of the policy
   * @param visual tokens of a prompt, the most
   * @param question tokens of text of a prompt, the most
   * @param response tokens, the most
   */
  public record Sizes(TransformerConfig model, int visual, int question, int response) {}

  /** The sizes of a configuration. */
  public static Sizes sizes(TrainConfig config) {
    int visual = 0;
    int question = 0;
    for (Example example : config.scenes().get(0, config.rl().prompts())) {
      visual = Math.max(visual, Evaluator.prompt(example, config.patch()).patchCount());
      question = Math.max(question, example.question().length);
    }
    return new Sizes(config.transformer(), visual, question, config.responseLength());
  }
}
