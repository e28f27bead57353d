package dev.saccade;

/**
 * A program whose kernel reads where there is no memory. It prints what each call after that ends
 * with.
 */
final class FaultingProgram {
  private FaultingProgram() {}

  public static void main(String[] args) {
    Context context = Context.cuda(0);
    Scope scope = context.scope();
    Tensor good = Tensor.of(scope, new float[] {1, 2, 3}, 1, 3);
    Tensor sum = Tensor.zeros(scope, DType.F32, 1, 3);
    print(
        "fault",
        () -> {
          Tensor nowhere = Tensor.wrap(scope, 1L << 40, null, DType.F32, 1 << 20);
          Axpby.apply(
              context,
              1,
              nowhere.reshape(1, 1 << 20),
              0,
              Tensor.empty(scope, DType.F32, 1, 1 << 20));
          context.synchronize();
        });
    print("read", good::toFloats);
    print("operation", () -> Axpby.apply(context, 1, good, 2, sum));
    print("synchronize", context::synchronize);
    print("context", () -> Context.cuda(0).close());
    print("close", context::close);
    try (Context cpu = Context.cpu();
        Scope there = cpu.scope()) {
      print("cpu", () -> Tensor.zeros(there, DType.F32, 3).toFloats());
    }
  }

  private static void print(String call, Runnable run) {
    String outcome = "done";
    try {
      run.run();
    } catch (SaccadeException e) {
      outcome = e.getClass().getSimpleName() + " " + e.getMessage();
    }
    System.out.println(call + ": " + outcome);
  }
}
