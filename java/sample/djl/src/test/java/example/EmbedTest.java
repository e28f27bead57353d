package example;

import static org.assertj.core.api.Assertions.assertThat;

import ai.djl.Model;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDArrays;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.training.GradientCollector;
import ai.djl.training.Trainer;
import dev.saccade.Context;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

class EmbedTest {
  @Test
  void rewardsRise() {
    float[] rewards = Embed.run(76);
    assertThat(rewards[0]).isLessThan(0.3f);
    float last = 0;
    for (int step = 66; step < 76; step++) {
      last += rewards[step] / 10;
    }
    assertThat(last).isGreaterThan(0.8f);
  }

  private static void zero(NDArray gradient) {
    gradient.subi(gradient);
  }

  private static List<float[]> gradients(Trainer trainer) {
    List<float[]> gradients = new ArrayList<>();
    trainer
        .getModel()
        .getBlock()
        .getParameters()
        .forEach(
            parameter ->
                gradients.add(parameter.getValue().getArray().getGradient().toFloatArray()));
    return gradients;
  }

  @Test
  void gradientsEqualThoseOfDjl() {
    try (Model model = Model.newInstance("policy");
        Trainer trainer = Embed.newTrainer(model);
        NDManager manager = NDManager.newBaseManager();
        Context context = Context.cpu()) {
      Embed.Rollout rollout = Embed.sample(context, manager, trainer, 0);
      for (int update = 0; update < 5; update++) { // away from the policy that sampled
        Embed.gradient(context, manager, trainer, rollout);
        trainer.step();
      }
      float loss = Embed.gradient(context, manager, trainer, rollout);
      List<float[]> ours = gradients(trainer);
      trainer
          .getModel()
          .getBlock()
          .getParameters()
          .forEach(parameter -> zero(parameter.getValue().getArray().getGradient()));

      float expected;
      try (GradientCollector collector = trainer.newGradientCollector()) {
        NDArray rewards = rollout.rewards().reshape(Embed.PROMPTS, Embed.GROUP);
        NDArray deviation = rewards.sub(rewards.mean(new int[] {1}, true));
        NDArray std = deviation.square().sum(new int[] {1}, true).div(Embed.GROUP - 1).sqrt();
        NDArray advantage = deviation.div(std.add(1e-4f)).reshape(-1);
        NDArray logits = trainer.forward(new NDList(rollout.input())).singletonOrThrow();
        NDArray index = rollout.answers().toType(DataType.INT64, false).expandDims(1);
        NDArray ratio =
            logits.logSoftmax(1).gather(index, 1).squeeze(1).sub(rollout.oldLogProb()).exp();
        NDArray clipped = ratio.clip(0.8f, 1.2f);
        assertThat(ratio.neq(clipped).any().getBoolean()).as("some ratios are clipped").isTrue();
        NDArray theirs =
            NDArrays.minimum(ratio.mul(advantage), clipped.mul(advantage)).mean().neg();
        collector.backward(theirs);
        expected = theirs.getFloat();
      }
      assertThat(Math.abs(loss - expected)).isLessThanOrEqualTo(1e-5f);
      List<float[]> references = gradients(trainer);
      assertThat(ours).hasSize(4);
      for (int i = 0; i < ours.size(); i++) {
        float largest = 0;
        for (float value : references.get(i)) {
          largest = Math.max(largest, Math.abs(value));
        }
        assertThat(largest).isPositive();
        for (int j = 0; j < ours.get(i).length; j++) {
          assertThat(Math.abs(ours.get(i)[j] - references.get(i)[j]))
              .as("parameter %d, element %d", i, j)
              .isLessThanOrEqualTo(1e-5f * largest);
        }
      }
    }
  }
}
