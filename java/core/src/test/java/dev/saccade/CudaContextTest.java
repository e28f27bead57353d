package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Memory, streams and errors of GPUs. */
@OnGpu
class CudaContextTest {
  private static final int MIB = 1 << 20;

  private static void requireComputes(Context context) {
    try (Scope scope = context.scope()) {
      Tensor x = Tensor.of(scope, new float[] {1, 2, 3}, 1, 3);
      Tensor y = Tensor.of(scope, new float[] {10, 20, 30}, 1, 3);
      Axpby.apply(context, 2, x, 1, y);
      assertThat(y.toFloats()).containsExactly(12, 24, 36);
    }
  }

  // -------------------------------------------------------------------------------------- errors

  @Test
  void outOfMemoryNamesTheLargestTensorsAndPasses() {
    try (Context context = Context.cuda(0);
        Scope scope = context.scope()) {
      Tensor.empty(scope, DType.F32, 7, MIB);
      Tensor.empty(scope, DType.BF16, MIB);
      long tooMuch = 2 * Gpu.all().get(0).memory();
      for (int i = 0; i < 3; i++) {
        assertThatThrownBy(() -> Tensor.empty(scope, DType.U8, tooMuch))
            .isInstanceOf(OutOfMemoryException.class)
            .hasMessage(
                "allocate: u8[%1$d] needs %1$d bytes, more than cuda:0 has left; live tensors: 2,"
                    + " 31457280 bytes, the largest:\n  f32[7, 1048576], 29360128 bytes\n"
                    + "  bf16[1048576], 2097152 bytes",
                tooMuch);
        requireComputes(context);
      }
    }
  }

  @Test
  void theLastMebibytesCanBeGivenBack() {
    long block = 1L << 30;
    try (Context context = Context.cuda(0)) {
      Scope scope = context.scope();
      assertThatThrownBy(
              () -> {
                while (true) {
                  Tensor.empty(scope, DType.U8, block);
                }
              })
          .isInstanceOf(OutOfMemoryException.class)
          .hasMessageContaining("the largest:\n  u8[1073741824], 1073741824 bytes\n");
      scope.close();
      try (Scope again = context.scope()) {
        Tensor.empty(again, DType.U8, 4 * block); // from what was freed, in other sizes
        requireComputes(context);
      }
    }
  }

  @Test
  void aFaultEndsOneProcessAlone(@TempDir Path folder) throws Exception {
    try (Context context = Context.cuda(0)) {
      requireComputes(context);
      Path output = folder.resolve("output.txt");
      Process process =
          new ProcessBuilder(
                  Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                  "--enable-native-access=ALL-UNNAMED",
                  "-cp",
                  System.getProperty(
                      "surefire.test.class.path", System.getProperty("java.class.path")),
                  FaultingProgram.class.getName())
              .redirectErrorStream(true)
              .redirectOutput(output.toFile())
              .start();
      assertThat(process.waitFor(2, TimeUnit.MINUTES)).isTrue();
      String text = Files.readString(output);
      assertThat(process.exitValue()).as(text).isZero();
      List<String> lines = text.lines().toList();
      for (String call : List.of("fault", "read", "operation", "synchronize", "context")) {
        assertThat(lines)
            .anySatisfy(
                line ->
                    assertThat(line)
                        .startsWith(call + ": FatalDeviceException ")
                        .contains("no context of it can be used by this process any more")
                        .contains("cudaErrorIllegalAddress"));
      }
      assertThat(lines).contains("close: done", "cpu: done");
      requireComputes(context);
    }
  }

  // ------------------------------------------------------------------------------ foreign memory

  @Test
  void dlpackCrossesToAnotherContextInPlace() {
    Context source = Context.cuda(0);
    Scope theirs = source.scope();
    Tensor exported = Tensor.of(theirs, new float[] {1, 2, 3, 4, 5, 6}, 2, 3);
    long address = exported.address();
    try (Context context = Context.cuda(0);
        Scope scope = context.scope()) {
      context.waitFor(source.stream());
      Tensor tensor = Tensor.fromDlpack(scope, exported.toDlpack());
      Tensor columns = Tensor.fromDlpack(scope, exported.columns(1, 3).toDlpack());
      assertThat(tensor.address()).isEqualTo(address);
      assertThat(tensor.shape()).containsExactly(2, 3);
      assertThat(columns.toFloats()).containsExactly(2, 3, 5, 6);
      assertThat(context.liveBytes()).isZero();
      exported.close();
      try (Scope later = source.scope()) {
        for (int i = 0; i < 10; i++) {
          Tensor zeros = Tensor.zeros(later, DType.F32, 2, 3);
          assertThat(zeros.address()).as("memory in use is not handed out").isNotEqualTo(address);
        }
      }
      source.close(); // the memory outlives it
      assertThat(tensor.toFloats()).containsExactly(1, 2, 3, 4, 5, 6);
      Axpby.apply(context, 1, tensor, 1, Tensor.zeros(scope, DType.F32, 2, 3));
      columns.close();
      tensor.copyFrom(new float[] {6, 5, 4, 3, 2, 1});
      assertThat(tensor.toFloats()).containsExactly(6, 5, 4, 3, 2, 1);
      tensor.close();
      assertThatThrownBy(tensor::toFloats).isInstanceOf(ClosedException.class);
      requireComputes(context);
    }
  }

  @Test
  void dlpackStaysOnItsDevice() {
    try (Context gpu = Context.cuda(0);
        Context cpu = Context.cpu();
        Scope there = gpu.scope();
        Scope here = cpu.scope()) {
      Tensor onGpu = Tensor.of(there, new float[] {1, 2, 3});
      Tensor onCpu = Tensor.of(here, new float[] {1, 2, 3});
      long ofGpu = onGpu.toDlpack();
      long ofCpu = onCpu.toDlpack();
      assertThatThrownBy(() -> Tensor.fromDlpack(here, ofGpu))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessageContaining("device");
      assertThatThrownBy(() -> Tensor.fromDlpack(there, ofCpu))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessageContaining("device");
      Tensor.fromDlpack(there, ofGpu).close();
      Tensor.fromDlpack(here, ofCpu).close();
    }
  }

  @Test
  void memoryOfAnotherContextServesAsInputAndOutput() {
    try (Context owner = Context.cuda(0);
        Context user = Context.cuda(0);
        Scope theirs = owner.scope();
        Scope scope = user.scope()) {
      Tensor x = Tensor.of(theirs, new float[] {1, 2, 3, 4}, 2, 2);
      Tensor y = Tensor.zeros(theirs, DType.F32, 2, 2);
      Tensor in = Tensor.wrap(scope, x.address(), x, DType.F32, 2, 2);
      Tensor out = Tensor.wrap(scope, y.address(), y, DType.F32, 2, 2);
      user.waitFor(owner.stream());
      Axpby.apply(user, 3, in, 0, out);
      user.signal(owner.stream());
      assertThat(y.toFloats()).containsExactly(3, 6, 9, 12);
      assertThat(user.liveBytes()).isZero();
      in.close();
      out.close();
      assertThat(x.toFloats()).containsExactly(1, 2, 3, 4);
    }
  }

  // ------------------------------------------------------------------------------------- streams

  /** Work of tens of milliseconds on one stream, and at once what depends on it on another. */
  @Test
  void eventsOrderTwoStreams() {
    int n = 64 * MIB;
    int steps = 200;
    try (Context first = Context.cuda(0);
        Context second = Context.cuda(0);
        Scope scope = first.scope();
        Scope other = second.scope()) {
      assertThat(first.stream()).isNotEqualTo(second.stream());
      float[] values = new float[n];
      Arrays.fill(values, 1);
      Tensor ones = Tensor.of(scope, values, 64, MIB);
      Tensor x = Tensor.zeros(scope, DType.F32, 64, MIB);
      Tensor shared = Tensor.wrap(other, x.address(), x, DType.F32, 64, MIB);
      Tensor seen = Tensor.zeros(other, DType.F32, 64, MIB);
      first.synchronize();
      second.synchronize();
      for (boolean waits : new boolean[] {true, false}) {
        x.zero();
        for (int i = 0; i < steps; i++) {
          Axpby.apply(first, 1, ones, 1, x);
        }
        if (waits) {
          second.waitFor(first.stream());
        } else {
          first.signal(second.stream());
        }
        seen.copyFrom(shared);
        second.signal(first.stream()); // x is read before it is zeroed
        Arrays.fill(values, steps);
        assertThat(Arrays.mismatch(seen.toFloats(), values)).isEqualTo(-1);
      }
    }
  }

  /** Arrays pass through memory that is used again while the GPU is still far behind. */
  @Test
  void arraysAreReadBeforeTheyChange() {
    Random random = new Random(15);
    List<float[]> arrays = new ArrayList<>();
    for (int i = 0; i < 60; i++) {
      float[] array = new float[200_000 + random.nextInt(100_000)]; // together some 60 MB
      Arrays.fill(array, i + 1);
      arrays.add(array);
    }
    try (Context context = Context.cuda(0);
        Scope scope = context.scope()) {
      List<Tensor> tensors = new ArrayList<>();
      arrays.forEach(array -> tensors.add(Tensor.zeros(scope, DType.F32, array.length)));
      Tensor busy = Tensor.zeros(scope, DType.F32, 1 << 26);
      Tensor done = Tensor.zeros(scope, DType.F32, 1 << 26);
      for (int i = 0; i < 200; i++) {
        Axpby.apply(context, 1f, busy, 0.5f, done);
      }
      for (int i = 0; i < arrays.size(); i++) {
        tensors.get(i).copyFrom(arrays.get(i));
      }
      for (int i = 0; i < arrays.size(); i++) {
        assertThat(Arrays.equals(tensors.get(i).toFloats(), arrays.get(i)))
            .as("tensor " + i)
            .isTrue();
      }
    }
  }

  @Test
  void arraysThatAreTooLongToPassAtOnceAreCopiedToo() {
    float[] array = new float[3 * MIB];
    for (int i = 0; i < array.length; i++) {
      array[i] = i;
    }
    try (Context context = Context.cuda(0);
        Scope scope = context.scope()) {
      assertThat(Arrays.equals(Tensor.of(scope, array).toFloats(), array)).isTrue();
    }
  }
}
