package example;

import static example.Embed.B;
import static example.Embed.GROUP;
import static example.Embed.LAMBDA;
import static example.Embed.PROMPTS;
import static example.Embed.T;
import static example.Embed.VOCABULARY;
import static example.Embed.WIDTH;
import static org.assertj.core.api.Assertions.assertThat;

import dev.saccade.Context;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.nd4j.autodiff.samediff.SDVariable;
import org.nd4j.autodiff.samediff.SameDiff;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

class EmbedTest {
  @Test
  void rewardsRise() {
    float[] rewards = Embed.run(31);
    assertThat(rewards[0]).isLessThan(0.3f);
    assertThat(rewards[30]).isGreaterThan(0.9f);
  }

  @Test
  void theLossOfARolloutFalls() {
    Policy policy = Embed.newPolicy(3);
    Embed.Optimizer optimizer = new Embed.Optimizer(policy, 0.003);
    try (Context context = Context.cpu()) {
      Embed.Rollout rollout = Embed.sample(context, policy, new Random(3), 0);
      float before = Float.MAX_VALUE;
      for (int update = 0; update < 5; update++) {
        Embed.Gradient gradient = Embed.gradient(context, policy, rollout);
        assertThat(gradient.loss()).isLessThan(before);
        before = gradient.loss();
        optimizer.step(policy, gradient);
      }
    }
  }

  /** With those of the same loss in operations of SameDiff, in double precision. */
  @Test
  void gradientsEqualThoseOfSameDiff() {
    Policy policy = Embed.newPolicy(2);
    Embed.Optimizer optimizer = new Embed.Optimizer(policy, 0.01);
    try (Context context = Context.cpu()) {
      Embed.Rollout rollout = Embed.sample(context, policy, new Random(2), 0);
      for (int update = 0; update < 6; update++) { // away from the policy that sampled
        optimizer.step(policy, Embed.gradient(context, policy, rollout));
      }
      Embed.Gradient gradient = Embed.gradient(context, policy, rollout);

      Policy reference = new Policy(DataType.DOUBLE, B, T, VOCABULARY, WIDTH);
      for (String name : Policy.PARAMETERS) {
        reference.graph.getVariable(name).getArr().assign(policy.graph.getVariable(name).getArr());
      }
      addLoss(reference, rollout);
      Map<String, INDArray> x = Map.of("x", rollout.x().castTo(DataType.DOUBLE));
      double loss = reference.graph.output(x, "loss").get("loss").getDouble(0);
      assertThat(Math.abs(gradient.loss() - loss)).isLessThanOrEqualTo(1e-6);
      Map<String, INDArray> expected = reference.graph.calculateGradients(x, Policy.PARAMETERS);
      for (String name : Policy.PARAMETERS) {
        double largest = expected.get(name).amaxNumber().doubleValue();
        double error =
            expected
                .get(name)
                .sub(gradient.ofParameters().get(name).castTo(DataType.DOUBLE))
                .amaxNumber()
                .doubleValue();
        assertThat(largest).as(name).isPositive();
        assertThat(error).as(name).isLessThanOrEqualTo(1e-5 * largest);
      }
    }
  }

  /** GRPO and RAL as the graph's loss. */
  private static void addLoss(Policy policy, Embed.Rollout rollout) {
    SameDiff graph = policy.graph;
    INDArray rewards = rollout.rewards().castTo(DataType.DOUBLE).reshape(PROMPTS, GROUP);
    INDArray deviation = rewards.subColumnVector(rewards.mean(1));
    INDArray advantages =
        deviation.divColumnVector(rewards.std(true, 1).add(1e-4)).reshape(B).dup();
    SDVariable advantage = graph.constant("advantage", advantages);

    INDArray answers = Nd4j.zeros(DataType.DOUBLE, B, VOCABULARY);
    for (int s = 0; s < B; s++) {
      answers.putScalar(s, rollout.answers().getInt(s), 1);
    }
    SDVariable logProb =
        graph
            .math
            .log(graph.nn.softmax(policy.logits, -1))
            .mul(graph.constant("answers", answers))
            .sum(1);
    SDVariable old = graph.constant("oldLogProb", rollout.oldLogProb().castTo(DataType.DOUBLE));
    SDVariable ratio = graph.math.exp(logProb.sub(old));
    SDVariable clipped = graph.clipByValue(ratio, 1 - (double) 0.2f, 1 + (double) 0.2f);
    // The smaller of the two by their distance: the gradient of graph.min counts equals twice.
    SDVariable a = ratio.mul(advantage);
    SDVariable b = clipped.mul(advantage);
    SDVariable grpo = a.add(b).sub(graph.math.abs(a.sub(b))).mul(-0.5).mean();

    SDVariable p = attentionPolicy(graph, policy.attention);
    SDVariable oldAttention =
        graph.nn.softmax(
            graph
                .mmul(
                    graph.constant("oldQ", cube(rollout.oldQ())),
                    graph.constant("oldK", cube(rollout.oldK())),
                    false,
                    true,
                    false)
                .mul(1 / Math.sqrt(WIDTH)),
            -1);
    SDVariable r = attentionPolicy(graph, oldAttention);
    SDVariable m = p.add(r).mul(0.5);
    SDVariable divergence = relativeEntropy(graph, r, m).add(relativeEntropy(graph, p, m)).mul(0.5);
    grpo.add("loss", divergence.mul(advantage).mean().mul(LAMBDA));
    graph.setLossVariables("loss");
  }

  private static INDArray cube(INDArray array) {
    return array.castTo(DataType.DOUBLE).reshape(B, T, WIDTH);
  }

  /** Of the last row, over the tokens before it: [B, T - 1]. */
  private static SDVariable attentionPolicy(SameDiff graph, SDVariable attention) {
    SDVariable previous =
        graph
            .stridedSlice(attention, new long[] {0, T - 1, 0}, new long[] {B, T, T - 1}, 1, 1, 1)
            .reshape(B, T - 1);
    return previous.div(previous.sum(true, 1));
  }

  private static SDVariable relativeEntropy(SameDiff graph, SDVariable a, SDVariable b) {
    return a.mul(graph.math.log(a).sub(graph.math.log(b))).sum(1);
  }
}
