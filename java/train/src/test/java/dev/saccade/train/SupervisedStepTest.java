package dev.saccade.train;

import static org.assertj.core.api.Assertions.assertThat;

import dev.saccade.Context;
import dev.saccade.train.model.Transformer;
import dev.saccade.train.task.Example;
import dev.saccade.train.task.Score;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class SupervisedStepTest {
  /**
   * Questions of 1, 2, 3 and 5 tokens and answers of one to three in one batch; what was learned
   * from the targets is then said token by token, and scored.
   */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void aFewExamplesOfEveryTaskAreLearnedByHeart(boolean thinking) {
    TrainConfig config =
        TrainConfig.preset("tiny")
            .with(
                Map.of(
                    "task", "count+read+compare+sum+geometry", "cells", 2, "thinking", thinking));
    List<Example> examples = config.scenes().get(0, 32);
    assertThat(examples).extracting(example -> example.truth().length).contains(1, 2, 3);
    try (Context context = Context.cpu()) {
      OpenBlas.provideTo(context);
      try (Transformer policy = Transformer.create(context, config.transformer(), 1);
          Optimizer optimizer = new Optimizer(policy, config.sft().optimizer());
          SupervisedStep step = new SupervisedStep(policy, config)) {
        Map<String, Object> metrics;
        int steps = 0;
        do {
          assertThat(steps).isLessThan(400);
          double rate = config.sft().optimizer().rate(steps++, 400);
          metrics = step.run(examples, optimizer.update(rate));
        } while ((double) metrics.get("accuracy") < 1 || (double) metrics.get("loss") > 0.02);
        int[][] responses = Evaluator.answer(policy, config, examples);
        for (int i = 0; i < responses.length; i++) {
          Example example = examples.get(i);
          assertThat(responses[i]).isEqualTo(example.reference(thinking));
          assertThat(config.reward().score(responses[i], example.truth()))
              .isEqualTo(new Score(1, 1, 1));
        }
      }
    }
  }
}
