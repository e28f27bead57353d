package example;

import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/** Memory of a MemorySegment, in place; from JDK 22 on. */
public final class Embed {
  public static void main(String[] args) {
    // tag::segments[]
    try (Arena arena = Arena.ofConfined();
        Context context = Context.cpu();
        Scope scope = context.scope()) { // closes before the arena does
      MemorySegment logits = arena.allocateFrom(ValueLayout.JAVA_FLOAT, 1, 2, 3, 0, 0, 5);
      MemorySegment logProbs = arena.allocate(ValueLayout.JAVA_FLOAT, 2);
      TokenLogProbs.forward(
          context,
          Tensor.wrap(scope, logits.address(), logits, DType.F32, 2, 3),
          Tensor.of(scope, new int[] {2, 0}),
          TokenLogProbs.Options.DEFAULT,
          new TokenLogProbs.Outputs(
              Tensor.wrap(scope, logProbs.address(), logProbs, DType.F32, 2), null, null));
      System.out.println(logProbs.getAtIndex(ValueLayout.JAVA_FLOAT, 0));
      System.out.println(logProbs.getAtIndex(ValueLayout.JAVA_FLOAT, 1));
      // end::segments[]
      if (!(Math.abs(logProbs.getAtIndex(ValueLayout.JAVA_FLOAT, 1) + 5.013386f) <= 1e-5)) {
        throw new IllegalStateException("log-probabilities are not where they should be");
      }
    }
  }
}
