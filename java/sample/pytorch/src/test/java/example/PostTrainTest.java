package example;

import static example.PostTrain.GROUP;
import static example.PostTrain.LAMBDA;
import static example.PostTrain.LENGTH;
import static example.PostTrain.PROMPT;
import static example.PostTrain.RESPONSE;
import static example.PostTrain.VOCABULARY;
import static org.assertj.core.api.Assertions.assertThat;
import static org.bytedeco.pytorch.global.torch.manual_seed;

import dev.saccade.Context;
import dev.saccade.Scope;
import dev.saccade.pytorch.TorchTensors;
import org.bytedeco.pytorch.AdamW;
import org.bytedeco.pytorch.AdamWOptions;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.ScalarOptional;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch;
import org.junit.jupiter.api.Test;

class PostTrainTest {
  @Test
  void rewardsRise() {
    float[] rewards = PostTrain.run(50);
    assertThat(rewards[0]).isLessThan(0.2f);
    assertThat(rewards[49]).isGreaterThan(0.9f);
  }

  /** With autograd's of the same loss in PyTorch operations, in double precision. */
  @Test
  void gradientsEqualThoseOfAutograd() {
    torch.set_num_threads(1);
    manual_seed(2);
    Policy policy = new Policy(VOCABULARY, LENGTH, 2, 16);
    AdamW optimizer = new AdamW(policy.parameters(), new AdamWOptions(1e-2));
    try (Context context = TorchTensors.context(new Device("cpu"));
        Scope scope = context.scope()) {
      PostTrain.Rollout rollout = PostTrain.sample(context, policy, 16);
      for (int update = 0; update < 4; update++) { // away from the policy that sampled
        optimizer.zero_grad();
        PostTrain.accumulateGradient(context, policy, rollout);
        optimizer.step();
      }
      optimizer.zero_grad();
      float loss = PostTrain.accumulateGradient(context, policy, rollout);

      Policy reference = new Policy(VOCABULARY, LENGTH, 2, 16);
      reference.to(torch.ScalarType.Double, false);
      TensorVector ours = policy.parameters();
      TensorVector theirs = reference.parameters();
      try (NoGradGuard noGrad = new NoGradGuard()) {
        for (long i = 0; i < ours.size(); i++) {
          theirs.get(i).copy_(ours.get(i));
        }
      }
      Tensor expectedLoss = loss(reference, rollout);
      expectedLoss.backward();
      double expected = TorchTensors.wrap(scope, expectedLoss).toDoubles()[0];
      assertThat(Math.abs(loss - expected)).isLessThanOrEqualTo(1e-6);
      for (long i = 0; i < ours.size(); i++) {
        double[] values = TorchTensors.wrap(scope, ours.get(i).grad()).toDoubles();
        double[] references = TorchTensors.wrap(scope, theirs.get(i).grad()).toDoubles();
        double largest = 0;
        for (double value : references) {
          largest = Math.max(largest, Math.abs(value));
        }
        assertThat(largest).as("parameter %d", i).isPositive();
        for (int j = 0; j < values.length; j++) {
          assertThat(Math.abs(values[j] - references[j]))
              .as("parameter %d, element %d", i, j)
              .isLessThanOrEqualTo(1e-5 * largest);
        }
      }
    }
  }

  /** GRPO and RAL in PyTorch operations. */
  private static Tensor loss(Policy policy, PostTrain.Rollout rollout) {
    torch.ScalarType f64 = torch.ScalarType.Double;
    long b = rollout.input().size(0);
    Policy.Pass pass = policy.forward(rollout.input(), RESPONSE);

    Tensor rewards = rollout.rewards().to(f64).view(-1, GROUP);
    Tensor deviation = rewards.sub(rewards.mean(new long[] {1}, true, none()));
    Tensor std =
        deviation.square().sum(new long[] {1}, true, none()).div(new Scalar(GROUP - 1)).sqrt();
    Tensor advantage = deviation.div(std.add(new Scalar(1e-4))).view(b, 1).expand(b, RESPONSE);

    Tensor targets = rollout.targets().to(torch.ScalarType.Long).unsqueeze(1);
    Tensor logProb = pass.logits().log_softmax(1).gather(1, targets).view(b, RESPONSE);
    Tensor ratio = logProb.sub(rollout.oldLogProb().to(f64).view(b, RESPONSE)).exp();
    Tensor clipped =
        ratio.clamp(
            new ScalarOptional(new Scalar(1 - (double) 0.2f)),
            new ScalarOptional(new Scalar(1 + (double) 0.2f)));
    assertThat(ratio.ne(clipped).any().item_bool()).as("some ratios are clipped").isTrue();
    Tensor grpo = ratio.mul(advantage).minimum(clipped.mul(advantage)).mean().neg();

    Tensor p = attentionPolicy(pass.q(), pass.k(), b);
    Tensor old = attentionPolicy(rollout.oldQ().to(f64), rollout.oldK().to(f64), b);
    Tensor mixture = p.add(old).mul(new Scalar(0.5));
    Tensor divergence =
        relativeEntropy(old, mixture).add(relativeEntropy(p, mixture)).mul(new Scalar(0.5));
    assertThat(divergence.min().item_double()).as("the policy looks elsewhere now").isPositive();
    return grpo.add(divergence.mul(advantage).mean().mul(new Scalar(LAMBDA)));
  }

  private static org.bytedeco.pytorch.ScalarTypeOptional none() {
    return new org.bytedeco.pytorch.ScalarTypeOptional();
  }

  /** Of the rows of responses, over the tokens before each: [B, RESPONSE, LENGTH]. */
  private static Tensor attentionPolicy(Tensor q, Tensor k, long b) {
    Tensor mean =
        Policy.attention(q.view(b, LENGTH, q.size(1), -1), k.view(b, LENGTH, k.size(1), -1))
            .mean(1)
            .tril(-1)
            .narrow(1, PROMPT - 1, RESPONSE);
    return mean.div(mean.sum(new long[] {2}, true, none()));
  }

  private static Tensor relativeEntropy(Tensor a, Tensor b) {
    Scalar least = new Scalar(1e-300);
    return a.mul(a.clamp_min(least).log().sub(b.clamp_min(least).log())).sum(2);
  }
}
