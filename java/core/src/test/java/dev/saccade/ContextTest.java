package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowableOfType;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import java.util.Collections;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.NullSource;
import org.junit.jupiter.params.provider.ValueSource;

@Timeout(value = 60, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
class ContextTest {
  private static final TokenLogProbs.Options PLAIN = TokenLogProbs.Options.DEFAULT;

  // ----------------------------------------------------------------------------------------
  // options

  @Test
  void defaultsUseThisMachine() {
    try (Context context = Context.cpu()) {
      assertThat(context.device()).isEqualTo(Device.CPU);
      assertThat(context.threads()).isPositive();
      assertThat(context.instructionSet()).isIn("baseline", "avx2", "avx512");
      assertThat(context).hasToString("Context[cpu]");
      assertThat(context.liveBytes()).isZero();
    }
    assertThat(Context.nativeBuild()).startsWith("saccade ").contains("backends: cpu");
  }

  @Test
  void optionsAreTaken() {
    try (Context context = Context.builder().threads(3).instructionSet("baseline").build()) {
      assertThat(context.threads()).isEqualTo(3);
      assertThat(context.instructionSet()).isEqualTo("baseline");
    }
  }

  @ParameterizedTest
  @ValueSource(ints = {-1, Integer.MIN_VALUE, 1025, Integer.MAX_VALUE})
  void badThreadCounts(int threads) {
    var e =
        catchThrowableOfType(
            InvalidArgumentException.class, () -> Context.builder().threads(threads).build());
    assertThat(e.operation()).isEqualTo("context_create");
    assertThat(e.argument()).isEqualTo("threads");
    assertThat(e.expected()).isEqualTo("0 (all) to 1024");
    assertThat(e.actual()).isEqualTo(Integer.toString(threads));
    assertThat(e).hasMessage("context_create: threads: expected 0 (all) to 1024, got %d", threads);
  }

  @ParameterizedTest
  @ValueSource(strings = {"avx3", "AVX2", " ", "a\nb", "avx2, got nothing"})
  void unknownInstructionSet(String name) {
    var e =
        catchThrowableOfType(
            InvalidArgumentException.class, () -> Context.builder().instructionSet(name).build());
    assertThat(e.argument()).isEqualTo("instruction_set");
    assertThat(e.expected()).isEqualTo("avx512, avx2 or baseline");
    assertThat(e.actual()).isEqualTo(name);
  }

  @Test
  void nullAndNegativeOptions() {
    Context.Builder builder = Context.builder();
    assertThatThrownBy(() -> builder.device(null))
        .isInstanceOf(InvalidArgumentException.class)
        .hasMessage("context: device: expected a value, got null");
    assertThatThrownBy(() -> builder.instructionSet(null))
        .isInstanceOf(InvalidArgumentException.class)
        .hasMessage("context: instruction_set: expected a value, got null");
    assertThatThrownBy(() -> builder.cacheLimit(-1))
        .isInstanceOf(InvalidArgumentException.class)
        .hasMessage("context: cache_limit: expected 0 bytes or more, got -1");
  }

  /** The build may have no CUDA backend, or this machine no driver. */
  @Test
  void cudaWhereThereIsNone() {
    assumeFalse(Contexts.CUDA);
    boolean built = Context.nativeBuild().contains("cuda");
    assertThatThrownBy(() -> Context.cuda(1000))
        .isInstanceOf(SaccadeException.class)
        .hasMessageContaining(built ? "device" : "this build has no CUDA backend");
  }

  // -----------------------------------------------------------------------------------------
  // devices

  @ParameterizedTest
  @CsvSource({"cpu, CPU, 0", "cuda, CUDA, 0", "cuda:0, CUDA, 0", "cuda:17, CUDA, 17"})
  void devicesParse(String name, Device.Kind kind, int index) {
    Device device = Device.parse(name);
    assertThat(device).isEqualTo(new Device(kind, index));
    assertThat(Device.parse(device.toString())).isEqualTo(device);
  }

  @ParameterizedTest
  @NullSource
  @ValueSource(
      strings = {"", "CPU", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "cuda:99999", " cpu"})
  void otherDeviceNames(String name) {
    assertThatThrownBy(() -> Device.parse(name))
        .isInstanceOf(InvalidArgumentException.class)
        .hasMessage("device: name: expected cpu, cuda or cuda:N, got " + name);
  }

  @Test
  void devicesThatCannotBe() {
    assertThatThrownBy(() -> Device.cuda(-1))
        .hasMessage("device: index: expected 0 or more, got -1");
    assertThatThrownBy(() -> new Device(Device.Kind.CPU, 1))
        .hasMessage("device: index: expected 0 for the CPU, got 1");
    assertThatThrownBy(() -> new Device(null, 0))
        .hasMessage("device: kind: expected a value, got null");
  }

  // -----------------------------------------------------------------------------------------
  // closing

  @Test
  void everyUseOfAClosedContextSaysSo() {
    Context context = Context.cpu();
    Scope scope = context.scope();
    Tensor tensor = Tensor.zeros(scope, DType.F32, 2, 3);
    Tensor targets = Tensor.zeros(scope, DType.I32, 2);
    Tensor view = tensor.rows(0, 1);
    context.close();
    context.close();
    assertThat(context).hasToString("Context[cpu, closed]");
    assertThat(context.liveBytes()).isZero();
    assertThat(context.leaks()).isEmpty();
    assertThat(tensor.isOpen()).isFalse();
    assertThat(view.isOpen()).isFalse();
    assertThat(tensor.toString()).isEqualTo("f32[2, 3] on cpu, closed");

    assertClosed(context::threads, "the context is closed");
    assertClosed(context::instructionSet, "the context is closed");
    assertClosed(context::scope, "the context is closed");
    assertClosed(
        () -> {
          context.trim();
          return null;
        },
        "the context is closed");
    assertClosed(() -> Tensor.zeros(scope, DType.F32, 1), "the context is closed");
    assertClosed(() -> Tensor.wrap(scope, 64, null, DType.F32, 1), "the context is closed");
    assertClosed(
        () -> TokenLogProbs.forward(scope, tensor, targets, PLAIN), "the context is closed");
    assertClosed(tensor::toFloats, "closed");
    assertClosed(view::zero, "closed");
    assertClosed(tensor::address, "f32[2, 3] is closed");

    tensor.close();
    scope.close();
    scope.close();
    assertThat(scope).hasToString("Scope[0 tensors on cpu, closed]");
  }

  private static void assertClosed(Callable<?> use, String message) {
    assertThatThrownBy(use::call).isInstanceOf(ClosedException.class).hasMessageContaining(message);
  }

  @Test
  void closingFreesWhatOpenScopesOwn() {
    Context context = Context.cpu();
    Scope first = context.scope();
    Scope second = context.scope();
    Tensor.zeros(first, DType.F32, 1000);
    Tensor.zeros(second, DType.F64, 500);
    assertThat(context.liveBytes()).isEqualTo(8000);
    assertThat(context.leaks()).containsExactly("f32[1000], 4000 bytes", "f64[500], 4000 bytes");
    context.close();
    assertThat(context.liveBytes()).isZero();
    second.close();
    first.close();
  }

  // -----------------------------------------------------------------------------------------
  // threads

  /** Runs the body while another thread is inside a call of the context. */
  private static void whileInUse(Context context, Runnable body) throws Exception {
    CountDownLatch inside = new CountDownLatch(1);
    CountDownLatch leave = new CountDownLatch(1);
    Thread user =
        new Thread(
            () -> {
              try (Call ignored = context.begin("hold")) {
                inside.countDown();
                leave.await();
              } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
              }
            },
            "the-user");
    user.start();
    try {
      inside.await();
      body.run();
    } finally {
      leave.countDown();
      user.join();
    }
  }

  @Test
  void aSecondThreadIsTurnedAwayAndChangesNothing() throws Exception {
    Context context = Context.cpu();
    Scope scope = context.scope();
    Tensor tensor = Tensor.of(scope, new float[] {1, 2, 3, 4, 5, 6}, 2, 3);
    Tensor targets = Tensor.zeros(scope, DType.I32, 2);
    Tensor wrapped = Tensor.wrap(scope, tensor.address(), new Object(), DType.F32, 6);
    long address = tensor.address();
    whileInUse(
        context,
        () -> {
          assertInUse("close", context::close);
          assertInUse("close", scope::close);
          assertInUse("close", tensor::close);
          assertInUse("close", wrapped::close);
          assertInUse("scope", context::scope);
          assertInUse("threads", context::threads);
          assertInUse("trim", context::trim);
          assertInUse("leaks", context::leaks);
          assertInUse("allocate", () -> Tensor.empty(scope, DType.F32, 1));
          assertInUse("wrap", () -> Tensor.wrap(scope, address, null, DType.F32, 1));
          assertInUse("zero", tensor::zero);
          assertInUse("to_floats", tensor::toFloats);
          assertInUse("copy_from", () -> tensor.copyFrom(tensor));
          assertInUse(
              "token_log_probs",
              () ->
                  TokenLogProbs.forward(
                      context,
                      tensor,
                      targets,
                      PLAIN,
                      new TokenLogProbs.Outputs(targets, null, null)));
          assertThat(context.liveBytes()).isEqualTo(32); // a gauge may be read
        });
    assertThat(tensor.toFloats()).containsExactly(1, 2, 3, 4, 5, 6);
    assertThat(wrapped.toFloats()).containsExactly(1, 2, 3, 4, 5, 6);
    assertThat(context.leaks()).hasSize(2);
    tensor.close(); // refused before, done now
    assertThat(context.liveBytes()).isEqualTo(8);
    scope.close();
    assertThat(context.liveBytes()).isZero();
    context.close();
  }

  private static void assertInUse(String operation, Runnable use) {
    assertThatThrownBy(use::run)
        .isInstanceOf(ConcurrentUseException.class)
        .hasMessage(
            operation
                + ": the context is in use by thread \"the-user\"; a context serves one thread at"
                + " a time");
  }

  @Test
  void aSecondThreadIsTurnedAwayDuringANativeCall() throws Exception {
    try (Context context = Context.builder().threads(1).build();
        Scope scope = context.scope()) {
      Tensor logits = Tensor.zeros(scope, DType.F32, 64, 50_000);
      Tensor targets = Tensor.zeros(scope, DType.I32, 64);
      var out =
          new TokenLogProbs.Outputs(
              Tensor.empty(scope, DType.F32, 64), Tensor.empty(scope, DType.F32, 64), null);
      AtomicBoolean stop = new AtomicBoolean();
      CountDownLatch started = new CountDownLatch(1);
      AtomicInteger calls = new AtomicInteger();
      Thread user =
          new Thread(
              () -> {
                try (Call ignored = context.begin("series")) { // nested use, one thread
                  started.countDown();
                  while (!stop.get()) {
                    TokenLogProbs.forward(context, logits, targets, PLAIN, out);
                    calls.incrementAndGet();
                  }
                }
              });
      user.start();
      started.await();
      try {
        int before = calls.get();
        while (calls.get() < before + 3) {
          assertThatThrownBy(scope::close).isInstanceOf(ConcurrentUseException.class);
          assertThatThrownBy(context::close).isInstanceOf(ConcurrentUseException.class);
        }
      } finally {
        stop.set(true);
        user.join();
      }
      assertThat(out.logProb().toFloats()).containsOnly((float) -Math.log(50_000));
    }
  }

  @Test
  void threadsTakeTurns() throws Exception {
    ExecutorService threads = Executors.newFixedThreadPool(2);
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      Tensor counter = Tensor.zeros(scope, DType.I32, 1);
      for (int i = 0; i < 1000; i++) {
        int expected = i;
        threads
            .submit(
                () -> {
                  int value = counter.toInts()[0];
                  assertThat(value).isEqualTo(expected);
                  counter.copyFrom(new int[] {value + 1});
                })
            .get();
      }
      assertThat(counter.toInts()).containsExactly(1000);
    } finally {
      threads.shutdown();
    }
  }

  /** The gate itself under contention: no two inside, nobody kept out for good. */
  @Test
  void theGateHoldsUnderContention() throws Exception {
    int workers = 4;
    int wanted = 5000;
    ExecutorService threads = Executors.newFixedThreadPool(workers);
    try (Context context = Context.cpu()) {
      AtomicInteger inside = new AtomicInteger();
      int[] entries = {0}; // guarded by the gate alone
      Callable<Void> work =
          () -> {
            for (int done = 0; done < wanted; ) {
              try (Call outer = context.begin("outer");
                  Call inner = context.begin("inner")) {
                assertThat(inside.incrementAndGet()).isEqualTo(1);
                assertThat(inner).isNotSameAs(outer);
                entries[0]++;
                inside.decrementAndGet();
                done++;
              } catch (ConcurrentUseException e) {
                Thread.onSpinWait();
              }
            }
            return null;
          };
      for (var result : threads.invokeAll(Collections.nCopies(workers, work))) {
        result.get();
      }
      assertThat(entries[0]).isEqualTo(workers * wanted);
    } finally {
      threads.shutdown();
      threads.awaitTermination(10, TimeUnit.SECONDS);
    }
  }

  @Test
  void contextsOfTwoThreadsComputeAtTheSameTime() throws Exception {
    ExecutorService threads = Executors.newFixedThreadPool(2);
    CountDownLatch both = new CountDownLatch(2);
    Callable<float[]> work =
        () -> {
          try (Context context = Context.builder().threads(2).build();
              Scope scope = context.scope();
              Call ignored = context.begin("both")) {
            both.countDown();
            assertThat(both.await(30, TimeUnit.SECONDS)).isTrue();
            Tensor logits = Tensor.zeros(scope, DType.F32, 8, 1000);
            Tensor targets = Tensor.zeros(scope, DType.I32, 8);
            return TokenLogProbs.forward(scope, logits, targets, PLAIN).logProb().toFloats();
          }
        };
    try {
      var first = threads.submit(work);
      var second = threads.submit(work);
      assertThat(first.get()).containsExactly(second.get());
    } finally {
      threads.shutdown();
    }
  }

  @Test
  void aFailureLeavesTheGateOpenForOthers() throws ExecutionException, InterruptedException {
    ExecutorService other = Executors.newSingleThreadExecutor();
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      Tensor tensor = Tensor.zeros(scope, DType.F32, 2);
      Tensor closed = Tensor.zeros(scope, DType.F32, 2);
      closed.close();
      assertThatThrownBy(() -> tensor.copyFrom((Tensor) null))
          .isInstanceOf(InvalidArgumentException.class);
      assertThatThrownBy(closed::zero).isInstanceOf(ClosedException.class);
      assertThatThrownBy(() -> Tensor.empty(scope, DType.F32, -1))
          .isInstanceOf(InvalidArgumentException.class);
      assertThatThrownBy(() -> TokenLogProbs.forward(context, null, null, PLAIN, null))
          .isInstanceOf(InvalidArgumentException.class);
      assertThatCode(() -> other.submit(tensor::zero).get()).doesNotThrowAnyException();
    } finally {
      other.shutdown();
    }
  }
}
