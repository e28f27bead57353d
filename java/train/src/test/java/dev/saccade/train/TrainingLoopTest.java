package dev.saccade.train;

import static org.assertj.core.api.Assertions.assertThat;

import dev.saccade.Context;
import dev.saccade.Device;
import dev.saccade.train.model.Transformer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class TrainingLoopTest {
  private static TrainConfig config(String rule) {
    return TrainConfig.preset("tiny")
        .with(
            Map.of(
                "algorithm",
                rule,
                "rl.distillation.teacher",
                "a model of the test",
                "rl.prompts",
                4,
                "rl.group",
                2,
                "task",
                "count+read"));
  }

  @Test
  void itTimesEveryStage() {
    try (Context context = Contexts.cpu(2)) {
      TrainingLoop.Times times = TrainingLoop.measure(context, config("grpo"), 1, Duration.ZERO);
      assertThat(times.seconds()).isPositive();
      assertThat(times.stages().keySet())
          .containsExactly("question", "sample", "score", "prepare", "update");
      assertThat(times.stages().values()).allMatch(seconds -> seconds > 0);
      assertThat(context.liveBytes()).isZero();
    }
  }

  /** A rollout batch whose graphs are launched gives the bits of one whose operations are. */
  @OnGpu
  @ParameterizedTest
  @CsvSource({
    "grpo, rl.kl.coef=0.1",
    "grpo_d, rl.epochs=2",
    "ral, rl.attention.entropy=0.1",
    "ral, rl.attention.support=VISUAL",
    "ral, rl.attention.referenceInterval=3",
    "gspo, rl.loss.aggregation=SEQ_MEAN_TOKEN_MEAN",
    "grpo, rl.kl.schedule=ADAPTIVE",
    "gkd, rl.distillation.gamma=0.5",
    "ral, rl.distillation.gamma=0.5",
  })
  void recordedBatchesHaveTheBitsOfOthers(String rule, String value) {
    String[] parts = value.split("=");
    TrainConfig config = config(rule).with(parts[0], ConfigTree.value(parts[1]));
    List<Object> recorded = numbers(Context.cuda(0), config);
    List<Object> plain =
        numbers(Context.builder().device(Device.cuda(0)).stream(0).build(), config);
    assertThat(recorded).isEqualTo(plain);
  }

  /** What is reported of some batches, and the weights after them. */
  private static List<Object> numbers(Context context, TrainConfig config) {
    MatrixProducts.provideTo(context);
    List<Object> numbers = new ArrayList<>();
    try (context;
        Transformer policy = Transformer.create(context, config.transformer(), 1);
        Transformer old = policy.copy();
        Transformer reference = policy.copy();
        Transformer teacher = Transformer.create(context, config.transformer(), 2);
        Optimizer optimizer = new Optimizer(policy, config.rl().optimizer());
        PolicyGradientStep rule =
            new PolicyGradientStep(
                config, new PolicyGradientStep.Models(policy, old, reference, teacher))) {
      KlCoefficient kl = config.rl().kl();
      for (int i = 0; i < 6; i++) {
        int batch = i;
        Map<String, Object> metrics =
            rule.run(
                count -> config.scenes().get((long) batch * count, count),
                1,
                i,
                kl,
                optimizer.update(1e-3 / (i + 1)));
        kl = rule.kl();
        metrics.keySet().removeIf(name -> name.endsWith(Stages.SECONDS));
        numbers.add(metrics);
      }
      policy.parameters().forEach(p -> numbers.add(Arrays.toString(p.value().toFloats())));
    }
    return numbers;
  }
}
