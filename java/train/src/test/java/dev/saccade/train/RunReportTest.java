package dev.saccade.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.AttentionPolicy;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.train.model.Batch;
import dev.saccade.train.model.PolicyModel;
import dev.saccade.train.model.Transformer;
import dev.saccade.train.report.AttentionPicture.Glance;
import dev.saccade.train.task.Example;
import dev.saccade.train.task.Vocabulary;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

class RunReportTest {
  /** A response, what it answers, and its rows that predict the answer. */
  private record Said(String response, String answer, List<Integer> rows) {}

  @Test
  void aGlanceIsTheMeanOverTheTokensOfTheAnswer() {
    List<Said> said =
        List.of(
            new Said("<answer> 7 </answer>", "7", List.of(1)),
            new Said("<answer> 1 2 </answer>", "12", List.of(1, 2)),
            new Said("<think> 3 4 </think> <answer> 1 0 </answer>", "10", List.of(5, 6)),
            new Said("<answer> first </answer>", "first", List.of(1)),
            new Said("<answer> row1 2", "", List.of(1, 2)),
            new Said("<answer> row1 2 </answer>", "row1 2", List.of(1, 2)),
            new Said("<answer> </answer>", "", List.of(1)),
            new Said("3 4 <answer>", "", List.of(2)),
            new Said("3", "", List.of(0)));
    TrainConfig config =
        TrainConfig.preset("tiny")
            .with(Map.of("task", "compare+sum", "cells", 2, "thinking", true));
    List<Example> examples = config.scenes().get(0, said.size());
    int[][] responses =
        said.stream().map(Said::response).map(Vocabulary::encode).toArray(int[][]::new);
    try (Context context = Context.cpu()) {
      OpenBlas.provideTo(context);
      try (Transformer model = Transformer.create(context, config.transformer(), 1)) {
        List<Glance> glances = RunReport.glances(config, model, examples, responses);
        for (int i = 0; i < said.size(); i++) {
          assertThat(glances.get(i).answer()).isEqualTo(said.get(i).answer());
          float[] expected = alone(model, examples.get(i), responses[i], said.get(i).rows());
          assertThat(glances.get(i).attention()).containsExactly(expected, within(1e-6f));
        }
      }
    }
  }

  /** The mean over some rows of the attention policy on the 16 patches. */
  private static float[] alone(
      PolicyModel model, Example example, int[] response, List<Integer> rows) {
    Batch batch =
        Batch.of(List.of(Evaluator.prompt(example, 14)), new int[] {0}, new int[][] {response});
    float[] mean = new float[16];
    try (Scope scope = model.context().scope()) {
      Tensor map = Tensor.empty(scope, DType.F32, response.length, batch.longest());
      AttentionPolicy.forward(
          model.context(),
          model.forward(scope, batch, 0).attention(0),
          AttentionPolicy.Options.DEFAULT,
          new AttentionPolicy.Outputs(null, null, null, map));
      for (int row : rows) {
        float[] weights = map.rows(row, row + 1).toFloats();
        for (int i = 0; i < mean.length; i++) {
          mean[i] += weights[i] / rows.size();
        }
      }
    }
    return mean;
  }
}
