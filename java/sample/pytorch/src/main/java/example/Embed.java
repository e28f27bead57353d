package example;

import static dev.saccade.pytorch.TorchTensors.wrap;
import static org.bytedeco.pytorch.global.torch.backward;
import static org.bytedeco.pytorch.global.torch.empty;
import static org.bytedeco.pytorch.global.torch.empty_like;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.multinomial;
import static org.bytedeco.pytorch.global.torch.one_hot;
import static org.bytedeco.pytorch.global.torch.randint;
import static org.bytedeco.pytorch.global.torch.set_num_threads;

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
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch.ScalarType;

/** A policy of PyTorch learns by GRPO to answer what it was asked. */
public final class Embed {
  private static final int PROMPTS = 16;
  private static final int GROUP = 8;
  private static final int ROWS = PROMPTS * GROUP;
  private static final int VOCABULARY = 10;

  public static void main(String[] args) {
    set_num_threads(1); // for a policy this small, threads cost more than they save
    manual_seed(1);
    LinearImpl policy = new LinearImpl(VOCABULARY, VOCABULARY);
    AdamW optimizer = new AdamW(policy.parameters(), new AdamWOptions(0.05));
    try (Context context = TorchTensors.context(new Device("cpu"))) {
      for (int step = 0; step <= 100; step++) {
        try (PointerScope pointers = new PointerScope();
            Scope scope = context.scope()) {
          Tensor asked =
              randint(VOCABULARY, new long[] {PROMPTS, 1})
                  .to(ScalarType.Long)
                  .expand(PROMPTS, GROUP)
                  .reshape(-1);
          Tensor logits = policy.forward(one_hot(asked, VOCABULARY).to(ScalarType.Float));
          Tensor answer = multinomial(logits.detach().softmax(1), 1).squeeze(1);
          Tensor rewards = answer.eq(asked).to(ScalarType.Float);

          // tag::update[]
          dev.saccade.Tensor ourLogits = wrap(scope, logits); // PyTorch's memory, no copy
          dev.saccade.Tensor targets = wrap(scope, answer.to(ScalarType.Int));
          dev.saccade.Tensor groups = everySo(scope, PROMPTS, GROUP);
          dev.saccade.Tensor responses = everySo(scope, ROWS, 1); // of one token each
          var advantage =
              GroupAdvantage.forward(
                      scope, wrap(scope, rewards), groups, null, GroupAdvantage.Options.DEFAULT)
                  .advantage();
          var old = TokenLogProbs.forward(scope, ourLogits, targets, TokenLogProbs.Options.DEFAULT);
          Tensor loss = empty(1);
          Tensor dLogits = empty_like(logits);
          PolicyLossFromLogits.forward(
              context,
              new PolicyLossFromLogits.Inputs(
                  ourLogits,
                  targets,
                  PolicyLoss.Inputs.of(null, old.logProb(), advantage, responses)),
              PolicyLossFromLogits.Options.DEFAULT,
              new PolicyLossFromLogits.Outputs(
                  PolicyLossFromLogits.Values.of(wrap(scope, loss)), wrap(scope, dLogits)));

          optimizer.zero_grad();
          backward(
              new TensorVector(logits),
              new TensorVector(dLogits),
              new BoolOptional(),
              false,
              new TensorVector());
          optimizer.step();
          // end::update[]
          if (step % 25 == 0) {
            System.out.printf("step %3d: mean reward %.3f%n", step, rewards.mean().item_float());
          }
        }
      }
    }
  }

  /** i32[n + 1]: 0, size, … n·size. */
  private static dev.saccade.Tensor everySo(Scope scope, int n, int size) {
    return dev.saccade.Tensor.of(scope, IntStream.rangeClosed(0, n).map(i -> i * size).toArray());
  }
}
