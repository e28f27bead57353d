package example;

import dev.saccade.Context;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;

/** Saccade on the module path. */
public final class Embed {
  public static void main(String[] args) {
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      Tensor logits = Tensor.of(scope, new float[] {1, 2, 3, 0, 0, 5}, 2, 3);
      Tensor targets = Tensor.of(scope, new int[] {2, 0});
      var scores = TokenLogProbs.forward(scope, logits, targets, TokenLogProbs.Options.DEFAULT);
      String module = Context.class.getModule().getName();
      System.out.println(module + ": " + scores.logProb().toFloats()[0]);
      if (!"dev.saccade".equals(module)) {
        throw new IllegalStateException("not on the module path");
      }
    }
  }
}
