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
import dev.saccade.train.model.Prompt;
import dev.saccade.train.model.Replays;
import dev.saccade.train.task.Example;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.UnaryOperator;

/**
 * Supervised fine-tuning: −log-probability of the reference answer, mean over tokens. That is
 * REINFORCE of the reference response with advantage 1.
 */
final class SupervisedStep implements AutoCloseable {
  private static final TokenLogProbs.Options OPTIONS =
      TokenLogProbs.Options.DEFAULT.withIgnoreIndex(Batch.IGNORED);

  private final PolicyModel model;
  private final boolean thinking;
  private final int patch;
  private final int responseLength;
  private final Replays replays;
  private final Readings readings = new Readings();
  private final Readings.Reading loss = readings.take(1);
  private final Readings.Reading norm = readings.take(1);

  SupervisedStep(PolicyModel model, TrainConfig config) {
    this.model = model;
    thinking = config.thinking();
    patch = config.patch();
    responseLength = config.responseLength();
    replays = new Replays(model.context());
  }

  /**
   * A batch on the device.
   *
   * @param mask u8[response rows], of those with a target
   * @param ones f32[response rows]
   * @param numbers f32, receives what is to be reported
   * @param likeliest i32[response rows], receives the likeliest tokens
   */
  private record Minibatch(
      PolicyModel.Inputs inputs,
      Tensor targets,
      Tensor mask,
      Tensor ones,
      Tensor offsets,
      Tensor numbers,
      Tensor likeliest)
      implements Replays.Data<Minibatch> {
    @Override
    public Minibatch with(UnaryOperator<Tensor> input, UnaryOperator<Tensor> output) {
      return new Minibatch(
          inputs.with(input),
          input.apply(targets),
          input.apply(mask),
          input.apply(ones),
          input.apply(offsets),
          output.apply(numbers),
          output.apply(likeliest));
    }
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
    List<Prompt> prompts = Evaluator.prompts(examples, patch);
    int longest = Arrays.stream(responses).mapToInt(response -> response.length).max().orElse(1);
    Batch batch =
        Batch.padded(
            prompts, own, responses, Batch.Room.of(prompts, Math.max(responseLength, longest)));
    int rows = batch.responseRows();
    int[] targets = batch.targets();
    byte[] mask = new byte[rows];
    float[] ones = new float[rows];
    for (int r = 0; r < rows; r++) {
      mask[r] = (byte) (targets[r] == Batch.IGNORED ? 0 : 1);
      ones[r] = 1;
    }
    try (Scope scope = model.context().scope()) {
      Minibatch minibatch =
          new Minibatch(
              model.prepare(scope, batch),
              Tensor.of(scope, targets),
              Tensor.of(scope, mask),
              Tensor.of(scope, ones),
              Tensor.of(scope, batch.responseOffsets()),
              Tensor.empty(scope, DType.F32, readings.size()),
              Tensor.empty(scope, DType.I32, rows));
      update.prepare();
      if (update.looks()) {
        step(minibatch, update);
      } else {
        replays.run(minibatch.inputs.layout(), minibatch, data -> step(data, update));
      }
      float[] read = minibatch.numbers.toFloats();
      if (!Float.isFinite(norm.value(read))) {
        throw new Update.NotFinite();
      }
      int[] likeliest = minibatch.likeliest.toInts();
      int right = 0;
      for (int i = 0; i < examples.size(); i++) {
        int length = responses[i].length;
        int from = length - (examples.get(i).truth().length + 1);
        int first = batch.firstRow(i);
        right +=
            Arrays.equals(likeliest, first + from, first + length, responses[i], from, length)
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

  private void step(Minibatch minibatch, Update update) {
    Context context = model.context();
    try (Scope scope = context.scope()) {
      Activations pass = model.forward(scope, minibatch.inputs);
      Tensor logProb = Tensor.empty(scope, DType.F32, minibatch.targets.shape());
      TokenLogProbs.forward(
          context,
          pass.logits(),
          minibatch.targets,
          OPTIONS,
          new TokenLogProbs.Outputs(logProb, null, null));
      Tensor dLogProb = Tensor.empty(scope, DType.F32, minibatch.targets.shape());
      PolicyLoss.forward(
          context,
          PolicyLoss.Inputs.of(logProb, logProb, minibatch.ones, minibatch.offsets)
              .withMask(minibatch.mask),
          PolicyLoss.Options.DEFAULT.withObjective(PolicyLoss.Objective.REINFORCE),
          new PolicyLoss.Outputs(loss.in(minibatch.numbers), null, dLogProb, null));
      SampleTokens.sample(
          context, pass.logits(), null, SampleTokens.Options.GREEDY, minibatch.likeliest);
      Tensor dLogits = Tensor.empty(scope, DType.F32, pass.logits().shape());
      TokenLogProbs.backward(
          context, pass.logits(), minibatch.targets, OPTIONS, dLogProb, null, dLogits);
      model.backward(pass, dLogits, List.of());
      update.ran(() -> OperationCase.of(pass.logits(), minibatch.targets, dLogProb, OPTIONS));
      update.step(norm.in(minibatch.numbers));
    }
  }

  @Override
  public void close() {
    replays.close();
  }
}
