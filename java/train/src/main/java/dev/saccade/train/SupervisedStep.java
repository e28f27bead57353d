package dev.saccade.train;

import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.PolicyLoss;
import dev.saccade.SampleTokens;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import dev.saccade.train.model.Batch;
import dev.saccade.train.model.PolicyModel;
import dev.saccade.train.model.PolicyModel.Activations;
import dev.saccade.train.task.Example;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Supervised fine-tuning: −log-probability of the reference answer, mean over tokens. That is
 * REINFORCE of the reference response with advantage 1.
 */
final class SupervisedStep {
  private final PolicyModel model;
  private final boolean thinking;
  private final int patch;

  SupervisedStep(PolicyModel model, TrainConfig config) {
    this.model = model;
    thinking = config.thinking();
    patch = config.patch();
  }

  /**
   * One optimizer step on a batch. Of its numbers: the loss, and the accuracy of the likeliest
   * tokens from the answer to its closing tag, each given those before.
   *
   * @throws Update.NotFinite if a gradient was not finite
   */
  Map<String, Object> run(List<Example> examples, Update update) {
    int[] own = new int[examples.size()];
    Arrays.setAll(own, i -> i);
    int[][] responses = new int[examples.size()][];
    Arrays.setAll(responses, i -> examples.get(i).reference(thinking));
    Batch batch =
        Batch.of(
            examples.stream().map(example -> Evaluator.prompt(example, patch)).toList(),
            own,
            responses);
    Context context = model.context();
    try (Scope scope = context.scope()) {
      Readings readings = new Readings();
      Readings.Reading loss = readings.take(1);
      Readings.Reading norm = readings.take(1);
      Tensor numbers = Tensor.empty(scope, DType.F32, readings.size());
      Activations pass = model.forward(scope, batch);
      Tensor targets = Tensor.of(scope, batch.targets());
      TokenLogProbs.Options options = TokenLogProbs.Options.DEFAULT;
      TokenLogProbs.Outputs tokens = TokenLogProbs.forward(scope, pass.logits(), targets, options);
      float[] ones = new float[batch.responseRows()];
      Arrays.fill(ones, 1);
      Tensor offsets = Tensor.of(scope, batch.responseOffsets());
      Tensor dLogProb = Tensor.empty(scope, DType.F32, ones.length);
      PolicyLoss.forward(
          context,
          PolicyLoss.Inputs.of(tokens.logProb(), tokens.logProb(), Tensor.of(scope, ones), offsets),
          PolicyLoss.Options.DEFAULT.withObjective(PolicyLoss.Objective.REINFORCE),
          new PolicyLoss.Outputs(loss.in(numbers), null, dLogProb, null));
      Tensor drawn = SampleTokens.sample(scope, pass.logits(), SampleTokens.Options.GREEDY);
      Tensor dLogits = Tensor.empty(scope, DType.F32, pass.logits().shape());
      TokenLogProbs.backward(context, pass.logits(), targets, options, dLogProb, null, dLogits);
      model.backward(pass, dLogits, List.of());
      update.ran(() -> OperationCase.of(pass.logits(), targets, dLogProb, options));
      update.prepare();
      update.step(norm.in(numbers));

      float[] read = numbers.toFloats();
      if (!Float.isFinite(norm.value(read))) {
        throw new Update.NotFinite();
      }
      int[] likeliest = drawn.toInts();
      int right = 0;
      int[] ends = batch.responseOffsets();
      for (int i = 0; i < examples.size(); i++) {
        int tail = examples.get(i).truth().length + 1;
        int from = responses[i].length - tail;
        right +=
            Arrays.equals(
                    likeliest, ends[i + 1] - tail, ends[i + 1], responses[i], from, from + tail)
                ? 1
                : 0;
      }
      Map<String, Object> metrics = new LinkedHashMap<>();
      metrics.put("loss", (double) loss.value(read));
      metrics.put("accuracy", (double) right / examples.size());
      metrics.put("tokens", batch.filledRows());
      metrics.put("grad_norm", (double) norm.value(read));
      return metrics;
    }
  }
}
