package example;

import static dev.saccade.pytorch.TorchTensors.wrap;
import static org.bytedeco.pytorch.global.torch.backward;
import static org.bytedeco.pytorch.global.torch.cat;
import static org.bytedeco.pytorch.global.torch.empty;
import static org.bytedeco.pytorch.global.torch.empty_like;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.multinomial;
import static org.bytedeco.pytorch.global.torch.randint;
import static org.bytedeco.pytorch.global.torch.zeros;

import dev.saccade.AttentionDivergence;
import dev.saccade.AttentionPolicy;
import dev.saccade.Context;
import dev.saccade.GroupAdvantage;
import dev.saccade.PolicyLoss;
import dev.saccade.PolicyLossFromLogits;
import dev.saccade.Scope;
import dev.saccade.TokenLogProbs;
import dev.saccade.pytorch.TorchTensors;
import java.util.stream.IntStream;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.AdamW;
import org.bytedeco.pytorch.AdamWOptions;
import org.bytedeco.pytorch.BoolOptional;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch;

/**
 * Post-trains a transformer of PyTorch by rewards alone, with GRPO and Reinforced Attention
 * Learning: it learns to answer with the first tokens of its prompt.
 */
public final class PostTrain {
  static final int VOCABULARY = 8;
  static final int PROMPT = 4;
  static final int RESPONSE = 2;
  static final int LENGTH = PROMPT + RESPONSE - 1; // the last token of a response is no input

  /** Answers to one prompt. */
  static final int GROUP = 8;

  /** Of the attention term. */
  static final float LAMBDA = 0.5f;

  private PostTrain() {}

  /**
   * What was sampled, for B sequences, and what the updates compare with.
   *
   * @param input i64[B, LENGTH]
   * @param targets i32[B·RESPONSE]
   * @param rewards f32[B], the share of the answer that is right
   * @param oldLogProb f32[B·RESPONSE]
   * @param oldQ [B·LENGTH, heads, headDim] of the policy that sampled
   * @param oldK likewise
   */
  record Rollout(
      Tensor input, Tensor targets, Tensor rewards, Tensor oldLogProb, Tensor oldQ, Tensor oldK) {}

  static Rollout sample(Context context, Policy policy, int prompts) {
    try (NoGradGuard noGrad = new NoGradGuard();
        Scope scope = context.scope()) {
      Tensor prompt =
          randint(VOCABULARY, new long[] {prompts, 1, PROMPT})
              .to(torch.ScalarType.Long)
              .expand(prompts, GROUP, PROMPT)
              .reshape(-1, PROMPT);
      Tensor sequence = prompt;
      for (int i = 0; i < RESPONSE; i++) {
        Tensor next = multinomial(policy.forward(sequence, 1).logits().softmax(1), 1);
        sequence = cat(new TensorVector(sequence, next), 1);
      }
      Tensor input = sequence.narrow(1, 0, LENGTH);
      Tensor answer = sequence.narrow(1, PROMPT, RESPONSE);
      Tensor rewards = answer.eq(prompt.narrow(1, 0, RESPONSE)).to(torch.ScalarType.Float).mean(1);
      Tensor targets = answer.reshape(-1).to(torch.ScalarType.Int);
      Policy.Pass old = policy.forward(input, RESPONSE);
      Tensor oldLogProb = empty(targets.size(0));
      TokenLogProbs.forward(
          context,
          wrap(scope, old.logits()),
          wrap(scope, targets),
          TokenLogProbs.Options.DEFAULT,
          new TokenLogProbs.Outputs(wrap(scope, oldLogProb), null, null));
      return new Rollout(input, targets, rewards, oldLogProb, old.q(), old.k());
    }
  }

  private static dev.saccade.Tensor offsets(Scope scope, int sequences, int length) {
    return dev.saccade.Tensor.of(
        scope, IntStream.rangeClosed(0, sequences).map(s -> s * length).toArray());
  }

  /**
   * Adds the gradient of the loss to those of the policy's parameters.
   *
   * @return the loss
   */
  static float accumulateGradient(Context context, Policy policy, Rollout rollout) {
    int b = (int) rollout.input().size(0);
    Policy.Pass pass = policy.forward(rollout.input(), RESPONSE);
    try (Scope scope = context.scope()) {
      // Advantages of the groups.
      Tensor advantage = empty(b);
      GroupAdvantage.forward(
          context,
          wrap(scope, rollout.rewards()),
          offsets(scope, b / GROUP, GROUP),
          null,
          GroupAdvantage.Options.DEFAULT,
          new GroupAdvantage.Outputs(wrap(scope, advantage), null, null, null));

      // GRPO, from logits to their gradient.
      Tensor dLogits = empty_like(pass.logits());
      Tensor loss = empty(1);
      PolicyLossFromLogits.forward(
          context,
          new PolicyLossFromLogits.Inputs(
              wrap(scope, pass.logits()),
              wrap(scope, rollout.targets()),
              PolicyLoss.Inputs.of(
                  null,
                  wrap(scope, rollout.oldLogProb()),
                  wrap(scope, advantage),
                  offsets(scope, b, RESPONSE))),
          PolicyLossFromLogits.Options.DEFAULT.withPolicy(
              PolicyLoss.Options.DEFAULT.withAdvantagePerSequence(true)),
          new PolicyLossFromLogits.Outputs(
              PolicyLossFromLogits.Values.of(wrap(scope, loss)), wrap(scope, dLogits)));

      // tag::ral[]
      // RAL: rows of responses are drawn to where the old policy looked, or away from it.
      Tensor weight = zeros(b, LENGTH);
      weight
          .narrow(1, PROMPT - 1, RESPONSE)
          .copy_(advantage.unsqueeze(1).mul(new Scalar(LAMBDA / (b * RESPONSE))));
      Tensor attentionLoss = empty(1);
      Tensor dq = empty(pass.q().size(0), policy.heads, policy.headDim);
      Tensor dk = empty_like(dq);
      var offsets = offsets(scope, b, LENGTH);
      AttentionDivergence.forwardBackward(
          context,
          new AttentionPolicy.Input(
              wrap(scope, pass.q()), wrap(scope, pass.k()), offsets, offsets, LENGTH, null),
          new AttentionDivergence.Reference.QueriesKeys(
              wrap(scope, rollout.oldQ()), wrap(scope, rollout.oldK())),
          AttentionDivergence.Weights.of(wrap(scope, weight.view(-1))),
          AttentionDivergence.Options.DEFAULT,
          new AttentionDivergence.Outputs(
              wrap(scope, attentionLoss),
              null,
              null,
              null,
              wrap(scope, dq),
              wrap(scope, dk),
              null));

      // All three go back through PyTorch at once.
      backward(
          new TensorVector(pass.logits(), pass.q(), pass.k()),
          new TensorVector(dLogits, dq, dk),
          new BoolOptional(),
          false,
          new TensorVector());
      // end::ral[]
      return loss.item_float() + attentionLoss.item_float();
    }
  }

  /** Trains a new policy and returns its mean rewards, one a step. */
  static float[] run(int steps) {
    torch.set_num_threads(1); // for a policy this small, threads cost more than they save
    manual_seed(1);
    Policy policy = new Policy(VOCABULARY, LENGTH, 2, 16);
    AdamW optimizer = new AdamW(policy.parameters(), new AdamWOptions(3e-3));
    float[] rewards = new float[steps];
    try (Context context = TorchTensors.context(new Device("cpu"))) {
      for (int step = 0; step < steps; step++) {
        try (PointerScope pointers = new PointerScope()) {
          Rollout rollout = sample(context, policy, 16);
          rewards[step] = rollout.rewards().mean().item_float();
          for (int update = 0; update < 2; update++) { // the first sees the old policy: RAL is 0
            optimizer.zero_grad();
            accumulateGradient(context, policy, rollout);
            optimizer.step();
          }
        }
      }
    }
    return rewards;
  }

  public static void main(String[] args) {
    float[] rewards = run(args.length > 0 ? Integer.parseInt(args[0]) : 60);
    for (int step = 0; step < rewards.length; step += 10) {
      System.out.printf("step %3d: mean reward %.3f%n", step, rewards[step]);
    }
  }
}
