package dev.saccade.train;

import dev.saccade.Tensor;
import java.util.function.Supplier;

/** What a trainer does about the gradients of a minibatch. */
interface Update {
  /** Takes an optimizer step with the gradients as they are, and writes their norm to f32[1]. */
  void step(Tensor norm);

  /**
   * Sees an operation that the gradients come from, once it has run and before {@link #step}. Its
   * tensors live until then.
   */
  default void ran(Supplier<OperationCase> operation) {}

  /**
   * A gradient was not finite: the optimizer left that step out.
   *
   * <p>Thrown once the numbers of a rollout batch are read; what was computed since is of no use.
   */
  final class NotFinite extends RuntimeException {
    private static final long serialVersionUID = 1;

    NotFinite() {
      super("a gradient is not finite");
    }
  }
}
