package dev.saccade.train;

import dev.saccade.Tensor;
import java.util.function.Supplier;

/** What a trainer does about the gradients of a minibatch. */
interface Update {
  /** Brings to the device what the next {@link #step} reads there. */
  default void prepare() {}

  /**
   * Takes an optimizer step with the gradients as they are, and writes their norm to f32[1]. Unless
   * it {@link #looks}, by nothing but operations, which may be recorded and run again.
   */
  void step(Tensor norm);

  /** Whether it reads tensors of the minibatch. */
  default boolean looks() {
    return false;
  }

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
