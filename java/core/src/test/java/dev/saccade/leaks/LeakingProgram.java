package dev.saccade.leaks;

import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Scope;
import dev.saccade.Tensor;

/** A user's program, outside the library's package, that forgets to close a scope. */
final class LeakingProgram {
  private LeakingProgram() {}

  public static void main(String[] args) {
    try (Context context = Context.cpu()) {
      try (Scope closed = context.scope()) {
        Tensor.zeros(closed, DType.I32, 5);
      }
      leak(context);
      context.leaks().forEach(leak -> System.out.println("leak: " + leak));
    }
  }

  private static void leak(Context context) {
    Tensor.zeros(context.scope(), DType.F32, 7, 3);
  }
}
