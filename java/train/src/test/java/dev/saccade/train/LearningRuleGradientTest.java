package dev.saccade.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.withinPercentage;

import dev.saccade.Context;
import dev.saccade.Tensor;
import dev.saccade.train.model.Parameter;
import dev.saccade.train.model.Transformer;
import dev.saccade.train.task.Example;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.IntFunction;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * The gradient of the whole loss, through the model: a small step along it changes the loss that is
 * reported by the step's length times the square of its norm.
 */
class LearningRuleGradientTest {
  private static Context context;
  private static Transformer policy;
  private static Transformer other;
  private static Transformer old;
  private static Transformer teacher;

  private static TrainConfig config() {
    return TrainConfig.preset("tiny")
        .with(
            Map.of(
                "algorithm", Algorithm.GRPO,
                "model.layers", 2,
                "model.kvHeads", 2,
                "rl.kl.coef", 0,
                "rl.steps", 4,
                "rl.prompts", 12,
                "rl.minibatches", 1,
                "rl.epochs", 2,
                "rl.distillation.teacher", "teacher"));
  }

  /** A policy that answers in the right form, another of its size, and a larger one. */
  @BeforeAll
  static void train() {
    context = Context.builder().threads(2).build();
    OpenBlas.provideTo(context);
    policy = trained(config(), 60);
    other = trained(config().with("seed", 2), 60);
    old = other.copy();
    teacher =
        trained(
            config()
                .with(
                    Map.of(
                        "model.width", 48,
                        "model.layers", 3,
                        "model.heads", 4,
                        "model.kvHeads", 4,
                        "model.headDim", 8)),
            40);
  }

  private static Transformer trained(TrainConfig config, int steps) {
    Transformer model = Transformer.create(context, config.transformer(), config.seed());
    try (Optimizer optimizer = new Optimizer(model, config.sft().optimizer());
        SupervisedStep step = new SupervisedStep(model, config)) {
      for (int i = 0; i < steps; i++) {
        step.run(config.scenes().get(64L * i, 64), optimizer.update(3e-3));
      }
    }
    return model;
  }

  @AfterAll
  static void close() {
    teacher.close();
    old.close();
    other.close();
    policy.close();
    context.close();
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "rl.weight=1",
        "rl.weight=0.3; rl.kl.coef=0.5; rl.loss.entropy=0.1",
        "rl.advantage=DR_GRPO; rl.loss.aggregation=CONSTANT",
        "rl.advantage=RLOO; rl.loss.aggregation=SEQ_MEAN_TOKEN_SUM",
        "rl.loss.objective=GSPO; rl.loss.aggregation=SEQ_MEAN_TOKEN_MEAN",
        "rl.loss.objective=SAPO",
        "rl.loss.objective=REINFORCE",
        "rl.weight=1e-6; rl.attention.lambda=5; rl.attention.referenceInterval=2",
        "rl.weight=1e-6; rl.attention.lambda=5; rl.attention.referenceInterval=2;"
            + " rl.attention.layers=[0, 1]; rl.attention.headEnd=1; rl.attention.support=VISUAL",
        "rl.weight=1e-6; rl.attention.entropy=1; rl.attention.layers=[0, -1]",
        "rl.weight=1e-6; rl.distillation.mu=1; rl.distillation.beta=0.3; rl.temperature=1.3",
        "rl.weight=1e-6; rl.distillation.gamma=2; rl.attention.support=ALL",
        "rl.weight=1e-6; rl.distillation.gamma=2; rl.attention.layers=[0, 1];"
            + " rl.distillation.layers=[-3, 2]; rl.attention.support=VISUAL",
        "rl.weight=1; rl.kl.coef=0.1; rl.attention.lambda=5; rl.attention.entropy=0.5;"
            + " rl.attention.referenceInterval=2; rl.distillation.mu=1; rl.distillation.gamma=2",
      })
  void theGradientIsThatOfTheLoss(String values) {
    Map<String, Object> changes = new LinkedHashMap<>();
    for (String value : values.split(";")) {
      String[] parts = value.strip().split("=", 2);
      changes.put(parts[0], ConfigTree.value(parts[1]));
    }
    TrainConfig config = config().with(changes);

    double square = 0;
    List<float[]> gradient = gradients(config);
    for (float[] part : gradient) {
      for (float x : part) {
        square += (double) x * x;
      }
    }
    assertThat(square).isPositive();
    // A change of the loss far above the rounding of f32, and far below where it bends.
    double length = 2e-3 / Math.sqrt(square);

    double change = lossAfter(config, gradient, length) - lossAfter(config, gradient, -length);

    assertThat(change).isCloseTo(-2 * length * square, withinPercentage(2));
  }

  /** What the first update of a rollout batch gets. */
  private static List<float[]> gradients(TrainConfig config) {
    List<float[]> gradients = new ArrayList<>();
    run(
        config,
        norm -> {
          if (gradients.isEmpty()) {
            policy.parameters().forEach(p -> gradients.add(p.gradient().toFloats()));
          }
          done(norm);
        });
    return gradients;
  }

  /** The loss of the second update, with the policy changed between the two. */
  private static double lossAfter(TrainConfig config, List<float[]> gradient, double length) {
    List<float[]> before = policy.parameters().stream().map(p -> p.value().toFloats()).toList();
    double still = loss(config, LearningRuleGradientTest::done);
    int[] updates = {0};
    double mean =
        loss(
            config,
            norm -> {
              if (updates[0]++ == 0) {
                move(before, gradient, length);
              }
              done(norm);
            });
    move(before, gradient, 0);
    // Both numbers are means over the two updates.
    return 2 * mean - still;
  }

  private static void move(List<float[]> from, List<float[]> gradient, double length) {
    List<Parameter> parameters = policy.parameters();
    for (int i = 0; i < parameters.size(); i++) {
      float[] values = from.get(i).clone();
      for (int j = 0; j < values.length; j++) {
        values[j] -= (float) (length * gradient.get(i)[j]);
      }
      parameters.get(i).value().copyFrom(values);
    }
  }

  private static void done(Tensor norm) {
    norm.zero();
    policy.parameters().forEach(p -> p.gradient().zero());
  }

  private static double loss(TrainConfig config, Update update) {
    return (double) run(config, update).get("loss");
  }

  /** The second rollout batch: it leaves a stale reference as it is. */
  private static Map<String, Object> run(TrainConfig config, Update update) {
    IntFunction<List<Example>> questions = count -> config.scenes().get(10_000, count);
    boolean taught = config.rl().distillation().isOn();
    try (PolicyGradientStep rule =
        new PolicyGradientStep(
            config,
            new PolicyGradientStep.Models(policy, copyOfOther(), other, taught ? teacher : null))) {
      return rule.run(questions, 5, 1, config.rl().kl(), update);
    }
  }

  /** A fresh reference takes the policy's weights: that must not reach the one of the KL term. */
  private static Transformer copyOfOther() {
    old.copyFrom(other);
    return old;
  }
}
